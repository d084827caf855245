"""Draw what all heads have in common: their proportions, ears, eyes and tongue."""

import numpy as np

from dogbreed.drawn.brush import Frame, Layer, Painter, ellipse, flat, mix, smooth
from dogbreed.drawn.traits import Colour, Traits

# Knots of an ear from its root at (0, 0), the tip of a medium one about 1 away. Side-on, facing right.
EARS_SIDE: dict[str, list[tuple[float, float]]] = {
    "prick": [(-0.38, -0.15), (-0.36, 0.4), (-0.12, 1.05), (0.0, 1.05), (0.24, 0.45), (0.3, -0.1)],
    "bat": [(-0.34, -0.15), (-0.46, 0.45), (-0.28, 1.0), (0.02, 1.02), (0.26, 0.5), (0.28, -0.1)],
    "semi": [(-0.36, -0.15), (-0.34, 0.4), (-0.1, 0.78), (0.28, 0.62), (0.44, 0.3), (0.2, 0.42), (0.26, -0.1)],
    "button": [(-0.34, -0.05), (-0.3, 0.28), (0.05, 0.36), (0.4, 0.14), (0.52, -0.42), (0.24, -0.24), (-0.05, -0.1)],
    "rose": [(0.18, 0.0), (0.0, 0.25), (-0.4, 0.3), (-0.85, -0.05), (-0.5, -0.15), (-0.15, -0.3)],
    "drop": [(-0.3, 0.02), (-0.1, 0.2), (0.25, 0.02), (0.36, -0.5), (0.14, -1.0), (-0.16, -0.95), (-0.42, -0.45)],
    "long": [(-0.22, 0.05), (0.0, 0.15), (0.2, -0.1), (0.3, -0.75), (0.2, -1.35), (-0.15, -1.4), (-0.42, -0.85),
             (-0.36, -0.3)],
    "butterfly": [(-0.28, -0.2), (-0.75, 0.1), (-1.0, 0.5), (-0.7, 0.95), (-0.2, 1.1), (0.08, 0.7), (0.26, -0.1)],
}  # fmt: skip
# The right ear of a face that faces the viewer; mirrored for the left one.
EARS_FRONT: dict[str, list[tuple[float, float]]] = {
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
    """Paints heads. The frames' unit is the radius of the skull, their origin the skull's center."""

    def __init__(self, traits: Traits, rng: np.random.Generator, size: tuple[int, int]) -> None:
        super().__init__(traits, rng, size)
        each = (0.95 + 0.1 * rng.random(3)).tolist()
        self.skull = (0.235 + 0.16 * traits.measure("head")) * each[0]  # in the units of the dog
        self.snout = (0.26 + 1.25 * traits.measure("snout")) * each[1]  # in skulls
        self.muzzle = (0.46 + 0.5 * traits.measure("muzzle")) * each[2]
        brown = traits.colour in ("liver", "chocolate", "deadgrass", "isabella") or traits.mark("head") == "liver"
        self.nose = (96, 58, 46) if brown else (32, 28, 32)
        self.tongue_out = bool(rng.random() < 0.35)

    @property
    def tuft_colour(self) -> Colour:
        """Return the colour of brows, and of hair over the eyes."""
        marks = (self.traits.mark(where) for where in ("furnishings", "face", "head"))
        return self.colour(next(filter(None, marks), self.traits.colour))

    def ear_scale(self) -> float:
        return 0.48 + 0.085 * self.traits.ear_size

    def ear(self, place: Frame, knots: list[tuple[float, float]], far: bool = False, inside: bool = False) -> None:
        """Paint an ear. place: a frame with its origin at the root of the ear."""
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
        """Paint a dark eye with a highlight."""
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
