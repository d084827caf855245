"""Expected times against those of the rehearsal cloud, on an idle machine:

python -m pytest -n0 -m slow -s tests/launchers/test_expected_times.py

prints a table. The speed of this machine is the one of its features of a head, which is the only number that is fitted,
and which decoding the photos is a part of.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dogbreed.hardware import available_cpus
from dogbreed.workload import Workload
from launchers import prepare
from launchers.cost import prices, times
from launchers.rehearsal.cloud import Rehearsal
from launchers.sagemaker.training import SageMakerLauncher
from tests.support.launcher_contract import until
from tests.support.rehearsing import ROLES
from tests.support.searched import said_by

pytestmark = pytest.mark.slow

QUICK = ["experiment=quickstart", "launcher=sagemaker_gpu", "launcher.instance_type=ml.m5.large", "test=false"]
RUNS = {
    "a head": [],
    "a fine-tuning": ["model.trainable=blocks.5", "features.mode=off", "trainer.max_epochs=3"],
    "a last stage on cached features": ["model.trainable=conv_head", "trainer.max_epochs=10"],
}
TRIALS = 8
_FACTOR = 2.0  # plans call their times estimates


def logged(cloud: Rehearsal, run_id: str) -> list[dict[str, Any]]:
    logs, group = cloud.client("logs"), "/aws/sagemaker/TrainingJobs"
    (stream,) = (
        each["logStreamName"]
        for each in logs.describe_log_streams(logGroupName=group)["logStreams"]
        if each["logStreamName"].startswith(run_id)
    )
    found = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, limit=10_000)
    events: list[dict[str, Any]] = found["events"]
    return events


def searched(place: Path, cloud: Rehearsal, here: Path, trials: int) -> float:
    """Return the seconds of a rehearsed search in one job, from its photos to its last line."""
    where = ["aws=rehearsal", f"aws.state_dir={place}", *ROLES, f"hydra.sweep.dir={here / 'sweep'}"]
    words = ["-m", "hpo=optuna", "hpo/pruner=none", f"hpo.n_trials={trials}", *QUICK[:-1], *where]
    said_by(here, *words)
    events = logged(cloud, json.loads((here / "sweep" / "spec.json").read_text())["run_id"])
    first = next(event for event in events if event["message"].startswith("Data: "))
    return float(events[-1]["timestamp"] - first["timestamp"]) / 1000


def trained(cloud: Rehearsal, place: Path, home: Path, *words: str) -> tuple[Workload, str, float]:
    """Return the work of a rehearsed run, its log, and the seconds from its photos to its last epoch."""
    where = ["aws=rehearsal", f"aws.state_dir={place}", *ROLES, f"hydra.run.dir={home}"]
    launcher, plan = prepare([*QUICK, *where, *words])
    assert isinstance(launcher, SageMakerLauncher)
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished, timeout_s=900)
    events = logged(cloud, plan.spec.run_id)
    first = next(event for event in events if event["message"].startswith("Data: "))
    last = [event for event in events if event["message"].startswith("epoch ")][-1]
    text = "\n".join(event["message"] for event in events)
    return plan.spec.workload, text, (last["timestamp"] - first["timestamp"]) / 1000


def test_expected_times_are_those_of_this_machine(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    base, gflops, head = prices.instance("ml.m5.large"), 0.0, None
    assert base is not None
    ratios = {}
    for number, (name, words) in enumerate(RUNS.items()):
        workload, log, measured_s = trained(cloud, place, tmp_path / str(number), *words)
        head = head or workload
        if found := re.search(r"Features: .*?([\d,]+) images/s", log):
            assert workload.per_photo is not None
            gflops = gflops or float(found[1].replace(",", "")) * workload.per_photo.frozen_gflop
        expected = times.times(workload, replace(base, gflops=gflops), 1)
        assert expected is not None
        expected_s = expected.features_s + expected.epochs_s
        ratios[name] = expected_s / measured_s
        print(f"{name:<34} expected {expected_s:6.1f} s, measured {measured_s:6.1f} s, ratio {ratios[name]:.2f}")
    assert head is not None
    search_s = searched(place, cloud, tmp_path, TRIALS)
    here = replace(base, gflops=gflops, vcpus=available_cpus())
    expected_s = times.search_s(head, here, TRIALS)
    assert expected_s is not None
    ratios["a search"] = (expected_s - times.START_S) / search_s
    print(f"a search: {expected_s - times.START_S:.1f} s, measured {search_s:.1f} s, {ratios['a search']:.2f}")
    print(f"at {gflops:.0f} GFLOP/s")
    assert all(1 / _FACTOR <= ratio <= _FACTOR for ratio in ratios.values()), ratios
