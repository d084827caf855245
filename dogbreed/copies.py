"""Find photos that are in the data set more than once: in two splits, or in two classes.

A copy in train makes a test photo easy; a copy in another class contradicts its label.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dogbreed.scanning.layout import SPLITS
from dogbreed.scanning.names import printable

if TYPE_CHECKING:
    from dogbreed.photos import PhotoSet

BYTES, PIXELS, NEAR = "the same bytes", "the same pixels", "nearly the same picture"
_COLUMNS = ("group", "path", "split", "class", "copies")


@dataclass(frozen=True)
class Copy:
    """A photo that is there more than once. group: the same number for all its copies. how: they are alike."""

    group: int
    path: str
    split: str
    class_name: str
    how: str


@dataclass(frozen=True)
class Copies:
    """All photos with a copy in another split or another class."""

    photos: tuple[Copy, ...] = ()

    @property
    def groups(self) -> list[list[Copy]]:
        groups: dict[int, list[Copy]] = {}
        for photo in self.photos:
            groups.setdefault(photo.group, []).append(photo)
        return list(groups.values())

    @property
    def leaked(self) -> dict[str, set[str]]:
        """The paths of photos that an earlier split has as well, by split: of valid in train, of test in either."""
        found: dict[str, set[str]] = {split: set() for split in SPLITS[1:]}
        for group in self.groups:
            first = min(SPLITS.index(photo.split) for photo in group)
            for photo in group:
                if SPLITS.index(photo.split) > first:
                    found[photo.split].add(photo.path)
        return found

    @property
    def conflicts(self) -> list[list[Copy]]:
        """The groups whose photos are in two classes or more."""
        return [group for group in self.groups if len({photo.class_name for photo in group}) > 1]

    def conflict_findings(self, photos: "PhotoSet", most: float) -> list[str]:
        """Return a finding if more than a share of `most` of all photos are in two classes.

        Not for photos that are only nearly the same: before one background, a good part and a faulty one may be.
        """
        total = sum(map(len, photos.splits.values()))
        count = sum(map(len, self.conflicts))
        if count <= most * total:
            return []
        first = " and ".join(printable(photo.path) for photo in self.conflicts[0][:2])
        return [
            f"{count:,} of {total:,} photos in {photos.root} are in two classes ({count / total:.1%}; at most "
            f"{most:.1%} may be). First: {first} ({self.conflicts[0][0].how}).\n"
            "Try: keep each photo in its right class (all are listed in copies.csv), or "
            f"data.max_conflicts={min(1.0, count / total + 0.01):.2f}"
        ]

    def warnings(self, photos: "PhotoSet", certain: "Copies", where: Path) -> list[str]:
        """Return a line for each way in which copies may mislead.

        certain: those without the photos that are only nearly the same. where: the file that lists them.
        """
        counts = {
            f"of {len(photos.splits[split]):,} {split} photos are also in {also}": (
                len(certain.leaked[split]),
                len(paths),
            )
            for (split, paths), also in zip(self.leaked.items(), ("train", "train or valid"), strict=True)
        }
        counts["photos are in two classes"] = (sum(map(len, certain.conflicts)), sum(map(len, self.conflicts)))
        found = []
        for what, (sure, together) in counts.items():
            near = f"{together - sure:,} {'more ' if sure else ''}look nearly the same as others"
            if together:
                found.append(f"{sure:,} {what}{f', and {near}' * (together > sure)}; they are listed in {where}")
        return found

    def to_csv(self) -> str:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for photo in self.photos:
            writer.writerow((photo.group, printable(photo.path), photo.split, printable(photo.class_name), photo.how))
        return table.getvalue()

    @classmethod
    def from_csv(cls, path: Path) -> Self:
        """Read a table that `to_csv` wrote; names that are not printable stay as they were printed."""
        with path.open(encoding="utf-8", newline="") as file:
            rows = [tuple(row[name] or "" for name in _COLUMNS) for row in csv.DictReader(file)]
        return cls(tuple(Copy(int(group), *rest) for group, *rest in rows))


def find(photos: "PhotoSet", alike: Iterable[tuple[str, str, str]] = ()) -> Copies:
    """Find the copies by bytes and those in `alike`: pairs of digests and how the photos are alike."""
    group_of, how = _joined([(one, other, kind) for one, other, kind in alike])
    members: dict[str, list[tuple[str, str, str]]] = {}  # by group: path, split, class
    for split in SPLITS:
        for photo in photos.splits[split]:
            place = (photo.path, split, photos.classes[photo.label])
            members.setdefault(group_of.get(photo.digest, photo.digest), []).append(place)
    found: list[Copy] = []
    number = 0
    for digest, some in members.items():
        if len(some) > 1 and (len({split for _, split, _ in some}) > 1 or len({name for *_, name in some}) > 1):
            number += 1
            found += [Copy(number, *place, how.get(digest, BYTES)) for place in some]
    return Copies(tuple(found))


def _joined(pairs: Sequence[tuple[str, str, str]]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Join pairs to groups: return the group of each digest, and how the photos of each group are alike."""
    parent: dict[str, str] = {}

    def root(digest: str) -> str:
        while (above := parent.setdefault(digest, digest)) != digest:
            parent[digest] = parent[above]
            digest = parent[above]
        return digest

    for one, other, _ in pairs:
        parent[root(other)] = root(one)
    how: dict[str, str] = {}
    for one, _, kind in pairs:
        group = root(one)
        how[group] = NEAR if NEAR in (kind, how.get(group)) else kind
    return {digest: root(digest) for digest in list(parent)}, how
