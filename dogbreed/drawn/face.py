"""Draw heads that face the viewer: skull, snout and their markings."""

from PIL import Image, ImageFilter

from dogbreed.drawn.brush import STEPS, Frame, Layer, Points, ellipse, flat, mix, veil
from dogbreed.drawn.head import EARS_FRONT, UPRIGHT, HeadPainter
from dogbreed.drawn.traits import Colour

_SIDES = (-1, 1)  # left and right in the picture: x is multiplied by it


def paint_face(dog: HeadPainter, frame: Frame) -> None:
    """Paint a face towards the viewer. The frame's unit is the skull's radius, its origin the skull's center."""
    _Face(dog, frame).paint()


class _Face:
    """wide: half the skull's width. low: the chin's height, jaw: half its width, nose_y: the nose's height; in skulls.

    short: 0 for no snout to 1 for a long one, seen from the front.
    """

    def __init__(self, dog: HeadPainter, frame: Frame) -> None:
        self.dog, self.h, self.features = dog, frame, dog.traits.features
        self.unit = frame.unit / dog.skull
        self.short, bulk = min(1.0, dog.snout / 1.5), dog.traits.measure("bulk")
        self.wide, self.low = 0.82 + 0.16 * bulk + 0.14 * dog.traits.measure("muzzle"), -(0.72 + 0.5 * self.short)
        self.jaw = 0.24 + 0.46 * dog.muzzle
        self.nose_y = -0.22 - 0.42 * self.short

    def paint(self) -> None:
        dog, upright = self.dog, self.dog.traits.ears in UPRIGHT
        outlines, ears, knots = self.outlines(), self.ears(), EARS_FRONT[dog.traits.ears]
        if upright:
            for ear in ears:
                dog.ear(ear, knots, inside=True)
        layer = Layer(outlines, dog.head_colour)
        for where, name in dog.traits.marks:
            self.mark(layer, where, dog.colour(name))
        if "wrinkles" in self.features:
            self.wrinkles(layer)
        dog.paste(layer, self.unit)
        one_eye = dog.rng.random() < 0.5  # the other is behind the hair
        if {"beard", "fringe"}.isdisjoint(self.features):
            self.lighten_snout()
        self.mouth()
        self.nose()
        for k in _SIDES:
            if "fringe" not in self.features or (k == 1 and one_eye):
                x = k * (0.36 + 0.05 * dog.traits.measure("bulk"))
                dog.eye(self.h.inner(x, 0.16), 0.145 + 0.004 * (9 * dog.traits.measure("head") - 3), 1.0)
            if {"brows", "fringe"} & self.features:
                self.tuft(k)
        if not upright:
            for ear in ears:
                dog.ear(ear, knots)
        if "drape" in self.features:
            self.drape()

    def outlines(self) -> list[Points]:
        """Return the outlines of the skull with the snout, and of hair and jowls around them."""
        dog, h, jaw, low, nose_y = self.dog, self.h, self.jaw, self.low, self.nose_y
        shapes = [dog.fur(self.skull(), self.unit, 0.55)]
        if "jowls" in self.features:
            shapes += [
                h.curve([
                    (k * 0.05, nose_y), (k * jaw, nose_y + 0.05), (k * (jaw + 0.18), low * 0.9),
                    (k * (jaw * 0.8), low - 0.26), (k * 0.12, low - 0.02),
                ])
                for k in _SIDES
            ]  # fmt: skip
        if {"beard", "fringe"} & self.features:
            hang = 0.25 + 0.4 * dog.hair
            beard = h.curve([
                (-0.3, nose_y + 0.2), (0.3, nose_y + 0.2), (jaw + 0.22, nose_y - 0.1), (jaw + 0.12, low - 0.1),
                (0, low - hang), (-jaw - 0.12, low - 0.1), (-jaw - 0.22, nose_y - 0.1),
            ])  # fmt: skip
            shapes.append(dog.fur(beard, self.unit, 0.9))
        if self.features & {"topknot", "fringe", "crest"}:
            big = 0.6 if "topknot" in self.features else 0.45
            shapes.append(dog.fur(h.curve(ellipse(0, 0.72, 0.85, big)), self.unit, 1.0, 0.03))
        if self.features & {"ruff"} or (dog.traits.coat == "dense" and dog.traits.hair >= 5):
            shapes.append(dog.fur(h.curve(ellipse(0, -0.25, self.wide + 0.2, 0.85)), self.unit, 1.0))
        return shapes

    def skull(self) -> Points:
        wide, low, jaw, s = self.wide, self.low, self.jaw, self.short
        right = [
            (0.5, 0.93), (wide * 0.95, 0.45), (wide * (0.98 - 0.12 * s), -0.12), (jaw + 0.2 * (1 - s), -0.5),
            (jaw * 0.92, low * 0.78),
        ]  # fmt: skip
        if "egg" in self.features:
            right = [(0.45, 0.95), (0.8, 0.5), (0.82, -0.1), (0.7, -0.6), (0.52, low * 0.85)]
        return self.h.curve([(0.0, 1.0), *right, (0.0, low), *[(-x, y) for x, y in reversed(right)]])

    def ears(self) -> list[Frame]:
        """Return the frames of the left and the right ear."""
        kind, scale = self.dog.traits.ears, self.dog.ear_scale()
        if kind in UPRIGHT or kind == "button":
            x, y = 0.56, 0.68
        else:
            x, y = (0.8, 0.5) if kind == "long" else (0.68, 0.66)
        roots = [(k, self.h.inner(k * x, y)) for k in _SIDES]
        return [Frame(root.origin, root.x_axis * k * scale, root.y_axis * scale) for k, root in roots]

    def mark(self, layer: Layer, where: str, colour: Colour) -> None:
        dog, h, jaw, low, nose_y = self.dog, self.h, self.jaw, self.low, self.nose_y
        match where:
            case "face":
                face = h.curve([
                    (0, 0.55), (0.3, 0.3), (0.62, 0.5), (1.1, 0.1), (1.1, -1.2), (0, -2.2), (-1.1, -1.2), (-1.1, 0.1),
                    (-0.62, 0.5), (-0.3, 0.3),
                ])  # fmt: skip
                layer.soft([face], colour)
            case "mask" | "muzzle":
                layer.soft([self.snout()], colour, 0.95)
            case "furnishings":
                layer.polygon(dog.fur(self.snout(), self.unit, 0.6), colour)
                layer.polygon(dog.fur(h.curve(ellipse(0, 1.05, 0.8, 0.42)), self.unit, 0.6, 0.03), colour)
            case "blaze":
                blaze = h.curve([
                    (0, 1.3), (0.14, 0.9), (0.1, 0.3), (0.2, nose_y + 0.3), (jaw * 0.8, nose_y), (jaw * 0.8, low),
                    (0, low - 0.8), (-jaw * 0.8, low), (-jaw * 0.8, nose_y), (-0.2, nose_y + 0.3), (-0.1, 0.3),
                    (-0.14, 0.9),
                ])  # fmt: skip
                layer.polygon(blaze, colour)
            case "points":
                for k in _SIDES:
                    snout = h.curve([
                        (k * 0.2, nose_y + 0.02), (k * 0.5, nose_y + 0.12), (k * 0.85, -0.3), (k * 0.75, low),
                        (k * 0.2, low - 0.7), (k * 0.04, low),
                    ])  # fmt: skip
                    layer.polygon(h(ellipse(k * 0.36, 0.46, 0.13, 0.1, k * -0.3)), colour)
                    layer.polygon(snout, colour)
            case "eyepatch":
                layer.polygon(h.curve(ellipse(0.42, 0.18, 0.36, 0.42)), colour)
            case "sable":
                layer.soft([h(ellipse(0, 0.9, 0.8, 0.35))], colour, 0.45)
            case _:
                dog.all_over(layer, where, colour, self.unit * 0.8)

    def snout(self) -> Points:
        jaw, low, nose_y = self.jaw, self.low, self.nose_y
        return self.h.curve([
            (0, nose_y + 0.42), (jaw * 0.75, nose_y + 0.24), (jaw + 0.1, nose_y - 0.15), (jaw + 0.1, low - 0.4),
            (0, low - 1.0), (-jaw - 0.1, low - 0.4), (-jaw - 0.1, nose_y - 0.15), (-jaw * 0.75, nose_y + 0.24),
        ])  # fmt: skip

    def wrinkles(self, layer: Layer) -> None:
        h, colour = self.h, mix(self.dog.head_colour, self.dog.ink, 0.5)
        for k in _SIDES:
            lower = h.curve([(k * 0.08, 0.4), (k * 0.2, 0.62), (k * 0.42, 0.6), (k * 0.3, 0.9)])
            upper = h.curve([(k * 0.12, 0.62), (k * 0.26, 0.78), (k * 0.5, 0.74), (k * 0.3, 0.9)])
            cheek = [
                (k * 0.22, self.nose_y + 0.26), (k * (self.jaw + 0.05), self.nose_y),
                (k * (self.jaw + 0.14), self.low * 0.75),
            ]  # fmt: skip
            layer.line(lower[:15], colour, 0.045 * h.unit)
            layer.line(upper[:15], colour, 0.04 * h.unit)
            layer.line(h(cheek), colour, 0.045 * h.unit)

    def lighten_snout(self) -> None:
        """Lighten the snout a little, so that it stands out."""
        dog, low, nose_y = self.dog, self.low, self.nose_y
        round_snout = self.h.curve(ellipse(0, (nose_y + low) / 2 + 0.08, self.jaw * 0.95, (nose_y - low) / 2 + 0.2))
        muzzle = Layer([dog.fur(round_snout, self.unit, 0.3)], (128, 128, 128))
        blurred = muzzle.mask.reduce(4).filter(ImageFilter.GaussianBlur(max(1.0, 0.02 * self.unit)))
        glow = blurred.point([v // 7 for v in range(256)]).resize(muzzle.size, Image.Resampling.BILINEAR)
        veil(dog.rgb, (255, 246, 232), (int(muzzle.corner[0]), int(muzzle.corner[1])), glow)

    def mouth(self) -> None:
        dog, h, jaw, nose_y = self.dog, self.h, self.jaw, self.nose_y
        if dog.tongue_out:
            dog.tongue(h.inner(0.0, self.low + 0.16), 0.17)
        ink, width = mix(dog.ink, (50, 26, 28), 0.3), max(1, round(0.045 * h.unit))
        dog.pen.line(flat(h([(0, nose_y - 0.1), (0, nose_y - 0.32)])), fill=ink, width=width)
        for k in _SIDES:
            lip = h.curve([
                (0, nose_y - 0.3), (k * jaw * 0.3, nose_y - 0.44), (k * jaw * 0.62, nose_y - 0.4),
                (k * jaw * 0.8, nose_y - 0.26),
            ])  # fmt: skip
            dog.pen.line(flat(lip[: 3 * STEPS]), fill=ink, width=width, joint="curve")

    def nose(self) -> None:
        dog, h, y, nose = self.dog, self.h, self.nose_y, 0.2 + 0.1 * self.dog.muzzle
        outline = h.curve([
            (-nose, y + 0.1), (0, y + 0.15), (nose, y + 0.1), (nose * 0.7, y - 0.08), (0, y - 0.16),
            (-nose * 0.7, y - 0.08),
        ])  # fmt: skip
        dog.pen.polygon(flat(outline), fill=dog.nose)
        shine = h(ellipse(-nose * 0.35, y + 0.07, 0.07, 0.03))
        dog.pen.polygon(flat(shine), fill=mix(dog.nose, (255, 255, 255), 0.55))

    def tuft(self, k: int) -> None:
        """Paint a brow, or hair that falls over an eye. k: -1 or 1, the side."""
        knots = (
            [(k * 0.1, 0.3), (k * 0.18, 0.52), (k * 0.5, 0.56), (k * 0.72, 0.3), (k * 0.5, 0.34)]
            if "brows" in self.features
            else [(k * 0.02, 0.9), (k * 0.6, 0.8), (k * 0.75, 0.1), (k * 0.45, -0.1), (k * 0.08, 0.0)]
        )
        dog = self.dog
        dog.paste(Layer([dog.fur(self.h.curve(knots), self.unit, 0.9, 0.02)], dog.tuft_colour), self.unit)

    def drape(self) -> None:
        """Paint long hair that falls on both sides of the face."""
        dog = self.dog
        for k in _SIDES:
            fall = self.h.curve([
                (k * 0.02, 1.05), (k * 0.6, 0.95), (k * 1.05, 0.2), (k * 1.1, -1.3), (k * 0.8, -1.4), (k * 0.72, 0.1),
                (k * 0.3, 0.7),
            ])  # fmt: skip
            dog.paste(Layer([dog.fur(fall, self.unit, 0.5)], dog.head_colour), self.unit)
