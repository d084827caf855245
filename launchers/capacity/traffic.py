"""Traffic to plan for: read from a trace, or generated."""

import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dogbreed.errors import DataError
from launchers.capacity.simulation import Traffic

if TYPE_CHECKING:
    import numpy as np

Shape = Literal["steady", "daily", "weekly", "burst", "flash"]
SHAPES: tuple[Shape, ...] = ("steady", "daily", "weekly", "burst", "flash")
HOURS: dict[Shape, float] = {"steady": 24, "daily": 24, "weekly": 168, "burst": 70 / 60, "flash": 2}
CYCLES: dict[Shape, int] = {"daily": 24, "weekly": 168}  # hours, which begin at midnight: a part has another mean
MOST_REQUESTS = 5_000_000
GAP = 20  # times the usual distance between two counts, or a tenth of the trace, without a request: worth a note

_BIN_S = 10.0
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # above which a number is in another unit than seconds, and its share
_TIMES = ("timestamp", "timestamps", "time", "datetime", "date", "ts", "at", "requested_at")
_NAMED_MS = tuple(f"{name}_ms" for name in _TIMES)
_COUNTS = ("count", "counts", "requests", "invocations", "sum", "value", "values")
_WEEKEND = 0.4  # of a working day's traffic
_WORKDAY = 7 / (5 + 2 * _WEEKEND)  # of the mean of a week
_SHARPEST = 1e5  # power of a day's curve: most of its traffic is within four minutes
_FORMS = (
    "a CSV file with a column of timestamps (one row for each request), or of timestamps and counts, or the JSON of "
    "`aws cloudwatch get-metric-data`"
)


@dataclass(frozen=True)
class Trace:
    """Requests by time. at: seconds from the first, ascending. end_s: how long it lasts. notes: what was assumed."""

    at: "np.ndarray"
    end_s: float
    notes: tuple[str, ...] = ()

    @property
    def mean_rps(self) -> float:
        return len(self.at) / self.end_s

    def peak_rps(self, over_s: float = 60.0) -> float:
        """Return the mean rate in the busiest window of this length."""
        import numpy as np

        width = min(over_s, self.end_s)
        counts = np.bincount((self.at / width).astype(int))
        return float(counts.max()) / width

    def busiest(self, span_s: float) -> "Trace":
        """Return the busiest part of this length, as a trace of its own."""
        import numpy as np

        if span_s >= self.end_s:
            return self
        last = np.searchsorted(self.at, self.at + span_s)
        first = int(np.argmax(last - np.arange(len(self.at))))
        begin = min(float(self.at[first]), self.end_s - span_s)
        inside = self.at[(self.at >= begin) & (self.at < begin + span_s)]
        return Trace(inside - begin, span_s)

    def traffic(self, service_s: Sequence[float], seed: int) -> Traffic:
        """Give each request a service time, drawn from `service_s`."""
        import numpy as np

        drawn = np.random.default_rng([seed, 1]).choice(np.asarray(service_s, float), len(self.at))
        return Traffic(self.at.tolist(), drawn.tolist(), self.end_s)


def generate(rps: float, peak: float | None, shape: Shape, hours: float, seed: int) -> Trace:
    """Draw requests at random around a rate that changes with time.

    rps: the mean rate; of a burst and of a flash crowd, the rate before and after it. peak: the highest rate; of a week
    it is at least what working days need. Raises DataError if the peak is below the mean or too far above it, for a
    part of a day or a week, or if there would be more than MOST_REQUESTS.
    """
    import numpy as np

    if not 0 < rps < math.inf:
        raise DataError(f"--rps must be above 0, got {rps:g}.")
    if peak is not None and not math.isfinite(peak):
        raise DataError(f"--peak must be a number of requests per second, got {peak:g}.\nTry: --peak {rps * 4:g}")
    if peak is not None and peak < rps:
        raise DataError(f"The peak of {peak:g} requests/s is below the mean of {rps:g}.\nTry: --peak {rps:g} or more")
    if not 0 < hours < math.inf:
        raise DataError(f"--hours must be above 0, got {hours:g}.")
    highest, notes = rps if peak is None else peak, []
    if shape == "weekly" and highest < rps * _WORKDAY:
        highest = rps * _WORKDAY
        if peak is not None:
            notes.append(f"Working days have {highest:.3g} requests/s, since weekends have {_WEEKEND:.0%} of that.")
    if hours < CYCLES.get(shape, 0):
        raise DataError(
            f"--hours {hours:g} is less than the {CYCLES[shape]} of --shape {shape}, and the traffic of a part of them "
            f"is not that of the whole.\nTry: {_instead(shape, rps, highest, hours)}"
        )
    starts, widths, rates = _bins(shape, rps, highest, hours)
    if (expected := float((rates * widths).sum())) > MOST_REQUESTS:
        raise DataError(
            f"These are {expected:,.0f} requests, more than the {MOST_REQUESTS:,} that are simulated.\n"
            f"Try: {_instead(shape, rps, highest, hours)}"
        )
    rng = np.random.default_rng([seed, 0])
    counts = rng.poisson(rates * widths)
    if not counts.sum():
        raise DataError(
            f"No request falls into {hours:g} h at {rps:g} requests/s.\nTry: --hours {hours + 10 / rps / 3600:.3g}"
        )
    at = np.repeat(starts, counts) + rng.random(int(counts.sum())) * np.repeat(widths, counts)
    return Trace(np.sort(at), hours * 3600, tuple(notes))


def _bins(shape: Shape, rps: float, peak: float, hours: float) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Return the beginnings of short periods, their seconds, and the rate in each."""
    import numpy as np

    starts = np.arange(0, hours * 3600, _BIN_S)
    widths = np.minimum(_BIN_S, hours * 3600 - starts)
    return starts, widths, _rates(shape, rps, peak, hours * 3600)(starts + widths / 2)


def _instead(shape: Shape, rps: float, peak: float, hours: float) -> str:
    """Return options with which the traffic is neither too long nor a part of a day or a week."""
    cycle = CYCLES.get(shape, 0)
    if (fits := _fitting(shape, rps, peak, max(hours, cycle))) >= cycle:
        whole = f"--hours {fits - fits % cycle if cycle else fits:g}"
        return whole if hours >= cycle else f"{whole}, or --shape burst --hours {_fitting('burst', rps, peak, hours):g}"
    return f"--shape burst --hours {_fitting('burst', rps, peak, HOURS['burst']):g}"


def _fitting(shape: Shape, rps: float, peak: float, hours: float) -> float:
    """Return so many hours, or as many of them as have at most MOST_REQUESTS, rounded down."""
    while True:
        _, widths, rates = _bins(shape, rps, peak, hours)
        if (expected := float((rates * widths).sum())) <= MOST_REQUESTS:
            return hours
        hours *= MOST_REQUESTS / expected
        digit = 10.0 ** (math.floor(math.log10(hours)) - 2)
        hours = float(f"{(math.ceil(hours / digit) - 1) * digit:.3g}")


def _rates(shape: Shape, rps: float, peak: float, end_s: float) -> "Callable[[np.ndarray], np.ndarray]":
    """Return the function from seconds to requests per second."""
    import numpy as np

    day = 86_400.0
    if shape == "steady":
        return lambda at: np.full_like(at, rps)
    if shape == "burst":
        begin, length = end_s * 20 / 70, end_s * 30 / 70
        return lambda at: np.where((at >= begin) & (at < begin + length), peak, rps)
    if shape == "flash":
        begin = end_s / 4
        return lambda at: np.where(
            at < begin, rps, rps + (peak - rps) * np.exp(-np.maximum(at - begin, 0) / (end_s / 8))
        )
    hours = np.arange(0, day, 60.0)
    lowest = 0.1 * rps
    mean = rps * (_WORKDAY if shape == "weekly" else 1.0)
    power = _power(hours, (mean - lowest) / (peak - lowest))
    if shape == "weekly":
        return lambda at: (lowest + (peak - lowest) * _hump(at, power)) * np.where(at // day % 7 < 5, 1.0, _WEEKEND)
    return lambda at: lowest + (peak - lowest) * _hump(at, power)


def _hump(at: "np.ndarray", power: float) -> "np.ndarray":
    """Return a curve from 0 to 1 and back within a day, highest at noon; the larger the power, the narrower."""
    import numpy as np

    return ((1 - np.cos(2 * math.pi * at / 86_400.0)) / 2) ** power


def _power(at: "np.ndarray", mean: float) -> float:
    """Return the power with which a day's curve has this mean, from 0 to 1. Raises DataError if none is so narrow."""
    low, high = 0.0, _SHARPEST
    if mean < (least := float(_hump(at, high).mean())):
        raise DataError(
            "The peak is too far above --rps for the curve of a day, whose peak is at most "
            f"{0.9 / least:.0f} times its mean.\n"
            "Try: --shape burst"
        )
    for _ in range(60):
        middle = (low + high) / 2
        if _hump(at, middle).mean() > mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2


# --- traces ---


def read(path: Path, seed: int) -> Trace:
    """Read a trace: a CSV of timestamps or of timestamps and counts, or CloudWatch's JSON.

    Times may be ISO 8601, or seconds or milliseconds since 1970 or since the beginning. Requests of a count are spread
    at random over its period. Raises DataError saying what cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the trace {path}: {error}\nTry: {_FORMS}") from error
    if not text.strip():
        raise DataError(f"The trace {path} is empty.\nTry: {_FORMS}")
    aligned = text.lstrip().startswith(("{", "["))
    times, counts = _of_cloudwatch(path, text) if aligned else _of_csv(path, text)
    return _of_requests(path, times) if counts is None else _spread(path, times, counts, seed, aligned)


def _of_requests(path: Path, times: list[float]) -> Trace:
    import numpy as np

    at = np.asarray(times) - times[0]
    back = np.flatnonzero(np.diff(at) < 0)
    if len(back):
        row = int(back[0]) + 2
        raise DataError(
            f"The times in {path} go backwards, first at request {row}: from {at[row - 2]:g} s after the first to "
            f"{at[row - 1]:g} s.\nTry: sort the rows by time"
        )
    end_s = float(at[-1])
    if end_s <= 0:
        raise DataError(f"All requests in {path} have the same time.\nTry: times with at least a second between them")
    gap = float(np.diff(at).max())
    notes = [f"The longest time without a request is {gap:,.0f} s."] if gap > max(end_s / 10, 60) else []
    return Trace(at, end_s, tuple(notes))


def _spread(path: Path, times: list[float], counts: list[float], seed: int, aligned: bool) -> Trace:
    """aligned: whether all times are multiples of the period, as CloudWatch's are, which leaves out most empty ones."""
    import numpy as np

    order = np.argsort(times, kind="stable")
    at, many = np.asarray(times)[order], np.asarray(counts)[order]
    if len(at) < 2:
        raise DataError(f"{path} has one count alone, so its period is unknown.\nTry: at least two rows")
    if (np.diff(at) <= 0).any():
        twice = at[:-1][np.diff(at) <= 0][0]
        raise DataError(f"{path} has two counts for one time ({_shown_time(twice)}).\nTry: one row for each period")
    period = float(math.gcd(*np.rint(np.diff(at)).astype(int).tolist()) if aligned else 0) or float(
        np.median(np.diff(at))
    )
    gaps = int((np.diff(at) > GAP * period).sum())
    missing = round(float((np.diff(at) / period - 1).clip(0).sum()))
    notes = []
    if missing:
        said = (
            "1 period of {:g} s has no count, and is"
            if missing == 1
            else f"{missing} periods of {{:g}} s have no count, and are"
        )
        notes.append(f"{said.format(period)} taken as without requests.")
    if gaps:
        notes.append(f"{gaps} gap{' is' if gaps == 1 else 's are'} longer than {GAP} periods.")
    whole = np.rint(many).astype(int)
    if not whole.sum():
        raise DataError(f"{path} counts no requests at all.")
    if whole.sum() > MOST_REQUESTS:
        raise DataError(f"{path} has {whole.sum():,} requests, more than the {MOST_REQUESTS:,} that are simulated.")
    rng = np.random.default_rng([seed, 0])
    spread = np.repeat(at - at[0], whole) + rng.random(int(whole.sum())) * period
    return Trace(np.sort(spread), float(at[-1] - at[0]) + period, tuple(notes))


def _of_cloudwatch(path: Path, text: str) -> tuple[list[float], list[float] | None]:
    try:
        found = json.loads(text)
        results = found["MetricDataResults"] if isinstance(found, dict) else found
        pairs = [
            (stamp, value) for one in results for stamp, value in zip(one["Timestamps"], one["Values"], strict=True)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not the JSON of get-metric-data: {type(error).__name__}: {error}\nTry: {_FORMS}"
        ) from error
    if len(results) > 1:
        names = ", ".join(str(one.get("Label", one.get("Id", "?"))) for one in results)
        raise DataError(f"{path} has {len(results)} metrics ({names}); which are the requests?\nTry: keep one of them")
    if not pairs:
        raise DataError(f"{path} has no data points.\nTry: a longer time range")
    values = [float(value) for _, value in pairs]
    _check_counts(path, values)
    return [_time(path, str(stamp), row) for row, (stamp, _) in enumerate(pairs, 1)], values


def _of_csv(path: Path, text: str) -> tuple[list[float], list[float] | None]:
    sample = text[:4096]
    delimiter = max(",;\t", key=sample.count)
    rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in row)]
    head = [cell.strip().lower() for cell in rows[0]]
    named = all(_parsed(cell) is None for cell in head)
    rows = rows[1:] if named else rows
    if not rows:
        raise DataError(f"The trace {path} has a header and no rows.\nTry: {_FORMS}")
    if named:
        time_column = next((head.index(name) for name in (*_TIMES, *_NAMED_MS) if name in head), None)
        count_column = next((head.index(name) for name in _COUNTS if name in head), None)
        if time_column is None:
            raise DataError(
                f"No column of {path} is known to hold times; its columns are {', '.join(head)}.\n"
                f"Try: name it timestamp, and the counts, if there are any, count"
            )
    else:
        widths = {len(row) for row in rows}
        if widths - {1, 2}:
            raise DataError(
                f"{path} has {max(widths)} columns without names, so which one holds the times is unknown.\n"
                "Try: a first row with names such as timestamp,count"
            )
        time_column, count_column = 0, 1 if widths == {2} else None
    first = 2 if named else 1
    try:
        stamps = [row[time_column].strip() for row in rows]
        numbers = None if count_column is None else [row[count_column].strip() for row in rows]
    except IndexError:
        raise DataError(
            f"Rows of {path} have different numbers of columns.\nTry: the same columns in each row"
        ) from None
    unit = 1e3 if named and head[time_column] in _NAMED_MS else 1.0
    times = [_time(path, stamp, row, unit) for row, stamp in enumerate(stamps, first)]
    if numbers is None:
        return times, None
    counts = []
    for row, number in enumerate(numbers, first):
        try:
            counts.append(float(number))
        except ValueError:
            raise DataError(f"Row {row} of {path} has the count {number!r}, which is not a number.") from None
    _check_counts(path, counts)
    return times, counts


def _check_counts(path: Path, counts: list[float]) -> None:
    bad = next((value for value in counts if not (value >= 0 and math.isfinite(value))), None)
    if bad is not None:
        raise DataError(f"{path} has a count of {bad:g}.\nTry: counts of 0 or more")


def _time(path: Path, text: str, row: int, unit: float = 1.0) -> float:
    value = _parsed(text, unit)
    if value is None:
        raise DataError(
            f"Row {row} of {path} has the time {text!r}.\n"
            "Try: ISO 8601 such as 2026-11-29T08:30:00Z, or seconds or milliseconds since 1970"
        )
    return value


def _parsed(text: str, unit: float = 1.0) -> float | None:
    """Return a time in seconds; None if it is none. Large numbers are milliseconds, microseconds or nanoseconds since
    1970: as seconds they would be of the year 5138 and later. unit: of smaller ones, how many are a second.
    """
    if re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text):
        number = float(text)
        if not math.isfinite(number):
            return None
        return number / next((unit for least, unit in _UNITS if number > least), unit)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _shown_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds > 1e8 else f"{seconds:g}"
