"""A trial as the study records it, and the number of trials by outcome."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dogbreed.best_epoch import merit
from launchers.runs.search_folder import Value
from launchers.runs.searches import USD

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

State = Literal["complete", "pruned", "failed", "running", "waiting"]
CAUSE, FOLDER, EPOCHS = "cause", "folder", "epochs"  # attributes of a trial in the database
JOB = "job"  # the same, of a trial that ran elsewhere: its name there
VAL_LOSS, BEST_EPOCH = "val_loss", "best_epoch"  # the same, of its best epoch
GIVEN_USD = "given_usd"  # the same: what its run may cost


@dataclass(frozen=True)
class Trial:
    """One trial as the study records it.

    value: the objective; for a pruned trial that of its last epoch. cause: why it failed, in words. seconds: its
    duration, so far if it is running. val_loss, best_epoch: of its best epoch; infinite and 0 if they are not recorded.
    given_usd: the limits.max_usd of its run. usd: what that has cost, in a cloud. None if they are not recorded.
    """

    number: int
    state: State
    values: Mapping[str, Value]  # of the parameters
    value: float | None
    cause: str
    seconds: float
    epochs: int  # trained, as far as they have been reported
    folder: str  # of its run; "" if unknown
    val_loss: float = math.inf
    best_epoch: int = 0
    given_usd: float | None = None
    usd: float | None = None

    @property
    def finished(self) -> bool:
        return self.state in ("complete", "pruned", "failed")

    @property
    def reserved_usd(self) -> float:
        """What the trial has cost once it has ended, and until then what it may cost."""
        if self.finished and self.usd is not None:
            return self.usd
        return self.given_usd or 0.0

    def merit(self, mode: str) -> tuple[float, float, float, int]:
        """Return a key for sorting complete trials, the larger the better. mode: the better direction of the value.

        Equal trials are ordered like a run's epochs, by the rule in `dogbreed.best_epoch`, and then by their number, of
        which the first is the best.
        """
        value = math.nan if self.value is None else self.value
        return *merit(value, loss=self.val_loss, epoch=self.best_epoch, mode=mode), -self.number


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


@dataclass(frozen=True)
class Elsewhere:
    """A trial that ran without the study. job: its name there, under which a study has it once.

    state: complete, pruned or failed; waiting if it was cut off. value: None if it has failed, or waits. epochs: the
    objective after each. folder: of its files. started, ended: seconds since 1970; None where it never ran.
    """

    job: str
    state: State
    values: Mapping[str, Value]
    value: float | None
    epochs: Sequence[float]
    cause: str
    folder: str
    started: float | None
    ended: float | None

    def as_optuna(self, distributions: "Mapping[str, BaseDistribution]") -> "FrozenTrial":
        """Return it as Optuna stores it. A trial that waits keeps its values."""
        from datetime import datetime

        from optuna.trial import TrialState, create_trial

        about = {JOB: self.job, FOLDER: self.folder, EPOCHS: len(self.epochs)}
        if self.state == "waiting":
            return create_trial(
                state=TrialState.WAITING, user_attrs=about, system_attrs={"fixed_params": dict(self.values)}
            )
        made = create_trial(
            state={"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[self.state],
            value=self.value,
            params=dict(self.values),
            distributions=dict(distributions),
            user_attrs={**about, **({CAUSE: self.cause[:2000]} if self.cause else {})},
            intermediate_values={epoch: value for epoch, value in enumerate(self.epochs, 1) if math.isfinite(value)},
        )
        if self.ended is not None:
            made.datetime_complete = datetime.fromtimestamp(self.ended)
            made.datetime_start = datetime.fromtimestamp(self.ended if self.started is None else self.started)
        return made


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
        float(frozen.user_attrs.get(VAL_LOSS, math.inf)),
        int(frozen.user_attrs.get(BEST_EPOCH, 0)),
        frozen.user_attrs.get(GIVEN_USD),
        frozen.user_attrs.get(USD),
    )
