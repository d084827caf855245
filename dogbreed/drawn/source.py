"""Create a data set of drawn dogs, 133 breeds, in the layout of dogImages.

    python -m dogbreed.drawn SHEET.jpg      # a contact sheet: one picture of every breed

Each picture is a function of (FORMAT, seed, breed, split, index) alone. Several processes draw the set into a folder
beside `root`, which is renamed to `root` once it is complete: at any moment there is a complete set or none.
"""

import io
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dogbreed.breeds import BREEDS
from dogbreed.drawn.scene import picture
from dogbreed.drawn.traits import TRAITS
from dogbreed.errors import ConfigError, DataError, raise_findings
from dogbreed.hardware import available_cpus
from dogbreed.run_folder import storage_error

FORMAT = 1  # increase with every change of the drawings, so that an old set is not mistaken for a new one
SPLITS = ("train", "valid", "test")
_CHUNK = 8  # pictures between two reports of a worker: a quarter of a second


log = logging.getLogger("dogbreed")


@dataclass(frozen=True)
class DrawnDogs:
    """A data source: `prepare` ensures that a folder holds the set that these settings describe."""

    seed: int = 0
    train: int = 10  # photos of each breed
    valid: int = 3
    test: int = 3
    breeds: int = len(BREEDS)  # the number of breeds, in order
    min_px: int = 200  # each side of a photo is drawn from this range
    max_px: int = 330
    quality: int = 88  # of the JPEG
    processes: int | None = None  # None: as many as there are CPUs; the files do not depend on it

    def prepare(self, root: Path) -> None:
        """Draw the set into `root`, which must not exist or be empty; do nothing if it already holds this set.

        Two processes may do this at once. Raises ConfigError for settings out of range, DataError if `root` holds
        something else (which is left unchanged), StorageError if the disk is full.
        """
        self._check()
        root = Path(root).resolve()  # a link to an empty folder is allowed, too
        if self._is_there(root):
            return
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(root)
            with _temporary_sibling(root) as folder:
                self._draw(folder)
                self._move(folder, root)
        except OSError as error:
            raise storage_error(root, error) from error

    def settings(self) -> dict[str, Any]:
        """Return the settings that the files depend on, as written into drawn.json."""
        settings = asdict(self)
        del settings["processes"]
        return {"format": FORMAT, **settings}

    def photos(self) -> list[tuple[str, str, int]]:
        """Return (split, breed, number) of every photo; a breed's photos are numbered from 1 across all splits."""
        first = {"train": 0, "valid": self.train, "test": self.train + self.valid}
        counts = {"train": self.train, "valid": self.valid, "test": self.test}
        return [
            (split, breed, first[split] + i + 1)
            for breed in BREEDS[: self.breeds]
            for split in SPLITS
            for i in range(counts[split])
        ]

    def photo(self, split: str, breed: str, number: int) -> Image.Image:
        """Draw one photo."""
        key = [FORMAT, self.seed, BREEDS.index(breed), SPLITS.index(split), number]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
        width, height = (self.min_px + int((self.max_px - self.min_px + 1) * v) for v in rng.random(2).tolist())
        return picture(TRAITS[breed], rng, (width, height))

    def _check(self) -> None:
        findings = [
            f"{name}={value!r} of the drawn dogs is out of range: {low} to {high}"
            for name, value, low, high in (
                ("seed", self.seed, 0, 2**63 - 1),
                ("train", self.train, 1, 99_999),
                ("valid", self.valid, 1, 99_999),
                ("test", self.test, 1, 99_999),
                ("breeds", self.breeds, 1, len(BREEDS)),
                ("min_px", self.min_px, 32, 4096),
                ("max_px", self.max_px, self.min_px, 4096),
                ("quality", self.quality, 1, 95),
            )
            if not low <= value <= high
        ]
        raise_findings(ConfigError, findings)

    def _is_there(self, root: Path) -> bool:
        """Return whether `root` holds this set. Raises DataError if it holds anything else."""
        if (root.is_dir() and os.path.ismount(root)) or root == root.parent:
            raise DataError(f"{root} is a mount point, which no folder can be renamed to.\nTry: a folder inside it")
        if not root.exists():
            return False
        if not root.is_dir():
            raise DataError(f"{root} is a file; the drawn dogs need a folder.\nTry: another data.root")
        held = sorted(path.name for path in root.iterdir())
        if not held:
            return False
        try:
            found = json.loads((root / "drawn.json").read_text())
        except (OSError, ValueError):
            raise DataError(
                f"{root} is not a set of drawn dogs; it contains {', '.join(held[:3])}"
                f"{', ...' if len(held) > 3 else ''}. It was not changed.\n"
                "Try: data=folder to train on its photos, or data.root=<a new or empty folder>"
            ) from None
        wanted = self.settings()
        if found == wanted:
            return True
        found = found if isinstance(found, dict) else {}
        other = [k for k in {**wanted, **found} if wanted.get(k) != found.get(k)]
        raise DataError(
            f"{root} contains dogs drawn with other settings. Found: "
            + ", ".join(f"{k}={found.get(k)}" for k in other)
            + "; requested: "
            + ", ".join(f"{k}={wanted.get(k)}" for k in other)
            + ". It was not changed.\nTry: data.root=<another folder>, or delete that one to draw it again"
        )

    def _draw(self, folder: Path) -> None:
        jobs = self.photos()
        for split in SPLITS:
            for breed in BREEDS[: self.breeds]:
                (folder / split / breed).mkdir(parents=True)
        processes = min(self.processes or available_cpus(), -(-len(jobs) // _CHUNK))
        with _progress(len(jobs), f"{self.breeds} breeds", folder) as advance:
            for done in (
                self._draw_shard(folder, 0, 1) if processes == 1 else self._draw_in_processes(folder, processes)
            ):
                advance(done)
        (folder / "drawn.json").write_text(json.dumps(self.settings(), indent=2) + "\n")
        if hasattr(os, "sync"):
            os.sync()  # sync the photos before the rename, with one call instead of one per photo

    def _draw_shard(self, folder: Path, shard: int, shards: int) -> Iterator[int]:
        """Draw every `shards`-th photo from `shard` on; yield how many were drawn since the last yield."""
        jobs = self.photos()[shard::shards]
        for at in range(0, len(jobs), _CHUNK):
            chunk = jobs[at : at + _CHUNK]
            for split, breed, number in chunk:
                path = folder / split / breed / f"{breed.partition('.')[2]}_{number:05d}.jpg"
                content = io.BytesIO()  # Pillow itself would ignore a short write to a full disk
                self.photo(split, breed, number).save(content, "JPEG", quality=self.quality)
                path.write_bytes(content.getvalue())
            yield len(chunk)

    def _draw_in_processes(self, folder: Path, processes: int) -> Iterator[int]:
        """Draw in several processes that report through one pipe.

        They are plain `python -c` processes, not multiprocessing's: those import the caller's __main__ again, which
        fails in a script without a main guard and imports Hydra in each for train.py. Also, these end by themselves
        when this process is killed, as soon as they cannot write to the pipe.
        """
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        reading, writing = os.pipe()
        workers: list[subprocess.Popen[bytes]] = []
        with os.fdopen(reading) as words, tempfile.TemporaryFile() as complaints:
            try:
                for shard in range(processes):
                    task = json.dumps({"folder": str(folder), "shard": shard, "shards": processes, "set": asdict(self)})
                    argv = [sys.executable, "-c", "from dogbreed.drawn.source import work; work()", task]
                    workers.append(
                        subprocess.Popen(
                            argv,
                            stdin=subprocess.DEVNULL,
                            stdout=writing,
                            stderr=complaints,
                            env={**os.environ, "PYTHONPATH": path},
                        )
                    )
                os.close(writing)
                writing = -1
                for word in words:
                    if word.startswith("{"):
                        failure = json.loads(word)
                        raise OSError(failure["errno"], failure["strerror"], failure["filename"])
                    yield int(word)
                if any(status := [worker.wait() for worker in workers]):
                    complaints.seek(0)
                    output = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
                    raise DataError(
                        f"A process that draws dogs ended with status {max(status, key=abs)}: "
                        f"{' '.join(output) or 'no output'}.\n"
                        "Try: +data.source.processes=1 (a negative status is a signal; -9 is often a lack of memory)"
                    )
            finally:
                if writing >= 0:
                    os.close(writing)
                for worker in workers:
                    worker.kill()
                    worker.wait()

    def _move(self, folder: Path, root: Path) -> None:
        try:
            if root.is_dir() and os.name == "nt":
                root.rmdir()  # on Windows a rename does not replace even an empty folder
            folder.rename(root)
        except OSError:
            if not self._is_there(root):  # another process was faster: its set is equal to ours
                raise


def work() -> None:
    """Run a worker of `DrawnDogs`: the task is its argument, its progress goes to stdout."""
    task = json.loads(sys.argv[1])
    try:
        for done in DrawnDogs(**task["set"])._draw_shard(Path(task["folder"]), task["shard"], task["shards"]):
            os.write(1, b"%d\n" % done)  # in one write: the workers share the pipe
    except BrokenPipeError:
        os._exit(1)  # the parent process is gone
    except OSError as error:
        failure = {"errno": error.errno, "strerror": error.strerror, "filename": str(error.filename)}
        os.write(1, json.dumps(failure).encode() + b"\n")


@contextmanager
def _progress(photos: int, of: str, folder: Path) -> Iterator[Any]:
    console = Console(stderr=True)
    if not console.is_terminal:
        log.info("Drawing %d photos of dogs, %s, in %s", photos, of, folder.parent)
        yield lambda done: None
        return
    columns = (TextColumn("Drawing dogs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=photos)
        yield lambda done: bar.advance(task, done)


def _temporary_prefix(root: Path) -> str:
    return f".{root.name}.drawing-{platform.node()}-"


@contextmanager
def _temporary_sibling(root: Path) -> Iterator[Path]:
    """Create a folder beside `root`, named after this process and machine; remove it at the end if it still exists."""
    start = int(psutil.Process().create_time())
    folder = Path(tempfile.mkdtemp(prefix=f"{_temporary_prefix(root)}{os.getpid()}-{start}-", dir=root.parent))
    folder.chmod(0o777 & ~_umask())  # mkdtemp creates private folders; this one becomes the data folder
    try:
        yield folder
    finally:
        _remove(folder)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _remove_leftovers(root: Path) -> None:
    """Remove the folders that killed processes of this machine left beside `root`."""
    prefix = _temporary_prefix(root)
    for folder in root.parent.iterdir():
        if folder.name.startswith(prefix):
            pid, _, rest = folder.name.removeprefix(prefix).partition("-")
            start = rest.partition("-")[0]
            if pid.isdigit() and start.isdigit() and not _runs(int(pid), int(start)):
                _remove(folder)


def _runs(pid: int, start: int) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - start) < 60)  # otherwise the pid was reused
    except psutil.Error:
        return False


def _remove(folder: Path) -> None:
    """Remove a folder of ours; rename it first, so that a leftover worker fails instead of adding files to it."""
    gone = folder.with_name(f"{folder.name}-gone")
    try:
        folder.rename(gone)
    except OSError:
        gone = folder
    shutil.rmtree(gone, ignore_errors=True)
