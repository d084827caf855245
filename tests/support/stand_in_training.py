"""Takes the place of train.py on rehearsed machines: counts steps, saves them as checkpoints, and notes what it does.

What runs it is real: user data, launchers/remote/ec2.py, sync.py and entry.py. NOTES, the folder of the notes of all
runs, is set in it.
"""

import fcntl
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

NOTES = ""
STEPS, STEP_S = 40, 0.2
EVERY = 10  # steps between two checkpoints, which are an epoch
_stop = False


def notes() -> Path:
    """Return the file of the run that this attempt belongs to."""
    group = os.environ["TRAINING_JOB_NAME"].rpartition("-")[0].partition("--")[0]
    return Path(NOTES) / f"{group}.jsonl"


def note(event: str, step: int) -> None:
    with notes().open("a") as file:  # whole lines: one short write to a file opened for appending
        file.write(json.dumps({"event": event, "step": step, "at": time.time(), "pid": os.getpid()}) + "\n")


def on_signal(number: int, frame: FrameType | None) -> None:
    global _stop
    _stop = True


def save(folder: Path, step: int) -> None:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    temporary = folder / "checkpoints" / ".last.ckpt.sagemaker-ignore"
    temporary.write_text(json.dumps({"step": step}))
    temporary.replace(folder / "checkpoints" / "last.ckpt")
    note("saved", step)


def end(folder: Path) -> None:
    """Write what a run that has succeeded leaves."""
    (folder / "checkpoints" / "best.ckpt").write_text("weights")
    (folder / "metrics.json").write_text(json.dumps({"val/acc": 1.0, "test/acc": 1.0, "epochs": STEPS // EVERY}))
    (folder / "report.html").write_text("a report")
    (folder / "config.yaml").write_text("seed: 0\n")


def main() -> int:
    signal.signal(signal.SIGTERM, on_signal)
    base = Path(os.environ["SAGEMAKER_BASE_DIR"])
    folder, save_now = base / "checkpoints", Path(os.environ["DOGBREED_SAVE_NOW"])
    lock = os.open(notes().with_suffix(".lock"), os.O_CREAT | os.O_RDWR)
    step = 0
    with suppress(FileNotFoundError):
        step = int(json.loads((folder / "checkpoints" / "last.ckpt").read_text())["step"])
    note("started", step)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("overlap", step)
    (folder / "spec.json").write_text("{}")
    while step < STEPS and not _stop:
        time.sleep(STEP_S)
        step += 1
        note("at", step)
        if step % EVERY == 0:
            save(folder, step)
            line = f"epoch {step // EVERY}/{STEPS // EVERY}  train loss 1.00 acc 50.0%  val loss 1.00 acc 50.0%"
            print(f"{line}  100 images/s  1 s", flush=True)
        elif save_now.exists():
            save_now.unlink()
            save(folder, step)
    if step < STEPS:
        save(folder, step)
        note("asked to end", step)
        reason = {"cause": "interrupted", "detail": "SIGTERM", "consequence": False}
        Path(os.environ["DOGBREED_REASON"]).write_text(json.dumps(reason))
        return 128 + signal.SIGTERM
    end(folder)
    note("ended", step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
