"""The interface of every launcher, and the plain values that it takes and returns.

Nothing heavy is imported here: printing a plan or a status must not wait for torch.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum, auto
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from dogbreed.errors import DogBreedError
from dogbreed.progress import result_table
from dogbreed.workload import Workload
from launchers.config_sources import PROJECTS_OWN, ConfigSources
from launchers.formatting import result_files
from launchers.payload.code import CodeBundle
from launchers.payload.photos import SentFolder
from launchers.remote.context import on_rented_machine

if TYPE_CHECKING:
    from dogbreed.training import Watch  # which brings torch
    from launchers.aws.policy import Identity

SPEC_FILE = "spec.json"  # in the run folder, and beside the run in S3
SEARCH_FILE = "best.json"  # in a search's folder: its result
TRIAL_FOLDERS = r"(\d{5,})(-\d+)?"  # in a search's folder; with a suffix if a later machine resumed the trial
STUDY_FILE = "study.db"  # in a search's folder: its trials, unless their database is elsewhere
LAUNCHED_FILE = "launched.json"  # in the folder of a remote run: its handle, and how to reach its cloud


class Phase(StrEnum):
    """The state of a run."""

    PLANNED = auto()
    SUBMITTED = auto()
    PROVISIONING = auto()
    RUNNING = auto()
    RECOVERING = auto()
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


class LaunchError(DogBreedError):
    """A run cannot be started, found, followed or stopped. cause: the kind of reason, if it is known."""

    def __init__(self, message: str, cause: Cause = Cause.UNKNOWN) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class RunOutput:
    """The files that one run leaves in its folder."""

    purpose: ClassVar[str] = "training"  # for tags
    # below the folder: the furthest is resumed from; the first is missing for a moment while it is replaced
    resume_points: ClassVar[tuple[str, ...]] = ("checkpoints/last.ckpt", "checkpoints/previous.ckpt")
    result_file: ClassVar[str] = "metrics.json"  # below the folder: written last
    same_command_resumes: ClassVar[bool] = False  # resuming needs resume=

    def default_folder(self, run_id: str) -> Path:
        """Return the run's folder on a machine that did not start the run."""
        return Path("runs", run_id)


@dataclass(frozen=True)
class SearchOutput:
    """The files that a search leaves in its folder when it runs as one job: its study, and a folder for each trial.

    study: its name. trials: how many trials the finished search has. digest: of its settings and search space; empty if
    an earlier version recorded none.
    """

    study: str
    trials: int
    digest: str = ""
    purpose: ClassVar[str] = "search"
    resume_points: ClassVar[tuple[str, ...]] = (STUDY_FILE,)
    result_file: ClassVar[str] = SEARCH_FILE
    same_command_resumes: ClassVar[bool] = True  # and may ask for more trials

    def default_folder(self, run_id: str) -> Path:
        """Return the search's folder on a machine that did not start the search."""
        return Path("sweeps", self.study)


@dataclass(frozen=True)
class RunSpec:
    """One run as plain data: what was asked for, not where it runs. All of it can be stored as JSON."""

    run_id: str  # a resumed run keeps it
    overrides: tuple[str, ...]  # as typed: another machine composes the same config from them
    config: Mapping[str, Any]  # resolved, made of plain dicts, lists, numbers and strings
    folder: str  # absolute, on the machine of the person who started it
    created_at: str  # ISO 8601, UTC
    commit: str | None  # of the project's code; None outside git
    dirty: bool  # whether tracked files differ from that commit
    code: CodeBundle | None = None  # what is sent to a remote machine; None for a local run
    photos: SentFolder | None = None  # the data folder of this machine that is sent there; None if none is
    going_on: tuple[str, ...] | None = None  # the overrides of the command that resumes the run; None for a new run
    output: RunOutput | SearchOutput = RunOutput()  # for a search, `config` is that of one trial
    sources: ConfigSources = PROJECTS_OWN  # what the overrides are composed with

    @cached_property
    def workload(self) -> Workload:
        """The work that the run does, with the photos of this machine counted."""
        return Workload.of(self.config, None if self.photos is None else self.photos.counts(self.config["data"]))

    def to_json(self) -> str:
        fields = asdict(self)
        del fields["output"]
        match self.output:
            case SearchOutput(study, trials, digest):
                fields |= {"search": study, "trials": trials, "study_digest": digest}
            case RunOutput():
                fields |= {"search": None, "trials": 0}
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError if `text` is not a RunSpec."""
        fields = json.loads(text)
        study, trials, digest = fields.pop("search", None), fields.pop("trials", 0), fields.pop("study_digest", "")
        if study is not None:
            fields["output"] = SearchOutput(study, trials, digest)
        if "sources" in fields:
            fields["sources"] = ConfigSources.from_fields(fields["sources"])
        if fields.get("code") is not None:
            fields["code"] = CodeBundle.from_fields(fields["code"])
        if fields.get("photos") is not None:
            fields["photos"] = SentFolder.from_fields(fields["photos"])
        if fields.get("going_on") is not None:
            fields["going_on"] = tuple(fields["going_on"])
        return cls(**{**fields, "overrides": tuple(fields["overrides"])})


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
class Request:
    """One call of a cloud's API that changes something. parameters: as boto3 takes them."""

    service: str
    operation: str
    parameters: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.service} {self.operation} {json.dumps(self.parameters, indent=2)}"


@dataclass(frozen=True)
class Plan:
    """Everything that `submit` would do, to be printed, compared and recorded.

    requests: in order; the ARN of a role that was given by name is the one thing in them that only the account knows.
    actions: the IAM actions that the person who submits must be allowed.
    """

    spec: RunSpec
    handle: Handle  # what `submit` will return
    rows: tuple[tuple[str, str], ...]  # what a person wants to know first: where it runs, the command, the cost
    requests: tuple[Request, ...] = ()
    actions: tuple[str, ...] = ()

    def brief(self) -> str:
        """Say where the run runs and what it costs."""
        rows = [(name, text) for name, text in self.rows if name in ("where", "time", "cost", "photos", "search")]
        return "\n".join([f"Run {self.spec.run_id}", *(f"  {name:<7} {text.splitlines()[0]}" for name, text in rows)])

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        indent = f"\n{'':{width + 4}}"
        lines = [f"  {name:<{width}}  {indent.join(text.splitlines())}" for name, text in self.rows]
        return "\n".join([f"Plan for run {self.spec.run_id}", *lines, *(f"\n{request}" for request in self.requests)])


@dataclass(frozen=True)
class Status:
    """The status of a run. A FAILED one has a cause and a next action, and its last log lines if it has a log."""

    phase: Phase
    cause: Cause = Cause.NONE
    detail: str = ""
    attempt: int = 0  # from 1; 0 before the first
    started_at: str = ""  # of the first attempt, ISO 8601, UTC
    log_tail: tuple[str, ...] = ()
    next_action: str = ""
    usd: float | None = None  # spent so far; None if the machine is not rented
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
        return "\n".join([*lines, self.next_action] if self.next_action else lines)


@dataclass(frozen=True)
class LogLine:
    attempt: int  # from 1
    node: int  # from 0
    text: str  # without the line's end


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


@dataclass(frozen=True)
class CleanupReport:
    """Lists leftovers that nothing uses any more, and those that were removed, checked after removing."""

    found: tuple[str, ...]
    removed: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(name for name in self.found if name not in self.removed)


@dataclass(frozen=True)
class Capabilities:
    """What a launcher can do. `plan` refuses requests beyond that, and the README's table shows it."""

    spot: bool
    multi_node: bool
    follow_logs: bool
    exact_cost: bool
    graceful_cancel: bool
    remote: bool  # the run continues without the process that submitted it
    sends_code: bool  # code, and photos that are only on this machine, are sent along
    whole_search: bool  # a whole search can run as one job


class Cloud(Protocol):
    """An AWS account, or something that stands in for one. Constructors only store."""

    bills: ClassVar[bool]  # whether running something there costs money
    region: str | None
    poll_s: float  # seconds between two polls of something that changes

    @property
    def scope(self) -> str:
        """The scope of handles: the region, or `rehearsal`."""
        ...

    @property
    def answers(self) -> bool:
        """Whether it can be asked without starting it."""
        ...

    @property
    def default_bucket(self) -> str | None:
        """The bucket of launchers that have none configured."""
        ...

    @property
    def place(self) -> dict[str, str]:
        """What must be stored beside a handle to find this cloud again: the `place` argument of `registry.cloud_of`."""
        ...

    @property
    def option(self) -> list[str]:
        """The words that `python -m launchers` needs besides a handle to find this cloud."""
        ...

    @property
    def overrides(self) -> list[str]:
        """The overrides that `train.py` needs besides `resume=HANDLE` to find this cloud."""
        ...

    @property
    def makes_buckets(self) -> bool:
        """Whether a missing bucket is created without asking, because it stands for a real one."""
        ...

    def findings(self) -> list[str]:
        """List what is wrong with the settings, as far as that can be checked without a network."""
        ...

    def client(self, service: str) -> Any:
        """Return a boto3 client."""
        ...

    def describe(self) -> str:
        """Describe this cloud in a few words, for people."""
        ...


class Launcher(Protocol):
    """Runs a run somewhere. Constructors only store; `tests/support/launcher_contract.py` tests this interface."""

    scheme: ClassVar[str]  # of its handles, as listed in `registry.LAUNCHERS`
    capabilities: ClassVar[Capabilities]

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        """Return a launcher that can find and follow the runs of a cloud; to submit runs it may lack settings.

        runs_dir: the folder of run folders on this machine. bucket: the one that `cleanup` inspects.
        """
        ...

    @property
    def answers(self) -> bool:
        """Whether its runs can be listed without starting a server."""
        ...

    @property
    def wait(self) -> bool:
        """Whether the command that submits a run waits until the run has ended."""
        ...

    @property
    def instances(self) -> int:
        """How many machines train one run together."""
        ...

    @property
    def poll_s(self) -> float:
        """Seconds between two polls of a run's status."""
        ...

    def identities(self, config: Mapping[str, Any], day: str, account: str) -> "Sequence[Identity]":
        """Return who needs which permissions for runs of this config: the person who launches, and each role."""

    def plan(self, spec: RunSpec) -> Plan:
        """Return what `submit` would do. Uses no network, clock, disk or environment. Raises all findings at once."""
        ...

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Do what the plan says. Idempotent. If the run runs inside this call, it raises what stops the run.

        watch: called with the metrics of each epoch as they arrive; if it returns True, training ends with that epoch.
        """
        ...

    def status(self, handle: Handle) -> Status:
        """Return the run's status: Phase.LOST for an unknown run, not an exception."""
        ...

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        """Yield the log lines of all attempts and nodes, or of one; with `follow`, until the run has finished."""
        ...

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        """Ask the run to save and stop; force it to stop after `grace_s` seconds. Idempotent."""
        ...

    def result(self, handle: Handle) -> RunResult:
        """Return the result. Raises LaunchError, with the run's status, if there is none yet."""
        ...

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        """List the known runs, newest first. name: a part of their ids."""
        ...

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """List leftovers; with `apply`, remove them and check that they are gone.

        older_than: None for everything that is certainly unused.
        """
        ...

    def name_of(self, handle: Handle) -> Sequence[str]:
        """Return the words to type after `python -m launchers status` and the like."""
        ...

    def folder(self, handle: Handle) -> Path | None:
        """Return the folder on this machine that the run writes to; None for a run that writes elsewhere."""
        ...

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        """Prepare the run's folder on this machine for resuming: its settings and, with `checkpoints`, what it saved.

        folder: the run's folder on this machine; None if it has none yet. Raises LaunchError for an unknown run and,
        with `checkpoints`, for one that has not ended.
        """
        ...
