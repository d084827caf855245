"""The launcher for this machine: the run runs inside `submit`, and its folder records its state."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dogbreed import commands
from dogbreed.commands import override, shown_path
from dogbreed.distributed import ranks
from dogbreed.errors import ConfigError, StorageError, WeightsError, raise_findings
from dogbreed.run_folder import RunFolder, storage_error, write_text
from launchers.base import Capabilities, CleanupReport, Cloud
from launchers.cost import limits
from launchers.cost.limits import Limits
from launchers.overrides import STAYS_HERE
from launchers.plan import Plan
from launchers.project import describe_commit
from launchers.remote.context import on_rented_machine
from launchers.runs import searches
from launchers.runs.find import folder_of, handle_for, resume_command, run_folders, search_folders
from launchers.runs.half_written import half_written
from launchers.runs.identity import has_begun, refuse_other_settings
from launchers.runs.kept import FinishedRun
from launchers.runs.launched import launched
from launchers.runs.log import LogFile, read_lines, tail
from launchers.runs.names import name_findings
from launchers.runs.processes import claimed
from launchers.runs.results import has_result, read_result
from launchers.runs.state import CANCEL_FILE, RUNNING_HERE, State, alive_message, cancel_requested, outcome
from launchers.runs.time_limit import TimeLimit
from launchers.spec import LAUNCHED_FILE, SPEC_FILE, RunSpec
from launchers.status import Cause, Handle, LaunchError, LogLine, Phase, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

_KILLED_S = 60.0  # for processes that were killed to be gone


@dataclass(frozen=True)
class LocalLauncher:
    """Trains in this process, with the run's state in its folder.

    runs_dir, sweeps_dir: the folders that `list` and `cleanup` search, for runs/<run> and sweeps/<sweep>/<run>. A run
    in another folder (hydra.run.dir) is found by its path.
    """

    scheme: ClassVar[str] = "local"
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=False,
        multi_node=False,
        follow_logs=True,
        exact_cost=True,
        graceful_cancel=True,
        remote=False,
        sends_code=False,
        whole_search=False,
    )
    wait: ClassVar[bool] = True
    wait_for_capacity_h: ClassVar[float | None] = None  # this machine is there
    answers: ClassVar[bool] = True
    instances: ClassVar[int] = 1

    runs_dir: str = "runs"
    sweeps_dir: str = "sweeps"
    poll_s: float = 0.2

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        return cls(runs_dir)

    def identities(self, config: Mapping[str, Any], day: str, account: str) -> tuple[()]:
        return ()  # a process of one's own needs no permissions

    def plan(self, spec: RunSpec) -> Plan:
        elsewhere = commands.photos_elsewhere(str((spec.config.get("data") or {}).get("root")))
        raise_findings(ConfigError, [*name_findings(spec), *filter(None, [elsewhere]), *limits.findings(spec.config)])
        folder = Path(spec.folder)
        going_on = [override("resume", str(folder))] if spec.config.get("resume") else []
        rows = (
            ("where", "this machine, in this process"),
            ("folder", str(folder)),
            ("command", commands.in_project(*spec.sources.words, *spec.overrides, *going_on)),
            ("resume", commands.in_project(override("resume", str(folder)))),
            ("code", describe_commit(spec.commit, spec.dirty)),
            ("cost", "no cost"),
        )
        hours = Limits.of(spec.config).max_hours
        ends = "" if hours is None else f"at most {hours:g} h (limits.max_hours), then it saves and ends"
        return Plan(spec, handle_for(folder), (*rows, *([("time", ends)] if ends else [])))

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Train, and return when training has ended. An error of the run is recorded, then raised.

        A run that has succeeded is not trained again, unless files of its result are missing, and one that was
        interrupted is resumed. If its settings are refused before anything was trained, no new folder is left.
        Raises LaunchError if another process is training it, and StorageError if its folder cannot be written.
        """
        folder = RunFolder(Path(plan.spec.folder))
        limit = TimeLimit(Limits.of(plan.spec.config).max_hours)
        if not ranks.here().first:  # the first process records the state of all
            with limit.counting():
                self._train(plan.spec, folder, watch)
            return plan.handle
        state: State | None = None
        finished: FinishedRun | None = None
        is_new = not (folder.path.is_dir() and any(folder.path.iterdir()))
        try:
            with _storage_errors(folder.path), claimed(folder.path):
                before = self.status(plan.handle)
                alone = not ranks.here().several  # otherwise the others have started training and wait for this one
                if alone and before.phase is Phase.SUCCEEDED and _is_done(plan.spec, folder):
                    return plan.handle
                if not before.finished:
                    raise LaunchError(alive_message(folder.path))
                if plan.spec.going_on is None and not on_rented_machine():  # it may have been begun since the plan
                    refuse_other_settings(folder.path, _plain(plan.spec.config))
                if before.phase is Phase.SUCCEEDED or (launched(folder.path) or {}).get("home"):
                    finished = FinishedRun.in_folder(folder.path)
                write_text(folder.path / SPEC_FILE, plan.spec.to_json())
                for stale in (CANCEL_FILE, LAUNCHED_FILE):  # from here on it is a local run
                    (folder.path / stale).unlink(missing_ok=True)
                state = State.of_this_process(before)
                state.write(folder.path)
            RUNNING_HERE.add(folder.path)
            with limit.counting():
                self._run(plan.spec, folder, state, watch)
        except BaseException as error:  # including Ctrl-C while torch is being imported
            refused = isinstance(error, ConfigError | WeightsError) and not has_begun(folder.path)
            if refused and is_new and not on_rented_machine():
                shutil.rmtree(folder.path, ignore_errors=True)
            elif state is not None:
                _record_end(folder, state, error, finished, limit)
            raise
        finally:
            RUNNING_HERE.discard(folder.path)
        return plan.handle

    def _run(self, spec: RunSpec, folder: RunFolder, state: State, watch: "Watch | None") -> None:
        with LogFile(folder.log) as log:
            log.begin(state.attempt, state.pid, state.host)
            self._train(spec, folder, watch)
        state.ended(Phase.SUCCEEDED, Cause.NONE, "").write(folder.path)

    def _train(self, spec: RunSpec, folder: RunFolder, watch: "Watch | None") -> None:
        from dogbreed import training  # here, because it loads torch, which `plan` and `--help` must not wait for

        git = {"commit": spec.commit, "dirty": spec.dirty}  # recorded with the environment
        config = {key: value for key, value in _plain(spec.config).items() if key != "aws"}
        training.run({**config, "git": git}, folder.path, watch)

    def status(self, handle: Handle) -> Status:
        folder = folder_of(handle)
        state = State.seen(folder)
        if state is None and searches.is_search(folder):
            return searches.SearchFolder.of(folder).status
        if state is None:
            return Status(Phase.LOST, Cause.UNKNOWN, f"There is no run in {shown_path(folder)}.")
        return Status(
            state.phase,
            state.cause,
            state.detail,
            state.attempt,
            state.first_started_at,
            log_tail=tail(RunFolder(folder).log) if state.phase in (Phase.FAILED, Phase.CANCELLED) else (),
            next_action=_next_action(state, folder),
        )

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        status = self.status(handle)
        if status.phase is Phase.LOST:
            raise LaunchError(status.detail)
        folder = folder_of(handle)
        lines = read_lines(
            RunFolder(folder).log if State.read(folder) is not None else searches.log_of(folder),
            over=lambda: not follow or self.status(handle).finished,
            poll_s=self.poll_s,
        )
        return (line for line in lines if attempt in (None, line.attempt) and node in (None, line.node))

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        folder = folder_of(handle)
        before, state = self.status(handle), State.read(folder)
        if before.finished:
            return before
        if state is None:
            self._cancel_search(folder, grace_s)
            return self.status(handle)
        if not state.of_this_host:
            raise LaunchError(
                f"The run in {shown_path(folder)} belongs to another machine: {before.detail}.\nTry: cancel it there"
            )
        process = state.process()
        if process is not None:  # None: it has just ended
            write_text(folder / CANCEL_FILE, f"by process {os.getpid()}\n")
            self._end(process, state, grace_s)
        return self.status(handle)

    def _cancel_search(self, folder: Path, grace_s: float) -> None:
        """Ask a search to save and stop; after `grace_s` seconds kill it, and its trials with it."""
        import psutil

        found, family = searches.SearchFolder.of(folder), []
        for each in found.processes():
            with suppress(psutil.NoSuchProcess):  # it may end at any moment
                family += each.children(recursive=True)
        _, alive = psutil.wait_procs(searches.request_cancel(found), timeout=grace_s)
        for process in [*alive, *(family if alive else [])]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=_KILLED_S)

    def _end(self, process: Any, state: State, grace_s: float) -> None:
        """Ask a run's process to end; after `grace_s` seconds kill it and its children.

        process: the psutil.Process of `state`. Raises LaunchError if it survives that.
        """
        import psutil

        with suppress(psutil.NoSuchProcess):  # it may end at any moment, as it should
            family = [process, *process.children(recursive=True)]
            process.terminate()
            if self._gone(state, within_s=grace_s):
                return
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            if not self._gone(state, within_s=_KILLED_S):
                still = f"Process {state.pid} still runs {_KILLED_S:g} s after it was killed"
                raise LaunchError(f"{still}: it waits for a device or a disk.")

    def _gone(self, state: State, *, within_s: float) -> bool:
        until = time.monotonic() + within_s
        while state.process() is not None:
            if time.monotonic() >= until:
                return False
            time.sleep(self.poll_s)
        return True

    def result(self, handle: Handle) -> RunResult:
        folder, status = RunFolder(folder_of(handle)), self.status(handle)
        where = shown_path(folder.path)
        if status.phase is not Phase.SUCCEEDED:
            raise LaunchError(f"The run in {where} has no result: {status}")
        if State.read(folder.path) is None:
            from launchers.runs.search_folder import read_search  # here, because it brings OmegaConf

            return read_search(handle, folder.path)
        return read_result(handle, folder)

    def download(self, handle: Handle) -> Path:
        return folder_of(handle)

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        folders = [*run_folders(self.runs_dir, self.sweeps_dir), *search_folders(self.sweeps_dir)]
        handles = [handle_for(folder) for folder in folders if name in folder.name]
        runs = [(handle, self.status(handle)) for handle in handles]
        runs.sort(key=lambda run: run[1].started_at, reverse=True)
        return (run for run in runs if not (active_only and run[1].finished))

    def name_of(self, handle: Handle) -> Sequence[str]:
        return [shown_path(folder_of(handle))]

    def folder(self, handle: Handle) -> Path | None:
        return folder_of(handle)

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        return folder_of(handle)  # a local run's files are there already

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """Find half-written files of processes that have died; with `apply`, remove them."""
        found, problems = half_written(run_folders(self.runs_dir, self.sweeps_dir), older_than), list[LaunchError]()
        for path in found if apply else ():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                problems.append(LaunchError(f"{shown_path(path)} cannot be deleted: {error.strerror}."))
        gone = tuple(str(path) for path in found if apply and not path.exists())
        return CleanupReport(tuple(map(str, found)), gone, tuple(problems))


def _record_end(
    folder: RunFolder, state: State, error: BaseException, finished: FinishedRun | None, limit: TimeLimit
) -> None:
    """Record how a run ended, in its log and its state, and add the next action to the error as a note.

    finished: the run as it was, if it had finished before; if its results are still there it stays finished.
    """
    how = outcome(error, cancelled=cancel_requested(folder.path))
    if limit.reached and how[0] is Phase.CANCELLED:
        how = (Phase.FAILED, Cause.TIME_LIMIT, str(limit))
        error.add_note(str(limit))
    ended = state.ended(*how)
    with LogFile(folder.log) as log:
        unexpected = error if ended.cause is Cause.USER_CODE else None
        log.write(logging.ERROR, f"{ended.phase}: {ended.detail}", unexpected)
    with suppress(StorageError):
        if finished is not None and finished.restore():
            error.add_note(f"The finished run in {shown_path(folder.path)} is as it was.")
            return
    with suppress(StorageError):  # if the disk is full, the first error is the one to show
        ended.write(folder.path)
    if hint := _next_action(ended, folder.path):
        error.add_note(hint)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(config))  # the run may keep and change its own
    return copied


def _is_done(spec: RunSpec, folder: RunFolder) -> bool:
    """Return whether the folder holds the result of this very run."""
    try:
        before = RunSpec.from_json((folder.path / SPEC_FILE).read_text()).config
    except (OSError, ValueError, KeyError, TypeError):
        return False
    same = _about_the_run(before) == _about_the_run(_plain(spec.config))
    return same and has_result(folder, tested=bool(spec.config.get("test", True)))


def _about_the_run(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in STAYS_HERE}


def _next_action(state: State, folder: Path) -> str:
    if on_rented_machine():
        return ""
    again = resume_command(folder)
    match state.phase, state.cause:
        case (Phase.CANCELLED, _) | (Phase.FAILED, Cause.INTERRUPTED):
            return f"Resume it with: {again}"
        case Phase.FAILED, Cause.USER_CODE:
            log = shown_path(RunFolder(folder).log)
            return f"The traceback is in {log}, and debug=true shows it here. Then resume it with: {again}"
        case Phase.FAILED, _:
            return f"Then resume it with: {again}"
    return ""


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error
