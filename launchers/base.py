"""The interfaces of every launcher and of every cloud.

Nothing heavy is imported here: printing a plan or a status must not wait for torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from dogbreed.errors import DogBreedError
from launchers.plan import Plan
from launchers.spec import Deployed, RunSpec
from launchers.status import Handle, LogLine, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch  # which brings torch
    from launchers.aws.policy import Identity


@dataclass(frozen=True)
class CleanupReport:
    """Lists leftovers that nothing uses any more, and those that were removed, checked after removing.

    errors: why some could not be removed, or not be looked for.
    """

    found: tuple[str, ...]
    removed: tuple[str, ...] = ()
    errors: tuple[DogBreedError, ...] = ()

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
    deploys: bool = False  # serves a model under a name, instead of training one


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
    def wait_for_capacity_h(self) -> float | None:
        """Hours to wait for a machine if none is free; None for the default: 0 for a run, 1 in a search.

        The callers of `submit` and `result` wait (launchers/capacity_wait.py, launchers/sweep/machines.py).
        """
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

        Raises LaunchError with a `shortage` if there is no machine for the run now: submitting it later may succeed.

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
        """Return the result. Raises LaunchError, with the run's status and its shortage, if there is none yet."""
        ...

    def download(self, handle: Handle) -> Path:
        """Bring what a run has left to its folder on this machine, and return that folder. It costs no machine time.

        Of a run that failed or was cancelled these are its log, metrics and checkpoints; of a search also its trials'
        folders. Raises LaunchError for an unknown run, and for one elsewhere that has not ended.
        """
        ...

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        """List the known runs, newest first. name: a part of their ids."""
        ...

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """List leftovers; with `apply`, remove them and check that they are gone.

        One that resists does not keep the others from being removed: its error is in the report.

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


@runtime_checkable
class Tunes(Protocol):
    """A launcher of searches whose trials the cloud chooses. `launchers.sweep.tuner` imports them into a study."""

    def look(self, handle: Handle) -> tuple[Status, Sequence[Any]]:
        """Return the status of a search, and its trials."""
        ...


class Deploys(Launcher, Protocol):
    """A launcher that serves models. Its handles name deployments."""

    def deployed(self, name: str) -> Deployed | None:
        """Return what is served under a name now; None if nothing is."""
        ...

    def reservable(self, name: str) -> int | None:
        """Return how many concurrent executions a function of this name may reserve; None if it is to reserve none."""
        ...

    def spent_usd(self, name: str) -> float | None:
        """Return what the deployment of this name has cost since its creation, at most; None if that is not known."""
        ...

    def url(self, handle: Handle) -> str:
        """Return the URL at which it takes signed requests. Raises LaunchError if it has none."""
        ...

    def invoke(self, handle: Handle, picture: bytes) -> dict[str, Any]:
        """Return the answer to one picture, as the server's API describes it. Raises LaunchError."""
        ...

    def rollback(self, handle: Handle) -> Status:
        """Bring the revision before into service. Raises LaunchError if there is none."""
        ...
