"""Draw heads side-on: skull, snout and their markings."""

from dogbreed.drawn.brush import STEPS, Frame, Layer, Points, ellipse, flat, mix
from dogbreed.drawn.head import EARS_SIDE, UPRIGHT, HeadPainter
from dogbreed.drawn.traits import Colour


def paint_profile(dog: HeadPainter, frame: Frame) -> None:
    """Paint the head side-on, facing along x. The frame's unit is the skull's radius, its origin the skull's center."""
    _Profile(dog, frame).paint()


class _Profile:
    """tip, bridge, chin and lip: where the snout ends, its upper edge, its lower edge and the mouth, in skulls."""

    def __init__(self, dog: HeadPainter, frame: Frame) -> None:
        self.dog, self.h, self.features = dog, frame, dog.traits.features
        self.unit = frame.unit / dog.skull
        self.tip, self.bridge = 0.72 + dog.snout, 0.2
        self.chin = self.bridge - dog.muzzle * 1.12
        self.lip = self.bridge - (0.72 if "jowls" not in self.features else 0.62) * dog.muzzle

    def paint(self) -> None:
        dog, h, upright = self.dog, self.h, self.dog.traits.ears in UPRIGHT
        outlines = self.outlines()
        ear = EARS_SIDE[dog.traits.ears]
        if upright:
            dog.ear(h.inner(0.12, 0.72, dog.ear_scale(), -0.12), ear, far=True)
        layer = Layer(outlines, dog.head_colour)
        for where, name in dog.traits.marks:
            self.mark(layer, where, dog.colour(name))
        if "wrinkles" in self.features:
            self.wrinkles(layer)
        dog.paste(layer, self.unit)
        if {"beard", "fringe"}.isdisjoint(self.features):
            self.mouth()
        self.nose()
        if "fringe" not in self.features:
            dog.eye(h.inner(0.42, 0.3), 0.13 + 0.004 * (9 * dog.traits.measure("head") - 3), 0.8)
        if {"brows", "fringe"} & self.features:
            self.tuft()
        dog.ear(h.inner(*((-0.28, 0.6) if upright else (-0.3, 0.55)), dog.ear_scale()), ear)

    def outlines(self) -> list[Points]:
        """Return the outlines of the skull with the snout, and of hair and jowls around them."""
        dog, h, s, tip, chin = self.dog, self.h, self.dog.snout, self.tip, self.chin
        shapes = [dog.fur(self.skull(), self.unit, 0.55)]
        if "jowls" in self.features:
            shapes.append(h.curve([
                (0.55, -0.2), (0.72 + 0.5 * s, -0.1), (tip - 0.08, self.lip + 0.1), (tip - 0.2, chin - 0.14),
                (0.62 + 0.35 * s, chin - 0.26), (0.4, chin - 0.05), (0.3, -0.6),
            ]))  # fmt: skip
        if {"beard", "fringe"} & self.features:
            hang = 0.3 + 0.35 * dog.hair
            beard = h.curve([
                (0.6, -0.05), (0.74 + 0.5 * s, -0.05), (tip - 0.1, -0.12), (tip - 0.02, chin - 0.1),
                (tip - 0.2, chin - hang), (0.6 + 0.3 * s, chin - hang * 0.8), (0.45, -0.72),
            ])  # fmt: skip
            shapes.append(dog.fur(beard, self.unit, 0.9))
        if self.features & {"topknot", "fringe", "crest"}:
            big = 0.55 if "topknot" in self.features else 0.4
            shapes.append(dog.fur(h.curve(ellipse(0.02, 0.72, 0.72, big)), self.unit, 1.0, 0.03))
        return shapes

    def skull(self) -> Points:
        dog, s, m, tip, bridge, chin = self.dog, self.dog.snout, self.dog.muzzle, self.tip, self.bridge, self.chin
        stop = 0.4 if dog.traits.measure("muzzle") > 0.4 else 0.5  # fine heads have hardly any stop
        if "egg" in self.features:
            top = [(-0.1, 1.0), (0.5, 0.95), (0.72 + 0.3 * s, 0.8), (tip - 0.12, 0.38)]
        else:
            top = [(-0.1, 1.0), (0.45, 0.84), (0.74, stop), (0.74 + 0.35 * s, bridge + 0.1), (tip - 0.1, bridge)]
        return self.h.curve([
            (-0.95, 0.1), (-0.72, 0.72), *top, (tip + 0.03, 0.02), (tip, bridge - 0.62 * m), (tip - 0.14, chin),
            (0.72 + 0.3 * s, chin - 0.03), (0.34, -0.74), (-0.35, -0.86), (-0.88, -0.5),
        ])  # fmt: skip

    def mark(self, layer: Layer, where: str, colour: Colour) -> None:
        dog, h, s, tip = self.dog, self.h, self.dog.snout, self.tip
        match where:
            case "face":
                face = h.curve([
                    (0.2, 0.1), (0.55, 0.62), (0.8, 0.42), (tip + 0.4, 0.5), (tip + 0.3, -1.6), (-0.6, -1.4),
                    (-0.5, -0.4),
                ])  # fmt: skip
                layer.soft([face], colour)
            case "mask" | "muzzle":
                layer.soft([self.cheek()], colour, 0.92)
            case "furnishings":
                layer.polygon(dog.fur(self.cheek(), self.unit, 0.6), colour)
                layer.polygon(dog.fur(h.curve(ellipse(0.1, 0.95, 0.75, 0.4)), self.unit, 0.6, 0.03), colour)
            case "blaze":
                blaze = h.curve([
                    (-0.1, 1.3), (0.2, 0.86), (0.66, 0.42), (0.7, 0.05), (0.7 + 0.2 * s, -0.5), (tip * 0.8, -1.4),
                    (tip + 0.4, -1.0), (tip + 0.4, 0.4), (0.9, 1.2),
                ])  # fmt: skip
                layer.polygon(blaze, colour)
            case "points":
                snout = h.curve([
                    (0.62, 0.02), (0.8 + 0.4 * s, 0.06), (tip + 0.2, -0.08), (tip + 0.2, -1.5), (0.5, -1.5),
                    (0.2, -0.6), (0.4, -0.25),
                ])  # fmt: skip
                layer.polygon(snout, colour)
                layer.polygon(h(ellipse(0.5, 0.6, 0.12, 0.1, 0.4)), colour)
            case "eyepatch":
                layer.polygon(h.curve(ellipse(0.3, 0.36, 0.42, 0.44)), colour)
            case "sable":
                layer.soft([h(ellipse(-0.1, 0.85, 0.8, 0.4))], colour, 0.4)
            case _:
                dog.all_over(layer, where, colour, self.unit * 0.8)

    def cheek(self) -> Points:
        s, tip = self.dog.snout, self.tip
        return self.h.curve([
            (0.5, 0.3), (0.8 + 0.1 * s, 0.42 - 0.1 * s), (tip + 0.3, 0.35), (tip + 0.3, -1.9), (0.55, -1.9),
            (0.3, -0.7),
        ])  # fmt: skip

    def wrinkles(self, layer: Layer) -> None:
        h, colour = self.h, mix(self.dog.head_colour, self.dog.ink, 0.5)
        for k in range(3):
            fold = h.curve([
                (0.25 + 0.12 * k, 0.95 - 0.1 * k), (0.42 + 0.1 * k, 0.66 - 0.06 * k), (0.6 + 0.06 * k, 0.62 - 0.1 * k),
                (0.5, 0.8),
            ])  # fmt: skip
            layer.line(fold[:12], colour, 0.045 * h.unit)
        layer.line(h([(0.5, 0.08), (0.62, -0.12), (0.56, -0.5)]), colour, 0.05 * h.unit)

    def mouth(self) -> None:
        dog, h, s, tip, lip = self.dog, self.h, self.dog.snout, self.tip, self.lip
        knots = [
            (tip - 0.02, self.bridge - 0.4 * dog.muzzle), (tip - 0.1, lip), (0.72 + 0.45 * s, lip - 0.05),
            (0.56, lip - 0.02), (0.45, lip + 0.1),
        ]  # fmt: skip
        if dog.tongue_out:
            dog.tongue(h.inner(0.66 + 0.45 * s, lip - 0.02), 0.16)
        line = flat(h.curve(knots)[: 4 * STEPS])
        dog.pen.line(line, fill=mix(dog.ink, (60, 30, 30), 0.3), width=max(1, round(0.05 * h.unit)), joint="curve")

    def nose(self) -> None:
        dog, h, tip, bridge = self.dog, self.h, self.tip, self.bridge
        nose = flat(h.curve([
            (tip - 0.16, bridge + 0.03), (tip + 0.02, bridge + 0.04), (tip + 0.1, 0.08), (tip + 0.02, -0.08),
            (tip - 0.1, -0.02),
        ]))  # fmt: skip
        dog.pen.polygon(nose, fill=dog.nose)
        dog.alpha_pen.polygon(nose, fill=255)
        dog.pen.polygon(flat(h(ellipse(tip, 0.15, 0.04, 0.025))), fill=mix(dog.nose, (255, 255, 255), 0.6))

    def tuft(self) -> None:
        """Paint brows, or hair that falls over the eye."""
        knots = (
            [(0.2, 0.62), (0.5, 0.72), (0.78, 0.5), (0.72, 0.3), (0.52, 0.4), (0.3, 0.42)]
            if "brows" in self.features
            else [(-0.1, 0.9), (0.5, 0.95), (0.85, 0.4), (0.72, 0.0), (0.4, 0.05), (0.1, 0.3)]
        )
        dog = self.dog
        dog.paste(Layer([dog.fur(self.h.curve(knots), self.unit, 0.9, 0.02)], dog.tuft_colour), self.unit)
