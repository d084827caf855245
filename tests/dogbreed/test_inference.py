import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dogbreed import checkpoints, predict
from dogbreed.breeds import display_names
from dogbreed.errors import CheckpointError, DataError
from dogbreed.inference import Predictor
from dogbreed.model import DogBreedClassifier
from tests.support.serving import tiny_model

CLASSES = ("001.Affenpinscher", "002.Afghan_hound", "003.Airedale_terrier")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an untrained network like a run does: its predictions are arbitrary, but always the same."""
    torch.manual_seed(0)
    model = DogBreedClassifier(CLASSES, backbone="resnet18", weights=None, image_px=64)
    model.temperature.fill_(2.0)
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt"
    checkpoints.write({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def test_breeds_come_ranked_with_probabilities_that_sum_to_one(checkpoint: Path, photo: Path) -> None:
    ranked = Predictor.from_checkpoint(checkpoint).predict(photo)
    probabilities = [prediction.probability for prediction in ranked]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert {p.label for p in ranked} == set(CLASSES)
    assert {p.breed for p in ranked} == {"Affenpinscher", "Afghan hound", "Airedale terrier"}


def test_path_bytes_and_picture_give_the_same_answer(checkpoint: Path, photo: Path) -> None:
    predictor = Predictor.from_checkpoint(checkpoint)
    with Image.open(photo) as picture:
        answers = [predictor.predict(source) for source in (photo, str(photo), photo.read_bytes(), picture)]
    assert all(answer == answers[0] for answer in answers)


def written_into(content: bytes) -> io.BytesIO:
    """Return a buffer positioned at its end, as `picture.save(buffer)` leaves it."""
    buffer = io.BytesIO()
    buffer.write(content)
    return buffer


@pytest.mark.parametrize(
    "given",
    [
        bytearray,
        memoryview,
        io.BytesIO,
        written_into,
        lambda content: io.BufferedReader(io.BytesIO(content)),
        lambda content: np.asarray(Image.open(io.BytesIO(content))),
        lambda content: np.asarray(Image.open(io.BytesIO(content))).astype(np.int64),
        lambda content: np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")),
        lambda content: np.asfortranarray(Image.open(io.BytesIO(content))),
    ],
)
def test_what_notebooks_hold_is_answered_as_the_file_is(
    given: Callable[[bytes], Any], checkpoint: Path, photo: Path
) -> None:
    predictor = Predictor.from_checkpoint(checkpoint)
    assert predictor.predict(given(photo.read_bytes())) == predictor.predict(photo)


def test_an_open_file_is_read_and_left_open(checkpoint: Path, photo: Path) -> None:
    predictor = Predictor.from_checkpoint(checkpoint)
    with photo.open("rb") as file:
        assert predictor.predict(file) == predictor.predict(file) == predictor.predict(photo)


def test_a_grey_array_is_a_grey_picture(checkpoint: Path) -> None:
    predictor = Predictor.from_checkpoint(checkpoint)
    grey = np.random.default_rng(1).integers(0, 256, (70, 80), dtype=np.uint8)
    expected = predictor.predict(Image.fromarray(grey).convert("RGB"))
    assert predictor.predict(grey) == predictor.predict(grey[:, :, None]) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((3, 64, 48), np.uint8), r"uint8 \[3, 64, 48\] .*\[height, width, 3\]"),
        (np.zeros((2, 64, 48, 3), np.uint8), r"\[2, 64, 48, 3\]"),
        (np.zeros((0, 0, 3), np.uint8), r"\[0, 0, 3\]"),
        (np.full((64, 48, 3), 0.5, np.float32), r"float32 \[64, 48, 3\] with values 0.5..0.5 .*255 \* array"),
        (np.full((64, 48, 3), 300), r"values 300..300 .*0\.\.255"),
        (np.full((64, 48, 3), -1), r"values -1..-1"),
        (np.zeros((64, 48, 3), bool), "bool"),
        (torch.zeros(3, 64, 48), "Tensor .*NumPy"),
        (["a.jpg"], "list .*predict_many"),
        (None, "NoneType"),
        (7, "int"),
        (io.StringIO("text"), "in text mode"),
    ],
)
def test_an_unsupported_input_is_named_with_the_supported_ones(given: Any, words: str, checkpoint: Path) -> None:
    with pytest.raises(DataError) as refused:
        Predictor.from_checkpoint(checkpoint).predict(given)
    assert re.search(words, str(refused.value))
    assert "Try: " in str(refused.value)
    assert "damaged" not in str(refused.value)


def test_several_photos_are_answered_as_each_alone(checkpoint: Path, photo: Path) -> None:
    predictor = Predictor.from_checkpoint(checkpoint)
    other = io.BytesIO()
    Image.new("RGB", (40, 80), "red").save(other, "PNG")
    together = predictor.predict_many([photo, other.getvalue()], top=2)
    for answer, source in zip(together, (photo, other.getvalue()), strict=True):
        alone = predictor.predict(source, top=2)
        assert [p.label for p in answer] == [p.label for p in alone]
        assert [p.probability for p in answer] == pytest.approx([p.probability for p in alone], abs=1e-5)


def test_the_temperature_is_applied(checkpoint: Path, photo: Path) -> None:
    predictor = Predictor.from_checkpoint(checkpoint)
    calibrated = predictor.probabilities([photo])
    predictor._temperature = np.float32(1)
    assert calibrated.max() < predictor.probabilities([photo]).max()


def test_a_run_folder_stands_for_its_best_checkpoint(checkpoint: Path, photo: Path) -> None:
    folder = checkpoint.parents[1]
    assert Predictor.from_checkpoint(folder).predict(photo) == Predictor.from_checkpoint(checkpoint).predict(photo)


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(checkpoint.read_bytes()[:-1000])
    for path in (tmp_path / "absent.ckpt", tmp_path / "text.ckpt", tmp_path / "other.ckpt", torn, tmp_path):
        with pytest.raises(CheckpointError, match=r"checkpoint"):
            Predictor.from_checkpoint(path)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"x": Path("/")}}, tmp_path / "code.ckpt")
    with pytest.raises(CheckpointError, match="is not a checkpoint of a dogbreed run"):
        Predictor.from_checkpoint(tmp_path / "code.ckpt")


def test_a_picture_that_does_not_decode_is_a_data_error(checkpoint: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        Predictor.from_checkpoint(checkpoint).predict(b"")


def test_the_command_prints_the_top_breeds_and_continues_after_a_bad_photo(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = photo.with_name("copy.png")
    shutil.copy(photo, copy)
    assert predict.main([str(checkpoint), str(photo), str(photo.with_name("absent.jpg")), str(copy)]) == 1
    out, err = capsys.readouterr()
    assert out.count("Afghan hound") == 2
    assert err.startswith("error: ")
    assert "absent.jpg" in err
    assert max(map(len, out.splitlines())) <= max(80, len(str(photo)))


def test_the_command_answers_in_json_for_programs(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(checkpoint), str(photo), "--json", "--top", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["photo"] == str(photo)
    assert answer["unlike_training_photos"] is None
    assert [CLASSES[one["index"]] for one in answer["predictions"]] == [one["label"] for one in answer["predictions"]]
    assert len(answer["predictions"]) == 2


def test_the_command_says_what_is_wrong_with_a_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert predict.main([str(tmp_path / "absent.ckpt"), "photo.jpg"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_classes_with_equal_display_names_keep_their_folder_names(checkpoint: Path) -> None:
    first = Predictor.from_checkpoint(checkpoint)
    arguments = {"preprocess": first.preprocess, "temperature": 1.0, "about": first.about}
    for labels in (("1.5T", "3.5T", "7T"), ("001.dog", "002.dog", "003.cat"), ("a_b", "a b", "c")):
        named = Predictor(first._network, labels=labels, **arguments)
        assert named.breeds == labels
    assert Predictor(first._network, labels=("1.Cat", "2.Dog"), **arguments).breeds == ("Cat", "Dog")


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["1.5T", "2.6T"], ["1.5T", "2.6T"]),  # the number is part of the name
        (["1.5T", "cat"], ["1.5T", "cat"]),
        (["001.Tabby_cat", "Old_dog"], ["001.Tabby cat", "Old dog"]),  # not all are numbered
        (["1.a_b", "2.a b"], ["1.a b", "2.a b"]),
        (["1.a_b", "1.a b"], ["1.a_b", "1.a b"]),
        (["a\x01", "a\x02"], ["a\\x01", "a\\x02"]),
    ],
)
def test_a_number_is_dropped_only_where_all_classes_have_one(labels: list[str], shown: list[str]) -> None:
    assert display_names(labels) == shown


@given(st.lists(st.text("0123.aB_ \x01\udcff", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
def test_different_classes_have_different_names(labels: list[str]) -> None:
    names = display_names(labels)
    assert all(names)
    assert len(set(names)) == len(labels)
    shorter = [len(name) < len(label.strip("_ ")) for name, label in zip(names, labels, strict=True)]
    if any(shorter):
        assert all(re.match(r"\d+\.", label) for label in labels)


@pytest.mark.parametrize(("said", "called"), [(None, 1), ("0", 0), ("1", 0)])
def test_onnx_runtime_that_was_imported_before_is_told_and_what_the_user_has_set_wins(
    said: str | None, called: int
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"ORT_DISABLE_TELEMETRY": said} if said else {}
    code = """
import os, sys, types
calls = []
sys.modules["onnxruntime"] = types.SimpleNamespace(disable_telemetry_events=lambda: calls.append(1))
import dogbreed
print(len(calls), os.environ["ORT_DISABLE_TELEMETRY"])
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(called), said or "1"]


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """ONNX Runtime writes a device id into the home folder when it loads a network, unless telemetry is disabled."""
    model, home = tiny_model(tmp_path / "model.tar.gz"), tmp_path / "home"
    home.mkdir()
    wanted = ("ORT_DISABLE_TELEMETRY", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in wanted}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    code = f"import time; from dogbreed.inference import Predictor; Predictor.load({str(model)!r}); time.sleep(0.5)"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not [path for path in home.rglob("*") if "icrosoft" in str(path)]
