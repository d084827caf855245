"""What every launcher offers, and the plain values that go in and come out.

Nothing heavy is imported here: printing a plan or a status must not wait for torch.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum, auto
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from dogbreed.errors import DogBreedError
from dogbreed.progress import result_table
from dogbreed.workload import Workload
from launchers.formatting import result_files
from launchers.payload.code import CodeBundle
from launchers.payload.photos import SentFolder
from launchers.remote.context import on_rented_machine

if TYPE_CHECKING:
    from dogbreed.training import Watch  # which brings torch

SPEC_FILE = "spec.json"  # in the run folder, and beside the run in S3
SEARCH_FILE = "best.json"  # in a search's folder: what it has come to
TRIAL_FOLDERS = r"(\d{5,})(-\d+)?"  # in a search's folder; with a suffix if a later machine took the trial up again
STUDY_FILE = "study.db"  # in a search's folder: its trials, unless their database is elsewhere
LAUNCHED_FILE = "launched.json"  # in the folder of a run that runs elsewhere: its handle, and how to get there


class Phase(StrEnum):
    """How far a run is."""

    PLANNED = auto()
    SUBMITTED = auto()
    PROVISIONING = auto()
    RUNNING = auto()
    RECOVERING = auto()
    STOPPING = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    CANCELLED = auto()
    LOST = auto()  # nobody knows this run: never to be read as success


FINISHED = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.LOST})


class Cause(StrEnum):
    """Why a run is in its phase: what to do next follows from it."""

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


class LaunchError(DogBreedError):
    """A run cannot be started, found, followed or stopped. cause: what kind of reason it is, where that is known."""

    def __init__(self, message: str, cause: Cause = Cause.UNKNOWN) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class RunOutput:
    """What one run leaves in its folder."""

    purpose: ClassVar[str] = "training"  # for tags
    # below the folder: the newest is resumed from; the first is missing for a moment while it is replaced
    resume_points: ClassVar[tuple[str, ...]] = ("checkpoints/last.ckpt", "checkpoints/previous.ckpt")
    result_file: ClassVar[str] = "metrics.json"  # below the folder: written last
    same_command_resumes: ClassVar[bool] = False  # it takes resume=

    def default_folder(self, run_id: str) -> Path:
        """Where the folder is on a machine that did not start the run."""
        return Path("runs", run_id)


@dataclass(frozen=True)
class SearchOutput:
    """What a whole search leaves in its folder when it runs as one job: its study, and a folder for each trial.

    study: its name; trials: how many are to have ended.
    """

    study: str
    trials: int
    purpose: ClassVar[str] = "search"
    resume_points: ClassVar[tuple[str, ...]] = (STUDY_FILE,)
    result_file: ClassVar[str] = SEARCH_FILE
    same_command_resumes: ClassVar[bool] = True  # and may ask for more trials

    def default_folder(self, run_id: str) -> Path:
        """Where the folder is on a machine that did not start the search."""
        return Path("sweeps", self.study)


@dataclass(frozen=True)
class RunSpec:
    """One run, as plain data: what was asked for, not where it runs. JSON holds all of it."""

    run_id: str  # for life: a resumed run keeps it
    overrides: tuple[str, ...]  # as typed: another machine composes the same config from them
    config: Mapping[str, Any]  # resolved, and made of plain dicts, lists, numbers and strings
    folder: str  # absolute, on the machine of the person who started it
    created_at: str  # ISO 8601, UTC
    commit: str | None  # of the project's code; None outside git
    dirty: bool  # tracked files differ from that commit
    code: CodeBundle | None = None  # of a run that goes elsewhere: what is sent there
    photos: SentFolder | None = None  # of such a run: the data folder of this machine that is sent there
    going_on: tuple[str, ...] | None = None  # of a resumed run: what was typed this time; None for a new run
    output: RunOutput | SearchOutput = RunOutput()  # of a whole search, config is that of some trial

    @cached_property
    def workload(self) -> Workload:
        """What the run does, with the photos of this machine counted."""
        return Workload.of(self.config, None if self.photos is None else self.photos.counts(self.config["data"]))

    def to_json(self) -> str:
        fields = asdict(self)
        del fields["output"]
        match self.output:
            case SearchOutput(study, trials):
                fields |= {"search": study, "trials": trials}
            case RunOutput():
                fields |= {"search": None, "trials": 0}
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, KeyError or TypeError if `text` is not a RunSpec."""
        fields = json.loads(text)
        study, trials = fields.pop("search", None), fields.pop("trials", 0)
        if study is not None:
            fields["output"] = SearchOutput(study, trials)
        if fields.get("code") is not None:
            fields["code"] = CodeBundle.from_fields(fields["code"])
        if fields.get("photos") is not None:
            fields["photos"] = SentFolder.from_fields(fields["photos"])
        if fields.get("going_on") is not None:
            fields["going_on"] = tuple(fields["going_on"])
        return cls(**{**fields, "overrides": tuple(fields["overrides"])})


@dataclass(frozen=True)
class Handle:
    """The name of a run anywhere: `scheme://scope/run_id`, as in `sagemaker://eu-west-1/20261123-001122-x7k2`.

    Locally the run's folder is the name: `local:///home/me/runs/20261123-001122-x7k2`.
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
            raise LaunchError(f"{text!r} is no handle of a run.\nTry: the form that `python -m launchers list` shows")
        return cls(launcher, scope, run_id)


@dataclass(frozen=True)
class Request:
    """One call of a cloud's API that changes something there. parameters: as boto3 takes them."""

    service: str
    operation: str
    parameters: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.service} {self.operation} {json.dumps(self.parameters, indent=2)}"


@dataclass(frozen=True)
class Plan:
    """What `submit` would do, all of it, to be printed, compared and recorded.

    requests: in order; the ARN of a role that was given by name is the one thing in them that only the account knows.
    actions: what the person who submits must be allowed to do, by IAM's names.
    """

    spec: RunSpec
    handle: Handle  # what submit will return
    rows: tuple[tuple[str, str], ...]  # what a person wants to know first: where, which command, what it costs
    requests: tuple[Request, ...] = ()
    actions: tuple[str, ...] = ()

    def brief(self) -> str:
        """Where it runs and what it costs."""
        rows = [(name, text) for name, text in self.rows if name in ("where", "time", "cost", "photos", "search")]
        return "\n".join([f"Run {self.spec.run_id}", *(f"  {name:<7} {text.splitlines()[0]}" for name, text in rows)])

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        indent = f"\n{'':{width + 4}}"
        lines = [f"  {name:<{width}}  {indent.join(text.splitlines())}" for name, text in self.rows]
        return "\n".join([f"Plan for run {self.spec.run_id}", *lines, *(f"\n{request}" for request in self.requests)])


@dataclass(frozen=True)
class Status:
    """Where a run stands. A FAILED one always has a cause and a next action, and its last log lines if it has a log."""

    phase: Phase
    cause: Cause = Cause.NONE
    detail: str = ""
    attempt: int = 0  # from 1; 0 before the first
    started_at: str = ""  # of the first attempt, ISO 8601, UTC
    log_tail: tuple[str, ...] = ()
    next_action: str = ""
    usd: float | None = None  # spent so far, where the machine is rented
    job: str = ""  # the cloud's own name of the latest submission

    @property
    def finished(self) -> bool:
        return self.phase in FINISHED

    def __str__(self) -> str:
        why = "" if self.cause is Cause.NONE else f" ({self.cause.replace('_', ' ')})"
        lines = [f"{self.phase}{why}" + (f", attempt {self.attempt}" if self.attempt > 1 else "")]
        if self.detail:
            lines.append(self.detail)
        if self.usd is not None:
            lines.append(f"cost so far: ${self.usd:.4f}")
        lines += [f"  | {line}" for line in self.log_tail]
        return "\n".join(lines + ([f"Next: {self.next_action}"] if self.next_action else []))


@dataclass(frozen=True)
class LogLine:
    attempt: int  # from 1
    node: int  # from 0
    text: str  # without the line's end


@dataclass(frozen=True)
class RunResult:
    """What a run that succeeded left: its numbers and its files on this machine."""

    handle: Handle
    folder: Path
    metrics: dict[str, float]  # flat: "val/acc": 0.83, of best.ckpt
    artifacts: dict[str, Path]  # by name: "report", "best", "last"...; only what is there

    def __str__(self) -> str:
        numbers = result_table(self.metrics)
        if on_rented_machine():  # its paths mean nothing to whoever reads this
            return f"\n{numbers}"
        return "\n".join(["", numbers, "", *result_files(self.artifacts, self.folder)])


@dataclass(frozen=True)
class CleanupReport:
    """Left-overs that nothing uses any more, and which of them are gone, checked after removing."""

    found: tuple[str, ...]
    removed: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(name for name in self.found if name not in self.removed)


@dataclass(frozen=True)
class Capabilities:
    """What a launcher can do: requests that it cannot meet fail in `plan`, and the README's table is made of it."""

    spot: bool
    multi_node: bool
    follow_logs: bool
    exact_cost: bool
    graceful_cancel: bool
    remote: bool  # the run goes on without the process that submitted it
    sends_code: bool  # what lies on this machine has to be sent along: code, and photos that are nowhere else
    whole_search: bool  # a whole search can be one run


class Cloud(Protocol):
    """An account, or something that stands in for one. Constructors only store."""

    bills: ClassVar[bool]  # whether what runs there is paid for
    region: str | None
    poll_s: float  # seconds between two looks at something that changes

    @property
    def scope(self) -> str:
        """The scope of handles: the region, or `rehearsal`."""
        ...

    @property
    def default_bucket(self) -> str | None:
        """The bucket of launchers that were not told one."""
        ...

    @property
    def place(self) -> dict[str, str]:
        """What must be remembered beside a handle to find this cloud again: arguments of `registry.cloud_of`."""
        ...

    @property
    def option(self) -> str:
        """What `python -m launchers` must be told besides a handle to find this cloud, with a space before it."""
        ...

    @property
    def makes_buckets(self) -> bool:
        """Whether a missing bucket is created without asking, because it stands for a real one."""
        ...

    def findings(self) -> list[str]:
        """What is wrong with the settings, as far as can be told without a network."""
        ...

    def client(self, service: str) -> Any:
        """Return a boto3 client."""
        ...

    def describe(self) -> str:
        """Say where this is, for people."""
        ...


class Launcher(Protocol):
    """Where a run runs. Constructors only store; `tests/support/launcher_contract.py` holds what is promised here."""

    scheme: ClassVar[str]  # of its handles; `registry.LAUNCHERS` has it
    capabilities: ClassVar[Capabilities]

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        """Return one that finds and follows runs there; nothing can be submitted with it that needs more settings.

        runs_dir: where run folders lie on this machine. bucket: the one that `cleanup` looks into.
        """
        ...

    @property
    def wait(self) -> bool:
        """Whether the command that submits a run stays until the run has ended."""
        ...

    @property
    def instances(self) -> int:
        """How many machines train one run together."""
        ...

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at a run."""
        ...

    def plan(self, spec: RunSpec) -> Plan:
        """What submit would do. Pure: no network, clock, disk or environment. All that is wrong is raised at once."""
        ...

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Do what the plan says. Idempotent. Where the run runs in this very call, what stops it is raised here.

        watch: asked after each epoch, as numbers come in; where it says true, training ends with that epoch.
        """
        ...

    def status(self, handle: Handle) -> Status:
        """An unknown run is Phase.LOST, not an exception."""
        ...

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        """The lines of all attempts and nodes, or of one; with `follow`, until the run has finished."""
        ...

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        """Ask the run to save and stop; after `grace_s`, make it. Idempotent."""
        ...

    def result(self, handle: Handle) -> RunResult:
        """Raises LaunchError while there is none, saying where the run stands."""
        ...

    def list(self, *, active_only: bool = True) -> Iterator[tuple[Handle, Status]]:
        """The known runs, newest first."""
        ...

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """Show left-overs; with `apply`, remove them and check that they are gone.

        older_than: None for what is surely used by nobody any more.
        """
        ...

    def name_of(self, handle: Handle) -> str:
        """Return what to type after `python -m launchers status` and the like."""
        ...

    def folder(self, handle: Handle) -> Path | None:
        """Return the folder on this machine that the run writes into; None for a run that writes elsewhere."""
        ...

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        """Make the run's folder on this machine ready to resume: its settings and, with `checkpoints`, what it saved.

        folder: where it is known on this machine; None if it is not. Raises LaunchError for an unknown run and, with
        `checkpoints`, for one that has not ended.
        """
        ...


def name_findings(spec: RunSpec) -> list[str]:
    """What is wrong with the run's id and folder, which every launcher builds names of."""
    findings = []
    if not Path(spec.folder).is_absolute():
        findings.append(f"The run folder must be an absolute path, not {spec.folder!r}.")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,53}[A-Za-z0-9])?", spec.run_id):
        findings.append(
            f"run_id={spec.run_id!r} cannot name a run: folders, jobs and tags carry it.\n"
            "Try: letters, digits and hyphens between them, at most 55"
        )
    return findings
