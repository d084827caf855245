"""Tell from AWS's words whether there was no machine for a run: a quota is used up, or AWS has no capacity. Pure."""

import re

from launchers.status import Shortage

_CODES = re.compile(
    r"(?:ClientError: )?(?P<code>ResourceLimitExceeded|CapacityError|Insufficient\w*Capacity\w*)\b", re.ASCII
)
_QUOTA = re.compile(  # as SageMaker words it, also for limits that are not of machines
    r"service limit '(?P<name>[^']+)' is (?P<limit>[\d,]+) \w+, with current utilization of (?P<used>[\d,]+) \w+ "
    r"and a request delta of (?P<wanted>[\d,]+) \w+"
)


def shortage_in(reason: str) -> Shortage | None:
    """Return the shortage that an error or a job's FailureReason names; None for any other reason, as a full disk.

    reason: AWS's code, a colon and its message.
    """
    found = _CODES.match(reason)
    if found is None:
        return None
    if quota := _QUOTA.search(" ".join(reason.split())):
        limit, used, wanted = (int(quota[name].replace(",", "")) for name in ("limit", "used", "wanted"))
        return Shortage(f"the quota of {limit} for {quota['name']!r} has {used} in use", limit, used, wanted)
    if found["code"] == "ResourceLimitExceeded":
        return Shortage("the account has reached a service quota")
    return Shortage("AWS has no capacity for this instance type")
