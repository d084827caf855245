"""Judge whether a photo is unlike those that a model was trained on, by the energy of its logits. Needs no torch.

Liu et al. 2020, Energy-based Out-of-distribution Detection (arXiv 2010.03759). A threshold on the energy is chosen on
validation photos, and pictures without dogs measure how well it works: it is not trusted below MIN_AUROC.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Choice = Literal["auto", "on", "off"]  # auto: on if the model's own measurement is good enough
CHOICES: tuple[Choice, ...] = ("auto", "on", "off")

MIN_PHOTOS = 50  # validation photos: a share of 5 % of fewer is not known
FLAGGED = 0.05  # the largest share of the validation photos that may be called unlike themselves
MIN_AUROC = 0.8
AUROC = "unlike/auroc of "  # in metrics.json, before the kind of picture
WARNING = "This photo is unlike the photos that the model was trained on."
NOT_MEASURED = f"off: not measured, as with fewer than {MIN_PHOTOS} validation photos or in older models"
_TEMPERATURE = 0.5  # of the energy, not of the probabilities

_Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Unlike:
    """Holds what was measured on one network file.

    threshold: photos of a higher energy are unlike. photos: validation photos that it was chosen on. flagged: the share
    of them that is above it. auroc: by kind of generated picture, the probability that such a picture has a higher
    energy than a validation photo; 0.5 is chance.
    """

    threshold: float
    photos: int
    flagged: float
    auroc: Mapping[str, float]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.photos >= MIN_PHOTOS and self.auroc):
            raise ValueError(f"a threshold of {self.threshold} on {self.photos} photos")

    @property
    def worst(self) -> tuple[str, float]:
        """Return the kind of picture that is told apart worst, and its AUROC."""
        return min(self.auroc.items(), key=lambda item: item[1])

    @property
    def reliable(self) -> bool:
        return self.worst[1] >= MIN_AUROC

    def judge(self, logits: _Logits) -> NDArray[np.bool_]:
        """Return for each photo's logits [N, classes] whether it is unlike the training photos."""
        return energy(logits) > self.threshold


def energy(logits: _Logits) -> NDArray[np.float64]:
    """Return the energy of each photo's logits [N, classes], before temperature scaling: high if it is unfamiliar.

    -T * logsumexp(logits / T), of logits minus their mean over the classes. Training does not determine this mean,
    because softmax ignores it; on features of a frozen backbone it is larger for strange pictures, and would hide them.
    """
    scaled = (logits.astype(np.float64) - logits.mean(axis=1, keepdims=True, dtype=np.float64)) / _TEMPERATURE
    most = scaled.max(axis=1)
    return np.asarray(-_TEMPERATURE * (most + np.log(np.exp(scaled - most[:, None]).sum(axis=1))))


def measured(validation: _Logits, generated: Mapping[str, _Logits]) -> Unlike | None:
    """Choose the threshold on the logits of the validation photos, and measure it on those of generated pictures.

    Returns None if there are too few validation photos, or outputs are not finite.
    """
    if len(validation) < MIN_PHOTOS or not all(np.isfinite(each).all() for each in (validation, *generated.values())):
        return None
    familiar = energy(validation)
    strange = {kind: energy(logits) for kind, logits in generated.items()}
    threshold = float(np.sort(familiar)[::-1][int(FLAGGED * len(familiar))])
    flagged = float((familiar > threshold).mean())
    auroc = {kind: round(_auroc(familiar, energies), 4) for kind, energies in strange.items()}
    return Unlike(threshold, len(familiar), flagged, auroc)


def status(found: Unlike | None, choice: Choice) -> str:
    """Return "on", or "off" with the reason."""
    if choice == "off":
        return "off: switched off"
    if found is None:
        return NOT_MEASURED
    if choice == "auto" and not found.reliable:
        kind, auroc = found.worst
        return (
            f"off: too unreliable with this model, AUROC {auroc:.2f} for {kind}, below {MIN_AUROC:g}; "
            "--unlike on judges all the same"
        )
    return "on"


def _auroc(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Return the probability that one of `high` is above one of `low`; ties count half."""
    ordered = np.sort(low)
    below, up_to = np.searchsorted(ordered, high, "left"), np.searchsorted(ordered, high, "right")
    return float((below + up_to).mean() / 2 / len(low))
