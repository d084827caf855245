"""Check settings that several launchers have: bucket, prefix, network, waiting for machines. Pure: no network."""

import re
from collections.abc import Iterator, Sequence
from math import inf

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[\w./-]{1,200}")


def bucket_findings(bucket: str | None, prefix: str) -> Iterator[str]:
    """Yield what is wrong with the settings launcher.bucket and launcher.prefix."""
    if bucket is None:
        yield "No bucket is configured.\nTry: launcher.bucket=<yours>; or rehearse first: aws=rehearsal"
    elif not _BUCKET.fullmatch(bucket):
        yield f"launcher.bucket={bucket!r} is not a valid bucket name.\nTry: the name alone, without s3://"
    if not _PREFIX.fullmatch(prefix) or prefix.strip("/") != prefix:
        yield f"launcher.prefix={prefix!r} is not a valid key prefix.\nTry: dogbreed, or team/dogbreed"


def network_findings(subnets: Sequence[str], security_groups: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the settings launcher.subnets and launcher.security_groups."""
    if bool(subnets) != bool(security_groups):
        yield (
            "A VPC needs both subnets and security groups; only one of them is set.\n"
            "Try: launcher.subnets=[subnet-...] launcher.security_groups=[sg-...]"
        )


def waiting_findings(hours: object) -> Iterator[str]:
    """Yield what is wrong with the setting launcher.wait_for_capacity_h."""
    if hours is not None and (isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 <= hours < inf):
        yield (
            f"launcher.wait_for_capacity_h must be a number of hours, at least 0, got {hours!r}.\n"
            "Try: launcher.wait_for_capacity_h=4"
        )
