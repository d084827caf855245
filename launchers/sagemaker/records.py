"""Record what jobs cost, those of a run and the tuning jobs of a search, for `python -m launchers cost`."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from launchers.aws import bills
from launchers.aws.bills import Bill
from launchers.aws.layout import Layout
from launchers.base import Cloud
from launchers.cost import limits, prices
from launchers.sagemaker.job import TrainingJob
from launchers.sagemaker.tuning_job import TunedTrial, TuningJob
from launchers.status import LaunchError

log = logging.getLogger("dogbreed")

_STATES = {"Completed": "succeeded", "Failed": "failed", "Stopped": "stopped"}


def begin(cloud: Cloud, layout: Layout, run_id: str, create: Mapping[str, Any], encryption: Mapping[str, str]) -> None:
    """Record a job that was submitted. create: its request."""
    resources = create["ResourceConfig"]
    rate = limits.usd_of(prices.instance(str(resources["InstanceType"])), int(resources["InstanceCount"]))
    name = str(create["TrainingJobName"])
    _write(cloud, layout, [Bill(run_id, "sagemaker", bills.key_of_job(layout, run_id, name), rate, None)], encryption)


def end(cloud: Cloud, layout: Layout, run_id: str, jobs: Iterable[TrainingJob], encryption: Mapping[str, str]) -> None:
    """Record the jobs of a run that have ended."""
    _write(cloud, layout, [of(layout, run_id, job) for job in jobs if job.finished], encryption)


def of(layout: Layout, run_id: str, job: TrainingJob) -> Bill:
    """Return the record of a job as far as it is known; kept machines end with what is billed for them."""
    rate = limits.usd_of(prices.instance(job.instance_type), job.instances)
    seconds = None if job.billable_s is None else job.billable_s + job.kept_s
    ended = (job.ended or job.modified) if job.finished and not job.keeps_machines else None
    return Bill(
        run_id,
        "sagemaker",
        bills.key_of_job(layout, run_id, job.name),
        rate,
        None if job.started is None else job.started.astimezone(UTC),
        None if ended is None else ended.astimezone(UTC),
        seconds=seconds if ended is not None else None,
        state=_STATES.get(job.status, ""),
    )


def begin_search(
    cloud: Cloud, layout: Layout, run_id: str, create: Mapping[str, Any], encryption: Mapping[str, str]
) -> None:
    """Record a tuning job that was submitted. create: its request."""
    machines = create["TrainingJobDefinition"]["HyperParameterTuningResourceConfig"]
    rate = limits.usd_of(prices.instance(str(machines["InstanceType"])), int(machines["InstanceCount"]))
    key = bills.key_of_job(layout, run_id, str(create["HyperParameterTuningJobName"]))
    _write(cloud, layout, [Bill(run_id, "tuner", key, rate, None)], encryption)


def end_search(
    cloud: Cloud,
    layout: Layout,
    run_id: str,
    jobs: Iterable[tuple[TuningJob, Sequence[TunedTrial]]],
    encryption: Mapping[str, str],
) -> None:
    """Record the tuning jobs of a search that have ended. jobs: each with its trials."""
    found = [of_search(layout, run_id, job, trials, 0.0) for job, trials in jobs if job.finished]
    _write(cloud, layout, found, encryption)


def of_search(layout: Layout, run_id: str, job: TuningJob, trials: Sequence[TunedTrial], now: float) -> Bill:
    """Return the record of a tuning job as far as it is known: the time of all its trials on their machines.

    now: seconds since 1970.
    """
    started = [trial.started for trial in trials if trial.started is not None]
    ended = None
    if job.finished:
        last = max((trial.ended for trial in trials if trial.ended is not None), default=job.created.timestamp())
        ended = datetime.fromtimestamp(last, UTC)
    return Bill(
        run_id,
        "tuner",
        bills.key_of_job(layout, run_id, job.name),
        limits.usd_of(prices.instance(job.instance_type), job.instances),
        datetime.fromtimestamp(min(started), UTC) if started else None,
        ended,
        seconds=sum(trial.seconds(now) for trial in trials),
        state=_STATES.get(job.status, ""),
        trials=len(started),
    )


def _write(cloud: Cloud, layout: Layout, found: Iterable[Bill], encryption: Mapping[str, str]) -> None:
    try:
        for bill in found:
            bills.write(cloud, layout, bill, encryption)
    except LaunchError as error:  # the run itself is well
        log.warning("%s", error)
