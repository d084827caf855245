"""Train a model on data with a Trainer, from the start or from a checkpoint."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning import Trainer

from dogbreed import checkpoints
from dogbreed.checkpoints import BestCheckpoint, ResumePoint
from dogbreed.data import DogBreedData
from dogbreed.distributed import collectives, ranks
from dogbreed.errors import ConfigError
from dogbreed.features import cached
from dogbreed.features.loaders import CachedFeatures
from dogbreed.features.settings import settings_of
from dogbreed.hardware import available_cpus, available_memory_bytes
from dogbreed.interruption import Interruption
from dogbreed.memory import least_bytes
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder, write_json
from dogbreed.training import copies
from dogbreed.training.environment import describe_model, write_config, write_environment
from dogbreed.training.history import History, Watch
from dogbreed.training.inputs import device_and_precision, read_whole, write_frozen
from dogbreed.training.resumed import Resumed
from dogbreed.training.trainer import build, describe_device, make_trainer, only_useful_warnings, progress_bar
from dogbreed.workload import Workload

log = logging.getLogger("dogbreed")


def fit(
    config: Mapping[str, Any], here: RunFolder, data: DogBreedData, stop: Interruption, watch: Watch | None
) -> None:
    """Train to the last epoch, from the newest checkpoint in the run folder if there is one.

    Leaves best.ckpt, last.ckpt, metrics.csv, environment.json and, once all epochs are trained, fit.json. Raises
    CheckpointError for a checkpoint of another run, ConfigError for a batch that does not fit into memory.
    """
    resumed = Resumed.newest(here)
    model, features = _model_and_features(config, here, data, resumed, stop)
    _check_memory(model, _largest_share(data), features.shape if features else None, resumes=resumed is not None)
    if features is None and resumed is None and Workload.of(config).trains_heads:
        log.info(
            "Each epoch, of %d, runs the whole network; with features.mode=off the default is fewer epochs",
            config["trainer"]["max_epochs"],
        )
    copies.record(here, data, model.hparams, on_features=features is not None)
    write_config(config, here)  # only now: a failed resume must leave the folder unchanged
    _remove_results(here)
    history = History(here, watch)
    trainer = _trainer(config, here, history, stop)
    write_environment(config, here, data, trainer)
    _log_start(model, features, trainer, resumed)
    if resumed is None and (steps := data.describe_steps()):
        log.info("%s", steps)
    if resumed is None:
        here.frozen.unlink(missing_ok=True)  # left by an attempt with other settings
    if features and not model.released:
        frozen = model.release_frozen()
        if resumed is None and ranks.here().first:
            write_frozen(here, frozen, model.released)
    model.global_batch, model.shares_steps = _uneven_batch(data), data.batch_size is None
    with stop.deferred(), only_useful_warnings(), _threads_for(features):
        start = None if resumed is None else resumed.path
        trainer.fit(model, datamodule=features or data, ckpt_path=start, weights_only=True)
    _write_fit(config, here, history)


def _model_and_features(
    config: Mapping[str, Any], here: RunFolder, data: DogBreedData, resumed: Resumed | None, stop: Interruption
) -> tuple[DogBreedClassifier, CachedFeatures | None]:
    """Build the model and its features (None to train on photos). If a head's features are already cached, its backbone
    is not built.
    """
    settings, place = settings_of(config), device_and_precision(config, here)
    if resumed is not None:  # the precision the run started with, also on another machine
        settings = replace(settings, mode="cached" if resumed.released else "off")
    found = cached.recall(config["model"], data, settings, **place)
    if found and (resumed is None or resumed.released == found[1].released):
        features, backbone = found
        without = {"released": backbone.released, "released_width": backbone.width}
        model: DogBreedClassifier = build(config["model"], classes=list(data.classes), **without)
    else:
        features = None
        # the checkpoint holds the weights, so pretrained ones need not be downloaded
        weights = {} if resumed is None else {"weights": None}
        model = build(config["model"], classes=list(data.classes), **weights)
    if resumed is not None:
        resumed.check_same(model, data)
        resumed.keep_global_batch(data)
        if resumed.released and not model.released:
            model.load_state_dict(read_whole(config, here, resumed.path)["state_dict"])
    if not model.released:
        features = cached.prepare(model, data, settings, **place, check=stop.check)
    return model, features


def _largest_share(data: DogBreedData) -> int:
    """Return the largest number of a step's photos that one process has."""
    return math.ceil(min(data.global_batch, len(data.photos.splits["train"])) / ranks.here().world_size)


def _check_memory(
    model: DogBreedClassifier, batch_size: int, features: tuple[int, ...] | None = None, *, resumes: bool = False
) -> None:
    """Raise ConfigError for a batch that cannot fit: on Linux the kernel would kill the process without a message.

    features: the shape of one photo's features, if the step starts from them.
    """
    if torch.cuda.is_available():
        return  # on a GPU, running out of memory is an exception that can be caught
    if features is not None and len(features) == 1:
        return  # a head on pooled features fits anywhere
    needed, free = least_bytes(model, batch_size, features), available_memory_bytes()
    if needed > free:
        fits = max(1, int(batch_size * free / needed * 0.8))
        advice = f"data.batch_size={fits}"
        if resumes:  # a resumed run keeps its batch size
            advice = f"a machine with more memory, as many processes as before, or a new run with {advice}"
        raise ConfigError(
            f"A batch of {batch_size} photos does not fit: a training step needs at least {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB of memory are free.\nTry: {advice}"
        )


def _remove_results(here: RunFolder) -> None:
    """Remove the results of a finished run that is trained further; fit.json last, so that a kill in between does not
    leave what looks like a finished run.
    """
    for path in (here.report, here.model, here.predictions, here.metrics, here.fit):
        path.unlink(missing_ok=True)


def _trainer(config: Mapping[str, Any], here: RunFolder, history: History, stop: Interruption) -> Trainer:
    callbacks = [
        *progress_bar(),
        history,
        BestCheckpoint(here, config["monitor"], config["mode"]),
        ResumePoint(here, stop, config.get("run_id"), **config["save"]),
    ]
    logger = build(config["logger"], save_dir=str(here.path)) if config.get("logger") else False
    return make_trainer(config, here, callbacks, logger=logger)


def _log_start(
    model: DogBreedClassifier, features: CachedFeatures | None, trainer: Trainer, resumed: Resumed | None
) -> None:
    if resumed is not None:
        log.info("Resuming from %s", resumed.path)
        return
    on_features = ", on cached features" if features else ""
    log.info("Training %s, %s%s", describe_model(model), describe_device(trainer), on_features)


def _uneven_batch(data: DogBreedData) -> int:
    """Return the photos per step if processes have unequal shares, which are then weighted; otherwise 0."""
    batch = min(data.global_batch, len(data.photos.splits["train"]))
    return batch if batch % ranks.here().world_size else 0


@contextmanager
def _threads_for(features: CachedFeatures | None) -> Iterator[None]:
    """Use one thread if a step is a small matrix product: distributing it would take longer than computing it."""
    if features is not None and len(features.shape) == 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(available_cpus())


def _write_fit(config: Mapping[str, Any], here: RunFolder, history: History) -> None:
    """Write fit.json, which marks the run as trained."""
    totals = history.totals()
    # from the file, because an earlier version may have kept another one of equal epochs
    best_epoch = collectives.broadcast(lambda: checkpoints.epoch_of(here.best))
    if totals["epochs"] < config["trainer"]["max_epochs"]:
        log.info("Ended after epoch %d of %d", totals["epochs"], config["trainer"]["max_epochs"])
    write_json(here.fit, {**totals, "max_epochs": totals["epochs"], "best_epoch": best_epoch})
