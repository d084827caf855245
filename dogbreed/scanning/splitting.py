"""Split class folders into train, valid and test: stratified, seeded, and with copies of a photo in one split."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dogbreed.scanning.layout import SPLITS
from dogbreed.scanning.listing import Classes, File
from dogbreed.scanning.names import listed


def split(
    root: Path, classes: Classes, fractions: Mapping[str, float], seed: int, *, copies_together: bool = True
) -> tuple[dict[str, Classes], list[str]]:
    """Split off the splits in `fractions` from `classes`; return all of them with the rest as train, and findings.

    Orders the photos of each class by a keyed hash of their names: the same on every machine, whatever other files
    exist. A test fraction of 0 splits off nothing. Copies of a photo by bytes stay in one split, in all classes.
    """
    wanted = {name: fractions[name] for name in SPLITS if name in fractions}
    in_text = " and ".join(f"data.{name}_fraction={value}" for name, value in wanted.items())
    if any(value < 0 or (not value and name != "test") for name, value in wanted.items()) or sum(wanted.values()) >= 1:
        finding = (
            f"{in_text} cannot split {root} in {len(wanted) + 1} parts.\n"
            "Try: two values above 0 whose sum is well below 1, such as 0.1 and 0.1; data.test_fraction=0 tests nothing"
        )
        return {"train": {name: list(files) for name, files in classes.items()}}, [finding]
    wanted = {name: value for name, value in wanted.items() if value}
    parts: dict[str, Classes] = {name: {} for name in (*wanted, "train")}
    placed: dict[str, str] = {}  # where a photo is that has copies
    few = []
    for name, files in sorted(classes.items()):
        groups = _groups(files, seed, copies_together)
        if len(groups) <= len(wanted):
            few.append(name)
        for part, some in _divide(groups, wanted, placed).items():
            parts[part][name] = sorted((file for group in some for file in group), key=lambda file: file.path)
            if copies_together:
                placed |= {group[0].digest: part for group in some if group[0].digest}
    least = len(wanted) + 1
    return parts, [
        f"{len(few)} of {len(classes)} classes in {root} have fewer than {least} usable photos, too few to split into "
        f"{_in_words([*wanted, 'train'])}: {listed(few)}.\nTry: add photos to them, or remove these folders"
    ] * bool(few)


def _groups(files: Sequence[File], seed: int, copies_together: bool) -> list[list[File]]:
    groups: dict[str, list[File]] = {}
    for file in files:
        groups.setdefault(file.digest if copies_together and file.digest else file.path, []).append(file)
    return sorted(groups.values(), key=lambda g: hashlib.sha256(os.fsencode(f"{seed}/{g[0].path}")).digest())


def _divide(
    groups: Sequence[list[File]], fractions: Mapping[str, float], placed: Mapping[str, str]
) -> dict[str, list[list[File]]]:
    """Divide one class's groups of copies. placed: where copies in other classes already are."""
    total = sum(map(len, groups))
    room = {name: max(1, round(total * fraction)) for name, fraction in fractions.items()}
    while sum(room.values()) >= total > len(room):  # a small class keeps at least one training photo
        room[max(reversed(list(room)), key=room.__getitem__)] -= 1
    parts: dict[str, list[list[File]]] = {name: [] for name in (*fractions, "train")}
    rest = []
    for group in groups:
        there = placed.get(group[0].digest)
        if there is None:
            rest.append(group)
        else:
            parts[there].append(group)
            if there in room:
                room[there] -= len(group)
    for number, name in enumerate(room):
        left = []
        for group in rest:
            if len(group) <= room[name]:
                parts[name].append(group)
                room[name] -= len(group)
            else:
                left.append(group)
        rest = left
        if not parts[name] and len(rest) > len(room) - number:  # every later split and train need one as well
            parts[name].append(rest.pop(min(range(len(rest)), key=lambda n: len(rest[n]))))
    parts["train"] += rest
    return parts


def _in_words(names: Sequence[str]) -> str:
    ordered = [name for name in SPLITS if name in names]
    return f"{', '.join(ordered[:-1])} and {ordered[-1]}"
