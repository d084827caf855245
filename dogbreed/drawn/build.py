"""Build dogs from the traits of a breed: their proportions, legs and tail.

A dog is built in its own coordinates: x forward, y up, the ground at 0, the withers of a Labrador at about 1.3. A
`Frame` maps them to pixels.
"""

import numpy as np

from dogbreed.drawn.brush import Frame, Layer, Points, ellipse, limb, mix
from dogbreed.drawn.head import UPRIGHT, HeadPainter
from dogbreed.drawn.traits import Colour, Traits

_SHADE: Colour = (24, 18, 26)  # mixed into the colours of the far side
_COLLARS: tuple[Colour, ...] = (
    (196, 44, 48), (38, 96, 172), (52, 132, 84), (232, 168, 44), (128, 70, 148), (40, 40, 46),
)  # fmt: skip


class Build(HeadPainter):
    """One dog, with a little individual variation: the size and position of each part, and its limbs."""

    def __init__(self, traits: Traits, rng: np.random.Generator, size: tuple[int, int]) -> None:
        super().__init__(traits, rng, size)
        each = (0.95 + 0.1 * rng.random(5)).tolist()
        self.leg = (0.19 + 0.92 * traits.measure("legs")) * each[0]
        self.length = (0.85 + 1.05 * traits.measure("long")) * each[1]
        self.depth = (0.42 + 0.38 * traits.measure("deep")) * each[2]
        self.tuck = 0.6 * traits.measure("tuck")
        self.thick = (0.052 + 0.075 * traits.measure("bulk")) * each[3]
        self.neck = (0.12 + 0.42 * traits.measure("neck")) * each[4]
        self.top = self.leg + self.depth  # height of the withers
        worn = rng.random(2).tolist()
        self.collar = None if worn[0] < 0.62 else _COLLARS[int(worn[1] * len(_COLLARS))]

    def head_place(self, pose: str) -> tuple[float, float]:
        """Return the center of the skull."""
        length = self.length * (0.86 if pose == "sit" else 1.0)
        top = max(self.top, 0.85 * length) if pose == "sit" else self.top
        x = length * (0.26 if pose == "sit" else 0.42)
        return x + self.neck * 0.62 + self.skull * 0.25, top + self.neck * 0.72 + self.skull * 0.42

    def extent(self, pose: str) -> tuple[float, float, float, float]:
        """Return the approximate left, bottom, right, top of the dog in its own coordinates."""
        up = 1.15
        if self.traits.ears in UPRIGHT:
            up = 0.95 + 0.85 * (0.48 + 0.085 * self.traits.ear_size)
        if pose == "portrait":
            return -1.5, -1.55 - 0.3 * self.snout, 1.5, up + 0.15
        x, y = self.head_place(pose)
        tail = {"docked": 0.02, "stub": 0.1, "curl": 0.08, "pompom": 0.2}.get(self.traits.tail, 0.36)
        right = x + self.skull * (1.2 if pose == "look" else 0.9 + self.snout)
        return -self.length * 0.5 - tail, -0.04, max(right, self.length * 0.55), y + self.skull * up

    def foreleg(self, frame: Frame, x: float, stride: float) -> list[Points]:
        """Return the outlines of a foreleg and its paw. x: of its top. stride: how far the paw is ahead."""
        k, leg, unit = self.thick, self.leg, frame.unit
        lift = max(0.0, -stride) * 0.12
        centre = [
            (x - 0.02, leg + self.depth * 0.42), (x - 0.03 + stride * 0.1, leg),
            (x + stride * 0.5, leg * 0.48 + lift), (x + stride * 0.85, 0.08 + lift),
        ]  # fmt: skip
        shape = limb(frame(centre), [k * 1.7 * unit, k * 1.25 * unit, k * 0.95 * unit, k * 0.85 * unit])
        return [shape, self.paw(frame, x + stride * 0.85, lift)]

    def hindleg(self, frame: Frame, x: float, stride: float) -> list[Points]:
        k, leg, unit, depth = self.thick, self.leg, frame.unit, self.depth
        lift = max(0.0, -stride) * 0.12
        back = 0.16 * min(1.0, leg + 0.2)
        centre = [
            (x, leg + depth * 0.5), (x + 0.06 + stride * 0.2, leg * 0.92),
            (x - back * 0.75 + stride * 0.6, leg * 0.42 + lift), (x - back * 0.55 + stride * 0.9, 0.08 + lift),
        ]  # fmt: skip
        radii = [(0.2 * depth + k * 1.4) * unit, (0.12 * depth + k) * unit, k * 0.85 * unit, k * 0.8 * unit]
        return [limb(frame(centre), radii), self.paw(frame, x - back * 0.55 + stride * 0.9, lift)]

    def paw(self, frame: Frame, x: float, y: float) -> Points:
        k = self.thick
        return frame.curve([
            (x - k * 0.9, y + 0.02), (x - k * 0.7, y + k * 1.1), (x + k * 0.5, y + k * 1.25),
            (x + k * 1.7, y + k * 0.75), (x + k * 1.75, y + 0.01), (x + k * 0.4, y - 0.01),
        ])  # fmt: skip

    def far_legs(self, frame: Frame, shapes: list[Points]) -> None:
        """Paint the legs on the far side. shapes: a leg, its paw, another leg, ..."""
        layer = Layer(self.furry_legs(shapes, frame.unit), mix(self.base, _SHADE, 0.3))
        self.leg_marks(layer, frame, shade=0.3)
        self.paste(layer, frame.unit, shaded=False)  # they are in the shade as it is

    def furry_legs(self, shapes: list[Points], unit: float) -> list[Points]:
        """Return legs with hair, and their paws without. shapes: a leg, its paw, another leg, ..."""
        return [self.fur(shape, unit, 0.7) if i % 2 == 0 else shape for i, shape in enumerate(shapes)]

    def leg_marks(self, layer: Layer, frame: Frame, shade: float = 0.0, behind: float = 1.0) -> None:
        """Paint white socks and feet, tan points. behind: how far up the hind legs, as a share; 0 when sitting."""
        for where, height in (("points", 0.62), ("socks", 0.62), ("feet", 0.0), ("furnishings", 0.8)):
            if name := self.traits.mark(where):
                y = max(0.13, height * self.leg)
                back = max(0.09, y * behind)
                edge = [
                    (-2.0, back), (-0.5, back * 0.94), (-0.02, back), (0.04, y), (2.0, y * 1.05), (2.0, -0.3),
                    (-2.0, -0.3),
                ]  # fmt: skip
                layer.polygon(self.fur(frame(edge), frame.unit, 0.8), mix(self.colour(name), _SHADE, shade))

    def tail(self, frame: Frame, root: tuple[float, float], *, lies: bool) -> None:
        """Paint the tail. lies: it lies on the ground, because the dog sits."""
        kind, hair = self.traits.tail, self.hair
        if kind == "docked":
            return
        wag = (self.rng.random() - 0.5) * 0.25
        knots, radii = _tails(wag)[kind]
        if lies and kind not in ("curl", "stub", "pompom", "sickle"):
            knots = [(0.08, 0.0), (-0.1, -0.03), (-0.26, -0.05), (-0.42, -0.03 + 0.06 * wag)]
        scale = 0.75 + 0.35 * min(1.0, self.top) + (0.15 * hair if kind == "curl" else 0)
        thin = 0.028 + 0.25 * self.thick
        if kind in ("plume", "flag", "brush", "curl"):
            thin *= 0.8 + 0.75 * hair
        place = frame.inner(*root, scale)
        shapes = [self.fur(limb(place(knots), [r * thin * place.unit for r in radii]), frame.unit, 1.2)]
        if kind == "pompom":
            shapes.append(self.fur(place(ellipse(*knots[-1], 0.115)), frame.unit, 1.4))
        colour = self.base
        for where in ("patches", "blanket", "saddle"):
            if name := self.traits.mark(where):
                colour = self.colour(name)
        layer = Layer(shapes, colour)
        if name := self.traits.mark("sable"):
            layer.soft([place(ellipse(*knots[-1], 0.16))], self.colour(name), 0.7)
        if name := self.traits.mark("tip"):
            layer.polygon(place(ellipse(*knots[-1], 0.11)), self.colour(name))
        self.paste(layer, frame.unit)


def _tails(wag: float) -> dict[str, tuple[list[tuple[float, float]], list[float]]]:
    """Return the center line of each kind of tail, from its root at (0, 0), and the radii at its knots."""
    return {
        "stub": ([(0.06, 0), (-0.02, 0.07), (-0.06, 0.14 + wag * 0.2)], [1.3, 1.1, 0.8]),
        "whip": ([(0.08, 0), (-0.14, -0.04), (-0.3, -0.12 + wag), (-0.44, -0.08 + wag * 2)], [1.4, 0.9, 0.6, 0.3]),
        "otter": ([(0.08, 0), (-0.14, -0.03), (-0.3, -0.06 + wag), (-0.44, 0.0 + wag * 1.6)], [2.2, 1.9, 1.4, 0.7]),
        "sickle": ([(0.06, 0), (-0.1, 0.12), (-0.16, 0.32), (-0.08 + wag * 0.5, 0.5)], [1.5, 1.2, 0.9, 0.5]),
        "curl": ([(-0.02, -0.02), (-0.12, 0.16), (0.0, 0.3), (0.15, 0.24), (0.14, 0.1)], [1.6, 1.7, 1.7, 1.5, 0.9]),
        "plume": (
            [(0.06, 0), (-0.14, 0.08), (-0.28, 0.26 + wag * 0.4), (-0.3, 0.46 + wag * 0.5)],
            [1.4, 2.0, 2.6, 1.0],
        ),
        "flag": ([(0.08, 0), (-0.14, 0.0), (-0.3, 0.0 + wag * 0.7), (-0.46, 0.06 + wag * 1.4)], [1.3, 1.9, 2.3, 0.5]),
        "brush": ([(0.08, 0), (-0.08, -0.1), (-0.16, -0.34), (-0.24 + wag * 0.3, -0.52)], [1.7, 2.2, 2.4, 0.8]),
        "pompom": ([(0.06, 0), (-0.06, 0.14), (-0.1, 0.3)], [1.0, 0.9, 0.8]),
    }
