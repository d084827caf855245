"""Training on cached features equals training on photos, only faster: same results, never stale, whole checkpoints."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dogbreed import backbones, checkpoints
from dogbreed.data import DogBreedData
from dogbreed.errors import CheckpointError, ConfigError, DataError, Interrupted
from dogbreed.features import engine, extraction, rows, shards, store
from dogbreed.features.cached import prepare
from dogbreed.features.extraction import FrozenNetwork
from dogbreed.features.loaders import CachedFeatures, FeatureLoader
from dogbreed.features.settings import Settings, settings_of
from dogbreed.inference import Predictor
from dogbreed.model import DogBreedClassifier
from dogbreed.transforms import Augment
from tests.support.photos import make_photos, tiny_settings
from tests.support.project import ROOT
from tests.support.runs import config, history, run, same, weights

CPU = torch.device("cpu")
HEAD = ("model.trainable=head", "data.augment=null", "model.dropout=0.3")


def network(trainable: str = "head", **settings: Any) -> DogBreedClassifier:
    torch.manual_seed(0)
    given = {"library": "timm", "backbone": "test_resnet", "weights": None, "image_px": 32, **settings}
    return DogBreedClassifier("abc", trainable=trainable, **given)


def data_of(photos: Path, **settings: Any) -> DogBreedData:
    return DogBreedData(photos, **{"batch_size": 4, "image_px": 32, "workers": 0, **settings})


def prepared(photos: Path, model: DogBreedClassifier | None = None, **settings: Any) -> CachedFeatures:
    about = {name: settings.pop(name) for name in ("views", "mode", "max_gb") if name in settings}
    features = prepare(
        model or network(), data_of(photos, **settings), Settings(**about), device=CPU, precision="32-true"
    )
    assert features is not None
    return features


def computed(caplog: pytest.LogCaptureFixture) -> int:
    """Return how many views went through a network, from the log."""
    return sum(int(n.replace(",", "")) for n in re.findall(r"Features: ([\d,]+) views", caplog.text))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="dogbreed")
    return caplog


# --- the engines ---


@pytest.mark.onnx
@pytest.mark.parametrize(
    ("library", "backbone", "weights_", "trainable", "px"),
    [
        ("timm", "tf_efficientnet_lite0", backbones.LITE0_PACKAGE, "head", 96),
        ("torchvision", "resnet18", None, "layer4", 64),
        ("timm", "test_vit", None, "head", 160),
    ],
)
def test_onnx_runtime_computes_what_torch_does(
    library: Any, backbone: str, weights_: str | None, trainable: str, px: int
) -> None:
    model = network(trainable, library=library, backbone=backbone, weights=weights_, image_px=px).eval()
    cut = model.cut
    assert cut is not None
    frozen = FrozenNetwork(model.pixel_scale, model.pixel_shift, cut.frozen)
    computes = engine.OnnxRuntime(frozen, px, batch_size=4)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (3, 3, px, px), dtype=np.uint8))  # fewer than a batch
    with torch.inference_mode():
        expected = cut.frozen(model.normalised(images)).numpy()
    assert computes(images).shape == expected.shape == (3, *frozen.feature_shape(px))
    assert np.abs(computes(images) - expected).max() <= engine.TOLERANCE * max(1.0, np.abs(expected).max())


def test_torch_keeps_the_bits_of_bfloat16() -> None:
    model = network().eval()
    assert model.cut is not None
    frozen = FrozenNetwork(model.pixel_scale, model.pixel_shift, model.cut.frozen)
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    rows = engine.Torch(frozen, CPU, bf16=True)(images)
    exact = torch.from_numpy(engine.Torch(frozen, CPU)(images))
    assert rows.dtype == np.uint16
    assert torch.from_numpy(rows).view(torch.bfloat16).float().sub(exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.onnx
def test_a_network_that_cannot_be_exported_is_computed_by_torch(
    photos: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", refuses)
    features = prepared(photos)
    assert "no such operator" in log.text
    assert "eager torch" in log.text
    assert computed(log) == 42
    assert next(iter(features.test_dataloader())).features.shape == (9, *features.shape)


@pytest.mark.onnx
def test_an_engine_that_computes_something_else_is_not_used(
    photos: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    run_session = onnxruntime.InferenceSession.run
    with monkeypatch.context() as changed:
        changed.setattr(onnxruntime.InferenceSession, "run", lambda *args: [rows + 0.01 for rows in run_session(*args)])
        features = prepared(photos)
    assert "off by 0.01" in log.text
    assert "eager torch" in log.text
    assert computed(log) == 42
    right = prepared(photos)
    assert computed(log) == 84  # another engine's features are others
    for ours, theirs in zip(features.test_dataloader(), right.test_dataloader(), strict=True):
        assert torch.allclose(ours.features, theirs.features, rtol=0, atol=1e-4)


# --- the same training ---


@pytest.mark.onnx
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_cached_run_trains_the_head_that_an_uncached_one_trains(photos: Path, tmp_path: Path, optimizer: str) -> None:
    settings = (*HEAD, f"model.optimizer={optimizer}", "model.lr=1e-2")
    plain = run(config(photos, *settings, "features.mode=off"), tmp_path / "plain")
    fast = run(config(photos, *settings, "features.mode=cached"), tmp_path / "fast")
    one, other = weights(tmp_path / "plain", "best.ckpt"), weights(tmp_path / "fast", "best.ckpt")
    assert one.keys() == other.keys()
    for name in one:
        if name != "temperature":
            torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0, msg=name)
    assert plain["steps"] == fast["steps"]
    for name in ("val/acc", "val/loss", "test/loss", "test/acc"):
        assert plain[name] == pytest.approx(fast[name], abs=1e-4)


def test_a_partly_frozen_network_is_cached_where_its_trained_part_begins(photos: Path, tmp_path: Path) -> None:
    settings = ("model.trainable=layer4", "data.augment=null", "model.optimizer=sgd", "trainer.max_epochs=1")
    run(config(photos, *settings, "features.mode=off"), tmp_path / "plain")
    run(config(photos, *settings, "features.mode=cached"), tmp_path / "fast")
    one, other = weights(tmp_path / "plain", "best.ckpt"), weights(tmp_path / "fast", "best.ckpt")
    assert one.keys() == other.keys()
    for name in one:
        if name != "temperature":
            torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=1e-4)
    trained = [name for name in one if name.startswith("backbone.layer4") and name.endswith("running_mean")]
    torch.manual_seed(0)
    assert trained
    assert all(one[name].abs().max() > 0 for name in trained)  # its statistics were learned, not cached


def test_an_uncached_run_says_so_and_leaves_no_cache(photos: Path, tmp_path: Path, log: Any) -> None:
    run(config(photos, "model.trainable=head", "features.mode=off", "trainer.max_epochs=1"), tmp_path)
    assert not store.stores_folder().exists()
    assert computed(log) == 0
    assert not (tmp_path / "checkpoints" / "frozen.ckpt").exists()


def test_a_whole_network_s_run_finds_copies_by_the_prints_of_an_earlier_feature_pass(
    photos: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(photos, tmp_path / "photos"))
    with Image.open(mine / "test/001.Class_1/000.jpg") as picture:
        picture.save(mine / "train/001.Class_1/again.png")  # the same pixels in another file
    whole = config(mine, "model.trainable=all", "trainer.max_epochs=1", "test=false")
    run(whole, tmp_path / "before")
    assert not (tmp_path / "before/copies.csv").exists()
    run(config(mine, "model.trainable=head", "trainer.max_epochs=1", "test=false"), tmp_path / "head")
    run(whole, tmp_path / "after")
    found = (tmp_path / "after/copies.csv").read_text()
    assert found == (tmp_path / "head/copies.csv").read_text()
    assert "again.png" in found


# --- never stale, never twice ---


def test_a_second_run_computes_nothing(photos: Path, tmp_path: Path, log: Any) -> None:
    settings = config(photos, "model.trainable=head", "trainer.max_epochs=1")
    run(settings, tmp_path / "one")
    assert computed(log) == 42
    log.clear()
    run(settings, tmp_path / "two")
    assert computed(log) == 0
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_a_touched_photo_is_the_same_photo_and_a_changed_one_is_another(photos: Path, tmp_path: Path, log: Any) -> None:
    mine = Path(shutil.copytree(photos, tmp_path / "photos"))
    before = prepared(mine)
    photo = mine / "train" / "001.Class_1" / "003.jpg"
    os.utime(photo, (1, 1))
    log.clear()
    prepared(mine)
    assert computed(log) == 0
    stat, size = photo.stat(), photo.stat().st_size
    time.sleep(0.02)  # a tick of the file system's clock
    other = Image.fromarray(np.full((40, 50, 3), 99, np.uint8))
    other.save(photo, quality=92)
    photo.write_bytes(photo.read_bytes().ljust(size, b"\0"))  # as long as before, and as old
    os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = prepared(mine)
    assert computed(log) == 1
    one, two = (next(iter(f._loader("train"))).features for f in (before, after))
    assert [int((a != b).any()) for a, b in zip(one, two, strict=True)] == [0, 0, 0, 1] + [0] * 20


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "changed"},
        {"image_px": 48},
        {"crop_pct": 0.5},
        {"interpolation": "bicubic"},
        {"mean": (0.4, 0.4, 0.4)},
        {"trainable": "layer4"},
    ],
)
def test_whatever_changes_the_numbers_is_another_cache(
    photos: Path, log: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    prepared(photos)
    log.clear()
    if "weights" in change:
        model = network()
        with torch.no_grad():
            next(model.backbone.parameters())[0, 0, 0, 0] += 1e-3
    else:
        model = network(**change)
    prepared(photos, model, image_px=change.get("image_px", 32))
    assert computed(log) == 42
    assert len(list(store.stores_folder().glob("test_resnet-*"))) == 2


@pytest.mark.parametrize("package", ["torch", "pillow", "simplejpeg", "timm"])
def test_another_version_of_a_library_is_another_cache(
    photos: Path, log: pytest.LogCaptureFixture, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(photos)
    log.clear()
    real = rows.version
    monkeypatch.setattr(rows, "version", lambda name: "0.1" if name == package else real(name))
    prepared(photos)
    assert computed(log) == 42


@pytest.mark.onnx
def test_another_engine_or_precision_is_another_cache() -> None:
    gpu = torch.device("cuda")
    names = {
        engine.name(CPU, "32-true", compiled=False),
        engine.name(gpu, "32-true", compiled=False),
        engine.name(gpu, "bf16-mixed", compiled=False),
        engine.name(gpu, "bf16-mixed", compiled=True),
        engine.EAGER,
    }
    assert len(names) == 5
    assert engine.dtype(gpu, "bf16-mixed") == "bfloat16"
    assert engine.dtype(CPU, "bf16-mixed") == "float32"


def test_a_photo_that_changes_between_the_scan_and_the_pass_stops_the_run(photos: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(photos, tmp_path / "photos"))
    data = data_of(mine)
    data.setup()
    shutil.copy(mine / "train" / "002.Class_2" / "000.jpg", mine / "train" / "001.Class_1" / "003.jpg")
    with pytest.raises(DataError, match=r"003\.jpg has changed"):
        prepare(network(), data, Settings(), device=CPU, precision="32-true")


# --- views ---


def test_views_are_the_center_crop_and_augmented_ones_and_each_epoch_draws_one(photos: Path, log: Any) -> None:
    features = prepared(photos, views=4, augment=Augment())
    assert computed(log) == 42 + 3 * 24
    loader = features.train_dataloader()
    order = EpochOrder(loader)
    drawn = [order(epoch) for epoch in range(30)]
    rows = torch.stack([f for f, _ in drawn])  # [epochs, photos, width], by photo
    kinds = [len(torch.unique(rows[:, n], dim=0)) for n in range(24)]
    assert max(kinds) == 4
    assert min(kinds) >= 3
    assert torch.equal(order(7)[0], drawn[7][0])


class EpochOrder:
    """Return a loader's epoch, sorted by photo."""

    def __init__(self, loader: FeatureLoader) -> None:
        self.loader = loader

    def __call__(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.loader.sampler is not None
        self.loader.sampler.set_epoch(epoch)
        batches = list(self.loader)
        back = torch.from_numpy(np.argsort(self.loader.sampler.order()))
        return torch.cat([b.features for b in batches])[back], torch.cat([b.labels for b in batches])[back]


def test_other_seeds_and_more_views_reuse_cached_rows(photos: Path, log: Any) -> None:
    prepared(photos, views=3, augment=Augment(), seed=1)
    log.clear()
    prepared(photos, views=3, augment=Augment(), seed=2)
    assert computed(log) == 0
    prepared(photos, views=4, augment=Augment(), seed=3)
    assert computed(log) == 24
    log.clear()
    prepared(photos)
    assert computed(log) == 0
    prepared(photos, views=2, augment=Augment(jitter=0.0))
    assert computed(log) == 24


# --- what does not fit, or cannot be ---


def test_what_does_not_fit_the_budget_is_computed_in_each_step(photos: Path, tmp_path: Path, log: Any) -> None:
    tight = ("model.trainable=layer4", "trainer.max_epochs=1", "features.max_gb=0.0001")
    run(config(photos, *tight), tmp_path / "auto")
    assert "more than features.max_gb=0.0001" in log.text
    assert computed(log) == 0
    with pytest.raises(ConfigError, match=r"features\.max_gb=0\.0001(.|\n)*Try: "):
        run(config(photos, *tight, "features.mode=cached"), tmp_path / "cached")


def test_a_run_whose_features_do_not_fit_is_the_plain_run(photos: Path, tmp_path: Path) -> None:
    settings = ("model.trainable=layer4", "trainer.max_epochs=1", "model.dropout=0.5")
    run(config(photos, *settings, "features.max_gb=0.0001"), tmp_path / "auto")
    run(config(photos, *settings, "features.mode=off"), tmp_path / "off")
    assert same(weights(tmp_path / "auto"), weights(tmp_path / "off"))


def test_a_run_trains_without_a_cache_that_cannot_be_written(
    photos: Path, tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DOGBREED_CACHE", str(tmp_path / "file"))
    run(config(photos, "model.trainable=head", "trainer.max_epochs=1"), tmp_path / "run")
    assert "Not using cached features: Cannot write" in log.text
    assert "Each epoch, of 1, runs the whole network" in log.text


def test_a_trained_run_is_tested_even_if_the_cache_and_its_budget_are_gone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = run(config(photos, *HEAD), tmp_path)
    (tmp_path / "metrics.json").unlink()
    shutil.rmtree(store.stores_folder())
    assert run(config(photos, *HEAD, "features.max_gb=1e-6"), tmp_path)["test/acc"] == metrics["test/acc"]


def test_a_frozen_part_of_an_attempt_that_never_trained_is_not_mistaken(photos: Path, tmp_path: Path) -> None:
    run(config(photos, *HEAD, "trainer.max_epochs=1"), tmp_path / "other")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "other/checkpoints/frozen.ckpt", tmp_path / "run/checkpoints/frozen.ckpt")
    run(config(photos, "model.trainable=all", "trainer.max_epochs=1"), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints/frozen.ckpt").exists()


@pytest.mark.onnx
def test_a_signal_in_the_export_stops_the_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter catches any exception raised in it."""

    def swallows(*_: object, **__: object) -> None:
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("something about decompositions")

    monkeypatch.setattr(torch.onnx, "export", swallows)
    with pytest.raises(Interrupted):
        run(config(photos, *HEAD), tmp_path)


def test_another_class_of_augmentation_is_another_cache(photos: Path, log: Any) -> None:
    class Other(Augment):
        pass

    prepared(photos, views=2, augment=Augment())
    log.clear()
    prepared(photos, views=2, augment=Other())
    assert computed(log) == 24


def test_a_config_without_the_node_is_that_of_a_run_before_it(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, "model.trainable=head", "trainer.max_epochs=1")
    del settings["features"]
    assert run(settings, tmp_path)["epochs"] == 1
    assert settings_of({"features": {"mode": False}}).mode == "off"


def test_a_disk_without_room_is_noticed_before_the_pass(
    photos: Path, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 100))  # type: ignore[attr-defined]
    assert prepare(network(), data_of(photos), Settings(), device=CPU, precision="32-true") is None
    assert "GB are free" in log.text


@pytest.mark.parametrize(
    ("overrides", "seen"),
    [
        (("features.mode=cached",), "all of the backbone is trained"),
        (("features.mode=always",), "features.mode=always is unknown"),
        (("features.views=0",), "features.views must be a whole number, at least 1, got 0"),
        (("features.views=2", "data.augment=null"), "data.augment=null"),
        (("features.max_gb=0",), "features.max_gb must be a number of gigabytes above 0, got 0"),
    ],
)
def test_features_that_cannot_be_cached_are_refused(
    photos: Path, tmp_path: Path, overrides: tuple[str, ...], seen: str
) -> None:
    with pytest.raises(ConfigError, match=seen):
        run(config(photos, *overrides), tmp_path)


# --- checkpoints ---


def test_the_exported_checkpoint_is_the_whole_network(photos: Path, tmp_path: Path) -> None:
    metrics = run(config(photos, *HEAD), tmp_path)
    best = checkpoints.read(tmp_path / "checkpoints" / "best.ckpt")
    assert best["state_dict"].keys() == network().state_dict().keys()
    assert not any(name.startswith("backbone") for name in weights(tmp_path))
    shutil.copy(tmp_path / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    pictures = sorted((photos / "test").glob("*/*.jpg"))
    answers = Predictor.from_checkpoint(tmp_path / "alone.ckpt").predict_many(pictures)
    right = [best[0].label == path.parent.name for best, path in zip(answers, pictures, strict=True)]
    assert metrics["test/acc"] == pytest.approx(sum(right) / len(right))


def test_a_checkpoint_of_a_stopped_run_is_whole_beside_its_frozen_part_only(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, step=9)
    with pytest.raises(Interrupted):
        run(config(photos, *HEAD), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    predictor = Predictor.from_checkpoint(last)
    assert len(predictor.predict(next((photos / "test").glob("*/*.jpg")))) == 3
    shutil.copy(last, tmp_path / "alone.ckpt")
    with pytest.raises(CheckpointError, match=r"trained part(.|\n)*own run folder"):
        Predictor.from_checkpoint(tmp_path / "alone.ckpt")
    other = checkpoints.read(last.with_name("frozen.ckpt"))
    checkpoints.write({**other, checkpoints.FROZEN: "another"}, last.with_name("frozen.ckpt"))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        Predictor.from_checkpoint(last)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    begin = checkpoints.ResumePoint.on_train_batch_start

    def signalled(self: Any, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        begin(self, trainer, module, batch, batch_idx)
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoints.ResumePoint, "on_train_batch_start", signalled)


def test_a_resumed_run_trains_as_it_started_whatever_the_budget_is_then(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, step=9)
        with pytest.raises(Interrupted):
            run(config(photos, *HEAD), tmp_path / "run")
    shutil.rmtree(store.stores_folder())  # another machine, say
    run(config(photos, *HEAD), tmp_path / "run")
    run(config(photos, *HEAD), tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert same(weights(tmp_path / "run", "best.ckpt"), weights(tmp_path / "whole", "best.ckpt"))
    assert history(tmp_path / "run") == history(tmp_path / "whole")


# --- several processes, and kills ---


def test_an_interrupted_pass_resumes_where_it_stopped(
    photos: Path, tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    monkeypatch.setattr(engine, "_CPU_BATCH", 4)
    computes, calls = engine.Torch.__call__, []

    def stopped_in_the_sixth(self: Any, images: Any) -> Any:
        calls.append(len(images))
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return computes(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Torch, "__call__", stopped_in_the_sixth)
        with pytest.raises(Interrupted):
            run(config(photos, *HEAD), tmp_path)
    log.clear()
    run(config(photos, *HEAD), tmp_path)
    assert computed(log) == 42 - 5 * 4


def test_runs_that_start_at_once_share_one_pass(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", train=40, valid=8, test=8)
    script = (
        "import runpy, sys; from dogbreed.features import engine, shards; shards.SHARD_ROWS = engine._CPU_BATCH = 8\n"
        "from dogbreed.features import claims; claims._MUTEX_TIMEOUT_S = 600.0\n"  # also where its holder stands still
        "engine.name = lambda device, precision, *, compiled: engine.EAGER\n"
        "sys.argv[0] = 'train.py'; runpy.run_path('train.py', run_name='__main__')\n"
    )
    settings = [*tiny_settings(photos), *HEAD, "trainer.max_epochs=1"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *settings, f"hydra.run.dir={tmp_path / name}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in processes:
        _, error = process.communicate(timeout=500)
        assert process.returncode == 0, error
    logs = [(tmp_path / name / "train.log").read_text() for name in ("one", "two")]
    views = [sum(map(int, re.findall(r"Features: (\d+) views", text))) for text in logs]
    assert sum(views) == 168
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[0]["test/loss"] == metrics[1]["test/loss"]


def test_the_progress_shows_the_speed_and_the_time_left(capsys: Any, log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(extraction.time, "monotonic", lambda: next(clock))
    with extraction._progress(1000) as report:
        for _ in range(4):
            report(100)
    assert "200 of 1,000, 5 images/s, 160 s left" in log.text
