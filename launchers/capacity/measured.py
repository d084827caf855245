"""What a load test has measured: for people, and as a file from which the planner takes service times."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogbreed.errors import DataError
from dogbreed.load import Answer, Load, Timed
from dogbreed.run_folder import write_json

_REFUSALS = (429, 503)  # Lambda's, and those of an endpoint or a server that is full
_PASSED_ON = re.compile(r"server error \(503\)")  # in SageMaker's 424, which it makes of its container's 503
_LATE_S = 0.01  # of a request, up to which nobody calls it late
_LATE_SHARE = 0.1  # of the median latency, likewise
_BUSY = 0.8  # of one core, above which this program itself may be what is slow: Python runs one thread at a time


def refused(answer: Answer) -> bool:
    """Return whether a server would not take a request because it had too many."""
    return answer.status in _REFUSALS or (answer.status == 424 and _PASSED_ON.search(answer.words) is not None)


@dataclass(frozen=True)
class Measured:
    """A load test of `url`. clients: of a closed loop, 0 of an open one. rps: of an open loop, 0 of a closed one."""

    url: str
    load: Load
    clients: int = 0
    rps: float = 0.0

    @property
    def answered(self) -> list[Timed]:
        return [one for one in self.load.requests if 200 <= one.answer.status < 300]

    @property
    def refused_share(self) -> float:
        count = sum(refused(one.answer) for one in self.load.requests)
        return count / len(self.load.requests) if self.load.requests else 0.0

    @property
    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(one.answer.status for one in self.load.requests).items()))

    def percentile_s(self, percent: float) -> float:
        """Return the seconds within which this percentage of the answered requests was answered; NaN without any."""
        return _percentile([one.seconds for one in self.answered], percent)

    @property
    def service_s(self) -> tuple[list[float], str]:
        """Return the time that each answer took on the server, and where that is from.

        The server's own words where it has some. Otherwise the whole calls, which is the same if requests do not wait
        for each other.
        """
        answered = self.answered
        said = [one.answer.service_s for one in answered if one.answer.service_s]
        if answered and len(said) == len(answered):
            return said, "the server's own times, without waiting"
        whole = [one.seconds - one.late_s for one in answered]
        if self.clients == 1:
            return whole, "whole calls, one at a time"
        return whole, f"whole calls {self._loop}, which may contain waiting"

    @property
    def _loop(self) -> str:
        return f"of {self.clients} clients" if self.clients else f"at {self.rps:g} requests/s"

    @property
    def late_s(self) -> float:
        """The lateness that 99 % of the requests do not exceed; NaN without any."""
        return _percentile([one.late_s for one in self.load.requests], 99)

    @property
    def kept_pace(self) -> bool:
        """Whether this program sent the requests when they were due, and was not itself what is slow."""
        allowed = max(_LATE_S, _LATE_SHARE * self.percentile_s(50) if self.answered else 0.0)
        return self.late_s <= allowed and self.load.cpu <= _BUSY

    def facts(self) -> dict[str, Any]:
        """Return all of it, for programs: what `service_times` reads."""
        times, source = self.service_s
        found = self.load.requests
        return {
            "url": self.url,
            "loop": "closed" if self.clients else "open",
            "clients": self.clients or None,
            "rps": self.rps or None,
            "seconds": round(self.load.seconds, 3),
            "sent": len(found),
            "answered": len(self.answered),
            "refused": self.refused_share,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "answers_per_s": len(self.answered) / self.load.seconds,
            **{f"p{percent}_ms": _ms(self.percentile_s(percent)) for percent in (50, 95, 99)},
            "late_p99_ms": _ms(self.late_s),
            "generator_cpu": round(self.load.cpu, 3),
            "kept_pace": self.kept_pace,
            "service_from": source,
            "service_ms": [_ms(seconds) for seconds in times],
            "latency_ms": [_ms(one.seconds) for one in self.answered],
            "sent_at_s": [round(one.at_s, 6) for one in found],
        }

    def save(self, path: Path) -> None:
        write_json(path, self.facts())


def _ms(seconds: float) -> float | None:
    return round(1000 * seconds, 3) if math.isfinite(seconds) else None


def _percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile as numpy does, between two values in proportion; NaN without any."""
    if not values:
        return math.nan
    ranked, place = sorted(values), (len(values) - 1) * percent / 100
    low = int(place)
    return ranked[low] + (place - low) * (ranked[min(low + 1, len(ranked) - 1)] - ranked[low])


# --- its file, read again ---

_FORMS = (
    "the file of `python -m launchers loadtest --output`, or of `python -m dogbreed.benchmark serve --json`, or JSON "
    "with a list service_ms"
)


def service_times(path: Path) -> tuple[list[float], tuple[str, ...]]:
    """Return measured service times in seconds, and what is to be known of them.

    The file of a load test, that of the benchmark `serve`, another object with `service_ms`, or a list of milliseconds.
    Raises DataError.
    """
    try:
        found: Any = json.loads(path.read_text())
        if isinstance(found, dict) and "benchmarks" in found:
            found = _of_benchmark(found)
        given = found["service_ms"] if isinstance(found, dict) else found
        if not isinstance(given, list):
            raise TypeError("service_ms is not a list")
        times = [float(value) / 1000 for value in given]
    except KeyError as error:
        raise DataError(f"{path} has no {error.args[0]}.\nTry: {_FORMS}") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"Cannot read service times from {path}: {error}\nTry: {_FORMS}") from error
    if not times:
        raise DataError(f"{path} has no service times: nothing was answered.\nTry: another load test, or --service-ms")
    if not all(value > 0 and math.isfinite(value) for value in times):
        raise DataError(f"{path} has service times that are not above 0 ms.\nTry: {_FORMS}")
    return times, _notes(found) if isinstance(found, dict) else ()


def _of_benchmark(found: Mapping[str, Any]) -> dict[str, Any]:
    samples = found["benchmarks"]["serve"]["samples"]["ours"]
    times = [value for sample in samples for value in sample["service_ms"]]
    return {"service_ms": times, "service_from": "the benchmark of the server, one client"}


def _notes(found: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if "service_from" in found:
        count, middle = len(found["service_ms"]), _percentile(found["service_ms"], 50)
        notes.append(f"Service times: {count} measured, median {middle:.0f} ms; {found['service_from']}.")
    if found.get("kept_pace") is False:
        notes.append("The load test could not keep its pace, so these times may be too long.")
    return tuple(notes)
