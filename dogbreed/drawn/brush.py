"""Paint dogs: curves, furry outlines, layers with light and shade, coats and their patterns.

All random numbers come from one numpy Generator, in a fixed order, and every coordinate is rounded before it is
rasterised, so that platform differences in the last digit of a sine or square root cannot change a pixel.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dogbreed.drawn.traits import COLOURS, Colour, Traits

Points = NDArray[np.float64]  # [n, 2]: x, y

SUPERSAMPLING = 2  # draw larger by this factor, then shrink, for smooth edges

STEPS = 6  # points of a curve between two knots
_T = np.linspace(0.0, 1.0, STEPS, endpoint=False)[:, None, None]
_BASIS = (  # Catmull-Rom: weights of the four knots around each piece
    -0.5 * _T + _T**2 - 0.5 * _T**3,
    1 - 2.5 * _T**2 + 1.5 * _T**3,
    0.5 * _T + 2 * _T**2 - 1.5 * _T**3,
    -0.5 * _T**2 + 0.5 * _T**3,
)


def smooth(knots: ArrayLike) -> Points:
    """Return the closed Catmull-Rom curve through `knots`."""
    k = np.asarray(knots, dtype=np.float64)
    k = np.concatenate([k[-1:], k, k[:2]])
    around = (k[:-3], k[1:-2], k[2:-1], k[3:])
    curve = sum(weight * near[None] for weight, near in zip(_BASIS, around, strict=True))
    return np.asarray(curve).transpose(1, 0, 2).reshape(-1, 2)


def limb(centre: ArrayLike, radii: Sequence[float]) -> Points:
    """Return the outline of a limb: a smooth line through `centre`, `radii` wide on each side, with round ends."""
    c = np.column_stack([np.asarray(centre, dtype=np.float64), np.asarray(radii, dtype=np.float64)])
    around = (np.vstack([c[:1], c[:-1]])[:-1], c[:-1], c[1:], np.vstack([c[2:], c[-1:]]))
    curve = sum(weight * near[None] for weight, near in zip(_BASIS, around, strict=True))
    line = np.vstack([np.asarray(curve).transpose(1, 0, 2).reshape(-1, 3), c[-1:]])
    along = np.gradient(line[:, :2], axis=0)
    along /= np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9
    across = np.column_stack([-along[:, 1], along[:, 0]]) * line[:, 2:]
    start, end = line[0, :2] - along[0] * line[0, 2] * 0.7, line[-1, :2] + along[-1] * line[-1, 2] * 0.7
    return np.vstack([[start], line[:, :2] + across, [end], (line[:, :2] - across)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float | None = None, turn: float = 0.0, n: int = 20) -> Points:
    """Return an ellipse of radii `rx` and `ry`, rotated by `turn` radians."""
    angle = np.arange(n) * (2 * math.pi / n)
    u, v = rx * np.cos(angle), (rx if ry is None else ry) * np.sin(angle)
    c, s = math.cos(turn), math.sin(turn)
    return np.column_stack([x + u * c - v * s, y + u * s + v * c])


def normals(outline: Points) -> Points:
    """Return the outward unit normals of a closed outline."""
    after, before = np.concatenate([outline[1:], outline[:1]]), np.concatenate([outline[-1:], outline[:-1]])
    along = after - before
    clockwise = float(np.sum(outline[:, 0] * after[:, 1] - after[:, 0] * outline[:, 1])) < 0
    out = np.column_stack([along[:, 1], -along[:, 0]]) / (np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9)
    return np.asarray(-out if clockwise else out)


def _resample(outline: Points, spacing: float) -> Points:
    """Return the closed outline with points every `spacing`."""
    closed = np.vstack([outline, outline[:1]])
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    n = max(8, 2 * round(float(length[-1]) / spacing / 2))
    at = np.arange(n) * (length[-1] / n)
    return np.column_stack([np.interp(at, length, closed[:, 0]), np.interp(at, length, closed[:, 1])])


class Frame:
    """Maps a part's own coordinates to the picture: an origin and two axes."""

    def __init__(self, origin: ArrayLike, x_axis: ArrayLike, y_axis: ArrayLike) -> None:
        self.origin, self.x_axis, self.y_axis = (np.asarray(v, dtype=np.float64) for v in (origin, x_axis, y_axis))
        self.unit = math.hypot(*self.y_axis)  # pixels in one unit

    def __call__(self, points: ArrayLike) -> Points:
        p = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        return self.origin + p[:, :1] * self.x_axis + p[:, 1:] * self.y_axis

    def curve(self, knots: ArrayLike) -> Points:
        """Return the closed smooth curve through knots in this frame's own coordinates."""
        return smooth(self(knots))

    def inner(self, x: float, y: float, scale: float = 1.0, turn: float = 0.0) -> "Frame":
        """Return a frame inside this one, with its origin at (x, y), rotated by `turn` radians."""
        c, s = math.cos(turn) * scale, math.sin(turn) * scale
        return Frame(self([x, y])[0], c * self.x_axis + s * self.y_axis, c * self.y_axis - s * self.x_axis)


def flat(points: Points) -> list[float]:
    return np.rint(points).ravel().tolist()  # whole pixels of the larger drawing: see the module's first lines


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Mix `share` (0 to 1) of `other` into `one`."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(one, other, strict=True))
    return r, g, b


def veil(image: Image.Image, colour: Colour, corner: tuple[int, int], mask: Image.Image) -> None:
    """Paint a colour through a mask. Pillow pastes an image through a mask three times as fast as a colour."""
    image.paste(Image.new("RGB", mask.size, colour), corner, mask)


class Layer:
    """Shapes that are painted, shaded and pasted together: the trunk with its near legs, or the head.

    shapes: closed outlines in pixels; later painting shows only inside them.
    """

    def __init__(self, shapes: Sequence[Points], colour: Colour) -> None:
        self.shapes = list(shapes)
        everything = np.vstack(self.shapes)
        low, high = np.floor(everything.min(0) - 12), np.ceil(everything.max(0) + 12)
        self.corner = low
        self.size = (max(8, int(high[0] - low[0])), max(8, int(high[1] - low[1])))
        self.coat = Image.new("RGB", self.size, colour)
        self.mask = Image.new("L", self.size)
        self.draw = ImageDraw.Draw(self.coat)
        into = ImageDraw.Draw(self.mask)
        for shape in self.shapes:
            into.polygon(flat(shape - low), fill=255)

    def polygon(self, points: Points, colour: Colour) -> None:
        self.draw.polygon(flat(points - self.corner), fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        self.draw.line(flat(points - self.corner), fill=colour, width=max(1, round(width)), joint="curve")

    def soft(self, shapes: Sequence[Points], colour: Colour, strength: float = 1.0) -> None:
        """Paint shapes whose edges fade over about eight pixels."""
        small = Image.new("L", (self.size[0] // 8 + 2, self.size[1] // 8 + 2))
        draw = ImageDraw.Draw(small)
        for shape in shapes:
            draw.polygon(flat((shape - self.corner) / 8), fill=round(255 * strength))
        grown = small.resize((small.width * 8, small.height * 8), Image.Resampling.BILINEAR)
        veil(self.coat, colour, (0, 0), grown.crop((0, 0, *self.size)))

    def shade(self, depth: float, strokes: "Strokes") -> None:
        """Shade the layer: light from above, shadow below, and strokes of hair. depth: pixels."""
        depth = min(depth, 0.3 * min(self.size))
        small = self.mask.reduce(4)
        blurred = small.filter(ImageFilter.GaussianBlur(depth / 8))
        reach = max(1, round(depth / 6))
        dark = ImageChops.subtract(small, ImageChops.offset(blurred, -reach // 3, -reach)).point(_SHADE)
        light = ImageChops.subtract(small, ImageChops.offset(blurred, reach // 3, reach)).point(_SHINE)
        for thin, colour, value, lines in (
            (dark, (20, 14, 22), 62, strokes.dark),
            (light, (255, 250, 238), 56, strokes.light),
        ):
            full = thin.resize(self.size, Image.Resampling.BILINEAR)
            pen = ImageDraw.Draw(full)
            for line in lines:
                pen.line(line, fill=value, width=strokes.width)
            veil(self.coat, colour, (0, 0), full)


_SHADE = [min(105, v * 5 // 9) for v in range(256)]
_SHINE = [min(70, v // 3) for v in range(256)]


class Strokes:
    """Strokes of hair over a layer: half of them darken it, half lighten it."""

    def __init__(self, rng: np.random.Generator, layer: Layer, coat: str, hair: float, unit: float) -> None:
        w, h = layer.size
        spacing, length, self.width, wave = {
            "smooth": (0.13, 0.05, 1, 0.0),
            "hairless": (0.5, 0.02, 1, 0.0),
            "dense": (0.075, 0.05 + 0.06 * hair, 2, 0.1),
            "silky": (0.07, 0.12 + 0.16 * hair, 2, 0.25),
            "shaggy": (0.065, 0.12 + 0.14 * hair, 2, 0.5),
            "wire": (0.055, 0.06 + 0.04 * hair, 2, 1.0),
            "curly": (0.065, 0.05, 2, 0.0),
            "corded": (0.06, 0.34, 3, 0.12),
        }[coat]
        n = min(320, int(w * h / (spacing * unit) ** 2))
        r = rng.random((n, 4))
        x, y = r[:, 0] * w, r[:, 1] * h
        long = length * unit * (0.6 + 0.8 * r[:, 2])
        if coat == "curly":
            curl = np.array([[-1, 0.2], [-0.6, -0.7], [0.3, -0.8], [0.8, 0], [0.3, 0.6], [-0.2, 0.2]])
            lines = np.stack([x, y], 1)[:, None] + curl[None] * long[:, None, None] * 0.55
        else:
            lean = (r[:, 3] - 0.5) * (0.5 + 2 * wave)  # down the coat, a little to either side
            bend = long * wave * (r[:, 2] - 0.5)
            lines = np.stack(
                [
                    np.stack([x, y], 1),
                    np.stack([x + lean * long * 0.5 + bend, y + long * 0.5], 1),
                    np.stack([x + lean * long, y + long], 1),
                ],
                1,
            )
        flat = np.rint(lines).reshape(n, 2 * lines.shape[1]).tolist()
        self.dark, self.light = flat[: n // 2], flat[n // 2 :]


_FUR = {  # coat: spacing of tufts, length without and with the longest hair, how far they hang
    "dense": (0.05, 0.012, 0.06, 0.2),
    "silky": (0.045, 0.008, 0.055, 0.9),
    "shaggy": (0.05, 0.025, 0.075, 0.6),
    "wire": (0.032, 0.012, 0.04, 0.1),
    "curly": (0.085, 0.03, 0.03, 0.0),
    "corded": (0.05, 0.05, 0.05, 1.2),
}

_DOTS = {  # pattern: step of the grid, smallest and largest radius, share of the grid that is filled
    "spots": (0.115, 0.026, 0.05, 0.85),
    "ticks": (0.07, 0.007, 0.016, 0.8),
    "roan": (0.036, 0.006, 0.014, 0.95),
}


class Painter:
    """Paints one dog on a transparent background: its colours, its coat, its patterns.

    size: pixels of the larger drawing, width and height.
    """

    def __init__(self, traits: Traits, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.traits, self.rng = traits, rng
        self.rgb, self.alpha = Image.new("RGB", size, (40, 32, 30)), Image.new("L", size)
        self.pen, self.alpha_pen = ImageDraw.Draw(self.rgb), ImageDraw.Draw(self.alpha)
        self.hair = traits.hair / 9
        tint, light = rng.random(3) - 0.5, 0.94 + 0.12 * float(rng.random())
        self._tint = [(light * (1 + 0.035 * t), 4 * t) for t in tint.tolist()]
        self.base = self.colour(traits.colour)
        self.head_colour = self.colour(traits.mark("head") or traits.colour)
        self.ear_colour = self.colour(traits.mark("ears") or traits.mark("head") or traits.colour)
        self.ink = mix(self.base, (14, 10, 14), 0.72 if sum(self.base) < 330 else 0.62)

    def colour(self, name: str) -> Colour:
        """Return a colour by name, with this dog's variation."""
        r, g, b = (max(0, min(255, round(v * k + d))) for v, (k, d) in zip(COLOURS[name], self._tint, strict=True))
        return r, g, b

    def fur(self, outline: Points, unit: float, amount: float = 1.0, least: float = 0.0) -> Points:
        """Return the outline with tufts of this dog's coat; `least` makes a marking's edge ragged on any coat."""
        spacing, short, long, hang = _FUR.get(self.traits.coat, (0.05, 0.0, 0.0, 0.0))
        length = max(least, (short + (long - short) * self.hair) * amount)
        if length == 0 or (self.traits.coat == "hairless" and least == 0):
            return outline
        reach = min(length * unit, 18.0)  # pixels: close up, hair is fine, not huge
        if self.traits.coat == "curly":
            p = _resample(outline, min(spacing * unit, 26.0) / 4)
            scallop = np.array([0.0, 0.8, 1.0, 0.8])[np.arange(len(p)) % 4]
            return p + normals(p) * (scallop * reach)[:, None]
        p = _resample(outline, min(spacing * unit * (1 + 0.4 * self.hair), 10.0))
        r = self.rng.random(len(p))
        odd = np.arange(len(p)) % 2 == 1
        tufts = p + normals(p) * (np.where(odd, 0.4 + 0.9 * r, -0.2) * reach)[:, None]
        tufts[:, 1] += np.where(odd, hang * reach * (0.4 + 0.8 * r), 0.0)
        return tufts

    def blob(self, frame: Frame, unit: float, x: float, y: float, rx: float, ry: float) -> Points:
        """Return the outline of an irregular round patch."""
        knots = ellipse(0, 0, rx, ry, n=8) * (0.75 + 0.5 * self.rng.random(8))[:, None] + [x, y]
        return self.fur(smooth(frame(knots)), unit, 1.0, 0.02)

    def all_over(self, layer: Layer, where: str, colour: Colour, unit: float) -> None:
        """Paint patterns that cover a whole layer: spots, ticks, roan, brindle, merle."""
        w, h = layer.size
        rng, corner = self.rng, layer.corner
        if where in ("spots", "ticks", "roan"):
            step, low, high, keep = _DOTS[where]
            nx, ny = int(w / (step * unit)) + 1, int(h / (step * unit)) + 1
            r = rng.random((nx * ny, 4))
            x = (np.arange(nx * ny) % nx + r[:, 0] * 0.9) * step * unit
            y = (np.arange(nx * ny) // nx + r[:, 1] * 0.9) * step * unit
            radius = np.maximum(1.0, (low + (high - low) * r[:, 2]) * unit)
            boxes = np.rint(np.column_stack([x - radius, y - radius, x + radius, y + radius]))[r[:, 3] < keep]
            for box in boxes.tolist():
                layer.draw.ellipse(box, fill=colour)
        elif where == "brindle":
            n = int(w / (0.075 * unit)) + 2
            r = rng.random((n, 6))
            for i, (a, b, c, d, e, f) in enumerate(r.tolist()):
                x = (i + a) * 0.075 * unit
                y0, y1 = b * 0.4 * h, (0.6 + 0.4 * c) * h
                line = limb(
                    [(x, y0), (x + (d - 0.5) * 0.2 * unit, (y0 + y1) / 2), (x + (e - 0.5) * 0.16 * unit, y1)],
                    [1, (0.008 + 0.012 * f) * unit, 1],
                )
                layer.polygon(line + corner, colour)
        elif where == "merle":
            n = max(3, int(w * h / (0.2 * unit) ** 2))
            for a, b, c in rng.random((n, 3)).tolist():
                size = (0.02 + 0.1 * c * c) * unit
                at = Frame(corner + np.array([a * w, b * h]), (size, 0), (0, size))
                layer.polygon(smooth(at(ellipse(0, 0, 1, 0.9, n=8) * (0.55 + 0.9 * rng.random(8))[:, None])), colour)

    def paste(self, layer: Layer, unit: float, shaded: bool = True) -> None:
        """Paste a layer onto the picture, with its ink line, and with hair and light if `shaded`."""
        width = max(1.0, 0.013 * unit)
        for shape in layer.shapes:
            grown = flat(shape + normals(shape) * width)
            self.pen.polygon(grown, fill=self.ink)
            self.alpha_pen.polygon(grown, fill=255)
        if shaded:
            layer.shade(0.3 * unit, Strokes(self.rng, layer, self.traits.coat, self.hair, unit))
        self.rgb.paste(layer.coat, (int(layer.corner[0]), int(layer.corner[1])), layer.mask)
