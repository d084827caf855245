"""Durations, dollars, paths and tables of results as people read them."""

import os
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path


def shown_path(path: Path) -> str:
    """`path` as a person would type it here: relative where that is shorter."""
    try:
        relative = os.path.relpath(path)
    except (ValueError, OSError):  # another drive; or the current folder is gone
        return str(path)
    return min(relative, str(path), key=len)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _share(value: float) -> str:
    return f"{value:.4f}"


_SHOWN: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "val/acc": ("val/acc", "share of the validation photos named right", _share),
    "test/acc": ("test/acc", "share of the test photos named right", _share),
    "test/top5": ("test/top5", "right breed among the first five guesses", _share),
    "test/f1": ("test/f1", "macro F1: every breed counts the same", _share),
    "test/ece": ("test/ece", "calibration error: how far off its probabilities are", _share),
    "train/images_per_s": ("images/s", "trained on, each second", lambda value: f"{value:.1f}"),
    "train/data_wait": ("waiting", "share of the training that waited for data", lambda value: f"{value:.1%}"),
    "train/efficiency": ("efficiency", "share of a step that did not wait for other processes", "{:.1%}".format),
    "train/seconds": ("duration", "of the training", _duration),
}


def result_table(metrics: Mapping[str, float]) -> str:
    """Return the main numbers of a run as a table, at most 80 columns wide."""
    from rich.console import Console  # here: rich costs a tenth of a second, and most commands show no result
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column()
    for key, (name, explained, show) in _SHOWN.items():
        if key in metrics:
            table.add_row(name, show(metrics[key]), explained)
    output = StringIO()
    Console(file=output, width=80, color_system=None, force_terminal=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def usd(amount: float) -> str:
    """Three digits of what is small: $0.00248, $0.115, $12.30."""
    if amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.3g}" if amount >= 0.0001 else "less than $0.0001"
