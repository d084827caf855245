"""Say in a plan whether the number of instances pays."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dogbreed.workload import Workload
from launchers.cost.times import speed, times
from launchers.formatting import duration

if TYPE_CHECKING:
    from launchers.cost.prices import Instance


_ENOUGH = 1.1  # fewer machines are enough if they take at most a tenth longer


def compare_speed(workload: Workload, row: "Instance | None", instances: int) -> str:
    """Describe the speed of `instances` instances, and whether fewer are as fast; return "" for one instance."""
    if instances <= 1:
        return ""
    if row is None or workload.per_photo is None:
        return f"speed unknown: there are no figures for this {'instance type' if row is None else 'network'}"
    fewer = _halvings(instances)
    speeds = {n: speed(workload, row, n) or 1.0 for n in fewer}
    lines = [f"training steps {speeds[instances]:.2g} times as fast as on one instance, on paper"]
    known = {n: found for n in fewer if (found := times(workload, row, n)) is not None}
    if not known:
        if (enough := _enough({n: 1 / faster for n, faster in speeds.items()})) < instances:
            lines.append(f"More machines will not help: launcher.instances={enough} is as fast")
        return "\n".join(lines)
    total = {n: found.total_s for n, found in known.items()}
    lines.append(f"{duration(total[instances])} in all, {duration(total[1])} on one instance")
    enough = _enough(total)
    if workload.caches_features:
        lines.append(f"of which {duration(known[instances].features_s)} compute features that later runs reuse")
        if (later := _enough({n: found.total_s - found.features_s for n, found in known.items()})) < enough:
            lines.append(f"Later runs are as fast with launcher.instances={later}")
    if enough < instances:
        lines.append(f"More machines will not help: launcher.instances={enough} takes {duration(total[enough])}")
    return "\n".join(lines)


def _halvings(number: int) -> list[int]:
    """Halve a number until it is 1, and return all steps in ascending order: 1, 2, 3 and 5 for 5."""
    return [*_halvings((number + 1) // 2), number] if number > 1 else [1]


def _enough(seconds: Mapping[int, float]) -> int:
    """Return the least number of instances that takes at most a tenth longer than all of them. seconds: by number."""
    return min(n for n, each in seconds.items() if each <= _ENOUGH * seconds[max(seconds)])
