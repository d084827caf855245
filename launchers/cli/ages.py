"""Durations as people type them: 90s, 10m, 6h, 2d, 1w."""

import argparse
import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """Read a duration, for argparse. Raises ArgumentTypeError if it is none."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; try 90s, 10m, 6h, 2d or 1w")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})
