"""Defaults that depend on what is trained: a head on cached features has more epochs and smaller steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dogbreed.data import DogBreedData
from dogbreed.model import DogBreedClassifier
from dogbreed.workload import Workload, usual_batch
from tests.support.configs import composed

HEADS = (30, None, 3e-3)
PHOTOS = (10, 64, 2e-3)


@pytest.mark.parametrize(
    ("typed", "defaults"),
    [
        ([], HEADS),
        (["experiment=quickstart"], HEADS),
        (["features.mode=cached"], HEADS),
        (["features.mode=off"], PHOTOS),
        (["features.mode='off'"], PHOTOS),
        (["model.trainable=all"], PHOTOS),
        (["model.trainable=layer4"], PHOTOS),
        (["experiment=finetune"], (15, 64, 1e-3)),
        (["experiment=finetune", "model.trainable=head"], (15, None, 1e-3)),
        (["trainer.max_epochs=3", "data.batch_size=32", "model.lr=0.1"], (3, 32, 0.1)),
        (["model.trainable=all", "trainer.max_epochs=3"], (3, 64, 2e-3)),
    ],
)
def test_only_heads_on_cached_features_have_the_defaults_of_heads(typed: list[str], defaults: Any) -> None:
    cfg = composed(*typed)
    assert (cfg.trainer.max_epochs, cfg.data.batch_size, cfg.model.lr) == defaults
    assert cfg.data.grow_epochs == cfg.trainer.max_epochs


@pytest.mark.parametrize(
    ("typed", "scaled"),
    [
        (["data.batch_size=32"], False),
        (["experiment=quickstart", "data.batch_size=32"], False),
        (["data.batch_size=32", "model.scale_lr=true"], True),
        (["features.mode=off"], True),
        (["experiment=finetune"], True),
    ],
)
def test_several_processes_raise_the_rate_of_a_head_only_if_they_are_told_to(typed: list[str], scaled: bool) -> None:
    assert composed(*typed).model.scale_lr is scaled


@pytest.mark.parametrize(("photos", "batch"), [(1, 8), (18, 8), (640, 16), (1330, 33), (6680, 64), (10**6, 64)])
def test_the_fewer_the_photos_the_smaller_the_steps(photos: int, batch: int) -> None:
    assert usual_batch(photos) == batch


def test_a_plan_counts_the_steps_that_the_run_will_take() -> None:
    settings: dict[str, Any] = {
        "model": {"backbone": "resnet50", "trainable": "head", "image_px": 224},
        "data": {"batch_size": None},
        "trainer": {"max_epochs": 30},
    }
    assert Workload.of(settings, {"train": 1330, "valid": 3, "test": 3}).batch_size == 33
    assert Workload.of(settings).batch_size == 64  # the number of photos is unknown


def test_processes_share_the_steps_of_one_and_keep_its_learning_rate(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps_and_rate() -> tuple[int, float]:
        data = DogBreedData(photos, batch_size=None, image_px=32, workers=0)
        model = DogBreedClassifier(data.classes, library="timm", backbone="test_resnet", weights=None, image_px=32)
        model.shares_steps = data.batch_size is None
        model.trainer = SimpleNamespace(estimated_stepping_batches=10, precision_plugin=None)  # type: ignore[assignment]
        return data.global_batch, model.configure_optimizers()["optimizer"].defaults["lr"]

    alone = steps_and_rate()
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert steps_and_rate() == alone == (8, 2e-3)
