"""What a person typed reaches Hydra as they meant it, or is refused with the same command quoted."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from dogbreed.commands import is_address
from dogbreed.errors import ConfigError
from launchers import prepare
from launchers.resume import expand
from launchers.typed import readable

NAMES = ["Dogs (2024)", "it's", "k=v", "A&B", "Hündchen", "照片", "cats, dogs", "a#1", "[old]", "{x", 'say "x"', "!new"]


def value(override: str) -> str:
    read = OverridesParser.create().parse_override(override)
    assert not read.is_sweep_override()
    return str(read.value())


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_any_name_is_taken_as_it_was_typed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for typed in (name, f"./{name}", f"{tmp_path}/{name}"):
        _, plan = prepare(["data=folder", f"data.root={typed}", "hydra.run.dir=run"])
        assert plan.spec.config["data"]["root"] == str(tmp_path / name)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters=",'\"$\\"), min_size=1))
@example("://")
def test_a_typed_path_is_one_absolute_path_and_stays_the_same_when_typed_again(text: str) -> None:
    try:
        (made,) = readable([f"hydra.run.dir=/runs/{text}"])
    except ConfigError:
        pytest.fail(text)
    assert value(made) == f"/runs/{text}".rstrip("/ ") or value(made).rstrip() == str(Path(f"/runs/{text}")).rstrip()
    assert readable([made]) == [made]


def test_relative_paths_are_made_absolute_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "mine.pt").touch()
    (tmp_path / "a,b").mkdir()
    made = readable(
        [
            "data.root=photos",
            "data.root=~/photos",
            "+data.root='my photos'",
            "data.root=a,b",
            "data.root=x,y",
            "hydra.run.dir=runs/x",
            "aws.state_dir=cloud",
            "model.weights=mine.pt",
            "model.weights=IMAGENET1K_V2",
            "data.root=s3://bucket/photos",
            "data.root=null",
            "data.root=${oc.env:HOME}/photos",
        ]
    )
    here = str(tmp_path)
    assert made == [
        f"data.root={here}/photos",
        "data.root=/home/me/photos",
        f'+data.root="{here}/my photos"',
        f'data.root="{here}/a,b"',
        f"data.root={here}/x,{here}/y",  # a sweep, if there is no such folder
        f"hydra.run.dir={here}/runs/x",
        f"aws.state_dir={here}/cloud",
        f"model.weights={here}/mine.pt",
        "model.weights=IMAGENET1K_V2",
        "data.root=s3://bucket/photos",
        "data.root=null",
        "data.root=${oc.env:HOME}/photos",
    ]


@pytest.mark.parametrize(
    ("typed", "quoted"),
    [
        (["data=folder", "data.root=/my", "photos"], ["data=folder", 'data.root="/my photos"']),
        (["data.root=/my", "holiday", "photos", "seed=1"], ['data.root="/my holiday photos"', "seed=1"]),
        (["run_id=a#b", "seed=1"], ['run_id="a#b"', "seed=1"]),
        (["-m", "name=Bello & Co"], ["-m", 'name="Bello & Co"']),
    ],
)
def test_what_hydra_cannot_read_is_refused_with_the_command_quoted(typed: list[str], quoted: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        expand(typed)
    (shown,) = (line for line in str(raised.value).splitlines() if line.startswith("Try: "))
    words = shlex.split(shown.removeprefix("Try: "))[2:]
    assert words == quoted
    assert readable(words) == words


def test_the_value_of_a_flag_is_no_override() -> None:
    words = ["--config-dir", "sweeps/mine", "experiment=best", "-cn", "mine", "--cfg", "job", "~model.lr"]
    assert readable(words) == words


def test_brackets_that_do_not_match_are_named() -> None:
    with pytest.raises(ConfigError, match="brackets or quotes"):
        readable(["model.lr=interval(1e-4,1e-1"])


def test_a_relative_root_of_a_file_is_absolute_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\ndata:\n  root: photos\n")
    monkeypatch.chdir(tmp_path)
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    _, plan = prepare(["data=folder", "experiment=mine", search, "hydra.run.dir=run"])
    assert plan.spec.config["data"]["root"] == str(tmp_path / "photos")


@pytest.mark.parametrize("text", ["s3://bucket/photos", "sagemaker://eu-west-1/run", "https://a/b.tar"])
def test_an_address_is_no_path(text: str) -> None:
    assert is_address(text)
    assert readable([f"data.root={text}"]) == [f"data.root={text}"]


@pytest.mark.parametrize("text", ["/runs/://", "/a/b://c", "./s3://x", "://", "1://x"])
def test_a_path_that_contains_a_colon_and_slashes_is_no_address(text: str) -> None:
    assert not is_address(text)
