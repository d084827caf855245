"""Choose the best of several epochs, of one run or of a search's trials. Loads no torch.

The monitored metric decides. Of epochs with exactly the same value, which are common in a small validation set, the one
with the lower validation loss is better, and of those with the same loss the later one, which is trained more.
"""

import math
from collections.abc import Mapping, Sequence

LOSS = "val/loss"
MONITORS = ("val/acc", "val/top5", "val/f1", LOSS, "val/ece")  # what can be monitored, recorded after each epoch


def merit(value: float, *, loss: float, epoch: float, mode: str) -> tuple[float, float, float]:
    """Return a key for sorting: the larger, the better.

    value: of the monitored metric. mode: its better direction, `max` or `min`. loss: the validation loss; one that is
    not finite is the worst. A value that is not a number is worse than all others.
    """
    signed = value if mode == "max" else -value
    return -math.inf if math.isnan(signed) else signed, -loss if math.isfinite(loss) else -math.inf, epoch


def best_row(rows: Sequence[Mapping[str, float]], monitor: str, mode: str) -> Mapping[str, float]:
    """Return the best of a run's epochs. rows: one or more of metrics.csv, each with `epoch` and `monitor`."""
    return max(
        rows,
        key=lambda row: merit(row.get(monitor, math.nan), loss=row.get(LOSS, math.inf), epoch=row["epoch"], mode=mode),
    )
