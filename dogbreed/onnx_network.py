"""Run an artifact's network in ONNX Runtime, from pixels to logits and heat maps. Needs no torch."""

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dogbreed.artifact import NETWORK, NETWORK_INT8, Artifact
from dogbreed.errors import ArtifactError
from dogbreed.hardware import available_cpus, cpu_multiplies_int8

PIXELS, LOGITS, HEAT_MAPS = "pixels", "logits", "heat_maps"  # the graph's input and outputs


class Output(NamedTuple):
    """logits: float32 [N, classes]. heat_maps: float32 [N, classes, h, w], whose mean over h and w are the logits."""

    logits: NDArray[np.float32]
    heat_maps: NDArray[np.float32] | None


class OnnxNetwork:
    """Runs a network on all cores of this machine.

    several: for a server, which calls it from one thread per core, and `prepare_for_several` first. From then on a
    single call gets all cores, and concurrent calls get one each, because calls that share threads are slower in total.
    Holds the weights twice in memory. Raises ArtifactError if ONNX Runtime cannot load the network, or if its inputs or
    outputs are not the expected ones.
    """

    def __init__(self, content: bytes, *, classes: int, image_px: int, several: bool = False) -> None:
        self._content = content if several else None
        self._alone = self._beside_others = _session(content, available_cpus())  # by default it counts the machine's
        self._lock, self._running = threading.Lock(), 0
        inputs = [(node.name, node.type, node.shape[1:]) for node in self._alone.get_inputs()]
        outputs = [(node.name, node.shape[1:2]) for node in self._alone.get_outputs()]
        if inputs != [(PIXELS, "tensor(uint8)", [image_px, image_px, 3])] or outputs[:1] != [(LOGITS, [classes])]:
            raise ArtifactError(
                f"The network has inputs {inputs} and outputs {outputs}; expected {classes} classes and {image_px} px."
            )
        self.has_heat_maps = (HEAT_MAPS, [classes]) in outputs

    def prepare_for_several(self) -> None:
        if self._content is not None and available_cpus() > 1:
            self._beside_others = _session(self._content, 1)
        self._content = None

    def __call__(self, pixels: NDArray[np.uint8]) -> Output:
        """Run the network. pixels: uint8 [N, image_px, image_px, 3], as Preprocess returns them."""
        with self._lock:
            session = self._beside_others if self._running else self._alone
            self._running += 1
        try:
            found: list[Any] = session.run(None, {PIXELS: pixels})
        finally:
            with self._lock:
                self._running -= 1
        return Output(found[0], found[1] if self.has_heat_maps else None)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self(pixels).logits


def _session(content: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # spinning threads would take CPU time from those that decode photos
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes are its C++ status codes
        raise ArtifactError(f"ONNX Runtime cannot load the network: {str(error).strip()}") from error


def choose(artifact: Artifact, max_accuracy_loss: float) -> str:
    """Return the file name of the network to use: the quantised one if the processor supports it and it is accurate.

    max_accuracy_loss: the most validation accuracy that it may lose, as a share (0.005 is half a point).
    """
    int8 = artifact.manifest.int8
    if NETWORK_INT8 not in artifact.networks or int8 is None:
        return NETWORK
    return NETWORK_INT8 if cpu_multiplies_int8() and int8.accuracy_loss <= max_accuracy_loss else NETWORK
