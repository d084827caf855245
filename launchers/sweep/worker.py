"""A process that runs trials one after the other, with torch imported once, and the sweeper's end of it.

It speaks over a pipe: what to run in, each epoch's numbers and what came of it out. A second pipe is never written to:
its end tells the process that its sweeper has died, however that was, and it ends, too.
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

from launchers.project import PROJECT

_START = "import sys; from launchers.sweep.worker import main; main(sys.argv[1:])"
_ALIVE_S = 30.0  # how long a run's earlier process may take to notice that its sweeper has died


@dataclass(frozen=True)
class Outcome:
    """What came of a run. metrics: of its best epoch, where it ended well; shown: they and its files, for people.
    detail: of what stopped it. busy: another process works in the run's folder, and does not end.
    """

    ended: Literal["well", "failed", "stopped", "busy"]
    metrics: Mapping[str, float] = field(default_factory=dict)
    max_epochs: int = 0
    detail: str = ""
    shown: str = ""


@dataclass(frozen=True)
class Epoch:
    """Numbers of a validation. The process waits for an answer: true ends the training."""

    number: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """overrides: of one run. first: only make what all trials share, its features; folder: for what is found on the
    way. cpus: what the process keeps to from now on; null for what it has. asks: whether epochs are to be reported.
    takes_over: whether nobody else can be at work in the run's folder, whatever its state says of another machine.
    """

    overrides: tuple[str, ...]
    first: bool = False
    folder: str = ""
    cpus: tuple[int, ...] | None = None
    asks: bool = False
    takes_over: bool = False


class Worker:
    """The sweeper's end. Nothing that the terminal sends to a group of processes reaches the other one."""

    def __init__(self, slot: int, log: Path) -> None:
        self.slot = slot
        log.parent.mkdir(parents=True, exist_ok=True)
        self.connection, theirs = Pipe()
        lifeline, kept = os.pipe()
        self._lifeline: int | None = kept
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                # not -m: what it sends would be of a module that is called __main__. -P: nor from the current folder
                [sys.executable, "-P", "-c", _START, str(theirs.fileno()), str(lifeline), str(slot)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=Path.cwd(),
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *_python_path()])},
                pass_fds=(theirs.fileno(), lifeline),
                start_new_session=True,
            )
        theirs.close()
        os.close(lifeline)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: "Task | bool") -> None:
        with suppress(OSError):  # it has just died, which `receive` finds out
            self.connection.send(message)

    def receive(self) -> "Epoch | Outcome | None":
        """What came; null where the process has ended."""
        try:
            message: Epoch | Outcome = self.connection.recv()
            return message
        except (EOFError, OSError):
            return None

    def interrupt(self) -> None:
        """Have it save what it does and say so."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """At once, with the processes that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self, *, wait_s: float = 5.0) -> str:
        """Make sure that it is gone, with what it has started. Returns how it ended, in words. May be called again."""
        self.connection.close()  # an idle one ends by that
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
            os._exit(0)  # the sweep is over; torch's own tidying up takes half a second
        if task.cpus is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, task.cpus)
        try:
            outcome = _warm_up(task) if task.first else _run(task, connection)
        except KeyboardInterrupt:
            outcome = Outcome("stopped")
        with suppress(OSError):  # the sweeper waits for the end, not for the word
            connection.send(outcome)
        if outcome.ended == "stopped":
            os._exit(0)


def _end_with_sweeper(lifeline: int) -> None:
    os.read(lifeline, 1)
    with suppress(OSError):
        os.killpg(0, signal.SIGKILL)  # with the processes that decode photos
    os._exit(1)


def _own_gpu(slot: int) -> None:
    """Where there are several GPUs, trials that run at once take different ones."""
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
    """One run, from overrides to metrics, as `train.py` makes it; its errors are in the outcome."""
    import time

    from dogbreed.errors import DogBreedError, Interrupted
    from launchers.api import prepare
    from launchers.follow import wait
    from launchers.runs.state import forget_elsewhere

    def ask(epoch: int, metrics: Mapping[str, float]) -> bool:
        connection.send(Epoch(epoch, metrics))
        return bool(connection.recv())

    try:
        launcher, plan = prepare(task.overrides)
        max_epochs = int(plan.spec.config["trainer"]["max_epochs"])
        until = time.monotonic() + _ALIVE_S
        # a job elsewhere that is still going on is what submitting its plan again attaches to
        while not launcher.capabilities.remote and not launcher.status(plan.handle).finished:
            if task.takes_over and forget_elsewhere(Path(plan.spec.folder)):
                break
            if time.monotonic() > until:
                return Outcome("busy", detail=launcher.status(plan.handle).detail)
            time.sleep(0.1)  # in a process that is about to notice that its sweeper has died
        handle = launcher.submit(plan, watch=ask) if task.asks else launcher.submit(plan)
        result = wait(launcher, handle)
        return Outcome("well", result.metrics, max_epochs, shown=str(result))
    except Interrupted as error:
        return Outcome("stopped", detail=str(error))
    except DogBreedError as error:
        return Outcome("failed", detail=str(error))
    except Exception as error:  # a user's own code, or a slip of ours: the traceback is in the run's train.log
        return Outcome("failed", detail=f"{type(error).__name__}: {error}")
