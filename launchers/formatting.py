"""Dollars and paths as people read them."""

import os
from pathlib import Path


def shown_path(path: Path) -> str:
    """`path` as a person would type it here: relative where that is shorter."""
    try:
        relative = os.path.relpath(path)
    except (ValueError, OSError):  # another drive; or the current folder is gone
        return str(path)
    return min(relative, str(path), key=len)


def usd(amount: float) -> str:
    """Three digits of what is small: $0.00248, $0.115, $12.30."""
    if amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.3g}" if amount >= 0.0001 else "less than $0.0001"
