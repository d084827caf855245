"""One run, from photos to report, in one folder; begun, or gone on with from wherever it stopped."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything

from dogbreed import checkpoints, report
from dogbreed.distributed import collectives, ranks
from dogbreed.errors import CheckpointError, ConfigError, raise_findings
from dogbreed.features import cached
from dogbreed.interruption import Interruption
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder, read_json, write_json
from dogbreed.training.environment import write_config
from dogbreed.training.evaluation import test, validated
from dogbreed.training.failures import compile_errors, disk_errors, memory_errors
from dogbreed.training.fit import fit
from dogbreed.training.history import Watch
from dogbreed.training.inputs import device_and_precision, read_photos
from dogbreed.training.settings import RANKS_TIMEOUT_S, findings
from dogbreed.training.trainer import build, use_hardware

log = logging.getLogger("dogbreed")
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and device lists; ours says it once

# of the run folder, for processes that do not write it
_NOT_COPIED = ("features", "train.log", "report.html", "model.tar.gz")


def run(config: Mapping[str, Any], folder: Path, watch: Watch | None = None) -> dict[str, float]:
    """Train, calibrate, test and report in `folder`; skip what is done there already. Returns metrics.json's content.

    config: the resolved configuration, as plain dicts and lists; with `test` false the run ends with its best epoch's
    validation metrics, and one with `test` true goes on from there. watch: called after each validation; where it says
    true, training ends with that epoch. Raises DogBreedError with what to mend; Interrupted after SIGTERM or SIGINT,
    with everything saved that a later call needs to go on.

    Several processes train one run where the environment says so (see `ranks`): each calls this.
    """
    timeout_s = float((config.get("ranks") or {}).get("timeout_s", RANKS_TIMEOUT_S))
    with (
        Interruption() as stop,
        collectives.joined(timeout_s),
        _folder_of_this_process(folder) as here,
        memory_errors(config),
        disk_errors(here),
        compile_errors(),
    ):
        raise_findings(ConfigError, list(findings(config)))
        _forget_what_does_not_fit(here)
        longer = here.fit.exists() and read_json(here.fit)["max_epochs"] < config["trainer"]["max_epochs"]
        done = here.report if config.get("test", True) else here.metrics
        # the report, which others than the first have no copy of, says that all is done
        if collectives.from_first(lambda: here.metrics.exists() and done.exists() and not longer):
            log.info("This run is finished: nothing to do.")
            return read_json(here.metrics)
        if not here.config.exists():
            write_config(config, here)
        use_hardware()
        seed_everything(config["seed"], workers=True, verbose=False)
        data = read_photos(config, here)
        if longer or not here.fit.exists():
            fit(config, here, data, stop, watch)
        stop.check()
        if not config.get("test", True):
            write_json(here.metrics, validated(config, here))
            return read_json(here.metrics)
        if not here.metrics.exists() or "test/acc" not in read_json(here.metrics):
            write_config(config, here)  # of a run that began with test=false it says so
            test(config, here, data, stop)
        stop.check()
        collectives.part()
        if ranks.here().first:
            _export(here)  # before the report, which says that all is done
            stop.check()
            report.write(here, data.root)
        return read_json(here.metrics)


@contextmanager
def _folder_of_this_process(folder: Path) -> Iterator[RunFolder]:
    """The run folder, for the first process alone. Each other one has what lies there as it begins in a folder of its
    own, so that all decide alike, and what it writes ends with it.
    """
    if ranks.here().first:
        collectives.met()
        yield RunFolder(folder)
        return
    with tempfile.TemporaryDirectory() as place:
        own = Path(place)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if name.parts[0] in _NOT_COPIED or not path.is_file():
                continue
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, own / name)  # files of a run are replaced, never changed
            except OSError:
                shutil.copy2(path, own / name)
        collectives.met()
        yield RunFolder(own)


def _export(here: RunFolder) -> None:
    from dogbreed import export  # onnx, which only the end of a run needs

    export.write(here)


def _forget_what_does_not_fit(here: RunFolder) -> None:
    """What says that training or the test is done must not count without the checkpoints that came of it.

    On a rented machine files are saved one by one: after an interruption a folder may hold some newer than others.
    """
    if not (here.fit.exists() and here.best.exists()) or "best_epoch" not in (fit := read_json(here.fit)):
        return
    done = [here.report, here.model, here.metrics]
    try:
        best: dict[str, Any] | None = checkpoints.read(here.best)
        steps = checkpoints.read(here.last)["global_step"] if here.last.exists() else fit["steps"]
    except CheckpointError:
        best, steps = None, 0
    if best is None or int(best["epoch"]) + 1 != fit["best_epoch"] or steps != fit["steps"]:
        done.append(here.fit)
    else:
        fitted = (read_json(here.metrics) if here.metrics.exists() else {}).get("temperature")
        if fitted is None or float(best["state_dict"]["temperature"]) == torch.tensor(fitted).item():
            return
    for path in done:
        path.unlink(missing_ok=True)


def share(config: Mapping[str, Any], folder: Path) -> None:
    """Have what runs with these settings share, whatever head they train: the photos, and their features.

    folder: for the list of photos that are passed over. Raises as `run` does.
    """
    here = RunFolder(folder)
    with Interruption() as stop, memory_errors(config), disk_errors(here):
        raise_findings(ConfigError, list(findings(config)))
        use_hardware()
        seed_everything(config["seed"], workers=True, verbose=False)  # of which random weights are made
        data, settings = read_photos(config, here), cached.settings_of(config)
        place = device_and_precision(config, here)
        if cached.recall(config["model"], data, settings, **place) is None:
            model: DogBreedClassifier = build(config["model"], classes=list(data.classes))
            cached.prepare(model, data, settings, **place, check=stop.check)
