"""The scaling policies that a deployment offers, by name, for an endpoint's instances."""

from launchers.aws.alarms import Alarm, Policy, StepScaling, TargetTracking
from launchers.capacity.setting import Metric

NAMES = ("concurrency", "report", "invocations", "cpu", "none")
BUSY = 0.7  # of all vCPUs, above which the policy `report` adds an instance
SAFETY = 0.5  # of the measured maximum, the target of the policy `invocations`, as AWS advises to begin with


def policy(name: str, vcpus: int, service_s: float) -> tuple[Policy | None, Metric, float]:
    """Return a policy, the metric that it reads, and the seconds after which a value of that metric can be read.

    concurrency: requests in progress per instance, every 10 s, target one per vCPU. report: one instance more when busy
    for 30 s, one less after 15 minutes at half of that. invocations: requests per minute and instance, with half of
    what an instance can do as the target (AWS: "Load testing your auto scaling configuration"). cpu: target tracking of
    CPUUtilization, as in SageMaker's example. none: a fixed number.
    """
    if name == "concurrency":
        return TargetTracking(vcpus, period_s=10, out_s=60, in_s=300), "concurrency", 10.0
    if name == "report":
        high = Alarm(BUSY * 100 * vcpus, True, period_s=10)
        low = Alarm(BUSY * 100, False, period_s=60, points=15, of=15)
        return StepScaling(high, low, out_s=60, in_s=300), "cpu", 10.0
    if name == "invocations":
        return TargetTracking(vcpus / service_s * 60 * SAFETY), "invocations", 60.0
    if name == "cpu":
        return TargetTracking(BUSY * 100 * vcpus), "cpu", 60.0
    if name == "none":
        return None, "concurrency", 10.0
    raise ValueError(f"unknown policy {name}")
