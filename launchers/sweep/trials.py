"""A trial as the study has it, and what has become of all of them."""

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
    """One trial as the study has it. value: of the objective; for a pruned one after its last epoch. cause: of a
    failure, in words. seconds: so far, or from start to end.
    """

    number: int
    state: State
    values: Mapping[str, Value]  # of the parameters
    value: float | None
    cause: str
    seconds: float
    epochs: int  # trained, as far as it has been said
    folder: str  # of its run, where it is known

    @property
    def finished(self) -> bool:
        return self.state in ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Counts:
    """Trials by what has become of them; `running` only counts those whose sweeper lives."""

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
