"""Weights come in the files of many programs; what is in them is found, and none of it runs."""

import argparse
import logging
import re
from collections import OrderedDict
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from dogbreed import backbones, checkpoints, weights
from dogbreed.errors import DogBreedError, WeightsError
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder

SMALL: dict[str, Any] = {"library": "timm", "backbone": "test_resnet", "image_px": 32}
BUILD = ("timm", "test_resnet")


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return state_of(backbones.build(*BUILD, None)[0])


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def loads(path: Path, state: dict[str, Tensor]) -> bool:
    network, _ = backbones.build(*BUILD, str(path))
    return all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


PARTS = ["module.", "model.", "_orig_mod.", "backbone.", "net.encoder.", "0."]
KEYS = ["state_dict", "model_state_dict", "model", "network", "my own key"]


@given(st.lists(st.sampled_from(PARTS), max_size=3), st.lists(st.sampled_from(KEYS), max_size=3))
def test_any_prefix_and_any_mapping_around_the_tensors_is_removed(prefix: list[str], keys: list[str]) -> None:
    wanted = {"conv.weight": torch.zeros(2, 3), "layers.0.weight": torch.zeros(4)}
    inside: Any = behind("".join(prefix), {name: value + 1 for name, value in wanted.items()})
    inside |= {"".join(prefix) + "fc.weight": torch.zeros(9, 4)}
    for key in keys:
        inside = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(4)}}}, key: inside}
    found = weights.fitting(inside, wanted, "a file")
    assert {name: value.mean().item() for name, value in found.items()} == {"conv.weight": 1, "layers.0.weight": 1}


def test_a_compiled_part_inside_a_network_is_found() -> None:
    wanted = {"layer1.0.conv1.weight": torch.zeros(2), "fc1.weight": torch.zeros(1)}
    theirs = {"layer1._orig_mod.0.conv1.weight": torch.ones(2), "fc1.weight": torch.ones(1)}
    assert weights.fitting(theirs, wanted, "a file")["layer1.0.conv1.weight"].tolist() == [1, 1]


def test_checkpoints_of_training_programs_are_read(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dogbreed")
    counters = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    files: dict[str, Any] = {
        "bare": state,
        "ordered": OrderedDict(state),
        "without counters": counters,
        "tutorial": {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}, "loss": np.float64(0.5)},
        "torchvision": {"model": behind("module.", state), "args": argparse.Namespace(lr=0.1, data=PosixPath("/d"))},
        "lightning": {"state_dict": behind("model.backbone.", state), "hyper_parameters": {"lr": 0.1}},
        "averaged": {"model": state, "model_ema": {"n_averaged": torch.tensor(3), **behind("module.", state)}},
        "a head of its own": {**state, "fc.weight": torch.zeros(9, 9)},
    }
    for name, content in files.items():
        torch.save(content, path := tmp_path / f"{name}.pth")
        assert loads(path, counters), name
    assert "found under state_dict, with the prefix 'model.backbone.' in" in caplog.text


def test_safetensors_are_read_whatever_the_file_is_called(state: dict[str, Tensor], tmp_path: Path) -> None:
    for name in ("model.safetensors", "weights.bin"):
        save_file(behind("timm_model.", state), tmp_path / name)
        assert loads(tmp_path / name, state)
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(WeightsError, match=r"damaged safetensors(.|\n)*Try: "):
        backbones.build(*BUILD, str(damaged))


def test_two_networks_that_fit_are_refused_rather_than_guessed_between(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    others = {name: value + 1 for name, value in state.items()}
    torch.save({**behind("student.", state), **behind("teacher.", others)}, path := tmp_path / "both.pth")
    with pytest.raises(WeightsError, match=r"2 networks that fit, under the names 'student\.' and 'teacher\.'"):
        backbones.build(*BUILD, str(path))
    torch.save({**behind("student.", state), **behind("teacher.", state)}, path)
    assert loads(path, state)


class Runs:
    """A pickle that would run code when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("it-ran"),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["whole network", "inside a checkpoint", "harmful"])
def test_a_pickle_that_needs_code_is_refused_in_plain_words_and_does_not_run(
    kind: str, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = nn.Linear(1, 1)
    content = {"whole network": network, "inside a checkpoint": {"epoch": 1, "model": network}, "harmful": Runs()}
    torch.save(content[kind], "saved.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError) as caught:
        backbones.build(*BUILD, "saved.pth")
    message = str(caught.value)
    assert "saved.pth does not hold weights alone: it is a pickle that needs the code of" in message
    assert {"whole network": "Linear", "inside a checkpoint": "Linear", "harmful": "getattr"}[kind] in message
    assert "Try: in the program that wrote it, torch.save(model.state_dict(), 'weights.pth')" in message
    assert "\x1b" not in message
    assert not Path("it-ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "pointer to a file in Git LFS"),
        (b"\x1f\x8b\x08rest", "compressed archive"),
        (b"<!DOCTYPE html>", "neither a file of torch.save nor of safetensors"),
        (b"", "neither a file of torch.save nor of safetensors"),
    ],
)
def test_files_without_weights_say_what_they_are(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"weights\.pth .*{said}(.|\n)*Try: "):
        backbones.build(*BUILD, str(tmp_path / "weights.pth"))


def test_what_does_not_fit_is_described_with_both_shapes_or_the_names_in_the_file(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path, first = tmp_path / "w.pth", next(iter(state))
    torch.save({**state, first: torch.zeros(7)}, path)
    with pytest.raises(WeightsError, match=rf"1 have another shape \(first: {first}, \[7\] in the file and \["):
        backbones.build(*BUILD, str(path))
    torch.save({"vit.blocks.0.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"are missing(.|\n)*Its own names are like vit\.blocks\.0\.weight"):
        backbones.build(*BUILD, str(path))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://download.pytorch.org/models/resnet50-11ad3fa6.pth", r"resnet50-11ad3fa6\.pth"),
        ("https://hub/one/model.safetensors", r"model-[0-9a-f]{8}\.safetensors"),
    ],
)
def test_a_download_keeps_its_name_if_no_other_file_has_it(url: str, name: str) -> None:

    assert re.fullmatch(name, weights.cached_path(url).name)
    assert (
        weights.cached_path(url) == weights.cached_path(url) != weights.cached_path(url.replace("/one/", "/two/") + "x")
    )


# --- checkpoints of dogbreed's own runs ---


@pytest.fixture
def origin(state: dict[str, Tensor], tmp_path: Path) -> Path:
    """The weights that a run started with."""
    torch.save(state, path := tmp_path / "origin.pth")
    return path


def checkpoint(folder: Path, model: DogBreedClassifier) -> Path:
    """Write best.ckpt as a run does."""
    content: dict[str, Any] = {"epoch": 4, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(content)
    path = RunFolder(folder).best
    checkpoints.write(content, path)
    return path


def test_a_finished_run_s_checkpoint_warms_up_a_model_of_other_classes(tmp_path: Path) -> None:
    trained = DogBreedClassifier("ab", weights=None, trainable="all", **SMALL)
    path = checkpoint(tmp_path, trained)
    model = DogBreedClassifier("abcd", weights=str(path), **SMALL)
    assert backbones.digest(model.backbone.state_dict()) == backbones.digest(trained.backbone.state_dict())
    assert model.head[1].weight.shape[0] == 4


@pytest.mark.parametrize("trainable", ["head", "layer4"])
@pytest.mark.parametrize("beside", [True, False])
def test_so_does_one_that_holds_only_the_trained_part(
    trainable: str, beside: bool, origin: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    trained = DogBreedClassifier("ab", weights=str(origin), trainable=trainable, **SMALL)
    for parameter in trained.backbone.parameters():
        parameter.data += parameter.requires_grad
    now = state_of(trained.backbone)
    assert (backbones.digest(now) == backbones.digest(state)) == (trainable == "head")
    frozen = trained.release_frozen()
    path = checkpoint(tmp_path / "run", trained)
    if beside:
        content = {"state_dict": frozen, "hyper_parameters": {}, checkpoints.FROZEN: trained.released}
        checkpoints.write(content, RunFolder(tmp_path / "run").frozen)
        origin.unlink()
    assert loads(path, now)


@pytest.mark.parametrize("how", ["changed", "gone", "random", "itself"])
def test_a_trained_part_whose_frozen_part_is_nowhere_is_refused(
    how: str, origin: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    trained = DogBreedClassifier("ab", weights=None if how == "random" else str(origin), trainable="head", **SMALL)
    trained.release_frozen()
    path = checkpoint(tmp_path / "run", trained)
    if how == "changed":
        torch.save({name: value + 1 for name, value in state.items()}, origin)
    if how == "gone":
        origin.unlink()
    if how == "itself":
        path = path.replace(origin)
    with pytest.raises(DogBreedError, match=r"Try: "):
        backbones.build(*BUILD, str(path))


def test_a_run_folder_as_weights_says_which_file_to_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is a folder\.\nTry: a file, such as <run folder>/checkpoints/best\.ckpt"):
        backbones.build(*BUILD, str(tmp_path))
