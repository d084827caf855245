"""Understand how a folder of photos is laid out: where its splits or its class folders are. Standard library only.

Splits are folders named like train, valid and test, perhaps with a word that all have in common (seg_train), of which
two share at least half of their class folders. They may lie one folder deeper (dogImages/train), and their class
folders too (training_set/training_set). Where two readings are possible, the layout has a finding that shows both.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from dogbreed.commands import override, shell
from dogbreed.scanning import ignored
from dogbreed.scanning.names import comparable, listed, printable

SPLITS = ("train", "valid", "test")
ALL = "all"  # instead of splits: class folders that are still to be split

_NAMES = {
    "train": r"train|training|trn",
    "valid": r"valid|val|validation|validate|dev|eval|evaluation",
    "test": r"test|testing|tst|holdout",
}
_AROUND = "set|sets|data|dataset|images?|imgs?|photos?|pictures|pics|split|folder"
_SPLIT_NAMES = {
    split: re.compile(rf"(?:{_AROUND})?(?:{names})(?:{_AROUND})?\d*", re.IGNORECASE) for split, names in _NAMES.items()
}
_BEFORE = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_DEEPEST = 3  # folders above the splits or classes


@dataclass(frozen=True)
class Layout:
    """folders: by split, or ALL: the folder that holds the class folders, relative to the root, with slashes.

    base: the folder, relative to the root, below which all of them lie; "" for the root itself. unused: folders with
    photos beside the splits. findings: why this folder cannot be understood.
    """

    folders: Mapping[str, str]
    base: str = ""
    unused: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def splits(self) -> bool:
        """Whether the folder is divided into splits."""
        return ALL not in self.folders


@dataclass(frozen=True)
class _Folder:
    """A folder that may be a split or a class. path: below the root. home: where its class folders are. role: the split
    that it is beside others whose names have a word in common with its own."""

    path: str
    home: str
    classes: tuple[str, ...]  # names of the folders in `home` that hold photos
    loose: bool  # whether photos lie directly in it
    role: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def split(self) -> str:
        return self.role or split_of(self.name)


def split_of(name: str) -> str:
    """Return the split that a folder of this name may be; "" for none."""
    plain = re.sub(r"[\s_.-]+", "", comparable(name))
    return next((split for split, pattern in _SPLIT_NAMES.items() if pattern.fullmatch(plain)), "")


def understand(root: Path) -> Layout:
    """Return the layout of the photos below `root`. Raises OSError if `root` cannot be listed."""
    return _understand(root, "", 0)


def understand_as_before(root: Path) -> Layout:
    """Return what earlier versions took the layout for: splits at the top by five names, otherwise class folders."""
    folders = sorted(
        entry.name for entry in os.scandir(root) if not ignored.ignored_before(entry.name) and _is_folder(entry)
    )
    named = {_BEFORE[name.lower()]: name for name in folders if name.lower() in _BEFORE}
    return Layout(named or {ALL: ""})


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder` that may hold photos, sorted. Raises OSError."""
    return sorted(e.name for e in os.scandir(folder) if not ignored.folder_kind(e.name) and _is_folder(e))


def _understand(root: Path, base: str, depth: int) -> Layout:
    folders = [_inspect(root, _below(base, name)) for name in subfolders(root / base)]
    named = [folder for folder in folders if folder.split] or _named_alike(folders)
    full = [folder for folder in folders if folder.classes or folder.loose]
    if _are_splits(named):
        taken = {folder.path for folder in named}
        others = tuple(folder.path for folder in full if folder.path not in taken)
        return Layout(
            {folder.split: folder.home for folder in named}, base, others, tuple(_same_split_twice(root, base, named))
        )
    if len(full) == 1 and full[0].classes and not full[0].loose:
        only = full[0]
        if only.split == "train":
            return Layout({"train": only.home}, base)
        if depth < _DEEPEST:
            return _understand(root, only.path, depth + 1)
    deeper = [folder for folder in full if not folder.loose and _are_splits(_children(root, folder.path))]
    if deeper:
        return Layout({ALL: base}, base, findings=(_splits_below(root, full, deeper),))
    return Layout({ALL: base}, base, findings=tuple(_unclear(root, base, full)))


def _unclear(root: Path, base: str, full: Sequence[_Folder]) -> Iterator[str]:
    """Yield why it is unclear whether the folders in `base` are splits or classes."""
    named = [folder for folder in full if folder.split]
    others = [folder for folder in full if not folder.split]
    sorted_in = [folder for folder in named if folder.classes]
    distinct = {folder.split for folder in named}
    place = root / base
    as_classes = f"{len(full)} classes: {listed(folder.name for folder in full)}"
    if len(distinct) > 1 and sorted_in:
        contents = "; ".join(f"{printable(f.name)}/ has {_contents(f)}" for f in named)
        yield (
            f"{place} can be read in two ways: as splits whose class folders differ ({contents}), or as {as_classes}.\n"
            f"Try: give the splits the same class folders, or {_root(root / sorted_in[0].home)} for a part that is "
            "then split; for the other reading, rename the folders that are called like splits"
        )
    elif len(distinct) > 1 and not others:
        yield (
            f"{place} can be read in two ways: as splits whose photos are in no class folders, or as {as_classes}.\n"
            f"Try: put the photos of each split into a folder per class ({place / named[0].name}/<class>/), or rename "
            f"the folders if {listed(folder.name for folder in named)} are classes"
        )
    elif sorted_in and others and all(len(f.classes) > 1 and not f.loose for f in sorted_in) and not _nested(others):
        split = sorted_in[0]
        yield (
            f"{place} can be read in two ways: as {printable(split.name)}/ with the classes {listed(split.classes)} "
            f"beside other photos ({listed(f.name for f in others)}), or as {as_classes}.\n"
            f"Try: {_root(root / split.path)} for the first; for the second, rename {printable(split.name)}"
        )
    elif (within := [folder for folder in full if _is_split_inside(folder)]) and 2 * len(within) >= len(full):
        first = printable(within[0].name)
        yield (
            f"{place} can be read in two ways: as classes that are split inside ({first}/{within[0].classes[0]}/), or "
            f"as {as_classes}, whose photos are mixed and split anew.\n"
            f"Try: move the folders into train/, valid/ and test/ of one folder, such as train/{first}; for the other "
            "reading, put the photos of each class into one folder"
        )


def _splits_below(root: Path, full: Sequence[_Folder], deeper: Sequence[_Folder]) -> str:
    first = deeper[0]
    names = listed(_children_names(root, first.path))
    return (
        f"{root} can be read in two ways: as splits in {printable(first.path)}/ ({names}) beside other photos, or as "
        f"{len(full)} classes: {listed(folder.name for folder in full)}.\n"
        f"Try: {_root(root / first.path)} for the first"
        + "".join(f", or {_root(root / folder.path)}" for folder in deeper[1:3])
        + f"; for the second, rename {names}"
    )


def _same_split_twice(root: Path, base: str, named: Sequence[_Folder]) -> Iterator[str]:
    for split in SPLITS:
        names = [folder.name for folder in named if folder.split == split]
        if len(names) > 1:
            yield f"{root / base} has several folders for {split}: {', '.join(names)}.\nTry: keep one of them"
    if not any(folder.split == "train" for folder in named):
        seen = listed(folder.name for folder in named)
        yield f"{root / base} has no train/ folder (seen: {seen}).\nTry: create it, with a folder per class"


def _named_alike(folders: Sequence[_Folder]) -> list[_Folder]:
    """Return the folders that are splits by one of their words and share the other words: seg_train, seg_test."""
    groups: dict[tuple[str, ...], list[_Folder]] = {}
    for folder in folders:
        words = tuple(re.split(r"[\s_.-]+", comparable(folder.name).casefold()))
        for word, rest in ((words[-1], ("", *words[:-1])), (words[0], (*words[1:], ""))):
            if len(words) > 1 and folder.classes and not folder.loose and (split := split_of(word)):
                groups.setdefault(rest, []).append(replace(folder, role=split))
    return next((group for group in groups.values() if _are_splits(group)), [])


def _are_splits(named: Sequence[_Folder]) -> bool:
    """Return whether two folders of different splits share at least half of the class folders of the smaller one."""
    for one, other in combinations(named, 2):
        ours, theirs = ({comparable(name).casefold() for name in folder.classes} for folder in (one, other))
        if one.split != other.split and ours and theirs and 2 * len(ours & theirs) >= min(len(ours), len(theirs)):
            return True
    return False


def _inspect(root: Path, path: str) -> _Folder:
    loose, classes = _photos_and_folders(root / path)
    if not loose and len(classes) == 1:  # training_set/training_set/
        inner_loose, inner = _photos_and_folders(root / path / classes[0])
        if inner and not inner_loose:
            return _Folder(path, _below(path, classes[0]), inner, False)
    return _Folder(path, path, classes, loose)


def _children(root: Path, path: str) -> list[_Folder]:
    return [_inspect(root, _below(path, name)) for name in _children_names(root, path)]


def _children_names(root: Path, path: str) -> list[str]:
    try:
        return [name for name in subfolders(root / path) if split_of(name)]
    except OSError:
        return []


def _photos_and_folders(folder: Path) -> tuple[bool, tuple[str, ...]]:
    """Return whether files that may be photos lie directly in a folder, and which of its folders hold such files."""
    try:
        return _has_files(folder), tuple(name for name in subfolders(folder) if _holds_photos(folder / name))
    except OSError:
        return False, ()


def _has_files(folder: Path) -> bool:
    return any(not ignored.file_kind(entry.name) and not _is_folder(entry) for entry in list(os.scandir(folder)))


def _holds_photos(folder: Path) -> bool:
    to_read = [folder]
    while to_read:
        try:
            entries = list(os.scandir(to_read.pop()))
        except OSError:
            continue
        folders = [entry for entry in entries if _is_folder(entry)]
        if any(not ignored.file_kind(entry.name) for entry in entries if entry not in folders):
            return True
        inner = [entry for entry in folders if not ignored.folder_kind(entry.name)]
        if any(entry.is_symlink() for entry in inner):  # the listing follows it, with care for circles
            return True
        to_read += [Path(entry.path) for entry in inner]
    return False


def _is_split_inside(folder: _Folder) -> bool:
    """Return whether a class folder has folders named like two splits."""
    return len({split_of(name) for name in folder.classes} - {""}) > 1


def _nested(folders: Sequence[_Folder]) -> bool:
    return any(folder.classes and not folder.loose for folder in folders)


def _contents(folder: _Folder) -> str:
    return listed(folder.classes) if folder.classes else "photos in no class folder"


def _below(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _root(path: Path) -> str:
    """Return the setting that names this folder, as one word of a command."""
    return shell(override("data.root", str(path)))
