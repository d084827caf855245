"""Generate photo-like pictures from noise for the benchmarks: no download, and as expensive to decode as photos."""

import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from dogbreed.hardware import available_cpus
from dogbreed.run_folder import write_bytes

_SLOPE = 1.55  # amplitudes fall with frequency as f^-1.55: about 115 KB at quality 88, as a phone's photo of this size
_PLACES = (("train", 0), ("valid", 1), ("test", 2))


def photo(seed: int, *, width: int = 900, height: int = 675, quality: int = 88) -> bytes:
    """Return a JPEG that depends only on the arguments: smooth coloured clouds with photo-like detail (1/f noise)."""
    rng = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitudes = np.maximum(frequencies, 1 / width) ** -_SLOPE

    def clouds() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        phases = np.exp(2j * np.pi * rng.random(amplitudes.shape))
        return np.fft.irfft2(amplitudes * phases, s=(height, width))

    light = clouds()  # shared by the channels, as in photos, which are nearly grey
    channels = [light + 0.4 * clouds() for _ in range(3)]
    scaled = [127 + 55 * (channel - channel.mean()) / channel.std() for channel in channels]
    pixels = np.clip(np.stack(scaled, -1), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def make_photos(
    root: Path, *, classes: int, train: int, valid: int, test: int, width: int = 900, height: int = 675
) -> Path:
    """Fill `root/{train,valid,test}/<class>/` with this many photos per split; existing ones are kept."""
    wanted = [
        (root / split / f"{number % classes:03d}.Class" / f"{number:05d}.jpg", 3 * number + place, width, height)
        for (split, place), count in zip(_PLACES, (train, valid, test), strict=True)
        for number in range(count)
    ]
    missing = [job for job in wanted if not job[0].exists()]
    if len(missing) < 16:
        _write(missing)
        return root
    parts = [missing[start :: available_cpus()] for start in range(available_cpus())]
    with ProcessPoolExecutor(len(parts), get_context("spawn")) as pool:
        list(pool.map(_write, parts))
    return root


def _write(jobs: Sequence[tuple[Path, int, int, int]]) -> None:
    for path, seed, width, height in jobs:
        write_bytes(path, photo(seed, width=width, height=height))
