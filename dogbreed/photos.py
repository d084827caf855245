"""Scan a folder of photos: its classes, splits, and unusable files with the reasons.

Needs neither torch nor lightning.
"""

import csv
import errno
import hashlib
import io
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import PIL

from dogbreed.errors import DataError, StorageError
from dogbreed.hardware import available_cpus
from dogbreed.preprocess import probe, read_picture
from dogbreed.run_folder import write_text

log = logging.getLogger("dogbreed")

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_UNLISTED = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a folder"}
_WORTH_A_BAR = 200  # files; fewer are checked at once
_MEMORY = f"2-pillow-{PIL.__version__}"  # results of other code or another Pillow are not reused


@dataclass(frozen=True)
class Photo:
    """One usable photo. path: relative to the root, with slashes. label: the index of its class in the class list.

    digest: blake2b of the file's bytes, 128 bits in hex; `scan` fills it.
    """

    path: str
    label: int
    digest: str = ""


@dataclass(frozen=True)
class PhotoSet:
    """The photos below `root`. findings: problems that prevent training on them; empty if there are none."""

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Photo, ...]]
    skipped: tuple[tuple[str, str], ...]  # path, reason
    findings: tuple[str, ...]
    digest: str = field(repr=False)  # of paths and contents, independent of the root's name

    def skipped_csv(self) -> str:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows((_printable(path), reason) for path, reason in self.skipped)
        return table.getvalue()


@dataclass(frozen=True)
class _File:
    path: str  # relative to the root
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0  # changes with the content even if the modification time was reset
    problem: str = ""  # why it is unusable
    digest: str = ""
    lasting: bool = False  # the result stays valid while size and dates are the same

    def as_row(self) -> list[Any]:
        return [self.size, self.mtime_ns, self.ctime_ns, self.problem, self.digest]


_Classes: TypeAlias = "dict[str, list[_File]]"  # by class name


def cache_folder() -> Path:
    """Return the folder of everything that the library can recreate: DOGBREED_CACHE, or ~/.cache/dogbreed."""
    return Path(os.environ.get("DOGBREED_CACHE") or "~/.cache/dogbreed").expanduser()


def scan(
    root: Path,
    *,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    max_bad_fraction: float = 0.05,
) -> PhotoSet:
    """Scan `root/{train,valid,test}/<class>/*`, or scan `root/<class>/*` and split it, stratified and seeded.

    Opens each file once, and caches the result by size and dates, so that the next scan is quick. Skips hidden files.
    Does not raise for bad photos or folders: all problems are in `findings`.
    """
    try:
        folders = _subfolders(root)
        split_folders = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
        listed = _list_files(root, folders, split_folders)
    except OSError as error:
        return _nothing(
            root,
            f"The data folder {_where(error, root)} {_UNLISTED.get(error.errno or 0, error.strerror or str(error))}.\n"
            "Try: data.root=<the folder that holds your photos>",
        )
    findings = list(_missing_splits(root, split_folders, folders)) if split_folders else []
    if not any(any(classes.values()) for classes in listed.values()):
        return _nothing(
            root,
            f"{root} has no photos in class folders (seen: {_seen(root)}).\n"
            "Try: data.root=<a folder with train/, valid/ and test/, or with one folder per class>",
        )
    checked = _check(root, [file for classes in listed.values() for files in classes.values() for file in files])
    skipped = tuple(sorted((file.path, file.problem) for file in checked.values() if file.problem))
    findings += _too_many_bad(root, skipped, len(checked), max_bad_fraction)
    good = {split: _usable(classes, checked) for split, classes in listed.items()}
    if split_folders:
        names = {split: root / name for name, split in split_folders.items()}
        findings += _uneven_classes(names, {split: set(classes) for split, classes in listed.items()})
        findings += _empty_classes(names, good)
    else:
        good, more = _split(root, good["all"], valid_fraction, test_fraction, seed)
        findings += more
    classes = tuple(sorted({name for split in good.values() for name in split}))
    findings += _unfit_classes(root, classes)
    splits = _labelled(good, classes)
    contents = json.dumps([[photo.path, photo.digest] for split in SPLITS for photo in splits[split]])
    digest = hashlib.sha256(contents.encode()).hexdigest()
    return PhotoSet(root, classes, splits, skipped, tuple(findings), digest)


def _list_files(root: Path, folders: Sequence[str], split_folders: Mapping[str, str]) -> dict[str, _Classes]:
    """List the files by split, or all under `all` if there are no split folders; then by class. Raises OSError."""
    above = frozenset(_identity(root / name) for name in (".", *split_folders))
    if split_folders:
        return {split: _listing(root, name, above) for name, split in split_folders.items()}
    return {"all": {name: _files(root, root / name, above) for name in folders}}


def _usable(classes: _Classes, checked: Mapping[str, _File]) -> _Classes:
    found = {name: [checked[file.path] for file in files] for name, files in classes.items()}
    return {name: [file for file in files if not file.problem] for name, files in found.items()}


def _labelled(good: Mapping[str, _Classes], classes: Sequence[str]) -> dict[str, tuple[Photo, ...]]:
    label = {name: n for n, name in enumerate(classes)}
    return {
        split: tuple(
            Photo(file.path, label[name], file.digest)
            for name in sorted(good.get(split, {}))
            for file in good[split][name]
        )
        for split in SPLITS
    }


def _nothing(root: Path, finding: str) -> PhotoSet:
    return PhotoSet(root, (), dict.fromkeys(SPLITS, ()), (), (finding,), "")


def _where(error: OSError, root: Path) -> str:
    return _printable(os.fspath(error.filename or root))


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if not e.name.startswith((".", "__MACOSX")) and _is_folder(e))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _seen(root: Path) -> str:
    """Describe what the folder contains instead of class folders: most often loose photos."""
    folders = _subfolders(root)
    files = sum(not e.name.startswith(".") and not _is_folder(e) for e in os.scandir(root))
    loose = [f"{files:,} files outside class folders"] if files else []
    return "; ".join(([_some(folders)] if folders else []) + loose) or "nothing"


def _listing(root: Path, split: str, above: frozenset[tuple[int, int]]) -> _Classes:
    return {name: _files(root, root / split / name, above) for name in _subfolders(root / split)}


def _files(root: Path, folder: Path, above: frozenset[tuple[int, int]]) -> list[_File]:
    """List all files below a class folder, sorted. Follows links, but reads no folder twice and none in `above`."""
    found: list[_File] = []
    read = set(above)
    to_read = [folder]
    while to_read:
        current = to_read.pop()
        try:
            identity = _identity(current)
            if identity in read:
                found.append(_File(_name(root, current), problem="a link to a folder that was already read"))
                continue
            read.add(identity)
            entries = sorted(os.scandir(current), key=lambda e: e.name, reverse=True)
        except OSError as error:
            found.append(_File(_name(root, current), problem=error.strerror or str(error)))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in ("Thumbs.db", "desktop.ini", "__MACOSX"):
                continue
            path = Path(entry.path)
            try:
                if entry.is_dir():
                    to_read.append(path)
                    continue
                seen = entry.stat()
                found.append(_File(_name(root, path), seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns))
            except OSError as error:  # a broken or circular link
                found.append(_File(_name(root, path), problem=error.strerror or str(error)))
    return sorted(found, key=lambda file: file.path)


def _identity(folder: Path) -> tuple[int, int]:
    """Identify a folder: the result is the same for every link to it."""
    seen = folder.stat()
    return seen.st_dev, seen.st_ino


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _check(root: Path, files: Sequence[_File]) -> dict[str, _File]:
    """Check every file: its digest, or the reason why it is unusable. Cached results are not read again."""
    place = os.fsencode(f"{_MEMORY}\n{os.path.realpath(root)}")
    memory = cache_folder() / "scans" / f"{hashlib.sha256(place).hexdigest()[:24]}.json"
    known = _remembered(memory)
    checked = {file.path: known.get((file.path, file.size, file.mtime_ns, file.ctime_ns), file) for file in files}
    fresh = [file for file in checked.values() if not file.problem and not file.digest]
    if fresh:
        checked |= {file.path: file for file in _check_all(root, fresh)}
        rows = {file.path: file.as_row() for file in checked.values() if file.lasting}
        try:
            write_text(memory, json.dumps(rows))
        except (StorageError, OSError) as error:  # the next scan is slower, nothing worse
            log.debug("Cannot cache the scan of %s: %s", root, error)
    return checked


def _remembered(memory: Path) -> dict[tuple[str, int, int, int], _File]:
    try:
        rows = json.loads(memory.read_bytes())
        return {
            (path, size, mtime, ctime): _File(path, size, mtime, ctime, str(problem), str(digest), lasting=True)
            for path, (size, mtime, ctime, problem, digest) in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # no cache, or a damaged one
        return {}


def _check_all(root: Path, files: Sequence[_File]) -> Iterator[_File]:
    # Threads, not processes: Pillow and hashlib release the interpreter's lock, and the caller's script needs no
    # `if __name__ == "__main__"`. Warnings are silenced here as well, because `probe` does so for the whole process,
    # and a thread that ends may restore them for the others.
    with warnings.catch_warnings(), ThreadPoolExecutor(available_cpus()) as pool:
        warnings.simplefilter("ignore")
        results = pool.map(lambda file: _check_one(root, file), files)
        if len(files) < _WORTH_A_BAR:
            yield from results
            return
        from rich.console import Console
        from rich.progress import track

        log.info("Checking %s photos in %s", f"{len(files):,}", root)  # only once: results are cached
        console = Console(stderr=True)
        yield from track(
            results, "Checking photos", len(files), transient=True, console=console, disable=not console.is_terminal
        )


def _check_one(root: Path, file: _File) -> _File:
    try:
        content = read_picture(root / file.path)
        probe(content)
    except DataError as error:
        return replace(file, problem=str(error), lasting=True)
    except OSError as error:  # a disk or permission error, which can go away without a change of the file's dates
        return replace(file, problem=error.strerror or str(error))
    return replace(file, digest=hashlib.blake2b(content, digest_size=16).hexdigest(), lasting=True)


def _missing_splits(root: Path, split_folders: Mapping[str, str], folders: Sequence[str]) -> Iterator[str]:
    for split in SPLITS:
        names = [name for name, meant in split_folders.items() if meant == split]
        if not names:
            yield (
                f"{root} has no {split}/ folder (seen: {_some(folders)}).\n"
                f"Try: create {root / split} with a folder per class, or put all class folders side by side into one "
                "folder, which is then split automatically"
            )
        if len(names) > 1:
            yield f"{root} has several folders for {split}: {', '.join(names)}.\nTry: keep one of them"


def _uneven_classes(folders: Mapping[str, Path], classes: Mapping[str, set[str]]) -> Iterator[str]:
    everywhere = set().union(*classes.values())
    for split in SPLITS:
        if split in classes and not classes[split]:
            yield f"{folders[split]} has no class folders.\nTry: put a folder per class with photos into it"
        elif split in classes and (lacking := sorted(everywhere - classes[split])):
            yield (
                f"{folders[split]} lacks {len(lacking)} of {len(everywhere)} class folders that other splits have: "
                f"{_some(lacking)}.\nTry: add them, or remove them from the other splits"
            )


def _empty_classes(folders: Mapping[str, Path], good: Mapping[str, Mapping[str, Sequence[_File]]]) -> Iterator[str]:
    for split in SPLITS:
        if empty := sorted(name for name, files in good.get(split, {}).items() if not files):
            yield (
                f"{folders[split]} has {len(empty)} class folders without a usable photo: {_some(empty)}.\n"
                "Try: add photos to them, or remove these classes from all splits"
            )


def _too_many_bad(root: Path, skipped: Sequence[tuple[str, str]], total: int, limit: float) -> Iterator[str]:
    if len(skipped) <= limit * total:
        return
    reasons = "; ".join(f"{n:,} x {reason}" for reason, n in Counter(why for _, why in skipped).most_common(3))
    share = len(skipped) / total
    yield (
        f"{len(skipped):,} of {total:,} files in {root} are unusable ({share:.1%}; at most {limit:.1%} are skipped): "
        f"{reasons}. First: {_printable(skipped[0][0])}.\n"
        "Try: fix or remove them (all are listed in skipped.csv), or "
        f"data.max_bad_fraction={min(1.0, share + 0.01):.2f}"
    )


def _unfit_classes(root: Path, classes: Sequence[str]) -> Iterator[str]:
    """Check the class names, which go into checkpoints, tables and reports; photos may have any name."""
    if bad := [name for name in classes if _printable(name) != name]:
        yield (f"{root} has {len(bad)} class folders whose names are not printable: {_some(bad)}.\nTry: rename them")
    if len(classes) == 1:
        yield (
            f"{root} has only one class ({_printable(classes[0])}); at least two are needed.\n"
            "Try: add a folder for each other class"
        )


def _split(
    root: Path, classes: Mapping[str, Sequence[_File]], valid_fraction: float, test_fraction: float, seed: int
) -> tuple[dict[str, _Classes], list[str]]:
    """Split each class by a keyed hash of the file names: the same on every machine, whatever other files exist."""
    if min(valid_fraction, test_fraction) <= 0 or valid_fraction + test_fraction >= 1:
        finding = (
            f"data.valid_fraction={valid_fraction} and data.test_fraction={test_fraction} cannot split {root} in three."
            "\nTry: two values above 0 whose sum is well below 1, such as 0.1 and 0.1"
        )
        return {"train": {name: list(files) for name, files in classes.items()}}, [finding]
    few = sorted(name for name, files in classes.items() if len(files) < 3)
    findings = []
    if few:
        findings.append(
            f"{len(few)} of {len(classes)} classes in {root} have fewer than 3 usable photos, too few to split into "
            f"train, valid and test: {_some(few)}.\nTry: add photos to them, or remove these folders"
        )
    splits: dict[str, _Classes] = {split: {} for split in SPLITS}
    for name, files in classes.items():
        order = sorted(files, key=lambda f: hashlib.sha256(os.fsencode(f"{seed}/{f.path}")).digest())
        valid = max(1, round(len(order) * valid_fraction))
        test = max(1, round(len(order) * test_fraction))
        while valid + test >= len(order) >= 3:  # a small class keeps at least one training photo
            valid, test = (valid - 1, test) if valid > test else (valid, test - 1)
        parts = {"valid": order[:valid], "test": order[valid : valid + test], "train": order[valid + test :]}
        for split, part in parts.items():
            splits[split][name] = sorted(part, key=lambda f: f.path)
    return splits, findings


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(_printable, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _printable(name: str) -> str:
    """Make a file's name printable and valid UTF-8: POSIX allows any bytes in it, line breaks included."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
