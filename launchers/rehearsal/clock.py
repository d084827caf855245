"""The rehearsal cloud's time, which can run faster than real time, so that waits of minutes take seconds."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from dogbreed.run_folder import write_json

_STEP_S = 0.05  # between two looks at whether a wait must end early
_MOST_EARLIER = 100  # rates that are remembered: what they were for is over soon


class Clock:
    """Seconds that pass `rate` times as fast as real ones.

    Waits, periods of metrics and the time until a schedule is due are measured with it. Time stamps that a client sees
    are real. The rate stays until a client sets another one; file: keeps it over a restart.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        moment = time.time()
        self.rate, self._real, self._shown = 1.0, moment, moment
        self._earlier: deque[tuple[float, float, float]] = deque(maxlen=_MOST_EARLIER)  # rate, real, shown

    def load(self) -> None:
        if self._file.exists():
            saved = json.loads(self._file.read_bytes())
            self.rate, self._real, self._shown = saved["rate"], saved["real"], saved["shown"]

    def now(self) -> float:
        return self.at(time.time())

    def at(self, moment: float) -> float:
        """Return what the clock shows at a real moment, in seconds since 1970."""
        with self._lock:
            return self._shown + (moment - self._real) * self.rate

    def real(self, shown: float) -> float:
        """Return the real moment at which the clock shows this, or showed it at an earlier rate."""
        with self._lock:
            rate, real, began = self.rate, self._real, self._shown
            for earlier in reversed(self._earlier):
                if shown >= began:
                    break
                rate, real, began = earlier
            return real + (shown - began) / rate

    def set_rate(self, rate: float) -> None:
        """Go on from what the clock shows now, at another speed."""
        with self._lock:
            if rate == self.rate:
                return
            moment = time.time()
            shown = self._shown + (moment - self._real) * self.rate
            self._earlier.append((self.rate, self._real, self._shown))
            self.rate, self._real, self._shown = rate, moment, shown
            write_json(self._file, {"rate": rate, "real": moment, "shown": shown})

    def wait(self, seconds: float, ended: Callable[[], bool] = lambda: False) -> bool:
        """Wait, and return False if `ended` became true meanwhile."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            if ended():
                return False
            time.sleep(min(_STEP_S, left / self.rate))
        return not ended()
