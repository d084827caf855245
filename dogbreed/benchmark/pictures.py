"""Generate photo-like pictures from noise for the benchmarks: no download, and as expensive to decode as photos."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dogbreed.hardware import available_cpus
from dogbreed.run_folder import write_bytes

_SLOPE = 1.55  # amplitudes fall with frequency as f^-1.55: about 115 KB at quality 88, as a phone's photo of this size
Pixels = NDArray[np.float64]
_Job = tuple[Path, Callable[[], bytes]]  # a file, and what makes its content
_PLACES = (("train", 0), ("valid", 1), ("test", 2))


def photo(seed: int, *, width: int = 900, height: int = 675, quality: int = 88) -> bytes:
    """Return a JPEG that depends only on the arguments: smooth coloured clouds with photo-like detail (1/f noise)."""
    return _jpeg(55 * _clouds(np.random.default_rng(seed), width, height), quality)


def pattern(seed: int, kind: int, *, px: int = 192, quality: int = 88) -> bytes:
    """Return a JPEG of faint stripes in clouds; direction, width and tint are nearly the same for all of a kind."""
    own, rng = np.random.default_rng((kind, 5)), np.random.default_rng((seed, kind))
    angle, frequency = own.uniform(0, np.pi) + rng.normal(0, 0.12), own.uniform(4, 28) * np.exp(rng.normal(0, 0.12))
    down, right = np.mgrid[:px, :px] / px
    stripes = np.sin(2 * np.pi * (frequency * (right * np.cos(angle) + down * np.sin(angle)) + rng.random()))
    tint = own.normal(0, 1, 3) + rng.normal(0, 0.6, 3)
    return _jpeg(48 * _clouds(rng, px, px) + 14 * stripes[..., None] + 8 * tint, quality)


def _clouds(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Return noise [height, width, 3] with mean 0 and standard deviation 1 in each channel."""
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitudes = np.maximum(frequencies, 1 / width) ** -_SLOPE
    light, *channels = (
        np.fft.irfft2(amplitudes * np.exp(2j * np.pi * rng.random(amplitudes.shape)), s=(height, width))
        for _ in range(4)
    )
    mixed = np.stack([light + 0.4 * channel for channel in channels], -1)  # nearly grey, as photos are
    scaled: Pixels = (mixed - mixed.mean((0, 1))) / mixed.std((0, 1))
    return scaled


def _jpeg(light: Pixels, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(127 + light, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def make_photos(
    root: Path, *, classes: int, train: int, valid: int, test: int, width: int = 900, height: int = 675
) -> Path:
    """Fill `root/{train,valid,test}/<class>/` with this many photos per split; existing ones are kept."""
    wanted = [
        (
            root / split / f"{number % classes:03d}.Class" / f"{number:05d}.jpg",
            partial(photo, 3 * number + place, width=width, height=height),
        )
        for (split, place), count in zip(_PLACES, (train, valid, test), strict=True)
        for number in range(count)
    ]
    _write_missing(wanted)
    return root


def make_patterns(root: Path, *, classes: int, train: int, valid: int, test: int) -> Path:
    """Fill `root/{train,valid,test}/<class>/` with this many patterns of each class; existing ones are kept."""
    wanted = [
        (root / split / f"{kind:03d}.Pattern" / f"{number:05d}.jpg", partial(pattern, 3 * number + place, kind))
        for (split, place), count in zip(_PLACES, (train, valid, test), strict=True)
        for kind in range(classes)
        for number in range(count)
    ]
    _write_missing(wanted)
    return root


def _write_missing(wanted: Sequence[_Job]) -> None:
    missing = [job for job in wanted if not job[0].exists()]
    if len(missing) < 16:
        _write(missing)
        return
    parts = [missing[start :: available_cpus()] for start in range(available_cpus())]
    with ProcessPoolExecutor(len(parts), get_context("spawn")) as pool:
        list(pool.map(_write, parts))


def _write(jobs: Sequence[_Job]) -> None:
    for path, make in jobs:
        write_bytes(path, make())
