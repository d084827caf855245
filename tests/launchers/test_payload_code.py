"""The code that is sent: complete, the same bytes for the same code, and without secrets."""

import gzip
import io
import os
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers.payload import code as bundle
from launchers.payload import secrets
from launchers.payload.code import CodeBundle, pack, scan
from launchers.payload.secrets import findings, found_in
from launchers.project import PROJECT
from launchers.spec import RunSpec
from tests.support.bundles import git, names


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, text in (
        ("train.py", "print(1)\n"),
        ("pkg/code.py", "x = 1\n"),
        (".gitignore", "ignored/\n*.log\n"),
        ("ignored/data.bin", "no"),
        ("run.log", "no"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    (folder / "new file.py").write_text("y = 2\n")  # not tracked yet, and not ignored
    return folder


def test_tracked_and_new_files_are_sent_and_ignored_ones_are_not(project: Path) -> None:
    sent = names(pack(project, scan(project)))
    assert sent == [".gitignore", "new file.py", "pkg/code.py", "train.py"]


def test_the_same_code_is_the_same_bytes_whenever_and_wherever(project: Path, tmp_path: Path) -> None:
    first = pack(project, scan(project))
    for path in project.rglob("*"):
        os.utime(path, (1, 1))
    other = tmp_path / "elsewhere"
    project.rename(other)
    assert pack(other, scan(other)) == first
    assert scan(other).digest == scan(other).digest


def test_a_changed_file_name_or_executable_bit_changes_the_digest(project: Path) -> None:
    digests = {scan(project).digest}
    (project / "pkg/code.py").write_text("x = 2\n")
    digests.add(scan(project).digest)
    (project / "pkg/code.py").rename(project / "pkg/other.py")
    digests.add(scan(project).digest)
    (project / "train.py").chmod(0o755)
    digests.add(scan(project).digest)
    assert len(digests) == 4
    with tarfile.open(fileobj=io.BytesIO(pack(project, scan(project)))) as archive:
        assert archive.getmember("train.py").mode == 0o755


def test_what_changed_since_the_commit_is_recorded(project: Path) -> None:
    assert scan(project).diff == ""
    (project / "pkg/code.py").write_text("x = 2\n")
    assert "+x = 2" in scan(project).diff


def test_a_removed_secret_is_not_sent_in_the_diff(project: Path) -> None:
    (project / "pkg/code.py").write_text(f"key = '{KEY}'\n")
    git(project, "commit", "-qam", "oops")
    (project / "pkg/code.py").write_text("key = None\n")
    found = scan(project)
    assert not found.findings
    assert KEY not in found.diff


def test_a_file_that_changes_between_plan_and_upload_is_noticed(project: Path) -> None:
    found = scan(project)
    (project / "train.py").write_text("print(2)\n")
    with pytest.raises(ConfigError, match=r"train\.py changed while"):
        pack(project, found)


def test_config_folders_of_the_command_are_sent(project: Path, tmp_path: Path) -> None:
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/best.yaml").write_text("seed: 1\n")
    (tmp_path / "mine/notes.txt").write_text("no")
    found = scan(project, [tmp_path / "mine"])
    assert found.config_dirs == ("config-dirs/0",)
    assert "config-dirs/0/experiment/best.yaml" in names(pack(project, found))
    assert "config-dirs/0/notes.txt" not in names(pack(project, found))


def test_too_much_code_is_refused_with_the_largest_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", 1_000_000)
    (project / "weights.bin").write_bytes(os.urandom(1_200_000))
    (finding,) = scan(project).findings
    assert "at most 1 MB can be sent" in finding
    assert "1.2 MB  weights.bin" in finding


def test_code_without_train_py_is_refused(project: Path) -> None:
    (project / "train.py").unlink()
    assert "has no train.py" in scan(project).findings[0]


KEY = "AKIA" + "IOSFODNN7EXAMPL2"  # in two parts, because this file is sent as well
RANDOM = "x7Kq2mZ9vB4nL8sD1wR6tY3uH5jF0gPaEcQo"
PRIVATE = "-----BEGIN " + "PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (KEY, "an AWS access key"),
        ("aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYQ8sTzW2mNp", "an AWS secret key"),
        (f"{PRIVATE}\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "a private key"),
        ("gh" + "p_" + RANDOM[:36], "a GitHub token"),
        ("hf" + "_" + RANDOM[:34], "a Hugging Face token"),
        ("WANDB_API_KEY=" + 5 * "0a1b2c3d", "a W&B key"),
    ],
)
def test_strings_that_look_like_keys_are_reported_by_file_and_line_and_never_shown(
    text: str, kind: str, project: Path
) -> None:
    (project / "pkg/code.py").write_text(f"# first line\n# second\n{text}\n")
    (finding,) = findings(scan(project).secrets, [], "launcher.allow_secrets")
    assert f"pkg/code.py:3 seems to hold {kind}." in finding
    assert text.splitlines()[-1] not in finding


@pytest.mark.parametrize("kind", secrets._SECRETS)
@settings(max_examples=30)
@given(data=st.data())
def test_what_a_pattern_matches_has_one_of_the_words_that_are_looked_for_first(kind: str, data: st.DataObject) -> None:
    content = data.draw(st.from_regex(secrets._SECRETS[kind]))
    assert any(word in content.lower() for word in secrets._WORDS)


@given(st.binary(max_size=300))
def test_ordinary_bytes_are_not_reported_as_secrets(content: bytes) -> None:
    assert not list(found_in(content))


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ASIA" + "IOSFODNN7EXAMPLE and AKIA" + "I44QH8DHBEXAMPLE",
        "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "'aws_secret_key': '" + "je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY'",
        "gh" + "p_16C7e42F292c6912E7710c838347Ae178B4a",
        "gh" + "p_" + 36 * "x",
        "hf" + "_" + 34 * "X",
        "WANDB_API_KEY=" + 40 * "0",
        KEY + "  # pragma: allowlist secret",
        "key: " + KEY + "  # gitleaks:allow",
    ],
)
def test_examples_of_documentation_and_allowed_lines_are_no_secrets(text: str) -> None:
    assert not list(found_in(f"# first\n{text}\n".encode()))


def test_an_example_does_not_hide_a_key_beside_it_nor_a_comment_one_in_the_next_line() -> None:
    both = "AKIA" + "IOSFODNN7EXAMPLE " + KEY
    assert list(found_in(f"{both}\n".encode())) == [(1, "an AWS access key")]
    assert list(found_in(f"# pragma: allowlist secret\n{KEY}\n".encode())) == [(2, "an AWS access key")]


def test_each_way_that_the_finding_proposes_works(project: Path) -> None:
    (project / "my notes.md").write_text(f"first\n{KEY}\n")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "notes")
    (finding,) = findings(scan(project).secrets, ["a.md"], "launcher.allow_secrets")
    ways = dict(line.rsplit(": ", 1) for line in finding.splitlines()[2:] if ": " in line)
    (setting,) = shlex.split(ways["or allow the file"])
    patterns = OverridesParser.create().parse_override(setting).value()
    assert [str(each) for each in patterns] == ["a.md", "my notes.md"]
    assert not list(findings(scan(project).secrets, list(map(str, patterns)), "launcher.allow_secrets"))
    (project / "my notes.md").write_text(f"first\n{KEY}  <!-- pragma: allowlist secret -->\n")
    assert not scan(project).secrets
    (project / "my notes.md").write_text(f"first\n{KEY}\n")
    subprocess.run(ways["or list the file in .gitignore and, if git tracks it"], shell=True, cwd=project, check=True)
    (project / ".gitignore").write_text("my notes.md\n")
    assert not scan(project).secrets


def test_this_project_can_be_sent_and_its_bundle_survives_json() -> None:
    found = scan(PROJECT)
    assert not found.findings
    assert not found.secrets
    assert {"train.py", "launchers/remote/entry.py", "launchers/cost/prices.yaml", "conf/config.yaml"} <= {
        n for n, _, _ in found.files
    }
    spec = RunSpec("x", (), {}, "/x", "", None, False, found, going_on=("a=1",))
    assert RunSpec.from_json(spec.to_json()) == spec
    assert isinstance(RunSpec.from_json(spec.to_json()).code, CodeBundle)
    assert len(gzip.decompress(pack(PROJECT, found))) >= found.size
