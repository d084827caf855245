"""How runs are named, and what is known of them: handle, phase, cause, log lines, result."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, auto
from pathlib import Path
from typing import Self

from dogbreed.errors import DogBreedError
from dogbreed.progress import result_table
from launchers.formatting import result_files
from launchers.remote.context import on_rented_machine


class Phase(StrEnum):
    """The state of a run."""

    PLANNED = auto()
    SUBMITTED = auto()
    PROVISIONING = auto()
    RUNNING = auto()
    RECOVERING = auto()
    IN_SERVICE = auto()  # of a deployment: it answers, and costs money until it is ended
    UPDATING = auto()
    STOPPING = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    CANCELLED = auto()
    LOST = auto()  # this run is unknown: never to be read as success


FINISHED = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.LOST})


class Cause(StrEnum):
    """Why a run is in its phase. It decides what to do next."""

    NONE = auto()
    USER_CODE = auto()
    BAD_CONFIG = auto()
    PERMISSION = auto()
    QUOTA = auto()
    CAPACITY = auto()
    INTERRUPTED = auto()
    TIME_LIMIT = auto()
    BUDGET = auto()
    BY_USER = auto()
    UNKNOWN = auto()


@dataclass(frozen=True)
class Shortage:
    """Why there was no machine for a run, with which nothing is wrong: it may get one later.

    text: the reason, on one line. limit, used, wanted: how much of something the account may use at once, how much it
    uses and how much the run asked for, as a rule machines; None where it is not a quota, or its size is not known.
    """

    text: str
    limit: int | None = None
    used: int | None = None
    wanted: int | None = None

    @property
    def lasting(self) -> bool:
        """Whether waiting is useless, because the whole quota is less than the run needs."""
        return self.limit is not None and self.wanted is not None and self.limit < self.wanted


class LaunchError(DogBreedError):
    """A run cannot be started, found, followed or stopped.

    cause: the kind of reason, if it is known. shortage: set if there was no machine for the run.
    """

    def __init__(self, message: str, cause: Cause = Cause.UNKNOWN, shortage: Shortage | None = None) -> None:
        super().__init__(message)
        self.cause, self.shortage = cause, shortage


class Failures:
    """Collects the errors of parts that are handled one after the other, so that each of them gets its turn.

    failures = Failures()
    for name in names:
        with failures.noted():
            remove(name)
    """

    def __init__(self) -> None:
        self.errors: list[DogBreedError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except DogBreedError as error:
            self.errors.append(error)

    def raise_first(self) -> None:
        """Raise the first error, with the others as notes. Do nothing if there is none."""
        if self.errors:
            first, *others = self.errors
            for other in others:
                first.add_note(str(other))
            raise first


@dataclass(frozen=True)
class Handle:
    """Names a run anywhere: `scheme://scope/run_id`, as in `sagemaker://eu-west-1/20261123-001122-x7k2`.

    A local run is named by its folder: `local:///home/me/runs/20261123-001122-x7k2`.
    """

    launcher: str
    scope: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.launcher}://{self.scope}/{self.run_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        launcher, found, rest = text.partition("://")
        scope, slash, run_id = rest.rstrip("/").rpartition("/")
        if not (launcher and found and slash and run_id):
            raise LaunchError(
                f"{text!r} is not a valid run handle.\nTry: a handle as `python -m launchers list` shows it"
            )
        return cls(launcher, scope, run_id)


@dataclass(frozen=True)
class Status:
    """The status of a run. A FAILED one has a cause and a next action, and its last log lines if it has a log.

    shortage: set if it has failed because there was no machine for it.
    """

    phase: Phase
    cause: Cause = Cause.NONE
    detail: str = ""
    attempt: int = 0  # from 1; 0 before the first
    started_at: str = ""  # of the first attempt, ISO 8601, UTC
    log_tail: tuple[str, ...] = ()
    next_action: str = ""
    usd: float | None = None  # spent so far, at most; None if the machine is not rented
    on_demand_usd: float | None = None  # what the same would have cost on demand; None if that is not known
    job: str = ""  # the cloud's own name of the latest submission
    shortage: Shortage | None = None
    name: str = ""  # what a person called the run; empty if nothing, or if only its folder on this machine tells

    @property
    def finished(self) -> bool:
        return self.phase in FINISHED

    @property
    def cost_words(self) -> str:
        """The cost by list price, and what it would have been on demand if that differs."""
        assert self.usd is not None
        differs = self.on_demand_usd is not None and self.on_demand_usd - self.usd >= 0.00005
        return f"${self.usd:.4f}" + (f" (on demand ${self.on_demand_usd:.4f})" if differs else "")

    @property
    def settled(self) -> bool:
        """Whether it stays as it is until somebody acts: a run has finished, a deployment may be in service."""
        return self.finished or self.phase is Phase.IN_SERVICE

    def __str__(self) -> str:
        why = "" if self.cause is Cause.NONE else f" ({self.cause.replace('_', ' ')})"
        lines = [f"{self.phase.replace('_', ' ')}{why}" + (f", attempt {self.attempt}" if self.attempt > 1 else "")]
        if self.detail:
            lines.append(self.detail)
        if self.usd is not None:
            lines.append(f"cost so far: {self.cost_words}")
        lines += [f"  | {line}" for line in self.log_tail]
        return "\n".join([*lines, self.next_action] if self.next_action else lines)


@dataclass(frozen=True)
class LogLine:
    attempt: int  # from 1
    node: int  # from 0
    text: str  # without the line's end
    at: datetime | None = field(default=None, compare=False)  # when it was logged, in UTC; None if that is unknown


@dataclass(frozen=True)
class RunResult:
    """The metrics of a run that succeeded, and its files on this machine."""

    handle: Handle
    folder: Path
    metrics: dict[str, float]  # flat: "val/acc": 0.83, of best.ckpt
    artifacts: dict[str, Path]  # by name: "report", "best", "last"...; only files that exist

    def __str__(self) -> str:
        numbers = result_table(self.metrics)
        if on_rented_machine():  # its paths mean nothing to the reader of its log
            return f"\n{numbers}"
        return "\n".join(["", numbers, "", *result_files(self.artifacts, self.folder)])
