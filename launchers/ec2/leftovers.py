"""Find what runs on EC2 have left in an account: groups that nothing uses any more, and templates without a group."""

from collections.abc import Iterator
from datetime import datetime

from launchers.aws.layout import Layout
from launchers.base import Cloud
from launchers.ec2 import groups, names, state
from launchers.status import Failures


def unused(cloud: Cloud, layout: Layout, before: datetime, failures: Failures) -> Iterator[str]:
    """Yield the names of what is unused and was created before `before`.

    failures: gets the errors of groups about which nobody can tell. Raises LaunchError if there is no list.
    """
    found = groups.find(cloud)
    for each in found:
        with failures.noted():
            if each.created < before and (each.idle or _has_ended(cloud, layout, each)):
                yield each.name
    there = {group.name for group in found}
    yield from (name for name, at in groups.templates(cloud) if name not in there and at < before)


def _has_ended(cloud: Cloud, layout: Layout, group: groups.Group) -> bool:
    """Return whether the run of a group has ended, although the group could not be told."""
    seen = state.read(cloud, layout, names.run_of(group.name))
    own = groups.is_of(group.tags, seen.location.uri)  # another bucket may have a run of that name
    return own and seen.result is not None and seen.group_name == group.name
