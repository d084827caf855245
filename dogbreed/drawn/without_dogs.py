"""Draw pictures that show no dog: pages of text, noise and gradients, scenes with other objects.

They measure how well a model tells what it was not trained on from what it was, see `dogbreed.unlike`. Each picture is
a function of (FORMAT, kind, number) alone.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dogbreed.drawn.brush import mix
from dogbreed.drawn.scene import background, light
from dogbreed.drawn.traits import Colour
from dogbreed.preprocess import Preprocess

COUNT = 48  # pictures of each kind that a model is measured with
FORMAT = 1  # increase with every change of the drawings
_MIN_PX, _MAX_PX = 200, 330  # as the drawn dogs
_BATCH = 16
_PAPERS: tuple[Colour, ...] = ((255, 255, 255), (250, 246, 234), (238, 240, 243), (252, 250, 220))
_INKS: tuple[Colour, ...] = ((20, 20, 24), (40, 44, 70), (70, 60, 50))
_PAINTS: tuple[Colour, ...] = (
    (188, 62, 54), (52, 104, 168), (226, 176, 62), (82, 140, 92), (146, 92, 150), (232, 232, 226), (96, 98, 106),
)  # fmt: skip
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_FREQUENCY = np.arange(len(_LETTERS), 0, -1) / np.arange(len(_LETTERS), 0, -1).sum()

_Size = tuple[int, int]  # width, height
_Random = np.random.Generator


def pictures(kind: str, count: int) -> Iterator[Image.Image]:
    """Yield `count` RGB pictures of a kind in KINDS, 200 to 330 px a side, always the same ones."""
    for number in range(count):
        key = np.random.SeedSequence([FORMAT, list(KINDS).index(kind), number])
        rng = np.random.Generator(np.random.PCG64(key))
        width, height = rng.integers(_MIN_PX, _MAX_PX + 1, 2).tolist()
        yield KINDS[kind](rng, (width, height))


def _text(rng: _Random, size: _Size) -> Image.Image:
    """Draw a page with a heading and lines of words, in one or two columns."""
    paper, ink = _of(rng, _PAPERS), _of(rng, _INKS)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    width, height = size
    px, margin, columns = int(rng.integers(8, 19)), int(rng.integers(6, 24)), int(rng.integers(1, 3))
    font, heading = ImageFont.load_default(size=px), ImageFont.load_default(size=round(px * 1.8))
    top = margin
    if rng.random() < 0.7:
        draw.text((margin, top), _words(rng, 3), fill=ink, font=heading)
        top += round(px * 2.8)
    column_px = (width - margin * (columns + 1)) // columns
    for column in range(columns):
        left = margin + column * (column_px + margin)
        for y in range(top, height - margin - px, round(px * 1.45)):
            if rng.random() < 0.08:  # the end of a paragraph
                continue
            line = ""
            for word in _words(rng, 30).split():
                if draw.textlength(f"{line} {word}", font=font) > column_px:
                    break
                line = f"{line} {word}".strip()
            draw.text((left, y), line, fill=ink, font=font)
    return page


def _words(rng: _Random, count: int) -> str:
    lengths = rng.integers(2, 10, count)
    letters = rng.choice(list(_LETTERS), int(lengths.sum()), p=_FREQUENCY)
    ends = np.cumsum(lengths)
    return " ".join("".join(part) for part in np.split(letters, ends[:-1]))


def _noise(rng: _Random, size: _Size) -> Image.Image:
    """Draw noise of some coarseness, a gradient between colours, or stripes."""
    width, height = size
    chosen = rng.random()
    if chosen < 0.4:
        cells = 2 ** int(rng.integers(0, 6))
        grey = rng.random() < 0.3
        shape = (-(-height // cells), -(-width // cells), 1 if grey else 3)
        values = np.broadcast_to(rng.integers(256, size=shape, dtype=np.uint8), (*shape[:2], 3))
        filtered = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
        return Image.fromarray(np.ascontiguousarray(values)).resize(size, filtered)
    if chosen < 0.8:
        corners = rng.integers(256, size=(2, 2, 3), dtype=np.uint8)
        return Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)
    colours = np.array([_of(rng, _PAINTS), _of(rng, _PAPERS)], np.uint8)
    turn = rng.random() * np.pi
    y, x = np.mgrid[:height, :width]
    stripes = ((x * np.cos(turn) + y * np.sin(turn)) // int(rng.integers(4, 40))).astype(int) % 2
    return Image.fromarray(colours[stripes])


def _scene(rng: _Random, size: _Size) -> Image.Image:
    """Draw a background of the drawn dogs without a dog: empty, or with a house, trees, a car, balls or a mug."""
    feet = size[1] * (0.7 + 0.25 * rng.random())
    scene = background(rng, size, feet)
    objects = (None, _house, _trees, _car, _balls, _mug)
    if (draw_object := objects[int(rng.integers(len(objects)))]) is not None:
        draw_object(ImageDraw.Draw(scene), rng, size, round(feet))
    return light(scene, rng)


def _house(draw: ImageDraw.ImageDraw, rng: _Random, size: _Size, feet: int) -> None:
    wall, roof = _of(rng, _PAINTS), _of(rng, _PAINTS)
    wide, tall = round(size[0] * (0.4 + 0.3 * rng.random())), round(feet * (0.35 + 0.2 * rng.random()))
    left = int(rng.integers(0, size[0] - wide))
    draw.rectangle((left, feet - tall, left + wide, feet), fill=wall)
    peak = (left + wide // 2, feet - round(1.7 * tall))
    draw.polygon([(left - 8, feet - tall), peak, (left + wide + 8, feet - tall)], fill=roof)
    pane = max(4, wide // 6)
    for x in (left + pane, left + 4 * pane):
        draw.rectangle((x, feet - tall + pane // 2, x + pane, feet - tall + pane + pane // 2), fill=(214, 232, 240))
    draw.rectangle((left + 5 * pane // 2, feet - tall // 2, left + 7 * pane // 2, feet), fill=mix(roof, (0, 0, 0), 0.4))


def _trees(draw: ImageDraw.ImageDraw, rng: _Random, size: _Size, feet: int) -> None:
    for _ in range(int(rng.integers(1, 4))):
        x, tall = int(rng.integers(0, size[0])), round(feet * (0.5 + 0.4 * rng.random()))
        trunk, crown = max(3, tall // 16), round(tall * (0.24 + 0.1 * rng.random()))
        draw.rectangle((x - trunk, feet - tall // 2, x + trunk, feet), fill=(104, 78, 56))
        green = mix((74, 118, 62), (180, 160, 60), float(rng.random()) * 0.6)
        draw.ellipse((x - crown, feet - tall, x + crown, feet - tall // 3), fill=green)


def _car(draw: ImageDraw.ImageDraw, rng: _Random, size: _Size, feet: int) -> None:
    paint = _of(rng, _PAINTS)
    wide = round(size[0] * (0.5 + 0.35 * rng.random()))
    tall, left = wide // 4, int(rng.integers(0, size[0] - wide))
    wheel = wide // 10
    low, roof = feet - wheel, feet - wheel - tall
    corners = [(left + wide // 5, roof), (left + wide * 3 // 10, roof - tall), (left + wide * 7 // 10, roof - tall)]
    draw.polygon([*corners, (left + wide * 17 // 20, roof)], fill=mix(paint, (210, 226, 236), 0.7))
    draw.rounded_rectangle((left, roof, left + wide, low), radius=max(2, tall // 4), fill=paint)
    for x in (left + wide // 5, left + wide * 4 // 5):
        draw.ellipse((x - wheel, feet - 2 * wheel, x + wheel, feet), fill=(30, 30, 34))
        draw.ellipse((x - wheel // 2, feet - 3 * wheel // 2, x + wheel // 2, feet - wheel // 2), fill=(190, 192, 196))


def _balls(draw: ImageDraw.ImageDraw, rng: _Random, size: _Size, feet: int) -> None:
    for _ in range(int(rng.integers(1, 6))):
        radius, paint = round(min(size) * (0.06 + 0.16 * rng.random())), _of(rng, _PAINTS)
        x, y = int(rng.integers(0, size[0])), feet - radius - int(rng.integers(0, max(1, feet // 3)))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=paint)
        spot = radius // 3
        draw.ellipse((x - 2 * spot, y - 2 * spot, x - spot, y - spot), fill=mix(paint, (255, 255, 255), 0.6))


def _mug(draw: ImageDraw.ImageDraw, rng: _Random, size: _Size, feet: int) -> None:
    paint = _of(rng, _PAINTS)
    wide = round(min(size) * (0.3 + 0.25 * rng.random()))
    tall, left = round(wide * (0.9 + 0.5 * rng.random())), int(rng.integers(0, size[0] - wide))
    handle = (left + wide * 3 // 4, feet - tall * 3 // 4, left + wide * 5 // 4, feet - tall // 4)
    draw.ellipse(handle, outline=mix(paint, (0, 0, 0), 0.2), width=max(3, wide // 12))
    draw.rounded_rectangle((left, feet - tall, left + wide, feet), radius=wide // 10, fill=paint)
    rim = wide // 8
    draw.ellipse((left, feet - tall - rim, left + wide, feet - tall + rim), fill=mix(paint, (0, 0, 0), 0.45))


def _of(rng: _Random, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


KINDS: dict[str, Callable[[_Random, _Size], Image.Image]] = {
    "pages of text": _text,
    "noise and gradients": _noise,
    "drawn scenes": _scene,
}


def logits(
    network: Callable[[NDArray[np.uint8]], NDArray[np.float32]], preprocess: Preprocess
) -> dict[str, NDArray[np.float32]]:
    """Return a network's logits, [COUNT, classes], for pictures of each kind.

    network: maps pixels, uint8 [N, image_px, image_px, 3], to logits [N, classes].
    """
    found = {}
    for kind in KINDS:
        pixels = np.stack([preprocess.pixels(picture) for picture in pictures(kind, COUNT)])
        found[kind] = np.concatenate([network(pixels[at : at + _BATCH]) for at in range(0, COUNT, _BATCH)])
    return found
