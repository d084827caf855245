"""Compare an artifact with the run that it is of: its settings, its class names, and its answers to test photos."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf

from dogbreed import artifact
from dogbreed.commands import shown_path
from dogbreed.errors import DataError
from dogbreed.run_folder import RunFolder
from launchers.deploy.checks import Checks
from launchers.deploy.contents import Served

_PHOTOS = 12  # test photos that are looked at, from all over the set
_MOST_OFF = 0.02  # of a probability: the run's test may have been computed on a GPU, in half precision
_NAMES = ("image_px", "crop_pct", "interpolation", "mean", "std")


def examine(served: Served, run: RunFolder, checks: Checks, *, photos: Path | None = None) -> None:
    """Compare the artifact with the run. photos: its data folder, if it is not where its settings say."""
    config = _config(run)
    if config:
        _settings(served, config, checks)
    rows = _rows(run.predictions)
    if not rows:
        return
    unknown = sorted({row["predicted"] for row in rows} - set(served.artifact.labels))
    if unknown:
        checks.failed(
            "run",
            f"The run's predictions.csv has {len(unknown)} classes that labels.json has not, such as {unknown[0]}",
        )
        return
    root = photos or Path(str(config.get("data", {}).get("root", ""))).expanduser()
    there = [row for row in rows if (root / row["path"]).is_file()]
    if not there:
        checks.passed("run's photos", "not on this machine, so not compared with predictions.csv")
        return
    _photos(served, root, there[:: max(1, len(there) // _PHOTOS)][:_PHOTOS], checks)


def _settings(served: Served, config: dict[str, Any], checks: Checks) -> None:
    model, preprocess = config.get("model", {}), served.artifact.preprocess
    differ = []
    for name in _NAMES:
        trained, here = model.get(name), getattr(preprocess, name)
        if trained is None:
            continue
        same = here == trained if isinstance(here, str) else np.allclose(here, trained)
        if not same:
            differ.append(f"{name} was {trained} and is {list(here) if isinstance(here, tuple) else here}")
    if differ:
        where = f"Between the run's config.yaml and preprocess.json: {'; '.join(differ)}"
        checks.failed("run", where)
    else:
        checks.passed("run", "trained with this preprocessing")


def _photos(served: Served, root: Path, rows: Sequence[dict[str, str]], checks: Checks) -> None:
    """Compare the answers to test photos with those of the run's own test, which the torch network gave."""
    places = {label: place for place, label in enumerate(served.artifact.labels)}
    off, other, looked_at = 0.0, 0, 0
    for row in rows:
        try:
            pixels = served.artifact.preprocess.pixels(root / row["path"])
        except DataError:
            continue  # it was replaced since
        answer = served.probabilities(artifact.NETWORK, pixels[None])[0]
        difference = abs(float(answer[places[row["predicted"]]]) - float(row["probability"]))
        off, other, looked_at = max(off, difference), other + (difference > _MOST_OFF), looked_at + 1
    if 4 * other > looked_at:
        checks.failed(
            "run's photos",
            f"{other} of {looked_at} test photos in {shown_path(root)} are answered otherwise than in the run's "
            f"predictions.csv, by up to {off:.2f}",
            f"{checks.again}; or --photos with the photos that it was tested on",
        )
    else:
        checks.passed("run's photos", f"{looked_at - other} of {looked_at} as in predictions.csv, within {off:.1g}")


def _config(run: RunFolder) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(run.config)))
    except (OSError, ValueError):
        return {}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [row for row in csv.DictReader(file) if row.get("predicted") and row.get("probability")]
    except (OSError, csv.Error):
        return []
