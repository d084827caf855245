"""The scaling policies that a deployment offers, by name, for an endpoint's instances."""

from dataclasses import replace

from launchers.aws.scaling import Metric, Policy, TargetTracking, concurrency, invocations, report
from launchers.cost.serving import target

NAMES = ("concurrency", "report", "invocations", "cpu", "none")
BUSY = 0.7  # of all vCPUs, above which the policy `report` adds an instance


def policy(
    name: str, vcpus: int, service_s: float, out_s: float | None = None, busy: float = BUSY
) -> tuple[Policy | None, Metric, float]:
    """Return a policy, the metric that it reads, and the seconds after which a value of that metric can be read.

    concurrency: requests in progress per instance, every 10 s, target one per vCPU, or half of what an instance takes
    if it takes no more than one per vCPU. report: one instance more when busy
    for 30 s, one less after 15 minutes at half of that. invocations: requests per minute and instance, with half of
    what an instance can do as the target (AWS: "Load testing your auto scaling configuration"). cpu: target tracking of
    CPUUtilization, as in SageMaker's example. none: a fixed number. out_s: the cool-down after instances were added;
    None for the policy's own. busy: of `report`.
    """
    if name == "concurrency":
        return _waiting(concurrency(target(vcpus)), out_s), "concurrency", 10.0
    if name == "report":
        return _waiting(report(busy * 100 * vcpus, BUSY * 50 * vcpus), out_s), "cpu", 10.0
    if name == "invocations":
        return _waiting(invocations(vcpus / service_s), out_s), "invocations", 60.0
    if name == "cpu":
        return _waiting(TargetTracking(BUSY * 100 * vcpus), out_s), "cpu", 60.0
    if name == "none":
        return None, "concurrency", 10.0
    raise ValueError(f"unknown policy {name}")


def _waiting(rule: Policy, out_s: float | None) -> Policy:
    return rule if out_s is None else replace(rule, out_s=out_s)
