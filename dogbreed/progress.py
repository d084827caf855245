"""Format and parse the lines that a run prints about its progress.

    epoch 2/10  train loss 2.13 acc 81.1%  val loss 1.76 acc 61.9%  12615 images/s  0 s
    trial 3  0.5639  pruned after epoch 4  2.1 s  best so far 0.8797 (trial 2)
    val/acc    0.8170   share of the validation photos classified correctly

Loads no torch.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

# A run's numbers as regular expressions over its log, for SageMaker's metric definitions. A loss that is not finite
# matches none of them: CloudWatch accepts no such number. No pattern has a ^, because AWS does not document whether it
# matches the start of a line there.
METRIC_PATTERNS = {
    "train/loss": r"train loss ([0-9.]+)",
    "val/loss": r"val loss ([0-9.]+)",
    "val/acc_percent": r"val loss [0-9.]+ acc ([0-9.]+)%",
    "val/acc": r"val/acc +([0-9.]+)",
    "test/acc": r"test/acc +([0-9.]+)",
    "images_per_s": r" ([0-9.]+) images/s",
}
_NUMBER = r"-?(?:\d+(?:\.\d+)?|nan|inf)"


@dataclass(frozen=True)
class Epoch:
    """The line of one epoch, numbered from 1. Accuracies and efficiency are shares from 0 to 1.

    efficiency: of several processes; None if it was not measured.
    """

    epoch: int
    epochs: int
    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float
    images_per_s: float
    seconds: float
    processes: int = 1
    efficiency: float | None = None

    def __str__(self) -> str:
        together = f" by {self.processes} processes" if self.processes > 1 else ""
        if self.efficiency is not None:
            together += f", {self.efficiency:.0%} efficiency"
        return (
            f"epoch {self.epoch}/{self.epochs}"
            f"  train loss {self.train_loss:.2f} acc {100 * self.train_acc:.1f}%"
            f"  val loss {self.val_loss:.2f} acc {100 * self.val_acc:.1f}%"
            f"  {self.images_per_s:.0f} images/s{together}  {self.seconds:.0f} s"
        )

    @classmethod
    def find(cls, text: str) -> Self | None:
        """Parse the epoch from a line of a log, with the printed digits; return None for any other line."""
        found = _EPOCH.search(text)
        if found is None:
            return None
        return cls(
            epoch=int(found["epoch"]),
            epochs=int(found["epochs"]),
            train_loss=float(found["train_loss"]),
            train_acc=float(found["train_acc"]) / 100,
            val_loss=float(found["val_loss"]),
            val_acc=float(found["val_acc"]) / 100,
            images_per_s=float(found["images_per_s"]),
            seconds=float(found["seconds"]),
            processes=int(found["processes"] or 1),
            efficiency=None if found["efficiency"] is None else float(found["efficiency"]) / 100,
        )


_EPOCH = re.compile(
    r"\bepoch (?P<epoch>\d+)/(?P<epochs>\d+)"
    rf"  train loss (?P<train_loss>{_NUMBER}) acc (?P<train_acc>{_NUMBER})%"
    rf"  val loss (?P<val_loss>{_NUMBER}) acc (?P<val_acc>{_NUMBER})%"
    rf"  (?P<images_per_s>{_NUMBER}) images/s(?: by (?P<processes>\d+) processes)?"
    rf"(?:, (?P<efficiency>{_NUMBER})% efficiency)?  (?P<seconds>{_NUMBER}) s"
)


@dataclass(frozen=True)
class TrialEnd:
    """The line of a finished trial of a search. value: of the objective; None if there is none.

    outcome: empty for a complete trial, otherwise for example `failed`. best, best_trial: the best value so far and its
    trial.
    """

    number: int
    value: float | None
    outcome: str
    seconds: float
    best: float | None = None
    best_trial: int | None = None

    def __str__(self) -> str:
        value = "" if self.value is None else f"  {self.value:.4f}"
        outcome = f"  {self.outcome}" if self.outcome else ""
        best = "" if self.best is None else f"  best so far {self.best:.4f} (trial {self.best_trial})"
        return f"trial {self.number}{value}{outcome}  {self.seconds:.1f} s{best}"

    @classmethod
    def find(cls, text: str) -> Self | None:
        """Parse the trial from a line of a log, with the printed digits; return None for any other line."""
        found = _TRIAL.match(text)
        if found is None:
            return None
        return cls(
            number=int(found["number"]),
            value=None if found["value"] is None else float(found["value"]),
            outcome=found["outcome"] or "",
            seconds=float(found["seconds"]),
            best=None if found["best"] is None else float(found["best"]),
            best_trial=None if found["best_trial"] is None else int(found["best_trial"]),
        )


_TRIAL = re.compile(
    rf"trial (?P<number>\d+)(?:  (?P<value>{_NUMBER}))?(?:  (?P<outcome>failed|pruned after epoch \d+))?"
    rf"  (?P<seconds>{_NUMBER}) s(?:  best so far (?P<best>{_NUMBER}) \(trial (?P<best_trial>\d+)\))?"
)


def result_table(metrics: Mapping[str, float]) -> str:
    """Format the main metrics of a run as a table, at most 80 columns wide. metrics: as in metrics.json."""
    rows = [(name, show(metrics[key]), about) for key, (name, show, about) in _RESULTS.items() if key in metrics]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {about}" for name, value, about in rows)


def is_result_row(text: str) -> bool:
    """Return whether a line of a log is a row of the table that a run prints at the end."""
    return _RESULT_ROW.match(text) is not None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


_RESULTS: Mapping[str, tuple[str, Callable[[float], str], str]] = {  # key: name, how to print it, what it is
    "val/acc": ("val/acc", "{:.4f}".format, "share of the validation photos classified correctly"),
    "test/acc": ("test/acc", "{:.4f}".format, "share of the test photos classified correctly"),
    "test/acc_without_copies": (
        "test/own",
        "{:.4f}".format,
        "the same, without test photos that are in train or valid",
    ),
    "test/top5": ("test/top5", "{:.4f}".format, "correct class among the five most probable"),
    "test/f1": ("test/f1", "{:.4f}".format, "macro F1: every class counts equally"),
    "test/ece": ("test/ece", "{:.4f}".format, "calibration error: how far off the probabilities are"),
    "train/images_per_s": ("images/s", "{:.1f}".format, "training speed"),
    "train/data_wait": ("waiting", "{:.1%}".format, "share of the training time spent waiting for data"),
    "train/efficiency": ("efficiency", "{:.1%}".format, "share of a step not spent waiting for other processes"),
    "train/seconds": ("duration", _duration, "training time"),
}
_RESULT_ROW = re.compile(rf"(?:{'|'.join(name for name, _, _ in _RESULTS.values())}) {{2,}}\S.* {{2,}}\S")
