"""Recognise copies of a photo by what it shows: a small print of each photo, kept by the digest of its file.

A print is made of the center crop that the network sees: 32 x 32 grey values, 8 x 8 values of both colour differences,
and a checksum of all pixels. Two photos are the same picture if their perceptual hashes (64 bits, from the low
frequencies of the grey values) differ in at most 4 bits, the grey values correlate with at least 0.98 and the colours
are alike. Needs no torch.
"""

import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dogbreed.copies import NEAR, PIXELS
from dogbreed.features.shards import Recipe

GREY_PX, COLOUR_PX = 32, 8
MOST_BITS, LEAST_CORRELATION = 4, 0.98
_MOST_COLOUR = 32.0  # mean difference of the colour values, in levels of 255: the same scene in other colours differs
_FLAT = 1.0  # standard deviation of the grey values below which a picture shows nothing that could be compared
_GREY, _COLOUR, _SUM = GREY_PX**2, 2 * COLOUR_PX**2, 4
_BYTES = _GREY + _COLOUR + _SUM
_LOW = 8  # frequencies of the hash in each direction
_BLOCKS = (13, 13, 13, 13, 12)  # of the hash's bits: of two hashes that differ in 4 bits, one block is the same
_AT_ONCE, _COMPARED = 1 << 20, 1 << 13  # pairs of hashes, and of prints, that are compared in one step
_NEIGHBOURS = 8
_ONES = np.array([number.bit_count() for number in range(256)], np.uint8)

Hashes = NDArray[np.uint64]


def recipe(image_px: int, crop_pct: float, interpolation: str) -> Recipe:
    """Return the recipe of the store of prints; its rows are uint16 [578], of which a print fills the bytes."""
    fields = {
        "prints": 1,
        "image_px": image_px,
        "crop_pct": crop_pct,
        "interpolation": interpolation,
        "libraries": {name: version(name) for name in ("pillow", "simplejpeg")},
    }
    return Recipe(fields, (-(-_BYTES // 2),), "bfloat16")  # the store's 16-bit type; only its bits are used


def measure(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the print of a photo: a row of the store. pixels: uint8 [H, W, 3], RGB, in C order."""
    small = Image.fromarray(pixels).resize((GREY_PX, GREY_PX), Image.Resampling.BOX).convert("YCbCr")
    luma, blue, red = small.split()
    colours = (channel.resize((COLOUR_PX, COLOUR_PX), Image.Resampling.BOX) for channel in (blue, red))
    content = b"".join([luma.tobytes(), *(channel.tobytes() for channel in colours)])
    content += zlib.crc32(pixels.data).to_bytes(_SUM, "little")
    return np.frombuffer(content.ljust(2 * (-(-_BYTES // 2)), b"\0"), np.uint16)


def alike(rows: NDArray[np.uint16], digests: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return pairs of photos that are the same picture, and how; together they join all copies of a picture.

    rows: their prints, one for each digest. Compares only photos that share a block of their hash, not all with all.
    """
    content = np.ascontiguousarray(rows).view(np.uint8)[:, :_BYTES]
    found = dict.fromkeys(_equal(content), PIXELS)
    again = {other for _, other in found}
    hashes, shows = perceptual_hashes(content[:, :_GREY])
    shows[list(again)] = False
    places = np.flatnonzero(shows)
    for first, second in _candidates(hashes[places]):
        for start in range(0, len(first), _COMPARED):
            one, other = (places[some[start : start + _COMPARED]] for some in (first, second))
            same = _same(content[one], content[other])
            found.update(dict.fromkeys(zip(one[same].tolist(), other[same].tolist(), strict=True), NEAR))
    return [(digests[one], digests[other], how) for (one, other), how in sorted(found.items())]


def _same(ones: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return for each pair of prints whether grey values and colours are those of one picture."""
    left, right = (_centred(some[:, :_GREY]) for some in (ones, others))
    product = np.einsum("ij,ij->i", left, right)
    correlation = product / np.maximum(np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1), 1e-6)
    colours = (some[:, _GREY : _GREY + _COLOUR].astype(np.int16) for some in (ones, others))
    away = np.abs(next(colours) - next(colours)).mean(1)
    same: NDArray[np.bool_] = (correlation >= LEAST_CORRELATION) & (away <= _MOST_COLOUR)
    return same


def _centred(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = grey.astype(np.float32)
    values -= values.mean(1, keepdims=True)
    return values


def perceptual_hashes(grey: NDArray[np.uint8]) -> tuple[Hashes, NDArray[np.bool_]]:
    """Return 64 bits for each picture, which of its low frequencies are above their median, and whether it shows
    anything. grey: [N, 1024].

    The hash known as pHash: the first 8 x 8 coefficients of a 32 x 32 discrete cosine transform.
    """
    n = np.arange(GREY_PX)
    basis = np.cos(np.pi * np.arange(_LOW)[:, None] * (2 * n + 1) / (2 * GREY_PX)).astype(np.float32)
    hashes, shows = np.zeros(len(grey), np.uint64), np.zeros(len(grey), np.bool_)
    for start in range(0, len(grey), _COMPARED):
        values = _centred(grey[start : start + _COMPARED])
        low = np.matmul(np.matmul(basis, values.reshape(-1, GREY_PX, GREY_PX)), basis.T).reshape(-1, _LOW * _LOW)
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes[start : start + _COMPARED] = np.packbits(bits, axis=1).view(">u8").ravel()
        shows[start : start + _COMPARED] = values.std(1) > _FLAT
    return hashes, shows


def _equal(content: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield pairs of photos with the same pixels: the print, checksum included, is the same."""
    seen: dict[bytes, int] = {}
    for place, row in enumerate(content):
        first = seen.setdefault(row.tobytes(), place)
        if first != place:
            yield first, place


def _candidates(hashes: Hashes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield arrays of pairs, each first < second, whose hashes differ in at most MOST_BITS bits.

    Of photos with the very same hash, such as the frames of a film, each is paired with the first and with its
    neighbours, and the first stands for all in pairs with other hashes.
    """
    distinct, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    yield _ordered(first[group], np.arange(len(hashes)))
    for gap in range(1, _NEIGHBOURS):
        equal = group[order[gap:]] == group[order[:-gap]]
        yield _ordered(order[:-gap][equal], order[gap:][equal])
    shift = 64
    for width in _BLOCKS:
        shift -= width
        block = (distinct >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        order = np.argsort(block, kind="stable")
        edges = np.flatnonzero(np.diff(block[order])) + 1
        starts, ends = np.r_[0, edges], np.r_[edges, len(order)]
        for one, other in _pairs_in(order, starts, ends):
            differing = np.ascontiguousarray(distinct[one] ^ distinct[other]).view(np.uint8).reshape(-1, 8)
            close = _ONES[differing].sum(1) <= MOST_BITS
            if close.any():
                yield _ordered(first[one[close]], first[other[close]])


def _pairs_in(
    order: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield all pairs within each group order[start:end], many at once.

    Shifts the array against itself by 1, 2, 3, ... as long as any group is longer.
    """
    end_of = np.repeat(ends, ends - starts)
    place = np.arange(len(order))
    gap = 0
    one: list[NDArray[np.int64]] = []
    other: list[NDArray[np.int64]] = []
    waiting = 0
    while len(place):
        gap += 1
        place = place[place + gap < end_of[place]]
        one.append(order[place])
        other.append(order[place + gap])
        waiting += len(place)
        if waiting >= _AT_ONCE or not len(place):
            yield np.concatenate(one), np.concatenate(other)
            one, other, waiting = [], [], 0


def _ordered(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    differ = one != other
    return np.minimum(one, other)[differ], np.maximum(one, other)[differ]
