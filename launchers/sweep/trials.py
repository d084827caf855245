"""A trial as the study records it, and the number of trials by outcome."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from launchers.runs.search_folder import Value

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

State = Literal["complete", "pruned", "failed", "running", "waiting"]
CAUSE, FOLDER, EPOCHS = "cause", "folder", "epochs"  # attributes of a trial in the database


@dataclass(frozen=True)
class Trial:
    """One trial as the study records it.

    value: the objective; for a pruned trial that of its last epoch. cause: why it failed, in words. seconds: its
    duration, so far if it is running.
    """

    number: int
    state: State
    values: Mapping[str, Value]  # of the parameters
    value: float | None
    cause: str
    seconds: float
    epochs: int  # trained, as far as they have been reported
    folder: str  # of its run; "" if unknown

    @property
    def finished(self) -> bool:
        return self.state in ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Counts:
    """Numbers of trials by state; `running` counts only those whose sweeper is alive."""

    complete: int
    pruned: int
    failed: int
    running: int

    @property
    def finished(self) -> int:
        return self.complete + self.pruned + self.failed


def trial_of(frozen: "FrozenTrial") -> Trial:
    from datetime import datetime

    begun, ended = frozen.datetime_start, frozen.datetime_complete or datetime.now()
    states: dict[str, State] = {
        "COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"
    }  # fmt: skip
    state = states[frozen.state.name]
    return Trial(
        frozen.number,
        state,
        dict(frozen.params),
        frozen.value if state in ("complete", "pruned") else None,
        str(frozen.user_attrs.get(CAUSE, "")),
        (ended - begun).total_seconds() if begun and state != "waiting" else 0.0,
        int(frozen.user_attrs.get(EPOCHS, max(frozen.intermediate_values, default=0))),
        str(frozen.user_attrs.get(FOLDER, "")),
    )
