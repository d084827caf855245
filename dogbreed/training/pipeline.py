"""Train, test and report one run in one folder; each call resumes where the last one stopped."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import seed_everything

from dogbreed import report
from dogbreed.distributed import collectives, ranks
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.features import cached
from dogbreed.features.settings import settings_of
from dogbreed.interruption import Interruption
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder, lasting_files, read_json, write_json
from dogbreed.training import stages
from dogbreed.training.environment import write_config
from dogbreed.training.evaluation import test, validated
from dogbreed.training.failures import compile_errors, disk_errors, memory_errors
from dogbreed.training.fit import fit
from dogbreed.training.history import Watch
from dogbreed.training.inputs import device_and_precision, read_photos
from dogbreed.training.settings import RANKS_TIMEOUT_S, findings
from dogbreed.training.trainer import build, use_hardware

log = logging.getLogger("dogbreed")
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips and device lists: our log names the device

# files of the run folder that processes read which do not write it
_NOT_COPIED = ("features", "train.log", "report.html", "model.tar.gz")


def run(config: Mapping[str, Any], folder: Path, watch: Watch | None = None) -> dict[str, float]:
    """Train, calibrate, test and report in `folder`; skip stages that are done. Returns metrics.json's content.

    config: the resolved configuration, as plain dicts and lists; with `test` false the run ends with its best epoch's
    validation metrics, and a later call with `test` true continues from there. watch: called after each validation; if
    it returns True, training ends with that epoch. Raises DogBreedError with what to fix; Interrupted after SIGTERM or
    SIGINT, once everything is saved that a later call needs to resume.

    Several processes train one run if the environment says so (see `ranks`): each calls this function.
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
        stages.forget_mismatched(here)
        if collectives.broadcast(lambda: stages.is_finished(config, here)):
            log.info("This run is already finished; nothing to do.")
            return read_json(here.metrics)
        return _run(config, here, stop, watch)


def _run(config: Mapping[str, Any], here: RunFolder, stop: Interruption, watch: Watch | None) -> dict[str, float]:
    """Run the remaining stages of a run whose settings are valid."""
    if not here.config.exists():
        write_config(config, here)
    use_hardware()
    seed_everything(config["seed"], workers=True, verbose=False)
    data = read_photos(config, here)
    if not stages.is_trained(config, here):
        fit(config, here, data, stop, watch)
    stop.check()
    if not config.get("test", True):
        write_json(here.metrics, validated(config, here))
        return read_json(here.metrics)
    if not stages.is_tested(here):
        write_config(config, here)  # a run that started with test=false still records that
        test(config, here, data, stop)
    stop.check()
    collectives.leave()
    if ranks.here().first:
        _export(here)  # before the report, which marks the run as finished
        stop.check()
        report.write(here, data.root)
    return read_json(here.metrics)


def share(config: Mapping[str, Any], folder: Path) -> None:
    """Prepare what all runs with these settings share, whatever head they train: the photos and their features.

    folder: where the list of skipped photos is written. Raises the same errors as `run`.
    """
    here = RunFolder(folder)
    with Interruption() as stop, memory_errors(config), disk_errors(here):
        raise_findings(ConfigError, list(findings(config)))
        use_hardware()
        seed_everything(config["seed"], workers=True, verbose=False)  # random weights depend on it
        data, settings = read_photos(config, here), settings_of(config)
        place = device_and_precision(config, here)
        if cached.recall(config["model"], data, settings, **place) is None:
            model: DogBreedClassifier = build(config["model"], classes=list(data.classes))
            cached.prepare(model, data, settings, **place, check=stop.check)


@contextmanager
def _folder_of_this_process(folder: Path) -> Iterator[RunFolder]:
    """Yield the run folder in process 0. Every other process gets a temporary copy of its files at the start, so that
    all take the same decisions; the copy is deleted at the end.
    """
    if ranks.here().first:
        collectives.barrier()
        yield RunFolder(folder)
        return
    with tempfile.TemporaryDirectory() as place:
        own = Path(place)
        for path in lasting_files(folder):
            name = path.relative_to(folder)
            if name.parts[0] in _NOT_COPIED:
                continue
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, own / name)  # a run replaces its files and never changes them in place
            except OSError:
                shutil.copy2(path, own / name)
        collectives.barrier()
        yield RunFolder(own)


def _export(here: RunFolder) -> None:
    from dogbreed import export  # imports onnx, which only the end of a run needs

    export.write(here)
