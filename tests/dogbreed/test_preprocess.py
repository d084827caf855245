"""Odd and damaged pictures, and the network's inputs from good ones."""

import io
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from dogbreed import backbones, preprocess
from dogbreed.drawn import DrawnDogs
from dogbreed.errors import DataError
from dogbreed.preprocess import MAX_BYTES, MAX_PIXELS, Preprocess, Region, decode, probe, read_picture, read_region
from tests.support.odd_pictures import HEIGHT, ODD, WIDTH, Odd, jpeg, saved, upright

kinds = pytest.mark.parametrize("kind", ODD.values(), ids=ODD.keys())
SMALL = Preprocess(image_px=16)
TINY = Preprocess(image_px=3, crop_pct=1.0)  # for which the odd pictures are decoded at an eighth of their scale
WHOLE = {
    "JPEG": jpeg(),
    "progressive JPEG": jpeg(progressive=True, restart_marker_blocks=4),
    "CMYK JPEG": ODD["CMYK JPEG"].content,
    "MPO": ODD["MPO"].content,
    "JPEG with EXIF": ODD["JPEG with EXIF orientation 6"].content,
    "PNG": saved(upright(), "PNG"),
    "palette PNG": ODD["palette PNG with an alpha for each colour"].content,
    "animated PNG": ODD["animated PNG"].content,
    "lossy WebP": ODD["lossy WebP with alpha"].content,
    "lossless WebP": ODD["lossless WebP with alpha"].content,
    "GIF": ODD["animated GIF"].content,
    "BMP": saved(upright(), "BMP"),
    "run-length coded BMP": ODD["run-length coded BMP"].content,
    "TIFF": ODD["TIFF with orientation 5"].content,
    "compressed TIFF": saved(Image.fromarray(upright()), "TIFF", compression="tiff_adobe_deflate"),
    "PPM": saved(upright(), "PPM"),
}


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def outcome(look: Callable[[bytes], tuple[int, int]], content: bytes) -> tuple[int, int] | None:
    """Return the size that `look` finds, None on DataError. Any other exception fails the test."""
    try:
        return look(content)
    except DataError:
        return None


def everything(width: int, height: int) -> tuple[float, float, float, float]:
    return 0, 0, width, height


def test_there_are_many_kinds() -> None:
    assert len(ODD) >= 100
    assert sum(kind.good is False for kind in ODD.values()) >= 30


@kinds
def test_an_odd_picture_decodes_to_rgb_of_its_size_or_raises_data_error(kind: Odd) -> None:
    size = outcome(lambda content: decode(content).size, kind.content)
    assert kind.good is None or (size is not None) == kind.good
    if size is not None:
        assert size == kind.size
        assert decode(kind.content).mode == "RGB"


@kinds
def test_probe_and_decode_agree(kind: Odd) -> None:
    assert outcome(probe, kind.content) == outcome(lambda content: decode(content).size, kind.content)


@kinds
def test_evaluation_pixels_are_a_square_or_data_error(kind: Odd, tmp_path: Path) -> None:
    path = tmp_path / f"picture{kind.suffix}"
    path.write_bytes(kind.content)
    usable = kind.good if kind.good is not None else outcome(probe, kind.content) is not None
    if not usable:
        with pytest.raises(DataError) as caught:
            SMALL.pixels(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        return
    pixels = SMALL.pixels(path)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "kind", [k for k in ODD.values() if k.shows is not None], ids=[n for n, k in ODD.items() if k.shows is not None]
)
def test_an_odd_picture_shows_what_it_should(kind: Odd) -> None:
    try:
        shown = np.asarray(decode(kind.content))
    except DataError:
        assert kind.good is None
        return
    assert kind.shows is not None
    assert shown.shape == kind.shows.shape
    assert mean_difference(shown, kind.shows) <= kind.tolerance


@pytest.mark.parametrize(
    "kind", [k for k in ODD.values() if k.reason], ids=[name for name, k in ODD.items() if k.reason]
)
def test_a_bad_picture_gets_its_reason_from_probe_and_decode(kind: Odd) -> None:
    with pytest.raises(DataError) as of_probe:
        probe(kind.content)
    with pytest.raises(DataError) as of_decode:
        decode(kind.content)
    assert kind.reason in str(of_probe.value)
    assert str(of_decode.value) == f"the picture: {of_probe.value}"


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_random_damage_gives_a_picture_or_data_error(name: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove"])):
            case "flip":
                content[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[max(at, 1) :]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=40))
            case "remove":
                del content[at : at + data.draw(st.integers(1, 40))]
        content = content or bytearray(b"\0")
    found = outcome(lambda c: decode(c).size, bytes(content))
    assert outcome(probe, bytes(content)) == found
    if found is not None:
        assert decode(bytes(content)).mode == "RGB"
        assert SMALL.pixels(bytes(content)).shape == (16, 16, 3)
        assert TINY.pixels(bytes(content)).shape == (3, 3, 3)
        full = np.asarray(decode(bytes(content)))
        region = read_region(bytes(content), everything, max(found) + 1)
        assert np.array_equal(region.upright(region.pixels()), full)
    else:
        for square in (SMALL, TINY):
            with pytest.raises(DataError):
                square.pixels(bytes(content))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_after_a_known_start_give_a_picture_or_data_error(rest: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0\x08\0\0\0", b"BM", b"P6\n", b"P3\n"):
        assert outcome(probe, start + rest) == outcome(lambda c: decode(c).size, start + rest)


def test_bombs_are_refused_before_they_take_memory() -> None:
    """Run in a process of its own, which prints how much its peak memory has grown."""
    names = [name for name, kind in ODD.items() if kind.reason.endswith("pixels") or "unpacks" in name]
    assert len(names) >= 5
    code = """
import resource, sys
from pathlib import Path
from dogbreed.errors import DataError
from dogbreed.preprocess import decode, probe
for name in sys.argv[1:]:
    content = Path(name).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for look in (decode, probe):
        try:
            look(content)
        except DataError:
            continue
        raise AssertionError(name)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    folder = Path(os.environ["DOGBREED_CACHE"])
    folder.mkdir()
    for n, name in enumerate(names):
        (folder / f"{n}.jpg").write_bytes(ODD[name].content)
    files = [str(folder / f"{n}.jpg") for n in range(len(names))]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    taken_kb = [int(line) for line in done.stdout.split()]
    assert len(taken_kb) == len(names)
    assert max(taken_kb) < 40_000


def test_a_picture_just_below_the_limit_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "MAX_PIXELS", WIDTH * HEIGHT)
    assert decode(jpeg()).size == (WIDTH, HEIGHT)
    assert decode(Image.fromarray(upright())).size == (WIDTH, HEIGHT)
    monkeypatch.setattr(preprocess, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    for picture in (jpeg(), Image.fromarray(upright())):
        with pytest.raises(DataError, match="48 x 32 pixels, more than the limit of 1,535"):
            decode(picture)


def test_the_limits_hold_where_pillows_own_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for name in ("PNG that claims 60000 x 60000", "GIF that claims 60000 x 60000", "TIFF that claims 60000 x 60000"):
        with pytest.raises(DataError, match=f"60000 x 60000 pixels, more than the limit of {MAX_PIXELS:,}"):
            probe(ODD[name].content)


@pytest.mark.parametrize("name", ["PostScript", "PostScript named .jpg", "PDF", "JPEG with PostScript in a comment"])
def test_no_program_is_started_for_a_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def no_process(*arguments: object, **options: object) -> None:
        started.append(arguments)
        raise OSError("no process may start")

    for function in ("Popen", "call", "check_call", "check_output", "run"):
        monkeypatch.setattr(subprocess, function, no_process)
    monkeypatch.setattr(os, "system", no_process)
    outcome(lambda content: decode(content).size, ODD[name].content)
    outcome(probe, ODD[name].content)
    assert started == []


# --- what is no file ---


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.mkdir(), "a folder, not a picture file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("absent.jpg"), "No such file or directory"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (lambda path: None, "No such file or directory"),
        (lambda path: path.touch(), "the file is empty"),
    ],
    ids=["pipe", "folder", "link to a device", "link to nothing", "link to itself", "nothing", "empty"],
)
def test_a_path_that_is_not_a_picture_file_is_refused_at_once(
    make: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(DataError, match=reason) as caught:
        decode(path)
    assert str(caught.value).startswith(str(path))


def test_a_disk_image_named_jpg_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "disk.jpg"
    with path.open("wb") as file:
        file.write(jpeg())
        file.truncate(MAX_BYTES + 1)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="536,870,911 bytes, more than the limit of 536,870,910"):
        decode(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000


@pytest.mark.parametrize(
    "name",
    [
        b"with space.jpg",
        "Dachshund auf Möbel 狗.jpg".encode(),
        b"line\nbreak.jpg",
        b"-rf.jpg",
        b"\xff\xfe.jpg",
        b"x" * 255,
    ],
)
def test_any_file_name_is_fine(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(jpeg())
    assert decode(path).size == decode(os.fspath(path)).size == (WIDTH, HEIGHT)


def test_a_name_that_is_too_long_for_the_disk_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="File name too long"):
        decode(tmp_path / ("x" * 300))


def test_a_name_with_a_null_byte_is_a_data_error() -> None:
    with pytest.raises(DataError, match="null byte"):
        decode("dog\0.jpg")


def test_read_picture_gives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dog.jpg"
    path.write_bytes(jpeg())
    assert read_picture(path) == jpeg()


# --- path, bytes and Pillow images ---


@pytest.mark.parametrize("kind", [k for k in ODD.values() if k.good], ids=[n for n, k in ODD.items() if k.good])
def test_path_bytes_and_pillow_image_give_the_same_pixels(kind: Odd, tmp_path: Path) -> None:
    path = tmp_path / f"x{kind.suffix}"
    path.write_bytes(kind.content)
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(kind.content)) as image:
        of_image = SMALL.pixels(image)
    assert np.array_equal(SMALL.pixels(path), of_image)
    assert np.array_equal(SMALL.pixels(kind.content), of_image)


@pytest.mark.parametrize("name", ["JPEG cut off at 60%", "PNG cut off in the middle", "PNG with a wrong checksum"])
def test_a_damaged_pillow_image_is_a_data_error(name: str) -> None:
    with Image.open(io.BytesIO(ODD[name].content)) as image, pytest.raises(DataError, match="the picture: damaged"):
        decode(image)


def test_a_pillow_image_of_no_size_is_a_data_error() -> None:
    with pytest.raises(DataError, match="0 x 7 pixels"):
        SMALL.pixels(Image.new("RGB", (0, 7)))


def test_a_pillow_image_is_left_as_it_was() -> None:
    with Image.open(io.BytesIO(ODD["JPEG with EXIF orientation 6"].content)) as image:
        decode(image)
        assert image.size == (HEIGHT, WIDTH)
        assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16"]
)
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    assert decode(Image.new(mode, (5, 4))).mode == "RGB"


# --- decoding no more than is needed ---


@kinds
@pytest.mark.parametrize("image_px", [1, 4, 16, 1000])
def test_a_region_and_the_full_picture_agree(kind: Odd, image_px: int) -> None:
    """The same files are accepted, at full scale with identical pixels, at a reduced one with their averages."""
    full, refusal = None, ""
    try:
        full = decode(kind.content)
    except DataError as error:
        refusal = str(error)
    if full is None:
        with pytest.raises(DataError) as caught:
            read_region(kind.content, everything, image_px)
        assert str(caught.value) == refusal
        return
    region = read_region(kind.content, everything, image_px)
    pixels = region.upright(region.pixels())
    if region.reduction == 1:
        assert np.array_equal(pixels, np.asarray(full))
        return
    assert min(pixels.shape[:2]) >= min(image_px, *full.size)
    assert pixels.shape[:2] == tuple(-(-side // region.reduction) for side in full.size[::-1])
    # the last row and column may stand for less than a block, or for what a JPEG is padded with
    whole = full.resize(pixels.shape[1::-1], Image.Resampling.BOX, box=(0, 0, full.size[0], full.size[1]))
    assert mean_difference(pixels, np.asarray(whole)) < 4


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"subsampling": 1}, {"exif": b""}])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (641, 479), (303, 407), (89, 8), (17, 33)])
def test_both_decoders_give_the_same_pixels_at_every_scale(
    width: int, height: int, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    picture = np.asarray(Image.fromarray(upright()).resize((width, height))) + noise
    content = saved(np.clip(picture, 0, 255).astype(np.uint8), "JPEG", **options)
    sides = [px for px in (height // 8, height // 4, height // 2, height) if px]
    fast = [read_region(content, everything, px) for px in sides]
    monkeypatch.setattr(preprocess, "_read_jpeg", lambda *arguments: None)
    slow = [read_region(content, everything, px) for px in sides]
    for one, other in zip(fast, slow, strict=True):
        assert isinstance(one.stored, np.ndarray)
        assert isinstance(other.stored, Image.Image)
        assert (one.reduction, one.box) == (other.reduction, other.box)
        assert np.array_equal(one.pixels(), other.pixels())
    assert len({region.reduction for region in fast}) >= min(2, len(sides))


def test_the_scale_is_the_smallest_that_has_enough_pixels_for_the_box() -> None:
    content = saved(Image.new("RGB", (900, 675)), "JPEG")

    def reduction(box: tuple[float, float, float, float], image_px: int) -> int:
        return read_region(content, lambda width, height: box, image_px).reduction

    assert reduction((0, 0, 900, 675), 224) == 2
    assert reduction((0, 0, 900, 448), 224) == 2
    assert reduction((0, 0, 900, 447.9), 224) == 1
    assert reduction((100, 100, 548, 548), 56) == 8
    assert reduction((0, 0, 900, 675), 160) == 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_chosen_in_the_upright_picture(orientation: int) -> None:
    content = ODD[f"JPEG with EXIF orientation {orientation}"].content
    full = np.asarray(decode(content))
    sizes = []

    def right_of_the_top(width: int, height: int) -> tuple[float, float, float, float]:
        sizes.append((width, height))
        return 30, 2, 47, 11

    region = read_region(content, right_of_the_top, 100)
    assert np.array_equal(region.upright(region.pixels()), full[2:11, 30:47])
    assert sizes == [(WIDTH, HEIGHT)]


def test_pillow_decides_about_files_that_simplejpeg_rejects() -> None:
    whole = jpeg()
    with_junk = whole[:-2] + bytes(4) + whole[-2:]  # before the end marker
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(with_junk)
    assert np.array_equal(SMALL.pixels(with_junk), SMALL.pixels(whole))
    assert np.array_equal(TINY.pixels(with_junk), TINY.pixels(whole))


def test_a_part_of_a_pixel_is_a_pixel() -> None:
    region = Region(np.zeros((5, 5, 3), np.uint8), (4.6, 4.6, 5.0, 5.0), 1, 1)
    assert region.pixels().size
    assert Region(Image.new("RGB", (5, 5)), (0.2, 0.2, 0.4, 0.4), 1, 1).pixels().shape == (1, 1, 3)


def drawn_dogs(breeds: int, each: int) -> Iterator[tuple[bytes, int]]:
    """JPEGs of dogs and their breeds in turn, as data=drawn writes them, but larger."""
    dogs = DrawnDogs(min_px=330, max_px=440, breeds=breeds)
    names = sorted({breed for _, breed, _ in dogs.photos()})
    for number, (label, breed) in product(range(1, each + 1), enumerate(names)):
        yield saved(dogs.photo("train", breed, number), "JPEG", quality=dogs.quality), label


def batched(items: Iterable[tuple[bytes, int]], size: int) -> Iterator[list[tuple[bytes, int]]]:
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk


def full_decoding(picture: bytes, square: Preprocess) -> np.ndarray:
    return square.pixels(decode(picture))


def reduction_for(content: bytes, square: Preprocess) -> int:
    return read_region(content, square._middle, square.image_px).reduction


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_drawn_dogs_look_alike_decoded_in_part_and_in_full(interpolation: str) -> None:
    square = Preprocess(96, 0.965, interpolation)  # type: ignore[arg-type]
    for content, _ in drawn_dogs(10, 1):
        assert reduction_for(content, square) in (2, 4)
        assert mean_difference(square.pixels(content), full_decoding(content, square)) < 2.5


@pytest.mark.slow
def test_accuracy_is_the_same_decoded_in_part_and_in_full() -> None:
    """Top-1 within 0.3 points: logistic regression on pretrained features, 40 breeds of drawn dogs, with
    10 training and 40 test photos of each. Trained on full decoding and tested on partial; and both on partial."""
    square = Preprocess(112, 0.965, "bicubic")
    network, _ = backbones.build("timm", "efficientnet_lite0", backbones.LITE0_PACKAGE)
    network.eval()
    labels, rows = [], {"full": [], "part": []}
    for dogs in batched(drawn_dogs(40, 50), 40):
        assert min(reduction_for(content, square) for content, _ in dogs) >= 2
        labels += [label for _, label in dogs]
        for name, pixels in (
            ("full", [full_decoding(content, square) for content, _ in dogs]),
            ("part", [square.pixels(content) for content, _ in dogs]),
        ):
            with torch.inference_mode():
                rows[name].append(network(torch.from_numpy(square.normalise(np.stack(pixels)))))
    features = {name: torch.cat(parts).clone() for name, parts in rows.items()}

    def accuracy(learned: str, told: str) -> float:
        x, y = features[learned][:400], torch.tensor(labels)
        mean, std = x.mean(0), x.std(0) + 1e-3
        head = torch.nn.Linear(x.shape[1], 40)
        torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
        optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(head((x - mean) / std), y[:400])
            value = value + 0.01 * head.weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        logits = head((features[told][400:] - mean) / std)
        return float((logits.argmax(1) == y[400:]).double().mean())

    in_full = accuracy("full", "full")
    assert in_full > 0.7  # chance is 0.025
    assert abs(accuracy("full", "part") - in_full) <= 0.003
    assert abs(accuracy("part", "part") - in_full) <= 0.003


# --- the numbers that a network sees ---


@pytest.mark.parametrize(("width", "height"), [(200, 200), (301, 207), (180, 333)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_match_torchvisions_resize_and_crop(width: int, height: int, interpolation: str) -> None:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((30, 50), (70, 25), (40, 90))]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    reference = v2.Compose([v2.Resize(128, InterpolationMode(interpolation)), v2.CenterCrop(112)])(image)
    ours = Preprocess(112, 0.875, interpolation).pixels(image)  # type: ignore[arg-type]
    assert mean_difference(ours, np.asarray(reference)) < 1.0


def test_pixels_are_the_center_crop() -> None:
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = 200
    # the outermost pixels see a little of what lies around, as in a picture that is resized first and cropped then
    assert (Preprocess(8, 1.0).pixels(Image.fromarray(picture))[:, 1:-1] == 200).all()
    assert (Preprocess(8, 0.8).pixels(Image.fromarray(picture)) == 200).all()


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    image_px=st.integers(1, 64),
    crop_pct=st.floats(0.05, 1.0),
    level=st.integers(0, 255),
)
def test_a_plain_picture_stays_plain_at_any_size(
    width: int, height: int, image_px: int, crop_pct: float, level: int
) -> None:
    pixels = Preprocess(image_px, crop_pct).pixels(Image.new("RGB", (width, height), (level, level, level)))
    assert pixels.shape == (image_px, image_px, 3)
    assert (pixels == level).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(0.485, 0.456, 0.406), (0.5, 0.5, 0.5), (0.0, 0.1, 0.9)]))
def test_normalise_equals_the_formula(seed: int, mean: tuple[float, float, float]) -> None:
    std = (0.229, 0.5, 1.0)
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    ours = Preprocess(4, mean=mean, std=std).normalise(pixels)
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    theirs = v2.functional.normalize(v2.functional.to_dtype(batch, torch.float32, scale=True), list(mean), list(std))
    assert ours.dtype == np.float32
    assert ours.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6, rtol=1e-5)


def test_sixteen_bit_values_are_rounded_not_cut() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    shown = np.asarray(decode(Image.fromarray(values)))[:, :, 0]
    assert np.array_equal(shown, np.rint(values / 257).astype(np.uint8))
