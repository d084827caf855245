"""limits.max_usd and launcher.keep_alive_s in the rehearsal cloud: what is billed, and what further jobs get."""

from pathlib import Path

import pytest

from launchers.rehearsal.cloud import Rehearsal
from launchers.sagemaker import fitting
from launchers.status import Cause, LaunchError, Phase
from tests.support.launcher_contract import until
from tests.support.rehearsing import job_of, prepared

pytestmark = pytest.mark.cloud

G4DN = 0.7364  # US dollars an hour
ENDLESS = ("trainer.max_epochs=100000", "save.every_n_steps=1")


def costing(seconds: float) -> str:
    return f"limits.max_usd={seconds / 3600 * G4DN:.7f}"


def test_a_run_ends_at_its_limit_and_a_further_job_gets_what_is_left(
    cloud: Rehearsal, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "STARTING_S", 1)  # so that the limit is reached within seconds
    launcher, plan = prepared(place, tmp_path / "run", *ENDLESS, costing(183.5), launcher="sagemaker_gpu")
    assert plan.requests[-1].parameters["StoppingCondition"] == {"MaxRuntimeInSeconds": 3}
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.BUDGET)
    assert status.detail.startswith("limits.max_usd=0.03753")
    assert "Resume it, with a larger limits.max_usd: " in status.next_action
    assert status.usd is not None
    assert 0 < status.usd <= 183.5 / 3600 * G4DN
    with pytest.raises(LaunchError, match="Earlier jobs of the run have cost") as refused:
        launcher.submit(plan)
    assert refused.value.cause is Cause.BUDGET
    words = (*ENDLESS, costing(400.5), f"run_id={plan.spec.run_id}")
    launcher, larger = prepared(place, tmp_path / "run", *words, launcher="sagemaker_gpu")
    assert larger.requests[-1].parameters["StoppingCondition"] == {"MaxRuntimeInSeconds": 220}
    launcher.submit(larger)
    spent_s = status.usd / G4DN * 3600
    asked = job_of(launcher, larger)["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert asked == pytest.approx(220 - spent_s, abs=1)
    launcher.cancel(larger.handle)


def test_machines_are_kept_shown_and_given_back(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    words = ("trainer.max_epochs=1", "launcher.keep_alive_s=900")
    launcher, plan = prepared(place, tmp_path / "run", *words, launcher="sagemaker_gpu")
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished)
    status = launcher.status(plan.handle)
    assert status.phase is Phase.SUCCEEDED
    assert "its machines are kept, and paid, until " in status.detail
    assert f"python -m launchers cancel {plan.handle}" in status.detail
    given_back = launcher.cancel(plan.handle)
    assert (given_back.phase, given_back.detail) == (Phase.SUCCEEDED, "")
    assert given_back.usd is not None
    assert status.usd is not None
    assert given_back.usd >= status.usd > 0
    assert job_of(launcher, plan)["WarmPoolStatus"]["Status"] == "Terminated"
