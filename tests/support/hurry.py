"""A rehearsal cloud's clock that runs faster than users can ask for."""

from dataclasses import replace

from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.faults import Faults

_RATE = 1000.0


class _Hurried(Rehearsal):
    def findings(self) -> list[str]:
        return []

    def _faults(self) -> Faults:
        return replace(super()._faults(), clock_rate=_RATE)


def hurried(cloud: Rehearsal) -> Rehearsal:
    """Return the same cloud for clients whose requests make its clock hurry.

    So a wait may be long enough for all that must happen during it, and its rest takes no time. A client that has a
    clock_rate of its own slows the clock down again.
    """
    return _Hurried(state_dir=cloud.state_dir, reclaims=cloud.reclaims, faults=cloud.faults)
