"""The heads of drawn dogs, side-on and facing us: skull, snout, ears, eyes and all that is marked on a face."""
# fmt: off: knots of curves read as shapes, several to a line

import numpy as np
from PIL import Image, ImageFilter

from dogbreed.drawn.brush import STEPS, Frame, Layer, Painter, ellipse, flat, mix, smooth, veil
from dogbreed.drawn.traits import Traits

# Knots of an ear from its root at (0, 0), the tip of a medium one about 1 away. Side-on, facing right.
_EARS_SIDE: dict[str, list[tuple[float, float]]] = {
    "prick": [(-0.38, -0.15), (-0.36, 0.4), (-0.12, 1.05), (0.0, 1.05), (0.24, 0.45), (0.3, -0.1)],
    "bat": [(-0.34, -0.15), (-0.46, 0.45), (-0.28, 1.0), (0.02, 1.02), (0.26, 0.5), (0.28, -0.1)],
    "semi": [(-0.36, -0.15), (-0.34, 0.4), (-0.1, 0.78), (0.28, 0.62), (0.44, 0.3), (0.2, 0.42), (0.26, -0.1)],
    "button": [(-0.34, -0.05), (-0.3, 0.28), (0.05, 0.36), (0.4, 0.14), (0.52, -0.42), (0.24, -0.24), (-0.05, -0.1)],
    "rose": [(0.18, 0.0), (0.0, 0.25), (-0.4, 0.3), (-0.85, -0.05), (-0.5, -0.15), (-0.15, -0.3)],
    "drop": [(-0.3, 0.02), (-0.1, 0.2), (0.25, 0.02), (0.36, -0.5), (0.14, -1.0), (-0.16, -0.95), (-0.42, -0.45)],
    "long": [
        (-0.22, 0.05),
        (0.0, 0.15),
        (0.2, -0.1),
        (0.3, -0.75),
        (0.2, -1.35),
        (-0.15, -1.4),
        (-0.42, -0.85),
        (-0.36, -0.3),
    ],
    "butterfly": [(-0.28, -0.2), (-0.75, 0.1), (-1.0, 0.5), (-0.7, 0.95), (-0.2, 1.1), (0.08, 0.7), (0.26, -0.1)],
}
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
}
UPRIGHT = ("prick", "bat", "semi", "butterfly")


class HeadPainter(Painter):
    """Paints heads. The frames' unit is the radius of the skull, their origin its middle."""

    def __init__(self, traits: Traits, rng: np.random.Generator, size: tuple[int, int]) -> None:
        super().__init__(traits, rng, size)
        each = (0.95 + 0.1 * rng.random(3)).tolist()
        self.skull = (0.235 + 0.16 * traits.measure("head")) * each[0]  # in the units of the dog
        self.snout = (0.26 + 1.25 * traits.measure("snout")) * each[1]  # in skulls
        self.muzzle = (0.46 + 0.5 * traits.measure("muzzle")) * each[2]
        brown = traits.colour in ("liver", "chocolate", "deadgrass", "isabella") or traits.mark("head") == "liver"
        self.nose = (96, 58, 46) if brown else (32, 28, 32)
        self.tongue_out = bool(rng.random() < 0.35)

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
        shape = smooth(
            h(
                [
                    (-0.95, 0.1),
                    (-0.72, 0.72),
                    *top,
                    (tip + 0.03, 0.02),
                    (tip, bridge - 0.62 * m),
                    (tip - 0.14, chin),
                    (0.72 + 0.3 * s, chin - 0.03),
                    (0.34, -0.74),
                    (-0.35, -0.86),
                    (-0.88, -0.5),
                ]
            )
        )
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
                            (tip - 0.2, chin - 0.14),
                            (0.62 + 0.35 * s, chin - 0.26),
                            (0.4, chin - 0.05),
                            (0.3, -0.6),
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
            shapes.append(self.fur(smooth(h(ellipse(0.02, 0.72, 0.72, big))), unit, 1.0, 0.03))
        if t.ears in UPRIGHT:
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
                layer.polygon(self.fur(smooth(h(ellipse(0.1, 0.95, 0.75, 0.4))), unit, 0.6, 0.03), colour)
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
        )[: 4 * STEPS]
        shown = {"beard", "fringe"}.isdisjoint(t.features)
        if self.tongue_out and shown:
            self.tongue(h.inner(0.66 + 0.45 * s, lip - 0.02), 0.16)
        if shown:
            self.pen.line(
                flat(mouth), fill=mix(self.ink, (60, 30, 30), 0.3), width=max(1, round(0.05 * h.unit)), joint="curve"
            )
        self.pen.polygon(
            flat(
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
            flat(
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
        self.pen.polygon(flat(h(ellipse(tip, 0.15, 0.04, 0.025))), fill=mix(self.nose, (255, 255, 255), 0.6))
        if "fringe" not in t.features:
            self.eye(h.inner(*eye), 0.13 + 0.004 * (9 * t.measure("head") - 3), 0.8)
        if {"brows", "fringe"} & t.features:
            tuft = smooth(
                h([(0.2, 0.62), (0.5, 0.72), (0.78, 0.5), (0.72, 0.3), (0.52, 0.4), (0.3, 0.42)])
                if "brows" in t.features
                else h([(-0.1, 0.9), (0.5, 0.95), (0.85, 0.4), (0.72, 0.0), (0.4, 0.05), (0.1, 0.3)])
            )
            colour = self.colour(t.mark("furnishings") or t.mark("face") or t.mark("head") or t.colour)
            self.paste(Layer([self.fur(tuft, unit, 0.9, 0.02)], colour), unit)
        self.ear(h.inner(*((-0.28, 0.6) if t.ears in UPRIGHT else (-0.3, 0.55)), self.ear_scale()), _EARS_SIDE[t.ears])

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
                self.fur(smooth(h(ellipse(0, 0.72, 0.85, 0.6 if "topknot" in t.features else 0.45))), unit, 1.0, 0.03)
            )
        if t.features & {"ruff"} or (t.coat == "dense" and t.hair >= 5):
            shapes.append(self.fur(smooth(h(ellipse(0, -0.25, wide + 0.2, 0.85))), unit, 1.0))
        upright = t.ears in UPRIGHT
        roots = [
            (
                k,
                h.inner(k * 0.56, 0.68)
                if upright or t.ears == "button"
                else h.inner(k * (0.68 if t.ears != "long" else 0.8), 0.66 if t.ears != "long" else 0.5),
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
                layer.polygon(self.fur(smooth(h(ellipse(0, 1.05, 0.8, 0.42))), unit, 0.6, 0.03), colour)
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
        shown = self.rng.random() < 0.5  # one eye behind the hair
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
            veil(
                self.rgb,
                (255, 246, 232),
                (int(muzzle.corner[0]), int(muzzle.corner[1])),
                glow.resize(muzzle.size, Image.Resampling.BILINEAR),
            )
        nose = 0.2 + 0.1 * m
        if self.tongue_out:
            self.tongue(h.inner(0.0, low + 0.16), 0.17)
        ink, width = mix(self.ink, (50, 26, 28), 0.3), max(1, round(0.045 * h.unit))
        self.pen.line(flat(h([(0, nose_y - 0.1), (0, nose_y - 0.32)])), fill=ink, width=width)
        for k in (-1, 1):
            self.pen.line(
                flat(
                    smooth(
                        h(
                            [
                                (0, nose_y - 0.3),
                                (k * jaw * 0.3, nose_y - 0.44),
                                (k * jaw * 0.62, nose_y - 0.4),
                                (k * jaw * 0.8, nose_y - 0.26),
                            ]
                        )
                    )[: 3 * STEPS]
                ),
                fill=ink,
                width=width,
                joint="curve",
            )
        self.pen.polygon(
            flat(
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
            flat(h(ellipse(-nose * 0.35, nose_y + 0.07, 0.07, 0.03))), fill=mix(self.nose, (255, 255, 255), 0.55)
        )
        for k in (-1, 1):
            if "fringe" not in t.features or (k == 1 and shown):
                self.eye(h.inner(k * (0.36 + 0.05 * bulk), 0.16), 0.145 + 0.004 * (9 * t.measure("head") - 3), 1.0)
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
        return 0.48 + 0.085 * self.traits.ear_size

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
            self.pen.polygon(flat(ellipse(x, y, rx * unit, ry * unit)), fill=colour)
        self.pen.polygon(
            flat(ellipse(x - 0.3 * r * unit, y - 0.34 * r * unit, 0.3 * r * unit, n=12)), fill=(255, 255, 255)
        )

    def tongue(self, place: Frame, r: float) -> None:
        shape = smooth(place([(-r, 0.08), (r, 0.08), (r * 0.95, -r * 1.4), (0, -r * 2.1), (-r * 0.95, -r * 1.4)]))
        self.pen.polygon(flat(shape), fill=(222, 108, 116))
        self.alpha_pen.polygon(flat(shape), fill=255)
        self.pen.line(
            flat(place([(0, 0.0), (0, -r * 1.3)])), fill=(186, 78, 90), width=max(1, round(0.03 * place.unit))
        )
