"""Any file that holds a model becomes the one artifact, and no code in it runs."""

import json
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision import models

from dogbreed import artifact, bare, checkpoints, export, heads, pickled, reference
from dogbreed.artifact import Manifest
from dogbreed.errors import ArtifactError, CheckpointError, DataError, DogBreedError, WeightsError
from dogbreed.inference import Predictor
from dogbreed.model import DogBreedClassifier
from dogbreed.model_files import artifact_of
from dogbreed.preprocess import Preprocess
from dogbreed.run_folder import RunFolder
from tests.support.project import ROOT
from tests.support.serving import tiny_model

SMALL = bare.Architecture("torchvision", "resnet18", "fc", {"image_px": 32})
NAMES = tuple("abcde")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet18 is recognised in place of ResNet50, and quickly exported."""
    monkeypatch.setattr(bare, "KNOWN", (SMALL,))


def trained(build: Callable[..., nn.Module], head: nn.Module | None = None, outputs: int = 5) -> nn.Module:
    """A network of torchvision with the statistics of some images, so that each image gets other outputs."""
    torch.manual_seed(0)
    network = build(num_classes=outputs)
    if head is not None:
        network.fc = head
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 64, 64))
    return network.eval()


def loaded(path: Path, classes: Any = NAMES) -> DogBreedClassifier:
    return bare.classifier(path, bare.read(path), classes)


def agree(model: DogBreedClassifier, network: nn.Module) -> bool:
    """Whether both compute the same for normalised images; the other network may end in log-probabilities."""
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = model(images).softmax(-1), network.float()(images).softmax(-1)
    assert theirs.std(0).max() > 1e-3  # the images have different answers
    return torch.allclose(ours, theirs, atol=1e-5)


def test_the_known_networks_are_those_of_the_settings() -> None:
    settings = [OmegaConf.load(path) for path in (ROOT / "conf/model").glob("*.yaml") if path.stem != "base"]
    known = {one.backbone: DogBreedClassifier.__init__.__kwdefaults__ | dict(one.settings) for one in bare.KNOWN}
    assert known.keys() == {one.backbone for one in settings}
    for one in settings:
        for name in ("image_px", "crop_pct", "interpolation", "mean", "std"):
            expected = OmegaConf.to_object(one[name]) if OmegaConf.is_config(one[name]) else one[name]
            assert list(np.atleast_1d(known[one.backbone][name])) == list(np.atleast_1d(expected))


def test_a_pickled_resnet50_with_133_outputs_needs_nothing_else(tmp_path: Path) -> None:
    network = trained(models.resnet50, outputs=133)
    torch.save(network, tmp_path / "model.pth")
    model = loaded(tmp_path / "model.pth", None)
    assert agree(model, network)
    assert len(model.classes) == 133
    assert model.classes[1] == "002.Afghan_hound"


def test_a_bare_file_becomes_an_artifact_that_answers_as_it(small: None, tmp_path: Path) -> None:
    network = trained(models.resnet18)
    torch.save(network, tmp_path / "whole.pth")
    torch.save(network.state_dict(), tmp_path / "state.pth")
    made = artifact_of(tmp_path / "whole.pth", classes=NAMES)
    assert made == artifact_of(tmp_path / "state.pth", classes=NAMES)
    (tmp_path / "model.tar.gz").write_bytes(made)
    found = artifact.read(tmp_path / "model.tar.gz")
    assert found.labels == NAMES
    assert found.preprocess == Preprocess(image_px=32, crop_pct=0.965)
    assert found.manifest.parity_error <= export.TOLERANCE
    pictures = reference.pictures()
    pixels = torch.from_numpy(found.preprocess.normalise(np.stack([found.preprocess.pixels(p) for p in pictures])))
    with torch.inference_mode():
        expected = network(pixels).softmax(-1).numpy()
    assert np.abs(Predictor.from_artifact(tmp_path / "model.tar.gz").probabilities(pictures) - expected).max() < 1e-4


HEADS: dict[str, Callable[[], nn.Module]] = {
    "one layer in a sequence": lambda: nn.Sequential(nn.Linear(512, 5)),
    "a hidden layer": lambda: nn.Sequential(nn.Linear(512, 9), nn.ReLU(inplace=True), nn.Linear(9, 5)),
    "dropout, log-probabilities": lambda: nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(512, 9), relu=nn.ReLU(), drop=nn.Dropout(0.3), fc2=nn.Linear(9, 5), out=nn.LogSoftmax(dim=1)
        )
    ),
    "batch norm": lambda: nn.Sequential(
        nn.Dropout(), nn.Linear(512, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 5)
    ),
    "two linear layers": lambda: nn.Sequential(nn.Linear(512, 9), nn.Linear(9, 5)),
}
PICKLED_ONLY: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: nn.Sequential(nn.Linear(512, 9), nn.Tanh(), nn.Linear(9, 5)),
    "leaky": lambda: nn.Sequential(nn.Linear(512, 9), nn.LeakyReLU(0.3), nn.Linear(9, 5)),
    "nested": lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(512, 9), nn.GELU("tanh")), nn.Linear(9, 5)),
}


@pytest.mark.parametrize("kind", sorted(heads._ACTIVATIONS))
def test_each_activation_computes_what_the_pickled_one_does(kind: str, tmp_path: Path) -> None:
    build, settings = heads._ACTIVATIONS[kind]
    layer = build(**{name: "tanh" if name == "approximate" else 0.3 for name in settings})
    head = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2)).eval()
    torch.save(head, tmp_path / "head.pth")
    part = bare.read(tmp_path / "head.pth")
    features = torch.randn(5, 4)
    assert torch.equal(nn.Sequential(*heads.from_part(part))(features), head(features))


@pytest.mark.parametrize("name", [*HEADS, *PICKLED_ONLY])
def test_a_head_of_several_layers_is_rebuilt(name: str, small: None, tmp_path: Path) -> None:
    network = trained(models.resnet18, {**HEADS, **PICKLED_ONLY}[name]())
    torch.save(network, tmp_path / "whole.pth")
    assert agree(loaded(tmp_path / "whole.pth"), network)
    if name in HEADS:
        torch.save(network.state_dict(), tmp_path / "state.pth")
        assert agree(loaded(tmp_path / "state.pth"), network)


def test_an_activation_that_the_file_does_not_name_is_said(
    small: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = trained(models.resnet18, HEADS["a hidden layer"]())
    torch.save(network, tmp_path / "whole.pth")
    loaded(tmp_path / "whole.pth")
    assert "assumed" not in caplog.text
    torch.save(network.state_dict(), tmp_path / "state.pth")
    loaded(tmp_path / "state.pth")
    assert "does not say which activation is in its head before the layer 2; ReLU is assumed" in caplog.text


@pytest.mark.parametrize("wrap", ["data parallel", "half", "in a checkpoint", "prefix", "ours", "trained on"])
def test_files_of_training_programs_are_understood(wrap: str, small: None, tmp_path: Path) -> None:
    network = trained(models.resnet18)
    content: Any = {
        "data parallel": lambda: nn.DataParallel(network),
        "half": lambda: network.half(),
        "in a checkpoint": lambda: {"epoch": 3, "model": network, "best_acc": np.float64(0.9)},
        "prefix": lambda: {"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}},
        "ours": lambda: _ours(network),
        "trained on": lambda: network.train(),
    }[wrap]()
    torch.save(content, path := tmp_path / "model.pth")
    assert agree(loaded(path), network.eval())


def _ours(network: nn.Module) -> dict[str, Tensor]:
    state = {f"backbone.{name}": value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    head = {
        f"head.1.{name.removeprefix('fc.')}": value for name, value in network.state_dict().items() if "fc." in name
    }
    return {**state, **head, "temperature": torch.tensor(1.0)}


@pytest.mark.parametrize("where", ["checkpoint", "network"])
def test_class_names_in_the_file_are_used(where: str, small: None, tmp_path: Path) -> None:
    network: Any = trained(models.resnet18)
    numbers = {name: number for number, name in enumerate(NAMES[::-1])}
    if where == "network":
        network.class_to_idx = numbers
    torch.save(
        network if where == "network" else {"model": network.state_dict(), "class_to_idx": numbers}, tmp_path / "m"
    )
    assert loaded(tmp_path / "m", None).classes == NAMES[::-1]
    assert loaded(tmp_path / "m", "vwxyz").classes == tuple("vwxyz")


def test_a_wrong_number_of_class_names_is_refused_with_both(small: None, tmp_path: Path) -> None:
    torch.save(trained(models.resnet18).state_dict(), tmp_path / "m.pth")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"has 5 outputs, but .*names\.txt has 3 class names\.\nTry: python -m"):
        loaded(tmp_path / "m.pth", tmp_path / "names.txt")
    with pytest.raises(
        DataError, match=r"has 5 outputs and does not say what their classes are called(.|\n)*--classes"
    ):
        loaded(tmp_path / "m.pth", None)


def _changed(change: Callable[[Any], Any]) -> Callable[[], Any]:
    def build() -> Any:
        network = trained(models.resnet18)
        return change(network) or network

    return build


def _set(network: Any, name: str, value: Any) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, value)


def _with_head(network: Any, *layers: nn.Module) -> dict[str, Tensor]:
    network.fc = nn.Sequential(*layers)
    state: dict[str, Tensor] = network.state_dict()
    return state


def _odd(layer: Any) -> nn.Module:
    layer.alpha = [1]
    return layer  # type: ignore[no-any-return]


def _fill(network: nn.Module) -> None:
    with torch.no_grad():
        network.get_parameter("layer1.0.conv1.weight").fill_(float("nan"))


UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "another network": (lambda: models.resnet34(num_classes=5), "layer1 has the parts 0, 1, 2, not 0, 1"),
    "its state": (
        lambda: models.mobilenet_v3_small(num_classes=5).state_dict(),
        r"tensors are those of no known net.*seen",
    ),
    "another stride": (_changed(lambda n: _set(n, "layer2.0.conv1.stride", (1, 1))), r"stride=\(1, 1\), not \(2, 2\)"),
    "another activation": (_changed(lambda n: _set(n, "relu", nn.Tanh())), "relu is a Tanh, not a ReLU"),
    "one part less": (
        _changed(lambda n: _set(n, "layer4", nn.Sequential(n.layer4[0]))),
        "layer4 has the parts 0, not 0, 1",
    ),
    "no head": (_changed(lambda n: _set(n, "fc", nn.Identity())), "its head ends with nothing"),
    "no head in the state": (
        lambda: {k: v for k, v in models.resnet18().state_dict().items() if not k.startswith("fc.")},
        "but no head",
    ),
    "another width": (_changed(lambda n: _set(n, "fc", nn.Linear(100, 5))), "takes 100 features, but gets 512"),
    "a head that ends in ReLU": (
        _changed(lambda n: _set(n, "fc", nn.Sequential(nn.Linear(512, 5), nn.ReLU()))),
        "ends with ReLU",
    ),
    "a norm between": (
        _changed(lambda n: _set(n, "fc", nn.Sequential(nn.Linear(512, 5), nn.LogSoftmax(dim=0)))),
        "LogSoftmax over dimension 0",
    ),
    "unknown layers in between": (
        _changed(
            lambda n: _with_head(n, nn.Linear(512, 9), nn.ReLU(), nn.BatchNorm1d(9), nn.Dropout(), nn.Linear(9, 5))
        ),
        "does not say which layers its head has in front of 2 and 4",
    ),
    "a setting that cannot be": (
        _changed(lambda n: _set(n, "fc", nn.Sequential(nn.Linear(512, 9), _odd(nn.ELU()), nn.Linear(9, 5)))),
        r"its head has a ELU whose alpha is \[1\]",
    ),
    "weights that diverged": (_changed(_fill), "not all finite"),
    "a tensor": (lambda: torch.zeros(3), "neither a state dict"),
    "a sequence": (lambda: nn.Sequential(nn.Linear(2, 2)), "the network is a Sequential, not a ResNet"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_expressed_is_refused_with_what_was_seen(name: str, small: None, tmp_path: Path) -> None:
    build, said = UNFIT[name]
    torch.save(build(), path := tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=rf"model\.pth(.|\n)*{said}(.|\n)*Try: "):
        loaded(path)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_program_of_torchscript_says_how_to_save_its_weights(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path := tmp_path / "model.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(WeightsError, match=r"is a TorchScript program(.|\n)*Try: .*state_dict"):
        artifact_of(path)


# --- pickles that want to run something ---


class Reduced:
    """Is pickled as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        function, *arguments = self.call
        return function, tuple(arguments)


class Own(nn.Module):
    """A class outside of torchvision."""

    def __setstate__(self, state: Any) -> None:
        Path("it-ran").touch()


def _hooked() -> nn.Module:
    network = models.resnet18(num_classes=5)
    network.fc.register_forward_hook(print)
    return network


HARMFUL: dict[str, Callable[[], Any]] = {
    "os.system": lambda: Reduced(os.system, "touch it-ran"),
    "subprocess": lambda: Reduced(subprocess.run, ["touch", "it-ran"]),
    "eval": lambda: Reduced(eval, "open('it-ran', 'w')"),
    "a class outside": Own,
    "a class outside, inside a network": lambda: nn.Sequential(Own()),
    "a call inside a network": lambda: _with(Reduced(os.system, "touch it-ran")),
    "a call inside a state dict": lambda: {**models.resnet18().state_dict(), "x": Reduced(os.system, "touch it-ran")},
    "a constructor of torch": lambda: Reduced(nn.Linear, 10**6, 10**6),
    "a constructor of torchvision": lambda: Reduced(models.ResNet, models.resnet.BasicBlock, [1, 1, 1, 1]),
    "a method": lambda: Reduced(getattr, nn.Linear(1, 1), "forward"),
    "a hook": _hooked,
}


def _with(value: Any) -> nn.Module:
    network: Any = models.resnet18(num_classes=5)
    network.note = value
    return network


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", HARMFUL)
def test_a_pickle_that_needs_code_is_refused_and_does_not_run(
    name: str, legacy: bool, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(HARMFUL[name](), "saved.pth", _use_new_zipfile_serialization=not legacy)
    Path("it-ran").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=r"saved\.pth(.|\n)*Try: "):
        artifact_of(Path("saved.pth"), classes=NAMES)
    assert not Path("it-ran").exists()


def test_an_old_pickle_of_a_network_says_how_to_save_its_weights(small: None, tmp_path: Path) -> None:
    torch.save(models.resnet18(num_classes=5), path := tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(
        WeightsError, match=r"whose source is in it(.|\n)*state_dict\(\), 'weights.pth'\), and then python"
    ):
        artifact_of(path)


@pytest.mark.parametrize("kind", ["state dict", "pickled"])
def test_where_a_run_s_checkpoint_is_needed_it_is_said_what_makes_an_artifact(kind: str, tmp_path: Path) -> None:
    network = models.resnet18(num_classes=5)
    torch.save(network.state_dict() if kind == "state dict" else network, tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"checkpoint of a dogbreed run\.\nTry: python -m dogbreed\.export "
    ) as caught:
        Predictor.load(tmp_path / "model.pth")
    assert "weights_only" not in str(caught.value)  # torch's advice to run what is in the file


def test_a_pickle_reaches_nothing_but_inert_stand_ins() -> None:
    for stand_in, name in pickled.STAND_INS:
        assert issubclass(stand_in, pickled.Part)
        assert set(vars(stand_in)) <= {"__slots__", "__module__", "__doc__"}, name
        assert not hasattr(stand_in(), "__dict__")
        with pytest.raises(TypeError):
            stand_in(1)  # type: ignore[call-arg]
        part = stand_in()
        part.__setstate__(({}, {"__class__": dict, "attributes": 3}))
        assert part.attributes == {}
        assert type(part) is stand_in


# --- runs, searches and artifacts ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with best.ckpt and fit.json, without an artifact."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    model = DogBreedClassifier(NAMES, backbone="resnet18", weights=None, image_px=32)
    content = {"epoch": 1, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    checkpoints.write(content, RunFolder(folder).best)
    RunFolder(folder).fit.write_text("{}")
    return folder


def test_a_run_without_an_artifact_is_exported(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_bytes(artifact_of(finished))
    assert artifact.read(tmp_path / "model.tar.gz").labels == NAMES
    with pytest.raises(DataError, match=r"class names of its own, which differ .*\(5 and 4\)"):
        artifact_of(RunFolder(finished).best, classes="abcd")


def test_an_unfinished_run_and_what_is_no_model_say_what_to_do(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    RunFolder(folder).fit.unlink()
    with pytest.raises(ArtifactError, match=r"has not finished\.\nTry: python .*resume="):
        artifact_of(folder)
    with pytest.raises(ArtifactError, match=r"holds no model(.|\n)*Try: "):
        artifact_of(tmp_path)
    with pytest.raises(ArtifactError, match=r"There is no file or folder .*absent(.|\n)*Try: "):
        artifact_of(tmp_path / "absent")


WITHOUT_TORCH = """
import sys
from pathlib import Path
from dogbreed.model_files import artifact_of
for source in sys.argv[1:]:
    print(len(artifact_of(Path(source))), "torch" in sys.modules)
"""


def test_artifacts_runs_and_searches_need_no_torch(tmp_path: Path) -> None:
    made = tiny_model(tmp_path / "model.tar.gz").read_bytes()
    unpacked, run, search = (tmp_path / name for name in ("unpacked", "run", "search"))
    unpacked.mkdir()
    shutil.unpack_archive(tmp_path / "model.tar.gz", unpacked, filter="data")
    for folder in (run, search / "00007"):
        folder.mkdir(parents=True)
        (folder / "model.tar.gz").write_bytes(made)
    (search / "best.json").write_text(json.dumps({"trial": 7}))
    sources = [tmp_path / "model.tar.gz", unpacked, run, search]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *sources], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{len(made)} False"] * 4
    assert artifact_of(unpacked) == artifact_of(search) == made
    assert Predictor.load(search).about.run_id == "run-1"
    with pytest.raises(DataError, match=r"which differ from the given ones \(133 and 2\)"):
        artifact_of(search, classes="ab")


def test_the_command_takes_the_files_of_other_programs(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(trained(models.resnet18), tmp_path / "theirs.pth")
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    assert export.main([str(tmp_path / "theirs.pth")]) == 1
    assert "does not say what their classes are called" in capsys.readouterr().err
    assert export.main([str(tmp_path / "theirs.pth"), "--classes", str(tmp_path / "names.json")]) == 0
    assert "5 classes: a, b, c and 2 more" in capsys.readouterr().out
    assert artifact.read(tmp_path / "model.tar.gz").labels == NAMES


def test_any_refusal_is_an_error_that_commands_print() -> None:
    assert issubclass(WeightsError, DogBreedError)
    assert Manifest("", "", "", 20, 1.0, {}, 0.0, True).answers == ()
