"""`.ci/offline.py`: loopback is the only network of the checks, and a name that something looks up is reported."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT

OFFLINE = ROOT / ".ci" / "offline.py"
# programs in C, which the tests' own guard against the network does not see
LOOKS_UP, CONNECTS = "getent hosts a-name.example", "exec 3<>/dev/tcp/203.0.113.1/80"


def offline(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, str(OFFLINE), "/bin/bash", "-c", command]
    return subprocess.run(words, capture_output=True, text=True, env=environment or None, timeout=300, check=False)


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if "runs without one" in offline("true").stdout:
        pytest.skip("this machine allows no network namespace")


def test_a_name_that_is_looked_up_is_reported_and_fails_the_command() -> None:
    done = offline(f"{LOOKS_UP}; true")
    assert "offline: looked up a-name.example" in done.stdout
    assert "not of this machine: a-name.example" in done.stderr
    assert done.returncode == 1


def test_nothing_outside_is_reached_and_loopback_is() -> None:
    done = offline(f"({CONNECTS}) && exit 1; getent hosts localhost && grep 127.0.0.1 /etc/resolv.conf")
    assert done.returncode == 0, done
    assert "unreachable" in done.stderr


def test_the_exit_status_is_the_command_s_own() -> None:
    assert offline("exit 7").returncode == 7


def test_without_namespaces_the_command_runs_and_that_is_said(tmp_path: Path) -> None:
    done = offline("echo done", PATH=str(tmp_path))
    assert "no network namespace here (unshare is not installed); the command runs without one" in done.stdout
    assert done.stdout.endswith("done\n")
    assert done.returncode == 0
