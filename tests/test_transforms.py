"""Augmented views as pure functions of (seed, epoch, index)."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dogbreed.transforms import Augment, augmented_pixels

from .odd_pictures import upright

PX = 24
keys = st.tuples(st.integers(0, 2**63), st.integers(0, 10_000), st.integers(0, 2**31))


def view(key: tuple[int, int, int], augment: Augment | None = None) -> NDArray[np.uint8]:
    seed, epoch, index = key
    transform = (augment or Augment()).build(PX, "bilinear")
    return augmented_pixels(Image.fromarray(upright()), transform, seed=seed, epoch=epoch, index=index)


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
    all_views = {view((seed, epoch, index)).tobytes() for seed in (0, 1) for epoch in range(4) for index in range(25)}
    assert len(all_views) == 200


@settings(max_examples=20, deadline=None)
@given(keys)
def test_the_callers_random_numbers_are_left_alone(key: tuple[int, int, int]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    view(key)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.rand(3), expected)


def test_the_callers_random_numbers_are_left_alone_when_a_transform_fails() -> None:
    def fails(image: Image.Image) -> None:
        torch.rand(1)
        raise ValueError("no")

    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="no"):
        augmented_pixels(Image.fromarray(upright()), fails, seed=0, epoch=0, index=0)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gpus_random_numbers_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(seed: int) -> None:
        raise AssertionError("a GPU's generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    view((0, 0, 0))


def test_views_are_the_same_in_a_worker_process() -> None:
    some = [(seed, epoch, index) for seed in (0, 7) for epoch in (0, 3) for index in (0, 41)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        elsewhere = pool.submit(views_after_other_draws, some).result()
    for key, other in zip(some, elsewhere, strict=True):
        assert np.array_equal(view(key), other)


def test_an_augmentation_of_nothing_only_resizes() -> None:
    square = Image.fromarray(upright()[:, :32])
    transform = Augment(scale=(1.0, 1.0), flip=0.0, jitter=0.0).build(PX, "bilinear")
    seen = augmented_pixels(square, transform, seed=0, epoch=0, index=0)
    # the aspect ratio still varies; where it cannot, torchvision falls back to the middle
    assert seen.shape == (PX, PX, 3)
    without_jitter = {view((0, 0, n), Augment(scale=(1.0, 1.0), flip=0.0, jitter=0.0)).tobytes() for n in range(20)}
    assert len(without_jitter) < 20


def test_flip_mirrors_about_as_often_as_asked() -> None:
    always, never = Augment(flip=1.0, jitter=0.0), Augment(flip=0.0, jitter=0.0)
    assert np.array_equal(view((0, 0, 3), always), view((0, 0, 3), never)[:, ::-1])
    sometimes = Augment(flip=0.5, jitter=0.0)
    mirrored = sum(np.array_equal(view((0, 0, n), sometimes), view((0, 0, n), always)) for n in range(60))
    assert 15 < mirrored < 45


def test_jitter_changes_light_and_no_jitter_leaves_colours_alone() -> None:
    plain = Image.new("RGB", (40, 30), (90, 120, 60))
    still = Augment(jitter=0.0).build(PX, "bicubic")
    assert (augmented_pixels(plain, still, seed=0, epoch=0, index=0) == (90, 120, 60)).all()
    moving = Augment(jitter=0.4).build(PX, "bicubic")
    levels = {int(augmented_pixels(plain, moving, seed=0, epoch=0, index=n)[0, 0, 0]) for n in range(20)}
    assert len(levels) > 10
