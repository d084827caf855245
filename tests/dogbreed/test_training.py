"""Tiny runs in this process: the files they leave, and that resuming from anywhere changes nothing."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import quick_runs
import torch
from lightning import Trainer

from dogbreed import checkpoints
from dogbreed.data import DogBreedData
from dogbreed.errors import CheckpointError, ConfigError, DataError, Interrupted, StorageError
from dogbreed.features.loaders import CachedFeatures
from dogbreed.inference import Predictor
from dogbreed.interruption import Interruption
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder
from dogbreed.training import fit
from dogbreed.training.trainer import only_useful_warnings
from dogbreed.transforms import Augment
from tests.support.photos import make_photos
from tests.support.runs import config, history, run, same, unclocked, weights


class Killed(BaseException):
    """Stands for the death of the process: no code may catch it and clean up."""


@contextmanager
def counted_saves(*, die_after: int = 0) -> Iterator[list[int]]:
    """Record the step of each checkpoint; the process dies right after the n-th."""
    save, steps = checkpoints.ResumePoint._save, []

    def count_and_die(self: checkpoints.ResumePoint, trainer: Any) -> None:
        save(self, trainer)
        steps.append(trainer.global_step)
        if len(steps) == die_after:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.ResumePoint, "_save", count_and_die)
        yield steps


STEADY = ("model.dropout=0.5", "model.lr=1e-2", "save.every_n_steps=1")  # 6 steps an epoch, 2 epochs
VARIANTS = {
    "plain": STEADY,
    "accumulated gradients": (*STEADY, "trainer.accumulate_grad_batches=2"),
    "averaged weights": (*STEADY, "model.ema_decay=0.9"),
    "frozen backbone": (*STEADY, "model.trainable=head", "features.mode=off"),
    "cached features": (*STEADY, "model.trainable=head", "features.views=3"),
    "cached activations": (*STEADY, "model.trainable=layer4", "features.views=2", "model.ema_decay=0.9"),
}


@pytest.fixture(scope="module", params=VARIANTS)
def uninterrupted(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("uninterrupted")
    settings = config(photos, *VARIANTS[request.param])
    with counted_saves() as steps:
        return settings, folder, run(settings, folder), len(steps)


@pytest.mark.parametrize(  # of all checkpoints: in an epoch, and at its end
    "when", [0.35, 0.5, *(pytest.param(when, marks=pytest.mark.slow) for when in (0.0, 0.65, 0.9))]
)
def test_a_killed_run_resumes_and_ends_as_if_it_had_not_been_interrupted(
    uninterrupted: Any, when: float, tmp_path: Path
) -> None:
    settings, whole, metrics, saves = uninterrupted
    with counted_saves(die_after=1 + int(when * saves)), pytest.raises(Killed):
        run(settings, tmp_path)
    again = run(settings, tmp_path)
    assert same(weights(whole), weights(tmp_path))
    assert same(weights(whole, "best.ckpt"), weights(tmp_path, "best.ckpt"))
    assert history(whole) == history(tmp_path)
    assert unclocked(metrics) == unclocked(again)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(quick_runs.PLOTS, "1")
        run(config(photos), folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished run, for a test to change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_the_same_seed_gives_the_same_weights_whatever_the_number_of_workers(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    run(config(photos, "data.workers=2"), tmp_path / "workers")
    run(config(photos, "seed=1"), tmp_path / "seed")
    assert same(weights(finished), weights(tmp_path / "workers"))
    assert not same(weights(finished), weights(tmp_path / "seed"))


def test_states_in_checkpoints_keep_their_names_so_that_old_runs_can_be_resumed(finished: Path) -> None:
    checkpoint = checkpoints.read(RunFolder(finished).last)
    names = {name.partition("{")[0] for name in checkpoint["callbacks"]}
    assert names == {"History", "BestCheckpoint", "ResumePoint"}
    assert {"DogBreedData", "CachedFeatures"} & checkpoint.keys() == {"DogBreedData"}
    assert CachedFeatures.__qualname__ == "CachedFeatures"


def test_the_run_folder_holds_what_the_readme_lists(finished: Path) -> None:
    here = RunFolder(finished)
    for path in (here.config, here.metrics, here.history, here.predictions, here.report, here.environment, here.best):
        assert path.stat().st_size > 0, path
    assert "<path" in here.report.read_text()  # in its plots
    environment = json.loads(here.environment.read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    assert environment["photos"] == {"train": 24, "valid": 9, "test": 9}
    assert [row["epoch"] for row in history(finished)] == ["1", "2"]


def test_the_accuracy_reported_is_the_accuracy_of_the_checkpoint(finished: Path, photos: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    with (finished / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    predictor = Predictor.from_checkpoint(finished)
    ranked = predictor.predict_many([photos / row["path"] for row in predictions])
    right = [best[0].label == row["breed"] for best, row in zip(ranked, predictions, strict=True)]
    assert metrics["test/acc"] == pytest.approx(sum(right) / len(right))
    assert [best[0].label for best in ranked] == [row["predicted"] for row in predictions]
    assert [best[0].probability for best in ranked] == pytest.approx(
        [float(row["probability"]) for row in predictions], abs=1e-5
    )


def test_a_finished_run_is_not_changed(copy: Path, photos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    metrics = run(config(photos), copy)
    assert metrics == json.loads((copy / "metrics.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}


def test_a_run_that_died_in_the_test_is_only_tested(copy: Path, photos: Path) -> None:
    metrics = json.loads((copy / "metrics.json").read_text())
    last = (copy / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    for name in ("metrics.json", "predictions.csv", "report.html"):
        (copy / name).unlink()
    assert run(config(photos), copy) == metrics
    assert (copy / "checkpoints" / "last.ckpt").stat().st_mtime_ns == last


def test_a_run_that_died_in_the_report_only_gets_its_report(copy: Path, photos: Path) -> None:
    tested = (copy / "metrics.json").stat().st_mtime_ns
    (copy / "report.html").unlink()
    run(config(photos), copy)
    assert (copy / "report.html").exists()
    assert (copy / "metrics.json").stat().st_mtime_ns == tested


def test_a_finished_run_can_be_extended(copy: Path, photos: Path) -> None:
    metrics = run(config(photos, "trainer.max_epochs=3"), copy)
    assert metrics["epochs"] == 3
    assert [row["epoch"] for row in history(copy)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("uninterrupted", "damage"),
    [("plain", "flipped"), ("plain", "empty"), *((variant, "torn") for variant in VARIANTS)],
    indirect=["uninterrupted"],
)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(
    uninterrupted: Any, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, whole, _, saves = uninterrupted
    with counted_saves(die_after=saves - 1), pytest.raises(Killed):
        run(settings, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    last.write_bytes({"torn": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    run(settings, tmp_path)
    assert same(weights(whole), weights(tmp_path))
    assert "last.ckpt is damaged" in caplog.text
    assert len(list(last.parent.glob("last.ckpt.damaged-*"))) == 1


@pytest.mark.parametrize(
    ("override", "seen"),
    [
        ("model.backbone=test_resnet_2", "no model"),
        ("model.trainable=head", "model.trainable was all and is now head"),
        ("model.image_px=48", "model.image_px was 32 and is now 48"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(copy: Path, photos: Path, override: str, seen: str) -> None:
    (copy / "fit.json").unlink()
    (copy / "metrics.json").unlink()
    with pytest.raises((CheckpointError, ConfigError), match=seen):
        run(config(photos, override), copy)


def test_a_checkpoint_of_other_photos_or_classes_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "fit.json").unlink()
    (copy / "metrics.json").unlink()
    fewer = make_photos(tmp_path / "fewer", classes=2)
    with pytest.raises(CheckpointError, match="class list differs"):
        run(config(fewer), copy)
    others = make_photos(tmp_path / "others", px=44)
    with pytest.raises(CheckpointError, match="differ from those it was trained on"):
        run(config(others), copy)


def test_settings_that_cannot_work_are_all_named_at_once(photos: Path, tmp_path: Path) -> None:
    bad = (
        "monitor=val/accuracy",
        "trainer.max_epochs=0",
        "data.batch_size=0",
        "model.dropout=1.5",
        "model.lr=-1",
        "seed=-1",
        "trainer.devices=2",
        "+trainer.max_steps=3",
    )
    with pytest.raises(ConfigError) as caught:
        run(config(photos, *bad), tmp_path)
    assert str(caught.value).startswith("8 problems found")
    for name in ("monitor=", "max_epochs", "batch_size", "dropout", "model.lr", "seed=-1"):
        assert name in str(caught.value)


def test_a_mode_that_would_keep_the_worst_epoch_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode=min"):
        run(config(photos, "monitor=val/loss"), tmp_path)


def test_a_batch_that_cannot_fit_is_refused_with_one_that_does(photos: Path, tmp_path: Path) -> None:
    model = DogBreedClassifier("abc", library="timm", backbone="test_resnet", weights=None, image_px=32)
    with pytest.raises(ConfigError, match=r"A batch of 100000000 photos does not fit(.|\n)*Try: data\.batch_size=\d+"):
        fit._check_memory(model, 100_000_000)
    run(config(photos, "data.batch_size=100000000", "trainer.max_epochs=1"), tmp_path)  # there are 24 photos


class NoNetwork:
    """A source that cannot be reached."""

    def prepare(self, root: Path) -> None:
        raise DataError("The photos cannot be downloaded.")


def test_without_a_network_data_and_weights_are_both_named(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, "model.library=torchvision", "model.backbone=resnet18")
    settings["data"]["source"] = {"_target_": f"{__name__}.NoNetwork"}
    settings["model"]["weights"] = "http://127.0.0.1:9/resnet18.pth"  # nothing answers there
    with pytest.raises(DataError) as caught:
        run(settings, tmp_path)
    assert str(caught.value).startswith("2 problems found")
    for part in ("photos cannot be downloaded", "Cannot download the pretrained weights", "experiment=quickstart"):
        assert part in str(caught.value)


def test_a_refused_longer_run_keeps_the_results_it_has(copy: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(DataError):
        run(config(tmp_path / "gone", "trainer.max_epochs=5"), copy)
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_mixed_precision_trains_with_clipped_gradients(photos: Path, tmp_path: Path, optimizer: str) -> None:
    settings = config(photos, "trainer.precision=bf16-mixed", f"model.optimizer={optimizer}", "trainer.max_epochs=1")
    assert run(settings, tmp_path)["epochs"] == 1


def test_training_that_diverges_is_an_error(photos: Path, tmp_path: Path) -> None:
    wild = ("model.lr=1e30", "model.optimizer=sgd", "model.backbone_lr_scale=1", "trainer.gradient_clip_val=null")
    with pytest.raises(ConfigError, match=r"diverged(.|\n)*smaller model\.lr"):
        run(config(photos, *wild), tmp_path)


def test_every_flipped_bit_of_a_checkpoint_is_noticed_or_harmless(tmp_path: Path) -> None:
    here = RunFolder(tmp_path)
    content = {"state_dict": {"weight": torch.arange(12.0)}, "hyper_parameters": {"classes": ["a", "b"]}}
    checkpoints.write(content, here.last)
    whole = here.last.read_bytes()
    for place in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        here.last.write_bytes(bytes(broken))
        checkpoints.write(content, here.previous)
        start = checkpoints.newest(here)
        assert start is not None
        read = checkpoints.read(start)
        assert torch.equal(read["state_dict"]["weight"], content["state_dict"]["weight"])
        for aside in here.checkpoints.glob("*.damaged-*"):
            aside.unlink()


def test_a_signal_inside_a_library_that_catches_all_is_still_a_signal(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("torch.load", stopped)
    (tmp_path / "weights.pth").write_bytes(b"")
    settings = config(photos, "model.library=torchvision", "model.backbone=resnet18")
    settings["model"]["weights"] = str(tmp_path / "weights.pth")
    with pytest.raises(Interrupted):
        run(settings, tmp_path / "run")


def test_too_many_bad_photos_stop_the_run_and_are_listed(photos: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(photos, tmp_path / "bad"))
    (bad / "train" / "001.Class_1" / "x.jpg").write_bytes(b"")
    (bad / "train" / "001.Class_1" / "y.jpg").write_text("text")
    with pytest.raises(DataError, match=r"2 of 44 files(.|\n)*max_bad_fraction=0\.06"):
        run(config(bad, "data.max_bad_fraction=0.04"), tmp_path / "run")
    assert (tmp_path / "run" / "skipped.csv").read_text().splitlines()[1:] == [
        "train/001.Class_1/x.jpg,the file is empty (0 bytes)",
        f"train/001.Class_1/y.jpg,{training_reason(bad)}",
    ]


def training_reason(bad: Path) -> str:
    from dogbreed.preprocess import probe

    with pytest.raises(DataError) as caught:
        probe((bad / "train" / "001.Class_1" / "y.jpg").read_bytes())
    reason = str(caught.value)
    return f'"{reason}"' if "," in reason else reason


def test_a_full_disk_ends_the_run_with_what_was_saved_intact(copy: Path, photos: Path) -> None:
    """A file size limit acts like a full disk: the write fails midway."""
    (copy / "fit.json").unlink()
    (copy / "metrics.json").unlink()
    before = {path.name: path.read_bytes() for path in (copy / "checkpoints").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            StorageError, match=r"No room to write (.|\n)*last\.ckpt|No room to write (.|\n)*best\.ckpt"
        ):
            run(config(photos, "trainer.max_epochs=3"), copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = {path.name: path.read_bytes() for path in (copy / "checkpoints").iterdir()}
    assert before["last.ckpt"] in (kept.get("last.ckpt"), kept.get("previous.ckpt"))
    assert run(config(photos, "trainer.max_epochs=3"), copy)["epochs"] == 3


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_training_saves_before_it_stops(
    finished: Path, photos: Path, tmp_path: Path, signum: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(photos)
    start = checkpoints.ResumePoint.on_train_batch_start

    def signal_in_step_8(self: Any, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        start(self, trainer, module, batch, batch_idx)
        if trainer.global_step == 8:
            os.kill(os.getpid(), signum)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.ResumePoint, "on_train_batch_start", signal_in_step_8)
        with pytest.raises(Interrupted, match="after step 9") as caught:
            run(settings, tmp_path / "run")
    assert caught.value.signum == signum
    assert checkpoints.read(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 9
    run(settings, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(finished))


@pytest.mark.parametrize(
    "where", ["setup", "on_train_start", "training_step", "on_train_batch_end", "on_train_epoch_end", "validation_step"]
)
def test_a_signal_stops_training_at_any_point(
    finished: Path, photos: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own handler would exit here with status 0, as after success."""
    original = getattr(DogBreedClassifier, where)
    sent: list[int] = []

    def signal_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        # the sixth step is the epoch's last
        if not sent and (where in ("setup", "on_train_start") or self.trainer.global_step >= 5):
            sent.append(self.trainer.global_step)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(DogBreedClassifier, where, signal_once)
    with pytest.raises(Interrupted) as caught:
        run(config(photos), tmp_path / "run")
    assert caught.value.signum == signal.SIGTERM
    assert sent
    run(config(photos), tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(finished))
    assert history(tmp_path / "run") == history(finished)


def test_the_parts_work_without_hydra(photos: Path, tmp_path: Path) -> None:
    data = DogBreedData(photos, batch_size=4, image_px=32, workers=0, augment=Augment())
    model = DogBreedClassifier(data.classes, library="timm", backbone="test_resnet", weights=None, image_px=32)
    trainer = Trainer(
        max_epochs=1, default_root_dir=tmp_path, logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    with only_useful_warnings():
        trainer.fit(model, datamodule=data)
        tested = trainer.test(model, datamodule=data, verbose=False)[0]
    assert set(tested) == {f"test/{name}" for name in ("acc", "top5", "f1", "ece", "loss")}
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    answer = Predictor.from_checkpoint(tmp_path / "mine.ckpt").predict(photos / "test" / "001.Class_1" / "000.jpg")
    assert answer == Predictor.from_model(model).predict(photos / "test" / "001.Class_1" / "000.jpg")


def test_weights_and_biases_by_one_override(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(config(photos, "logger=wandb", "trainer.max_epochs=1"), tmp_path)
    assert len(list(tmp_path.glob("wandb/offline-run-*-test/*.wandb"))) == 1


def test_tensorboard_is_the_default_logger(photos: Path, tmp_path: Path) -> None:
    run(config(photos, "logger=tensorboard", "trainer.max_epochs=1"), tmp_path)
    assert len(list(tmp_path.glob("tensorboard/events.*"))) == 1


def test_importing_the_package_loads_no_torch() -> None:
    probe = "import sys, dogbreed.errors, dogbreed.photos; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.slow  # a minute of compiling
def test_compiled_training_is_the_same_training(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dogbreed")
    steady = "model.dropout=0"  # compiled, it draws other random numbers
    plain = run(config(photos, steady), tmp_path / "plain")
    fast = run(config(photos, steady, "model.compile=true"), tmp_path / "compiled")
    assert "Compiled for images of 32 px" in caplog.text
    assert fast["val/loss"] == pytest.approx(plain["val/loss"], abs=1e-3)
    assert fast["steps"] == plain["steps"]


def test_what_cannot_be_compiled_is_an_error_with_a_way_out(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(function: Any, **_: Any) -> Any:
        def compiled(*_: Any) -> None:
            raise InvalidCxxCompiler

        return compiled

    from torch._inductor.exc import InvalidCxxCompiler

    monkeypatch.setattr(torch, "compile", refuses)
    with pytest.raises(ConfigError, match=r"InvalidCxxCompiler(.|\n)*Try: model\.compile=false"):
        run(config(photos, "model.compile=true"), tmp_path)


def test_growing_pictures_are_trained_small_first_and_evaluated_at_full_size(photos: Path, tmp_path: Path) -> None:
    forward, sizes = DogBreedClassifier.forward, []

    def seen(self: DogBreedClassifier, images: torch.Tensor) -> torch.Tensor:
        if images.device.type != "meta":
            sizes.append((self.training, images.shape[-1]))
        return forward(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DogBreedClassifier, "forward", seen)
        run(config(photos, "model.image_px=64", "data.start_px=32", "trainer.max_epochs=3"), tmp_path)
    trained = [size for training_, size in sizes if training_]
    assert trained == sorted(trained)
    assert set(trained) == {32, 64}
    assert {size for training_, size in sizes if not training_} == {64}


def test_a_run_reports_how_long_it_waited_for_data(copy: Path) -> None:
    metrics = json.loads((copy / "metrics.json").read_text())
    assert 0 < metrics["train/data_wait"] <= 1
    with (copy / "metrics.csv").open() as file:
        assert all(0 <= float(row["data_wait"]) <= 1 for row in csv.DictReader(file))


def test_the_resume_point_is_saved_when_the_settings_comment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 7 s, epochs of 30 of them, each with a validation of 50 s, and save.every_s=60; then short epochs."""
    now, saved = [0.0], list[tuple[int, int, float]]()
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(checkpoints.SavedProgress, "write", lambda self, path: None)
    point = checkpoints.ResumePoint(RunFolder(tmp_path), Interruption(), None, 60.0, None)
    trainer: Any = SimpleNamespace(
        num_training_batches=30, accumulate_grad_batches=1, global_step=0, current_epoch=0, max_epochs=3,
        should_stop=False, save_checkpoint=lambda *_, **__: saved.append((trainer.current_epoch, at, now[0])),
        datamodule=SimpleNamespace(state_dict=lambda: {"digest": "", "global_batch": 4}),
    )  # fmt: skip
    for trainer.current_epoch in range(3):
        for at in range(30):
            now[0] += 7
            trainer.global_step += 1
            point.on_train_batch_end(trainer, None, None, None, at)  # type: ignore[arg-type]
        now[0] += 50
        at = 30
        point.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    every_epoch = [8, 17, 26, 28, 30]  # after 63 s of steps each; before the last step, of 14 s; at the end, of 57 s
    assert [(epoch, step) for epoch, step, _ in saved] == [(epoch, step) for epoch in range(3) for step in every_epoch]
    gaps = np.diff([0.0, *(at for _, _, at in saved)])
    assert gaps.max() <= 60 + 7

    saved.clear()
    trainer.max_epochs = 9
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    trainer.save_checkpoint = lambda path, **_: (path.touch(), saved.append((trainer.current_epoch, 1, 0.0)))
    for trainer.current_epoch in range(9):
        now[0] += 0.1
        point.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert [epoch for epoch, _, _ in saved] == [0, 8]  # the first, and the last


def test_a_checkpoint_is_due_when_it_is_asked_for_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that may soon be taken away writes the file of DOGBREED_SAVE_NOW."""
    asking = tmp_path / "save-now"
    monkeypatch.setenv("DOGBREED_SAVE_NOW", str(asking))
    point = checkpoints.ResumePoint(RunFolder(tmp_path), Interruption(), "r", every_s=1e9, every_n_steps=None)
    trainer = SimpleNamespace(
        save_checkpoint=lambda path, weights_only: path.parent.mkdir(exist_ok=True) or path.write_text("x"),
        global_step=1,
        current_epoch=0,
        num_training_batches=2,
        accumulate_grad_batches=1,
        datamodule=SimpleNamespace(state_dict=lambda: {"digest": "d", "global_batch": 4}),
    )
    assert not point._due()
    for written_ns in (1_000_000, 1_000_001):  # two moments, also where the file system's clock ticks more slowly
        asking.write_text("")
        os.utime(asking, ns=(written_ns, written_ns))
        assert point._due()
        point._save(cast(Any, trainer))
        assert not point._due()
    monkeypatch.delenv("DOGBREED_SAVE_NOW")
    alone = checkpoints.ResumePoint(RunFolder(tmp_path), Interruption(), "r", every_s=1e9, every_n_steps=None)
    assert not alone._due()
