"""Divide `limits` of a search among its trials, where each of them is a run of its own that its cloud keeps in limits.

At any time the sum of what ended trials have cost and of what the others may cost, the test of the best one included,
is within limits.max_usd: each trial is given an amount, under the lock of the study, before it starts.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dogbreed.errors import ConfigError
from launchers import formatting
from launchers.cost.limits import Limits
from launchers.plan import Costs
from launchers.sweep.trials import Trial

Share = Callable[[Sequence[Trial]], float | None]  # of the trials of the study: what one of them is given
Give = Callable[[int, Share], float | None]
_MARGIN = 1.5  # what a trial is given at least, as a multiple of what it is expected to cost


@dataclass
class Budget:
    """Hands out the limits of a search. costs: of one trial, without limits; None if it costs nothing.

    limits: of the search. n_trials: how many trials it is to have. over: why no trial is started any more.
    """

    limits: Limits
    costs: Costs | None
    n_trials: int
    clock: Callable[[], float] = time.monotonic
    over: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def need_usd(self) -> float:
        """The least that a trial is given: less would stop most trials before their end."""
        assert self.costs is not None
        least = self.costs.least_usd * (1 + 1e-6)  # the amount is rounded down
        expected = 0.0 if self.costs.expected_usd is None else _MARGIN * self.costs.expected_usd
        return min(self.costs.worst_usd, max(least, expected))

    def check(self) -> None:
        """Raise ConfigError if not even one trial and its test fit."""
        usd = self.limits.max_usd
        if usd is None or self.costs is None or 2 * self.need_usd <= usd:
            return
        need = formatting.usd(self.need_usd)
        enough = f"limits.max_usd={2 * self.need_usd * 1.005:.3g}"
        raise ConfigError(
            f"limits.max_usd={usd:g} is not enough for a search whose trials are jobs of their own: a trial is given "
            f"{need} at least\n(one and a half times what is expected, start and end included), and so is the test of "
            f"the best: {formatting.usd(2 * self.need_usd)}.\nTry: {enough}, or hpo.one_job=true"
        )

    @property
    def fitting(self) -> int:
        """How many trials fit if each costs all that it is given."""
        usd = self.limits.max_usd
        if usd is None or self.costs is None:
            return self.n_trials
        return min(self.n_trials, int(usd / self.need_usd + 1e-9) - 1)

    def share(self, trials: Sequence[Trial], number: int) -> float | None:
        """Return the limits.max_usd of a trial's run, and None if too little is left.

        trials: all of the study. A trial that was given an amount before keeps it.
        """
        assert self.limits.max_usd is not None
        assert self.costs is not None
        given = {trial.number: trial.given_usd for trial in trials if trial.given_usd is not None}
        if number in given:
            return given[number]
        left = self.limits.max_usd - sum(map(self._reserved_usd, trials))
        to_come = max(1, self.n_trials - len(given))
        amount = min(self.costs.worst_usd, max(self.need_usd, left / (to_come + 1)))  # 1: the test of the best
        return _rounded(amount) if amount + self.need_usd <= left * (1 + 1e-9) else None

    def for_the_test(self, trials: Sequence[Trial], best: Trial) -> list[str]:
        """Return the overrides for resuming the best trial's run, which has all the money that is left.

        limits.max_hours only ends the trials: without the test the search would have no result.
        """
        if self.limits.max_usd is None or self.costs is None:
            return []
        left = self.limits.max_usd - sum(map(self._reserved_usd, trials))
        return [f"limits.max_usd={_rounded(self._reserved_usd(best) + max(0.0, left)):.9g}"]

    def _reserved_usd(self, trial: Trial) -> float:
        """Return what is set aside for a trial: its cost, once that is known, and of machines that are still kept.

        Its run keeps both within what it was given.
        """
        if self.costs is None or not trial.finished or trial.usd is None:
            return trial.reserved_usd
        most = trial.usd + self.costs.kept_usd
        return most if trial.given_usd is None else max(trial.usd, min(most, trial.given_usd))

    def admits(self, trial: Trial, give: Give) -> bool:
        """Return whether a claimed trial may start. give: `Study.give`."""
        self.over = ""
        if self.limits.max_hours is not None and self._left_h() < (self.costs.least_h if self.costs else 0.0):
            self.over = f"limits.max_hours={self.limits.max_hours:g} is over"
        elif self.limits.max_usd is not None and self.costs is not None:
            amount = give(trial.number, lambda trials: self.share(trials, trial.number))
            if amount is None:
                self.over = f"limits.max_usd={self.limits.max_usd:g} pays for no further trial"
        return not self.over

    def overrides(self, given_usd: float | None) -> list[str]:
        """Return the limits of a trial's run."""
        usd = [] if given_usd is None else [f"limits.max_usd={given_usd:.9g}"]
        return [*usd, *self._hours()]

    def for_one(self) -> list[str]:
        """Return the limits of the first trial's run, for a plan."""
        given = None if self.limits.max_usd is None or self.costs is None else self.share([], 0)
        return self.overrides(given)

    def _hours(self) -> list[str]:
        return [] if self.limits.max_hours is None else [f"limits.max_hours={max(self._left_h(), 1e-6):.6g}"]

    def _left_h(self) -> float:
        assert self.limits.max_hours is not None
        return self.limits.max_hours - (self.clock() - self._began) / 3600

    def __str__(self) -> str:
        """The division, for a plan."""
        lines = []
        if self.limits.max_usd is not None and self.costs is not None:
            each = formatting.usd(self.share([], 0) or 0.0)
            lines.append(f"{formatting.usd(self.limits.max_usd)} for the whole search: {each} for a trial and its end,")
            fit = self.fitting
            lines.append(
                f"{fit} of {self.n_trials} trials fit at worst; as trials end for less, further ones start"
                if fit < self.n_trials
                else f"so that all {self.n_trials} and the test of the best fit at worst"
            )
        if self.limits.max_hours is not None:
            lines.append(f"{self.limits.max_hours:g} h from the start of the command")
        return "\n".join(lines)


def _rounded(usd: float) -> float:
    """Return an amount that a command can hold, not above `usd`."""
    return float(f"{usd * (1 - 1e-8):.9g}")
