"""Submit a run and follow it. If there is no machine for it, try again, for launcher.wait_for_capacity_h hours."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dogbreed.errors import Interrupted
from dogbreed.interruption import signal_of_exit
from launchers.base import Launcher
from launchers.follow import follow
from launchers.formatting import duration
from launchers.plan import Plan
from launchers.status import Handle, LaunchError, Phase, RunResult

IN_A_SEARCH_H = 1.0  # by default; a run by itself does not wait
_STOPPED = "Stopped while waiting for a machine: no job is running.\nThe same command tries again."
_WITHOUT_MACHINE = (Phase.SUBMITTED, Phase.PROVISIONING)
_POLLS = 12  # between two tries: a minute in an account


@dataclass
class CapacityWait:
    """Waits between the tries of one run. default_h: hours in total if launcher.wait_for_capacity_h is not set."""

    launcher: Launcher
    default_h: float = 0.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _since: float | None = field(default=None, init=False)  # when it was first refused a machine

    def submit(self, plan: Plan) -> Handle:
        """Submit the plan. Raises what `Launcher.submit` raises, once waiting is over or useless."""
        while True:
            try:
                return self.launcher.submit(plan)
            except LaunchError as error:
                if not self._waits(error):
                    raise

    def follow(self, plan: Plan) -> RunResult:
        """Follow the submitted run as `follow` does, and submit it again if its job found no machine."""
        while True:
            try:
                return follow(self.launcher, plan.handle)
            except LaunchError as error:
                if not self._waits(error):
                    raise
            except Interrupted as stopped:
                if self._since is None or self.launcher.status(plan.handle).phase not in _WITHOUT_MACHINE:
                    raise
                self.launcher.cancel(plan.handle)  # or it would get a machine with nobody waiting for it
                raise Interrupted(_STOPPED, stopped.signum) from None
            self.submit(plan)

    def _waits(self, error: LaunchError) -> bool:
        """Wait for the next try. Return False if there is to be none, which a note on the error explains."""
        shortage, wait_s, now = error.shortage, wait_s_of(self.launcher, self.default_h), self.clock()
        if shortage is None or shortage.lasting:
            return False
        since = self._since = now if self._since is None else self._since
        left_s = since + wait_s - now
        if left_s <= 0:
            waited = f"Waited {duration(now - since)} for a machine. " if now > since else ""
            error.add_note(f"{waited}launcher.wait_for_capacity_h=4 waits up to 4 hours for one")
            return False
        pause_s = min(pause_s_of(self.launcher), left_s)
        again = f"Next try in {duration(pause_s)}, for up to {duration(left_s)} (Ctrl-C ends it)"
        print(f"No machine: {shortage.text}.\n{again}.", flush=True)
        try:
            self.sleep(pause_s)
        except (KeyboardInterrupt, SystemExit) as stopped:
            signum = signal.SIGINT if isinstance(stopped, KeyboardInterrupt) else signal_of_exit(stopped)
            if signum is None:
                raise
            raise Interrupted(_STOPPED, signum) from None
        return True


def wait_s_of(launcher: Launcher, default_h: float) -> float:
    """Return how long to wait for a machine."""
    return 3600 * (default_h if launcher.wait_for_capacity_h is None else launcher.wait_for_capacity_h)


def pause_s_of(launcher: Launcher) -> float:
    """Return the seconds between two tries."""
    return _POLLS * launcher.poll_s
