"""The rules of CloudWatch's alarms. Those of the scaling policies that act on them are in scaling.py.

Nothing here knows an account or a clock: the capacity planner, the deployment and the rehearsal cloud share it.
Sources: "Configuring how CloudWatch alarms treat missing data" and "Alarm evaluation" in the CloudWatch user guide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Missing = Literal["missing", "ignore", "breaching", "notBreaching"]
Points = Sequence[float | None]  # one value for each period, the oldest first; None where nothing was published

EXTRA_PERIODS = (
    2  # beyond its evaluation periods, that CloudWatch fetches in case some are missing; its guide has 3 + 2
)


class State(StrEnum):
    OK = "OK"
    ALARM = "ALARM"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"


@dataclass(frozen=True)
class Alarm:
    """A metric alarm: it goes off when `points` of the latest `of` periods are beyond the threshold ("m out of n").

    above: whether values greater than the threshold breach it; otherwise smaller ones do. Equal values never do.
    period_s: 10, 20, 30, or a multiple of 60. missing: how periods without data count.
    """

    threshold: float
    above: bool = True
    period_s: int = 60
    points: int = 3
    of: int = 3
    missing: Missing = "missing"

    @property
    def every_s(self) -> int:
        """Seconds between two evaluations: 10 for periods of less than a minute, otherwise 60."""
        return 10 if self.period_s < 60 else 60

    @property
    def fetched(self) -> int:
        """The number of latest periods that an evaluation looks at: the evaluation range."""
        return self.of + EXTRA_PERIODS

    def breached_by(self, value: float) -> bool:
        return value > self.threshold if self.above else value < self.threshold

    def state(self, values: Points, before: State = State.INSUFFICIENT_DATA) -> State:
        """Return the state after an evaluation. values: of the latest periods; before: the state until now.

        The latest `of` values that exist decide. Where fewer exist in the evaluation range, the periods without data
        are filled in as `missing` says.
        """
        known = [self.breached_by(value) for value in values[-self.fetched :] if value is not None][-self.of :]
        breaching, filled = sum(known), self.of - len(known)
        if breaching >= self.points:
            return State.ALARM
        if not filled or self.missing == "notBreaching":
            return State.OK
        if self.missing == "breaching":
            return State.ALARM if breaching + filled >= self.points else State.OK
        if not known:
            return State.INSUFFICIENT_DATA if self.missing == "missing" else before
        if breaching < len(known):
            return State.OK
        # all that is known breaches, but it is too little: an alarm only if it is old enough not to be premature
        if self.missing == "ignore":
            return before
        return State.ALARM if self._age_of_oldest(values) >= self.points else State.OK

    def _age_of_oldest(self, values: Points) -> int:
        """Return how many periods ago the oldest value of the evaluation range was; 1 is the latest period."""
        latest = values[-self.fetched :]
        return next(len(latest) - place for place, value in enumerate(latest) if value is not None)
