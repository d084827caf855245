"""Drawn dogs: build and pose, from the traits of a breed.

A dog is built in its own coordinates: x forward, y up, the ground at 0, the withers of a Labrador at about 1.3. A
`Frame` takes points from there to pixels.
"""
# fmt: off: knots of curves read as shapes, several to a line

import numpy as np

from dogbreed.drawn.brush import Frame, Layer, Points, ellipse, flat, limb, mix, smooth
from dogbreed.drawn.head import UPRIGHT, HeadPainter
from dogbreed.drawn.traits import Colour, Traits

POSES = ("stand", "look", "sit", "portrait")  # side-on; side-on, facing us; sitting; head and chest, facing us

_COLLARS: tuple[Colour, ...] = (
    (196, 44, 48),
    (38, 96, 172),
    (52, 132, 84),
    (232, 168, 44),
    (128, 70, 148),
    (40, 40, 46),
)


class Dog(HeadPainter):
    """One dog: its build with a little individual variation, and the poses it can be drawn in."""

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
                ]
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
                ]
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
        self.pen.line(flat(thigh[8:64]), fill=pen_ink, width=max(1, round(0.012 * frame.unit)), joint="curve")
        tilt = (rng.random() - 0.4) * 0.3
        if front:
            self.head_front(frame.inner(hx, hy + 0.05, self.skull * 1.06, tilt))
        else:
            self.head_side(frame.inner(hx, hy, self.skull, tilt))

    def portrait(self, frame: Frame) -> None:
        """Head and chest, facing us. The frame's unit is a skull; its origin the middle of the face."""
        width = 0.95 + 0.6 * self.traits.measure("bulk") + 0.35 * self.hair
        bust = smooth(
            frame(
                [
                    (-0.62, 0.1),
                    (0.62, 0.1),
                    (0.78, -0.8),
                    (width, -1.7),
                    (width + 0.15, -3.4),
                    (-width - 0.15, -3.4),
                    (-width, -1.7),
                    (-0.78, -0.8),
                ]
            )
        )
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
        if self.traits.ears in UPRIGHT:
            up = 0.95 + 0.85 * (0.48 + 0.085 * self.traits.ear_size)
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
        return smooth(
            frame(
                [
                    (x - k * 0.9, y + 0.02),
                    (x - k * 0.7, y + k * 1.1),
                    (x + k * 0.5, y + k * 1.25),
                    (x + k * 1.7, y + k * 0.75),
                    (x + k * 1.75, y + 0.01),
                    (x + k * 0.4, y - 0.01),
                ]
            )
        )

    def far_legs(self, frame: Frame, shapes: list[Points]) -> None:
        colour = mix(self.base, (24, 18, 26), 0.3)
        layer = Layer([self.fur(s, frame.unit, 0.7) if i % 2 == 0 else s for i, s in enumerate(shapes)], colour)
        self.leg_marks(layer, frame, shade=0.3)
        self.paste(layer, frame.unit, shaded=False)  # they are in the shade as it is

    def leg_marks(self, layer: Layer, frame: Frame, shade: float = 0.0, behind: float = 1.0) -> None:
        """White socks and feet, tan points. behind: how far up the hind legs, as a share; 0 when sitting."""
        for where, height in (("points", 0.62), ("socks", 0.62), ("feet", 0.0), ("furnishings", 0.8)):
            if name := self.traits.mark(where):
                y = max(0.13, height * self.leg)
                back = max(0.09, y * behind)
                edge = [
                    (-2.0, back),
                    (-0.5, back * 0.94),
                    (-0.02, back),
                    (0.04, y),
                    (2.0, y * 1.05),
                    (2.0, -0.3),
                    (-2.0, -0.3),
                ]
                layer.polygon(self.fur(frame(edge), frame.unit, 0.8), mix(self.colour(name), (24, 18, 26), shade))

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
            "plume": (
                [(0.06, 0), (-0.14, 0.08), (-0.28, 0.26 + wag * 0.4), (-0.3, 0.46 + wag * 0.5)],
                [1.4, 2.0, 2.6, 1.0],
            ),
            "flag": (
                [(0.08, 0), (-0.14, 0.0), (-0.3, 0.0 + wag * 0.7), (-0.46, 0.06 + wag * 1.4)],
                [1.3, 1.9, 2.3, 0.5],
            ),
            "brush": ([(0.08, 0), (-0.08, -0.1), (-0.16, -0.34), (-0.24 + wag * 0.3, -0.52)], [1.7, 2.2, 2.4, 0.8]),
            "pompom": ([(0.06, 0), (-0.06, 0.14), (-0.1, 0.3)], [1.0, 0.9, 0.8]),
        }
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
        self, frame: Frame, u: Frame, shapes: list[Points], legs: list[Points], neck_at: tuple[float, float] | None
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
                layer.polygon(
                    self.fur(
                        smooth(
                            u(
                                [
                                    (0.0, 0.72),
                                    (0.05, 1.25),
                                    (0.6, 1.3),
                                    (0.9, 1.2),
                                    (0.84, 0.8),
                                    (0.62, 0.5),
                                    (0.32, 0.46),
                                    (0.12, 0.5),
                                ]
                            )
                        ),
                        unit,
                        1.0,
                        0.03,
                    ),
                    colour,
                )
            elif where == "blanket":
                layer.polygon(
                    self.fur(
                        smooth(
                            u(
                                [
                                    (-0.14, 1.2),
                                    (-0.14, 0.5),
                                    (0.1, 0.3),
                                    (0.4, 0.4),
                                    (0.68, 0.28),
                                    (0.82, 0.6),
                                    (0.98, 1.4),
                                    (0.5, 1.5),
                                ]
                            )
                        ),
                        unit,
                        1.0,
                        0.03,
                    ),
                    colour,
                )
            elif where == "under":
                layer.soft(
                    [
                        smooth(
                            u(
                                [
                                    (0.05, 0.3),
                                    (0.4, 0.2),
                                    (0.75, 0.28),
                                    (0.95, 0.75),
                                    (1.2, 1.05),
                                    (1.3, 0.4),
                                    (1.0, -0.4),
                                    (0.5, -0.5),
                                    (0, -0.3),
                                ]
                            )
                        )
                    ],
                    colour,
                    0.9,
                )
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
                layer.polygon(
                    self.fur(
                        smooth(
                            frame(
                                [
                                    (x - self.skull * 1.5, y - 0.1),
                                    (x + 0.1, y + 0.1),
                                    (x + self.skull * 1.2, y - self.skull),
                                    (self.length * 0.56, self.top - self.depth * 0.2),
                                    (self.length * 0.46, self.top - self.depth * 0.42),
                                    (self.length * 0.33, self.top - self.depth * 0.05),
                                ]
                            )
                        ),
                        unit,
                        1.0,
                        0.02,
                    ),
                    colour,
                )
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
            self.leg_marks(layer, frame, behind=1.0 if len(legs) > 2 else 0.0)
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
                layer.polygon(
                    self.fur(
                        smooth(
                            frame(
                                [
                                    (-0.4 * k, -0.8 * k),
                                    (0.4 * k, -0.8 * k),
                                    (0.5 * k, -1.6 * k),
                                    (0.25 * k, -3.2 * k),
                                    (-0.25 * k, -3.2 * k),
                                    (-0.5 * k, -1.6 * k),
                                ]
                            )
                        ),
                        frame.unit,
                        1.0,
                        0.02,
                    ),
                    self.colour(name),
                )
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
        self.pen.polygon(flat(strap), fill=colour)
        self.pen.polygon(flat(frame(ellipse(at[0] + r * 0.75, at[1] - r * 0.62, 0.035))), fill=(226, 200, 110))

    def skirt(self, frame: Frame, u: Frame) -> Points:
        """Hair that hangs from the belly; to the ground with the longest coats."""
        hang = (self.hair - 0.35) * 0.62 if self.traits.coat != "corded" else 0.7
        low = max(0.02, self.leg - max(0.03, hang) + 0.02)
        floor = (low - self.leg) / self.depth
        return self.fur(
            smooth(
                u(
                    [
                        (0.04, 0.45),
                        (0.5, 0.5),
                        (0.98, 0.45),
                        (0.97, floor * 0.9),
                        (0.7, floor),
                        (0.45, floor),
                        (0.2, floor * 0.9),
                        (0.03, floor * 0.8),
                    ]
                )
            ),
            frame.unit,
            1.0,
        )
