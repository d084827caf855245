"""One picture of a drawn dog: outline, coat, markings, face and pose from the traits of its breed.

A dog is built in its own coordinates: x forward, y up, the ground at 0, about 1.3 from ground to withers for a Labrador.
A `Frame` takes points from there, or from the coordinates of its head, to pixels. Everything random comes from one
numpy Generator, in a fixed order, and every coordinate is rounded before it is rasterised, so that the last digit of a
machine's sine or square root cannot change a pixel.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dogbreed.drawn_breeds import COLOURS, Colour, Traits

Points = NDArray[np.float64]  # [n, 2]: x, y

SUPERSAMPLING = 2  # drawn so many times larger, then shrunk: smooth edges
POSES = ("stand", "look", "sit", "portrait")  # side-on; side-on, facing us; sitting; head and chest, facing us

_STEPS = 6  # points of a curve between two of its knots
_T = np.linspace(0.0, 1.0, _STEPS, endpoint=False)[:, None, None]
_BASIS = (  # Catmull-Rom: weights of the four knots around each piece
    -0.5 * _T + _T**2 - 0.5 * _T**3,
    1 - 2.5 * _T**2 + 1.5 * _T**3,
    0.5 * _T + 2 * _T**2 - 1.5 * _T**3,
    -0.5 * _T**2 + 0.5 * _T**3,
)


def smooth(knots: ArrayLike) -> Points:
    """The closed Catmull-Rom curve through `knots`."""
    k = np.asarray(knots, dtype=np.float64)
    around = (np.roll(k, 1, 0), k, np.roll(k, -1, 0), np.roll(k, -2, 0))
    curve = sum(weight * near[None] for weight, near in zip(_BASIS, around, strict=True))
    return np.asarray(curve).transpose(1, 0, 2).reshape(-1, 2)


def limb(centre: ArrayLike, radii: Sequence[float]) -> Points:
    """The outline of a limb: a smooth line through `centre`, as thick at each knot as twice its radius, round at both ends."""
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
    """An ellipse of radii `rx` and `ry`, turned by `turn` radians."""
    angle = np.arange(n) * (2 * math.pi / n)
    u, v = rx * np.cos(angle), (rx if ry is None else ry) * np.sin(angle)
    c, s = math.cos(turn), math.sin(turn)
    return np.column_stack([x + u * c - v * s, y + u * s + v * c])


def _normals(outline: Points) -> Points:
    """Unit normals of a closed outline, pointing out."""
    along = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
    x, y = outline[:, 0], outline[:, 1]
    clockwise = float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) < 0
    out = np.column_stack([along[:, 1], -along[:, 0]]) / (np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9)
    return -out if clockwise else out


def _resample(outline: Points, spacing: float) -> Points:
    """The closed outline with points every `spacing`."""
    closed = np.vstack([outline, outline[:1]])
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    n = max(8, 2 * round(float(length[-1]) / spacing / 2))
    at = np.arange(n) * (length[-1] / n)
    return np.column_stack([np.interp(at, length, closed[:, 0]), np.interp(at, length, closed[:, 1])])


class Frame:
    """Where a part's own coordinates lie in the picture: an origin and two axes."""

    def __init__(self, origin: ArrayLike, x_axis: ArrayLike, y_axis: ArrayLike) -> None:
        self.origin, self.x_axis, self.y_axis = (np.asarray(v, dtype=np.float64) for v in (origin, x_axis, y_axis))
        self.unit = math.hypot(*self.y_axis)  # pixels in one unit

    def __call__(self, points: ArrayLike) -> Points:
        p = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        return self.origin + p[:, :1] * self.x_axis + p[:, 1:] * self.y_axis

    def inner(self, x: float, y: float, scale: float = 1.0, turn: float = 0.0) -> "Frame":
        """A frame inside this one: its origin at (x, y), turned by `turn` radians."""
        c, s = math.cos(turn) * scale, math.sin(turn) * scale
        return Frame(self([x, y])[0], c * self.x_axis + s * self.y_axis, c * self.y_axis - s * self.x_axis)


def _flat(points: Points) -> list[float]:
    return np.rint(points).ravel().tolist()  # whole pixels of the larger drawing: see the module's first lines


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with `share` (0 to 1) of `other` in it."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(one, other, strict=True))
    return r, g, b


class Layer:
    """Shapes that are painted, shaded and pasted as one: the trunk with its near legs, or the head.

    shapes: closed outlines in pixels; what is painted later shows only inside them.
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
            into.polygon(_flat(shape - low), fill=255)

    def polygon(self, points: Points, colour: Colour) -> None:
        self.draw.polygon(_flat(points - self.corner), fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        self.draw.line(_flat(points - self.corner), fill=colour, width=max(1, round(width)), joint="curve")

    def soft(self, shapes: Sequence[Points], colour: Colour, strength: float = 1.0) -> None:
        """Paint shapes whose edges fade over some eight pixels."""
        small = Image.new("L", (self.size[0] // 8 + 2, self.size[1] // 8 + 2))
        draw = ImageDraw.Draw(small)
        for shape in shapes:
            draw.polygon(_flat((shape - self.corner) / 8), fill=round(255 * strength))
        grown = small.resize((small.width * 8, small.height * 8), Image.Resampling.BILINEAR)
        self.coat.paste(colour, (0, 0), grown.crop((0, 0, *self.size)))

    def shade(self, depth: float, strokes: "Strokes | None" = None) -> None:
        """Make it round: light from above, shade below, and the strokes of its hair. depth: pixels."""
        small = self.mask.reduce(4)
        blurred = small.filter(ImageFilter.GaussianBlur(depth / 8))
        reach = max(1, round(depth / 6))
        dark = ImageChops.subtract(small, ImageChops.offset(blurred, -reach // 3, -reach)).point(_SHADE)
        light = ImageChops.subtract(small, ImageChops.offset(blurred, reach // 3, reach)).point(_SHINE)
        for veil, colour, value, lines in (
            (dark, (20, 14, 22), 70, strokes.dark if strokes else ()),
            (light, (255, 250, 238), 62, strokes.light if strokes else ()),
        ):
            veil = veil.resize(self.size, Image.Resampling.BILINEAR)
            if strokes:
                pen = ImageDraw.Draw(veil)
                for line in lines:
                    pen.line(line, fill=value, width=strokes.width)
            self.coat.paste(colour, (0, 0), veil)


_SHADE = [min(105, v * 5 // 9) for v in range(256)]
_SHINE = [min(70, v // 3) for v in range(256)]


class Strokes:
    """Strokes of hair over a layer: half of them darken, half lighten what lies below."""

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
        n = min(700, int(w * h / (spacing * unit) ** 2))
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
        flat = np.rint(lines).reshape(n, -1).tolist()
        self.dark, self.light = flat[: n // 2], flat[n // 2 :]


_FUR = {  # coat: spacing of tufts, their length without and with the longest hair, how far they hang
    "dense": (0.05, 0.012, 0.06, 0.2),
    "silky": (0.06, 0.01, 0.07, 0.8),
    "shaggy": (0.05, 0.025, 0.075, 0.6),
    "wire": (0.032, 0.012, 0.04, 0.1),
    "curly": (0.085, 0.03, 0.03, 0.0),
    "corded": (0.05, 0.05, 0.05, 1.2),
}

# Knots of an ear from its root at (0, 0), the tip of a medium one about 1 away. Side-on, facing right.
_EARS_SIDE: dict[str, list[tuple[float, float]]] = {
    "prick": [(-0.38, -0.15), (-0.36, 0.4), (-0.12, 1.05), (0.0, 1.05), (0.24, 0.45), (0.3, -0.1)],
    "bat": [(-0.34, -0.15), (-0.46, 0.45), (-0.28, 1.0), (0.02, 1.02), (0.26, 0.5), (0.28, -0.1)],
    "semi": [(-0.36, -0.15), (-0.34, 0.4), (-0.1, 0.78), (0.28, 0.62), (0.44, 0.3), (0.2, 0.42), (0.26, -0.1)],
    "button": [(-0.34, -0.05), (-0.3, 0.28), (0.05, 0.36), (0.4, 0.14), (0.52, -0.42), (0.24, -0.24), (-0.05, -0.1)],
    "rose": [(0.18, 0.0), (0.0, 0.25), (-0.4, 0.3), (-0.85, -0.05), (-0.5, -0.15), (-0.15, -0.3)],
    "drop": [(-0.3, 0.02), (-0.1, 0.2), (0.25, 0.02), (0.36, -0.5), (0.14, -1.0), (-0.16, -0.95), (-0.42, -0.45)],
    "long": [(-0.22, 0.05), (0.0, 0.15), (0.2, -0.1), (0.3, -0.75), (0.2, -1.35), (-0.15, -1.4), (-0.42, -0.85), (-0.36, -0.3)],
    "butterfly": [(-0.28, -0.2), (-0.75, 0.1), (-1.0, 0.5), (-0.7, 0.95), (-0.2, 1.1), (0.08, 0.7), (0.26, -0.1)],
}  # fmt: skip
# The ear on the right of a face that looks at us; mirrored for the other.
_EARS_FRONT: dict[str, list[tuple[float, float]]] = {
    "prick": [(-0.34, 0.0), (-0.12, 0.6), (0.2, 1.08), (0.3, 1.05), (0.42, 0.5), (0.3, -0.25)],
    "bat": [(-0.36, 0.0), (-0.22, 0.6), (0.1, 1.02), (0.42, 0.98), (0.5, 0.45), (0.28, -0.25)],
    "semi": [(-0.3, 0.0), (-0.16, 0.45), (0.12, 0.76), (0.46, 0.66), (0.66, 0.22), (0.42, 0.3), (0.28, -0.25)],
    "button": [(-0.3, 0.05), (0.0, 0.34), (0.4, 0.3), (0.56, -0.05), (0.36, -0.5), (0.12, -0.2)],
    "rose": [(-0.2, 0.0), (0.1, 0.22), (0.5, 0.2), (0.82, -0.1), (0.5, -0.12), (0.2, -0.3)],
    "drop": [(-0.25, 0.05), (0.1, 0.22), (0.42, 0.02), (0.56, -0.5), (0.44, -1.0), (0.16, -1.0), (0.04, -0.5)],
    "long": [(-0.2, 0.05), (0.1, 0.16), (0.38, -0.1), (0.56, -0.75), (0.5, -1.35), (0.18, -1.42), (0.0, -0.85)],
    "butterfly": [(-0.3, 0.0), (-0.1, 0.7), (0.3, 1.1), (0.85, 1.0), (1.05, 0.45), (0.75, 0.0), (0.3, -0.3)],
}  # fmt: skip
_UPRIGHT = ("prick", "bat", "semi", "butterfly")


class Dog:
    """One dog on a transparent ground: its build with a little individual variation, and the picture it is drawn into.

    size: pixels of the larger drawing, width and height.
    """

    def __init__(self, traits: Traits, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.traits, self.rng = traits, rng
        self.rgb, self.alpha = Image.new("RGB", size, (40, 32, 30)), Image.new("L", size)
        self.pen, self.alpha_pen = ImageDraw.Draw(self.rgb), ImageDraw.Draw(self.alpha)
        each = iter((0.95 + 0.1 * rng.random(9)).tolist())
        measure = {name: traits.measure(name) for name in ("legs", "long", "deep", "tuck", "bulk", "neck", "head", "snout", "muzzle")}  # fmt: skip
        self.leg = (0.15 + 0.95 * measure["legs"]) * next(each)
        self.length = (0.85 + 1.05 * measure["long"]) * next(each)
        self.depth = (0.42 + 0.38 * measure["deep"]) * next(each)
        self.tuck = 0.6 * measure["tuck"]
        self.thick = (0.052 + 0.075 * measure["bulk"]) * next(each)
        self.neck = (0.12 + 0.42 * measure["neck"]) * next(each)
        self.skull = (0.235 + 0.16 * measure["head"]) * next(each)
        self.snout = (0.26 + 1.25 * measure["snout"]) * next(each)  # in skulls, as all of the head
        self.muzzle = (0.46 + 0.5 * measure["muzzle"]) * next(each)
        self.hair = traits.hair / 9
        self.top = self.leg + self.depth  # height of the withers
        tint, light = rng.random(3) - 0.5, 0.94 + 0.12 * rng.random()
        self._tint = [(light * (1 + 0.06 * t), 6 * t) for t in tint.tolist()]
        self.base = self.colour(traits.colour)
        self.head_colour = self.colour(traits.mark("head") or traits.colour)
        self.ear_colour = self.colour(traits.mark("ears") or traits.mark("head") or traits.colour)
        dark = sum(self.base) < 330
        self.ink = mix(self.base, (14, 10, 14), 0.72 if dark else 0.62)
        brown = traits.colour in ("liver", "chocolate", "deadgrass", "isabella") or traits.mark("head") == "liver"
        self.nose = (96, 58, 46) if brown else (32, 28, 32)
        self.tongue_out = bool(rng.random() < 0.35)
        self.collar = None if rng.random() < 0.62 else _COLLARS[int(rng.random() * len(_COLLARS))]

    def colour(self, name: str) -> Colour:
        """A colour by name, as it is on this very dog."""
        r, g, b = (max(0, min(255, round(v * k + d))) for v, (k, d) in zip(COLOURS[name], self._tint, strict=True))
        return r, g, b

    # --- poses ---

    def stand(self, frame: Frame, front: bool) -> None:
        """Side-on, on four legs, walking or not; with `front` the face is turned to us."""
        rng, length, top, leg, depth = self.rng, self.length, self.top, self.leg, self.depth
        stride = (rng.random() * 0.5 - 0.12) * min(1.0, leg * 1.6)
        drop = 0.1 * depth if "slope" in self.traits.features else 0.0
        arch = 0.1 * depth if "arch" in self.traits.features else 0.0
        u = Frame(frame([-length / 2, leg])[0], frame.x_axis * length, frame.y_axis * depth)
        trunk = smooth(
            u(
                [
                    (0.93, 1.02),
                    (0.78, 1.05),
                    (0.5, 0.97 + arch),
                    (0.25, 0.99 + arch - drop / depth),
                    (0.07, 0.94 - drop / depth),
                    (-0.02, 0.7 - drop / depth),
                    (0.02, 0.4),
                    (0.2, 0.12 + self.tuck),
                    (0.45, 0.02 + 0.45 * self.tuck),
                    (0.72, -0.03),
                    (0.93, 0.14),
                    (1.02, 0.5),
                    (1.0, 0.82),
                ]  # fmt: skip
            )
        )
        hx, hy = self.head_place("stand")
        neck = limb(
            frame(
                [
                    (length * 0.32, top - depth * 0.32),
                    (length * 0.4 + (hx - length * 0.4) * 0.4, top + (hy - top) * 0.4),
                    (hx - 0.1 * self.skull, hy - 0.05 * self.skull),
                ]
            ),
            [depth * 0.42 * frame.unit, (self.skull * 0.72 + 0.04) * frame.unit, self.skull * 0.74 * frame.unit],
        )
        far = [*self.foreleg(frame, length * 0.3, -stride), *self.hindleg(frame, -length * 0.36, stride * 0.8)]
        near = [*self.foreleg(frame, length * 0.34, stride), *self.hindleg(frame, -length * 0.4, -stride * 0.8)]
        self.far_legs(frame, far)
        curl = self.traits.tail == "curl"
        root = (-length * 0.47, top - 0.12 * depth - drop)
        if not curl:
            self.tail(frame, root, 0.0)
        self.body(frame, u, [trunk, neck], near, neck_at=(hx, hy))
        if curl:
            self.tail(frame, (root[0] + 0.03, top - 0.06 * depth), 0.0)
        tilt = (rng.random() - 0.5) * 0.3
        if front:
            self.head_front(frame.inner(hx, hy + 0.05, self.skull * 1.06, tilt))
        else:
            self.head_side(frame.inner(hx, hy, self.skull, tilt))

    def sit(self, frame: Frame, front: bool) -> None:
        """Side-on, sitting."""
        rng, length, top, leg, depth = self.rng, self.length * 0.86, self.top, self.leg, self.depth
        top = max(top, 0.85 * length)
        u = Frame(
            frame([-length * 0.46, 0.0])[0],
            frame([length * 0.42, top - 0.16 * depth])[0] - frame([-length * 0.3, 0.16 * depth])[0],
            frame.y_axis * depth - frame.x_axis * depth * 0.35,
        )
        trunk = smooth(
            frame(
                [
                    (length * 0.2, top + 0.02),
                    (-0.02 * length, top - 0.2 * depth),
                    (-0.26 * length, top * 0.62),
                    (-0.45 * length, top * 0.34),
                    (-0.5 * length, top * 0.14),
                    (-0.42 * length, 0.01),
                    (-0.2 * length, 0.0),
                    (0.02 * length, leg * 0.4 + 0.04),
                    (0.14 * length, leg * 0.85),
                    (0.34 * length, leg + depth * 0.12),
                    (0.42 * length, leg + depth * 0.5),
                    (0.38 * length, top - depth * 0.12),
                ]  # fmt: skip
            )
        )
        hx, hy = self.head_place("sit")
        neck = limb(
            frame(
                [
                    (length * 0.2, top - depth * 0.36),
                    (length * 0.24 + (hx - length * 0.24) * 0.45, top + (hy - top) * 0.4),
                    (hx - 0.1 * self.skull, hy - 0.05 * self.skull),
                ]
            ),
            [depth * 0.4 * frame.unit, (self.skull * 0.72 + 0.04) * frame.unit, self.skull * 0.74 * frame.unit],
        )
        thigh = smooth(frame(ellipse(-0.2 * length, top * 0.24, 0.24 * length, top * 0.24, -0.3)))
        foot = limb(
            frame([(-0.25 * length, 0.05), (-0.05 * length, 0.045), (0.1 * length, 0.045)]),
            [self.thick * 0.9 * frame.unit] * 2 + [self.thick * frame.unit],
        )
        self.far_legs(frame, self.foreleg(frame, length * 0.24, 0.03))
        self.tail(frame, (-length * 0.46, 0.1), 1.0)
        self.body(frame, u, [trunk, neck, thigh, foot], self.foreleg(frame, length * 0.28, 0.0), neck_at=(hx, hy))
        pen_ink = mix(self.base, self.ink, 0.55)
        self.pen.line(_flat(thigh[8:64]), fill=pen_ink, width=max(1, round(0.012 * frame.unit)), joint="curve")
        tilt = (rng.random() - 0.4) * 0.3
        if front:
            self.head_front(frame.inner(hx, hy + 0.05, self.skull * 1.06, tilt))
        else:
            self.head_side(frame.inner(hx, hy, self.skull, tilt))

    def portrait(self, frame: Frame) -> None:
        """Head and chest, facing us. The frame's unit is a skull; its origin the middle of the face."""
        width = 0.95 + 0.6 * self.traits.measure("bulk") + 0.35 * self.hair
        bust = smooth(frame([(-0.62, 0.1), (0.62, 0.1), (0.78, -0.8), (width, -1.7), (width + 0.15, -3.4), (-width - 0.15, -3.4), (-width, -1.7), (-0.78, -0.8)]))  # fmt: skip
        u = Frame(frame([-2.6, -3.2])[0], frame.x_axis * 2.6, frame.y_axis * 2.4)
        self.body(frame.inner(0, 0, 1 / self.skull), u, [bust], [], neck_at=None)
        self.head_front(frame.inner(0, 0, 1.0, (self.rng.random() - 0.5) * 0.35))

    def head_place(self, pose: str) -> tuple[float, float]:
        """The middle of the skull."""
        length = self.length * (0.86 if pose == "sit" else 1.0)
        top = max(self.top, 0.85 * length) if pose == "sit" else self.top
        x = length * (0.26 if pose == "sit" else 0.42)
        return x + self.neck * 0.62 + self.skull * 0.25, top + self.neck * 0.72 + self.skull * 0.42

    def extent(self, pose: str) -> tuple[float, float, float, float]:
        """left, bottom, right, top of the dog in its own coordinates, roughly."""
        up = 1.15
        if self.traits.ears in _UPRIGHT:
            up = 0.95 + 0.85 * (0.45 + 0.11 * self.traits.ear_size)
        if pose == "portrait":
            return -1.5, -1.55 - 0.3 * self.snout, 1.5, up + 0.15
        x, y = self.head_place(pose)
        tail = {"docked": 0.02, "stub": 0.1, "curl": 0.08, "pompom": 0.2}.get(self.traits.tail, 0.36)
        right = x + self.skull * (1.2 if pose == "look" else 0.9 + self.snout)
        return -self.length * 0.5 - tail, -0.04, max(right, self.length * 0.55), y + self.skull * up

    # --- parts ---

    def foreleg(self, frame: Frame, x: float, stride: float) -> list[Points]:
        k, leg, unit = self.thick, self.leg, frame.unit
        lift = max(0.0, -stride) * 0.12
        shape = limb(
            frame(
                [
                    (x - 0.02, leg + self.depth * 0.42),
                    (x - 0.03 + stride * 0.1, leg),
                    (x + stride * 0.5, leg * 0.48 + lift),
                    (x + stride * 0.85, 0.08 + lift),
                ]
            ),
            [k * 1.7 * unit, k * 1.25 * unit, k * 0.95 * unit, k * 0.85 * unit],
        )
        return [shape, self.paw(frame, x + stride * 0.85, lift)]

    def hindleg(self, frame: Frame, x: float, stride: float) -> list[Points]:
        k, leg, unit, depth = self.thick, self.leg, frame.unit, self.depth
        lift = max(0.0, -stride) * 0.12
        back = 0.16 * min(1.0, leg + 0.2)
        shape = limb(
            frame(
                [
                    (x, leg + depth * 0.5),
                    (x + 0.06 + stride * 0.2, leg * 0.92),
                    (x - back * 0.75 + stride * 0.6, leg * 0.42 + lift),
                    (x - back * 0.55 + stride * 0.9, 0.08 + lift),
                ]
            ),
            [(0.2 * depth + k * 1.4) * unit, (0.12 * depth + k) * unit, k * 0.85 * unit, k * 0.8 * unit],
        )
        return [shape, self.paw(frame, x - back * 0.55 + stride * 0.9, lift)]

    def paw(self, frame: Frame, x: float, y: float) -> Points:
        k = self.thick
        return smooth(frame([(x - k * 0.9, y + 0.02), (x - k * 0.7, y + k * 1.1), (x + k * 0.5, y + k * 1.25), (x + k * 1.7, y + k * 0.75), (x + k * 1.75, y + 0.01), (x + k * 0.4, y - 0.01)]))  # fmt: skip

    def far_legs(self, frame: Frame, shapes: list[Points]) -> None:
        colour = mix(self.base, (24, 18, 26), 0.3)
        layer = Layer([self.fur(s, frame.unit, 0.7) if i % 2 == 0 else s for i, s in enumerate(shapes)], colour)
        self.leg_marks(layer, frame, shade=0.3)
        self.paste(layer, frame.unit)

    def leg_marks(self, layer: Layer, frame: Frame, shade: float = 0.0) -> None:
        """White socks, tan points: lower down than the belly."""
        for where, height in (("points", 0.62), ("socks", 0.62), ("feet", 0.0), ("furnishings", 0.8)):
            if name := self.traits.mark(where):
                y = max(0.13, height * self.leg) if where != "feet" else 0.12
                edge = [(-1.5, y), (-0.8, y * 0.94), (0, y), (0.4, y * 1.05), (1.5, y), (1.5, -0.3), (-1.5, -0.3)]
                layer.polygon(frame(edge), mix(self.colour(name), (24, 18, 26), shade))

    def tail(self, frame: Frame, root: tuple[float, float], sitting: float) -> None:
        """sitting: 1 where the tail lies on the ground."""
        kind, hair, rng = self.traits.tail, self.hair, self.rng
        if kind == "docked":
            return
        wag = (rng.random() - 0.5) * 0.25
        thin = 0.028 + 0.25 * self.thick
        paths = {
            "stub": ([(0.06, 0), (-0.02, 0.07), (-0.06, 0.14 + wag * 0.2)], [1.3, 1.1, 0.8]),
            "whip": ([(0.08, 0), (-0.14, -0.04), (-0.3, -0.12 + wag), (-0.44, -0.08 + wag * 2)], [1.4, 0.9, 0.6, 0.3]),
            "otter": ([(0.08, 0), (-0.14, -0.03), (-0.3, -0.06 + wag), (-0.44, 0.0 + wag * 1.6)], [2.2, 1.9, 1.4, 0.7]),
            "sickle": ([(0.06, 0), (-0.1, 0.12), (-0.16, 0.32), (-0.08 + wag * 0.5, 0.5)], [1.5, 1.2, 0.9, 0.5]),
            "curl": ([(-0.02, -0.02), (-0.12, 0.16), (0.0, 0.3), (0.15, 0.24), (0.14, 0.1)], [1.6, 1.7, 1.7, 1.5, 0.9]),
            "plume": ([(0.06, 0), (-0.14, 0.08), (-0.28, 0.26 + wag * 0.4), (-0.3, 0.46 + wag * 0.5)], [1.4, 2.0, 2.6, 1.0]),
            "flag": ([(0.08, 0), (-0.14, 0.0), (-0.3, 0.0 + wag * 0.7), (-0.46, 0.06 + wag * 1.4)], [1.3, 1.9, 2.3, 0.5]),
            "brush": ([(0.08, 0), (-0.08, -0.1), (-0.16, -0.34), (-0.24 + wag * 0.3, -0.52)], [1.7, 2.2, 2.4, 0.8]),
            "pompom": ([(0.06, 0), (-0.06, 0.14), (-0.1, 0.3)], [1.0, 0.9, 0.8]),
        }  # fmt: skip
        knots, radii = paths[kind]
        if sitting and kind not in ("curl", "stub", "pompom", "sickle"):
            knots, radii = [(0.08, 0.0), (-0.1, -0.03), (-0.26, -0.05), (-0.42, -0.03 + 0.06 * wag)], paths[kind][1]
        scale = 0.75 + 0.35 * min(1.0, self.top) + (0.15 * hair if kind == "curl" else 0)
        if kind in ("plume", "flag", "brush", "curl"):
            thin *= 0.8 + 0.75 * hair
        place = frame.inner(*root, scale)
        shapes = [self.fur(limb(place(knots), [r * thin * place.unit for r in radii]), frame.unit, 1.2)]
        if kind == "pompom":
            shapes.append(self.fur(place(ellipse(*knots[-1], 0.115)), frame.unit, 1.4))
        colour = self.base
        for where in ("head", "patches", "blanket", "saddle"):
            if (name := self.traits.mark(where)) and where != "head":
                colour = self.colour(name)
        layer = Layer(shapes, colour)
        if name := self.traits.mark("sable"):
            layer.soft([place(ellipse(*knots[-1], 0.16))], self.colour(name), 0.7)
        if name := self.traits.mark("tip"):
            layer.polygon(place(ellipse(*knots[-1], 0.11)), self.colour(name))
        self.paste(layer, frame.unit)

    def body(
        self,
        frame: Frame,
        u: Frame,
        shapes: list[Points],
        legs: list[Points],
        neck_at: tuple[float, float] | None,
    ) -> None:
        """The trunk, the neck and the near legs, with all that is painted on them. u: 0 to 1 along and up the trunk."""
        t, unit = self.traits, frame.unit
        soft = [self.fur(s, unit) for s in shapes] + [
            self.fur(s, unit, 0.7) if i % 2 == 0 else s for i, s in enumerate(legs)
        ]
        if t.coat in ("silky", "shaggy", "corded") and neck_at:
            soft.append(self.skirt(frame, u))
        if "ruff" in t.features and neck_at:
            x, y = neck_at
            soft.append(
                self.fur(
                    smooth(
                        frame(
                            ellipse(
                                x - 0.06 - 0.05 * self.neck,
                                y - self.skull * 0.75 - self.neck * 0.25,
                                self.skull * 1.05,
                                self.skull * 1.2,
                            )
                        )
                    ),
                    unit,
                    1.3,
                )
            )
        if "lion" in t.features and neck_at:
            soft.append(self.fur(smooth(u(ellipse(0.78, 0.55, 0.3, 0.68))), unit, 1.3))
        if "clip" in t.features and neck_at:
            soft.append(self.fur(smooth(u(ellipse(0.76, 0.58, 0.3, 0.62))), unit, 1.3))
        if legs and ("clip" in t.features or (t.coat == "hairless" and t.hair)):
            soft += [self.fur(frame(ellipse(*p, 0.13, 0.12)), unit, 1.2) for p in self._ankles(frame, legs)]
        layer = Layer(soft, self.base)
        for where, name in t.marks:
            colour = self.colour(name)
            if where == "saddle":
                layer.polygon(self.fur(smooth(u([(0.0, 0.72), (0.05, 1.25), (0.6, 1.3), (0.9, 1.2), (0.84, 0.8), (0.62, 0.5), (0.32, 0.46), (0.12, 0.5)])), unit, 1.0, 0.03), colour)  # fmt: skip
            elif where == "blanket":
                layer.polygon(self.fur(smooth(u([(-0.14, 1.2), (-0.14, 0.5), (0.1, 0.3), (0.4, 0.4), (0.68, 0.28), (0.82, 0.6), (0.98, 1.4), (0.5, 1.5)])), unit, 1.0, 0.03), colour)  # fmt: skip
            elif where == "under":
                layer.soft([smooth(u([(0.05, 0.3), (0.4, 0.2), (0.75, 0.28), (0.95, 0.75), (1.2, 1.05), (1.3, 0.4), (1.0, -0.4), (0.5, -0.5), (0, -0.3)]))], colour, 0.9)  # fmt: skip
            elif where == "chest":
                layer.polygon(
                    self.fur(
                        smooth(u([(0.86, 0.95), (0.84, 0.4), (0.9, 0.02), (1.1, -0.1), (1.3, 0.6), (1.2, 1.1)])),
                        unit,
                        1.0,
                        0.02,
                    ),
                    colour,
                )
            elif where == "points":
                layer.polygon(u(ellipse(0.99, 0.42, 0.075, 0.15)), colour)
                layer.soft([u(ellipse(-0.02, 0.55, 0.06, 0.16))], colour)
            elif where == "collar" and neck_at:
                x, y = neck_at
                layer.polygon(self.fur(smooth(frame([(x - self.skull * 1.5, y - 0.1), (x + 0.1, y + 0.1), (x + self.skull * 1.2, y - self.skull), (self.length * 0.56, self.top - self.depth * 0.2), (self.length * 0.46, self.top - self.depth * 0.42), (self.length * 0.33, self.top - self.depth * 0.05)])), unit, 1.0, 0.02), colour)  # fmt: skip
            elif where == "furnishings":
                layer.soft(
                    [smooth(u([(0.1, 0.15), (0.5, 0.08), (0.8, 0.1), (1.1, 0.1), (1.0, -0.5), (0, -0.5)]))], colour, 0.9
                )
            elif where == "sable":
                layer.soft(
                    [smooth(u([(-0.1, 0.7), (0.0, 1.2), (0.6, 1.3), (1.1, 1.3), (0.9, 0.75), (0.5, 0.62)]))],
                    colour,
                    0.62,
                )
            elif where == "patches":
                for at in (0.08, 0.38, 0.7):
                    du, dv, size = (self.rng.random(3)).tolist()
                    layer.polygon(
                        self.blob(u, unit, at + 0.16 * du, 0.5 + 0.5 * dv, 0.1 + 0.09 * size, 0.24 + 0.14 * size),
                        colour,
                    )
            else:
                self.all_over(layer, where, colour, unit)
        if legs:
            self.leg_marks(layer, frame)
        if neck_at is None:
            self.chest_front(layer, frame)
        self.paste(layer, unit)
        if self.collar and neck_at and "ruff" not in t.features and self.hair < 0.7:
            x, y = neck_at
            self.band(frame, (x * 0.62 + self.length * 0.16, self.top * 0.4 + y * 0.6 - self.skull * 0.3))

    def _ankles(self, frame: Frame, legs: list[Points]) -> list[tuple[float, float]]:
        inverse = 1.0 / frame.unit
        flip = 1.0 if frame.x_axis[0] > 0 else -1.0
        centres = [legs[i].mean(0) - frame.origin for i in range(1, len(legs), 2)]
        return [(float(c[0]) * inverse * flip - 0.02, -float(c[1]) * inverse + 0.1) for c in centres]

    def chest_front(self, layer: Layer, frame: Frame) -> None:
        """White and tan on a chest that faces us. frame: of the dog, its origin at the face."""
        k = self.skull
        if name := self.traits.mark("collar"):
            layer.polygon(frame(ellipse(0, -1.5 * k, 1.3 * k, 0.62 * k)), self.colour(name))
        for where in ("chest", "under"):
            if name := self.traits.mark(where):
                layer.polygon(self.fur(smooth(frame([(-0.4 * k, -0.8 * k), (0.4 * k, -0.8 * k), (0.5 * k, -1.6 * k), (0.25 * k, -3.2 * k), (-0.25 * k, -3.2 * k), (-0.5 * k, -1.6 * k)])), frame.unit, 1.0, 0.02), self.colour(name))  # fmt: skip
        if (name := self.traits.mark("points")) and not self.traits.mark("chest"):
            for side in (-1, 1):
                layer.polygon(
                    frame(ellipse(side * 0.42 * k, -1.75 * k, 0.22 * k, 0.2 * k, side * 0.5)), self.colour(name)
                )

    def band(self, frame: Frame, at: tuple[float, float]) -> None:
        """A collar to wear: any dog may have one, so that it says nothing about the breed."""
        colour = self.collar or (0, 0, 0)
        r = self.skull * 0.74
        strap = limb(
            frame([(at[0] - r, at[1] + r * 0.35), (at[0], at[1] - r * 0.1), (at[0] + r, at[1] - r * 0.5)]),
            [0.035 * frame.unit] * 3,
        )
        self.pen.polygon(_flat(strap), fill=colour)
        self.pen.polygon(_flat(frame(ellipse(at[0] + r * 0.75, at[1] - r * 0.62, 0.035))), fill=(226, 200, 110))

    def skirt(self, frame: Frame, u: Frame) -> Points:
        """Hair that hangs from the belly; to the ground with the longest coats."""
        hang = (self.hair - 0.35) * 0.62 if self.traits.coat != "corded" else 0.7
        low = max(0.02, self.leg - max(0.03, hang) + 0.02)
        floor = (low - self.leg) / self.depth
        return self.fur(smooth(u([(0.04, 0.45), (0.5, 0.5), (0.98, 0.45), (0.97, floor * 0.9), (0.7, floor), (0.45, floor), (0.2, floor * 0.9), (0.03, floor * 0.8)])), frame.unit, 1.0)  # fmt: skip

    def fur(self, outline: Points, unit: float, amount: float = 1.0, least: float = 0.0) -> Points:
        """The outline with tufts of this dog's coat; `least` gives the edge of a marking some raggedness on any coat."""
        spacing, short, long, hang = _FUR.get(self.traits.coat, (0.05, 0.0, 0.0, 0.0))
        length = max(least, (short + (long - short) * self.hair) * amount)
        if length == 0 or (self.traits.coat == "hairless" and least == 0):
            return outline
        if self.traits.coat == "curly":
            p = _resample(outline, spacing * unit / 4)
            scallop = np.array([0.0, 0.8, 1.0, 0.8])[np.arange(len(p)) % 4]
            return p + _normals(p) * (scallop * length * unit)[:, None]
        p = _resample(outline, spacing * unit * (1 + 0.4 * self.hair))
        r = self.rng.random(len(p))
        odd = np.arange(len(p)) % 2 == 1
        out = np.where(odd, length * (0.4 + 0.9 * r), -0.2 * length)
        tufts = p + _normals(p) * (out * unit)[:, None]
        tufts[:, 1] += np.where(odd, hang * length * unit * (0.4 + 0.8 * r), 0.0)
        return tufts

    def blob(self, frame: Frame, unit: float, x: float, y: float, rx: float, ry: float) -> Points:
        """An irregular round patch."""
        knots = ellipse(0, 0, rx, ry, n=8) * (0.75 + 0.5 * self.rng.random(8))[:, None] + [x, y]
        return self.fur(smooth(frame(knots)), unit, 1.0, 0.02)

    def all_over(self, layer: Layer, where: str, colour: Colour, unit: float) -> None:
        """Patterns that cover a whole layer: spots, ticks, roan, brindle, merle."""
        w, h = layer.size
        rng, corner = self.rng, layer.corner
        if where in ("spots", "ticks", "roan"):
            step, low, high, keep = {"spots": (0.115, 0.026, 0.05, 0.85), "ticks": (0.07, 0.007, 0.016, 0.8), "roan": (0.036, 0.006, 0.014, 0.95)}[where]  # fmt: skip
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

    def paste(self, layer: Layer, unit: float) -> None:
        """Ink, then hair and light, then onto the picture."""
        width = max(1.0, 0.013 * unit)
        for shape in layer.shapes:
            grown = _flat(shape + _normals(shape) * width)
            self.pen.polygon(grown, fill=self.ink)
            self.alpha_pen.polygon(grown, fill=255)
        layer.shade(0.3 * unit, Strokes(self.rng, layer, self.traits.coat, self.hair, unit))
        self.rgb.paste(layer.coat, (int(layer.corner[0]), int(layer.corner[1])), layer.mask)

    # --- heads: the unit is a skull's radius ---

    def head_side(self, h: Frame) -> None:
        """The head side-on, facing along x."""
        t, s, m = self.traits, self.snout, self.muzzle
        unit = h.unit / self.skull
        tip, bridge = 0.72 + s, 0.2
        stop = 0.4 if t.measure("muzzle") > 0.4 else 0.5  # fine heads have hardly any stop
        if "egg" in t.features:
            top = [(-0.1, 1.0), (0.5, 0.95), (0.72 + 0.3 * s, 0.8), (tip - 0.12, 0.38)]
        else:
            top = [(-0.1, 1.0), (0.45, 0.84), (0.74, stop), (0.74 + 0.35 * s, bridge + 0.1), (tip - 0.1, bridge)]
        chin = bridge - m * 1.12
        shape = smooth(h([(-0.95, 0.1), (-0.72, 0.72), *top, (tip + 0.03, 0.02), (tip, bridge - 0.62 * m), (tip - 0.14, chin), (0.72 + 0.3 * s, chin - 0.03), (0.34, -0.74), (-0.35, -0.86), (-0.88, -0.5)]))  # fmt: skip
        lip = bridge - (0.72 if "jowls" not in t.features else 0.62) * m
        shapes = [self.fur(shape, unit, 0.55)]
        if "jowls" in t.features:
            shapes.append(
                smooth(
                    h(
                        [
                            (0.55, -0.2),
                            (0.72 + 0.5 * s, -0.1),
                            (tip - 0.08, lip + 0.1),
                            (tip - 0.16, chin - 0.22),
                            (0.72 + 0.35 * s, chin - 0.34),
                            (0.5, -0.75),
                        ]
                    )
                )
            )
        if {"beard", "fringe"} & t.features:
            hang = 0.3 + 0.35 * self.hair
            shapes.append(
                self.fur(
                    smooth(
                        h(
                            [
                                (0.6, -0.05),
                                (0.74 + 0.5 * s, -0.05),
                                (tip - 0.1, -0.12),
                                (tip - 0.02, chin - 0.1),
                                (tip - 0.2, chin - hang),
                                (0.6 + 0.3 * s, chin - hang * 0.8),
                                (0.45, -0.72),
                            ]
                        )
                    ),
                    unit,
                    0.9,
                )
            )
        if t.features & {"topknot", "fringe", "crest"}:
            big = 0.55 if "topknot" in t.features else 0.4
            shapes.append(self.fur(smooth(h(ellipse(0.02, 0.72, 0.72, big))), unit, 1.0))
        far, near = (-0.02, 0.66), (-0.28, 0.6)
        if t.ears in _UPRIGHT:
            self.ear(h.inner(0.12, 0.72, self.ear_scale(), -0.12), _EARS_SIDE[t.ears], far=True)
        layer = Layer(shapes, self.head_colour)
        cheek = smooth(
            h(
                [
                    (0.5, 0.3),
                    (0.8 + 0.1 * s, 0.42 - 0.1 * s),
                    (tip + 0.3, 0.35),
                    (tip + 0.3, -1.9),
                    (0.55, -1.9),
                    (0.3, -0.7),
                ]
            )
        )
        eye = (0.42, 0.3)
        for where, name in t.marks:
            colour = self.colour(name)
            if where == "face":
                layer.soft(
                    [
                        smooth(
                            h(
                                [
                                    (0.2, 0.1),
                                    (0.55, 0.62),
                                    (0.8, 0.42),
                                    (tip + 0.4, 0.5),
                                    (tip + 0.3, -1.6),
                                    (-0.6, -1.4),
                                    (-0.5, -0.4),
                                ]
                            )
                        )
                    ],
                    colour,
                )
            elif where in ("mask", "muzzle"):
                layer.soft([cheek], colour, 0.92)
            elif where == "furnishings":
                layer.polygon(self.fur(cheek, unit, 0.6), colour)
                layer.polygon(self.fur(smooth(h(ellipse(0.1, 0.95, 0.75, 0.4))), unit, 0.6), colour)
            elif where == "blaze":
                layer.polygon(
                    smooth(
                        h(
                            [
                                (-0.1, 1.3),
                                (0.2, 0.86),
                                (0.66, 0.42),
                                (0.7, 0.05),
                                (0.7 + 0.2 * s, -0.5),
                                (tip * 0.8, -1.4),
                                (tip + 0.4, -1.0),
                                (tip + 0.4, 0.4),
                                (0.9, 1.2),
                            ]
                        )
                    ),
                    colour,
                )
            elif where == "points":
                layer.polygon(
                    smooth(
                        h(
                            [
                                (0.62, 0.02),
                                (0.8 + 0.4 * s, 0.06),
                                (tip + 0.2, -0.08),
                                (tip + 0.2, -1.5),
                                (0.5, -1.5),
                                (0.2, -0.6),
                                (0.4, -0.25),
                            ]
                        )
                    ),
                    colour,
                )
                layer.polygon(h(ellipse(0.5, 0.6, 0.12, 0.1, 0.4)), colour)
            elif where == "eyepatch":
                layer.polygon(smooth(h(ellipse(0.3, 0.36, 0.42, 0.44))), colour)
            elif where == "sable":
                layer.soft([h(ellipse(-0.1, 0.85, 0.8, 0.4))], colour, 0.4)
            else:
                self.all_over(layer, where, colour, unit * 0.8)
        wrinkle = mix(self.head_colour, self.ink, 0.5)
        if "wrinkles" in t.features:
            for k in range(3):
                layer.line(
                    smooth(
                        h(
                            [
                                (0.25 + 0.12 * k, 0.95 - 0.1 * k),
                                (0.42 + 0.1 * k, 0.66 - 0.06 * k),
                                (0.6 + 0.06 * k, 0.62 - 0.1 * k),
                                (0.5, 0.8),
                            ]
                        )
                    )[:12],
                    wrinkle,
                    0.045 * h.unit,
                )
            layer.line(h([(0.5, 0.08), (0.62, -0.12), (0.56, -0.5)]), wrinkle, 0.05 * h.unit)
        self.paste(layer, unit)
        mouth = smooth(
            h(
                [
                    (tip - 0.02, bridge - 0.4 * m),
                    (tip - 0.1, lip),
                    (0.72 + 0.45 * s, lip - 0.05),
                    (0.56, lip - 0.02),
                    (0.45, lip + 0.1),
                ]
            )
        )[: 4 * _STEPS]
        if self.tongue_out:
            self.tongue(h.inner(0.74 + 0.5 * s, lip - 0.02), 0.16)
        shown = {"beard", "fringe"}.isdisjoint(t.features)
        if shown:
            self.pen.line(
                _flat(mouth), fill=mix(self.ink, (60, 30, 30), 0.3), width=max(1, round(0.05 * h.unit)), joint="curve"
            )
        self.pen.polygon(
            _flat(
                smooth(
                    h(
                        [
                            (tip - 0.16, bridge + 0.03),
                            (tip + 0.02, bridge + 0.04),
                            (tip + 0.1, 0.08),
                            (tip + 0.02, -0.08),
                            (tip - 0.1, -0.02),
                        ]
                    )
                )
            ),
            fill=self.nose,
        )
        self.alpha_pen.polygon(
            _flat(
                smooth(
                    h(
                        [
                            (tip - 0.16, bridge + 0.03),
                            (tip + 0.02, bridge + 0.04),
                            (tip + 0.1, 0.08),
                            (tip + 0.02, -0.08),
                            (tip - 0.1, -0.02),
                        ]
                    )
                )
            ),
            fill=255,
        )
        self.pen.polygon(_flat(h(ellipse(tip, 0.15, 0.04, 0.025))), fill=mix(self.nose, (255, 255, 255), 0.6))
        if "fringe" not in t.features:
            self.eye(h.inner(*eye), 0.13 + 0.03 * max(0.0, 0.4 - self.leg), 0.8)
        if {"brows", "fringe"} & t.features:
            tuft = smooth(
                h([(0.2, 0.62), (0.5, 0.72), (0.78, 0.5), (0.72, 0.3), (0.52, 0.4), (0.3, 0.42)])
                if "brows" in t.features
                else h([(-0.1, 0.9), (0.5, 0.95), (0.85, 0.4), (0.72, 0.0), (0.4, 0.05), (0.1, 0.3)])
            )
            colour = self.colour(t.mark("furnishings") or t.mark("face") or t.mark("head") or t.colour)
            self.paste(Layer([self.fur(tuft, unit, 0.9, 0.02)], colour), unit)
        self.ear(h.inner(*(near if t.ears in _UPRIGHT else (-0.3, 0.55)), self.ear_scale()), _EARS_SIDE[t.ears])

    def head_front(self, h: Frame) -> None:
        """The face turned to us."""
        t = self.traits
        s, m, bulk = min(1.0, self.snout / 1.5), self.muzzle, t.measure("bulk")
        unit = h.unit / self.skull
        wide, low = 0.82 + 0.16 * bulk + 0.14 * t.measure("muzzle"), -(0.72 + 0.5 * s)
        jaw = 0.24 + 0.46 * m
        right = [
            (0.5, 0.93),
            (wide * 0.95, 0.45),
            (wide * (0.98 - 0.12 * s), -0.12),
            (jaw + 0.2 * (1 - s), -0.5),
            (jaw * 0.92, low * 0.78),
        ]
        if "egg" in t.features:
            right = [(0.45, 0.95), (0.8, 0.5), (0.82, -0.1), (0.7, -0.6), (0.52, low * 0.85)]
        shape = smooth(h([(0.0, 1.0), *right, (0.0, low), *[(-x, y) for x, y in reversed(right)]]))
        nose_y = -0.22 - 0.42 * s
        shapes = [self.fur(shape, unit, 0.55)]
        if "jowls" in t.features:
            shapes += [
                smooth(
                    h(
                        [
                            (k * 0.05, nose_y),
                            (k * jaw, nose_y + 0.05),
                            (k * (jaw + 0.18), low * 0.9),
                            (k * (jaw * 0.8), low - 0.26),
                            (k * 0.12, low - 0.02),
                        ]
                    )
                )
                for k in (-1, 1)
            ]
        if {"beard", "fringe"} & t.features:
            hang = 0.25 + 0.4 * self.hair
            shapes.append(
                self.fur(
                    smooth(
                        h(
                            [
                                (-0.3, nose_y + 0.2),
                                (0.3, nose_y + 0.2),
                                (jaw + 0.22, nose_y - 0.1),
                                (jaw + 0.12, low - 0.1),
                                (0, low - hang),
                                (-jaw - 0.12, low - 0.1),
                                (-jaw - 0.22, nose_y - 0.1),
                            ]
                        )
                    ),
                    unit,
                    0.9,
                )
            )
        if t.features & {"topknot", "fringe", "crest"}:
            shapes.append(
                self.fur(smooth(h(ellipse(0, 0.72, 0.85, 0.6 if "topknot" in t.features else 0.45))), unit, 1.0)
            )
        if t.features & {"ruff"} or (t.coat == "dense" and t.hair >= 5):
            shapes.append(self.fur(smooth(h(ellipse(0, -0.25, wide + 0.2, 0.85))), unit, 1.0))
        upright = t.ears in _UPRIGHT
        roots = [
            (
                k,
                h.inner(k * 0.56, 0.68)
                if upright or t.ears == "button"
                else h.inner(k * 0.68, 0.66 if t.ears != "long" else 0.5),
            )
            for k in (-1, 1)
        ]
        ears = [
            (Frame(f.origin, f.x_axis * k * self.ear_scale(), f.y_axis * self.ear_scale()), _EARS_FRONT[t.ears])
            for k, f in roots
        ]
        if upright:
            for place, knots in ears:
                self.ear(place, knots, inside=True)
        layer = Layer(shapes, self.head_colour)
        snout = smooth(
            h(
                [
                    (0, nose_y + 0.42),
                    (jaw * 0.75, nose_y + 0.24),
                    (jaw + 0.1, nose_y - 0.15),
                    (jaw + 0.1, low - 0.4),
                    (0, low - 1.0),
                    (-jaw - 0.1, low - 0.4),
                    (-jaw - 0.1, nose_y - 0.15),
                    (-jaw * 0.75, nose_y + 0.24),
                ]
            )
        )
        for where, name in t.marks:
            colour = self.colour(name)
            if where == "face":
                layer.soft(
                    [
                        smooth(
                            h(
                                [
                                    (0, 0.55),
                                    (0.3, 0.3),
                                    (0.62, 0.5),
                                    (1.1, 0.1),
                                    (1.1, -1.2),
                                    (0, -2.2),
                                    (-1.1, -1.2),
                                    (-1.1, 0.1),
                                    (-0.62, 0.5),
                                    (-0.3, 0.3),
                                ]
                            )
                        )
                    ],
                    colour,
                )
            elif where in ("mask", "muzzle"):
                layer.soft([snout], colour, 0.95)
            elif where == "furnishings":
                layer.polygon(self.fur(snout, unit, 0.6), colour)
                layer.polygon(self.fur(smooth(h(ellipse(0, 1.05, 0.8, 0.42))), unit, 0.6), colour)
            elif where == "blaze":
                layer.polygon(
                    smooth(
                        h(
                            [
                                (0, 1.3),
                                (0.14, 0.9),
                                (0.1, 0.3),
                                (0.2, nose_y + 0.3),
                                (jaw * 0.8, nose_y),
                                (jaw * 0.8, low),
                                (0, low - 0.8),
                                (-jaw * 0.8, low),
                                (-jaw * 0.8, nose_y),
                                (-0.2, nose_y + 0.3),
                                (-0.1, 0.3),
                                (-0.14, 0.9),
                            ]
                        )
                    ),
                    colour,
                )
            elif where == "points":
                for k in (-1, 1):
                    layer.polygon(h(ellipse(k * 0.36, 0.46, 0.13, 0.1, k * -0.3)), colour)
                    layer.polygon(
                        smooth(
                            h(
                                [
                                    (k * 0.2, nose_y + 0.02),
                                    (k * 0.5, nose_y + 0.12),
                                    (k * 0.85, -0.3),
                                    (k * 0.75, low),
                                    (k * 0.2, low - 0.7),
                                    (k * 0.04, low),
                                ]
                            )
                        ),
                        colour,
                    )
            elif where == "eyepatch":
                layer.polygon(smooth(h(ellipse(0.42, 0.18, 0.36, 0.42))), colour)
            elif where == "sable":
                layer.soft([h(ellipse(0, 0.9, 0.8, 0.35))], colour, 0.45)
            else:
                self.all_over(layer, where, colour, unit * 0.8)
        wrinkle = mix(self.head_colour, self.ink, 0.5)
        if "wrinkles" in t.features:
            for k in (-1, 1):
                layer.line(
                    smooth(h([(k * 0.08, 0.4), (k * 0.2, 0.62), (k * 0.42, 0.6), (k * 0.3, 0.9)]))[:15],
                    wrinkle,
                    0.045 * h.unit,
                )
                layer.line(
                    smooth(h([(k * 0.12, 0.62), (k * 0.26, 0.78), (k * 0.5, 0.74), (k * 0.3, 0.9)]))[:15],
                    wrinkle,
                    0.04 * h.unit,
                )
                layer.line(
                    h([(k * 0.22, nose_y + 0.26), (k * (jaw + 0.05), nose_y), (k * (jaw + 0.14), low * 0.75)]),
                    wrinkle,
                    0.045 * h.unit,
                )
        self.paste(layer, unit)
        bare = {"beard", "fringe"}.isdisjoint(t.features)
        muzzle = (
            Layer(
                [
                    self.fur(
                        smooth(h(ellipse(0, (nose_y + low) / 2 + 0.08, jaw * 0.95, (nose_y - low) / 2 + 0.2))),
                        unit,
                        0.3,
                    )
                ],
                (128, 128, 128),
            )
            if bare
            else None
        )
        if muzzle:  # a gentle light on the snout, so that it comes forward
            glow = (
                muzzle.mask.reduce(4)
                .filter(ImageFilter.GaussianBlur(max(1.0, 0.02 * unit)))
                .point([v // 7 for v in range(256)])
            )
            self.rgb.paste(
                (255, 246, 232),
                (int(muzzle.corner[0]), int(muzzle.corner[1])),
                glow.resize(muzzle.size, Image.Resampling.BILINEAR),
            )
        nose = 0.2 + 0.1 * m
        if self.tongue_out:
            self.tongue(h.inner(0.0, low + 0.16), 0.17)
        ink, width = mix(self.ink, (50, 26, 28), 0.3), max(1, round(0.045 * h.unit))
        self.pen.line(_flat(h([(0, nose_y - 0.1), (0, nose_y - 0.32)])), fill=ink, width=width)
        for k in (-1, 1):
            self.pen.line(
                _flat(
                    smooth(
                        h(
                            [
                                (0, nose_y - 0.3),
                                (k * jaw * 0.3, nose_y - 0.44),
                                (k * jaw * 0.62, nose_y - 0.4),
                                (k * jaw * 0.8, nose_y - 0.26),
                            ]
                        )
                    )[: 3 * _STEPS]
                ),
                fill=ink,
                width=width,
                joint="curve",
            )
        self.pen.polygon(
            _flat(
                smooth(
                    h(
                        [
                            (-nose, nose_y + 0.1),
                            (0, nose_y + 0.15),
                            (nose, nose_y + 0.1),
                            (nose * 0.7, nose_y - 0.08),
                            (0, nose_y - 0.16),
                            (-nose * 0.7, nose_y - 0.08),
                        ]
                    )
                )
            ),
            fill=self.nose,
        )
        self.pen.polygon(
            _flat(h(ellipse(-nose * 0.35, nose_y + 0.07, 0.07, 0.03))), fill=mix(self.nose, (255, 255, 255), 0.55)
        )
        for k in (-1, 1):
            if "fringe" not in t.features or (k == 1 and self.rng.random() < 0.5):
                self.eye(h.inner(k * (0.36 + 0.05 * bulk), 0.16), 0.145 + 0.05 * max(0.0, 0.5 - self.leg), 1.0)
            if {"brows", "fringe"} & t.features:
                tuft = (
                    [(k * 0.1, 0.3), (k * 0.18, 0.52), (k * 0.5, 0.56), (k * 0.72, 0.3), (k * 0.5, 0.34)]
                    if "brows" in t.features
                    else [(k * 0.02, 0.9), (k * 0.6, 0.8), (k * 0.75, 0.1), (k * 0.45, -0.1), (k * 0.08, 0.0)]
                )
                colour = self.colour(t.mark("furnishings") or t.mark("face") or t.mark("head") or t.colour)
                self.paste(Layer([self.fur(smooth(h(tuft)), unit, 0.9, 0.02)], colour), unit)
        if not upright:
            for place, knots in ears:
                self.ear(place, knots)
        if "drape" in t.features:
            for k in (-1, 1):
                fall = smooth(
                    h(
                        [
                            (k * 0.02, 1.05),
                            (k * 0.6, 0.95),
                            (k * 1.05, 0.2),
                            (k * 1.1, -1.3),
                            (k * 0.8, -1.4),
                            (k * 0.72, 0.1),
                            (k * 0.3, 0.7),
                        ]
                    )
                )
                self.paste(Layer([self.fur(fall, unit, 0.5)], self.head_colour), unit)

    def ear_scale(self) -> float:
        return 0.45 + 0.11 * self.traits.ear_size

    def ear(self, place: Frame, knots: list[tuple[float, float]], far: bool = False, inside: bool = False) -> None:
        """place: its origin at the root of the ear."""
        unit = place.unit / self.skull / self.ear_scale()
        colour = mix(self.ear_colour, (24, 18, 26), 0.3) if far else mix(self.ear_colour, self.ink, 0.12)
        hairy = 1.1 if self.traits.ears in ("long", "butterfly") else 0.35
        outline = smooth(place(knots))
        layer = Layer([self.fur(outline, unit, hairy)], colour)
        for where, name in self.traits.marks:
            if where in ("spots", "merle", "roan", "brindle", "ticks") and not self.traits.mark("head"):
                self.all_over(layer, where, self.colour(name), unit * 0.7)
        if inside:
            middle = outline.mean(0) * 0.55 + place.origin * 0.45
            layer.soft([middle + (outline - middle) * 0.5], mix(colour, (226, 150, 140), 0.55), 0.8)
        self.paste(layer, unit)

    def eye(self, place: Frame, r: float, wide: float) -> None:
        """A dark eye with a light in it."""
        x, y = place.origin
        unit = place.unit
        dark = sum(self.head_colour) < 300
        for rx, ry, colour in (
            (
                r * 1.22 * wide,
                r * 1.12,
                mix(self.head_colour, (255, 250, 240), 0.35) if dark else mix(self.ink, (20, 10, 10), 0.4),
            ),
            (r * wide, r * 0.95, (98, 58, 32)),
            (r * 0.72 * wide, r * 0.72, (18, 14, 18)),
        ):
            self.pen.polygon(_flat(ellipse(x, y, rx * unit, ry * unit)), fill=colour)
        self.pen.polygon(
            _flat(ellipse(x - 0.3 * r * unit, y - 0.34 * r * unit, 0.3 * r * unit, n=12)), fill=(255, 255, 255)
        )

    def tongue(self, place: Frame, r: float) -> None:
        shape = smooth(place([(-r, 0.08), (r, 0.08), (r * 0.95, -r * 1.4), (0, -r * 2.1), (-r * 0.95, -r * 1.4)]))
        self.pen.polygon(_flat(shape), fill=(222, 108, 116))
        self.alpha_pen.polygon(_flat(shape), fill=255)
        self.pen.line(
            _flat(place([(0, 0.0), (0, -r * 1.3)])), fill=(186, 78, 90), width=max(1, round(0.03 * place.unit))
        )


_COLLARS: tuple[Colour, ...] = (
    (196, 44, 48),
    (38, 96, 172),
    (52, 132, 84),
    (232, 168, 44),
    (128, 70, 148),
    (40, 40, 46),
)
