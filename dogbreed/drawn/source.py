"""Photos of dogs that no one took: drawn by `dog`, 133 breeds, in the layout of dogImages.

    python -m dogbreed.drawn SHEET.jpg      # a contact sheet: one picture of every breed

Each picture is a function of (FORMAT, seed, breed, split, index) alone. The set is drawn by several processes into a
folder beside `root`, which takes the name `root` once it is whole: at any moment there is a whole set or none.
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

FORMAT = 1  # goes up with every change of what is drawn, so that an old set is not taken for a new one
SPLITS = ("train", "valid", "test")
_CHUNK = 8  # pictures between two words of a worker: a quarter of a second


log = logging.getLogger("dogbreed")


@dataclass(frozen=True)
class DrawnDogs:
    """A data source: `prepare` makes sure that a folder holds the set that these settings describe."""

    seed: int = 0
    train: int = 10  # photos of each breed
    valid: int = 3
    test: int = 3
    breeds: int = len(BREEDS)  # the first so many
    min_px: int = 200  # each side of a photo is drawn from this range
    max_px: int = 330
    quality: int = 88  # of the JPEG
    processes: int | None = None  # None: as many as there are CPUs; the files do not depend on it

    def prepare(self, root: Path) -> None:
        """Draw the set into `root`, which does not exist, is empty, or holds this very set: then nothing is done.

        Two processes may do this at once. Raises ConfigError for settings out of range, DataError where `root` holds
        something else, which is left alone, StorageError where the disk is full.
        """
        self._check()
        root = Path(root).resolve()  # a link to an empty folder is as good as the folder
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
        """What the files depend on, as written into drawn.json."""
        settings = asdict(self)
        del settings["processes"]
        return {"format": FORMAT, **settings}

    def photos(self) -> list[tuple[str, str, int]]:
        """(split, breed, number) of every photo; a breed's photos are numbered from 1 through all splits."""
        first = {"train": 0, "valid": self.train, "test": self.train + self.valid}
        counts = {"train": self.train, "valid": self.valid, "test": self.test}
        return [
            (split, breed, first[split] + i + 1)
            for breed in BREEDS[: self.breeds]
            for split in SPLITS
            for i in range(counts[split])
        ]

    def photo(self, split: str, breed: str, number: int) -> Image.Image:
        """The photo of that name, drawn now."""
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
        """Whether `root` holds this set. Raises DataError if it holds anything else."""
        if (root.is_dir() and os.path.ismount(root)) or root == root.parent:
            raise DataError(f"{root} is the root of a disk, which nothing can be renamed to.\nTry: a folder inside it")
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
                f"{root} holds something that is not a set of drawn dogs: {', '.join(held[:3])}"
                f"{', ...' if len(held) > 3 else ''}. It was left alone.\n"
                "Try: data=folder to train on what is there, or data.root=<a new or empty folder>"
            ) from None
        wanted = self.settings()
        if found == wanted:
            return True
        found = found if isinstance(found, dict) else {}
        other = [k for k in {**wanted, **found} if wanted.get(k) != found.get(k)]
        raise DataError(
            f"{root} holds dogs drawn with other settings. There: "
            + ", ".join(f"{k}={found.get(k)}" for k in other)
            + "; asked for: "
            + ", ".join(f"{k}={wanted.get(k)}" for k in other)
            + ". It was left alone.\nTry: data.root=<another folder>, or delete that one to have it drawn anew"
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
            os.sync()  # the photos before the rename, with one call instead of one for each

    def _draw_shard(self, folder: Path, shard: int, shards: int) -> Iterator[int]:
        """Draw every `shards`-th photo from `shard` on; yields how many it has drawn since it last did."""
        jobs = self.photos()[shard::shards]
        for at in range(0, len(jobs), _CHUNK):
            chunk = jobs[at : at + _CHUNK]
            for split, breed, number in chunk:
                path = folder / split / breed / f"{breed.partition('.')[2]}_{number:05d}.jpg"
                content = io.BytesIO()  # Pillow itself takes a short write to a full disk for success
                self.photo(split, breed, number).save(content, "JPEG", quality=self.quality)
                path.write_bytes(content.getvalue())
            yield len(chunk)

    def _draw_in_processes(self, folder: Path, processes: int) -> Iterator[int]:
        """The same by several processes that report through one pipe.

        They are plain `python -c` rather than multiprocessing's: those import the caller's __main__ again, which a
        script without a main guard does not survive and which costs train.py the import of Hydra in each; and these
        end by themselves, at the next word they cannot say, when this process is killed.
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
                    said = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
                    raise DataError(
                        f"A process that draws dogs ended with status {max(status, key=abs)}: "
                        f"{' '.join(said) or 'no word'}.\n"
                        "Try: data.source.processes=1 (a negative status is a signal; -9 is often a lack of memory)"
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
                root.rmdir()  # there a rename does not replace even an empty folder
            folder.rename(root)
        except OSError:
            if not self._is_there(root):  # another process was first: its set is as good as ours
                raise


def work() -> None:
    """A process of `DrawnDogs`: what to draw comes as its argument, how far it is goes to stdout."""
    task = json.loads(sys.argv[1])
    try:
        for done in DrawnDogs(**task["set"])._draw_shard(Path(task["folder"]), task["shard"], task["shards"]):
            os.write(1, b"%d\n" % done)  # in one piece: the workers share the pipe
    except BrokenPipeError:
        os._exit(1)  # the process that asked is gone; nothing to tell anyone
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
    """A new folder beside `root`, whose name tells which process of which machine works there; removed if it stays."""
    start = int(psutil.Process().create_time())
    folder = Path(tempfile.mkdtemp(prefix=f"{_temporary_prefix(root)}{os.getpid()}-{start}-", dir=root.parent))
    folder.chmod(0o777 & ~_umask())  # mkdtemp's are private; this one becomes the data folder
    try:
        yield folder
    finally:
        _remove(folder)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _remove_leftovers(root: Path) -> None:
    """Remove what killed processes of this machine left beside `root`."""
    prefix = _temporary_prefix(root)
    for folder in root.parent.iterdir():
        if folder.name.startswith(prefix):
            pid, _, rest = folder.name.removeprefix(prefix).partition("-")
            start = rest.partition("-")[0]
            if pid.isdigit() and start.isdigit() and not _runs(int(pid), int(start)):
                _remove(folder)


def _runs(pid: int, start: int) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - start) < 60)  # else the number went to another process
    except psutil.Error:
        return False


def _remove(folder: Path) -> None:
    """Remove a folder of ours; under another name first, so that a worker left over fails instead of adding to it."""
    gone = folder.with_name(f"{folder.name}-gone")
    try:
        folder.rename(gone)
    except OSError:
        gone = folder
    shutil.rmtree(gone, ignore_errors=True)
