"""Takes the place of training: counts steps, saves them as checkpoints, and notes what it does.

As train.py of a rehearsed machine it is sent in place of the project's; what runs it there is real: user data,
launchers/remote/ec2.py, sync.py and entry.py. `train` is also what stands for training on this machine. Notes are in
a file for each run, in the folder `notes` of the cloud's state.
"""

import fcntl
import json
import os
import pickle
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

STEP_S = 0.2
EVERY = 10  # steps between two checkpoints, which are an epoch


@dataclass
class Notes:
    """What one attempt of a run does. folder: of all runs' notes. job: which of them does it. rank: of its process."""

    folder: Path
    run_id: str
    job: str
    rank: int = 0

    def __call__(self, event: str, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {"event": event, "step": step, "at": time.time(), "job": self.job, "pid": os.getpid()}
        with (self.folder / f"{self.run_id}.jsonl").open("a") as file:  # whole lines: one short write, appended
            file.write(json.dumps(line) + "\n")

    def claim(self) -> None:
        """Note whether another process trains this run now; the claim ends with this process.

        One that was killed is dying while its parent ends, and keeps the claim for a moment longer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / f"{self.run_id}.{self.rank}.lock", os.O_CREAT | os.O_RDWR)
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not _lives(int(os.pread(self._lock, 20, 0) or 0)):
                    time.sleep(0.02)
                    continue
                self("overlap", 0)
            else:
                os.pwrite(self._lock, f"{os.getpid():<20}".encode(), 0)
            return


def _lives(pid: int) -> bool:
    """Return whether a process runs which nobody has killed."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        pending = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it is gone
        return False
    killed = any(
        int(line.split()[1], 16) & 1 << signal.SIGKILL - 1
        for line in pending.splitlines()
        if line.startswith(("SigPnd:", "ShdPnd:"))
    )
    return pid > 0 and state not in ("Z", "X") and not killed


def saved_step(folder: Path) -> int:
    try:
        with zipfile.ZipFile(folder / "checkpoints" / "last.ckpt") as archive:
            return int(pickle.loads(archive.read("last/data.pkl"))["global_step"])
    except (OSError, KeyError, zipfile.BadZipFile):
        return 0


def noted_step(note: Notes) -> int:
    """Return the step that the run has come to, as its notes say."""
    lines = (note.folder / f"{note.run_id}.jsonl").read_text().splitlines()
    return int(json.loads(lines[-1])["step"])


def save(folder: Path, step: int) -> None:
    """Write a checkpoint as far as launchers read one, and what is beside it."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    at = {"epoch": max(0, (step - 1) // EVERY), "global_step": step}
    temporary = folder / "checkpoints" / ".last.ckpt.sagemaker-ignore"
    with zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr("last/data.pkl", pickle.dumps(at))
    temporary.replace(folder / "checkpoints" / "last.ckpt")
    _write(folder / "checkpoints" / "last.json", json.dumps({"epoch": at["epoch"], "step": step}))


def end(folder: Path, epochs: int) -> None:
    """Write what a run that has succeeded leaves."""
    (folder / "checkpoints" / "best.ckpt").write_text("weights")
    (folder / "report.html").write_text("a report")
    _write(folder / "metrics.json", json.dumps({"val/acc": 1.0, "test/acc": 1.0, "epochs": epochs}))


def train(
    folder: Path,
    epochs: int,
    note: Notes,
    *,
    stopped: Callable[[], bool] = lambda: False,
    save_now: Path | None = None,
    began: Callable[[int], None] = lambda step: None,
) -> bool:
    """Go on from the checkpoint in the folder. Return False if it was stopped before its end; it has saved by then.

    save_now: a file whose appearance asks for a checkpoint. began: called with the number of each step.
    """
    step, steps, first = saved_step(folder), epochs * EVERY, note.rank == 0
    note.claim()
    if first:
        note("started", step)
    rows = folder / "metrics.csv"
    while step < steps and not stopped():
        began(step + 1)
        time.sleep(STEP_S)
        step += 1
        if not first:
            continue
        note("at", step)
        if step % EVERY == 0:
            with rows.open("a") as file:
                file.write(f"{step // EVERY},1.0\n" if file.tell() else f"epoch,val/acc\n{step // EVERY},1.0\n")
            save(folder, step)
            note("saved", step)
            line = f"epoch {step // EVERY}/{epochs}  train loss 1.00 acc 50.0%  val loss 1.00 acc 50.0%"
            print(f"{line}  100 images/s  1 s", flush=True)
        elif save_now is not None and save_now.exists():
            save_now.unlink()
            save(folder, step)
            note("saved", step)
    if step < steps:
        if first:
            save(folder, step)
            note("asked to end", step)
        return False
    if first:
        end(folder, epochs)
        note("ended", step)
    return True


# --- as train.py of a machine ---


_stop = False


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _stop
    _stop = True


def _of_machine() -> tuple[dict[str, Any], Notes]:
    """Return the config of the run, and its notes."""
    sent = json.loads(Path(os.environ["DOGBREED_SENT"]).read_bytes())["spec"]
    place = Path(os.environ.get("DOGBREED_REHEARSED_MACHINE") or os.environ["SAGEMAKER_BASE_DIR"]).resolve()
    cloud = next(folder for folder in place.parents if (folder / "iam.json").exists())
    job, rank = os.environ.get("TRAINING_JOB_NAME", ""), int(os.environ.get("RANK", "0"))
    run_id = job if sent.get("tuning") else sent["run_id"]  # the trials of a tuner are jobs, and share its settings
    return sent["config"], Notes(cloud / "notes", run_id, job, rank)


def _search() -> int:
    """Run the project's own search, in whose trials a formula takes the place of the network."""
    import runpy

    import sitecustomize  # the tests' own, which every process of theirs imports

    root = Path(sitecustomize.__file__).parents[3]
    _, note = _of_machine()
    note("machine", 0)
    os.environ |= {
        "FAKE_LOG": str(note.folder / f"{note.run_id}.jsonl"),
        "FAKE_SECONDS": json.dumps({"others": EVERY * STEP_S}),
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
    }
    sys.path.insert(0, str(root))
    sys.argv = [str(root / "train.py"), *sys.argv[1:], "launcher._target_=tests.support.fake_training.FakeLauncher"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


def main() -> int:
    if "-m" in sys.argv:
        return _search()
    signal.signal(signal.SIGTERM, _on_signal)
    given = dict(text.partition("=")[::2] for text in sys.argv[1:])
    folder = Path(given.get("hydra.run.dir") or given["resume"])
    config, note = _of_machine()
    if note.rank == 0:
        _write(folder / "config.yaml", json.dumps(config))
        (folder / "spec.json").write_text("{}")
    asked = os.environ.get("DOGBREED_SAVE_NOW")
    epochs = int(config["trainer"]["max_epochs"])
    if train(folder, epochs, note, stopped=lambda: _stop, save_now=Path(asked) if asked else None):
        return 0
    reason = {"cause": "interrupted", "detail": "SIGTERM", "consequence": False}
    Path(os.environ["DOGBREED_REASON"]).write_text(json.dumps(reason))
    return 128 + signal.SIGTERM


def _write(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, whenever it is copied or this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.sagemaker-ignore")
    with suppress(FileNotFoundError):
        temporary.write_text(text)
        temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
