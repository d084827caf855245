"""Draw the bodies of dogs: trunk, neck and near legs as one layer, with their markings."""

from dogbreed.drawn.brush import Frame, Layer, Points, ellipse, flat, limb
from dogbreed.drawn.build import Build
from dogbreed.drawn.traits import Colour


def paint_body(
    dog: Build,
    frame: Frame,
    trunk: Frame,
    shapes: list[Points],
    legs: list[Points],
    neck_at: tuple[float, float] | None,
) -> None:
    """Paint a body. frame: the dog's. trunk: 0 to 1 along and up the trunk. shapes: trunk, neck and the like.

    legs: the near ones, a leg, its paw, another leg, ... neck_at: the center of the skull; None if the chest faces
    the viewer, with the frame's origin at the face.
    """
    _Body(dog, frame, trunk, neck_at).paint(shapes, legs)


class _Body:
    def __init__(self, dog: Build, frame: Frame, trunk: Frame, neck_at: tuple[float, float] | None) -> None:
        self.dog, self.frame, self.u, self.neck_at = dog, frame, trunk, neck_at
        self.unit, self.features = frame.unit, dog.traits.features

    def paint(self, shapes: list[Points], legs: list[Points]) -> None:
        dog = self.dog
        layer = Layer(self.outlines(shapes, legs), dog.base)
        for where, name in dog.traits.marks:
            self.mark(layer, where, dog.colour(name))
        if legs:
            dog.leg_marks(layer, self.frame, behind=1.0 if len(legs) > 2 else 0.0)
        if self.neck_at is None:
            self.chest_front(layer)
        dog.paste(layer, self.unit)
        if dog.collar and self.neck_at and "ruff" not in self.features and dog.hair < 0.7:
            self.collar(dog.collar, *self.neck_at)

    def outlines(self, shapes: list[Points], legs: list[Points]) -> list[Points]:
        """Return the outlines of the body with its hair, including skirts, ruffs and manes."""
        dog, unit, coat = self.dog, self.unit, self.dog.traits.coat
        soft = [*(dog.fur(shape, unit) for shape in shapes), *dog.furry_legs(legs, unit)]
        if self.neck_at:
            if coat in ("silky", "shaggy", "corded"):
                soft.append(self.skirt())
            if "ruff" in self.features:
                x, y = self.neck_at
                x, y = x - 0.06 - 0.05 * dog.neck, y - dog.skull * 0.75 - dog.neck * 0.25
                soft.append(dog.fur(self.frame.curve(ellipse(x, y, dog.skull * 1.05, dog.skull * 1.2)), unit, 1.3))
            if "lion" in self.features:
                soft.append(dog.fur(self.u.curve(ellipse(0.78, 0.55, 0.3, 0.68)), unit, 1.3))
            if "clip" in self.features:
                soft.append(dog.fur(self.u.curve(ellipse(0.76, 0.58, 0.3, 0.62)), unit, 1.3))
        if legs and ("clip" in self.features or (coat == "hairless" and dog.traits.hair)):
            soft += [dog.fur(self.frame(ellipse(*at, 0.13, 0.12)), unit, 1.2) for at in self.ankles(legs)]
        return soft

    def skirt(self) -> Points:
        """Return the outline of the hair below the belly; it reaches the ground with the longest coats."""
        dog = self.dog
        hang = (dog.hair - 0.35) * 0.62 if dog.traits.coat != "corded" else 0.7
        low = max(0.02, dog.leg - max(0.03, hang) + 0.02)
        floor = (low - dog.leg) / dog.depth
        outline = self.u.curve([
            (0.04, 0.45), (0.5, 0.5), (0.98, 0.45), (0.97, floor * 0.9), (0.7, floor), (0.45, floor),
            (0.2, floor * 0.9), (0.03, floor * 0.8),
        ])  # fmt: skip
        return dog.fur(outline, self.unit, 1.0)

    def ankles(self, legs: list[Points]) -> list[tuple[float, float]]:
        frame = self.frame
        inverse = 1.0 / frame.unit
        flip = 1.0 if frame.x_axis[0] > 0 else -1.0
        centres = [legs[i].mean(0) - frame.origin for i in range(1, len(legs), 2)]
        return [(float(c[0]) * inverse * flip - 0.02, -float(c[1]) * inverse + 0.1) for c in centres]

    def mark(self, layer: Layer, where: str, colour: Colour) -> None:
        dog, u, unit = self.dog, self.u, self.unit
        match where:
            case "saddle":
                saddle = u.curve([
                    (0.0, 0.72), (0.05, 1.25), (0.6, 1.3), (0.9, 1.2), (0.84, 0.8), (0.62, 0.5), (0.32, 0.46),
                    (0.12, 0.5),
                ])  # fmt: skip
                layer.polygon(dog.fur(saddle, unit, 1.0, 0.03), colour)
            case "blanket":
                blanket = u.curve([
                    (-0.14, 1.2), (-0.14, 0.5), (0.1, 0.3), (0.4, 0.4), (0.68, 0.28), (0.82, 0.6), (0.98, 1.4),
                    (0.5, 1.5),
                ])  # fmt: skip
                layer.polygon(dog.fur(blanket, unit, 1.0, 0.03), colour)
            case "under":
                under = u.curve([
                    (0.05, 0.3), (0.4, 0.2), (0.75, 0.28), (0.95, 0.75), (1.2, 1.05), (1.3, 0.4), (1.0, -0.4),
                    (0.5, -0.5), (0, -0.3),
                ])  # fmt: skip
                layer.soft([under], colour, 0.9)
            case "chest":
                chest = u.curve([(0.86, 0.95), (0.84, 0.4), (0.9, 0.02), (1.1, -0.1), (1.3, 0.6), (1.2, 1.1)])
                layer.polygon(dog.fur(chest, unit, 1.0, 0.02), colour)
            case "points":
                layer.polygon(u(ellipse(0.99, 0.42, 0.075, 0.15)), colour)
                layer.soft([u(ellipse(-0.02, 0.55, 0.06, 0.16))], colour)
            case "collar" if self.neck_at:
                layer.polygon(dog.fur(self.white_collar(*self.neck_at), unit, 1.0, 0.02), colour)
            case "furnishings":
                belly = u.curve([(0.1, 0.15), (0.5, 0.08), (0.8, 0.1), (1.1, 0.1), (1.0, -0.5), (0, -0.5)])
                layer.soft([belly], colour, 0.9)
            case "sable":
                back = u.curve([(-0.1, 0.7), (0.0, 1.2), (0.6, 1.3), (1.1, 1.3), (0.9, 0.75), (0.5, 0.62)])
                layer.soft([back], colour, 0.62)
            case "patches":
                for at in (0.08, 0.38, 0.7):
                    du, dv, size = dog.rng.random(3).tolist()
                    place = (at + 0.16 * du, 0.5 + 0.5 * dv, 0.1 + 0.09 * size, 0.24 + 0.14 * size)
                    layer.polygon(dog.blob(u, unit, *place), colour)
            case _:
                dog.all_over(layer, where, colour, unit)

    def white_collar(self, x: float, y: float) -> Points:
        """Return the outline of the white collar marking around the neck. x, y: the center of the skull."""
        dog = self.dog
        return self.frame.curve([
            (x - dog.skull * 1.5, y - 0.1), (x + 0.1, y + 0.1), (x + dog.skull * 1.2, y - dog.skull),
            (dog.length * 0.56, dog.top - dog.depth * 0.2), (dog.length * 0.46, dog.top - dog.depth * 0.42),
            (dog.length * 0.33, dog.top - dog.depth * 0.05),
        ])  # fmt: skip

    def chest_front(self, layer: Layer) -> None:
        """Paint white and tan markings on a chest that faces the viewer."""
        dog, frame, k = self.dog, self.frame, self.dog.skull
        if name := dog.traits.mark("collar"):
            layer.polygon(frame(ellipse(0, -1.5 * k, 1.3 * k, 0.62 * k)), dog.colour(name))
        for where in ("chest", "under"):
            if name := dog.traits.mark(where):
                chest = frame.curve([
                    (-0.4 * k, -0.8 * k), (0.4 * k, -0.8 * k), (0.5 * k, -1.6 * k), (0.25 * k, -3.2 * k),
                    (-0.25 * k, -3.2 * k), (-0.5 * k, -1.6 * k),
                ])  # fmt: skip
                layer.polygon(dog.fur(chest, self.unit, 1.0, 0.02), dog.colour(name))
        if (name := dog.traits.mark("points")) and not dog.traits.mark("chest"):
            for side in (-1, 1):
                spot = ellipse(side * 0.42 * k, -1.75 * k, 0.22 * k, 0.2 * k, side * 0.5)
                layer.polygon(frame(spot), dog.colour(name))

    def collar(self, colour: Colour, x: float, y: float) -> None:
        """Paint a dog collar, which any dog may wear, so that it is no clue to the breed. x, y: of the skull."""
        dog, frame, r = self.dog, self.frame, self.dog.skull * 0.74
        at = (x * 0.62 + dog.length * 0.16, dog.top * 0.4 + y * 0.6 - dog.skull * 0.3)
        centre = [(at[0] - r, at[1] + r * 0.35), (at[0], at[1] - r * 0.1), (at[0] + r, at[1] - r * 0.5)]
        dog.pen.polygon(flat(limb(frame(centre), [0.035 * frame.unit] * 3)), fill=colour)
        dog.pen.polygon(flat(frame(ellipse(at[0] + r * 0.75, at[1] - r * 0.62, 0.035))), fill=(226, 200, 110))
