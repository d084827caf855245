"""A run that was submitted from one folder is managed from another, with nothing shared but the account."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launchers.cli import cost, verbs
from launchers.rehearsal.cloud import Rehearsal
from launchers.status import Phase
from tests.support.answers import SCHEMAS, problems
from tests.support.launcher_contract import until
from tests.support.rehearsing import BUCKET, prepared, rehearsal_cloud

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cloud") / "state"


@pytest.fixture(scope="module")
def cloud(place: Path) -> Iterator[Rehearsal]:
    with rehearsal_cloud(place) as cloud:
        yield cloud


@pytest.fixture
def said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command in an empty folder, and return what it prints."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def said(*words: str, status: int = 0) -> str:
        ended = verbs.main([*words, "--state-dir", str(place)])
        printed = capsys.readouterr()
        assert ended == status, printed
        return printed.out + printed.err

    return said


def test_a_run_is_listed_followed_cancelled_and_fetched_from_another_folder(
    cloud: Rehearsal, place: Path, tmp_path: Path, said: Callable[..., str]
) -> None:
    words = ("trainer.max_epochs=100000", "save.every_n_steps=1", "name=far", "run_id=20261123-001122-x7k2")
    launcher, plan = prepared(place, tmp_path / "home" / "run", *words)
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).phase is Phase.RUNNING)
    next(line for line in launcher.logs(plan.handle, follow=True) if line.text.startswith("epoch 2/"))

    listed = json.loads(said("list", "rehearsal", "--json"))
    assert problems(listed, SCHEMAS["list"]) == []
    assert [(each["handle"], each["name"]) for each in listed] == [(str(plan.handle), "far")]
    assert listed[0]["usd"] > 0
    table = said("list", "rehearsal", "--name", "far")
    assert max(map(len, table.splitlines())) <= 80
    assert f"{plan.handle}  far" in table
    assert "No such runs" in said("list", "rehearsal", "--name", "near")

    for typed in ("20261123-0011", "far"):  # a beginning of its id, and its name, which the account knows by its tag
        assert said("status", f"sagemaker://rehearsal/{typed}").startswith("running")
    assert f"Try: {plan.handle}" in said("status", "sagemaker://rehearsal/20261123-001133-x7k2", status=1)

    lines = [json.loads(line) for line in said("logs", str(plan.handle), "--since", "1h", "--json").splitlines()]
    assert problems(lines[0], SCHEMAS["logs"]) == []
    assert any(line["text"].startswith("epoch 1/") for line in lines)
    assert all(line["at"] for line in lines)
    assert "still running" in said("download", str(plan.handle), status=1)

    said("cancel", "--all", "rehearsal", "--yes")
    assert launcher.status(plan.handle).phase is Phase.CANCELLED
    shutil.rmtree(tmp_path / "home")  # as on another machine
    fetched = json.loads(said("download", "sagemaker://rehearsal/far", "--json"))
    assert problems(fetched, SCHEMAS["download"]) == []
    assert Path(fetched["files"]["checkpoint"]).is_relative_to(tmp_path / "elsewhere" / "runs")
    assert "far" in said("list", "rehearsal", "--all", "--state", "cancelled")
    assert "far" in said("status", "far", "--json")  # its folder is here now


def test_a_cleanup_spares_what_a_run_in_progress_reads(
    cloud: Rehearsal, place: Path, tmp_path: Path, said: Callable[..., str]
) -> None:
    launcher, plan = prepared(place, tmp_path / "home" / "run", "trainer.max_epochs=100000", "run_id=going")
    launcher.submit(plan)
    items = json.loads(said("cleanup", "rehearsal", "--keep-days", "0", "--json"))
    assert problems(items, SCHEMAS["cleanup"]) == []
    found = {each["name"]: each["state"] for each in items}
    assert found[str(plan.handle)] == "in use"
    assert plan.spec.code is not None
    assert not {"run going", f"code {plan.spec.code.digest}"} & found.keys()
    launcher.cancel(plan.handle)
    items = json.loads(said("cleanup", "rehearsal", "--keep-days", "0", "--json"))
    assert {"run going", f"code {plan.spec.code.digest}"} <= {each["name"] for each in items}


def test_the_examples_of_what_runs_cost(cloud: Rehearsal, said: Callable[..., str]) -> None:
    examples = re.findall(r"^  python -m launchers (cost\b.*)$", cost.EPILOG, re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        words = [BUCKET if word == "my-bucket" else word for word in example.split()]
        words += [] if "sagemaker://rehearsal" in words else ["sagemaker://rehearsal"]
        assert "costs money" in said(*words)
        assert problems(json.loads(said(*words, "--json")), SCHEMAS["cost"]) == []
