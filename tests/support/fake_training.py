"""Trials without training: a launcher as the local one is, in whose runs a formula takes the place of the network.

Only `LocalLauncher._train` is overridden, where torch would begin. Everything else is real: processes, run folders,
states, the database.
"""

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from omegaconf import OmegaConf

from dogbreed.errors import ConfigError
from dogbreed.interruption import Interruption
from dogbreed.progress import Epoch
from dogbreed.run_folder import RunFolder, write_json, write_text
from launchers.local import LocalLauncher
from launchers.plan import Costs, Plan
from launchers.spec import RunSpec
from launchers.status import Cause, Handle, LaunchError, Shortage, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

log = logging.getLogger("dogbreed")

LONGEST_S = 300.0  # that a trial waits for others; then it goes on, and the test says what it misses
OVERRIDES = [  # of a search over formulas
    "launcher._target_=tests.support.fake_training.FakeLauncher",
    "features.mode=off",  # no features to be made before the first trial
    "data=drawn",
    "trainer.max_epochs=4",
]


def objective(config: Mapping[str, Any], epoch: int) -> float:
    """At its best, 1, for lr=0.01 without dropout; rises with the epochs."""
    model = config["model"]
    return float(1 - 0.1 * (math.log10(model["lr"]) + 2) ** 2 - 0.1 * model["dropout"] - 0.3 / epoch)


@dataclass(frozen=True)
class FakeLauncher(LocalLauncher):
    """FAKE_QUOTA: how many runs find a machine at once. FAKE_NO_CAPACITY: how many submissions find none at first."""

    poll_s: float = 0.02

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        with _machine():
            return super().submit(plan, watch=watch)

    def _train(self, spec: RunSpec, folder: RunFolder, watch: "Watch | None") -> None:
        train(spec, folder, watch)


@dataclass(frozen=True)
class PaidLauncher(FakeLauncher):
    """Takes a quarter of a dollar for each attempt of a run that has ended."""

    def plan(self, spec: RunSpec) -> Plan:
        costs = Costs(worst_usd=3.0, least_usd=0.05, least_h=0.0, expected_usd=0.2)
        return replace(super().plan(spec), costs=costs)

    def status(self, handle: Handle) -> Status:
        status = super().status(handle)
        return replace(status, usd=0.25 * status.attempt if status.finished else None)


@contextmanager
def _machine() -> Iterator[None]:
    """Raise the LaunchError of a cloud that has no machine now.

    A run that has one under FAKE_QUOTA keeps it until its end.
    """
    place, quota = os.environ["FAKE_LOG"], os.environ.get("FAKE_QUOTA")
    for number in range(int(os.environ.get("FAKE_NO_CAPACITY", "0"))):
        with suppress(FileExistsError):
            os.close(os.open(f"{place}.refused{number}", os.O_CREAT | os.O_EXCL))
            raise LaunchError("No capacity.\nTry: later", Cause.CAPACITY, Shortage("no capacity"))
    if quota is None:
        yield
        return
    for number in range(int(quota)):
        lock = os.open(f"{place}.machine{number}", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
            return
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
    shortage = Shortage(f"the quota of {quota} is used up", int(quota), int(quota), 1)
    raise LaunchError("The account has reached a service quota.\nTry: raise it", Cause.QUOTA, shortage)


def train(spec: RunSpec, folder: RunFolder, watch: "Watch | None") -> None:
    """Take the seconds and end in the way that the environment asks for; record when it began and ended.

    FAKE_WAITS, such as {"1": 7}: trial 1 begins to train when 7 others have ended. FAKE_AFTER, such as {"0": 1}: trial
    0 begins to train when trial 1 has begun. FAKE_HELD, such as {"2": 1} or {"others": 0}: trial 2 goes on after its
    first epoch when somebody has called `release`. None of them waits for longer than LONGEST_S.
    """
    if spec.config["test"] and os.environ.get("FAKE_TEST") == "dies":
        os._exit(9)
    if spec.config["test"] and folder.metrics.exists():
        write_json(folder.metrics, {**json.loads(folder.metrics.read_text()), "test/acc": 0.5})
        return
    number = int(spec.run_id.rpartition("-")[2])
    began = time.monotonic()
    _claim(folder.path / "writer.lock", number)
    _note({"trial": number, "pid": os.getpid(), "began": began})
    _fail(os.environ.get("FAKE_FAILS", ""), number)
    seconds, held_after = _asked("FAKE_SECONDS", number, 0.02), _asked("FAKE_HELD", number, None)
    others, before = _asked("FAKE_WAITS", number, 0), _asked("FAKE_AFTER", number, None)
    epochs = spec.config["trainer"]["max_epochs"]
    trained, best = 0, -math.inf
    with Interruption():
        _wait_until(lambda: sum("ended" in note for note in _notes()) >= others)
        _wait_until(lambda: before is None or any(note.get("trial") == before for note in _notes()))
        for epoch in range(1, epochs + 1):
            if held_after == epoch - 1:
                _wait_until(_released().exists)
            time.sleep(seconds / epochs)
            trained, value = epoch, objective(spec.config, epoch)
            best = max(best, value)
            log.info("%s", Epoch(epoch, epochs, 1.0, 0.5, 1.0, value, images_per_s=100, seconds=seconds / epochs))
            if watch is not None and watch(epoch, {"val/acc": value}):
                break
    if str(number) in os.environ.get("FAKE_NAN", "").split(","):
        best = math.nan
    write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create(dict(spec.config))))
    write_text(folder.best, f"weights of {spec.config['model']['lr']}\n")
    write_text(folder.report, "a report\n")
    tested = {"test/acc": 0.5} if spec.config["test"] else {}
    write_json(folder.metrics, {"val/acc": best, "epochs": trained, **tested})
    _note({"trial": number, "pid": os.getpid(), "began": began, "ended": time.monotonic()})


def release() -> None:
    """Let trials that FAKE_HELD holds go on."""
    _released().touch()


def _released() -> Path:
    return Path(f"{os.environ['FAKE_LOG']}.released")


def _asked(name: str, number: int, usual: Any) -> Any:
    """Return what a variable asks of a trial, by its number or as one of the others."""
    by_number = json.loads(os.environ.get(name, "{}"))
    return by_number.get(str(number), by_number.get("others", usual))


def _wait_until(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + LONGEST_S
    while not reached() and time.monotonic() < until:
        time.sleep(0.02)


def _claim(file: Path, number: int) -> None:
    """Note whether a living process trains in this trial's folder; the claim ends with this process.

    Of a process that was killed, a thread may hold the lock for a moment longer.
    """
    lock = os.open(file, os.O_CREAT | os.O_RDWR)

    def mine() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(lock, f"{os.getpid():<20}".encode(), 0)
            return True
        return False

    _wait_until(lambda: mine() or _lives(int(os.pread(lock, 20, 0) or 0)))
    if not mine():
        _note({"overlap": number})


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _fail(how: str, number: int) -> None:
    """how: such as `3:bad,4:code,5:death`, or `*:bad` for all."""
    ways = dict(part.split(":") for part in how.split(",") if part)
    way = ways.get(str(number), ways.get("*"))
    if way == "bad":
        raise ConfigError(f"Training has diverged: in epoch {number + 1} the loss is nan.\nTry: a smaller model.lr")
    if way == "code":
        raise ZeroDivisionError(f"of trial {number}")
    if way == "death":
        os._exit(9)


def _notes() -> list[dict[str, Any]]:
    return whole_notes(Path(os.environ["FAKE_LOG"]))


def whole_notes(file: Path) -> list[dict[str, Any]]:
    """Return the notes in the file, but for the one that is being written."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _note(line: dict[str, Any]) -> None:
    with Path(os.environ["FAKE_LOG"]).open("a") as file:  # whole lines: one short write to a file opened for appending
        file.write(json.dumps(line) + "\n")
