"""One run, from photos to report, in one folder; begun, or gone on with from wherever it stopped."""

import csv
import errno
import io
import json
import logging
import math
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf
from torch import Tensor

from dogbreed import backbones, calibration, checkpoints, ranks, report
from dogbreed.data import DogBreedData, PhotoLoader
from dogbreed.errors import CheckpointError, ConfigError, DataError, DogBreedError, raise_findings
from dogbreed.features import cached
from dogbreed.features.cached import FeatureLoader
from dogbreed.hardware import available_cpus, available_memory_bytes, keep_freed_memory
from dogbreed.interruption import Interruption
from dogbreed.memory import least_bytes
from dogbreed.model import DogBreedClassifier, metrics
from dogbreed.run_folder import RunFolder, storage_error, write_json, write_text

log = logging.getLogger("dogbreed")
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and device lists; ours says it once

_OURS = frozenset(
    {  # arguments of Lightning's Trainer
        "max_steps",
        "max_time",
        "fast_dev_run",
        "overfit_batches",
        "val_check_interval",
        "check_val_every_n_epoch",
        "limit_val_batches",
        "num_sanity_val_steps",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "callbacks",
        "plugins",
        "logger",
        "default_root_dir",
        "reload_dataloaders_every_n_epochs",
    }
)
RANKS_TIMEOUT_S, RANKS_LEAST_S = 300.0, 5.0
# of the run folder, for processes that do not write it
_NOT_COPIED = ("features", "train.log", "report.html", "model.tar.gz")
MONITORS = ("val/acc", "val/top5", "val/f1", "val/loss", "val/ece")


Watch: TypeAlias = Callable[[int, Mapping[str, float]], bool]  # epoch (from 1) and its val/ metrics; true: that will do


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
        ranks.joined(timeout_s),
        _folder_of_this_process(folder) as here,
        _memory_errors(config),
        _disk_errors(here),
        _compile_errors(),
    ):
        raise_findings(ConfigError, list(_findings(config)))
        _forget_what_does_not_fit(here)
        longer = here.fit.exists() and _read_json(here.fit)["max_epochs"] < config["trainer"]["max_epochs"]
        done = here.report if config.get("test", True) else here.metrics
        # the report, which others than the first have no copy of, says that all is done
        if ranks.from_first(lambda: here.metrics.exists() and done.exists() and not longer):
            log.info("This run is finished: nothing to do.")
            return _read_json(here.metrics)
        if not here.config.exists():
            _write_config(config, here)
        use_hardware()
        seed_everything(config["seed"], workers=True, verbose=False)
        data = _data(config, here)
        if longer or not here.fit.exists():
            _fit(config, here, data, stop, watch)
        stop.check()
        if not config.get("test", True):
            write_json(here.metrics, _validated(config, here))
            return _read_json(here.metrics)
        if not here.metrics.exists() or "test/acc" not in _read_json(here.metrics):
            _write_config(config, here)  # of a run that began with test=false it says so
            _test(config, here, data, stop)
        stop.check()
        ranks.part()
        if ranks.here().first:
            _export(here)  # before the report, which says that all is done
            stop.check()
            report.write(here, data.root)
        return _read_json(here.metrics)


@contextmanager
def _folder_of_this_process(folder: Path) -> Iterator[RunFolder]:
    """The run folder, for the first process alone. Each other one has what lies there as it begins in a folder of its
    own, so that all decide alike, and what it writes ends with it.
    """
    if ranks.here().first:
        ranks.met()
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
        ranks.met()
        yield RunFolder(own)


def _export(here: RunFolder) -> None:
    from dogbreed import export  # onnx, which only the end of a run needs

    export.write(here)


def _forget_what_does_not_fit(here: RunFolder) -> None:
    """What says that training or the test is done must not count without the checkpoints that came of it.

    On a rented machine files are saved one by one: after an interruption a folder may hold some newer than others.
    """
    if not (here.fit.exists() and here.best.exists()) or "best_epoch" not in (fit := _read_json(here.fit)):
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
        fitted = (_read_json(here.metrics) if here.metrics.exists() else {}).get("temperature")
        if fitted is None or float(best["state_dict"]["temperature"]) == torch.tensor(fitted).item():
            return
    for path in done:
        path.unlink(missing_ok=True)


def share(config: Mapping[str, Any], folder: Path) -> None:
    """Have what runs with these settings share, whatever head they train: the photos, and their features.

    folder: for the list of photos that are passed over. Raises as `run` does.
    """
    here = RunFolder(folder)
    with Interruption() as stop, _memory_errors(config), _disk_errors(here):
        raise_findings(ConfigError, list(_findings(config)))
        use_hardware()
        seed_everything(config["seed"], workers=True, verbose=False)  # of which random weights are made
        data, settings = _data(config, here), cached.settings_of(config)
        place = _place(config, here)
        if cached.recall(config["model"], data, settings, **place) is None:
            model: DogBreedClassifier = _build(config["model"], classes=list(data.classes))
            cached.prepare(model, data, settings, **place, check=stop.check)


def _findings(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the settings alone; what depends on photos or weights comes later."""
    if config["monitor"] not in MONITORS:
        yield f"monitor={config['monitor']} is no validation metric.\nTry: one of {', '.join(MONITORS)}"
    elif config["mode"] != (better := "min" if config["monitor"] in ("val/loss", "val/ece") else "max"):
        yield f"monitor={config['monitor']} with mode={config['mode']} would keep the worst epoch.\nTry: mode={better}"
    if not (config["trainer"].get("max_epochs") or 0) >= 1:
        yield f"trainer.max_epochs={config['trainer'].get('max_epochs')}: nothing would be trained.\nTry: 1 or more"
    for key, least in (("batch_size", 1), ("image_px", 8), ("workers", 0)):
        value = config["data"].get(key)
        if not (isinstance(value, int) and value >= least) and not (key == "workers" and value is None):
            yield f"data.{key}={value} cannot be.\nTry: a whole number, at least {least}"
    if (devices := config["trainer"].get("devices", 1)) != 1 or config["trainer"].get("num_nodes", 1) != 1:
        yield (
            f"trainer.devices={devices}: each process of a run has one device.\n"
            "Try: torchrun --nproc_per_node=<devices> train.py ..., or launcher=sagemaker_multi"
        )
    if not ((config.get("ranks") or {}).get("timeout_s", RANKS_TIMEOUT_S) >= RANKS_LEAST_S):
        yield f"ranks.timeout_s must be at least {RANKS_LEAST_S:g} seconds.\nTry: {RANKS_TIMEOUT_S:g}"
    yield from cached.findings(cached.settings_of(config), augmented=config["data"].get("augment") is not None)
    for key in sorted(_OURS & config["trainer"].keys()):
        yield f"trainer.{key} is for the run itself to set: it would break checkpoints or the report.\nTry: without it"
    if not 0 <= config["seed"] < 2**32:
        yield f"seed={config['seed']} is out of its range.\nTry: a whole number from 0 to 4294967295"
    for key in ("lr", "weight_decay", "label_smoothing", "dropout", "warmup", "backbone_lr_scale", "ema_decay"):
        value = config["model"].get(key) or 0.0
        top = float("inf") if key in ("lr", "weight_decay", "backbone_lr_scale") else 1.0
        if not 0 <= value <= top:
            yield f"model.{key}={value} is out of its range.\nTry: a value from 0 to {top:g}"


def _write_config(config: Mapping[str, Any], here: RunFolder) -> None:
    write_text(here.config, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def use_hardware() -> None:
    """Set this process up for training: threads, memory, arithmetic."""
    keep_freed_memory()
    torch.set_num_threads(available_cpus())  # torch counts the machine's, not the container's
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and nothing here reads such memory


def _data(config: Mapping[str, Any], here: RunFolder) -> DogBreedData:
    data: DogBreedData = _build(config["data"])
    with ranks.leaders_first():
        try:
            data.prepare_data()
        except DataError as error:  # often there is no network: then the weights cannot be had either
            findings = [str(error), *_weights_findings(config, here)]
            raise_findings(DataError, findings)
        photos = data.look()
    if photos.skipped:
        write_text(here.skipped, photos.skipped_csv())
        log.warning("%s photos are passed over; %s says why", f"{len(photos.skipped):,}", here.skipped)
    data.setup()
    ranks.check_alike("photos", data.photos.digest)
    counts = ", ".join(f"{len(part):,} {split}" for split, part in photos.splits.items())
    log.info("Data: %s photos of %s classes", counts, len(photos.classes))
    return data


def _weights_findings(config: Mapping[str, Any], here: RunFolder) -> list[str]:
    settings = config["model"]
    try:
        if not here.last.exists():
            backbones.build(settings["library"], settings["backbone"], settings["weights"])
    except DogBreedError as error:
        return [str(error)]
    return []


def _fit(
    config: Mapping[str, Any], here: RunFolder, data: DogBreedData, stop: Interruption, watch: Watch | None
) -> None:
    start = checkpoints.newest(here)
    checkpoint = None if start is None else checkpoints.read(start)
    settings = cached.settings_of(config)
    if checkpoint is not None:  # as it began, wherever it goes on
        settings = replace(settings, mode="cached" if checkpoints.FROZEN in checkpoint else "off")
    place = _place(config, here)
    features: cached.CachedFeatures | None
    found = cached.recall(config["model"], data, settings, **place)
    if found and (checkpoint is None or checkpoint[checkpoints.FROZEN] == found[1].released):
        features, backbone = found
        model: DogBreedClassifier = _build(
            config["model"], classes=list(data.classes), released=backbone.released, released_width=backbone.width
        )
    else:
        # the weights come with the checkpoint: nothing is downloaded to be overwritten
        weights = {} if checkpoint is None else {"weights": None}
        model = _build(config["model"], classes=list(data.classes), **weights)
        features = None
    if start is not None and checkpoint is not None:
        _check_same(checkpoint, model, data, start)
        _keep_global_batch(checkpoint, data)
        if checkpoints.FROZEN in checkpoint and not model.released:
            model.load_state_dict(_read_whole(config, here, start)["state_dict"])
    if not model.released:
        features = cached.prepare(model, data, settings, **place, check=stop.check)
    if features is None or len(features.shape) > 1:  # heads on pooled features fit anywhere
        shape = features.shape if features else None
        most = min(data.global_batch, len(data.photos.splits["train"]))
        _check_memory(model, math.ceil(most / ranks.here().world_size), shape, resumes=start is not None)
    _write_config(config, here)  # only now: a refused resume leaves the folder as it was
    # of a finished run that is made longer; fit.json last, so that a kill in between does not look like a finished run
    for path in (here.report, here.model, here.predictions, here.metrics, here.fit):
        path.unlink(missing_ok=True)
    history = History(here, watch)
    trainer = _trainer(
        config,
        here,
        [
            *_progress_bar(),
            history,
            checkpoints.BestCheckpoint(here, config["monitor"], config["mode"]),
            checkpoints.ResumePoint(here, stop, **config["save"]),
        ],
        logger=_build(config["logger"], save_dir=str(here.path)) if config.get("logger") else False,
    )
    _write_environment(config, here, data, trainer)
    if start is None:
        log.info("Training %s, %s%s", _describe(model), _device(trainer), ", on cached features" if features else "")
    else:
        log.info("Going on from %s", start)
    if start is None:
        here.frozen.unlink(missing_ok=True)  # of an attempt with other settings
    if features and not model.released:
        frozen = model.release_frozen()
        if start is None and ranks.here().first:
            _write_frozen(here, frozen, model.released)
    batch = min(data.global_batch, len(data.photos.splits["train"]))
    model.global_batch = batch if batch % ranks.here().world_size else 0  # uneven shares are weighed
    with stop.deferred(), _only_useful_warnings(), _threads_for(features):
        trainer.fit(model, datamodule=features or data, ckpt_path=start, weights_only=True)
    totals = history.totals()
    if totals["epochs"] < config["trainer"]["max_epochs"]:
        log.info("Ended after epoch %d of %d", totals["epochs"], config["trainer"]["max_epochs"])
    best = _best(history.rows, config)
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


def _place(config: Mapping[str, Any], here: RunFolder) -> dict[str, Any]:
    """Device and precision of a run, as Lightning will choose them."""
    bare = _trainer(config, here, [], logger=False)  # touches nothing
    return {"device": bare.strategy.root_device, "precision": str(bare.precision)}


def _read_whole(config: Mapping[str, Any], here: RunFolder, path: Path) -> dict[str, Any]:
    """A checkpoint with the whole network; a run that found its features has not needed the frozen part before."""
    part = checkpoints.read(path)
    released = part.get(checkpoints.FROZEN)
    if released and not here.frozen.exists():
        model: DogBreedClassifier = _build(config["model"], classes=part["hyper_parameters"]["classes"])
        frozen = model.release_frozen()
        if model.released != released:
            raise CheckpointError(
                f"model.weights={config['model']['weights']} are not those that the run in {here.path} began with.\n"
                "Try: put those back, then resume; or a new run"
            )
        _write_frozen(here, frozen, released)
    return checkpoints.read_whole(path)


def _write_frozen(here: RunFolder, frozen: dict[str, Tensor], released: str) -> None:
    checkpoints.write({"state_dict": frozen, "hyper_parameters": {}, checkpoints.FROZEN: released}, here.frozen)


@contextmanager
def _threads_for(features: cached.CachedFeatures | None) -> Iterator[None]:
    """One thread where a step is a small matrix product: handing it to others takes longer than computing it."""
    if features is not None and len(features.shape) == 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(available_cpus())


def _test(config: Mapping[str, Any], here: RunFolder, data: DogBreedData, stop: Interruption) -> None:
    """Calibrate best.ckpt on the validation photos, then test it; one pass over each."""
    best, on_features = ranks.from_first(lambda: (_read_whole(config, here, here.best), here.frozen.exists()))
    model = DogBreedClassifier.from_state(best)
    # in full precision, as the Predictor computes: the numbers are to be the checkpoint's
    config = {**config, "trainer": {**config["trainer"], "precision": "32-true"}}
    source: DogBreedData | cached.CachedFeatures = data
    if on_features:
        features = cached.prepare(
            model,
            data,
            replace(cached.settings_of(config), mode="auto"),  # the network is whole: photos would do as well
            **_place(config, here),
            splits=("valid", "test"),
            check=stop.check,
        )
        source = features or data
    log.info("Testing the best epoch (%s)", int(best["epoch"]) + 1)
    val_logits, val_labels = _logits(config, here, model, source.val_dataloader())
    test_logits, test_labels = _logits(config, here, model, source.test_dataloader())
    temperature = calibration.fit_temperature(val_logits, val_labels)
    best["state_dict"]["temperature"] = torch.tensor(temperature)
    if ranks.here().first:
        checkpoints.write(best, here.best)
    test_probabilities = (test_logits / temperature).softmax(-1)
    results = {
        **_scores("val", val_logits / temperature, val_labels),
        **_scores("test", test_logits / temperature, test_labels),
        "test/ece_uncalibrated": _scores("test", test_logits, test_labels)["test/ece"],
        "temperature": temperature,
        "best_epoch": float(best["epoch"]) + 1,
        **_of_the_fit(here),
    }
    write_text(here.predictions, _predictions_csv(data, test_probabilities))
    write_json(here.metrics, results)


def _validated(config: Mapping[str, Any], here: RunFolder) -> dict[str, float]:
    """What is known of best.ckpt from training alone: its epoch's row of metrics.csv."""
    with here.history.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    best = _best(rows, config)
    return {
        **{name: value for name, value in best.items() if name.startswith("val/")},
        "best_epoch": best["epoch"],
        **_of_the_fit(here),
    }


def _best(rows: Sequence[Mapping[str, float]], config: Mapping[str, Any]) -> Mapping[str, float]:
    """The best epoch's row; of equals the first, as BestCheckpoint has it."""
    better = max if config["mode"] == "max" else min
    return better(rows, key=lambda row: row[config["monitor"]])


def _of_the_fit(here: RunFolder) -> dict[str, float]:
    fit = _read_json(here.fit)
    return {
        "epochs": fit["epochs"],
        "steps": fit["steps"],
        "train/images_per_s": fit["images_per_s"],
        "train/data_wait": fit["data_wait"],
        **({"train/efficiency": fit["efficiency"]} if "efficiency" in fit else {}),
        "train/seconds": fit["seconds"],
    }


def _logits(
    config: Mapping[str, Any], here: RunFolder, model: DogBreedClassifier, loader: PhotoLoader | FeatureLoader
) -> tuple[Tensor, Tensor]:
    """Logits [N, classes] and labels [N] of a whole split, in the loader's order."""
    outputs = _Outputs()
    trainer = _trainer(config, here, [outputs, *_progress_bar()], logger=False)
    with _only_useful_warnings():
        trainer.test(model, loader, verbose=False)
    own = [torch.cat([batch[name] for batch in outputs.batches]) for name in ("logits", "labels")]
    logits, labels = (torch.cat(parts) for parts in zip(*ranks.gathered(own, stage=True), strict=True))
    return logits, labels


class _Outputs(Callback):
    """Keeps what test_step returned. Trainer.predict would do so too, but rebuilds loaders that are not torch's own."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any) -> None:
        self.batches.append(outputs)


class _ProgressBar(RichProgressBar):
    """Lightning's, with loss and accuracy of the epoch so far, and epochs counted from 1 as everywhere else."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        model = cast(DogBreedClassifier, pl_module)
        if not trainer.training:
            return {}
        loss, right = model.train_averages
        return {"loss": f"{loss:.2f}", "acc": f"{right:.0%}"}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"


def _progress_bar() -> list[Callback]:
    return [_ProgressBar()] if sys.stdout.isatty() else []


def _scores(stage: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    collection = metrics(logits.shape[1])
    for part, answers in zip(torch.split(logits.softmax(-1), 64), torch.split(labels, 64), strict=True):
        collection.update(part, answers)  # in parts: torchmetrics counts pairs of classes for each row at once
    values = collection.compute()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return {f"{stage}/loss": float(loss), **{f"{stage}/{name}": float(value) for name, value in values.items()}}


def _predictions_csv(data: DogBreedData, probabilities: Tensor) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "breed", "predicted", "probability"))
    top, predicted = probabilities.max(-1)
    for photo, label, probability in zip(data.photos.splits["test"], predicted.tolist(), top.tolist(), strict=True):
        writer.writerow((photo.path, data.classes[photo.label], data.classes[label], f"{probability:.6f}"))
    return table.getvalue()


def _trainer(config: Mapping[str, Any], here: RunFolder, callbacks: list[Callback], logger: Any) -> Trainer:
    settings = dict(config["trainer"])
    if settings.get("precision") == "auto":
        settings["precision"] = "bf16-mixed" if _has_bf16(settings) else "32-true"
    processes: dict[str, Any] = {}
    plugins: list[Any] = [checkpoints.DurableCheckpointIO()]
    if (all_of_us := ranks.here()).several:
        settings |= {"devices": all_of_us.local_world_size, "num_nodes": all_of_us.nodes}
        # buffers that training changes, running statistics of BatchNorm, are made the same before they are used
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
        processes = {"strategy": strategy, "use_distributed_sampler": False}  # loaders know their share
        plugins.append(TorchElasticEnvironment())
    trainer: Trainer = _build(
        settings,
        callbacks=callbacks,
        logger=logger,
        plugins=plugins,
        **processes,
        default_root_dir=str(here.path),
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    if all_of_us.several:  # its own handler for SIGTERM would talk to the others, wherever they are at that moment
        cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None
    return trainer


def _build(node: Mapping[str, Any], **arguments: Any) -> Any:
    """What a YAML file describes; our own errors come out of Hydra's wrapping as they are."""
    try:
        return instantiate(dict(node), **arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, DogBreedError):
            raise error.__cause__ from None
        raise ConfigError(f"{node['_target_']} cannot be made: {error.__cause__ or error}") from error


def _has_bf16(settings: Mapping[str, Any]) -> bool:
    """On GPUs alone: CPUs that have it too train a ResNet50 twice as fast, but depthwise convolutions more slowly."""
    wants_gpu = settings.get("accelerator") in ("auto", "gpu", "cuda")
    return wants_gpu and torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))


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


@contextmanager
def _memory_errors(config: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if "DataLoader worker" in str(error) and "killed" in str(error):
            raise ConfigError(
                f"A process that decodes photos was ended by the system: {str(error).splitlines()[0]}\n"
                "Try: data.workers=0, a smaller data.batch_size in a new run, or in a container more shared memory "
                "(docker run --shm-size=2g)"
            ) from error
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        size = config["data"]["batch_size"]
        raise ConfigError(
            f"Out of memory with data.batch_size={size}: {str(error).splitlines()[0]}\n"
            f"Try: a new run with data.batch_size={max(1, size // 2)}, "
            "and trainer.accumulate_grad_batches=2 for the same steps"
        ) from error


@contextmanager
def _disk_errors(here: RunFolder) -> Iterator[None]:
    """A disk that fills up is met wherever something is written, loggers and libraries included."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            raise
        raise storage_error(Path(error.filename or here.path), error) from error


@contextmanager
def _compile_errors() -> Iterator[None]:
    """torch.compile needs a C++ compiler (on a GPU also Triton), and finds out in the first step."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ConfigError(
            f"torch.compile cannot compile this network here: {type(error).__name__}: {first}\n"
            "Try: model.compile=false, or install a C++ compiler (g++, or CXX=<its path> in the environment)"
        ) from error


@contextmanager
def _only_useful_warnings() -> Iterator[None]:
    """Without Lightning's remarks on what is meant to be so here."""
    with warnings.catch_warnings():
        for remark in (
            "Found .* module.* in eval mode",  # the frozen ones
            ".*does not have many workers.*",  # as many as there are CPUs
            ".*smaller than the logging interval.*",
            "Checkpoint directory .* exists and is not empty",  # a resumed run's
            ".*`LeafSpec` is deprecated.*",  # between Lightning and torch
            ".*treespec, LeafSpec.*",
            "The `srun` command is available",
            "GPU available but not used",
            "`broadcast_buffers` is deprecated",  # its successor is not in all versions of torch
            "It is recommended to use `self.log",  # what is logged here is of all processes already
            "Trying to infer the `batch_size`",
        ):
            warnings.filterwarnings("ignore", message=remark)
        yield


class History(Callback):
    """metrics.csv, a row an epoch, and a line an epoch in the log. A resumed run carries the rows before it along."""

    def __init__(self, here: RunFolder, watch: Watch | None) -> None:
        self.here, self.watch = here, watch
        self.rows: list[dict[str, float]] = []
        self._images = 0  # since the epoch began; may be in an earlier process
        self._seconds = 0.0
        self._waiting = 0.0  # seconds of these that the loader's batches were waited for
        self._since = time.monotonic()
        self._waited_before = 0.0
        self._compiled = 0  # sizes of batches that torch.compile has met

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        now, waited = time.monotonic(), cast(Any, trainer.train_dataloader).waited_s
        compiled = len(cast(DogBreedClassifier, pl_module).compiled_sizes)
        if compiled == self._compiled:
            self._images += len(batch[1])
            self._seconds += now - self._since
            self._waiting += waited - self._waited_before
        else:  # a step of minutes that says nothing of those to come
            log.info("Compiled for pictures of %d px: %.0f s, not counted", batch[0].shape[-1], now - self._since)
        self._since, self._waited_before, self._compiled = now, waited, compiled

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = cast(DogBreedClassifier, pl_module)
        now = time.monotonic()
        train_loss, train_acc = model.global_train_averages()
        images = ranks.total([self._images])[0]
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/loss": train_loss,
            "train/acc": train_acc,
            **{name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")},
            "seconds": round(self._seconds + now - self._since, 3),
            "images_per_s": round(images / max(self._seconds, 1e-9), 1),
            "data_wait": round(self._waiting / max(self._seconds, 1e-9), 4),
            **_efficiency(trainer, self._seconds),
        }
        if not (math.isfinite(row["train/loss"]) and math.isfinite(row["val/loss"])):
            raise ConfigError(
                f"Training has diverged: in epoch {row['epoch']} the loss is {row['train/loss']} (train) and "
                f"{row['val/loss']} (val).\nTry: a new run with a smaller model.lr"
            )
        self.rows.append(row)
        self._images, self._seconds, self._waiting, self._since = 0, 0.0, 0.0, now
        self._write()
        together = f" by {ranks.here().world_size} processes" if ranks.here().several else ""
        if "efficiency" in row:
            together += f", {row['efficiency']:.0%} efficiency"
        log.info(
            "epoch %d/%d  train loss %.2f acc %.1f%%  val loss %.2f acc %.1f%%  %.0f images/s%s  %.0f s",
            row["epoch"],
            trainer.max_epochs or 0,
            row["train/loss"],
            100 * row["train/acc"],
            row["val/loss"],
            100 * row["val/acc"],
            row["images_per_s"],
            together,
            row["seconds"],
        )
        validated = {name: value for name, value in row.items() if name.startswith("val/")}
        if self.watch is not None and self.watch(int(row["epoch"]), validated):
            trainer.should_stop = True

    def totals(self) -> dict[str, float]:
        """Of the whole training: epochs, steps, seconds (validation included), images/s (validation not included), the
        share of that time in which the model waited for data, and where several processes train, their efficiency.
        """
        speeds = sorted(row["images_per_s"] for row in self.rows)
        waits = sorted(row["data_wait"] for row in self.rows)
        together = sorted(row["efficiency"] for row in self.rows if "efficiency" in row)
        return {
            "epochs": len(self.rows),
            "steps": self.rows[-1]["step"],
            "seconds": round(sum(row["seconds"] for row in self.rows), 1),
            "images_per_s": speeds[len(speeds) // 2],
            "data_wait": waits[len(waits) // 2],
            **({"efficiency": together[len(together) // 2]} if together else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "images": self._images, "seconds": self._seconds, "waiting": self._waiting}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._images, self._seconds = state_dict["images"], state_dict["seconds"]
        self._waiting = state_dict["waiting"]
        if self.rows:
            self._write()  # rows of steps that are trained again go

    def _write(self) -> None:
        table = io.StringIO()
        names = dict.fromkeys(name for row in self.rows for name in row)  # efficiency is of several processes alone
        writer = csv.DictWriter(table, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.here.history, table.getvalue())


def _efficiency(trainer: Trainer, seconds: float) -> dict[str, float]:
    """Scaling efficiency: the share of a step in which this process did not wait for gradients of others.

    Out of what DistributedDataParallel measures of some steps: communication that its backward pass did not hide.
    """
    step_s = seconds / max(1, int(trainer.num_training_batches))
    measured: Mapping[str, Any] = getattr(trainer.strategy.model, "_get_ddp_logging_data", dict)()
    exposed_ns = measured.get("avg_backward_comm_time", 0) - measured.get("avg_backward_compute_comm_overlap_time", 0)
    if not measured.get("avg_backward_comm_time"):
        return {}  # it has not looked yet
    return {"efficiency": round(1 - min(1.0, exposed_ns / 1e9 / max(step_s, 1e-9)), 4)}


def _write_environment(config: Mapping[str, Any], here: RunFolder, data: DogBreedData, trainer: Trainer) -> None:
    if here.environment.exists():
        return  # a resumed run: it says how the run began
    photos = data.photos
    write_json(
        here.environment,
        {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": _device(trainer),
            "processes": ranks.here().world_size,
            "seed": config["seed"],
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
            "git": config.get("git"),
            "classes": list(photos.classes),
            "photos": {split: len(part) for split, part in photos.splits.items()},
            "photos_digest": photos.digest,
            "skipped": len(photos.skipped),
            "packages": _packages(),
        },
    )


def _packages() -> dict[str, str]:
    """Of this environment, by the names of their folders: reading each one's metadata takes half a second."""
    folders = sorted(folder.stem for place in sys.path for folder in Path(place).glob("*.dist-info"))
    return dict(name.rsplit("-", 1) for name in folders if "-" in name)


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    processes = f"{ranks.here().world_size} x " if ranks.here().several else ""
    if device.type == "cuda":
        return f"{processes}{torch.cuda.get_device_name(device)}, {trainer.precision}"
    return f"{processes}{device.type}, {torch.get_num_threads()} threads"


def _describe(model: DogBreedClassifier) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    total = sum(p.numel() for p in model.parameters()) / 1e6
    share = f"{trained:.2f}" if model.released else f"{trained:.2f} of {total:.2f}"  # a released backbone is not there
    return f"{model.hparams['backbone']}, {model.hparams['trainable']}: {share} M weights"


def _read_json(path: Path) -> dict[str, float]:
    return cast(dict[str, float], json.loads(path.read_text()))
