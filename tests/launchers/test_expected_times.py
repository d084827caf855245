"""Expected times against those of the rehearsal cloud, in seconds of a processor, so that other work does not count:

python -m pytest -n0 -m slow -s tests/launchers/test_expected_times.py

prints a table. The speed of this machine is the one of its features of a head, which is the only number that is fitted,
and which decoding the photos is a part of.
"""

import json
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from dogbreed.workload import Workload
from launchers import prepare
from launchers.cost import prices, times
from launchers.rehearsal.cloud import Rehearsal
from launchers.sagemaker.training import SageMakerLauncher
from tests.support.launcher_contract import until
from tests.support.rehearsing import ROLES
from tests.support.searched import said_by

pytestmark = pytest.mark.slow

QUICK = ["experiment=quickstart", "launcher=sagemaker_gpu", "launcher.instance_type=ml.m5.large"]
RUNS = {
    "a head": [],
    "a fine-tuning": ["model.trainable=blocks.5", "features.mode=off", "trainer.max_epochs=3"],
    "a last stage on cached features": ["model.trainable=conv_head", "trainer.max_epochs=10"],
}
SEARCH = ["-m", "hpo=optuna", "hpo/pruner=none", "hpo.parallel=1", "data.source.seed=1"]
TRIALS = 8
_FACTOR = 1.3
_EVERY_S = 0.25


class Meter(threading.Thread):
    """Measures what the rehearsed machines use of processors. place: the state folder, in which all of them work."""

    def __init__(self, place: Path) -> None:
        super().__init__(daemon=True)
        self.place, self._ended = str(place), threading.Event()
        self._used: dict[tuple[int, float], float] = {}
        self.samples: list[tuple[float, float]] = [(0.0, 0.0)]  # time, seconds of processors until then

    def run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            for process in psutil.process_iter(["cwd", "cpu_times", "create_time"]):
                if (process.info["cwd"] or "").startswith(f"{self.place}/jobs/"):
                    spent = process.info["cpu_times"]
                    self._used[process.pid, process.info["create_time"]] = spent.user + spent.system
            self.samples.append((time.time(), sum(self._used.values())))

    def end(self) -> None:
        self._ended.set()
        self.join()

    def between(self, begin: dict[str, Any], end: dict[str, Any]) -> float:
        """Return the seconds between two events of a log."""
        places = (bisect_right(self.samples, (each["timestamp"] / 1000, 0.0)) for each in (begin, end))
        began, ended = (self.samples[min(place, len(self.samples) - 1)] for place in places)
        return ended[1] - began[1]


@pytest.fixture
def meter(place: Path) -> Iterator[Meter]:
    made = Meter(place)
    made.start()
    yield made
    made.end()


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


def first(events: list[dict[str, Any]], text: str) -> dict[str, Any]:
    return next(event for event in events if event["message"].startswith(text))


def trained(cloud: Rehearsal, place: Path, home: Path, *words: str) -> tuple[Workload, list[dict[str, Any]]]:
    """Return the work of a rehearsed run, and its log."""
    where = ["aws=rehearsal", f"aws.state_dir={place}", *ROLES, f"hydra.run.dir={home}", "test=false"]
    launcher, plan = prepare([*QUICK, *where, *words])
    assert isinstance(launcher, SageMakerLauncher)
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished, timeout_s=900)
    return plan.spec.workload, logged(cloud, plan.spec.run_id)


def test_expected_times_are_those_of_this_machine(cloud: Rehearsal, place: Path, tmp_path: Path, meter: Meter) -> None:
    here = prices.instance("ml.m5.large")
    assert here is not None
    ratios, head = {}, None

    def compare(name: str, expected_s: float, measured_s: float) -> None:
        ratios[name] = expected_s / measured_s
        print(f"{name:<32} expected {expected_s:6.1f} s, measured {measured_s:6.1f} s, ratio {ratios[name]:.2f}")

    for number, (name, words) in enumerate(RUNS.items()):
        workload, events = trained(cloud, place, tmp_path / str(number), *words)
        if head is None:
            head, assumed = workload, times.times(workload, here, 1)
            computed_s = meter.between(first(events, "Computing features"), first(events, "Features: "))
            assert assumed is not None
            here = replace(here, gflops=here.gflops * assumed.features_s / computed_s, vcpus=1)
            print(f"{here.gflops:.0f} GFLOP/s for each second of a processor")
        expected = times.times(workload, here, 1)
        assert expected is not None
        epochs = [event for event in events if re.match("epoch ", event["message"])]
        compare(name, expected.total_s - times.START_S, meter.between(first(events, "Data: "), epochs[-1]))
    where = ["aws=rehearsal", f"aws.state_dir={place}", *ROLES, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    said_by(tmp_path, *SEARCH, *QUICK, *where, f"hpo.n_trials={TRIALS}")
    events = logged(cloud, json.loads((tmp_path / "sweep" / "spec.json").read_text())["run_id"])
    assert head is not None
    expected_s = times.search_s(head, here, TRIALS)
    assert expected_s is not None
    compare("a search in one job", expected_s - times.START_S, meter.between(first(events, "Data: "), events[-1]))
    assert all(1 / _FACTOR <= ratio <= _FACTOR for ratio in ratios.values()), ratios
