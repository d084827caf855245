"""What Hydra was given besides overrides travels with a run: to trials, to another machine, and when it is resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers import prepare
from launchers.aws import sent
from launchers.config_sources import ConfigSources
from launchers.project import PROJECT
from launchers.spec import RunSpec
from tests.support.fake_training import OVERRIDES
from tests.support.plans import REAL
from tests.support.stored import stored_run
from tests.support.sweeps import Sweep

SAGEMAKER = ["launcher=sagemaker_gpu", *REAL]
MINE = "defaults: [config, _self_]\nseed: 7\nmodel: {dropout: 0.45}\n"

names = st.from_regex(r"[a-z][a-z0-9 _-]{0,8}[a-z]", fullmatch=True)
places = st.builds(lambda parts: "/" + "/".join(parts), st.lists(names, min_size=1, max_size=3))
further = st.lists(st.one_of(places.map("file://{}".format), names.map(lambda n: f"pkg://{n.replace(' ', '')}")))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a folder with a primary config and an option of its own."""
    folder = tmp_path / "my configs"
    (folder / "logger").mkdir(parents=True)
    (folder / "mine.yaml").write_text(MINE)
    (folder / "logger" / "odd.yaml").write_text("_target_: lightning.pytorch.loggers.CSVLogger\nname: odd\n")
    return folder


def named(own: Path) -> list[str]:
    return ["--config-dir", str(own), "--config-name", "mine", "logger=odd"]


@given(names, st.none() | places, st.none() | places, further)
def test_the_words_of_sources_are_read_back(name: str, folder: str | None, beside: str | None, more: list[str]) -> None:
    sources = ConfigSources(name, folder, beside, tuple(dict.fromkeys(more)))
    assert ConfigSources.split([*sources.words, "a=1"]) == (sources, ["a=1"])


@pytest.mark.parametrize(
    "words",
    [["--config-name", "mine"], ["--config-name=mine"], ["-cn", "mine"], ["-cn=mine"], ["--config-n=mine"]],
    ids=" ".join,
)
def test_all_spellings_of_hydra_are_understood(words: list[str]) -> None:
    found, rest = ConfigSources.split(["-m", *words, "--cfg", "job", "-c", "job", "a=1", "~b"])
    assert (found.name, rest) == ("mine", ["-m", "--cfg", "job", "-c", "job", "a=1", "~b"])


def test_a_flag_without_its_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="--config-name needs a value"):
        ConfigSources.split(["a=1", "--config-name"])


def test_a_primary_config_of_ones_own_is_composed_from_what_was_named(own: Path, tmp_path: Path) -> None:
    plan = prepare([*named(own), f"hydra.run.dir={tmp_path}/run"])[1]
    config = plan.spec.config
    assert (config["seed"], config["model"]["dropout"], config["logger"]["name"]) == (7, 0.45, "odd")
    assert plan.spec.sources == ConfigSources("mine", None, str(own), ())
    assert "--config-name=mine" in str(plan)
    assert RunSpec.from_json(plan.spec.to_json()) == plan.spec


def test_a_searchpath_in_a_primary_config_travels_too(own: Path, tmp_path: Path) -> None:
    (own / "more.yaml").write_text(f"{MINE}hydra: {{searchpath: ['file://{own}']}}\n")
    plan = prepare(["--config-dir", str(own), "-cn", "more", "logger=odd", f"hydra.run.dir={tmp_path}/run"])[1]
    assert plan.spec.sources.further == (f"file://{own}",)


def test_another_machine_gets_the_folder_and_the_name(own: Path, tmp_path: Path) -> None:
    spec = prepare([*named(own), *SAGEMAKER, f"hydra.run.dir={tmp_path}/run"])[1].spec
    assert spec.code is not None
    there = [name for name, _, _ in spec.code.files if name.endswith("/mine.yaml")]
    assert there == ["config-dirs/0/mine.yaml"]
    assert sent.command(spec, resumes=False).typed[:2] == ["--config-name=mine", "--config-dir=config-dirs/0"]


def test_further_folders_have_their_place_on_another_machine(own: Path, tmp_path: Path) -> None:
    words = [f"hydra.searchpath=['file://{own}',pkg://launchers]", "logger=odd", *SAGEMAKER]
    spec = prepare([*words, f"hydra.run.dir={tmp_path}/run"])[1].spec
    assert sent.command(spec, resumes=False).own[-1] == (
        "hydra.searchpath=[file:///opt/ml/code/config-dirs/0,pkg://launchers]"
    )


def test_a_folder_for_the_primary_config_is_sent_as_well(own: Path, tmp_path: Path) -> None:
    sources = ConfigSources("mine", str(own), None, (f"file://{tmp_path}",))
    assert sources.sent == [own, tmp_path]
    assert sources.moved("/there", ["c/0", "c/1"]).words == [
        "--config-name=mine", "--config-path=c/0", "hydra.searchpath=[file:///there/c/1]"
    ]  # fmt: skip
    inside = ConfigSources("mine", str(PROJECT / "conf" / "sub"))
    assert (inside.sent, inside.moved("/there", []).flags[-1]) == ([], "--config-path=conf/sub")


def test_what_does_not_reach_another_machine_is_refused(own: Path, tmp_path: Path) -> None:
    spec = prepare([*named(own), *SAGEMAKER, f"hydra.run.dir={tmp_path}/run"])[1].spec
    files = {"train.py", "conf/config.yaml", "launchers/api.py"}
    assert "mine.yaml" in "".join(spec.sources.not_among(files, ["config-dirs/0"]))
    assert not list(spec.sources.not_among({*files, "config-dirs/0/mine.yaml"}, ["config-dirs/0"]))
    package = ConfigSources(further=("pkg://launchers.x", "pkg://theirs.conf"))
    assert [text.split(" in ")[0] for text in package.not_among(files, [])] == ["pkg://theirs.conf"]
    with pytest.raises(ConfigError, match=r"pkg://omegaconf in hydra\.searchpath is not a package of the project"):
        prepare(["hydra.searchpath=[pkg://omegaconf]", *SAGEMAKER, f"hydra.run.dir={tmp_path}/run"])


class TestResumed:
    @pytest.fixture
    def run(self, own: Path, tmp_path: Path, tiny_overrides: list[str]) -> Path:
        stored_run(tmp_path / "run", "--config-dir", str(own), "--config-name", "mine", *tiny_overrides)
        return tmp_path / "run"

    def test_it_keeps_its_sources(self, run: Path, own: Path) -> None:
        plan = prepare([f"resume={run}", "logger=odd"])[1]
        assert (plan.spec.sources.name, plan.spec.config["seed"]) == ("mine", 7)
        assert plan.spec.config["logger"]["name"] == "odd"

    @pytest.mark.parametrize("words", [["--config-name", "other"], ["--config-path", "/other"]], ids=" ".join)
    def test_another_primary_config_is_refused(self, run: Path, words: list[str]) -> None:
        with pytest.raises(ConfigError, match=f"A resumed run keeps its config:\n  {words[0]} was .*, now .*other"):
            prepare([f"resume={run}", *words])

    def test_a_further_folder_is_added(self, run: Path, own: Path, tmp_path: Path) -> None:
        (tmp_path / "b" / "logger").mkdir(parents=True)
        (tmp_path / "b" / "logger" / "even.yaml").write_text("_target_: lightning.pytorch.loggers.CSVLogger\n")
        sources = prepare([f"resume={run}", "logger=even", "--config-dir", f"{tmp_path}/b"])[1].spec.sources
        assert sources == ConfigSources("mine", None, str(own), (f"file://{tmp_path}/b",))

    def test_a_folder_that_is_gone_is_replaced_by_the_one_of_the_command(self, tmp_path: Path) -> None:
        before = ConfigSources("mine", "/gone/a", "/gone/b", ("file:///gone/c",))
        now = ConfigSources("mine", str(tmp_path), str(tmp_path))  # as on the next machine of an interrupted job
        assert before.joined(now) == now
        assert replace(before, folder=None).joined(ConfigSources()) == ConfigSources("mine")


def test_a_search_trains_with_the_primary_config_that_was_named(own: Path, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "here")
    search = ["hpo=optuna", "hpo/sampler=random", "hpo/pruner=none", "hpo.space=null", "hpo.n_trials=1"]
    words = ["--config-dir", str(own), "--config-name", "mine", "-m", *search, *OVERRIDES]
    output = sweep.run("model.lr=interval(1e-3,1e-2)", words=words)
    spec = RunSpec.from_json((sweep.folder() / "00000" / "spec.json").read_text())
    assert (spec.config["seed"], spec.config["model"]["dropout"]) == (7, 0.45)
    retrain = next(line for line in output.splitlines() if line.startswith("Train with these settings: "))
    assert f"--config-name=mine '--config-dir={own}'" in retrain
    assert f"model.lr={spec.config['model']['lr']}" in retrain
    assert not (sweep.folder() / "experiment").exists()  # it would be composed before mine.yaml, which replaces values
