import math
from inspect import signature
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dogbreed.memory import least_bytes
from dogbreed.model import DogBreedClassifier, _warmup_cosine
from dogbreed.training.trainer import only_useful_warnings

SMALL: dict[str, Any] = {"library": "torchvision", "backbone": "resnet18", "weights": None, "image_px": 32}


def batch(size: int = 4, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=random)
    return images, torch.arange(size) % classes


def test_it_takes_bytes_and_normalises_them_as_its_preprocessing_says() -> None:
    torch.manual_seed(0)
    model = DogBreedClassifier("abc", **SMALL).eval()
    images, _ = batch()
    normalised = torch.from_numpy(model.preprocess.normalise(images.permute(0, 2, 3, 1).numpy()))
    with torch.inference_mode():
        assert torch.allclose(model(images), model(normalised), atol=1e-5)


@pytest.mark.parametrize("trainable", ["head", "layer4", "layer2"])
def test_a_training_step_changes_nothing_that_is_frozen_statistics_included(trainable: str) -> None:
    torch.manual_seed(0)
    model = DogBreedClassifier("abc", trainable=trainable, **SMALL).train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    images, labels = batch()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    changed = {
        key.partition(".")[0] for key, value in model.backbone.state_dict().items() if not value.equal(before[key])
    }
    assert changed == {"head": set(), "layer4": {"layer4"}, "layer2": {"layer2", "layer3", "layer4"}}[trainable]


def test_the_backbone_learns_more_slowly_and_norms_are_not_decayed() -> None:
    model = DogBreedClassifier("abc", trainable="all", lr=0.1, backbone_lr_scale=0.1, weight_decay=0.5, **SMALL)
    model.trainer = type("Trainer", (), {"estimated_stepping_batches": 100})()  # type: ignore[assignment]
    groups = model.configure_optimizers()["optimizer"].param_groups
    weight_shapes = {(round(g["initial_lr"], 6), g["weight_decay"], min(p.ndim for p in g["params"])) for g in groups}
    assert weight_shapes == {(0.1, 0.5, 2), (0.1, 0.0, 1), (0.01, 0.5, 4), (0.01, 0.0, 1)}
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_the_rate_warms_up_to_its_peak_and_falls_along_a_cosine_to_zero() -> None:
    rates = [_warmup_cosine(step, 10, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert all(math.isfinite(rate) for rate in rates)


def test_a_fixed_batch_is_learnt_to_the_last_photo() -> None:
    torch.manual_seed(0)
    tiny = SMALL | {"library": "timm", "backbone": "test_resnet"}
    model = DogBreedClassifier(range(8), trainable="all", dropout=0.0, label_smoothing=0.0, **tiny).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images, labels = batch(16, 8)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model.eval()(images).argmax(-1) == labels).all()


def test_convolutions_keep_the_layout_they_are_fastest_in() -> None:
    model = DogBreedClassifier("abc", **SMALL)
    weight = model.backbone.get_submodule("layer1.0.conv1").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_the_least_memory_grows_with_the_batch_and_with_what_is_trained() -> None:
    def gigabytes(trainable: str, size: int) -> float:
        model = DogBreedClassifier("abc", **SMALL | {"image_px": 224, "trainable": trainable})
        return least_bytes(model, size) / 1e9

    assert gigabytes("all", 64) == pytest.approx(64 * gigabytes("all", 1), rel=0.01)
    assert gigabytes("head", 64) < gigabytes("layer4", 64) < gigabytes("all", 64)
    assert 0.5 < gigabytes("all", 64) < 4  # resnet18 at 224 px keeps some 20 MB an image for backward


@pytest.mark.parametrize("before", ["validate", "test", "validate test validate"])
def test_a_model_can_be_evaluated_before_and_between_its_trainings(before: str) -> None:
    images, labels = batch(8)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    model = DogBreedClassifier("abc", trainable="head", **SMALL)
    trainer = Trainer(max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with only_useful_warnings():
        first = [getattr(trainer, name)(model, loader, verbose=False) for name in before.split()]
        trainer.fit(model, loader, loader)
        assert [model.training, model.backbone.training] == [True, False]
        seen = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        (again,) = trainer.validate(model, loader, verbose=False)
        trainer.fit_loop.max_epochs = 2
        trainer.fit(model, loader, loader)
    assert seen == pytest.approx(again)  # nothing of the evaluation before is counted
    assert "val/loss" in first[0][0] or "test/loss" in first[0][0]


def test_all_its_settings_are_plain_keyword_arguments_with_defaults() -> None:
    parameters = signature(DogBreedClassifier).parameters
    assert [name for name, p in parameters.items() if p.default is p.empty] == ["classes"]
