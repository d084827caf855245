"""Scanning folders of photos: what is found, what is skipped, what is cached."""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dogbreed import photos as photos_module
from dogbreed.data import DogBreedData
from dogbreed.errors import DataError
from dogbreed.photos import PhotoSet, scan
from dogbreed.preprocess import probe
from dogbreed.scanning import checking, splitting
from dogbreed.scanning.layout import SPLITS
from dogbreed.scanning.listing import File
from dogbreed.transforms import Augment
from tests.support.odd_pictures import ODD, jpeg
from tests.support.photos import make_photos

CLASSES = ("a.Akita", "b.Beagle", "c.Collie")
PHOTO = jpeg(quality=80)


def put(path: Path, content: bytes | None = None) -> Path:
    """Write a photo of its own: bytes after a JPEG's end change its digest, not its picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PHOTO + os.fsencode("/".join(path.parts[-3:])) if content is None else content)
    return path


def splits(root: Path, *, classes: tuple[str, ...] = CLASSES, count: int = 2) -> Path:
    for split in SPLITS:
        for name in classes:
            for n in range(count):
                put(root / split / name / f"{n}.jpg")
    return root


def class_folders(root: Path, count: int = 10, classes: tuple[str, ...] = CLASSES) -> Path:
    for name in classes:
        for n in range(count):
            put(root / name / f"{n}.jpg")
    return root


def paths(found: PhotoSet, split: str) -> list[str]:
    return [photo.path for photo in found.splits[split]]


def all_paths(found: PhotoSet) -> set[str]:
    return {path for split in SPLITS for path in paths(found, split)}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the names of the files that are read."""
    seen: list[str] = []
    real = checking.read_picture

    def counted(path: Path) -> bytes:
        seen.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(checking, "read_picture", counted)
    return seen


# --- odd files in a folder of good ones ---


def odd_folder(root: Path) -> tuple[Path, set[str]]:
    """3 classes of good photos with every odd kind and more among them, and the paths that should be skipped."""
    splits(root, count=3)
    bad = set()
    for n, (kind, odd) in enumerate(sorted(ODD.items())):
        split, name = SPLITS[n % 3], CLASSES[n % 2]
        path = put(root / split / name / f"{n:03d} {kind.replace('/', '_')}{odd.suffix}", odd.content)
        usable = odd.good
        if usable is None:  # differs between versions of Pillow; test_preprocess holds decode and probe equal
            try:
                usable = bool(probe(odd.content))
            except DataError:
                usable = False
        if not usable:
            bad.add(path.relative_to(root).as_posix())
    folder = root / "train" / CLASSES[0]
    os.mkfifo(folder / "pipe.jpg")
    (folder / "nowhere.jpg").symlink_to("absent.jpg")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "up").symlink_to("..")
    (folder / "here").symlink_to(".")
    bad |= {
        f"train/{CLASSES[0]}/{name}" for name in ("pipe.jpg", "nowhere.jpg", "itself.jpg", "zero.jpg", "up", "here")
    }
    put(folder / "folder.jpg" / "inside.jpg")
    (folder / "a link.jpg").symlink_to(put(root.parent / "elsewhere.jpg"))
    names = [b"-rf.jpg", b"with space.jpg", b"line\nbreak.jpg", b"\xff\xfe.jpg", "Möbel 狗.jpg".encode(), b"x" * 255]
    for file_name in names:
        put(folder / os.fsdecode(file_name))
    bad_name = put(folder / os.fsdecode(b"\xff\xfd broken\n.jpg"), b"woof")
    bad.add(bad_name.relative_to(root).as_posix())
    (folder / "nested" / "deeper").mkdir(parents=True)
    put(folder / "nested" / "deeper" / "photo.jpg")
    for hidden in (".DS_Store", "._0.jpg", "Thumbs.db", "desktop.ini"):
        put(folder / hidden, b"hidden")
    return root, bad


def test_exactly_the_unusable_files_are_skipped_each_with_a_reason(tmp_path: Path) -> None:
    root, bad = odd_folder(tmp_path / "data")
    found = scan(root, max_bad_fraction=0.5)
    assert found.findings == ()
    assert {path for path, _ in found.skipped} == bad
    assert all(reason and "\n" not in reason for _, reason in found.skipped)
    files = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name not in ("Thumbs.db", "desktop.ini")
    }
    assert all_paths(found) == files - bad
    assert found.classes == CLASSES


def test_skipped_csv_can_be_written_and_read_whatever_the_names(tmp_path: Path) -> None:
    root, bad = odd_folder(tmp_path / "data")
    table = scan(root).skipped_csv()
    rows = list(csv.DictReader(io.StringIO(table.encode("utf-8").decode("utf-8"))))
    assert len(rows) == len(bad)
    assert f"train/{CLASSES[0]}/\\xff\\xfd broken\\n.jpg" in {row["path"] for row in rows}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_reads_every_kept_photo_of_an_odd_folder(workers: int, tmp_path: Path) -> None:
    root, _ = odd_folder(tmp_path / "data")
    data = DogBreedData(
        root,
        batch_size=16,
        image_px=16,
        augment=Augment(),
        workers=workers,
        max_bad_fraction=0.5,
        max_conflicts=0.05,  # two of the odd pictures are the same file
        seed=1,
    )
    data.prepare_data()
    data.setup()
    train, step = data.train_dataloader(), data.global_batch
    for loader, split in ((train, "train"), (data.val_dataloader(), "valid"), (data.test_dataloader(), "test")):
        shapes = [(tuple(pixels.shape[1:]), len(labels)) for pixels, labels, *_ in loader]
        whole = len(data.photos.splits[split])
        assert {shape for shape, _ in shapes} == {(3, 16, 16)}
        assert sum(count for _, count in shapes) == (whole - whole % step if loader is train else whole)
        dataset = loader.dataset
        assert len([dataset[0, n] for n in range(whole)]) == whole


def test_above_the_fraction_the_finding_says_counts_reasons_first_file_and_what_to_try(tmp_path: Path) -> None:
    root = splits(tmp_path / "data", count=4)
    for name in ("x.jpg", "y.jpg"):
        put(root / "train" / CLASSES[1] / name, b"")
    put(root / "valid" / CLASSES[1] / "z.jpg", b"woof")
    (finding,) = scan(root).findings
    assert "3 of 39 files" in finding
    assert "7.7%; at most 5.0% are skipped" in finding
    assert "2 x the file is empty (0 bytes); 1 x not a photo of a known format" in finding
    assert f"First: train/{CLASSES[1]}/x.jpg." in finding
    assert "Try: fix or remove them (all are listed in skipped.csv), or data.max_bad_fraction=0.09" in finding
    assert scan(root, max_bad_fraction=0.09).findings == ()
    assert scan(root, max_bad_fraction=3 / 39).findings == ()


@settings(max_examples=60)
@given(bad=st.integers(1, 500), good=st.integers(1, 500))
def test_the_fraction_that_a_finding_advises_is_enough(bad: int, good: int) -> None:
    skipped = [(f"{n}.jpg", "woof") for n in range(bad)]
    (finding,) = photos_module._too_many_bad(Path("data"), skipped, bad + good, 0.0)
    advised = float(finding.rpartition("data.max_bad_fraction=")[2])
    assert advised <= 1.0
    assert list(photos_module._too_many_bad(Path("data"), skipped, bad + good, advised)) == []


def test_a_run_on_bad_photos_alone_is_refused_with_all_findings(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in CLASSES:
        put(root / name / "x.jpg", b"woof")
    data = DogBreedData(root, workers=0)
    with pytest.raises(DataError) as caught:
        data.setup()
    assert "3 of 3 files" in str(caught.value)
    assert "fewer than 3 usable photos" in str(caught.value)


# --- findings about folders ---


def test_all_findings_come_at_once(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    shutil.rmtree(root / "test")
    put(root / "train" / "d.Dachshund" / "0.jpg")
    for photo in (root / "valid" / CLASSES[2]).iterdir():
        photo.unlink()
    findings = scan(root).findings
    assert len(findings) == 3
    assert f"{root}/valid lacks 1 of 4 class folders that other splits have: d.Dachshund." in findings[0]
    assert f"{root}/valid has 1 class folders without a usable photo: c.Collie." in findings[1]
    assert f"1 of 4 classes in {root} have fewer than 2 usable photos, too few to split into" in findings[2]
    assert all("\nTry: " in finding for finding in findings)


def test_an_empty_split_is_a_finding(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    shutil.rmtree(root / "valid")
    (root / "valid").mkdir()
    (finding,) = scan(root).findings
    assert f"{root}/valid has no class folders." in finding


def test_findings_name_the_folder_that_is_there(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    (root / "valid").rename(root / "val")
    shutil.rmtree(root / "val" / CLASSES[0])
    (finding,) = scan(root).findings
    assert f"{root}/val lacks 1 of 3" in finding


@pytest.mark.parametrize("name", ["valid", "val", "validation", "Val"])
def test_the_validation_folder_has_many_names(name: str, tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    (root / "valid").rename(root / name)
    found = scan(root)
    assert found.findings == ()
    assert paths(found, "valid")[0] == f"{name}/{CLASSES[0]}/0.jpg"


def test_two_folders_for_one_split_are_a_finding(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    shutil.copytree(root / "valid", root / "val")
    (finding,) = scan(root).findings
    assert "several folders for valid: val, valid" in finding


@pytest.mark.parametrize("layout", [splits, class_folders])
def test_one_class_only_is_a_finding(layout: Callable[..., Path], tmp_path: Path) -> None:
    (finding,) = scan(layout(tmp_path / "data", classes=("a.Akita",))).findings
    assert "only one class (a.Akita)" in finding


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.write_text("woof"), "is not a folder"),
        (lambda root: root.symlink_to(root.name), "symbolic links"),
        (lambda root: root.mkdir(), r"has no photos in class folders \(seen: nothing\)"),
        (lambda root: put(root / "0.jpg"), r"no photos in class folders \(seen: 1 files outside class folders\)"),
        (lambda root: (root / "a").mkdir(parents=True), r"no photos in class folders \(seen: a\)"),
        (lambda root: put(root / ".hidden" / "0.jpg"), r"seen: nothing"),
        (lambda root: put(root / "__MACOSX" / "0.jpg"), r"seen: nothing"),
    ],
    ids=["absent", "file", "link to itself", "empty", "flat", "empty class", "hidden", "macOS"],
)
def test_a_root_without_photos_is_one_finding(make: Callable[[Path], object], seen: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    found = scan(tmp_path / "data")
    assert len(found.findings) == 1
    with pytest.raises(DataError, match=f"{seen}(.|\n)*Try: data.root="):
        DogBreedData(tmp_path / "data", workers=0).setup()


def test_a_root_whose_name_is_too_long_is_a_finding(tmp_path: Path) -> None:
    (finding,) = scan(tmp_path / ("x" * 300)).findings
    assert "File name too long" in finding


def test_class_folders_whose_name_is_not_printable_are_a_finding(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", classes=(*CLASSES, os.fsdecode(b"\xff"), "line\nbreak"))
    (finding,) = scan(root).findings
    assert "2 class folders whose names are not printable: line\\nbreak, \\xff" in finding
    finding.encode()


def test_folders_that_link_to_themselves_are_skipped(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    (root / "loop").symlink_to("loop")
    (root / "train" / "loop").symlink_to("loop")
    assert scan(root).findings == ()


def test_folder_links_in_a_circle_end(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    folder = root / "train" / CLASSES[0]
    for name in "pqrstuvw":  # each links to all others: read again by every path, this would take for ever
        (folder / name).mkdir()
        put(folder / name / "0.jpg")
        for other in "pqrstuvw":
            (folder / name / f"to {other}").symlink_to(f"../{other}")
    found = scan(root, max_bad_fraction=1)
    contents = [path for path in paths(found, "train") if path.startswith(f"train/{CLASSES[0]}/")]
    assert len({os.path.realpath(root / path) for path in contents}) == len(contents) == 2 + 8
    assert all("a link to a folder that was already read" in reason for _, reason in found.skipped)


def test_photos_of_other_classes_are_not_read_through_a_link_to_a_folder_above(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    (root / "train" / CLASSES[0] / "up").symlink_to("..")
    (root / "train" / CLASSES[0] / "top").symlink_to("../..")
    found = scan(root, max_bad_fraction=1)
    assert len(paths(found, "train")) == 6
    assert [path for path, _ in found.skipped] == [f"train/{CLASSES[0]}/top", f"train/{CLASSES[0]}/up"]


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    (root / "train" / CLASSES[0]).rename(tmp_path / "elsewhere")
    (root / "train" / CLASSES[0]).symlink_to(tmp_path / "elsewhere")
    assert len(paths(scan(root), "train")) == 6


def test_very_deep_folders_are_read(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    folders = [root / "train" / CLASSES[0] / "d"]  # deeper than Python's recursion limit
    while len(folders) < 1200:
        folders[-1].mkdir()
        folders.append(folders[-1] / "d")
    photo = folders[-2] / "photo.jpg"
    photo.write_bytes(PHOTO)
    assert len(paths(scan(root), "train")) == 7
    photo.unlink()
    for folder in folders[-2::-1]:  # pytest's own clean-up would recurse
        folder.rmdir()


def test_photos_in_nested_folders_belong_to_the_class(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", count=3)
    put(root / CLASSES[1] / "2019" / "summer" / "0.jpg")
    found = scan(root)
    labels = {photo.path: photo.label for split in SPLITS for photo in found.splits[split]}
    assert labels[f"{CLASSES[1]}/2019/summer/0.jpg"] == 1


def test_classes_are_sorted_and_labels_are_their_places(tmp_path: Path) -> None:
    root = splits(tmp_path / "data", classes=("z", "B", "a", "010.x", "002.y"))
    found = scan(root)
    assert found.classes == ("002.y", "010.x", "B", "a", "z")
    for split in SPLITS:
        assert [p.label for p in found.splits[split]] == [
            found.classes.index(p.path.split("/")[1]) for p in found.splits[split]
        ]


# --- splitting class folders ---


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=5),
    valid=st.floats(0.01, 0.6),
    test=st.floats(0.01, 0.39),
    seed=st.integers(0, 10**6),
)
def test_a_split_is_complete_disjoint_and_stratified(counts: list[int], valid: float, test: float, seed: int) -> None:
    classes = {f"class {k}": [File(f"class {k}/{n}.jpg") for n in range(count)] for k, count in enumerate(counts)}
    parts, findings = splitting.split(Path("data"), classes, {"valid": valid, "test": test}, seed)
    assert findings == []
    for name, files in classes.items():
        by_split = {split: [file.path for file in parts[split][name]] for split in SPLITS}
        assert sorted(path for some in by_split.values() for path in some) == sorted(file.path for file in files)
        assert all(by_split.values())
        if len(files) * min(valid, test, 1 - valid - test) > 1:
            assert abs(len(by_split["valid"]) - len(files) * valid) <= 0.5
            assert abs(len(by_split["test"]) - len(files) * test) <= 0.5


def test_a_split_is_seeded_and_the_same_whatever_the_listing_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = class_folders(tmp_path / "data", count=20)
    first = scan(root, seed=3)
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: iter(sorted(real(path), key=lambda e: e.name, reverse=True)))
    assert scan(root, seed=3) == first
    assert scan(root, seed=4).splits != first.splits
    assert scan(root, seed=4).digest != first.digest
    assert {split: len(first.splits[split]) for split in SPLITS} == {"train": 48, "valid": 6, "test": 6}


def test_another_class_moves_no_photo_of_the_others(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", count=12)
    before = scan(root)
    class_folders(root, classes=("0.Another",))
    after = scan(root)
    for split in SPLITS:
        assert set(paths(before, split)) == {path for path in paths(after, split) if not path.startswith("0.")}


def test_too_few_photos_to_split_are_a_finding(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", count=3)
    (root / CLASSES[1] / "0.jpg").unlink()
    (finding,) = scan(root).findings
    assert "1 of 3 classes" in finding
    assert "fewer than 3 usable photos, too few to split into train, valid and test: b.Beagle." in finding


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.0, 0.1), (0.1, -0.1), (0.9, 0.9)])
def test_fractions_that_leave_a_split_empty_are_a_finding(fractions: tuple[float, float], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data")
    (finding,) = scan(root, valid_fraction=fractions[0], test_fraction=fractions[1]).findings
    assert f"data.valid_fraction={fractions[0]} and data.test_fraction={fractions[1]} cannot split" in finding


def test_photos_whose_names_are_not_printable_are_split_too(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", count=4)
    put(root / CLASSES[0] / os.fsdecode(b"\xff.jpg"))
    found = scan(root)
    assert found.findings == ()
    assert len(all_paths(found)) == 13


# --- what is remembered ---


def test_a_second_scan_reads_nothing(tmp_path: Path, reads: list[str]) -> None:
    root, _ = odd_folder(tmp_path / "data")
    first = scan(root)
    assert len(reads) > 100
    reads.clear()
    assert scan(root) == first
    assert set(reads) <= {"pipe.jpg"}, "a pipe may be a file the next time"


def test_only_a_changed_file_is_scanned_again(tmp_path: Path, reads: list[str]) -> None:
    root = splits(tmp_path / "data")
    first = scan(root)
    reads.clear()
    changed = put(root / "train" / CLASSES[0] / "1.jpg", jpeg(quality=30))
    second = scan(root)
    assert reads == ["1.jpg"]
    assert second.digest != first.digest
    scan(root)
    assert reads == ["1.jpg"], "what was known before is known still"
    put(changed, b"woof")
    assert [path for path, _ in scan(root, max_bad_fraction=1).skipped] == [f"train/{CLASSES[0]}/1.jpg"]
    put(changed)
    assert scan(root).digest == first.digest


def test_a_date_does_not_change_the_digest_but_a_byte_does(tmp_path: Path, reads: list[str]) -> None:
    root = splits(tmp_path / "data")
    first = scan(root)
    photo = root / "test" / CLASSES[2] / "0.jpg"
    reads.clear()
    os.utime(photo, (1, 1))
    assert scan(root).digest == first.digest
    assert reads == ["0.jpg"]
    put(photo, PHOTO + b"\0")
    assert scan(root).digest != first.digest


def test_every_photo_has_the_digest_of_its_bytes_cached_or_not(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    put(root / "test" / CLASSES[2] / "0.jpg", PHOTO + b"\0")
    for found in (scan(root), scan(root)):
        for split in SPLITS:
            for photo in found.splits[split]:
                content = (root / photo.path).read_bytes()
                assert photo.digest == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_a_change_with_the_same_size_and_date_is_detected(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    path = f"train/{CLASSES[1]}/0.jpg"
    put(root / path, PHOTO + b"\0")
    before, date = scan(root), (root / path).stat()
    time.sleep(0.02)  # a tick of the file system's clock
    (root / path).write_bytes(PHOTO + b"\1")
    os.utime(root / path, ns=(date.st_atime_ns, date.st_mtime_ns))
    assert (root / path).stat().st_mtime_ns == date.st_mtime_ns
    changed = set(scan(root).splits["train"]) - set(before.splits["train"])
    assert [photo.path for photo in changed] == [path]


def test_a_touched_photo_is_the_same_photo(tmp_path: Path, reads: list[str]) -> None:
    root = splits(tmp_path / "data")
    before = scan(root)
    os.utime(root / "test" / CLASSES[0] / "0.jpg", (1, 1))
    assert scan(root) == before


def test_the_digest_of_all_photos_is_that_of_earlier_versions(tmp_path: Path) -> None:
    """Run folders that are resumed hold this digest."""
    root = splits(tmp_path / "data")
    found = scan(root)
    listed = [[photo.path, photo.digest] for split in SPLITS for photo in found.splits[split]]
    assert found.digest == hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def test_the_digest_is_the_same_wherever_the_photos_lie(tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    shutil.copytree(root, tmp_path / "copy")
    assert scan(root).digest == scan(tmp_path / "copy").digest
    (root / "train" / CLASSES[0] / "1.jpg").rename(root / "train" / CLASSES[0] / "9.jpg")
    assert scan(root).digest != scan(tmp_path / "copy").digest


def test_results_of_another_pillow_are_not_reused(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = splits(tmp_path / "data")
    scan(root)
    monkeypatch.setattr(checking, "_MEMORY", "another version")
    reads.clear()
    scan(root)
    assert len(reads) == 18


def test_a_disk_error_is_not_cached(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = splits(tmp_path / "data")

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(checking, "read_picture", refused)
        found = scan(root)
        assert {reason for _, reason in found.skipped} == {"Permission denied"}
    assert scan(root).skipped == ()


@pytest.mark.parametrize(
    "memory",
    [
        b"",
        b"woof",
        b"[]",
        b"null",
        b'{"train/a.Akita/0.jpg": 7}',
        b'{"a": [1, 2, 3]}',
        b'{"a": [[], {}, 0, 0]}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
def test_a_damaged_scan_cache_is_ignored(memory: bytes, tmp_path: Path) -> None:
    root = splits(tmp_path / "data")
    first = scan(root)
    (kept,) = (tmp_path / "cache" / "scans").iterdir()
    kept.write_bytes(memory)
    assert scan(root) == first


def test_a_scan_cache_that_cannot_be_written_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = splits(tmp_path / "data")
    (tmp_path / "file").write_text("no folder")
    for cache in (tmp_path / "file", Path("/proc/no/such"), Path("/dev/full")):
        monkeypatch.setenv("DOGBREED_CACHE", str(cache))
        assert scan(root).findings == ()


def test_two_processes_scan_at_once(tmp_path: Path) -> None:
    root, bad = odd_folder(tmp_path / "data")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        one, two = pool.submit(scan, root), pool.submit(scan, root)
        assert one.result() == two.result() == scan(root)
    assert {path for path, _ in one.result().skipped} == bad


def test_a_script_without_a_main_guard_can_scan_many_photos(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", count=80)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom dogbreed.photos import scan\n"
        "print(len(scan(Path(sys.argv[1])).splits['train']))\n"
    )
    done = subprocess.run([sys.executable, script, root], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("192\n", ""), "no bar where there is no terminal"


def test_a_photo_that_changes_while_it_is_read_is_scanned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = splits(tmp_path / "data")
    photo = root / "train" / CLASSES[0] / "0.jpg"
    real = checking.read_picture

    def changing(path: Path) -> bytes:
        if Path(path) == photo:
            photo.write_bytes(b"a copy that is under way")
            os.utime(photo, (time.time() + 5, time.time() + 5))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(checking, "read_picture", changing)
        assert len(scan(root, max_bad_fraction=1).skipped) == 1
    photo.write_bytes(PHOTO)
    assert scan(root).skipped == ()


def test_digest_is_of_the_bytes(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "data", train=2, valid=1, test=1)
    files = checking.check_all(root, [File("train/001.Class_1/000.jpg")])
    content = (root / "train/001.Class_1/000.jpg").read_bytes()
    assert next(iter(files)).digest == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_many_photos_are_checked_as_few_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path / "data", count=20)
    put(root / CLASSES[0] / "bad.jpg", b"woof")
    Image.fromarray(np.zeros((30, 30, 4), np.uint8)).save(root / CLASSES[1] / "clear.png")
    few = scan(root)
    monkeypatch.setattr(checking, "_WORTH_A_BAR", 1)
    monkeypatch.setenv("DOGBREED_CACHE", str(tmp_path / "another"))
    assert scan(root) == few
