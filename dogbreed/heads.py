"""Rebuild the head of a network that another program trained: linear layers, with activations between them.

A pickled network names each of its layers. A state dict has only tensors, so an activation between two linear layers is
not in it; ReLU is assumed there, and said.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dogbreed.pickled import Part

log = logging.getLogger("dogbreed")

_ACTIVATIONS: Mapping[str, tuple[Any, tuple[str, ...]]] = {  # the class, and the settings that change what it computes
    "CELU": (nn.CELU, ("alpha",)),
    "ELU": (nn.ELU, ("alpha",)),
    "GELU": (nn.GELU, ("approximate",)),
    "Hardswish": (nn.Hardswish, ()),
    "LeakyReLU": (nn.LeakyReLU, ("negative_slope",)),
    "Mish": (nn.Mish, ()),
    "ReLU": (nn.ReLU, ()),
    "ReLU6": (nn.ReLU6, ()),
    "SELU": (nn.SELU, ()),
    "SiLU": (nn.SiLU, ()),
    "Sigmoid": (nn.Sigmoid, ()),
    "Softplus": (nn.Softplus, ("beta", "threshold")),
    "Softsign": (nn.Softsign, ()),
    "Tanh": (nn.Tanh, ()),
}
_NOTHING = ("Dropout", "Identity")  # in evaluation
_TO_PROBABILITIES = ("LogSoftmax", "Softmax")  # the server computes them from what comes before
_MOST_LAYERS = 20


def from_part(part: Any) -> list[nn.Module]:
    """Return the layers of a pickled head that compute something. Raises ValueError that names the one it cannot."""
    layers: list[nn.Module] = []
    parts = list(itertools.islice(_flattened(part, 0), _MOST_LAYERS + 1))
    if len(parts) > _MOST_LAYERS:
        raise ValueError(f"its head has more than {_MOST_LAYERS} layers")
    while parts and parts[-1].kind in (*_NOTHING, *_TO_PROBABILITIES):
        last = parts.pop()
        if last.kind in _TO_PROBABILITIES and last.attributes.get("dim") not in (1, -1, None):
            raise ValueError(f"its head ends with a {last.kind} over dimension {last.attributes.get('dim')}")
    for one in parts:
        settings = one.attributes
        if one.kind == "Linear":
            layers.append(_linear(one.tensors))
        elif one.kind == "BatchNorm1d":
            layers.append(_batch_norm(one.tensors, float(_setting(one, "eps"))))
        elif one.kind in _ACTIVATIONS:
            build, names = _ACTIVATIONS[one.kind]
            layers.append(build(**{name: _setting(one, name) for name in names}))
        elif one.kind == "Flatten" and (settings.get("start_dim"), settings.get("end_dim")) == (1, -1):
            pass  # features are flat already
        elif one.kind not in _NOTHING:
            raise ValueError(f"its head has a {one.kind} between its layers")
    return layers


def _setting(part: Part, name: str) -> float | str:
    value = part.attributes.get(name)
    if isinstance(value, int | float) or (isinstance(value, str) and value in ("none", "tanh")):  # GELU's
        return value
    raise ValueError(f"its head has a {part.kind} whose {name} is {str(value)[:40]}")


def _flattened(part: Any, depth: int) -> Iterator[Part]:
    if not isinstance(part, Part) or depth > 3:
        raise ValueError(f"its head has a {type(part).__name__}" if depth <= 3 else "its head is nested too deeply")
    if part.kind != "Sequential":
        yield part
        return
    for child in part.children.values():
        yield from _flattened(child, depth + 1)


def from_state(state: Mapping[str, Tensor], source: str) -> list[nn.Module]:
    """Return the layers of a head from its part of a state dict, such as weight, or 0.weight and 2.weight.

    Raises ValueError if they are not linear layers and batch norms one after another.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        path, _, key = name.rpartition(".")
        groups.setdefault(path, {})[key] = value
    if len(groups) > _MOST_LAYERS:
        raise ValueError(f"its head has more than {_MOST_LAYERS} layers")
    layers: list[nn.Module] = []
    assumed: list[str] = []  # the layers in front of which an activation is assumed
    since_linear: list[str] = []  # those since the last linear layer
    before: str | None = None
    for path, tensors in groups.items():
        layer = _batch_norm(tensors, 1e-5) if "running_mean" in tensors else _linear(tensors, path)
        if before is not None and _gap(before, path, layer):
            layers.append(nn.ReLU())
            since_linear.append(path)
        layers.append(layer)
        if isinstance(layer, nn.Linear):
            if len(since_linear) > 1:
                raise ValueError(f"it does not say which layers its head has in front of {' and '.join(since_linear)}")
            assumed += since_linear
            since_linear, before = [], path
        elif before is not None:
            before = path
    if assumed:
        log.warning(
            "%s does not say which activation is in its head before %s; ReLU is assumed. "
            "A file of torch.save(model) names it.",
            source,
            " and ".join(f"the layer {path}" for path in assumed),
        )
    return layers


def _gap(before: str, path: str, layer: nn.Module) -> bool:
    """Return whether there is room for a layer without tensors between the layer `before` and the one at `path`.

    Layers of nn.Sequential are numbered. Of named ones it is assumed in front of each linear layer.
    """
    ends = [text.rpartition(".")[2] for text in (before, path)]
    if all(text.isdecimal() for text in ends):
        return int(ends[1]) - int(ends[0]) > 1
    return isinstance(layer, nn.Linear)


def _linear(tensors: Mapping[str, Tensor], path: str = "") -> nn.Linear:
    weight, bias = tensors.get("weight"), tensors.get("bias")
    unknown = tensors.keys() - {"weight", "bias"}
    if weight is None or weight.ndim != 2 or unknown or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())
        raise ValueError(f"the layer {path or 'in its head'} is not a linear layer ({shapes})")
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    return layer


def _batch_norm(tensors: Mapping[str, Tensor], eps: float) -> nn.BatchNorm1d:
    shapes = {tuple(tensors[name].shape) for name in ("running_mean", "running_var") if name in tensors}
    affine = "weight" in tensors
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or "running_var" not in tensors:
        raise ValueError("a batch norm in its head lacks its statistics")
    (features,) = next(iter(shapes))
    layer = nn.BatchNorm1d(features, eps=eps, affine=affine)
    try:
        layer.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)
    except RuntimeError:
        raise ValueError("a batch norm in its head has tensors of several sizes") from None
    return layer


def divided(layers: Sequence[nn.Module], width: int) -> tuple[list[nn.Module], nn.Linear]:
    """Return the layers before the last one, and the last one, which is linear.

    width: of the backbone's features. Raises ValueError if they do not fit one another.
    """
    if not layers or not isinstance(layers[-1], nn.Linear):
        last = type(layers[-1]).__name__ if layers else "nothing"
        raise ValueError(f"its head ends with {last}, not with a linear layer")
    features = torch.empty(2, width, device="meta")
    for layer in layers:
        expected = getattr(layer, "in_features", getattr(layer, "num_features", features.shape[1]))
        if expected != features.shape[1]:
            raise ValueError(f"a layer of its head takes {expected} features, but gets {features.shape[1]}")
        features = torch.empty(2, getattr(layer, "out_features", expected), device="meta")
    return list(layers[:-1]), layers[-1]
