"""Analyse the predictions: which breeds are confused, which are hard, and how reliable the confidence is."""

from dataclasses import dataclass

import numpy as np

from dogbreed.report.reading import NAN, Floats, Integers, Predictions


@dataclass(frozen=True)
class Cells:
    """The non-empty cells of the confusion matrix. All of shape [cells], most photos first."""

    true: Integers
    predicted: Integers
    count: Integers
    share: Floats  # of the true breed's test photos, 0..1

    @property
    def wrong(self) -> "Cells":
        mistake = self.true != self.predicted
        return Cells(self.true[mistake], self.predicted[mistake], self.count[mistake], self.share[mistake])


@dataclass(frozen=True)
class BreedScores:
    """Scores per breed, each of shape [breeds]; NaN if a score is undefined (no photos, or never predicted)."""

    photos: Integers
    recall: Floats
    precision: Floats
    f1: Floats


@dataclass(frozen=True)
class Reliability:
    """Test photos by predicted probability, in bins of equal width; each [bins], NaN if a bin is empty."""

    edges: Floats  # [bins + 1]
    count: Integers
    confidence: Floats  # mean predicted probability
    accuracy: Floats
    low: Floats  # 95 % interval of the accuracy
    high: Floats


def confusion(predictions: Predictions) -> Cells:
    """Count the non-empty cells of the confusion matrix; a dense one of thousands of classes would not fit memory."""
    classes = len(predictions.classes)
    cell, count = np.unique(predictions.true * classes + predictions.predicted, return_counts=True)
    true, predicted = np.divmod(cell, max(classes, 1))
    share = count / np.bincount(predictions.true, minlength=classes)[true]
    order = np.lexsort((predicted, true, -share, -count))
    return Cells(true[order], predicted[order], count[order].astype(np.int64), share[order])


def breed_scores(predictions: Predictions) -> BreedScores:
    classes = len(predictions.classes)
    photos = np.bincount(predictions.true, minlength=classes)
    named = np.bincount(predictions.predicted, minlength=classes)
    right = np.bincount(predictions.true[predictions.true == predictions.predicted], minlength=classes)
    return BreedScores(photos, _ratio(right, photos), _ratio(right, named), _ratio(2 * right, photos + named))


def worst_first(scores: BreedScores) -> Integers:
    """Return the indices of the breeds with test photos, by lowest recall, then lowest F1, then most photos."""
    tested = np.flatnonzero(scores.photos)
    return tested[np.lexsort((tested, -scores.photos[tested], scores.f1[tested], scores.recall[tested]))]


def reliability(predictions: Predictions, bins: int = 10) -> Reliability:
    known = np.isfinite(predictions.probability)
    probability = predictions.probability[known]
    right = (predictions.true == predictions.predicted)[known]
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(probability, edges[1:-1])  # low <= probability < high, as in torchmetrics
    count = np.bincount(place, minlength=bins)
    hits = np.bincount(place, weights=right, minlength=bins)
    low, high = wilson(hits, count)
    mean = _ratio(np.bincount(place, weights=probability, minlength=bins), count)
    return Reliability(edges, count, mean, _ratio(hits, count), low, high)


def wilson(hits: Floats | Integers, trials: Floats | Integers) -> tuple[Floats, Floats]:
    """Return the 95 % confidence interval of a share, by Wilson's score (1927), which suits few trials and extremes."""
    z = 1.959964
    share = _ratio(hits, trials)
    n = np.where(trials > 0, trials, 1)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def _ratio(part: Floats | Integers, whole: Floats | Integers) -> Floats:
    return np.divide(part, whole, out=np.full(np.shape(whole), NAN), where=np.asarray(whole) > 0)
