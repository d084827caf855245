"""Read the inputs of a run: its photos, and checkpoints with their frozen part."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dogbreed import backbones, checkpoints
from dogbreed.data import DogBreedData
from dogbreed.distributed import collectives
from dogbreed.errors import CheckpointError, DataError, DogBreedError, raise_findings
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder, read_json, write_text
from dogbreed.training import copies
from dogbreed.training.trainer import build, make_trainer

log = logging.getLogger("dogbreed")


def read_photos(config: Mapping[str, Any], here: RunFolder) -> DogBreedData:
    data: DogBreedData = build(config["data"])
    if here.environment.exists():
        data.like = str(read_json(here.environment).get("photos_digest", ""))
    with collectives.leaders_first():
        try:
            data.prepare_data()
        except DataError as error:  # often the network is down: then the weights cannot be downloaded either
            findings = [str(error), *_weights_findings(config, here)]
            raise_findings(DataError, findings)
        photos = data.scan()
    if photos.skipped:
        write_text(here.skipped, photos.skipped_csv())
        log.warning("Skipped %s photos; the reasons are in %s", f"{len(photos.skipped):,}", here.skipped)
    if data.copies.conflicts:
        copies.write(here, data.copies)  # before `setup`, which may refuse them
    data.setup()
    collectives.check_alike("photos", data.photos.digest)
    log.info("Data: %s", photos.understood)
    for note in photos.notes:
        log.info("%s", note)
    return data


def _weights_findings(config: Mapping[str, Any], here: RunFolder) -> list[str]:
    settings = config["model"]
    try:
        if not here.last.exists():
            backbones.build(settings["library"], settings["backbone"], settings["weights"])
    except DogBreedError as error:
        return [str(error)]
    return []


def device_and_precision(config: Mapping[str, Any], here: RunFolder) -> dict[str, Any]:
    """Return the device and precision that Lightning will choose for a run."""
    bare = make_trainer(config, here, [], logger=False)  # has no side effects
    return {"device": bare.strategy.root_device, "precision": str(bare.precision)}


def read_whole(config: Mapping[str, Any], here: RunFolder, path: Path) -> dict[str, Any]:
    """Read a checkpoint with the whole network; a run on cached features has not loaded the frozen part before."""
    part = checkpoints.read(path)
    released = part.get(checkpoints.FROZEN)
    if released and not here.frozen.exists():
        model: DogBreedClassifier = build(config["model"], classes=part["hyper_parameters"]["classes"])
        frozen = model.release_frozen()
        if model.released != released:
            raise CheckpointError(
                f"model.weights={config['model']['weights']} differ from the weights that the run in {here.path} "
                "started with.\n"
                "Try: restore the original weights, then resume; or a new run"
            )
        write_frozen(here, frozen, released)
    return checkpoints.read_whole(path)


def write_frozen(here: RunFolder, frozen: dict[str, Tensor], released: str) -> None:
    checkpoints.write({"state_dict": frozen, "hyper_parameters": {}, checkpoints.FROZEN: released}, here.frozen)
