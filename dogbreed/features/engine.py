"""Compute features with ONNX Runtime on a CPU, with torch on a GPU; chosen by device and settings, not by timing."""

import logging
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dogbreed.hardware import available_cpus
from dogbreed.onnx_export import silent, to_onnx

log = logging.getLogger("dogbreed")

EAGER = f"torch-{torch.__version__}-cpu-fp32"
TOLERANCE = 1e-4  # between an engine and eager torch in fp32, relative to the largest feature (at least 1)
_CPU_BATCH, _GPU_BATCH = 32, 256


class EngineError(Exception):
    """This engine cannot run this network."""


class Engine(Protocol):
    """Computes features of a batch of images."""

    batch_size: int

    def __call__(self, images: Tensor) -> NDArray[np.generic]:
        """Compute rows [n, ...], float32 or the bits of bfloat16 as uint16.

        images: uint8 [n, 3, H, W] on the CPU, n at most batch_size.
        """
        ...


def name(device: torch.device, precision: str, *, compiled: bool) -> str:
    """Name the engine for `device`, with its version and arithmetic: part of the features' key."""
    if device.type == "cpu":
        return f"onnxruntime-{version('onnxruntime')}-fp32"  # not imported here: it may not be needed
    arithmetic = "bf16" if precision.startswith("bf16") else "fp32"
    return f"torch-{torch.__version__}-{device.type}-{arithmetic}" + ("-compiled" if compiled else "")


def dtype(device: torch.device, precision: str) -> Literal["float32", "bfloat16"]:
    """Return the data type in which the features are stored."""
    return "bfloat16" if device.type != "cpu" and precision.startswith("bf16") else "float32"


def make(engine: str, network: nn.Module, image_px: int, device: torch.device) -> Engine:
    """Build the engine of this name. Raises EngineError if it cannot run the network."""
    if engine.startswith("onnxruntime"):
        return OnnxRuntime(network, image_px)
    return Torch(network, device, bf16="-bf16" in engine, compiled=engine.endswith("-compiled"))


class OnnxRuntime:
    """Runs a network in ONNX Runtime on all cores of this machine, in fp32.

    Raises EngineError if the network cannot be exported and, at the first batch, if the outputs differ from torch's.
    """

    def __init__(self, network: nn.Module, image_px: int, batch_size: int = _CPU_BATCH) -> None:
        import onnxruntime

        self.batch_size = batch_size
        example = torch.zeros(batch_size, 3, image_px, image_px, dtype=torch.uint8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_cpus()  # by default it counts the machine's, not the container's
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            _export(network, example, path)
            try:
                self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's classes are its C++ status codes
                raise EngineError(f"ONNX Runtime cannot load the network: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._unchecked: nn.Module | None = network

    def __call__(self, images: Tensor) -> NDArray[np.generic]:
        batch = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)  # a fixed batch size lets shapes fold
        batch[: len(images)] = images.numpy()
        rows: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        if self._unchecked is not None:
            _check(rows, self._unchecked, images[:2])
            self._unchecked = None
        return rows[: len(images)]


class Torch:
    """Runs a network in torch on `device`, in fp32 or under bf16 autocast; it can run any network."""

    def __init__(self, network: nn.Module, device: torch.device, *, bf16: bool = False, compiled: bool = False) -> None:
        self.batch_size = _CPU_BATCH if device.type == "cpu" else _GPU_BATCH
        self._device, self._bf16 = device, bf16
        network.to(device)
        self._network = torch.compile(network, dynamic=False) if compiled else network

    def __call__(self, images: Tensor) -> NDArray[np.generic]:
        # true fp32: TF32 has a mantissa of 10 bits, and the tolerance needs 13
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.backends.cudnn.flags(allow_tf32=False):
                return self._rows(images)
        finally:
            torch.set_float32_matmul_precision(before)

    def _rows(self, images: Tensor) -> NDArray[np.generic]:
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            rows = self._network(images.to(self._device, non_blocking=True))
        if self._bf16:
            return rows.bfloat16().cpu().contiguous().view(torch.uint16).numpy()  # type: ignore[no-any-return]
        return rows.float().cpu().contiguous().numpy()  # type: ignore[no-any-return]


def _export(network: nn.Module, example: Tensor, path: Path) -> None:
    try:
        with silent():
            to_onnx(network, example).save(path)
    except Exception as error:  # the exporter lets through whatever a network's own code raises
        raise EngineError(f"the network cannot be exported: {(str(error) or type(error).__name__).strip()}") from error


def _check(rows: NDArray[np.float32], network: nn.Module, images: Tensor) -> None:
    """Raise EngineError if the first rows differ from what torch computes for these images."""
    with torch.inference_mode():
        expected = network(images).float().numpy()
    error = float(np.abs(rows[: len(expected)] - expected).max())
    if not error <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise EngineError(f"the exported network's features are off by {error:.2g}")
