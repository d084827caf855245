"""What a folder of photos is taken for: its splits, its classes, and what is left out."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.photos import PhotoSet, scan
from dogbreed.scanning import ignored, names
from dogbreed.scanning.layout import split_of, understand
from tests.support.odd_pictures import jpeg

PHOTO = jpeg(quality=30)
TWO = ("cat", "dog")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def put(path: Path, content: bytes | None = None) -> Path:
    """Write a photo of its own: bytes after a JPEG's end change its digest, not its picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PHOTO + os.fsencode(path) if content is None else content)
    return path


def fill(folder: Path, classes: tuple[str, ...] = TWO, count: int = 3) -> Path:
    for name in classes:
        for n in range(count):
            put(folder / name / f"{n}.jpg")
    return folder


def counts(found: PhotoSet) -> tuple[int, int, int]:
    return tuple(len(found.splits[split]) for split in ("train", "valid", "test"))  # type: ignore[return-value]


# --- splits ---


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "valid", "test"), (6, 6, 6)),
        (("Training", "Validation", "Testing"), (6, 6, 6)),
        (("TRAIN", "val", "Test"), (6, 6, 6)),
        (("training_set", "dev set", "test_set"), (6, 6, 6)),
        (("train_images", "valid-images", "test.images"), (6, 6, 6)),
        (("training_set/training_set", "test_set/test_set"), (4, 2, 6)),
        (("dogImages/train", "dogImages/valid", "dogImages/test"), (6, 6, 6)),
        (("archive/data/train", "archive/data/val"), (4, 6, 2)),
        (("Training", "Testing"), (4, 2, 6)),
        (("train", "val"), (4, 6, 2)),
        (("train",), (2, 2, 2)),
        (("seg_train/seg_train", "seg_test/seg_test"), (4, 2, 6)),
        (("flowers-train", "flowers-val", "flowers-test"), (6, 6, 6)),
        (("Train cats", "Test cats"), (4, 2, 6)),
    ],
)
def test_splits_are_found_whatever_their_case_and_one_folder_deeper(
    folders: tuple[str, ...], expected: tuple[int, int, int], root: Path
) -> None:
    for folder in folders:
        fill(root / folder)
    found = scan(root)
    assert found.findings == ()
    assert found.classes == TWO
    assert counts(found) == expected


def test_what_was_understood_is_one_line(root: Path) -> None:
    fill(root / "a/Training", count=10)
    fill(root / "a/val", count=4)
    (line,) = scan(root).understood.splitlines()
    assert line == "3 splits of 2 classes in a/: train 18 (Training/), valid 8 (val/), test 2 split off from train"
    fill(root.with_name("b"), count=10)
    line = scan(root.with_name("b")).understood
    assert line == "folders of 2 classes, split at random: train 16, valid 2, test 2"


def test_class_folders_one_folder_too_deep_are_found(root: Path) -> None:
    fill(root / "archive/photos", count=10)
    found = scan(root)
    assert (found.findings, found.classes) == ((), TWO)
    assert "in archive/photos/" in found.understood


@pytest.mark.parametrize("classes", [("train", "bus", "car"), ("test", "control"), ("validation", "sales")])
def test_a_class_that_is_called_like_a_split_is_a_class(classes: tuple[str, ...], root: Path) -> None:
    found = scan(fill(root, classes, count=10))
    assert found.findings == ()
    assert found.classes == tuple(sorted(classes))


@pytest.mark.parametrize(
    "make",
    [
        lambda root: (fill(root / "train", ("cat", "dog")), fill(root / "test", ("oak", "elm"))),
        lambda root: (put(root / "train/0.jpg"), put(root / "test/0.jpg")),
        lambda root: (fill(root / "dogImages/train"), fill(root / "dogImages/test"), fill(root / "lfw", ("Ann", "Bo"))),
        lambda root: (fill(root / "cat", ("train", "test")), fill(root / "dog", ("train", "test"))),
        lambda root: (fill(root / "train", ("cat", "dog")), put(root / "more/0.jpg")),
    ],
    ids=["other classes", "no class folders", "splits beside another set", "splits inside classes", "a part left over"],
)
def test_an_ambiguous_folder_is_refused_with_both_readings_and_what_to_type(make: object, root: Path) -> None:
    make(root)  # type: ignore[operator]
    (finding,) = understand(root).findings
    assert str(root) in finding
    assert "can be read in two ways: as" in finding
    assert ", or as " in finding
    assert "\nTry: " in finding
    assert finding in scan(root).findings


@pytest.mark.parametrize("name", ["contest", "latest", "trainer", "strain", "protest", "devil", "values", "retriever"])
def test_a_name_that_only_holds_a_split_s_is_none(name: str) -> None:
    assert split_of(name) == ""


@pytest.mark.parametrize(
    "classes",
    [("steam_train", "crash_test"), ("toy_train", "real_train"), ("toy_train", "toy_test"), ("dog", "seg_train")],
)
def test_classes_whose_names_hold_a_split_s_word_stay_classes(classes: tuple[str, ...], root: Path) -> None:
    found = scan(fill(root, classes, count=10))
    assert (found.findings, found.classes) == ((), tuple(sorted(classes)))


def test_what_lies_beside_splits_that_share_a_word_is_not_used(root: Path) -> None:
    for name in ("seg_train", "seg_test"):
        fill(root / name / name)
    put(root / "seg_pred/seg_pred/0.jpg")
    found = scan(root)
    assert (found.findings, found.classes, counts(found)) == ((), TWO, (4, 2, 6))
    assert "Not used: folders beside the splits (seg_pred)" in found.notes


def test_nothing_is_tested_if_asked_for(root: Path) -> None:
    found = scan(fill(root, count=10), test_fraction=0)
    assert found.findings == ()
    assert counts(found) == (18, 2, 0)
    assert "no test (data.test_fraction=0)" in found.understood
    assert scan(root, valid_fraction=0).findings


def test_a_run_of_an_earlier_version_keeps_its_photos(root: Path) -> None:
    """A folder that was taken for two classes then is taken for two splits now; a resumed run needs its photos."""
    from dogbreed import photos
    from dogbreed.scanning.layout import understand_as_before
    from dogbreed.scanning.listing import list_files_as_before

    fill(root / "Training", count=10)
    fill(root / "Testing", count=10)
    wanted = photos._Wanted({"valid": 0.1, "test": 0.1}, 0, 0.05)
    layout = understand_as_before(root)
    before = photos._scanned(root, layout, list_files_as_before(root, layout), wanted, as_before=True)
    assert before.classes == ("Testing", "Training")
    assert scan(root).classes == TWO
    assert scan(root, like=before.digest).classes == before.classes


# --- names ---


@given(st.text(min_size=1).filter(lambda text: text.strip() and "/" not in text and "\0" not in text))
def test_names_compare_equal_in_every_unicode_form_and_with_blanks_around(name: str) -> None:
    for form in ("NFC", "NFD"):
        assert names.comparable(f" {unicodedata.normalize(form, name)}\u200b ") == names.comparable(name)


def test_folders_whose_names_differ_only_in_form_are_one_class(root: Path) -> None:
    composed, apart = "Spitz für Müller", unicodedata.normalize("NFD", "Spitz für Müller")
    fill(root / "train", (composed, "Shih Tzu "))
    fill(root / "test", (apart, "Shih Tzu"))
    found = scan(root)
    assert found.findings == ()
    assert len(found.classes) == 2
    assert counts(found) == (4, 2, 6)
    notes = "\n".join(found.notes)
    assert "Taken as one class: " in notes
    assert "'Shih Tzu '" in notes


def test_a_class_that_is_lacking_is_shown_with_the_one_that_is_near(root: Path) -> None:
    fill(root / "train", ("Beagle", "Golden_Retriever"))
    fill(root / "test", ("Beagle", "golden retriever"))
    text = "\n".join(scan(root).findings)
    assert (
        "It has golden retriever, which differs from Golden_Retriever in blanks, signs or the form of letters." in text
    )


# --- files that are no photos ---

SIDECARS = {
    ignored.HIDDEN: [".DS_Store", "._0.jpg", ".thumb.jpg"],
    ignored.SYSTEM: ["Thumbs.db", "desktop.ini", "ehthumbs.db"],
    ignored.NOTES: ["0.json", "0.jpg.json", "0.txt", "labels.csv", "0.xmp", "README", "classes.TXT"],
    ignored.TWINS: ["0.mov", "0.MP4", "0.CR2", "0.heic", "0.jpg_original", "0.jpg~"],
    ignored.THUMBNAILS: ["@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/0.jpg/SYNOPHOTO_THUMB_S.jpg"],
}


def test_sidecar_files_are_ignored_and_counted_by_kind(root: Path) -> None:
    fill(root, count=10)
    before = scan(root)
    for some in SIDECARS.values():
        for name in some:
            put(root / "cat" / name, b"no photo")
    found = scan(root, max_bad_fraction=0)
    assert (found.findings, found.skipped, found.digest) == ((), (), before.digest)
    (note,) = [note for note in found.notes if note.startswith("Ignored ")]
    for kind, some in SIDECARS.items():
        assert f"{len(some)} {kind}" in note


def test_a_photo_that_is_named_like_a_note_and_a_video_without_a_photo_are_not_ignored(root: Path) -> None:
    fill(root, count=10)
    put(root / "cat/photo.txt")
    put(root / "cat/alone.mov", b"\0\0\0\x14ftypqt  \0\0\0\0qt  ")
    found = scan(root)
    assert "cat/photo.txt" in {photo.path for split in found.splits.values() for photo in split}
    assert found.skipped == (("cat/alone.mov", "a video, not a photo"),)


def test_photos_outside_class_folders_are_not_used_and_counted(root: Path) -> None:
    fill(root, count=10)
    put(root / "loose.jpg")
    assert "Not used: 1 photos outside class folders (in .)" in scan(root).notes


def test_a_folder_of_labels_is_no_class(root: Path) -> None:
    fill(root, count=10)
    put(root / "labels/0.txt", b"0 0.5 0.5 1 1")
    assert scan(root).classes == TWO


def test_without_its_package_a_heic_photo_says_what_to_install_and_is_read_once_that_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dogbreed.scanning import checking

    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    root = fill(root.with_name("my photos"), count=10)
    photo = put(root / "cat/phone.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400))
    found = scan(root, max_bad_fraction=0)
    assert [path for path, _ in found.skipped] == ["cat/phone.HEIC"]
    assert "pip install 'dogbreed[heif]'" in found.skipped[0][1]
    (finding,) = found.findings
    assert f"find '{root}' -iname" in finding, "to be pasted"
    read: list[str] = []
    real = checking.read_picture
    monkeypatch.setattr(checking, "read_picture", lambda path: read.append(Path(path).name) or real(path))
    scan(root)
    assert read == []
    monkeypatch.setattr(checking, "_READS", ["avif", "heif, of another time"])
    scan(root)
    assert read == [photo.name]


def test_an_avif_photo_is_read(root: Path) -> None:
    from PIL import Image, features

    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    fill(root, count=10)
    Image.new("RGB", (32, 32), "red").save(root / "cat/a.avif")
    found = scan(root)
    assert "cat/a.avif" in {photo.path for split in found.splits.values() for photo in split}


def test_a_heic_photo_is_read(root: Path) -> None:
    from PIL import Image

    from dogbreed.preprocess import decode

    heif = pytest.importorskip("pillow_heif", reason="needs the extra [heif]")
    heif.register_heif_opener()
    fill(root, count=10)
    picture = Image.new("RGB", (64, 48), "blue")
    picture.paste("red", (0, 0, 32, 48))
    path = root / "cat/IMG_0001.HEIC"
    picture.save(path, "HEIF")
    found = scan(root)
    assert found.skipped == ()
    assert "cat/IMG_0001.HEIC" in {photo.path for split in found.splits.values() for photo in split}
    left, right = (decode(path).getpixel((x, 24)) for x in (8, 56))
    assert decode(path).size == (64, 48)
    assert (left[0] - left[2] > 150, right[2] - right[0] > 150) == (True, True)


def test_a_damaged_heic_photo_says_how_to_convert_it(root: Path) -> None:
    pytest.importorskip("pillow_heif", reason="needs the extra [heif]")
    fill(root, count=10)
    put(root / "cat/phone.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400))
    found = scan(root, max_bad_fraction=0)
    ((path, why),) = found.skipped
    assert (path, "a damaged HEIC photo" in why, "convert it to JPEG" in why) == ("cat/phone.HEIC", True, True)
    assert "Try: convert them to JPEG (with ImageMagick: find " in found.findings[0]
