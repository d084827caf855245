"""Warm pools of training jobs: machines that SageMaker keeps after a job, for the next one like it, and bills.

The rules are those of https://docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from launchers.rehearsal.services.training_record import JobRecord, now

POOL_QUOTA = "{} for training warm pool usage"  # the key of aws.faults.quotas
_ALIKE = ("RoleArn", "VpcConfig", "EnableNetworkIsolation", "EnableInterContainerTrafficEncryption")
_MACHINES_ALIKE = ("InstanceType", "InstanceCount", "VolumeSizeInGB", "VolumeKmsKeyId")


def kept_s(record: JobRecord) -> int:
    return int(record.request["ResourceConfig"].get("KeepAlivePeriodInSeconds", 0))


def keep(record: JobRecord, quotas: Mapping[str, int]) -> None:
    """Keep the machines of a job that has ended, if it asked for it and the quota allows it; otherwise nothing."""
    kind, count = (record.request["ResourceConfig"][name] for name in ("InstanceType", "InstanceCount"))
    if kept_s(record) and record.started is not None and quotas.get(POOL_QUOTA.format(kind), count) >= count:
        record.pool = "Available"


def expire(record: JobRecord) -> None:
    """End a pool whose time is over."""
    if record.pool == "Available" and record.ended is not None and now() >= record.ended + kept_s(record):
        _end(record, "Terminated", record.ended + kept_s(record))


def release(record: JobRecord) -> None:
    """End a pool at once, as UpdateTrainingJob does with 0 seconds."""
    expire(record)
    if record.pool == "Available":
        _end(record, "Terminated", now())


def reuse(record: JobRecord, jobs: Iterable[JobRecord]) -> bool:
    """Give a new job the machines that are kept of one like it. Return whether there were any."""
    if record.spot:
        return False
    for other in jobs:
        expire(other)
        if other.pool == "Available" and _alike(other.request, record.request):
            other.reused_by = record.name
            _end(other, "Reused", now())
            return True
    return False


def status(record: JobRecord) -> dict[str, Any] | None:
    """Return what DescribeTrainingJob says of the pool; None for a job that asked for none."""
    expire(record)
    if not record.pool:
        return {"Status": "InUse"} if kept_s(record) and record.ended is None else None
    billed = {} if record.pool == "Available" else {"ResourceRetainedBillableTimeInSeconds": math.ceil(record.pool_s)}
    return {"Status": record.pool, **billed, **({"ReusedByJob": record.reused_by} if record.reused_by else {})}


def _end(record: JobRecord, how: str, moment: float) -> None:
    assert record.ended is not None
    record.pool, record.pool_s = how, max(0.0, moment - record.ended)
    record.save()


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    machines = (each["ResourceConfig"] for each in (one, other))
    first, second = ([resources.get(key) for key in _MACHINES_ALIKE] for resources in machines)
    return first == second and all(one.get(key) == other.get(key) for key in _ALIKE)
