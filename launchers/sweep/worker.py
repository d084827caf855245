"""A worker process that runs trials one after the other, with torch imported once, and the sweeper's handle of it.

Tasks are sent to it over a pipe, and it sends back each epoch's metrics and the outcome. Nothing is written to a second
pipe: when it closes, the sweeper has died in whatever way, and the worker ends as well.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Literal

from launchers.base import Launcher
from launchers.follow import may_go_on, wait
from launchers.project import PROJECT
from launchers.status import Handle, LaunchError, Shortage

_START = "import sys; from launchers.sweep.worker import main; main(sys.argv[1:])"
_ALIVE_S = 30.0  # within which a run's earlier process notices that its sweeper has died


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run. ended: "busy" if another process is working in the run's folder and does not end; "out of
    sight" if it is a job that cannot be followed any more, and may go on.

    metrics: of the best epoch, if it ended well. shown: metrics and files, as text for people. detail: what stopped it.
    shortage: why there was no machine for it, if it ended as "no machine". usd: what it has cost; None if it costs
    nothing, or that is not known.
    """

    ended: Literal["well", "failed", "stopped", "busy", "no machine", "out of sight"]
    metrics: Mapping[str, float] = field(default_factory=dict)
    max_epochs: int = 0
    detail: str = ""
    shown: str = ""
    shortage: Shortage | None = None
    usd: float | None = None


@dataclass(frozen=True)
class Epoch:
    """The validation metrics of one epoch. The worker waits for an answer: True ends the training."""

    number: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """One run for a worker.

    overrides: the run's. first: only compute the features that all trials share. folder: where that pass writes its
    findings. cpus: CPUs that the worker is pinned to from now on; None leaves them as they are. asks: whether to report
    each epoch and wait for an answer. takes_over: whether the run's folder is certainly free, even if its state names
    another machine.
    """

    overrides: tuple[str, ...]
    first: bool = False
    folder: str = ""
    cpus: tuple[int, ...] | None = None
    asks: bool = False
    takes_over: bool = False


class Worker:
    """The sweeper's handle of a worker process, which has its own session: Ctrl-C in the terminal does not reach it."""

    def __init__(self, slot: int, log: Path) -> None:
        self.slot = slot
        log.parent.mkdir(parents=True, exist_ok=True)
        self.connection, worker_end = Pipe()
        lifeline, kept = os.pipe()
        self._lifeline: int | None = kept
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                # not -m: its classes would be pickled as those of __main__. -P: do not import from the current folder
                [sys.executable, "-P", "-c", _START, str(worker_end.fileno()), str(lifeline), str(slot)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=Path.cwd(),
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *_python_path()])},
                pass_fds=(worker_end.fileno(), lifeline),
                start_new_session=True,
            )
        worker_end.close()
        os.close(lifeline)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: "Task | bool") -> None:
        with suppress(OSError):  # it has just died, which `receive` reports
            self.connection.send(message)

    def receive(self) -> "Epoch | Outcome | None":
        """Return the next message; None if the process has ended."""
        try:
            message: Epoch | Outcome = self.connection.recv()
            return message
        except (EOFError, OSError):
            return None

    def interrupt(self) -> None:
        """Ask the worker to save its run and report the outcome."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the worker at once, with the processes that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self, *, wait_s: float = 5.0) -> str:
        """End the worker and the processes that it has started. Returns how it ended, in words. Idempotent."""
        self.connection.close()  # an idle worker ends when its connection closes
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        self.kill()
        status = self._process.wait()
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _python_path() -> list[str]:
    return [path for path in [os.environ.get("PYTHONPATH", "")] if path]


def main(arguments: Sequence[str]) -> None:
    pipe, lifeline, slot = map(int, arguments)
    connection = Connection(pipe)
    threading.Thread(target=_end_with_sweeper, args=(lifeline,), daemon=True).start()
    _own_gpu(slot)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            os._exit(0)  # the sweep is over; torch's own cleanup would take half a second
        if task.cpus is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, task.cpus)
        try:
            outcome = _warm_up(task) if task.first else _run(task, connection)
        except KeyboardInterrupt:
            outcome = Outcome("stopped")
        with suppress(OSError):  # the sweeper may have closed the connection, and waits for this process to end
            connection.send(outcome)
        if outcome.ended == "stopped":
            os._exit(0)


def _end_with_sweeper(lifeline: int) -> None:
    os.read(lifeline, 1)
    with suppress(OSError):
        os.killpg(0, signal.SIGKILL)  # including the processes that decode photos
    os._exit(1)


def _own_gpu(slot: int) -> None:
    """Give each slot its own GPU if there are several."""
    gpus = sorted(int(path.name.removeprefix("nvidia")) for path in Path("/dev").glob("nvidia[0-9]*"))
    if len(gpus) > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpus[slot % len(gpus)])


def _warm_up(task: Task) -> Outcome:
    from dogbreed import training
    from dogbreed.errors import DogBreedError, Interrupted
    from launchers.api import prepare

    try:
        _, plan = prepare(task.overrides)
        training.share(plan.spec.config, Path(task.folder))
    except Interrupted as error:
        return Outcome("stopped", detail=str(error))
    except DogBreedError as error:
        return Outcome("failed", detail=str(error))
    except Exception as error:
        return Outcome("failed", detail=f"{type(error).__name__}: {error}")
    return Outcome("well")


def _run(task: Task, connection: Connection) -> Outcome:
    """Run one trial as `train.py` would. Errors are returned in the outcome, not raised."""
    import time

    from dogbreed.errors import DogBreedError, Interrupted
    from launchers.api import prepare
    from launchers.runs.state import forget_elsewhere

    def ask(epoch: int, metrics: Mapping[str, float]) -> bool:
        connection.send(Epoch(epoch, metrics))
        return bool(connection.recv())

    begun: tuple[Launcher, Handle] | None = None
    try:
        launcher, plan = prepare(task.overrides)
        begun = launcher, plan.handle
        max_epochs = int(plan.spec.config["trainer"]["max_epochs"])
        until = time.monotonic() + _ALIVE_S
        # a remote job that is still running needs no waiting: submitting its plan again attaches to it
        while not launcher.capabilities.remote and not launcher.status(plan.handle).finished:
            if task.takes_over and forget_elsewhere(Path(plan.spec.folder)):
                break
            if time.monotonic() > until:
                return Outcome("busy", detail=launcher.status(plan.handle).detail)
            time.sleep(0.1)  # the run's earlier process is about to notice that its sweeper has died
        handle = launcher.submit(plan, watch=ask) if task.asks else launcher.submit(plan)
        result = wait(launcher, handle)
        return Outcome("well", result.metrics, max_epochs, shown=str(result), usd=_usd(begun))
    except Interrupted as error:
        return Outcome("stopped", detail=str(error))
    except DogBreedError as error:
        shortage = error.shortage if isinstance(error, LaunchError) else None
        if shortage is not None:
            return Outcome("no machine", detail=str(error), shortage=shortage, usd=_usd(begun))
        return _without_result(begun, str(error))
    except (
        Exception
    ) as error:  # an error in the user's code or in this library; its traceback is in the run's train.log
        return _without_result(begun, f"{type(error).__name__}: {error}")


def _without_result(begun: tuple[Launcher, Handle] | None, detail: str) -> Outcome:
    """Return the outcome of a run after an error. detail: of the error.

    A run on this machine that goes on all the same is another process's, which has begun with it in this moment: one
    that outlives its sweeper, and is about to notice.
    """
    if begun is not None and may_go_on(*begun):
        return Outcome("out of sight" if begun[0].capabilities.remote else "busy", detail=detail)
    return Outcome("failed", detail=detail, usd=_usd(begun))


def _usd(begun: tuple[Launcher, Handle] | None) -> float | None:
    """Return what a run has cost; None if it has not begun, costs nothing, or that cannot be found out."""
    if begun is None:
        return None
    launcher, handle = begun
    try:
        return launcher.status(handle).usd
    except LaunchError:
        return None
