"""A back end for tests: a run trains in a process of its own on another machine, which is a folder beside.

One line makes it known: `registry.LAUNCHERS["toy"] = "tests.support.toy_launcher.ToyLauncher"`. Its machine runs what
fake_training has, and what happens there (status, log, cancelling) is the local launcher's. Which runs are known there
is kept there, so that a handle, `toy://MACHINE/RUN_ID`, is enough to find a run.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dogbreed.errors import ConfigError, raise_findings
from dogbreed.run_folder import RunFolder, write_json, write_text
from launchers.base import Capabilities, CleanupReport, Cloud
from launchers.cost import limits
from launchers.follow import ask_after_each_epoch
from launchers.local import LocalLauncher
from launchers.plan import Plan
from launchers.project import PROJECT
from launchers.remote.context import SENT
from launchers.runs.collect import settle
from launchers.runs.find import handle_for
from launchers.runs.launched import home_of, remember
from launchers.runs.names import name_findings
from launchers.runs.results import read_result
from launchers.runs.state import STATE_FILE, State
from launchers.spec import LAUNCHED_FILE, RunSpec
from launchers.status import Handle, LaunchError, LogLine, Phase, RunResult, Status
from tests.support.fake_training import FakeLauncher

if TYPE_CHECKING:
    from dogbreed.training import Watch

_START = "import sys; from tests.support.toy_launcher import train; train(sys.argv[1])"


@dataclass(frozen=True)
class ToyLauncher:
    """machine: the folder that stands for another machine; a run writes into a folder named by its id there."""

    scheme: ClassVar[str] = "toy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=False,
        multi_node=False,
        follow_logs=True,
        exact_cost=True,
        graceful_cancel=True,
        remote=True,
        sends_code=False,
        whole_search=False,
    )
    instances: ClassVar[int] = 1
    wait_for_capacity_h: ClassVar[float | None] = None
    answers: ClassVar[bool] = True

    machine: str
    wait: bool = True
    poll_s: float = 0.02

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        return cls(cloud.scope)

    def identities(self, config: Mapping[str, Any], day: str, account: str) -> tuple[()]:
        return ()

    def plan(self, spec: RunSpec) -> Plan:
        raise_findings(ConfigError, [*name_findings(spec), *limits.findings(spec.config)])
        rows = (("where", self.machine), ("command", " ".join(spec.overrides)), ("cost", "no cost"))
        return Plan(spec, Handle(self.scheme, self.machine, spec.run_id), rows)

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        if self.status(plan.handle).finished:
            if plan.spec.going_on is not None:  # what another machine has saved of it since
                shutil.copytree(plan.spec.folder, _path(plan.handle), dirs_exist_ok=True)
            remember(Path(plan.spec.folder), plan, {})
            write_text(_path(plan.handle, ".json"), plan.spec.to_json())
            _start(plan.handle)
        if watch is not None and ask_after_each_epoch(self, plan.handle, watch):
            _path(plan.handle, ".enough").touch()
        return plan.handle

    def status(self, handle: Handle) -> Status:
        status = self._local.status(_there(handle))
        again = f"python train.py resume={handle}" if status.next_action else ""
        return replace(status, next_action=again)

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        return self._local.logs(_there(handle), follow=follow, attempt=attempt, node=node)

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        self._local.cancel(_there(handle), grace_s=grace_s)
        return self.status(handle)

    def result(self, handle: Handle) -> RunResult:
        status = self.status(handle)
        if status.phase is not Phase.SUCCEEDED:
            raise LaunchError(f"Run {handle} has no result: {status}")
        return read_result(handle, RunFolder(_bring_home(handle, None, {"home": self.machine})))

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        status = self.status(handle)
        if status.phase is Phase.LOST or (checkpoints and not status.finished):
            raise LaunchError(f"Run {handle} cannot be resumed now: {status}")
        note = {"saved": RunFolder(_path(handle)).last.exists()}
        return _bring_home(handle, folder, note, without=[STATE_FILE] if checkpoints else [STATE_FILE, "checkpoints"])

    def download(self, handle: Handle) -> Path:
        status = self.status(handle)
        if status.phase is Phase.LOST or not status.finished:
            raise LaunchError(f"Run {handle} cannot be downloaded now: {status}")
        return _bring_home(handle, None, {}, without=[STATE_FILE])

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        for there, _ in self._local.list(active_only=active_only, name=name):
            handle = Handle(self.scheme, self.machine, there.run_id)
            yield handle, self.status(handle)

    def name_of(self, handle: Handle) -> Sequence[str]:
        return [str(handle)]

    def folder(self, handle: Handle) -> Path | None:
        return None

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        return self._local.cleanup(older_than=older_than, apply=apply)

    @property
    def _local(self) -> LocalLauncher:
        """The launcher that the other machine has."""
        return LocalLauncher(self.machine, sweeps_dir=f"{self.machine}/none", poll_s=self.poll_s)


def _path(handle: Handle, suffix: str = "") -> Path:
    """The run's folder on the other machine. Beside it lie .json, what was sent; .out; and .enough, once it may end."""
    return Path(handle.scope, f"{handle.run_id}{suffix}")


def _there(handle: Handle) -> Handle:
    """The run as the other machine's own."""
    return handle_for(_path(handle))


def _start(handle: Handle) -> None:
    """Start the run's process, and return once its state is its own and no longer that of an earlier attempt."""
    _path(handle, ".enough").unlink(missing_ok=True)
    before = State.read(_path(handle))
    command = [sys.executable, "-c", _START, str(_path(handle, ".json"))]
    with _path(handle, ".out").open("ab") as out:
        there = {**os.environ, SENT: str(_path(handle, ".json"))}  # what tells a run that its machine is a rented one
        process = subprocess.Popen(command, cwd=PROJECT, env=there, stdout=out, stderr=out, start_new_session=True)
    ending = threading.Thread(target=process.wait, daemon=True)  # which takes its exit status, so no zombie stays
    ending.start()
    while ending.is_alive() and State.read(_path(handle)) == before:
        ending.join(0.01)


def train(sent: str) -> None:
    """What runs on the other machine: train what was sent there. A run that has succeeded with it is left as it is."""
    spec, launcher = RunSpec.from_json(Path(sent).read_text()), FakeLauncher()
    plan = launcher.plan(replace(spec, folder=str(Path(sent).with_suffix(""))))
    launcher.submit(plan, watch=lambda epoch, metrics: Path(sent).with_suffix(".enough").exists())


def _bring_home(handle: Handle, folder: Path | None, note: dict[str, Any], without: Sequence[str] = ()) -> Path:
    """Copy the run's folder home. folder: where that is, if it is known. note: for launched.json, beside the handle."""
    spec = RunSpec.from_json(_path(handle, ".json").read_text())
    home = folder or home_of(handle, spec)
    shutil.copytree(_path(handle), home, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*without))
    settle(home, spec)
    write_json(home / LAUNCHED_FILE, {"handle": str(handle), **note})
    return home
