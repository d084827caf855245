"""List the files of class folders. Needs only the standard library."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from dogbreed.scanning import ignored
from dogbreed.scanning.layout import Layout, subfolders
from dogbreed.scanning.names import comparable

Identity: TypeAlias = "tuple[int, int]"


@dataclass(frozen=True)
class File:
    """A file that should be a photo. path: relative to the root, with slashes.

    ctime_ns: changes with the content even if the modification time was reset. problem: why it is unusable. digest:
    blake2b of its bytes, once it was checked. lasting: the result stays valid while size and dates are the same.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    problem: str = ""
    digest: str = ""
    lasting: bool = False

    def as_row(self) -> list[Any]:
        return [self.size, self.mtime_ns, self.ctime_ns, self.problem, self.digest]


Classes: TypeAlias = "dict[str, list[File]]"  # by class name


@dataclass
class Listing:
    """All files of a data folder. files: by split, then by class. ignored: how many files of each kind.

    merged: names of class folders that are taken as one class, because they are equal once compared.
    loose: photos outside class folders, by folder.
    """

    files: dict[str, Classes] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    merged: set[tuple[str, str]] = field(default_factory=set)
    loose: Counter[str] = field(default_factory=Counter)


def list_files(root: Path, layout: Layout) -> Listing:
    """List the files of every class folder. Raises OSError if a split cannot be listed."""
    found, names = Listing(), dict[str, str]()
    above = frozenset(_identity(root / folder) for folder in (".", *layout.folders.values()))
    for split in sorted(layout.folders, key=("train", "valid", "test", "all").index):
        folder = layout.folders[split]
        classes: Classes = {}
        for name in subfolders(root / folder):
            files = list(_files(root, root / folder / name, above, found.ignored))
            class_name = names.setdefault(comparable(name), name)
            if class_name != name:
                found.merged.add((class_name, name))
            classes[class_name] = sorted([*classes.get(class_name, ()), *files], key=lambda file: file.path)
        found.files[split] = classes
        _count_loose(root / folder, folder, found)
    _drop_folders_of_notes(root, layout, found)
    return found


def list_files_as_before(root: Path, layout: Layout) -> Listing:
    """List what earlier versions took for photos: all files but hidden ones, under the folders' own names."""
    above = frozenset(_identity(root / folder) for folder in (".", *layout.folders.values()))
    found = Listing()
    for split, folder in layout.folders.items():
        names = sorted(e.name for e in os.scandir(root / folder) if not ignored.ignored_before(e.name) and is_folder(e))
        files = {name: _files(root, root / folder / name, above, None) for name in names}
        found.files[split] = {name: sorted(some, key=lambda file: file.path) for name, some in files.items()}
    return found


def _files(root: Path, folder: Path, above: frozenset[Identity], counted: Counter[str] | None) -> Iterator[File]:
    """Yield all files below a class folder. Follows links, but reads no folder twice and none in `above`.

    counted: counts the ignored files; None to ignore what earlier versions ignored.
    """
    read = set(above)
    to_read = [folder]
    while to_read:
        current = to_read.pop()
        try:
            identity = _identity(current)
            if identity in read:
                yield File(_name(root, current), problem="a link to a folder that was already read")
                continue
            read.add(identity)
            entries = sorted(os.scandir(current), key=lambda e: e.name, reverse=True)
        except OSError as error:
            yield File(_name(root, current), problem=error.strerror or str(error))
            continue
        beside = {entry.name for entry in entries}
        for entry in entries:
            if counted is None and ignored.ignored_before(entry.name):
                continue
            path = Path(entry.path)
            try:
                if entry.is_dir():
                    if counted is not None and (kind := ignored.folder_kind(entry.name)):
                        counted[kind] += _count(path) if kind == ignored.THUMBNAILS else 1
                    else:
                        to_read.append(path)
                    continue
                kind = ignored.file_kind(entry.name, beside) if counted is not None else ""
                if counted is not None and kind and not (kind == ignored.NOTES and ignored.begins_like_picture(path)):
                    counted[kind] += 1
                    continue
                seen = entry.stat()
                yield File(_name(root, path), seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
            except OSError as error:  # a broken or circular link
                yield File(_name(root, path), problem=error.strerror or str(error))


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Return whether a directory entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _count_loose(folder: Path, name: str, found: Listing) -> None:
    """Count what lies beside the class folders: photos that are not used, and what is ignored."""
    for entry in os.scandir(folder):
        if is_folder(entry):
            if kind := ignored.folder_kind(entry.name):
                found.ignored[kind] += _count(Path(entry.path)) if kind == ignored.THUMBNAILS else 1
        elif ignored.is_picture(entry.name) and not ignored.file_kind(entry.name):
            found.loose[name or "."] += 1


def _drop_folders_of_notes(root: Path, layout: Layout, found: Listing) -> None:
    """Leave out class folders that hold nothing but ignored files in all splits, such as labels/ and metadata/."""
    for name in {name for classes in found.files.values() for name in classes}:
        if any(classes.get(name) for classes in found.files.values()):
            continue
        places = [root / layout.folders[split] / name for split, classes in found.files.items() if name in classes]
        if any(_count(place) for place in places):
            for classes in found.files.values():
                classes.pop(name, None)


def _count(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _identity(folder: Path) -> Identity:
    """Identify a folder: the result is the same for every link to it."""
    seen = folder.stat()
    return seen.st_dev, seen.st_ino


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
