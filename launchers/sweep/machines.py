"""What a search does if there is no machine for a trial: run fewer trials at once, wait, or end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from launchers.formatting import duration
from launchers.status import LaunchError, Shortage


@dataclass
class Machines:
    """Decides how many trials may run at once.

    parallel: lowered if this search's own trials fill the quota. wait_s: how long to wait for a machine, from the first
    refusal until a trial has had one. pause_s: between two tries. instances: machines of one trial.
    """

    parallel: int
    wait_s: float
    pause_s: float
    instances: int
    clock: Callable[[], float] = time.monotonic
    over: str = field(default="", init=False)  # why no trial is started any more; empty if the search goes on
    _again_at: float = field(default=0.0, init=False)
    _since: float | None = field(default=None, init=False)

    def has_room(self, running: int) -> bool:
        """Return whether another trial may start now. running: how many trials of this search run."""
        return not self.over and running < self.parallel and self.clock() >= self._again_at

    def found(self) -> None:
        """Record that a trial has had a machine."""
        self._since = None

    def lack(self, shortage: Shortage, running: int) -> str:
        """Record that there was no machine for a trial. Return what to tell the person, if that is new.

        running: how many other trials of this search run.
        """
        now = self.clock()
        ours = shortage.used is not None and shortage.used <= running * self.instances
        since = self._since = now if self._since is None else self._since
        left_s = since + self.wait_s - now
        if shortage.lasting or (left_s <= 0 and not running):
            self.over = shortage.text
            return ""
        if running and (ours or left_s <= 0):  # the trials that run will have ended before another can start
            self._since = None
            before, self.parallel = self.parallel, min(self.parallel, running)
            return f"{shortage.text}.\nFrom now on {running} at once." if before > running else ""
        pause_s = min(self.pause_s, left_s)
        told, self._again_at = now < self._again_at, now + pause_s
        again = f"Next try in {duration(pause_s)}, for up to {duration(left_s)} (Ctrl-C ends it)"
        return "" if told else f"{shortage.text}.\n{again}."

    def raise_if_over(self, detail: str, *, done: int, n_trials: int, again: str) -> None:
        """Raise LaunchError if the search has ended for lack of machines.

        detail: the error of the last trial that got none. done: trials that have ended. again: the command that resumes
        the search.
        """
        if not self.over:
            return
        raise LaunchError(
            f"There is no machine for the search; {done} of {n_trials} trials have ended and are kept.\n{detail}\n"
            f"Once there is one: {again}"
            + ("" if self.wait_s else "\nlauncher.wait_for_capacity_h=4 waits up to 4 hours for one")
        )
