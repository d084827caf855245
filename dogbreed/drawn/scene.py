"""Draw a whole picture from traits and a random generator: the dog, its background and the light."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dogbreed.drawn.brush import SUPERSAMPLING, Frame, mix, veil
from dogbreed.drawn.dog import Dog
from dogbreed.drawn.traits import Colour, Traits

_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((126, 178, 224), (214, 232, 242)),
    ((168, 190, 206), (226, 230, 232)),
    ((236, 178, 132), (250, 222, 180)),
    ((98, 146, 206), (190, 220, 240)),
)
_WALLS: tuple[Colour, ...] = (
    (206, 196, 180), (170, 186, 190), (196, 172, 160), (150, 160, 142), (222, 216, 206), (118, 126, 142),
)  # fmt: skip
_FLOORS: tuple[Colour, ...] = ((166, 124, 84), (128, 96, 70), (186, 160, 128), (150, 150, 152), (106, 84, 72))
_GREENS: tuple[Colour, ...] = ((112, 152, 70), (134, 168, 84), (92, 132, 66), (150, 160, 84))


def picture(
    traits: Traits, rng: np.random.Generator, size: tuple[int, int], *, pose: str | None = None, sheet: bool = False
) -> Image.Image:
    """Draw a photo-like picture, RGB, `size` pixels (width, height), of a dog with these traits.

    pose: one of `dog.POSES`; None for a random one. sheet: for a contact sheet, the dog fills the picture and is level.
    """
    big = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    chosen, front = rng.random(2).tolist()
    pose = pose or ("stand" if chosen < 0.42 else "look" if chosen < 0.64 else "sit" if chosen < 0.82 else "portrait")
    dog = Dog(traits, rng, big)
    left, bottom, right, top = dog.extent(pose)
    share, side, turn, x_at, y_at = rng.random(5).tolist()
    share = 0.93 if sheet else 0.7 + 0.26 * share
    turn = 0.0 if sheet else (turn - 0.5) * 0.16
    scale = min(big[0] * share / (right - left), big[1] * share / (top - bottom))
    x_room, y_room = big[0] - scale * (right - left), big[1] - scale * (top - bottom)
    x = x_room * (0.5 if sheet else 0.1 + 0.8 * x_at) + scale * (right - left) / 2
    y = big[1] - y_room * (0.4 if sheet else 0.15 + 0.5 * y_at) - scale * (top - bottom) / 2
    if pose == "portrait":
        y = big[1] - scale * (top - bottom) / 2  # cut off by the lower edge, not floating
    x_axis = np.array([math.cos(turn), math.sin(turn)]) * scale * (-1.0 if side < 0.5 else 1.0)
    y_axis = np.array([math.sin(turn), -math.cos(turn)]) * scale
    frame = Frame(np.array([x, y]) - x_axis * (left + right) / 2 - y_axis * (bottom + top) / 2, x_axis, y_axis)
    feet = float(frame([(left + right) / 2, 0.0])[0, 1]) / SUPERSAMPLING if pose != "portrait" else size[1] * 1.1
    scene = background(rng, size, feet)
    if pose != "portrait":
        shadow(scene, frame, dog.length)
    if pose == "portrait":
        dog.portrait(frame)
    elif pose == "sit":
        dog.sit(frame, front=front < 0.5)
    else:
        dog.stand(frame, front=pose == "look")
    scene.paste(dog.rgb.reduce(SUPERSAMPLING), (0, 0), dog.alpha.reduce(SUPERSAMPLING))
    return scene if sheet else light(scene, rng)


def background(rng: np.random.Generator, size: tuple[int, int], feet: float) -> Image.Image:
    """Draw grass, sand, snow, a room, blurred leaves or a studio; the dog stands `feet` pixels below the upper edge."""
    kinds: tuple[Callable[[np.random.Generator, tuple[int, int], float], Image.Image], ...] = (
        _meadow, _meadow, _beach, _snow, _room, _room, _bokeh, _studio,
    )  # fmt: skip
    return kinds[int(rng.random() * len(kinds))](rng, size, feet)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    r, g, b = colours[int(rng.random() * len(colours))]
    d = [round(12 * v - 6) for v in rng.random(3).tolist()]
    return r + d[0], g + d[1], b + d[2]


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    strip = Image.new("RGB", (1, 2))
    strip.putpixel((0, 0), top)
    strip.putpixel((0, 1), bottom)
    column = strip.resize((1, size[1]), Image.Resampling.BILINEAR)
    return column.resize(size, Image.Resampling.NEAREST)  # ten times as fast as computing every pixel


def _open_air(rng: np.random.Generator, size: tuple[int, int], feet: float, ground: Colour, far: Colour) -> Image.Image:
    """Draw sky, hills and a ground that gets lighter with distance."""
    w, h = size
    sky = _SKIES[int(rng.random() * len(_SKIES))]
    horizon = round(feet - h * (0.12 + 0.4 * rng.random()))
    scene = _gradient(size, *sky)
    draw = ImageDraw.Draw(scene)
    for depth in (0.75, 0.4):
        at = rng.random(7)
        x = np.linspace(-0.1 * w, 1.1 * w, 7)
        crest = np.column_stack([x, horizon - h * (0.03 + 0.22 * at * depth)])
        draw.polygon([*np.rint(crest).ravel().tolist(), w + 40, h, -40, h], fill=mix(far, sky[1], depth))
    scene = scene.filter(ImageFilter.BoxBlur(1))
    rest = (w, max(1, h - horizon))
    scene.paste(_gradient(rest, mix(ground, sky[1], 0.35), mix(ground, (30, 30, 20), 0.18)), (0, horizon))
    return scene


def _blades(
    scene: Image.Image, rng: np.random.Generator, top: float, colours: tuple[Colour, ...], n: int, tall: float
) -> None:
    w, h = scene.size
    draw = ImageDraw.Draw(scene)
    r = rng.random((n, 4))
    y = top + (h - top) * r[:, 1]
    size = tall * h * (0.3 + 0.7 * (y - top) / max(1.0, h - top))
    x = r[:, 0] * w
    lines = np.rint(np.column_stack([x, y, x + (r[:, 2] - 0.5) * size, y - size * (0.5 + 0.5 * r[:, 3])])).tolist()
    for i, line in enumerate(lines):
        draw.line(line, fill=colours[i % len(colours)])


def _meadow(rng: np.random.Generator, size: tuple[int, int], feet: float) -> Image.Image:
    green = _pick(rng, _GREENS)
    scene = _open_air(rng, size, feet, green, mix(green, (40, 90, 60), 0.5))
    tones = (mix(green, (30, 60, 20), 0.35), mix(green, (220, 230, 120), 0.3), mix(green, (60, 90, 30), 0.2))
    _blades(scene, rng, feet - 0.1 * size[1], tones, 160, 0.05)
    return scene


def _beach(rng: np.random.Generator, size: tuple[int, int], feet: float) -> Image.Image:
    sand = _pick(rng, ((218, 196, 152), (202, 176, 134), (228, 210, 172)))
    scene = _open_air(rng, size, feet, sand, (84, 146, 178))
    _blades(
        scene, rng, feet - 0.1 * size[1], (mix(sand, (90, 60, 30), 0.25), mix(sand, (255, 255, 255), 0.3)), 120, 0.006
    )
    return scene


def _snow(rng: np.random.Generator, size: tuple[int, int], feet: float) -> Image.Image:
    scene = _open_air(rng, size, feet, (222, 230, 240), (96, 120, 118))
    draw = ImageDraw.Draw(scene)
    for x, y, r in rng.random((50, 3)).tolist():
        at, radius = (round(x * size[0]), round(y * size[1])), 1 + round(r * 1.4)
        draw.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=(248, 250, 252))
    return scene


def _room(rng: np.random.Generator, size: tuple[int, int], feet: float) -> Image.Image:
    w, h = size
    wall, floor = _pick(rng, _WALLS), _pick(rng, _FLOORS)
    edge = round(feet - h * (0.06 + 0.2 * rng.random()))
    scene = _gradient(size, mix(wall, (255, 255, 255), 0.12), mix(wall, (60, 50, 50), 0.12))
    draw = ImageDraw.Draw(scene)
    a = rng.random(6).tolist()
    if a[0] < 0.5:  # a picture on the wall, or a window
        x, y = round(a[1] * 0.7 * w), round(a[2] * 0.3 * h)
        box = (x, y, x + round((0.2 + 0.2 * a[3]) * w), y + round((0.16 + 0.2 * a[4]) * h))
        draw.rectangle(box, fill=mix(_pick(rng, _SKIES[0]), wall, 0.3), outline=mix(wall, (70, 50, 40), 0.6), width=3)
    scene.paste(_gradient((w, max(1, h - edge)), mix(floor, (40, 30, 30), 0.18), floor), (0, edge))
    draw.rectangle((0, edge - 5, w, edge), fill=mix(wall, (255, 255, 255), 0.5))
    for i in range(9):  # floorboards run towards the viewer
        x = w * (i - 4) * 0.16
        draw.line((round(w / 2 + x), edge + 1, round(w / 2 + x * 3.2), h), fill=mix(floor, (30, 20, 20), 0.3))
    if a[5] < 0.6:
        rug = _pick(rng, ((160, 70, 66), (70, 96, 130), (196, 170, 110), (92, 120, 96)))
        y, rx, ry = feet + 0.01 * h, 0.46 * w, 0.09 * h
        box = (round(w / 2 - rx), round(y - ry), round(w / 2 + rx), round(y + ry))
        draw.ellipse(box, fill=rug, outline=mix(rug, (255, 250, 230), 0.4), width=2)
    return scene


def _bokeh(rng: np.random.Generator, size: tuple[int, int], feet: float) -> Image.Image:
    """Draw blurred leaves and lights over a soft ground."""
    tone = _pick(rng, ((70, 104, 62), (126, 96, 54), (72, 92, 112), (110, 128, 74)))
    small = (max(8, size[0] // 4), max(8, size[1] // 4))
    scene = _gradient(small, mix(tone, (250, 250, 220), 0.25), mix(tone, (20, 20, 20), 0.25))
    draw = ImageDraw.Draw(scene)
    for x, y, r, light in rng.random((26, 4)).tolist():
        radius, at = 2 + 5 * r, (x * small[0], y * small[1] * 0.8)
        box = [round(at[0] - radius), round(at[1] - radius), round(at[0] + radius), round(at[1] + radius)]
        draw.ellipse(box, fill=mix(tone, (255, 252, 214) if light > 0.4 else (24, 30, 20), 0.15 + 0.3 * light))
    scene = scene.filter(ImageFilter.GaussianBlur(1.6)).resize(size, Image.Resampling.BICUBIC)
    edge = round(feet - 0.08 * size[1])
    if edge < size[1]:
        ground = _gradient((size[0], size[1] - edge), mix(tone, (220, 220, 190), 0.2), mix(tone, (30, 30, 20), 0.15))
        scene.paste(ground, (0, edge), _gradient_mask(ground.size))
    return scene


def _gradient_mask(size: tuple[int, int]) -> Image.Image:
    strip = Image.new("L", (1, 3))
    for y, value in enumerate((0, 255, 255)):
        strip.putpixel((0, y), value)
    return strip.resize(size, Image.Resampling.BILINEAR)


def _studio(rng: np.random.Generator, size: tuple[int, int], feet: float) -> Image.Image:
    tone = _pick(rng, ((196, 200, 206), (150, 172, 190), (214, 190, 170), (176, 190, 160), (120, 116, 130)))
    scene = _gradient(size, mix(tone, (30, 30, 40), 0.2), mix(tone, (255, 255, 255), 0.25))
    edge = round(feet - 0.05 * size[1])
    if edge < size[1]:
        floor = _gradient((size[0], size[1] - edge), mix(tone, (255, 255, 255), 0.1), mix(tone, (40, 40, 50), 0.15))
        scene.paste(floor, (0, edge), _gradient_mask(floor.size))
    return scene


def shadow(scene: Image.Image, frame: Frame, length: float) -> None:
    """Paint the dog's shadow on the ground."""
    w, h = scene.size
    small = Image.new("L", (w // 4 + 1, h // 4 + 1))
    centre = frame([0.0, -0.01])[0] / SUPERSAMPLING / 4
    rx, ry = length * 0.62 * frame.unit / SUPERSAMPLING / 4, 0.1 * frame.unit / SUPERSAMPLING / 4
    box = [round(v) for v in (centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry)]
    ImageDraw.Draw(small).ellipse(box, fill=120)
    whole = (4 * small.width, 4 * small.height)
    soft = small.filter(ImageFilter.GaussianBlur(1.5)).resize(whole, Image.Resampling.BILINEAR)
    veil(scene, (28, 26, 30), (0, 0), soft.crop((0, 0, w, h)))


def light(scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Vary brightness, colour temperature and contrast, and add a beam of light or a shadow."""
    bright, warm, contrast, side, depth = rng.random(5).tolist()
    gain, lift = 0.78 + 0.42 * bright, (contrast - 0.5) * 36
    channels = np.array([[1 + 0.16 * (warm - 0.5)], [1.0], [1 - 0.2 * (warm - 0.5)]])
    table = np.arange(256) * (gain * channels * (1 - lift / 180)) + lift
    scene = scene.point(np.clip(np.rint(table), 0, 255).astype(int).ravel().tolist())
    strip = Image.new("L", (2, 2))
    for i, corner in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
        strip.putpixel(corner, round(80 * depth) if i == int(4 * side) else 0)
    beam = strip.resize(scene.size, Image.Resampling.BILINEAR)
    veil(scene, (16, 14, 24) if warm < 0.7 else (255, 236, 190), (0, 0), beam)
    return scene
