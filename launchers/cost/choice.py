"""Choose the machine on which a run costs least, by its own time and not by the hour: `launcher.instance_type=auto`."""

from collections.abc import Sequence
from dataclasses import dataclass

from dogbreed.workload import Workload
from launchers import formatting
from launchers.cost import times
from launchers.cost.needs import Needs
from launchers.cost.prices import Instance

AUTO = "auto"
_RUNNERS_UP = 3
_KIND = """\
Its speeds are estimates, not measurements: published specifications,
scaled to what two Zen 4 cores reached"""


@dataclass(frozen=True)
class Offer:
    """What a run takes on one type. seconds, usd: of the whole run; None if its time cannot be estimated."""

    row: Instance
    seconds: float | None
    usd: float | None

    @property
    def rank(self) -> tuple[float, float, str]:
        return self.usd if self.usd is not None else 0.0, self.row.usd, self.row.type


@dataclass(frozen=True)
class Choice:
    """The types that meet the needs of a run, the cheapest for it first. There is at least one."""

    needs: Needs
    offers: Sequence[Offer]

    @property
    def row(self) -> Instance:
        return self.offers[0].row

    def __str__(self) -> str:
        """The choice and its runners-up, as a table for a plan."""
        known = self.offers[0].usd is not None
        why = "for this run" if known else "by the hour, because the time of this run\ncannot be estimated"
        shown = self.offers[: 1 + _RUNNERS_UP]
        width = max(len(offer.row.type) for offer in shown)
        lines = [f"the cheapest with {self.needs}, {why}:"]
        for offer in shown:
            hourly = f"{formatting.usd(offer.row.usd)} an hour"
            cost = ""
            if offer.seconds is not None and offer.usd is not None:
                cost = f"  {formatting.duration(offer.seconds):>8}  {formatting.usd(offer.usd):>8}"
            lines.append(f"{offer.row.type:<{width}}{cost}  {hourly}")
        return "\n".join([*lines, _KIND] if known else lines)


def choose(workload: Workload, needs: Needs, *, instances: int = 1, trials: int = 0) -> Choice:
    """Compare the types that meet the needs, at prices on demand. There must be one.

    instances: that train the run together. trials: of a search in one job; 0 for a run.
    """
    offers = [_offer(workload, row, instances, trials) for row in needs.types()]
    return Choice(needs, sorted(offers, key=lambda offer: offer.rank))


def _offer(workload: Workload, row: Instance, instances: int, trials: int) -> Offer:
    if trials:
        seconds = times.search_s(workload, row, trials)
    else:
        found = times.times(workload, row, instances)
        seconds = None if found is None else found.total_s
    return Offer(row, seconds, None if seconds is None else seconds / 3600 * row.usd * instances)
