"""Train: data, model and trainer put together, from the start or from a checkpoint."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dogbreed import checkpoints
from dogbreed.data import DogBreedData
from dogbreed.distributed import ranks
from dogbreed.errors import CheckpointError, ConfigError
from dogbreed.features import cached
from dogbreed.hardware import available_cpus, available_memory_bytes
from dogbreed.interruption import Interruption
from dogbreed.memory import least_bytes
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder, write_json
from dogbreed.training.environment import describe_model, write_config, write_environment
from dogbreed.training.history import History, Watch, best_row
from dogbreed.training.inputs import device_and_precision, read_whole, write_frozen
from dogbreed.training.trainer import build, describe_device, make_trainer, only_useful_warnings, progress_bar

log = logging.getLogger("dogbreed")


def fit(
    config: Mapping[str, Any], here: RunFolder, data: DogBreedData, stop: Interruption, watch: Watch | None
) -> None:
    start = checkpoints.newest(here)
    checkpoint = None if start is None else checkpoints.read(start)
    settings = cached.settings_of(config)
    if checkpoint is not None:  # as it began, wherever it goes on
        settings = replace(settings, mode="cached" if checkpoints.FROZEN in checkpoint else "off")
    place = device_and_precision(config, here)
    features: cached.CachedFeatures | None
    found = cached.recall(config["model"], data, settings, **place)
    if found and (checkpoint is None or checkpoint[checkpoints.FROZEN] == found[1].released):
        features, backbone = found
        model: DogBreedClassifier = build(
            config["model"], classes=list(data.classes), released=backbone.released, released_width=backbone.width
        )
    else:
        # the weights come with the checkpoint: nothing is downloaded to be overwritten
        weights = {} if checkpoint is None else {"weights": None}
        model = build(config["model"], classes=list(data.classes), **weights)
        features = None
    if start is not None and checkpoint is not None:
        _check_same(checkpoint, model, data, start)
        _keep_global_batch(checkpoint, data)
        if checkpoints.FROZEN in checkpoint and not model.released:
            model.load_state_dict(read_whole(config, here, start)["state_dict"])
    if not model.released:
        features = cached.prepare(model, data, settings, **place, check=stop.check)
    if features is None or len(features.shape) > 1:  # heads on pooled features fit anywhere
        shape = features.shape if features else None
        most = min(data.global_batch, len(data.photos.splits["train"]))
        _check_memory(model, math.ceil(most / ranks.here().world_size), shape, resumes=start is not None)
    write_config(config, here)  # only now: a refused resume leaves the folder as it was
    # of a finished run that is made longer; fit.json last, so that a kill in between does not look like a finished run
    for path in (here.report, here.model, here.predictions, here.metrics, here.fit):
        path.unlink(missing_ok=True)
    history = History(here, watch)
    trainer = make_trainer(
        config,
        here,
        [
            *progress_bar(),
            history,
            checkpoints.BestCheckpoint(here, config["monitor"], config["mode"]),
            checkpoints.ResumePoint(here, stop, **config["save"]),
        ],
        logger=build(config["logger"], save_dir=str(here.path)) if config.get("logger") else False,
    )
    write_environment(config, here, data, trainer)
    if start is None:
        log.info(
            "Training %s, %s%s",
            describe_model(model),
            describe_device(trainer),
            ", on cached features" if features else "",
        )
    else:
        log.info("Going on from %s", start)
    if start is None:
        here.frozen.unlink(missing_ok=True)  # of an attempt with other settings
    if features and not model.released:
        frozen = model.release_frozen()
        if start is None and ranks.here().first:
            write_frozen(here, frozen, model.released)
    batch = min(data.global_batch, len(data.photos.splits["train"]))
    model.global_batch = batch if batch % ranks.here().world_size else 0  # uneven shares are weighed
    with stop.deferred(), only_useful_warnings(), _threads_for(features):
        trainer.fit(model, datamodule=features or data, ckpt_path=start, weights_only=True)
    totals = history.totals()
    if totals["epochs"] < config["trainer"]["max_epochs"]:
        log.info("Ended after epoch %d of %d", totals["epochs"], config["trainer"]["max_epochs"])
    best = best_row(history.rows, config)
    write_json(here.fit, {**totals, "max_epochs": totals["epochs"], "best_epoch": best["epoch"]})


def _keep_global_batch(checkpoint: Mapping[str, Any], data: DogBreedData) -> None:
    """A step trains on as many photos as it did before, however many processes share them now."""
    kinds = (DogBreedData, cached.CachedFeatures)
    states = [checkpoint[kind.__qualname__] for kind in kinds if kind.__qualname__ in checkpoint]
    before = int(states[0].get("global_batch", data.batch_size))
    if before != data.global_batch:
        then, now = before // data.batch_size, ranks.here().world_size
        log.warning(
            "%d processes trained this run before, %d do now: a step stays %d photos, about %d for each; dropout is "
            "drawn anew, and BatchNorm that is trained sees other shares",
            then,
            now,
            before,
            round(before / now),
        )
    data.global_batch = before


@contextmanager
def _threads_for(features: cached.CachedFeatures | None) -> Iterator[None]:
    """One thread where a step is a small matrix product: handing it to others takes longer than computing it."""
    if features is not None and len(features.shape) == 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(available_cpus())


def _check_same(checkpoint: Mapping[str, Any], model: DogBreedClassifier, data: DogBreedData, path: Path) -> None:
    """Refuse a checkpoint of another model, class list or data set."""
    findings = []
    before, now = checkpoint["hyper_parameters"], dict(model.hparams)
    for key in sorted((set(before) | set(now)) - {"weights", "classes", "compile"}):
        if key == "scale_lr" and key not in before:
            continue  # of a time when one process trained
        if before.get(key) != now.get(key):
            findings.append(f"model.{key} was {before.get(key)} and is now {now.get(key)}")
    if before["classes"] != now["classes"]:
        odd = sorted(set(before["classes"]) ^ set(now["classes"]))
        findings.append(f"the class list differs ({len(before['classes'])} then, {len(now['classes'])} now): {odd[:3]}")
    elif data.photos.digest not in [
        checkpoint.get(source.__qualname__, {}).get("digest") for source in (DogBreedData, cached.CachedFeatures)
    ]:
        findings.append(f"the photos in {data.root} are not those it was trained on")
    if findings:
        listed = "\n".join(f"- {finding}" for finding in findings)
        raise CheckpointError(f"{path} cannot be gone on with:\n{listed}\nTry: a new run, without resume=")


def _check_memory(
    model: DogBreedClassifier, batch_size: int, features: tuple[int, ...] | None = None, *, resumes: bool = False
) -> None:
    """Refuse a batch that cannot fit before it takes the machine down: on Linux the kernel kills without a word."""
    if torch.cuda.is_available():
        return  # there, running out is an error that can be caught
    needed, free = least_bytes(model, batch_size, features), available_memory_bytes()
    if needed > free:
        fits = max(1, int(batch_size * free / needed * 0.8))
        advice = f"data.batch_size={fits}"
        if resumes:  # its steps stay as large as they were
            advice = f"a machine with more memory, as many processes as before, or a new run with {advice}"
        raise ConfigError(
            f"A batch of {batch_size} photos does not fit: a training step needs at least {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB of memory are free.\nTry: {advice}"
        )
