"""Photos that are in a data set more than once: by their bytes, by their pixels, and nearly."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dogbreed import copies
from dogbreed.copies import BYTES, NEAR, PIXELS, Copies
from dogbreed.data import DogBreedData
from dogbreed.errors import DataError
from dogbreed.features import prints
from dogbreed.photos import SPLITS, Photo, PhotoSet, scan
from dogbreed.preprocess import Preprocess
from tests.support.odd_pictures import jpeg

CROP = Preprocess(96, 0.875, "bicubic")


def photo_set(**splits: list[tuple[str, int]]) -> PhotoSet:
    """Return a data set of two classes: for each split the digests and labels of its photos."""
    made = {
        split: tuple(
            Photo(f"{split}/{n}.jpg", label, digest) for n, (digest, label) in enumerate(splits.get(split, []))
        )
        for split in SPLITS
    }
    return PhotoSet(Path("data"), ("cat", "dog"), made, (), (), "")


def scene(seed: int, px: int = 240) -> Image.Image:
    """Draw a picture with coarse and fine structure, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((px, px), 3) for n in (5, 9, 40)]
    return Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.15)


def encoded(image: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def alike(*pictures: bytes) -> list[tuple[str, str, str]]:
    rows = np.stack([prints.measure(np.ascontiguousarray(CROP.pixels(picture))) for picture in pictures])
    return prints.alike(rows, [str(n) for n in range(len(pictures))])


# --- by bytes ---


def test_a_photo_in_two_splits_or_two_classes_is_found_and_one_twice_in_a_class_is_not() -> None:
    found = copies.find(
        photo_set(train=[("a", 0), ("b", 0), ("c", 0), ("c", 0)], valid=[("d", 1)], test=[("a", 0), ("b", 1), ("e", 0)])
    )
    assert [(photo.path, photo.how) for photo in found.photos] == [
        ("train/0.jpg", BYTES),
        ("test/0.jpg", BYTES),
        ("train/1.jpg", BYTES),
        ("test/1.jpg", BYTES),
    ]
    assert found.leaked == {"valid": set(), "test": {"test/0.jpg", "test/1.jpg"}}
    assert [[photo.path for photo in group] for group in found.conflicts] == [["train/1.jpg", "test/1.jpg"]]


def test_the_table_comes_back_as_it_was(tmp_path: Path) -> None:
    found = copies.find(photo_set(train=[("a", 0), ("b", 0)], test=[("a", 1), ("b", 0)]), [("a", "b", NEAR)])
    (tmp_path / "copies.csv").write_text(found.to_csv())
    assert Copies.from_csv(tmp_path / "copies.csv") == found
    assert {photo.how for photo in found.photos} == {NEAR}


def test_a_chain_of_pairs_is_one_group() -> None:
    photos = photo_set(train=[("a", 0), ("b", 0)], test=[("c", 0)])
    found = copies.find(photos, [("a", "b", PIXELS), ("b", "c", PIXELS)])
    assert len(found.groups) == 1
    assert len(found.photos) == 3


def test_warnings_count_sure_copies_and_near_ones_apart() -> None:
    photos = photo_set(train=[("a", 0), ("b", 0)], test=[("a", 0), ("c", 0), ("d", 1)])
    near = [("b", "c", NEAR), ("b", "d", NEAR)]
    lines = copies.find(photos, near).warnings(photos, copies.find(photos), Path("copies.csv"))
    assert lines == [
        "1 of 3 test photos are also in train or valid, and 2 more look nearly the same as others; they are listed in "
        "copies.csv",
        "0 photos are in two classes, and 3 look nearly the same as others; they are listed in copies.csv",
    ]
    assert Copies().warnings(photos, Copies(), Path("copies.csv")) == []


def test_photos_in_two_classes_are_refused_above_the_share_and_near_ones_never(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(20):
            (tmp_path / name / f"{n}.jpg").write_bytes(jpeg(quality=30) + f"{name}{n}".encode())
    (tmp_path / "dog" / "again.jpg").write_bytes((tmp_path / "cat" / "0.jpg").read_bytes())
    with pytest.raises(DataError) as caught:
        DogBreedData(tmp_path, workers=0).setup()
    assert "2 of 41 photos" in str(caught.value)
    assert "are in two classes (4.9%; at most 1.0% may be). First: " in str(caught.value)
    assert "data.max_conflicts=0.06" in str(caught.value)
    data = DogBreedData(tmp_path, workers=0, max_conflicts=0.06)
    data.setup()
    assert data.conflicts(data.copies) == []


@pytest.mark.parametrize("seed", range(5))
def test_copies_stay_in_one_split_also_across_classes(seed: int, tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for n in range(30):
            (tmp_path / name / f"{n}.jpg").write_bytes(
                jpeg(quality=30) + bytes([n // 2 if n < 20 else n + 60 * number])
            )
    found = scan(tmp_path, seed=seed)
    assert copies.find(found).leaked == {"valid": set(), "test": set()}
    sizes = [len(found.splits[split]) for split in SPLITS]
    assert sum(sizes) == 60
    assert min(sizes) >= 2


# --- by what they show ---


def test_the_same_pixels_in_another_file_are_a_sure_copy() -> None:
    image = scene(0)
    assert alike(encoded(image, "PNG"), encoded(scene(1), "PNG"), encoded(image, "PNG", compress_level=1)) == [
        ("0", "2", PIXELS)
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(image, quality=45),
        lambda image: encoded(image.resize((150, 150)), quality=85),
        lambda image: encoded(image.point(lambda value: min(255, value + 8)), quality=85),
    ],
    ids=["lower quality", "smaller", "lighter"],
)
def test_a_picture_that_was_saved_again_is_nearly_the_same(change: object) -> None:
    for seed in range(8):
        pair = alike(encoded(scene(seed), quality=90), change(scene(seed)))  # type: ignore[operator]
        assert pair == [("0", "1", NEAR)]


def test_different_pictures_are_not_alike() -> None:
    assert alike(*(encoded(scene(seed)) for seed in range(120))) == []


def test_a_mirrored_picture_another_colour_and_empty_pictures_are_not_alike() -> None:
    image = scene(3)
    red, green, blue = image.split()
    assert alike(encoded(image), encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) == []
    assert alike(encoded(image), encoded(Image.merge("RGB", (blue, green, red)))) == []
    flat = [Image.new("RGB", (60, 60), (level, level, level)) for level in (10, 120, 240)]
    assert alike(*map(encoded, flat)) == []


def test_hashes_that_differ_in_four_bits_are_compared_and_five_are_not() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, np.uint64)
    for bits in (0, 1, 4, 5):
        changed = base.copy()
        for n in range(len(base)):
            for bit in rng.choice(64, bits, replace=False):
                changed[n] ^= np.uint64(1) << np.uint64(bit)
        found = {
            pair
            for one, other in prints._candidates(np.concatenate([base, changed]))
            for pair in zip(one.tolist(), other.tolist(), strict=True)
        }
        assert {(n, n + 40) for n in range(40)} <= found if bits <= 4 else not found & {(n, n + 40) for n in range(40)}
