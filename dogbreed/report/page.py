"""Render the values of a run as an HTML page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dogbreed.best_epoch import best_row
from dogbreed.breeds import display_names
from dogbreed.report import analysis, plots
from dogbreed.report.analysis import BreedScores, Cells
from dogbreed.report.photos import NoThumbnailError, thumbnail
from dogbreed.report.reading import NAN, Integers, Predictions, Run, as_float
from dogbreed.unlike import AUROC, MIN_AUROC

PAIRS = 12  # most confused ones, with photos
MISTAKES_SHOWN = 3  # photos a pair
WORST = 12  # breeds
ABSENT = "\u2013"  # a dash, for a number that was not measured
LISTED = 200  # rows in the lists of skipped photos and of files; further ones are only counted


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A photo, or the reason why it is not shown."""

    path: str
    description: str
    caption: str
    source: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Pair:
    """Photos of one breed that were predicted as another."""

    breed: str
    taken_for: str
    count: int
    photos: int  # of the true breed in the test set
    mistakes: Sequence[Picture]
    right: Picture | None  # of the predicted breed


@dataclass(frozen=True)
class BreedRow:
    breed: str
    photos: int
    recall: float
    precision: float
    f1: float


def render(run: Run, photos_root: Path) -> str:
    """Render the HTML page of `run`, with photos from below `photos_root`."""
    tested = run.predictions
    labels = display_names(tested.classes)
    cells = analysis.confusion(tested)
    scores = analysis.breed_scores(tested)
    worst = analysis.worst_first(scores)
    photos = len(tested.paths)
    right = int(np.count_nonzero(tested.true == tested.predicted))
    accuracy = as_float(run.metrics.get("test/acc"))
    low, high = analysis.wilson(np.array([right]), np.array([photos]))
    rows = _breed_rows(labels, scores, worst)
    bins = analysis.reliability(tested)
    environment = _Environment(run.environment)
    template = environment_of_templates().from_string(_resource("page.html.jinja"))
    return template.render(
        css=Markup(_resource("page.css")),
        run=run,
        title=str(run.config.get("run_id") or run.name),
        model=_model_name(run.config),
        data=_data_name(run.config),
        environment=environment,
        classes=len(labels),
        photos=photos,
        right=right,
        accuracy=accuracy,
        counted=right / photos if photos else NAN,
        interval=(float(low[0]), float(high[0])),
        leaked=len(run.copies.leaked["test"]),
        without_copies=as_float(run.metrics.get("test/acc_without_copies")),
        tiles=_tiles(run, photos, len(labels)),
        best=(best := best_epoch(run)),
        loss_curves=_curves(run, "loss", best),
        accuracy_curves=_curves(run, "acc", best),
        history=_history_table(run),
        reliability=plots.reliability_diagram(bins, "reliability") if bins.count.any() else "",
        mean_probability=float(np.nanmean(tested.probability)) if bins.count.any() else NAN,
        ece=as_float(run.metrics.get("test/ece")),
        ece_before=as_float(run.metrics.get("test/ece_uncalibrated")),
        temperature=as_float(run.metrics.get("temperature")),
        validation=_Validation.of(run.metrics),
        matrix=plots.confusion_matrix(cells, labels, "confusion") if photos else "",
        numbers_in_matrix=len(labels) <= plots.NUMBERS_UP_TO,
        all_labels=len(labels) <= plots.ALL_LABELS_UP_TO,
        pairs=_pairs(tested, cells.wrong, labels, scores.photos, photos_root),
        pair_count=len(cells.wrong.count),
        wrong=int(cells.wrong.count.sum()),
        worst=rows[:WORST],
        rows=rows,
        perfect_breeds=int(np.count_nonzero(scores.recall == 1.0)),
        untested=len(labels) - len(rows),
        listed=LISTED,
    )


def environment_of_templates() -> Environment:
    """Build Jinja's environment, which escapes all values and has this page's number formats."""
    templates = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"percent": percent, "decimal": decimal, "duration": duration, "size": size, "whole": whole}
    return templates


def percent(share: float, digits: int = 1) -> str:
    return ABSENT if not math.isfinite(share) else f"{100 * share:.{digits}f}\u202f%"


def decimal(value: float, digits: int = 3) -> str:
    return ABSENT if not math.isfinite(value) else f"{value:.{digits}f}"


def whole(value: float) -> str:
    return ABSENT if not math.isfinite(value) else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Format seconds: 3725.2 as "1 h 2 min", 100.1 as "1 min 40 s", 8.21 as "8.2 s"."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(size_bytes: int) -> str:
    value, unit = float(size_bytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"


def best_epoch(run: Run) -> float | None:
    """Return the epoch whose weights were tested, as recorded; otherwise the best by `monitor` and `mode`."""
    recorded = as_float(run.metrics.get("best_epoch"))
    if recorded in run.history.get("epoch", ()):
        return recorded
    monitor = str(run.config.get("monitor", "val/acc"))
    if not np.isfinite(run.history.get(monitor, np.empty(0))).any():
        return None
    columns = zip(*(values.tolist() for values in run.history.values()), strict=True)
    rows = [dict(zip(run.history, row, strict=True)) for row in columns]
    return best_row(rows, monitor, str(run.config.get("mode", "max")))["epoch"]


class _Environment:
    """Formats environment.json as rows of text, without missing values."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        packages = raw.get("packages")
        self.packages: dict[str, Any] = dict(sorted(packages.items())) if isinstance(packages, dict) else {}
        git = raw.get("git") if isinstance(raw.get("git"), dict) else None
        commit = (git or {}).get("commit")
        photos = raw.get("photos")
        facts = {
            "Started": _moment(raw.get("started")),
            "Device": raw.get("device"),
            "Seed": raw.get("seed"),
            "Photos": ", ".join(f"{n:,} {split}" for split, n in photos.items()) if isinstance(photos, dict) else None,
            "Commit": (f"{commit}, with uncommitted changes" if (git or {}).get("dirty") else commit)
            or ("not in a git repository" if git is not None else None),
            "Python": raw.get("python"),
            "Platform": raw.get("platform"),
            "Command": raw.get("command"),
        }
        self.facts = {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _moment(stamp: object) -> str:
    """Format a time stamp such as 2026-11-23T00:00:05+00:00 without its seconds; return anything else unchanged."""
    try:
        return datetime.fromisoformat(str(stamp)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(stamp or "")


@dataclass(frozen=True)
class _Validation:
    """What was measured on the validation photos. NaN where it was not."""

    photos: float
    confidence: float
    most: float  # the highest mean confidence that so many photos can support
    unlike: float  # the share of the test photos that is called unlike the training photos
    auroc: Mapping[str, float]

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> "_Validation":
        photos, accuracy = as_float(metrics.get("val/photos")), as_float(metrics.get("val/acc"))
        return cls(
            photos,
            as_float(metrics.get("val/confidence")),
            (photos * accuracy + 1) / (photos + 2),
            as_float(metrics.get("test/unlike", metrics.get("val/unlike"))),
            {key.removeprefix(AUROC): as_float(value) for key, value in metrics.items() if key.startswith(AUROC)},
        )

    @property
    def reliable(self) -> bool:
        return min(self.auroc.values()) >= MIN_AUROC


def _tiles(run: Run, photos: int, classes: int) -> list[Tile]:
    def value(key: str) -> float:
        return as_float(run.metrics.get(key))

    before = value("test/ece_uncalibrated")
    accuracy = value("test/acc")
    chance = 1 / classes if classes else NAN
    per_second, seconds, epochs = (
        as_float(run.metrics.get(f"train/{key}" if key != "epochs" else key, run.fit.get(key)))
        for key in ("images_per_s", "seconds", "epochs")
    )
    return [
        Tile("Test accuracy", percent(accuracy), f"chance: {percent(chance, 2 if chance < 0.1 else 1)}"),
        Tile("Top 5", percent(value("test/top5")), "right breed among the first five"),
        Tile("Macro F1", decimal(value("test/f1")), "mean over breeds"),
        Tile(
            "Calibration error",
            percent(value("test/ece")),
            f"before calibration: {percent(before)}" if math.isfinite(before) else "expected (ECE)",
        ),
        Tile("Speed", whole(per_second) if per_second >= 10 else decimal(per_second, 2), "training images a second"),
        Tile(
            "Training time",
            duration(seconds),
            f"{epochs:.0f} epoch{'s' * (epochs != 1)}" if math.isfinite(epochs) else "",
        ),
    ]


def _curves(run: Run, kind: str, best: float | None) -> Markup:
    lines = {
        split: values
        for split in ("train", "val")
        if (values := run.history.get(f"{split}/{kind}")) is not None and np.isfinite(values).any()
    }
    if not lines:
        return Markup("")
    title = {"loss": "Loss by epoch", "acc": "Accuracy by epoch"}[kind]
    return plots.curves(run.history["epoch"], lines, best=best, percent=kind == "acc", title=title, name=kind)


def _history_table(run: Run) -> list[list[str]]:
    """Format metrics.csv: a row of names, then a row per epoch; empty cells stay empty."""
    if not run.history:
        return []
    epochs = zip(*run.history.values(), strict=True)
    return [list(run.history)] + [[f"{value:.5g}" if math.isfinite(value) else "" for value in row] for row in epochs]


def _breed_rows(labels: Sequence[str], scores: BreedScores, order: Integers) -> list[BreedRow]:
    return [
        BreedRow(
            labels[n], int(scores.photos[n]), float(scores.recall[n]), float(scores.precision[n]), float(scores.f1[n])
        )
        for n in order
    ]


def _pairs(tested: Predictions, wrong: Cells, labels: Sequence[str], photos: Integers, root: Path) -> list[Pair]:
    pairs = []
    for true, predicted, count in zip(wrong.true[:PAIRS], wrong.predicted[:PAIRS], wrong.count[:PAIRS], strict=True):
        mistakes = _surest_first(tested, true, predicted)[:MISTAKES_SHOWN]
        right = _surest_first(tested, predicted, predicted)[:1]
        pairs.append(
            Pair(
                breed=labels[true],
                taken_for=labels[predicted],
                count=int(count),
                photos=int(photos[true]),
                mistakes=[_picture(tested, place, labels, root) for place in mistakes],
                right=_picture(tested, right[0], labels, root) if right.size else None,
            )
        )
    return pairs


def _surest_first(tested: Predictions, true: int, predicted: int) -> Integers:
    places = np.flatnonzero((tested.true == true) & (tested.predicted == predicted))
    return places[np.argsort(-np.nan_to_num(tested.probability[places]), kind="stable")]


def _picture(tested: Predictions, place: int, labels: Sequence[str], root: Path) -> Picture:
    path = tested.paths[place]
    breed, named = labels[tested.true[place]], labels[tested.predicted[place]]
    description = f"{breed}, predicted as {named}" if breed != named else f"{breed}, correct"
    caption = percent(float(tested.probability[place]), 0)
    try:
        return Picture(path, description, caption, source=thumbnail(root, path))
    except NoThumbnailError as reason:
        return Picture(path, description, caption, problem=str(reason))


def _model_name(config: Mapping[str, Any]) -> str:
    model = config.get("model")
    if not isinstance(model, dict):
        return ""
    name = model.get("backbone") or _last_part(model.get("_target_"))
    return ", ".join(str(part) for part in (name, model.get("trainable") and f"trained: {model['trainable']}") if part)


def _data_name(config: Mapping[str, Any]) -> str:
    data = config.get("data")
    return str(data.get("root") or "") if isinstance(data, dict) else ""


def _last_part(target: object) -> str:
    return str(target or "").rpartition(".")[2]


def _resource(name: str) -> str:
    return (files("dogbreed.report") / name).read_text(encoding="utf-8")
