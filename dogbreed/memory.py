"""Compute a lower bound of a training step's memory, without allocating it."""

import copy

import torch
from torch import Tensor, nn

from dogbreed.model import DogBreedClassifier


def least_bytes(model: DogBreedClassifier, batch_size: int, features: tuple[int, ...] | None = None) -> int:
    """Return the bytes of a batch of `batch_size` images, the activations that backward needs and the largest layer.

    features: the shape of one image's features, if the step starts from them.

    Computed from shapes alone, on torch's meta device. A lower bound: buffers of kernels and the allocator's
    rounding come on top.
    """
    px = model.preprocess.image_px
    sketch = copy.deepcopy(model).to("meta").train()
    saved: set[int] = set()
    held = largest = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal held
        if not isinstance(tensor, nn.Parameter) and id(tensor) not in saved:
            saved.add(id(tensor))
            held += _bytes(tensor)
        return tensor

    def measure(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, _bytes(output) + sum(_bytes(t) for t in inputs if isinstance(t, Tensor)))

    for module in sketch.modules():
        if not list(module.children()):
            module.register_forward_hook(measure)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if features is None:
            inputs = torch.empty(2, 3, px, px, dtype=torch.uint8, device="meta")
            sketch(inputs).sum().backward()
        else:
            inputs = torch.empty(2, *features, device="meta")
            sketch.from_features(inputs).sum().backward()  # type: ignore[no-untyped-call]
    per_image = held / 2 + largest / 2 + _bytes(inputs) / 2
    return int(per_image * batch_size)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
