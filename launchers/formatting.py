"""Format dollars, durations and result files for people."""

from collections.abc import Mapping
from pathlib import Path

from dogbreed import commands
from dogbreed.commands import shown_path


def usd(amount: float) -> str:
    """Format US dollars, small amounts with three significant digits: $0.00248, $0.115, $12.30."""
    if amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.3g}" if amount >= 0.0001 else "less than $0.0001"


def duration(seconds: float) -> str:
    """Format seconds: less than 1 s, 42 s, 9.5 min, 75 min, 2.0 h."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    if seconds < 6000:
        return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
    return f"{seconds / 3600:.1f} h"


def counted(count: int, name: str) -> str:
    """Format a number of things: 1 slot, 2 slots."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Format a number of bytes: 120 bytes, 12 kB, 3.4 MB."""
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1e3:.0f} kB"


def result_files(artifacts: Mapping[str, Path], folder: Path) -> list[str]:
    """Return lines that say where the files of a run are, and what to try next."""
    names = {"report": "report", "best": "checkpoint", "model": "model", "metrics": "numbers"}
    files = [(name, artifacts[key]) for key, name in names.items() if key in artifacts]
    lines = [f"{name:<10}  {shown_path(path)}" for name, path in [*files, ("run folder", folder)]]
    if "model" in artifacts:
        here = shown_path(folder)
        predict, serve = commands.module("dogbreed.predict", here, "PHOTO"), commands.module("dogbreed.serving", here)
        lines += ["", f"Next: {predict}", f"or:   {serve}"]
    elif "best" in artifacts:
        lines += ["", f"Next: {commands.module('dogbreed.predict', shown_path(artifacts['best']), 'PHOTO')}"]
    return lines
