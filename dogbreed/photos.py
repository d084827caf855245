"""What lies in a folder of photos: classes, splits, and the files that are no use, each with its reason.

Needs neither torch nor lightning: its worker processes start in a fraction of a second.
"""

import csv
import hashlib
import io
import json
import logging
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dogbreed.errors import DataError, StorageError
from dogbreed.hardware import available_cpus
from dogbreed.preprocess import probe
from dogbreed.run_folder import write_text

log = logging.getLogger("dogbreed")

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_IN_ONE_PROCESS = 200  # fewer files than this are checked here: two processes would take longer to start


@dataclass(frozen=True)
class Photo:
    """One usable photo. path: relative to the root, with slashes. label: its class's place in the class list."""

    path: str
    label: int


@dataclass(frozen=True)
class PhotoSet:
    """The photos below `root`. findings: what keeps it from being trained on, empty where nothing does."""

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Photo, ...]]
    skipped: tuple[tuple[str, str], ...]  # path, reason
    findings: tuple[str, ...]
    digest: str = field(repr=False)  # of paths and contents, whatever the root is called

    def skipped_csv(self) -> str:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows(self.skipped)
        return table.getvalue()


@dataclass(frozen=True)
class _File:
    path: str  # relative to the root
    size: int = 0
    mtime_ns: int = 0
    problem: str = ""  # why it is no use
    digest: str = ""

    def as_row(self) -> list[Any]:
        return [self.size, self.mtime_ns, self.problem, self.digest]


def cache_folder() -> Path:
    """Where the library keeps what it can make again: DOGBREED_CACHE, or ~/.cache/dogbreed."""
    return Path(os.environ.get("DOGBREED_CACHE") or "~/.cache/dogbreed").expanduser()


def scan(
    root: Path,
    *,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    max_bad_fraction: float = 0.05,
) -> PhotoSet:
    """Read `root/{train,valid,test}/<class>/*`, or `root/<class>/*` and split it, stratified and seeded.

    Each file is opened once; what was found is remembered by size and date, so that the next look is quick. Hidden
    files are passed over. Does not raise for bad photos or folders: all is in `findings`.
    """
    if not root.is_dir():
        seen = "is not a folder" if root.exists() else "does not exist"
        return _nothing(root, f"The data folder {root} {seen}.\nTry: data.root=<the folder that holds your photos>")
    folders = _subfolders(root)
    split_folders = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    findings: list[str] = []
    if split_folders:
        findings += _missing_splits(root, split_folders, folders)
        listed = {split: _listing(root, name) for name, split in split_folders.items()}
    else:
        listed = {"all": {name: _files(root, root / name) for name in folders}}
    if not any(any(classes.values()) for classes in listed.values()):
        return _nothing(
            root,
            f"{root} holds no photos in class folders (seen: {_some(sorted(folders)) or 'nothing'}).\n"
            "Try: data.root=<a folder with train/, valid/ and test/, or with one folder per class>",
        )
    checked = _check(root, [file for classes in listed.values() for files in classes.values() for file in files])
    good = {
        split: {
            name: [checked[f.path] for f in files if not checked[f.path].problem] for name, files in classes.items()
        }
        for split, classes in listed.items()
    }
    skipped = tuple(sorted((file.path, file.problem) for file in checked.values() if file.problem))
    findings += _too_many_bad(root, skipped, len(checked), max_bad_fraction)
    if split_folders:
        findings += _uneven_classes(root, {split: set(classes) for split, classes in listed.items()})
        findings += _empty_classes(root, good)
    else:
        good, more = _split(root, good["all"], valid_fraction, test_fraction, seed)
        findings += more
    classes = tuple(sorted({name for split in good.values() for name in split}))
    if len(classes) == 1:
        findings.append(f"{root} holds one class only ({classes[0]}): there is nothing to tell apart.")
    label = {name: n for n, name in enumerate(classes)}
    splits = {
        split: tuple(
            Photo(file.path, label[name]) for name in sorted(good.get(split, {})) for file in good[split][name]
        )
        for split in SPLITS
    }
    contents = json.dumps([[checked[p.path].path, checked[p.path].digest] for s in SPLITS for p in splits[s]])
    digest = hashlib.sha256(contents.encode()).hexdigest()
    return PhotoSet(root, classes, splits, skipped, tuple(findings), digest)


def _nothing(root: Path, finding: str) -> PhotoSet:
    return PhotoSet(root, (), dict.fromkeys(SPLITS, ()), (), (finding,), "")


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith((".", "__MACOSX")))


def _listing(root: Path, split: str) -> dict[str, list[_File]]:
    return {name: _files(root, root / split / name) for name in _subfolders(root / split)}


def _files(root: Path, folder: Path) -> list[_File]:
    """All files below a class folder, sorted; links are followed, but never in a circle."""
    found: list[_File] = []

    def walk(current: Path, above: frozenset[str]) -> None:
        real = os.path.realpath(current)
        if real in above:
            found.append(
                _File(current.relative_to(root).as_posix(), problem="a link that leads back to a folder above it")
            )
            return
        for entry in sorted(os.scandir(current), key=lambda e: e.name):
            if entry.name.startswith(".") or entry.name in ("Thumbs.db", "desktop.ini"):
                continue
            path = Path(entry.path)
            try:
                if entry.is_dir():
                    walk(path, above | {real})
                    continue
                seen = entry.stat()
                found.append(_File(path.relative_to(root).as_posix(), seen.st_size, seen.st_mtime_ns))
            except OSError as error:  # a link to nowhere, or to itself
                found.append(_File(path.relative_to(root).as_posix(), problem=error.strerror or str(error)))

    walk(folder, frozenset({os.path.realpath(root)}))
    return found


def _check(root: Path, files: Sequence[_File]) -> dict[str, _File]:
    """Every file with its digest, or the reason why it is no use. What was known before is not read again."""
    memory = cache_folder() / "scans" / f"{hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:24]}.json"
    known = _remembered(memory)
    checked = {file.path: file for file in files if file.problem}
    fresh: list[_File] = []
    for file in files:
        if file.problem:
            continue
        row = known.get(file.path)
        if row is not None and row[:2] == [file.size, file.mtime_ns]:
            checked[file.path] = _File(file.path, *row)
        else:
            fresh.append(file)
    if fresh:
        checked |= {file.path: file for file in _check_all(root, fresh)}
        try:
            write_text(
                memory, json.dumps({file.path: file.as_row() for file in checked.values() if file.size or file.digest})
            )
        except StorageError as error:  # slower next time, nothing worse
            log.debug("What was found in %s is not remembered: %s", root, error)
    return checked


def _remembered(memory: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(memory.read_text())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}


def _check_all(root: Path, files: Sequence[_File]) -> Iterator[_File]:
    jobs = [(os.fspath(root), file) for file in files]
    if len(files) < _IN_ONE_PROCESS:
        yield from map(_check_one, jobs)
        return
    from rich.progress import track

    log.info("Checking %s photos in %s (once; what is found is remembered)", f"{len(files):,}", root)
    # spawn, not fork: the caller may have threads
    with ProcessPoolExecutor(available_cpus(), multiprocessing.get_context("spawn")) as pool:
        results = pool.map(_check_one, jobs, chunksize=64)
        yield from track(results, "Checking photos", total=len(jobs), transient=True, disable=not sys.stderr.isatty())


def _check_one(job: tuple[str, _File]) -> _File:
    root, file = job
    try:
        if not Path(root, file.path).is_file():
            raise DataError("not a regular file")  # a pipe or a device would block
        content = Path(root, file.path).read_bytes()
        probe(content)
    except (DataError, OSError) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return _File(file.path, file.size, file.mtime_ns, problem=problem)
    return _File(file.path, file.size, file.mtime_ns, digest=hashlib.blake2b(content, digest_size=16).hexdigest())


def _missing_splits(root: Path, split_folders: Mapping[str, str], folders: Sequence[str]) -> Iterator[str]:
    for split in SPLITS:
        names = [name for name, meant in split_folders.items() if meant == split]
        if not names:
            yield (
                f"{root} has no {split}/ folder (seen: {_some(folders)}).\n"
                f"Try: make {root / split} with a folder per class, or put all class folders side by side in one "
                "folder and they are split for you"
            )
        if len(names) > 1:
            yield f"{root} has several folders for {split}: {', '.join(names)}.\nTry: keep one of them"


def _uneven_classes(root: Path, classes: Mapping[str, set[str]]) -> Iterator[str]:
    everywhere = set().union(*classes.values())
    for split in SPLITS:
        if split in classes and not classes[split]:
            yield f"{root / split} is empty.\nTry: put a folder per class with photos into it"
        elif split in classes and (lacking := sorted(everywhere - classes[split])):
            yield (
                f"{root / split} lacks {len(lacking)} of {len(everywhere)} class folders that other splits have: "
                f"{_some(lacking)}.\nTry: add them, or remove them from the other splits"
            )


def _empty_classes(root: Path, good: Mapping[str, Mapping[str, Sequence[_File]]]) -> Iterator[str]:
    for split in SPLITS:
        if empty := sorted(name for name, files in good.get(split, {}).items() if not files):
            yield (
                f"{root / split} has {len(empty)} class folders without a usable photo: {_some(empty)}.\n"
                "Try: add photos to them, or remove these classes from all splits"
            )


def _too_many_bad(root: Path, skipped: Sequence[tuple[str, str]], total: int, limit: float) -> Iterator[str]:
    if len(skipped) <= limit * total:
        return
    reasons = "; ".join(f"{n:,} x {reason}" for reason, n in Counter(why for _, why in skipped).most_common(3))
    share = len(skipped) / total
    yield (
        f"{len(skipped):,} of {total:,} files in {root} are no use ({share:.1%}; at most {limit:.1%} are passed over): "
        f"{reasons}. First: {skipped[0][0]}.\n"
        f"Try: mend or remove them (all are listed in skipped.csv), or data.max_bad_fraction={share + 0.01:.2f}"
    )


def _split(
    root: Path, classes: Mapping[str, Sequence[_File]], valid_fraction: float, test_fraction: float, seed: int
) -> tuple[dict[str, dict[str, list[_File]]], list[str]]:
    """Per class, by the order of a keyed hash of the names: the same on every machine, whatever else is there."""
    few = sorted(name for name, files in classes.items() if len(files) < 3)
    findings = []
    if few:
        findings.append(
            f"{len(few)} of {len(classes)} classes in {root} have fewer than 3 usable photos, too few to split into "
            f"train, valid and test: {_some(few)}.\nTry: add photos to them, or remove these folders"
        )
    splits: dict[str, dict[str, list[_File]]] = {split: {} for split in SPLITS}
    for name, files in classes.items():
        order = sorted(files, key=lambda f: hashlib.sha256(f"{seed}/{f.path}".encode()).digest())
        valid = max(1, round(len(order) * valid_fraction))
        test = max(1, round(len(order) * test_fraction))
        parts = {"valid": order[:valid], "test": order[valid : valid + test], "train": order[valid + test :]}
        for split, part in parts.items():
            splits[split][name] = sorted(part, key=lambda f: f.path)
    return splits, findings


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
