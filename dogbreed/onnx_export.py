"""Export networks to ONNX with torch's exporter: without its messages, and in less time than it takes by itself."""

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def to_onnx(network: nn.Module, example: Tensor, **options: Any) -> "torch.onnx.ONNXProgram":
    """Export a network in eval mode. example: its only input. options: further ones of torch.onnx.export.

    Raises whatever the exporter, or the network's own code, raises.
    """
    with silent(), _out_of_place(network), _uncollected(), torch.no_grad():
        program = torch.onnx.export(network, (example,), dynamo=True, verbose=False, **options)
    assert program is not None
    return program


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Silence the logs and warnings of the exporter and the quantiser about their own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _out_of_place(network: nn.Module) -> Iterator[None]:
    """Have activations make new tensors: the exporter spends a third of its time on undoing those that do not."""
    inplace = [part for part in network.modules() if getattr(part, "inplace", None) is True]
    for part in inplace:
        part.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in inplace:
            part.inplace = True  # type: ignore[assignment]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Have no garbage looked for: there are millions of new objects, nearly all of which are still in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
