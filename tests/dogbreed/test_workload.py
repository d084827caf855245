"""Workload: a run's work from its settings, and the table of networks behind it."""

import json
import math
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from dogbreed import backbones, dogimages, workload
from dogbreed.drawn import DrawnDogs
from dogbreed.features.settings import Settings, settings_of
from dogbreed.speedup import STEP_OVERHEAD_S
from dogbreed.workload import Workload, work
from tests.support.plans import planned

counts = st.integers(1, 10_000)
splits = st.fixed_dictionaries({"train": counts, "valid": counts, "test": counts})
anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))
RUN: dict[str, Any] = {
    "model": {"backbone": "resnet50", "trainable": "head", "image_px": 224},
    "data": {"batch_size": 64},
    "trainer": {"max_epochs": 10},
    "features": {"mode": "auto", "views": 1, "max_gb": 20},
}


def changed(**changes: Any) -> dict[str, Any]:
    """Return RUN with other settings, such as `data__batch_size=8`."""
    made = {name: dict(node) for name, node in RUN.items()}
    for key, value in changes.items():
        node, _, name = key.partition("__")
        made[node][name] = value
    return made


def drawn(**source: Any) -> dict[str, Any]:
    return changed(data__source={"_target_": "dogbreed.drawn.DrawnDogs", **source})


def test_it_matches_the_composed_settings() -> None:
    assert Workload.of(planned("gpu").spec.config) == Workload(
        backbone="resnet50",
        trainable="head",
        classes=133,
        image_px=224,
        batch_size=64,
        epochs=30,
        features="auto",
        views=1,
        max_gb=20.0,
        train_photos=6680,
        other_photos=1671,
    )
    assert Workload.of(planned("gpu").spec.config).train_photos == dogimages.DogImages("").counts["train"]


@settings(deadline=None)
@given(splits, st.integers(1, 133))
def test_drawn_dogs_are_so_many_of_each_breed(each: dict[str, int], breeds: int) -> None:
    found, source = Workload.of(drawn(**each, breeds=breeds)), DrawnDogs(**each, breeds=breeds)
    assert found.classes == breeds
    assert found.train_photos == breeds * each["train"]
    assert found.other_photos == breeds * (source.valid + source.test)


def test_drawn_dogs_are_as_many_as_are_drawn() -> None:
    for source in ({}, {"breeds": 10}, {"train": 4, "valid": 2, "test": 1, "breeds": 3}):
        found, photos = Workload.of(drawn(**source)), DrawnDogs(**source).photos()
        assert found.train_photos == sum(split == "train" for split, _, _ in photos)
        assert found.other_photos == sum(split != "train" for split, _, _ in photos)
        assert found.classes == len({breed for _, breed, _ in photos})


@settings(deadline=None)
@given(splits)
def test_the_photos_of_a_folder_are_those_that_the_caller_has_counted(photos: dict[str, int]) -> None:
    found = Workload.of(RUN, photos)
    assert (found.train_photos, found.other_photos) == (photos["train"], photos["valid"] + photos["test"])
    uncounted = Workload.of(RUN)
    assert (uncounted.train_photos, uncounted.other_photos, uncounted.feature_rows) == (None, None, None)


@settings(deadline=None)
@example({"image_px": 1e308}, {}, {"max_epochs": math.inf}, {"views": math.nan}, {"train": None})
@given(
    st.dictionaries(st.sampled_from(["backbone", "trainable", "image_px"]), anything),
    st.dictionaries(st.sampled_from(["batch_size", "source"]), anything.filter(lambda value: not value)),
    st.dictionaries(st.just("max_epochs"), anything),
    st.one_of(st.none(), st.dictionaries(st.sampled_from(["mode", "views", "max_gb"]), anything)),
    st.one_of(st.none(), st.dictionaries(st.sampled_from(["train", "valid", "test", "breeds"]), anything)),
)
def test_settings_out_of_range_are_left_for_the_run_to_refuse(
    model: dict[str, Any], data: dict[str, Any], trainer: dict[str, Any], features: Any, source: Any
) -> None:
    if source is not None:
        data["source"] = {"_target_": "dogbreed.drawn.DrawnDogs", **source}
    found = Workload.of({"model": model, "data": data, "trainer": trainer, "features": features})
    assert min(found.image_px, found.batch_size, found.epochs, found.views, found.classes) >= 1
    assert found.caches_features in (True, False)


@settings(deadline=None)
@given(st.sampled_from(["auto", "cached", "off"]), splits, st.floats(0, 1e3))
def test_json_holds_all_of_it(mode: str, photos: dict[str, int], max_gb: float) -> None:
    found = Workload.of(changed(features__mode=mode, features__max_gb=max_gb), photos)
    assert Workload(**json.loads(json.dumps(asdict(found)))) == found
    assert all(isinstance(getattr(found, field.name), str | int | float) for field in fields(found))


@pytest.mark.parametrize("off", ["off", False])
def test_yaml_1_1_reads_off_as_false(off: str | bool) -> None:
    config = changed(features__mode=off)
    found = Workload.of(config)
    assert found.features == settings_of(config).mode == "off"
    assert [found.wants_features, found.trains_heads, found.caches_features] == [False, False, False]


def test_a_config_without_the_node_has_its_defaults() -> None:
    config = {name: node for name, node in RUN.items() if name != "features"}
    found, usual = Workload.of(config), Settings()
    assert (found.features, found.views, found.max_gb) == (usual.mode, usual.views, usual.max_gb)
    assert settings_of(config) == usual


@pytest.mark.parametrize(
    ("trainable", "wanted", "cached"),
    [("head", True, True), ("layer4", True, True), ("conv1", True, False), ("all", False, False)],
)
def test_features_are_of_what_is_frozen(trainable: str, wanted: bool, cached: bool) -> None:
    found = Workload.of(changed(model__trainable=trainable), {"train": 100})
    assert (found.wants_features, found.caches_features) == (wanted, cached)
    assert found.trains_heads == (trainable == "head")


@settings(deadline=None)
@given(splits, st.integers(1, 20), st.floats(0, 1))
def test_features_that_do_not_fit_are_not_cached(photos: dict[str, int], views: int, max_gb: float) -> None:
    found = Workload.of(changed(features__views=views, features__max_gb=max_gb), photos)
    rows = views * photos["train"] + photos["valid"] + photos["test"]
    assert found.feature_rows == rows
    assert found.caches_features == (rows * 2048 * 4 <= max_gb * 1e9)
    assert replace(found, max_gb=math.inf).caches_features


def test_an_unknown_network_is_not_guessed_at() -> None:
    found = Workload.of(changed(model__backbone="convnext_tiny"), {"train": 100})
    assert found.per_photo is None
    assert found.wants_features
    assert found.trains_heads
    assert Workload.of(RUN).per_photo == work("resnet50", "head", 133)


@pytest.mark.parametrize(
    ("library", "name"), [("torchvision", "resnet50"), ("timm", "tf_efficientnet_lite0")], ids=lambda text: text
)
def test_the_table_of_networks_is_what_hooks_count(library: backbones.Library, name: str) -> None:
    network, width = backbones.build(library, name, None)
    inputs: dict[str, int] = {}
    gflop: dict[str, float] = {}

    def counts(path: str) -> object:
        def hook(module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            inputs.setdefault(path, given[0].numel())
            if isinstance(module, nn.Conv2d):
                per_number = module.in_channels // module.groups * math.prod(module.kernel_size)
                gflop[path] = 2 * out.numel() * per_number / 1e9

        return hook

    for path, module in network.named_modules():
        module.register_forward_hook(counts(path))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 224, 224))
    stages = workload.BACKBONES[name]
    assert workload.WIDTHS[name] == width
    assert sum(stage.weights for stage in stages.values()) == sum(p.numel() for p in network.parameters())
    for path, stage in stages.items():
        module = network.get_submodule(path)
        assert stage.weights == sum(p.numel() for p in module.parameters())
        assert stage.inputs == inputs[path]
        of_it = sum(value for inner, value in gflop.items() if inner == path or inner.startswith(f"{path}."))
        assert stage.gflop == pytest.approx(of_it, rel=1e-3)


@pytest.mark.parametrize(
    ("trainable", "megabytes"),
    [("head", 1.09), ("layer4", 60.95), ("layer3", 89.34), ("all", 95.12)],  # 94.0 of it the backbone's 23.5 M weights
)
def test_gradients_are_those_of_what_is_trained(trainable: str, megabytes: float) -> None:
    from dogbreed.model import DogBreedClassifier

    found = work("resnet50", trainable, 133)
    assert found is not None
    step = found.step(64, 1e12, cached=False)
    assert step.gradient_bytes / 1e6 == pytest.approx(megabytes, abs=0.01)
    model = DogBreedClassifier([str(n) for n in range(133)], weights=None, trainable=trainable)
    assert step.gradient_bytes == 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_what_is_frozen_is_not_run_where_its_features_are_there() -> None:
    found = work("resnet50", "layer4", 133)
    assert found is not None
    assert found.feature_bytes == 1024 * 14 * 14 * 4
    with_features, without = (found.step(64, 1e12, cached=cached) for cached in (True, False))
    assert with_features.backward_s == without.backward_s
    assert with_features.other_s < without.other_s
    whole = work("resnet50", "all", 133)
    assert whole is not None
    assert whole.feature_bytes == 0
    assert whole.step(64, 1e12, cached=False).compute_s == pytest.approx(
        64 * 3 * 8.1745e9 / 1e12 + STEP_OVERHEAD_S, rel=1e-3
    )


def test_a_layer_before_which_nothing_is_trained_needs_no_gradients_of_its_input() -> None:
    lite, more = work("tf_efficientnet_lite0", "conv_head", 133), work("tf_efficientnet_lite0", "blocks.6", 133)
    assert lite is not None
    assert more is not None
    last, first = lite.step(1, 1e9, cached=True), more.step(1, 1e9, cached=True)
    head = 2 * 1280 * 133 / 1e9
    assert last.backward_s == pytest.approx(0.04014 + 2 * head)  # bn2 is not counted
    assert first.backward_s == pytest.approx(2 * (0.05882 + 0.04014 + head))


def test_a_part_of_a_stage_counts_as_the_stage_and_what_is_unknown_is_not_guessed() -> None:
    assert work("resnet50", "layer4.2", 133) == work("resnet50", "layer4", 133)
    lite = work("tf_efficientnet_lite0", "blocks", 133)
    assert lite is not None
    assert len(lite.trained) == 10  # seven blocks, two after them, and the head
    assert work("resnet50", "layer9", 133) is None
    assert work("convnext_tiny", "all", 133) is None
