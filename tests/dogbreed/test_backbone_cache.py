"""A backbone whose features are cached is not built, and the results stay the same."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dogbreed import backbones, checkpoints, training
from dogbreed.data import DogBreedData
from dogbreed.errors import CheckpointError
from dogbreed.features import backbone_cache, cached
from dogbreed.features.settings import Settings
from dogbreed.features.store import FeatureStore
from dogbreed.inference import Predictor
from dogbreed.model import DogBreedClassifier
from tests.support.project import ROOT
from tests.support.runs import config, history, run, same, unclocked, weights

CPU = torch.device("cpu")


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """Write weights into a file, like a download."""
    torch.manual_seed(7)
    network, _ = backbones.build("timm", "test_resnet", None)
    path = tmp_path / "pretrained.pt"
    torch.save(dict(network.state_dict()), path)
    return path


@pytest.fixture
def settings(photos: Path, pretrained: Path) -> dict[str, Any]:
    return config(photos, "model.trainable=head", f"model.weights={pretrained}", "features.views=2")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Record the weights of each backbone that is built."""
    seen: list[str | None] = []
    build = backbones.build

    def counted(library: backbones.Library, name: str, weights_: str | None) -> Any:
        seen.append(weights_)
        return build(library, name, weights_)

    monkeypatch.setattr(backbones, "build", counted)
    return seen


def test_a_run_that_finds_its_features_ends_as_one_that_computed_them(
    settings: dict[str, Any], tmp_path: Path, built: list[str | None]
) -> None:
    first = run(settings, tmp_path / "first")
    built.clear()
    again = run({**settings, "test": False}, tmp_path / "again")
    assert built == []  # not to train, and not to validate
    assert not (tmp_path / "again" / "checkpoints" / "frozen.ckpt").exists()
    assert same(weights(tmp_path / "first"), weights(tmp_path / "again"))
    assert history(tmp_path / "first") == history(tmp_path / "again")
    whole = run(settings, tmp_path / "again")  # now it is calibrated, tested and reported
    assert built
    assert unclocked(whole) == unclocked(first)
    assert {"val/acc", "best_epoch", "epochs"} <= again.keys()
    assert again["val/acc"] == pytest.approx(first["val/acc"])
    assert again["best_epoch"] == first["best_epoch"]
    assert same(weights(tmp_path / "first", "best.ckpt"), weights(tmp_path / "again", "best.ckpt"))
    photo = next(Path(settings["data"]["root"]).rglob("*.jpg"))
    assert Predictor.from_checkpoint(tmp_path / "again").predict(photo)


def test_other_weights_are_never_mistaken_for_the_recorded_ones(
    settings: dict[str, Any], pretrained: Path, tmp_path: Path
) -> None:
    run(settings, tmp_path / "first")
    before = pretrained.stat()
    state = torch.load(pretrained, weights_only=True)
    pretrained.unlink()
    torch.save({key: value * 1.01 if value.is_floating_point() else value for key, value in state.items()}, pretrained)
    os.utime(pretrained, ns=(before.st_atime_ns, before.st_mtime_ns))  # by its date and size it is the same file
    assert pretrained.stat().st_size == before.st_size
    assert backbone_cache.recall(settings["model"]) is None
    run(settings, tmp_path / "second")
    first, second = weights(tmp_path / "first", "best.ckpt"), weights(tmp_path / "second", "best.ckpt")
    assert not torch.equal(first["head.1.weight"], second["head.1.weight"])  # trained on other features
    expected = torch.load(pretrained, weights_only=True)
    assert all(torch.equal(second[f"backbone.{key}"], value) for key, value in expected.items())


@pytest.mark.parametrize(
    "change",
    [{"mean": [0.4, 0.4, 0.4]}, {"std": [0.3, 0.3, 0.3]}, {"backbone": "test_vit"}, {"weights": None}],
    ids=str,
)
def test_another_network_is_not_in_the_cache(settings: dict[str, Any], tmp_path: Path, change: dict[str, Any]) -> None:
    run({**settings, "test": False}, tmp_path / "first")
    assert backbone_cache.recall(settings["model"]) is not None
    assert backbone_cache.recall({**settings["model"], **change}) is None


@pytest.mark.parametrize("trainable", ["layer4", "all"])
def test_what_is_trained_is_always_built(settings: dict[str, Any], tmp_path: Path, trainable: str) -> None:
    run({**settings, "test": False}, tmp_path / "first")
    data = DogBreedData(settings["data"]["root"], batch_size=4, image_px=32, workers=0)
    model = {**settings["model"], "trainable": trainable}
    assert cached.recall(model, data, Settings(), device=CPU, precision="32-true") is None


def test_missing_features_are_computed(
    settings: dict[str, Any], tmp_path: Path, built: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run({**settings, "test": False}, tmp_path / "first")
    (store,) = (Path(os.environ["DOGBREED_CACHE"]) / "features").glob("*-augmented-*")
    shutil.rmtree(store)
    built.clear()
    run({**settings, "test": False}, tmp_path / "again")
    assert built
    assert same(weights(tmp_path / "first"), weights(tmp_path / "again"))


def test_weights_replaced_while_features_are_computed_are_not_mistaken_for_them(
    settings: dict[str, Any], pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = FeatureStore.claim

    def replaced_meanwhile(store: FeatureStore, rows: Any) -> Any:
        torch.manual_seed(9)
        torch.save(dict(backbones.build("timm", "test_resnet", None)[0].state_dict()), pretrained)
        return claim(store, rows)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "claim", replaced_meanwhile)
        run({**settings, "test": False}, tmp_path / "first")
    assert backbone_cache.recall(settings["model"]) is None


def test_a_damaged_cache_only_costs_time(settings: dict[str, Any], tmp_path: Path) -> None:
    run({**settings, "test": False}, tmp_path / "first")
    (memory,) = (Path(os.environ["DOGBREED_CACHE"]) / "backbones").iterdir()
    memory.write_text('{"width": 12')
    run({**settings, "test": False}, tmp_path / "again")
    assert same(weights(tmp_path / "first"), weights(tmp_path / "again"))
    assert backbone_cache.recall(settings["model"]) is not None  # written again


def test_a_killed_run_that_built_no_backbone_is_made_whole(settings: dict[str, Any], tmp_path: Path) -> None:
    reference = run(settings, tmp_path / "first")
    script = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from dogbreed import training\n"
        "from dogbreed.training import pipeline\n"
        "from dogbreed.features import engine\n"
        "engine.name = lambda device, precision, *, compiled: engine.EAGER\n"
        "pipeline.test = lambda *_: os.kill(os.getpid(), 9)\n"
        "training.run(json.loads(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    import json

    died = subprocess.run(
        [sys.executable, "-c", script, json.dumps(settings), str(tmp_path / "killed")], cwd=ROOT, capture_output=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "killed" / "checkpoints" / "frozen.ckpt").exists()
    with pytest.raises(CheckpointError, match=r"frozen\.ckpt is not beside it"):
        checkpoints.read_whole(tmp_path / "killed" / "checkpoints" / "last.ckpt")
    assert unclocked(run(settings, tmp_path / "killed")) == unclocked(reference)
    longer = {**settings, "trainer": {**settings["trainer"], "max_epochs": 3}}
    run(longer, tmp_path / "killed")
    assert len(history(tmp_path / "killed")) == 3


def test_weights_that_changed_before_the_end_are_named(
    settings: dict[str, Any], pretrained: Path, tmp_path: Path
) -> None:
    run(settings, tmp_path / "first")
    run({**settings, "test": False}, tmp_path / "again")
    torch.manual_seed(8)
    torch.save(backbones.build("timm", "test_resnet", None)[0].state_dict(), pretrained)
    with pytest.raises(CheckpointError, match="differ from the weights that the run"):
        run(settings, tmp_path / "again")


def test_a_heads_first_weights_do_not_depend_on_the_backbone(settings: dict[str, Any]) -> None:
    model = {key: value for key, value in settings["model"].items() if key != "_target_"}
    torch.manual_seed(3)
    whole = DogBreedClassifier("abc", **model)
    torch.manual_seed(3)
    alone = DogBreedClassifier("abc", **model, released="digest", released_width=whole.width)
    assert torch.equal(whole.head[1].weight, alone.head[1].weight)
    assert alone.released == "digest"
    assert "released" not in alone.hparams


def test_a_watch_ends_training_after_its_epoch(settings: dict[str, Any], tmp_path: Path) -> None:
    longer = {**settings, "test": False, "trainer": {**settings["trainer"], "max_epochs": 4}}
    seen: list[tuple[int, float]] = []

    def watch(epoch: int, metrics: Any) -> bool:
        assert set(metrics) >= {"val/acc", "val/loss"}
        seen.append((epoch, metrics["val/acc"]))
        return epoch == 2

    metrics = training.run(longer, tmp_path, watch)
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert metrics["epochs"] == 2
    assert metrics["val/acc"] == max(value for _, value in seen)
    assert training.run(longer, tmp_path)["epochs"] == 4  # it can be gone on with


def test_share_computes_the_features_that_runs_find(
    settings: dict[str, Any], tmp_path: Path, built: list[str | None]
) -> None:
    training.share(settings, tmp_path / "sweep")
    assert len(built) == 1
    training.share(settings, tmp_path / "sweep")
    run({**settings, "test": False}, tmp_path / "trial")
    assert len(built) == 1
