"""Read a run folder into plain values and arrays."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf

from dogbreed import commands
from dogbreed.copies import Copies
from dogbreed.errors import DogBreedError, raise_findings
from dogbreed.run_folder import RunFolder, lasting_files

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NAN = float("nan")


class ReportError(DogBreedError):
    """A run folder lacks files that a report needs."""


@dataclass(frozen=True)
class Predictions:
    """The test photos, in the order of predictions.csv.

    classes: class folder names. true, predicted: int64 [photos], indices into `classes`. probability: float64 [photos]
    in 0..1, NaN if not recorded. paths: relative to the photos' root, with / between folders.
    """

    classes: list[str]
    paths: list[str]
    true: Integers
    predicted: Integers
    probability: Floats


@dataclass(frozen=True)
class StoredFile:
    name: str  # relative to the run folder, with /
    size_bytes: int


@dataclass(frozen=True)
class Run:
    """One run. A missing file is an empty value here, except metrics.json and predictions.csv."""

    name: str  # of the folder
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any]
    metrics: dict[str, Any]
    fit: dict[str, Any]
    history: dict[str, Floats]  # metrics.csv by column, each [epochs], ascending by "epoch"; NaN where a cell is empty
    predictions: Predictions
    skipped: list[tuple[str, str]]  # path, reason
    copies: Copies
    files: list[StoredFile]


def read(folder: RunFolder) -> Run:
    """Read everything in `folder` except its checkpoints and log.

    Raises ReportError listing everything that is missing or cannot be read.
    """
    if not folder.path.is_dir():
        raise ReportError(
            f"The run folder {folder.path} does not exist.\nTry: the folder that holds the run's metrics.json"
        )
    again = commands.train(commands.override("resume", commands.shown_path(folder.path)))
    findings = [
        f"{path} is missing: this run has not finished its test.\nTry: {again}"
        for path in (folder.metrics, folder.predictions)
        if not path.is_file()
    ]

    def attempt(read_file: Any, path: Path, empty: Any) -> Any:
        try:
            return read_file(path) if path.is_file() else empty
        except Exception as error:  # YAML, JSON, CSV, encoding, permission: each has its own class
            findings.append(f"{path} cannot be read: {error}.\nTry: restore it from a copy, or test the run again")
            return empty

    environment = attempt(_read_object, folder.environment, {})
    run = Run(
        name=folder.path.resolve().name,
        config=attempt(_read_config, folder.config, {}),
        config_text=attempt(_read_text, folder.config, ""),
        environment=environment,
        metrics=attempt(_read_object, folder.metrics, {}),
        fit=attempt(_read_object, folder.fit, {}),
        history=attempt(_read_history, folder.history, {}),
        predictions=attempt(
            lambda path: _read_predictions(path, environment.get("classes") or []),
            folder.predictions,
            index_predictions([], []),
        ),
        skipped=attempt(_read_skipped, folder.skipped, []),
        copies=attempt(Copies.from_csv, folder.copies, Copies()),
        files=list(_stored_files(folder)),
    )
    raise_findings(ReportError, findings)
    return run


def photos_root(folder: RunFolder) -> Path:
    """Return the run's data.root from its config.yaml, with `~` expanded."""
    try:
        root = _read_config(folder.config)["data"]["root"]
    except Exception as error:
        raise ReportError(
            f"{folder.config} does not say where the photos are ({type(error).__name__}: {error}).\n"
            "Try: --photos FOLDER, or a folder that a run of train.py wrote"
        ) from error
    return Path(str(root)).expanduser()


def index_predictions(rows: Iterable[tuple[str, str, str, float]], classes: Iterable[str]) -> Predictions:
    """Build Predictions from (path, breed, predicted, probability) rows; append breeds that are not in `classes`."""
    paths, true, predicted, probability = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    known = list(dict.fromkeys(classes))
    known += sorted({*true, *predicted} - set(known))
    place = {name: index for index, name in enumerate(known)}
    return Predictions(
        classes=known,
        paths=paths,
        true=np.array([place[name] for name in true], dtype=np.int64),
        predicted=np.array([place[name] for name in predicted], dtype=np.int64),
        probability=np.array(probability, dtype=np.float64),
    )


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _read_object(path: Path) -> dict[str, Any]:
    value = json.loads(_read_text(path))
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _read_config(path: Path) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.create(_read_text(path)), resolve=False)
    if not isinstance(config, dict):
        raise ValueError("expected a mapping")
    return {str(key): value for key, value in config.items()}


def _read_table(path: Path, *required: str) -> Iterator[dict[str, str | None]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        if missing := set(required) - set(reader.fieldnames or []):
            raise ValueError(f"its first line lacks {', '.join(sorted(missing))}")
        yield from reader


def _read_history(path: Path) -> dict[str, Floats]:
    # An epoch that was interrupted and repeated after a resume may appear twice: the later row counts.
    rows = {epoch: row for row in _read_table(path, "epoch") if (epoch := as_float(row["epoch"])) == epoch}
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name))
    return {name: np.array([as_float(rows[epoch].get(name)) for epoch in sorted(rows)]) for name in names}


def _read_predictions(path: Path, classes: list[str]) -> Predictions:
    return index_predictions(
        [
            (row["path"] or "", row["breed"] or "", row["predicted"] or "", as_float(row["probability"]))
            for row in _read_table(path, "path", "breed", "predicted", "probability")
        ],
        classes,
    )


def _read_skipped(path: Path) -> list[tuple[str, str]]:
    return [(row["path"] or "", row["reason"] or "") for row in _read_table(path, "path", "reason")]


def _stored_files(folder: RunFolder) -> Iterator[StoredFile]:
    for path in lasting_files(folder.path):
        if path != folder.report and not path.name.startswith("."):
            yield StoredFile(path.relative_to(folder.path).as_posix(), path.stat().st_size)


def as_float(cell: object) -> float:
    """Convert a cell or a JSON value to a number; NaN for an empty or truncated cell."""
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return NAN
