"""A folder or a name that is used again: the same settings are the same run, other settings are refused."""

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers import launch, prepare
from launchers.local import LocalLauncher
from launchers.overrides import STAYS_HERE
from launchers.payload.photos import SentFolder
from launchers.plan import Plan
from launchers.runs.identity import other_settings, refuse_another_run
from launchers.spec import RunSpec, SearchOutput
from launchers.status import Handle, LaunchError
from launchers.sweep import one_job
from launchers.sweep.folders import refuse_folder_of_another
from launchers.sweep.identity import StudyAbout
from launchers.sweep.space import SearchSpace
from tests.support.configs import CONF
from tests.support.photos import tiny_settings
from tests.support.plans import REAL
from tests.support.stored import stored_run

SAGEMAKER = ["launcher=sagemaker_gpu", *REAL]


@pytest.fixture
def typed(photos: Path, tmp_path: Path) -> list[str]:
    return [*tiny_settings(photos), f"hydra.run.dir={tmp_path}/same"]


@pytest.fixture
def stored(tiny_overrides: list[str], tmp_path: Path) -> Plan:
    return stored_run(tmp_path / "same", *tiny_overrides)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_settings_are_the_run_that_is_there(stored: Plan, typed: list[str]) -> None:
    before = contents(Path(stored.spec.folder))
    plan = prepare(typed)[1]
    assert (plan.spec.run_id, plan.handle) == (stored.spec.run_id, stored.handle)
    assert plan.spec.config["run_id"] == stored.spec.run_id
    assert launch(typed) == stored.handle  # a finished run returns its result
    assert contents(Path(stored.spec.folder)) == before


@pytest.mark.parametrize(
    ("more", "listed"),
    [
        ("model.lr=0.5", "model.lr was 0.002, now 0.5"),
        ("seed=5", "seed was 0, now 5"),
        ("trainer.max_epochs=9", "trainer.max_epochs was 2, now 9"),
        ("+trainer.limit_train_batches=1", "trainer.limit_train_batches was not set, now 1"),
        ("data.root=/elsewhere", "data.root was"),
        ("monitor=val/top5", "monitor was 'val/acc', now 'val/top5'"),
        ("test=false", "test was True, now False"),
        ("save.every_n_steps=7", "save.every_n_steps was None, now 7"),
        ("logger=none", "logger was"),
        ("model=efficientnet_lite0", "model.crop_pct was"),
    ],
)
def test_other_settings_are_refused_and_nothing_changes(stored: Plan, typed: list[str], more: str, listed: str) -> None:
    before = contents(Path(stored.spec.folder))
    for action in (prepare, launch):
        with pytest.raises(ConfigError, match="holds a run with other settings") as refused:
            action([*typed, more])
        assert listed in str(refused.value)
        named = re.search(r"resume=([^\s,]+)", str(refused.value))
        assert named is not None
        assert Path(named[1]).resolve() == Path(stored.spec.folder).resolve()  # relative where that is shorter
    assert contents(Path(stored.spec.folder)) == before


@pytest.mark.parametrize("more", ["debug=true", "launcher.runs_dir=elsewhere", "aws.region=eu-west-1", "run_id=other"])
def test_what_stays_on_a_machine_is_no_other_setting(stored: Plan, typed: list[str], more: str) -> None:
    assert prepare([*typed, more])[1].handle == stored.handle


def test_a_setting_that_names_the_run_is_no_other_setting(tiny_overrides: list[str], tmp_path: Path) -> None:
    wandb = [*tiny_overrides, "logger=wandb"]  # whose id is the run's
    stored = stored_run(tmp_path / "same", *wandb)
    again = prepare([*wandb, f"hydra.run.dir={tmp_path}/same"])[1]
    assert again.spec.config["logger"]["id"] == stored.spec.run_id


def test_photos_that_are_made_or_downloaded_may_be_elsewhere(tmp_path: Path) -> None:
    stored = stored_run(tmp_path / "same", "experiment=quickstart")
    words = ["experiment=quickstart", f"data.root={tmp_path}/moved", f"hydra.run.dir={tmp_path}/same"]
    assert prepare(words)[1].spec.run_id == stored.spec.run_id


def test_a_run_that_has_trained_nothing_starts_over_with_other_settings(stored: Plan, typed: list[str]) -> None:
    (Path(stored.spec.folder) / "metrics.json").unlink()
    (Path(stored.spec.folder) / "config.yaml").unlink()
    assert prepare([*typed, "model.lr=0.5"])[1].spec.config["model"]["lr"] == 0.5


def test_a_run_id_typed_twice_is_the_same_folder(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored_run(tmp_path / "runs" / "mine", *tiny_overrides, "run_id=mine")
    assert prepare([*tiny_overrides, "run_id=mine"])[1].spec.run_id == "mine"
    with pytest.raises(ConfigError, match=r"seed was 0, now 1"):
        prepare([*tiny_overrides, "run_id=mine", "seed=1"])


def test_a_run_that_was_begun_after_the_plan_is_refused(tiny_overrides: list[str], tmp_path: Path) -> None:
    launcher, plan = prepare([*tiny_overrides, "seed=4", f"hydra.run.dir={tmp_path}/same"])
    stored_run(tmp_path / "same", *tiny_overrides)
    with pytest.raises(ConfigError, match="seed was 0, now 4"):
        launcher.submit(plan)
    assert LocalLauncher().result(plan.handle).metrics["test/acc"] == 0.25
    assert json.loads((tmp_path / "same" / "spec.json").read_text())["config"]["seed"] == 0


def test_a_run_of_this_machine_is_continued_elsewhere_unless_it_has_finished(stored: Plan, typed: list[str]) -> None:
    with pytest.raises(ConfigError, match="has finished, with these settings") as refused:
        prepare([*typed, *SAGEMAKER])
    assert "python -m launchers result" in str(refused.value)
    (Path(stored.spec.folder) / "state.json").unlink()
    spec = prepare([*typed, *SAGEMAKER])[1].spec
    assert (spec.run_id, spec.going_on) == (stored.spec.run_id, ())


def test_a_search_is_not_taken_for_a_run(stored: Plan, typed: list[str]) -> None:
    search = replace(stored.spec, output=SearchOutput("mine", 30))
    (Path(stored.spec.folder) / "spec.json").write_text(search.to_json())
    with pytest.raises(ConfigError, match="is a search, not a run"):
        prepare(typed)


FLAT = st.dictionaries(st.sampled_from(["seed", "launcher", "aws", "a", "b"]), st.integers(0, 2))


@given(FLAT, FLAT)
def test_settings_differ_exactly_where_one_that_travels_does(one: dict[str, Any], other: dict[str, Any]) -> None:
    travels = {key for key in one | other if key not in STAYS_HERE and one.get(key) != other.get(key)}
    assert {text.split(" was ")[0] for text in other_settings(one, other)} == travels


class TestSubmittedAgain:
    """A run id or a search's name that was submitted to a cloud before."""

    HERE = Handle("sagemaker", "eu-west-1", "x")

    @pytest.fixture
    def spec(self, stored: Plan) -> RunSpec:
        return stored.spec

    def test_other_settings_are_refused(self, spec: RunSpec) -> None:
        refuse_another_run(spec, spec, self.HERE)
        other = replace(spec, config={**spec.config, "seed": 3, "launcher": {}})
        with pytest.raises(LaunchError, match="seed was 0, now 3") as refused:
            refuse_another_run(other, spec, self.HERE)
        assert "train.py resume=sagemaker://eu-west-1/x" in str(refused.value)
        assert "launcher" not in str(refused.value)

    def test_the_content_of_photos_decides_not_their_folder(self, spec: RunSpec) -> None:
        moved = {**spec.config, "data": {**spec.config["data"], "root": "/moved"}}
        before = replace(spec, photos=SentFolder("/x", "d1", 3, 10, (10,)))
        refuse_another_run(replace(before, config=moved), before, self.HERE)
        changed = replace(before, photos=SentFolder("/x", "d2", 3, 10, (10,)))
        with pytest.raises(LaunchError, match=r"the photos in .* have changed"):
            refuse_another_run(changed, before, self.HERE)

    def test_a_search_is_known_by_its_study(self, spec: RunSpec) -> None:
        search = replace(spec, output=SearchOutput("mine", 30, "d1"), overrides=("model.lr=interval(0.1,0.2)",))
        refuse_another_run(replace(search, output=SearchOutput("mine", 99, "d1")), search, self.HERE)
        other = replace(search, output=SearchOutput("mine", 30, "d2"), overrides=("model.lr=interval(0.1,0.3)",))
        with pytest.raises(LaunchError, match=r"was .*0\.2.*now .*0\.3"):
            refuse_another_run(other, search, self.HERE)
        with pytest.raises(LaunchError, match="a search and a run"):
            refuse_another_run(search, spec, self.HERE)

    def test_a_search_in_the_folder_of_another_is_refused_before_it_is_submitted(
        self, spec: RunSpec, tmp_path: Path
    ) -> None:
        def study(digest: str) -> StudyAbout:
            return StudyAbout("mine", SearchSpace({}), "val/acc", "max", "", digest)

        first = one_job.describe(spec, study("d1"), tmp_path, 30, ["hpo=optuna"])
        (tmp_path / "spec.json").write_text(first.to_json())
        (tmp_path / "launched.json").write_text(json.dumps({"handle": str(self.HERE)}))
        assert one_job.describe(spec, study("d1"), tmp_path, 99, ["hpo=optuna"]).run_id == first.run_id
        with pytest.raises(LaunchError, match="belongs to another search"):
            one_job.describe(spec, study("d2"), tmp_path, 30, ["hpo=optuna", "seed=3"])


def test_a_folder_of_another_search_is_refused(tmp_path: Path, tiny_overrides: list[str]) -> None:
    refuse_folder_of_another(tmp_path / "new", "mine")
    with closing(sqlite3.connect(tmp_path / "study.db")) as database:
        database.execute("CREATE TABLE studies (study_name TEXT)")
        database.execute("INSERT INTO studies VALUES ('theirs')")
        database.commit()
    refuse_folder_of_another(tmp_path, "theirs")
    with pytest.raises(ConfigError, match="another search, theirs; this one is mine"):
        refuse_folder_of_another(tmp_path, "mine")
    stored_run(tmp_path / "shared" / "00000", *tiny_overrides, "run_id=theirs-0a1b2c-0")  # its study is elsewhere
    refuse_folder_of_another(tmp_path / "shared", "theirs")
    with pytest.raises(ConfigError, match="another search, theirs; this one is mine"):
        refuse_folder_of_another(tmp_path / "shared", "mine")


def test_sweeps_that_begin_in_one_second_have_names_of_their_own() -> None:
    names = set()
    for _ in range(5):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", [], return_hydra_config=True)
        assert config.hydra.sweep.dir == config.hydra.sweep.dir  # for all jobs of the sweep
        assert config.run_id not in config.hydra.sweep.dir  # which have ids of their own
        names.add(config.hydra.sweep.dir)
    assert len(names) == 5


def test_searches_that_begin_in_one_second_have_run_ids_of_their_own(stored: Plan, tmp_path: Path) -> None:
    study = StudyAbout("s" * 41, SearchSpace({}), "val/acc", "max", "", "d1")
    ids = {one_job.describe(stored.spec, study, tmp_path / "none", 30, []).run_id for _ in range(5)}
    assert len(ids) == 5
    assert max(map(len, ids)) <= 55  # what a run id may have
