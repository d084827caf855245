"""AWS and the rehearsal cloud are not taken for one another, whatever a shell has set; hints do not replay faults."""

import http.server
import shlex
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launchers.aws import endpoint
from launchers.aws.account import Account
from launchers.overrides import without_faults
from launchers.rehearsal import names, process
from launchers.rehearsal.cloud import Rehearsal
from launchers.resume import expand
from launchers.runs.find import resume_command, search_command
from launchers.status import LaunchError
from tests.support.rehearsing import BUCKET
from tests.support.stored import stored_run

FAULTS = ["+aws.faults.no_capacity=3", "+aws.faults={crash_at: start}", "aws.reclaims=2", "++aws.faults[hard]=true"]


@pytest.fixture(autouse=True)
def nothing_is_known_of_ports() -> None:
    """Ask anew: an earlier server of this process may have had the same one."""
    endpoint._is_rehearsal.cache_clear()


@pytest.mark.parametrize(
    "shell",
    [
        {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"},
        {"AWS_PROFILE": "no-such-profile"},
        {"AWS_CONFIG_FILE": "{broken}", "AWS_SHARED_CREDENTIALS_FILE": "{broken}"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"},
        {"AWS_CA_BUNDLE": "/nowhere", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
    ],
)
def test_a_rehearsal_is_reached_whatever_the_shell_says_of_aws_and_proxies(
    shell: dict[str, str], cloud: Rehearsal, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("[profile\nno end\0")
    for name, value in shell.items():
        monkeypatch.setenv(name, value.format(broken=tmp_path / "config"))
    client = Rehearsal(bucket=BUCKET, state_dir=str(place)).client("s3")
    assert BUCKET in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}


def test_a_real_launch_refuses_a_rehearsal_that_the_shell_calls_aws(
    cloud: Rehearsal, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = process.running(place)
    assert server is not None
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # it is asked directly
    for service in ("sagemaker", "s3", "sts"):
        with pytest.raises(LaunchError, match="is a rehearsal cloud on this machine") as caught:
            Account("eu-west-1").client(service)
        assert "unset AWS_ENDPOINT_URL" in str(caught.value)


@pytest.fixture
def stand_in() -> Iterator[str]:
    """The address of a server that is no rehearsal, such as one of a company."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_any_other_endpoint_is_kept(stand_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", stand_in)
    assert Account("eu-west-1").client("s3").meta.endpoint_url == stand_in


def test_the_header_that_tells_a_rehearsal_has_one_name() -> None:
    assert names.IDENTITY_HEADER == endpoint._HEADER


# --- hints ---


@pytest.mark.parametrize("folder", ["plain", "with space", "it's", "a=b (2024)", "~tilde", "[x],{y}"])
def test_the_printed_command_resumes_the_run_without_faults_and_waits(
    folder: str, tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = stored_run(tmp_path / "runs" / "x", *tiny_overrides)
    run = tmp_path / folder
    (tmp_path / "runs" / "x").rename(run)
    words = [*plan.spec.overrides, *FAULTS, "launcher.wait=false"]
    text = plan.spec.to_json().replace(
        '"overrides": [', '"overrides": [' + ", ".join(f'"{word}"' for word in words[-5:]) + ","
    )
    (run / "spec.json").write_text(text)
    typed = shlex.split(resume_command(run))
    resumed = expand(typed[typed.index("train.py") + 1 if "train.py" in typed else 2 :])
    assert not [text for text in resumed if "faults" in text or "reclaims" in text or text == "launcher.wait=false"]
    assert any(text.startswith("data.root=") for text in resumed)


def test_a_search_s_hint_has_no_faults(tiny_overrides: list[str], tmp_path: Path) -> None:
    spec = stored_run(tmp_path / "x", *tiny_overrides).spec
    kept = ["aws.reclaims=0", "aws.state_dir=/tmp/my state"]
    assert without_faults([*FAULTS, *kept]) == kept
    shown = search_command(replace(spec, overrides=(*FAULTS, *kept)))
    assert shlex.split(shown)[-2:] == kept
