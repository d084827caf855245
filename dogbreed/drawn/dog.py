"""Draw dogs in their poses."""

from dogbreed.drawn.body import paint_body
from dogbreed.drawn.brush import Frame, Points, ellipse, flat, limb, mix
from dogbreed.drawn.build import Build
from dogbreed.drawn.face import paint_face
from dogbreed.drawn.profile import paint_profile

POSES = ("stand", "look", "sit", "portrait")  # side-on; side-on, facing the viewer; sitting; head and chest


class Dog(Build):
    """One dog, and the poses it can be drawn in. Frames are in the dog's own coordinates, as `build` has them."""

    def stand(self, frame: Frame, front: bool) -> None:
        """Draw it side-on, on four legs, walking or standing; with `front` it faces the viewer."""
        length, top, leg, depth = self.length, self.top, self.leg, self.depth
        stride = (self.rng.random() * 0.5 - 0.12) * min(1.0, leg * 1.6)
        drop = 0.1 * depth if "slope" in self.traits.features else 0.0
        arch = 0.1 * depth if "arch" in self.traits.features else 0.0
        u = Frame(frame([-length / 2, leg])[0], frame.x_axis * length, frame.y_axis * depth)
        trunk = u.curve([
            (0.93, 1.02), (0.78, 1.05), (0.5, 0.97 + arch), (0.25, 0.99 + arch - drop / depth),
            (0.07, 0.94 - drop / depth), (-0.02, 0.7 - drop / depth), (0.02, 0.4), (0.2, 0.12 + self.tuck),
            (0.45, 0.02 + 0.45 * self.tuck), (0.72, -0.03), (0.93, 0.14), (1.02, 0.5), (1.0, 0.82),
        ])  # fmt: skip
        hx, hy = self.head_place("stand")
        root, bend = (length * 0.32, top - depth * 0.32), length * 0.4 + (hx - length * 0.4) * 0.4
        neck = self._neck(frame, root, bend, top, depth * 0.42, (hx, hy))
        far = [*self.foreleg(frame, length * 0.3, -stride), *self.hindleg(frame, -length * 0.36, stride * 0.8)]
        near = [*self.foreleg(frame, length * 0.34, stride), *self.hindleg(frame, -length * 0.4, -stride * 0.8)]
        self.far_legs(frame, far)
        tail_at = (-length * 0.47, top - 0.12 * depth - drop)
        curl = self.traits.tail == "curl"  # over the back, so that it is painted after the body
        if not curl:
            self.tail(frame, tail_at, lies=False)
        paint_body(self, frame, u, [trunk, neck], near, (hx, hy))
        if curl:
            self.tail(frame, (tail_at[0] + 0.03, top - 0.06 * depth), lies=False)
        self._head(frame, (hx, hy), (self.rng.random() - 0.5) * 0.3, front)

    def sit(self, frame: Frame, front: bool) -> None:
        """Draw it side-on, sitting; with `front` it faces the viewer."""
        length, leg, depth = self.length * 0.86, self.leg, self.depth
        top = max(self.top, 0.85 * length)
        u = Frame(
            frame([-length * 0.46, 0.0])[0],
            frame([length * 0.42, top - 0.16 * depth])[0] - frame([-length * 0.3, 0.16 * depth])[0],
            frame.y_axis * depth - frame.x_axis * depth * 0.35,
        )
        trunk = frame.curve([
            (length * 0.2, top + 0.02), (-0.02 * length, top - 0.2 * depth), (-0.26 * length, top * 0.62),
            (-0.45 * length, top * 0.34), (-0.5 * length, top * 0.14), (-0.42 * length, 0.01), (-0.2 * length, 0.0),
            (0.02 * length, leg * 0.4 + 0.04), (0.14 * length, leg * 0.85), (0.34 * length, leg + depth * 0.12),
            (0.42 * length, leg + depth * 0.5), (0.38 * length, top - depth * 0.12),
        ])  # fmt: skip
        hx, hy = self.head_place("sit")
        root, bend = (length * 0.2, top - depth * 0.36), length * 0.24 + (hx - length * 0.24) * 0.45
        neck = self._neck(frame, root, bend, top, depth * 0.4, (hx, hy))
        thigh = frame.curve(ellipse(-0.2 * length, top * 0.24, 0.24 * length, top * 0.24, -0.3))
        foot = limb(
            frame([(-0.25 * length, 0.05), (-0.05 * length, 0.045), (0.1 * length, 0.045)]),
            [self.thick * 0.9 * frame.unit] * 2 + [self.thick * frame.unit],
        )
        self.far_legs(frame, self.foreleg(frame, length * 0.24, 0.03))
        self.tail(frame, (-length * 0.46, 0.1), lies=True)
        near = self.foreleg(frame, length * 0.28, 0.0)
        paint_body(self, frame, u, [trunk, neck, thigh, foot], near, (hx, hy))
        ink, width = mix(self.base, self.ink, 0.55), max(1, round(0.012 * frame.unit))
        self.pen.line(flat(thigh[8:64]), fill=ink, width=width, joint="curve")
        self._head(frame, (hx, hy), (self.rng.random() - 0.4) * 0.3, front)

    def portrait(self, frame: Frame) -> None:
        """Draw head and chest, facing the viewer. The frame's unit is a skull, its origin the center of the face."""
        width = 0.95 + 0.6 * self.traits.measure("bulk") + 0.35 * self.hair
        bust = frame.curve([
            (-0.62, 0.1), (0.62, 0.1), (0.78, -0.8), (width, -1.7), (width + 0.15, -3.4), (-width - 0.15, -3.4),
            (-width, -1.7), (-0.78, -0.8),
        ])  # fmt: skip
        u = Frame(frame([-2.6, -3.2])[0], frame.x_axis * 2.6, frame.y_axis * 2.4)
        paint_body(self, frame.inner(0, 0, 1 / self.skull), u, [bust], [], None)
        paint_face(self, frame.inner(0, 0, 1.0, (self.rng.random() - 0.5) * 0.35))

    def _neck(
        self,
        frame: Frame,
        root: tuple[float, float],
        bend: float,
        top: float,
        thick: float,
        head: tuple[float, float],
    ) -> Points:
        """Return the neck from `root` over (`bend`, `top`), above the withers, to the head; `thick` at its root."""
        hx, hy = head
        centre = [root, (bend, top + (hy - top) * 0.4), (hx - 0.1 * self.skull, hy - 0.05 * self.skull)]
        radii = [thick * frame.unit, (self.skull * 0.72 + 0.04) * frame.unit, self.skull * 0.74 * frame.unit]
        return limb(frame(centre), radii)

    def _head(self, frame: Frame, at: tuple[float, float], tilt: float, front: bool) -> None:
        x, y = at
        if front:
            paint_face(self, frame.inner(x, y + 0.05, self.skull * 1.06, tilt))
        else:
            paint_profile(self, frame.inner(x, y, self.skull, tilt))
