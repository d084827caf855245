"""What a run may cost and how long it may take: the settings `limits`, as seconds of its machines.

A launcher passes these seconds to its cloud, which ends the run by itself. The worst case is the price on demand of all
machines for that time and for what ending takes, so it stays within the limit whatever happens.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from launchers import formatting
from launchers.cost.prices import Instance

MAX_ATTEMPTS = 10  # by default


@dataclass(frozen=True)
class Overhead:
    """Seconds of machines that are paid besides training.

    start_s: before the first step; less than that is money for nothing. ending_s: after the limit, to save and upload.
    kept_s: after the end, while machines are kept for the next run. ending: what ending_s is for, as people read it.
    """

    start_s: float
    ending_s: float
    kept_s: float = 0.0
    ending: str = "saving and ending"

    @property
    def least_s(self) -> float:
        """The shortest time that is worth paying for."""
        return self.start_s + self.ending_s + self.kept_s


@dataclass(frozen=True)
class Limits:
    """Limits of a run, or of a search as a whole.

    max_usd: what all its jobs together may cost. max_hours: how long one submission may take, waiting included.
    max_attempts: machines that it may have one after the other, where the launcher starts them. None: no limit.
    """

    max_usd: float | None = None
    max_hours: float | None = None
    max_attempts: int = MAX_ATTEMPTS

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read the config of a run, whose problems `findings` yields; a value that is none limits nothing."""
        node = config.get("limits") or {}
        amounts: dict[str, Any] = {
            key: float(node[key]) for key in ("max_usd", "max_hours") if _is_amount(node.get(key))
        }
        if _is_count(attempts := node.get("max_attempts")):
            amounts["max_attempts"] = attempts
        return cls(**amounts)

    def less(self, spent_usd: float) -> Self:
        """Return what is left of the limits after earlier jobs."""
        return self if self.max_usd is None else replace(self, max_usd=self.max_usd - spent_usd)

    def bound(self, usd_per_hour: float | None, overhead: Overhead) -> "Bound | None":
        """Return how long the machines may run until they are told to end; None without a limit.

        usd_per_hour: of all machines together; None if it is not known.
        """
        bounds = []
        if self.max_usd is not None and usd_per_hour:
            left_s = seconds_for(self.max_usd, usd_per_hour) - overhead.ending_s - overhead.kept_s
            bounds.append(Bound(math.floor(left_s), f"limits.max_usd={_shown(self.max_usd)}"))
        if self.max_hours is not None:
            left_s = 3600 * self.max_hours - overhead.ending_s
            bounds.append(Bound(math.floor(left_s), f"limits.max_hours={_shown(self.max_hours)}"))
        return min(bounds, key=lambda each: each.seconds, default=None)


@dataclass(frozen=True)
class Bound:
    """A time after which machines are told to end, and the limit that it comes from, as typed.

    seconds: may be negative, if the limit does not even pay for starting and ending.
    """

    seconds: int
    limit: str


def findings(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the limits themselves."""
    node = config.get("limits") or {}
    for key, example in (("max_usd", "5"), ("max_hours", "4")):
        value = node.get(key)
        if value is not None and not _is_amount(value):
            yield f"limits.{key} must be a number above 0, or null, got {value!r}.\nTry: limits.{key}={example}"
    if not _is_count(attempts := node.get("max_attempts", MAX_ATTEMPTS)):
        yield (
            f"limits.max_attempts must be a whole number of at least 1, got {attempts!r}.\n"
            f"Try: limits.max_attempts={MAX_ATTEMPTS}"
        )


def fit_findings(
    limits: Limits,
    machines: str,
    usd_per_hour: float | None,
    overhead: Overhead,
    *,
    spent_usd: float = 0.0,
    spender: str = "Earlier jobs of the run have",
) -> Iterator[str]:
    """Yield why no run on these machines fits into the limits, with the arithmetic.

    machines: as people read them. usd_per_hour: of all of them; None if it is not known. spent_usd: by spender.
    """
    left = limits.less(spent_usd)
    if left.max_usd is not None and usd_per_hour is None:
        yield (
            f"limits.max_usd={_shown(limits.max_usd)} cannot be held: launchers/cost/prices.yaml has no price for "
            f"{machines}.\nTry: limits.max_hours=1, or a type that `python -m launchers prices` lists"
        )
    elif left.max_usd is not None and usd_per_hour and seconds_for(left.max_usd, usd_per_hour) < overhead.least_s:
        least_usd = overhead.least_s / 3600 * usd_per_hour
        enough = _rounded_up(spent_usd + least_usd, step=10.0 ** (math.floor(math.log10(least_usd)) - 1))
        spent = f"{spender} cost {formatting.usd(spent_usd)}. " if spent_usd else ""
        bought = formatting.duration(max(0.0, seconds_for(left.max_usd, usd_per_hour)))
        yield (
            f"limits.max_usd={_shown(limits.max_usd)} is not enough for {machines}. {spent}At "
            f"{formatting.usd(usd_per_hour)} an hour\n{'what is left' if spent_usd else 'it'} buys {bought}, "
            f"and {_parts(overhead)}: {formatting.usd(least_usd)}.\nTry: limits.max_usd={enough}"
        )
    if left.max_hours is not None and 3600 * left.max_hours < overhead.start_s + overhead.ending_s:
        yield (
            f"limits.max_hours={_shown(left.max_hours)} is {formatting.duration(3600 * left.max_hours)}, and "
            f"{_parts(replace(overhead, kept_s=0))}.\nTry: limits.max_hours=1"
        )


def _parts(overhead: Overhead) -> str:
    parts = [f"{overhead.start_s:g} s go to starting", f"{overhead.ending_s:.5g} s to {overhead.ending}"]
    if overhead.kept_s:
        parts.append(f"{overhead.kept_s:g} s to keeping the machine (launcher.keep_alive_s)")
    return " and ".join([", ".join(parts[:-1]), parts[-1]])


def seconds_for(usd: float, usd_per_hour: float) -> float:
    """Return how long machines can be paid for; less by a hair, so that rounding never makes it cost more."""
    return usd / usd_per_hour * 3600 * (1 - 1e-12)


def usd_of(row: Instance | None, instances: int) -> float | None:
    """Return what the machines of a run cost by the hour, together; None without a price."""
    return None if row is None else row.usd * instances


def _rounded_up(usd: float, step: float) -> str:
    """Return a multiple of a step that is above `usd`, by a hair at least: `seconds_for` takes one off."""
    return _shown(math.ceil(usd * (1 + 1e-9) / step) * step)


def _shown(amount: float | None) -> str:
    return f"{amount:.12g}"


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
