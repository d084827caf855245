"""Augmented views as pure functions of a picture and a key, and the light of a whole batch."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as torchvision

from dogbreed.preprocess import Interpolation, PictureSource
from dogbreed.transforms import Augment, normalised, relight
from tests.support.odd_pictures import ODD, jpeg, saved, upright
from tests.support.project import ROOT

PX = 24
keys = st.tuples(st.integers(0, 2**63), st.integers(0, 10_000), st.integers(0, 2**31))


def view(
    key: tuple[int, ...],
    augment: Augment | None = None,
    picture: PictureSource | None = None,
    interpolation: Interpolation = "bilinear",
) -> NDArray[np.uint8]:
    picture = Image.fromarray(upright()) if picture is None else picture
    pixels, _ = (augment or Augment()).view(picture, image_px=PX, interpolation=interpolation, key=key)
    return pixels


def light(key: tuple[int, ...], augment: Augment) -> NDArray[np.float32]:
    return augment.view(Image.fromarray(upright()), image_px=PX, interpolation="bilinear", key=key)[1]


def waves(width: int, height: int) -> Image.Image:
    """Draw a smooth picture of this size in which no two parts look alike."""
    y, x = np.mgrid[0:height, 0:width] * 120 / max(width, height)
    planes = [127 + 100 * np.sin(x / a + y / b) for a, b in ((30, 50), (70, 25), (40, 90))]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def views_after_other_draws(keys: list[tuple[int, int, int]]) -> list[NDArray[np.uint8]]:
    torch.manual_seed(99)
    torch.rand(7)
    return [view(key) for key in keys]


@settings(max_examples=30, deadline=None)
@given(keys, st.integers(0, 2**32))
def test_a_view_depends_on_nothing_but_seed_epoch_and_index(key: tuple[int, int, int], elsewhere: int) -> None:
    first = view(key)
    torch.manual_seed(elsewhere)
    view((elsewhere, 0, 0))
    assert np.array_equal(view(key), first)
    assert first.shape == (PX, PX, 3)
    assert first.dtype == np.uint8


def test_seed_epoch_and_index_each_make_another_view() -> None:
    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in range(4) for index in range(25)]
    assert len({view(key, picture=waves(300, 200)).tobytes() for key in keys}) == 200
    assert len({light(key, Augment()).tobytes() for key in keys}) == 200


@settings(max_examples=20, deadline=None)
@given(keys)
def test_the_global_random_state_is_not_changed(key: tuple[int, int, int]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    view(key)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.rand(3), expected)


def test_the_gpus_random_numbers_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(seed: int) -> None:
        raise AssertionError("a GPU's generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    view((0, 0, 0))


def test_views_are_the_same_in_another_process() -> None:
    some = [(seed, epoch, index) for seed in (0, 7) for epoch in (0, 3) for index in (0, 41)]
    code = (
        "import pickle, sys; from tests.dogbreed.test_transforms import views_after_other_draws; "
        f"pickle.dump(views_after_other_draws({some}), sys.stdout.buffer)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    for key, other in zip(some, pickle.loads(done.stdout), strict=True):
        assert np.array_equal(view(key), other)


def test_an_augmentation_of_nothing_only_crops_and_resizes() -> None:
    # the aspect ratio still varies; where it cannot, torchvision falls back to the middle, and so do we
    nothing = Augment(scale=(1.0, 1.0), flip=0.0, jitter=0.0)
    square = Image.fromarray(np.ascontiguousarray(upright()[:, :32]))
    assert len({view((0, 0, n), nothing, square).tobytes() for n in range(20)}) == 1
    expected = torchvision.resize(torch.from_numpy(np.array(square)).permute(2, 0, 1), [PX, PX], antialias=True)
    assert np.array_equal(view((0, 0, 0), nothing, square), expected.permute(1, 2, 0).numpy())


def test_flip_mirrors_about_as_often_as_asked() -> None:
    always, never = Augment(flip=1.0, jitter=0.0), Augment(flip=0.0, jitter=0.0)
    assert np.array_equal(view((0, 0, 3), always), view((0, 0, 3), never)[:, ::-1])
    sometimes = Augment(flip=0.5, jitter=0.0)
    mirrored = sum(np.array_equal(view((0, 0, n), sometimes), view((0, 0, n), always)) for n in range(60))
    assert 15 < mirrored < 45


def test_jitter_changes_light_and_no_jitter_leaves_colours_alone() -> None:
    assert (light((0, 0, 0), Augment(jitter=0.0)) == 1).all()
    factors = np.stack([light((0, 0, n), Augment(jitter=0.4)) for n in range(200)])
    assert factors.dtype == np.float32
    assert factors.shape == (200, 3)
    assert 0.6 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.4
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.3  # each of the three has its own
    assert (np.stack([light((0, 0, n), Augment(jitter=3.0)) for n in range(50)]) >= 0).all()
    assert np.array_equal(view((0, 0, 1), Augment(jitter=0.0)), view((0, 0, 1), Augment(jitter=0.4)))


# --- crops ---


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 700), (90, 900), (1000, 20), (1, 1), (3, 2)])
def test_crops_are_drawn_as_torchvision_draws_them(width: int, height: int) -> None:
    """Compares the distributions of sides, positions and areas, not the numbers."""
    empty = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [v2.RandomResizedCrop(8, scale=(0.35, 1.0)).make_params([empty]) for _ in range(2000)]
    expected = np.array([[c["left"], c["top"], c["width"], c["height"]] for c in theirs], float)
    rng, augment = np.random.default_rng(0), Augment(scale=(0.35, 1.0))
    boxes = np.array([augment._crop(rng, width, height) for _ in range(2000)], float)
    drawn = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (drawn[:, 2:] >= 1).all()
    for ours, reference in zip(drawn.T, expected.T, strict=True):
        both = np.sort(np.concatenate([ours, reference]))
        # Kolmogorov and Smirnov's distance; of two equal distributions it is below 0.062 in 999 of 1000 cases
        cdfs = [np.searchsorted(np.sort(values), both, side="right") / 2000 for values in (ours, reference)]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 0.062


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_view_is_torchvisions_crop_then_resize(interpolation: Interpolation) -> None:
    picture, augment, key = waves(300, 200), Augment(flip=0.0), (1, 2, 3)
    left, top, right, bottom = augment._crop(np.random.default_rng(key), 300, 200)
    expected = torchvision.resized_crop(
        picture, int(top), int(left), int(bottom - top), int(right - left), [PX, PX], InterpolationMode(interpolation)
    )
    assert np.abs(view(key, augment, picture, interpolation).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_gives_nearly_the_view_of_its_full_decoding(
    orientation: int, interpolation: Interpolation
) -> None:
    """At an eighth of the sides a reduced scale always applies, its pixels up to the size of an output pixel."""
    picture = waves(241, 187)
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(undo)  # Pillow's Transpose
    stored = picture if turn is None else picture.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(stored, "JPEG", quality=97, subsampling=0, exif=exif.tobytes())
    assert Image.open(io.BytesIO(content)).size == stored.size
    for n in range(10):
        reduced = view((0, 0, n), picture=content, interpolation=interpolation).astype(int)
        full = view((0, 0, n), picture=picture, interpolation=interpolation)
        assert np.abs(reduced - full).mean() < 4
        assert np.abs(reduced - full[:, ::-1]).mean() > 15


@pytest.mark.parametrize("kind", [k for k in ODD.values() if k.good], ids=[n for n, k in ODD.items() if k.good])
def test_an_odd_picture_has_a_view_that_lies_in_the_range_of_what_it_shows(kind: object) -> None:
    pixels = view((0, 0, 0), picture=kind.content)  # type: ignore[attr-defined]
    assert pixels.shape == (PX, PX, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]


def test_a_view_does_not_change_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    view((0, 0, 0), picture=jpeg())
    assert torch.get_num_threads() == before


# --- light ---


def batch_of_images(count: int, px: int = 32) -> torch.Tensor:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, px, px, 3), dtype=np.uint8)
    noise[::2] = np.asarray(waves(px, px))
    return torch.from_numpy(noise).permute(0, 3, 1, 2)


@pytest.mark.parametrize("spread", [0.2, 0.9])
def test_each_image_is_relit_as_torchvision_does_it(spread: float) -> None:
    images, generator = batch_of_images(13), torch.Generator().manual_seed(0)
    factors = 1 + spread * (2 * torch.rand(13, 3, generator=generator) - 1)
    relit = relight(images, factors)
    for image, ours, (brightness, contrast, saturation) in zip(images, relit, factors.tolist(), strict=True):
        theirs = torchvision.adjust_brightness(image, brightness)
        theirs = torchvision.adjust_saturation(torchvision.adjust_contrast(theirs, contrast), saturation)
        assert (ours.int() - theirs.int()).abs().max() <= 2


def test_factors_of_one_change_nothing() -> None:
    images = batch_of_images(5)
    assert torch.equal(relight(images, torch.ones(5, 3)), images)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_relighting_keeps_type_and_layout_and_the_images_that_it_was_given(layout: torch.memory_format) -> None:
    images = batch_of_images(6).contiguous(memory_format=layout)
    before = images.clone()
    relit = relight(images, torch.full((6, 3), 1.3))
    assert (relit.dtype, relit.shape, relit.stride()) == (images.dtype, images.shape, images.stride())
    assert torch.equal(images, before)
    assert not torch.equal(relit, before)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_an_image_is_relit_alike_in_any_batch(count: int) -> None:
    images, factors = batch_of_images(9), torch.linspace(0.7, 1.3, 27).view(9, 3)
    assert torch.equal(relight(images[:count], factors[:count]), relight(images, factors)[:count])


def test_no_light_is_black_and_no_saturation_is_grey() -> None:
    images = batch_of_images(2)
    assert (relight(images, torch.tensor([[0.0, 1.0, 1.0]] * 2)) == 0).all()
    grey = relight(images, torch.tensor([[1.0, 1.0, 0.0]] * 2))
    assert (grey == grey[:, :1]).all()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_normalised_is_the_formula_in_the_layout_of_the_images(count: int, layout: torch.memory_format) -> None:
    images = batch_of_images(6)[:count, :, :20].contiguous(memory_format=layout)
    scale, shift = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), torch.tensor([-1.0, 0.0, 2.0]).view(1, 3, 1, 1)
    ours = normalised(images, scale, shift)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, images.float() * scale + shift)
    assert count < 2 or ours.is_contiguous(memory_format=layout)
