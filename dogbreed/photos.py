"""Scan a folder of photos: its classes, splits, and unusable files with the reasons.

Needs neither torch nor lightning.
"""

import csv
import errno
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dogbreed.commands import shell
from dogbreed.scanning import names
from dogbreed.scanning.checking import check
from dogbreed.scanning.layout import ALL, SPLITS, Layout, subfolders, understand, understand_as_before
from dogbreed.scanning.listing import Classes, File, Listing, is_folder, list_files, list_files_as_before
from dogbreed.scanning.splitting import split

_UNLISTED = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a folder"}


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
    """The photos below `root`. findings: problems that prevent training on them; empty if there are none.

    understood: the layout and the number of photos in one line. notes: what was left out or taken together.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Photo, ...]]
    skipped: tuple[tuple[str, str], ...]  # path, reason
    findings: tuple[str, ...]
    digest: str = field(repr=False)  # of paths and contents, independent of the root's name
    understood: str = ""
    notes: tuple[str, ...] = ()

    def skipped_csv(self) -> str:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows((names.printable(path), reason) for path, reason in self.skipped)
        return table.getvalue()


@dataclass(frozen=True)
class _Wanted:
    """How to divide and accept the photos: the arguments of `scan`."""

    fractions: Mapping[str, float]  # of the splits valid and test
    seed: int
    max_bad_fraction: float


def scan(
    root: Path,
    *,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    max_bad_fraction: float = 0.05,
    like: str = "",
) -> PhotoSet:
    """Scan the splits below `root`, such as train/<class>/*, or its class folders, which are split, stratified and
    seeded. `dogbreed.scanning.layout` describes which folders are which; a missing valid or test is split off train.

    Opens each file once, and caches the result by size and dates, so that the next scan is quick. Ignores hidden files,
    notes and thumbnails. Does not raise for bad photos or folders: all problems are in `findings`.

    like: the digest of the photos of a run that is resumed. If earlier versions took the folder for these photos, they
    are returned.
    """
    wanted = _Wanted({"valid": valid_fraction, "test": test_fraction}, seed, max_bad_fraction)
    try:
        layout = understand(root)
        found = _scanned(root, layout, list_files(root, layout), wanted)
        if like and found.digest != like:
            layout = understand_as_before(root)
            before = _scanned(root, layout, list_files_as_before(root, layout), wanted, as_before=True)
            return before if before.digest == like else found
        return found
    except OSError as error:
        return _nothing(
            root,
            f"The data folder {_where(error, root)} {_UNLISTED.get(error.errno or 0, error.strerror or str(error))}.\n"
            "Try: data.root=<the folder that holds your photos>",
        )


def _scanned(root: Path, layout: Layout, listing: Listing, wanted: _Wanted, *, as_before: bool = False) -> PhotoSet:
    listed = listing.files
    if not any(any(classes.values()) for classes in listed.values()):
        return _nothing(
            root,
            f"{root} has no photos in class folders (seen: {_seen(root)}).\n"
            "Try: data.root=<a folder with train/, valid/ and test/, or with one folder per class>",
        )
    findings = list(layout.findings)
    checked = check(root, [file for classes in listed.values() for files in classes.values() for file in files])
    skipped = tuple(sorted((file.path, file.problem) for file in checked.values() if file.problem))
    findings += _too_many_bad(root, skipped, len(checked), wanted.max_bad_fraction)
    good = {part: _usable(classes, checked) for part, classes in listed.items()}
    if layout.splits:
        places = {part: root / folder for part, folder in layout.folders.items()}
        findings += _uneven_classes(places, {part: set(classes) for part, classes in listed.items()}, listing)
        findings += _empty_classes(places, good)
    lacking = {part: value for part, value in wanted.fractions.items() if part not in good}
    source = "train" if layout.splits else ALL
    if lacking and source in good and not (as_before and layout.splits):
        parts, more = split(root, good.pop(source), lacking, wanted.seed, copies_together=not as_before)
        good |= parts
        findings += more if not layout.findings else []
    classes = tuple(sorted({name for part in good.values() for name in part}))
    findings += _unfit_classes(root, classes) if not layout.findings else []
    splits = _labelled(good, classes)
    contents = json.dumps([[photo.path, photo.digest] for part in SPLITS for photo in splits[part]])
    digest = hashlib.sha256(contents.encode()).hexdigest()
    understood = _understood(layout, splits, len(classes), lacking)
    return PhotoSet(root, classes, splits, skipped, tuple(findings), digest, understood, tuple(_notes(layout, listing)))


def _usable(classes: Classes, checked: Mapping[str, File]) -> Classes:
    found = {name: [checked[file.path] for file in files] for name, files in classes.items()}
    return {name: [file for file in files if not file.problem] for name, files in found.items()}


def _labelled(good: Mapping[str, Classes], classes: Sequence[str]) -> dict[str, tuple[Photo, ...]]:
    label = {name: n for n, name in enumerate(classes)}
    return {
        part: tuple(
            Photo(file.path, label[name], file.digest)
            for name in sorted(good.get(part, {}))
            for file in good[part][name]
        )
        for part in SPLITS
    }


def _understood(
    layout: Layout, splits: Mapping[str, Sequence[Photo]], classes: int, lacking: Mapping[str, float]
) -> str:
    """Say what the folder was taken for: `3 splits of 2 classes: train 120, valid 40, test 40 split off from train`."""
    where = f" in {names.printable(layout.base)}/" if layout.base else ""
    parts = []
    for part in SPLITS:
        count = f"{part} {len(splits[part]):,}"
        folder = layout.folders.get(part, "").removeprefix(f"{layout.base}/" if layout.base else "")
        if part in lacking and not lacking[part]:
            count = f"no {part} (data.{part}_fraction=0)"
        elif part in lacking and layout.splits:
            count += " split off from train"
        elif folder not in ("", part):
            count += f" ({names.printable(folder)}/)"
        parts.append(count)
    if layout.splits:
        number = sum(1 for part in SPLITS if splits[part])
        return f"{number} splits of {classes} classes{where}: {', '.join(parts)}"
    return f"folders of {classes} classes{where}, split at random: {', '.join(parts)}"


def _notes(layout: Layout, listing: Listing) -> Iterator[str]:
    if listing.ignored:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(listing.ignored.items()))
        yield f"Ignored {counts}"
    for name, other in sorted(listing.merged):
        yield f"Taken as one class: {names.spelled(name)} and {names.spelled(other)}"
    if listing.loose:
        places = names.listed(sorted(listing.loose))
        yield f"Not used: {sum(listing.loose.values()):,} photos outside class folders (in {places})"
    if layout.unused:
        yield f"Not used: folders beside the splits ({names.listed(layout.unused)})"


def _nothing(root: Path, finding: str) -> PhotoSet:
    return PhotoSet(root, (), dict.fromkeys(SPLITS, ()), (), (finding,), "")


def _where(error: OSError, root: Path) -> str:
    return names.printable(os.fspath(error.filename or root))


def _seen(root: Path) -> str:
    """Describe what the folder contains instead of class folders: most often loose photos."""
    folders = subfolders(root)
    files = sum(not e.name.startswith(".") and not is_folder(e) for e in os.scandir(root))
    loose = [f"{files:,} files outside class folders"] if files else []
    return "; ".join(([names.listed(folders)] if folders else []) + loose) or "nothing"


def _uneven_classes(folders: Mapping[str, Path], classes: Mapping[str, set[str]], listing: Listing) -> Iterator[str]:
    everywhere = set().union(*classes.values())
    for part in SPLITS:
        if part in classes and not classes[part]:
            loose = sum(not is_folder(e) and not e.name.startswith(".") for e in os.scandir(folders[part]))
            seen = f" (seen: {loose:,} files outside class folders)" if loose else ""
            yield (
                f"{folders[part]} has no class folders{seen}.\nTry: put a folder per class with photos into it"
                + (", or move it away, and a part of train is split off" if part != "train" else "")
            )
        elif part in classes and (lacking := sorted(everywhere - classes[part])):
            yield (
                f"{folders[part]} lacks {len(lacking)} of {len(everywhere)} class folders that other splits have: "
                f"{names.listed(lacking)}.{_near(lacking, classes, part)}\n"
                "Try: add them, or remove them from the other splits"
            )


def _near(lacking: Sequence[str], classes: Mapping[str, set[str]], part: str) -> str:
    """Describe folders whose names are almost the lacking ones; "" if there are none."""
    common = set.intersection(*classes.values())
    pairs = [(name, other) for name in lacking if (other := names.alike(name, sorted(classes[part] - common)))]
    return "".join(
        f"\nIt has {names.spelled(other)}, which differs from {names.spelled(name)} {names.difference(name, other)}."
        for name, other in pairs[:3]
    )


def _empty_classes(folders: Mapping[str, Path], good: Mapping[str, Mapping[str, Sequence[File]]]) -> Iterator[str]:
    for part in SPLITS:
        if empty := sorted(name for name, files in good.get(part, {}).items() if not files):
            yield (
                f"{folders[part]} has {len(empty)} class folders without a usable photo: {names.listed(empty)}.\n"
                "Try: add photos to them, or remove these classes from all splits"
            )


def _too_many_bad(root: Path, skipped: Sequence[tuple[str, str]], total: int, limit: float) -> Iterator[str]:
    if len(skipped) <= limit * total:
        return
    counts = Counter(why for _, why in skipped)
    reasons = "; ".join(f"{n:,} x {reason}" for reason, n in counts.most_common(3))
    share = len(skipped) / total
    advice = "fix or remove them (all are listed in skipped.csv)"
    if of_heic := [why for why in counts if "HEIC" in why]:
        install = "pip install 'dogbreed[heif]', or " if any("pip install" in why for why in of_heic) else ""
        advice = (
            f"{install}convert them to JPEG "
            f"(with ImageMagick: find {shell(str(root))} -iname '*.hei[cf]' -exec magick mogrify -format jpg {{}} +)"
        )
    if len(skipped) < total:  # without a single photo there is nothing to train on
        advice += f", or data.max_bad_fraction={min(1.0, share + 0.01):.2f}"
    yield (
        f"{len(skipped):,} of {total:,} files in {root} are unusable ({share:.1%}; at most {limit:.1%} are skipped): "
        f"{reasons}. First: {names.printable(skipped[0][0])}.\nTry: {advice}"
    )


def _unfit_classes(root: Path, classes: Sequence[str]) -> Iterator[str]:
    """Check the class names, which go into checkpoints, tables and reports; photos may have any name."""
    if bad := [name for name in classes if names.printable(name) != name]:
        yield (
            f"{root} has {len(bad)} class folders whose names are not printable: {names.listed(bad)}.\nTry: rename them"
        )
    if len(classes) == 1:
        yield (
            f"{root} has only one class ({names.printable(classes[0])}); at least two are needed.\n"
            "Try: add a folder for each other class"
        )
