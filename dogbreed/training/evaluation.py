"""Calibrate and test the best epoch, and write its metrics and predictions."""

import csv
import io
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from dogbreed import calibration, checkpoints, unlike
from dogbreed.best_epoch import best_row
from dogbreed.data import DogBreedData
from dogbreed.distributed import collectives, ranks
from dogbreed.drawn import without_dogs
from dogbreed.features import cached
from dogbreed.features.loaders import CachedFeatures, FeatureLoader
from dogbreed.features.settings import settings_of
from dogbreed.inference import Predictor
from dogbreed.interruption import Interruption
from dogbreed.loading import PhotoLoader
from dogbreed.model import DogBreedClassifier, metrics
from dogbreed.run_folder import RunFolder, read_json, write_json, write_text
from dogbreed.scanning.names import printable
from dogbreed.training import copies
from dogbreed.training.inputs import device_and_precision, read_whole
from dogbreed.training.trainer import make_trainer, only_useful_warnings, progress_bar
from dogbreed.unlike import Unlike

log = logging.getLogger("dogbreed")


def test(config: Mapping[str, Any], here: RunFolder, data: DogBreedData, stop: Interruption) -> None:
    """Calibrate best.ckpt on the validation photos, then test it, in one pass over each split."""
    best, on_features = collectives.broadcast(lambda: (read_whole(config, here, here.best), here.frozen.exists()))
    model = DogBreedClassifier.from_state(best)
    # in full precision, like the Predictor: the metrics must be those of the checkpoint
    config = {**config, "trainer": {**config["trainer"], "precision": "32-true"}}
    source: DogBreedData | CachedFeatures = data
    if on_features:
        features = cached.prepare(
            model,
            data,
            replace(settings_of(config), mode="auto"),  # the whole network is in memory, so photos would do as well
            **device_and_precision(config, here),
            splits=("valid", "test"),
            check=stop.check,
        )
        source = features or data
    tests = bool(data.photos.splits["test"])
    log.info("%s the best epoch (%s)", "Testing" if tests else "Calibrating", int(best["epoch"]) + 1)
    if not tests:
        log.info("Nothing is tested: there are no test photos (data.test_fraction=0)")
    val_logits, val_labels = _logits(config, here, model, source.val_dataloader())
    test_logits, test_labels = val_logits[:0], val_labels[:0]
    if tests:
        test_logits, test_labels = _logits(config, here, model, source.test_dataloader())
    temperature = calibration.fit_temperature(val_logits, val_labels)
    best["state_dict"]["temperature"] = torch.tensor(temperature)
    judged = _unlike(model, val_logits)
    checkpoints.add_calibration(best, len(val_labels), judged)
    if ranks.here().first:
        checkpoints.write(best, here.best)
    test_probabilities = (test_logits / temperature).softmax(-1)
    results = {
        **_scores("val", val_logits / temperature, val_labels),
        **(_test_scores(test_logits, test_labels, temperature) if tests else {}),
        **_without_copies(here, data, test_probabilities, test_labels),
        **(_unlike_scores(judged, test_logits) if judged else {}),
        "temperature": temperature,
        "val/photos": float(len(val_labels)),
        "val/confidence": float((val_logits / temperature).softmax(-1).amax(-1).mean()),
        "best_epoch": float(best["epoch"]) + 1,
        **_of_the_fit(here),
    }
    write_text(here.predictions, _predictions_csv(data, test_probabilities))
    write_json(here.metrics, results)


def _test_scores(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    return {
        **_scores("test", logits / temperature, labels),
        "test/ece_uncalibrated": _scores("test", logits, labels)["test/ece"],
    }


def _unlike(model: DogBreedClassifier, val_logits: Tensor) -> Unlike | None:
    """Measure how well the model tells pictures without dogs from the validation photos; None if those are too few."""
    if len(val_logits) < unlike.MIN_PHOTOS:
        return None
    network = Predictor.from_model(model)
    return unlike.measured(val_logits.numpy(), without_dogs.logits(network.logits, model.preprocess))


def _unlike_scores(judged: Unlike, test_logits: Tensor) -> dict[str, float]:
    """Return the AUROC by kind of picture, and the share of the photos that would be called unlike themselves."""
    flagged = {"val/unlike": judged.flagged}
    if len(test_logits):
        flagged["test/unlike"] = float(judged.judge(test_logits.numpy()).mean())
    return {**flagged, **{f"{unlike.AUROC}{kind}": value for kind, value in judged.auroc.items()}}


def _without_copies(here: RunFolder, data: DogBreedData, probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return how many test photos are in train or valid as well, and the accuracy on the others."""
    leaked = copies.recorded(here, data).leaked["test"]
    own = [n for n, photo in enumerate(data.photos.splits["test"]) if printable(photo.path) not in leaked]
    if not leaked:
        return {}
    right = (probabilities.argmax(-1) == labels)[own].float()
    accuracy = {"test/acc_without_copies": float(right.mean())} if own else {}
    return {"test/copies": float(len(leaked)), **accuracy}


def validated(config: Mapping[str, Any], here: RunFolder) -> dict[str, float]:
    """Return the metrics of best.ckpt that training alone gives: its epoch's row of metrics.csv."""
    with here.history.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    kept = [row for row in rows if row["epoch"] == read_json(here.fit).get("best_epoch")]
    best = kept[-1] if kept else best_row(rows, config["monitor"], config["mode"])
    return {
        **{name: value for name, value in best.items() if name.startswith("val/")},
        "best_epoch": best["epoch"],
        **_of_the_fit(here),
    }


def _of_the_fit(here: RunFolder) -> dict[str, float]:
    fit = read_json(here.fit)
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
    """Compute logits [N, classes] and labels [N] of a whole split, in the loader's order."""
    outputs = _Outputs()
    trainer = make_trainer(config, here, [outputs, *progress_bar()], logger=False)
    with only_useful_warnings():
        trainer.test(model, loader, verbose=False)
    own = [torch.cat([batch[name] for batch in outputs.batches]) for name in ("logits", "labels")]
    logits, labels = (torch.cat(parts) for parts in zip(*collectives.all_gather(own, stage=True), strict=True))
    return logits, labels


class _Outputs(Callback):
    """Collects the outputs of test_step. Trainer.predict would too, but it rebuilds loaders that are not torch's."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any) -> None:
        self.batches.append(outputs)


def _scores(stage: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    collection = metrics(logits.shape[1])
    for part, answers in zip(torch.split(logits.softmax(-1), 64), torch.split(labels, 64), strict=True):
        collection.update(part, answers)  # in chunks: torchmetrics compares each row with all pairs of classes at once
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
