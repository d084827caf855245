"""Read a whole torchvision ResNet from a pickle, as torch.save(model) writes it, without running any code in it.

torch's restricted unpickler builds only classes that it is told of. For each class of such a network it gets a stand-in
that holds attributes and has no behaviour. Only tensors and settings of layers are read from those, and the settings
must be torchvision's own: the network that computes is built from our own code.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_CLASSES = {
    "torchvision.models.resnet": "ResNet Bottleneck BasicBlock",
    "torch.nn.parallel.data_parallel": "DataParallel",
    "torch.nn.modules.container": "Sequential",
    "torch.nn.modules.conv": "Conv2d",
    "torch.nn.modules.batchnorm": "BatchNorm1d BatchNorm2d",
    "torch.nn.modules.pooling": "AdaptiveAvgPool2d MaxPool2d",
    "torch.nn.modules.linear": "Identity Linear",
    "torch.nn.modules.dropout": "Dropout",
    "torch.nn.modules.flatten": "Flatten",
    "torch.nn.modules.activation": "CELU ELU GELU Hardswish LeakyReLU LogSoftmax Mish ReLU ReLU6 SELU Sigmoid SiLU "
    "Softmax Softplus Softsign Tanh",
}
_ABOUT_TRAINING = ("training", "inplace", "momentum")


class Part:
    """Stands for a module of the pickled network. It has slots and no arguments, so that a pickle cannot change it."""

    __slots__ = ("attributes",)
    attributes: dict[str, Any]

    def __new__(cls) -> "Part":
        part = super().__new__(cls)
        part.attributes = {}
        return part

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    @property
    def kind(self) -> str:
        return type(self).__name__

    @property
    def children(self) -> Mapping[str, Any]:
        return self._mapping("_modules")

    @property
    def tensors(self) -> dict[str, Tensor]:
        both = {**self._mapping("_parameters"), **self._mapping("_buffers")}
        return {str(name): value.detach() for name, value in both.items() if isinstance(value, Tensor)}

    def _mapping(self, name: str) -> Mapping[str, Any]:
        value = self.attributes.get(name)
        return value if isinstance(value, Mapping) else {}


STAND_INS: tuple[tuple[type[Part], str], ...] = tuple(
    (type(name, (Part,), {"__slots__": ()}), f"{module}.{name}")
    for module, names in _CLASSES.items()
    for name in names.split()
)


def network_in(content: Any) -> Part | None:
    """Return the pickled network in what was read: the whole of it, or the only one in a training program's dict.

    Return None if there is none. A network inside DataParallel is taken out of it.
    """
    values = content.values() if isinstance(content, Mapping) else [content]
    found = [value for value in values if isinstance(value, Part)]
    part = found[0] if len(found) == 1 else None
    if part is not None and part.kind == "DataParallel":
        inner = part.children.get("module")
        return inner if isinstance(inner, Part) else None
    return part


def state_of(part: Any, reference: nn.Module, head: str) -> dict[str, Tensor]:
    """Return the tensors of a pickled network that computes as `reference` does, except for its child `head`.

    Raises ValueError that says where it differs: in a class, a setting or a part.
    """
    state: dict[str, Tensor] = {}
    _compare(part, reference, "", head, state)
    return state


def _compare(part: Any, reference: nn.Module, name: str, head: str, state: dict[str, Tensor]) -> None:
    shown = name.rstrip(".") or "the network"
    kind = part.kind if isinstance(part, Part) else type(part).__name__
    if kind != type(reference).__name__ or not isinstance(part, Part):
        raise ValueError(f"{shown} is a {kind}, not a {type(reference).__name__}")
    for key, value in vars(reference).items():
        if key.startswith("_") or key in _ABOUT_TRAINING or not isinstance(value, bool | int | float | str | tuple):
            continue
        seen = part.attributes.get(key, value)  # an attribute that an earlier version of torch did not have
        if type(seen) is not type(value) or seen != value:
            raise ValueError(f"{shown} has {key}={str(seen)[:40]}, not {value}")
    state |= {name + key: value for key, value in part.tensors.items()}
    expected = dict(reference.named_children())
    if list(part.children) != list(expected):
        parts = ", ".join(str(key)[:20] for key in part.children)
        raise ValueError(f"{shown} has the parts {parts[:200]}, not {', '.join(expected)}")
    for key, child in expected.items():
        if name + key != head:
            _compare(part.children[key], child, f"{name}{key}.", head, state)
