"""Build the classifier from a bare file of weights: a state dict, or a whole network pickled by torch.save(model)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dogbreed import backbones, class_names, commands, heads, pickled, weights
from dogbreed.errors import WeightsError
from dogbreed.model import DogBreedClassifier


@dataclass(frozen=True)
class Architecture:
    """A network that is recognised by its tensors. head: its last part. settings: of the preprocessing."""

    library: backbones.Library
    backbone: str
    head: str
    settings: Mapping[str, Any]


KNOWN = (  # as in conf/model/, with the preprocessing of their ImageNet weights
    Architecture("torchvision", "resnet50", "fc", {}),  # the classifier's own defaults
    Architecture(
        "timm",
        "tf_efficientnet_lite0",
        "classifier",
        {"crop_pct": 0.875, "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    ),
)
_OURS = "backbone."  # the prefix in the state dict of a DogBreedClassifier, whose head is beside it


def classifier(path: Path, content: Any, classes: Path | Sequence[str] | None = None) -> DogBreedClassifier:
    """Build the network in eval mode.

    content: of the file, as `read` returns it. classes: see `dogbreed.class_names.of_network`.
    Raises WeightsError if it is not a network in KNOWN with a head that can be rebuilt, DataError for wrong names.
    """
    source = commands.shown_path(path)
    network = pickled.network_in(content)
    try:
        if network is None:
            known, width, found = _recognised(content, source)
            layers = heads.from_state(_head_state(found, known), source)
            inside = content
        else:
            known = KNOWN[0]
            with torch.device("meta"):
                reference, _ = backbones.build(known.library, known.backbone, None)
            try:
                state = pickled.state_of(network, reference, known.head)
            except ValueError as error:
                raise ValueError(f"it is not torchvision's {known.backbone}: {error}") from error
            known, width, found = _recognised(state, source)
            layers = heads.from_part(network.children[known.head])
            inside = {**network.attributes, **(content if isinstance(content, Mapping) else {})}
        hidden, last = heads.divided(layers, width)
    except ValueError as error:
        raise WeightsError(f"{source} cannot be made into an artifact: {error}.\n{_ADVICE}") from error
    _refuse_what_is_not_finite(found, layers, source)
    names = class_names.of_network(last.out_features, path, given=classes, inside=inside)
    return _built(known, found, names, hidden, last)


_ADVICE = (
    "Try: a ResNet50 of torchvision or a tf_efficientnet_lite0 of timm, whose head is one linear layer or an "
    "nn.Sequential of Linear, BatchNorm1d, Dropout and activations"
)


def read(path: Path) -> Any:
    """Read the file without running code that is in it: a state dict, a checkpoint, or parts of a pickled ResNet.

    Raises WeightsError.
    """
    again = commands.module("dogbreed.export", "weights.pth")
    return weights.read(path, known=pickled.STAND_INS, advice=again)


def _recognised(content: Any, source: str) -> tuple[Architecture, int, weights.Found]:
    """Return the known network whose tensors are in `content`, its width, and the tensors.

    Raises ValueError that says what was seen, if it is none of them.
    """
    closest: list[tuple[float, str]] = []
    state: Mapping[str, Tensor] = {}
    for known in KNOWN:
        with torch.device("meta"):  # names and shapes alone
            network, width = backbones.build(known.library, known.backbone, None)
        wanted = network.state_dict()
        found = weights.closest(content, wanted, source)
        if found is None:
            raise WeightsError(
                f"{source} holds neither a state dict (a mapping of names to tensors) nor a network of torchvision.\n"
                "Try: in the program that wrote it, torch.save(model.state_dict(), 'weights.pth')"
            )
        if not found.lacking:
            return known, width, found
        closest.append((len(found.names) / len(wanted), f"{known.backbone} has {len(wanted)}, {len(found.names)} fit"))
        state = found.state
    names = list(state)
    seen = " to ".join(f"{name} {list(state[name].shape)}" for name in (names[0], names[-1]))
    raise ValueError(
        f"its tensors are those of no known network ({'; '.join(text for _, text in sorted(closest, reverse=True))}); "
        f"seen {len(names)}, from {seen}"
    )


def _head_state(found: weights.Found, known: Architecture) -> dict[str, Tensor]:
    ours = found.prefix == _OURS or found.prefix.endswith(f".{_OURS}")
    prefix = f"{found.prefix.removesuffix(_OURS)}head." if ours else f"{found.prefix}{known.head}."
    state = {name.removeprefix(prefix): value for name, value in found.state.items() if name.startswith(prefix)}
    if not state:
        raise ValueError(f"it has the backbone {known.backbone}, but no head (no tensors named {prefix}...)")
    return state


def _refuse_what_is_not_finite(found: weights.Found, layers: Sequence[nn.Module], source: str) -> None:
    tensors = [*found.tensors().values(), *(value for layer in layers for value in layer.state_dict().values())]
    if any(value.is_floating_point() and not value.isfinite().all() for value in tensors):
        raise WeightsError(
            f"The weights in {source} are not all finite numbers.\nTry: a file from before they diverged"
        )


def _built(
    known: Architecture, found: weights.Found, names: Sequence[str], hidden: Sequence[nn.Module], last: nn.Linear
) -> DogBreedClassifier:
    model = DogBreedClassifier(names, library=known.library, backbone=known.backbone, weights=None, **known.settings)
    model.backbone.load_state_dict({**model.backbone.state_dict(), **found.tensors()})
    if hidden:  # they become the backbone's end, so that the classifier's head is linear
        setattr(model.backbone, known.head, nn.Sequential(*hidden))
        model.width = last.in_features
    model.head = nn.Sequential(nn.Dropout(0.0), last)
    temperature = found.state.get(f"{found.prefix.removesuffix(_OURS)}temperature")
    if temperature is not None and temperature.numel() == 1:
        model.temperature.fill_(temperature.item())
    return model.eval()
