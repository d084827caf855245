"""Check an artifact's files against one another and against its network, before a server starts."""

import math
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dogbreed import artifact, reference
from dogbreed.artifact import Artifact
from dogbreed.errors import ArtifactError
from dogbreed.onnx_network import OnnxNetwork
from dogbreed.preprocess import Preprocess
from dogbreed.scanning.names import listed
from launchers.deploy.checks import Checks
from launchers.formatting import size

_MOST_OFF = 0.02  # of a logit from the manifest's, which has two decimals
_CROPS = (0.875, 0.9, 0.95, 0.965, 1.0)  # that preprocessings of ImageNet use, to find the cause of other answers
_ALIKE = 1e-6


@dataclass(frozen=True)
class Served:
    """An artifact whose networks can be run. networks: by file name."""

    artifact: Artifact
    networks: Mapping[str, OnnxNetwork]

    def probabilities(self, network: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 [N, classes] for pixels as Preprocess returns them. network: its file name."""
        scaled = self.networks[network](pixels).logits / np.float32(self.artifact.manifest.temperature)
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return cast("NDArray[np.float32]", powers / powers.sum(axis=1, keepdims=True))


def examine(model: Path, checks: Checks) -> Served | None:
    """Check the artifact at `model`. Return None if it is not worth starting a server with it."""
    found, problems = artifact.inspect(model)
    for problem in problems:
        checks.problem("archive", problem)
    if found is None:
        return None
    if _readable(model, checks):
        unpacked = sum(len(content) for content in found.networks.values())
        checks.passed("archive", f"{size(unpacked)} of networks, version {found.version}, digests right")
    _names(found, checks)
    _manifest(found, checks)
    networks = {name: _network(name, found, checks) for name in sorted(found.networks)}
    if not all(networks.values()):
        return None
    served = Served(found, {name: network for name, network in networks.items() if network is not None})
    _answers(served, checks)
    _int8(served, checks)
    return served


def _readable(model: Path, checks: Checks) -> bool:
    """Check that the files will be readable once they are unpacked."""
    if model.is_dir():
        modes = {path.name: path.stat().st_mode & 0o7777 for path in model.iterdir()}
    else:
        with tarfile.open(model) as archive:
            modes = {member.name: member.mode for member in archive}
    if locked := [f"{name} (mode {mode:04o})" for name, mode in modes.items() if not mode & 0o400]:
        checks.failed(
            "archive",
            f"The archive's files keep their modes when they are unpacked, and nobody may read {listed(locked)}",
            f"chmod 644 on the files before they are packed; or {checks.again}",
        )
    return not locked


def _names(found: Artifact, checks: Checks) -> None:
    twice = [label for label, count in Counter(found.labels).items() if count > 1]
    empty = sum(not label.strip() for label in found.labels)
    if twice:
        checks.failed("labels", f"labels.json has names twice: {listed(twice)}", "a name of its own for each output")
    if empty:
        checks.failed("labels", f"labels.json has {empty} empty names", "a name for each output")
    if not twice and not empty:
        checks.passed("labels", f"{len(found.labels)}, no name twice")


def _manifest(found: Artifact, checks: Checks) -> None:
    off = found.manifest.parity_error
    if not 0 <= off <= artifact.TOLERANCE:
        checks.failed(
            "parity",
            f"By the manifest, the network's probabilities differ from the torch network's by {off:g}, more than "
            f"{artifact.TOLERANCE:g}",
        )
    else:
        checks.passed("parity", f"probabilities within {off:g} of the torch network's when it was exported")


def _network(name: str, found: Artifact, checks: Checks) -> OnnxNetwork | None:
    """Load one network and compare it with labels and preprocessing; return None if they do not fit it."""
    import onnx

    content = found.networks[name]
    try:
        graph = onnx.load_from_string(content).graph
        outputs, image_px = int(_dims(graph.output[0])[1]), int(_dims(graph.input[0])[1])
    except Exception as error:  # protobuf's own classes, or an output without a size
        reason = (str(error) or type(error).__name__).splitlines()[0]
        checks.failed("network", f"{name} is not an ONNX network of images to class scores: {reason}")
        return None
    fits = True
    if outputs != len(found.labels):
        checks.failed(
            "labels",
            f"{name} has {outputs} outputs, but labels.json has {len(found.labels)} names",
            "the labels of the photos that it was trained on",
        )
        fits = False
    if image_px != found.preprocess.image_px:
        checks.failed(
            "preprocessing",
            f"{name} takes pictures of {image_px} px, but preprocess.json has image_px={found.preprocess.image_px}",
        )
        fits = False
    if name == artifact.NETWORK:
        _normalisation(graph, found.preprocess, checks)
    try:
        network = OnnxNetwork(content, classes=outputs, image_px=image_px)
    except ArtifactError as error:
        checks.failed("network", f"{name} cannot be run: {' '.join(str(error).split())[:300]}")
        return None
    return network if fits else None


def _dims(value: Any) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _normalisation(graph: Any, preprocess: Preprocess, checks: Checks) -> None:
    """Compare preprocess.json's mean and std with those that the network, which normalises itself, computes with."""
    from onnx import numpy_helper

    mean, std = np.asarray(preprocess.mean, float), np.asarray(preprocess.std, float)
    if mean.shape != (3,) or std.shape != (3,) or not (np.isfinite(mean).all() and (std > 0).all()):
        checks.failed("preprocessing", f"preprocess.json has mean {_shown(mean)} and std {_shown(std)}, not three each")
        return
    named = {tensor.name.rpartition(".")[2]: tensor for tensor in graph.initializer}
    if not {"pixel_scale", "pixel_shift"} <= named.keys():
        checks.passed("preprocessing", f"{preprocess.image_px} px; the network's own mean and std are not known")
        return
    scale, shift = (numpy_helper.to_array(named[name]).ravel() for name in ("pixel_scale", "pixel_shift"))
    true_std = 1 / (255 * scale)
    true_mean = -shift * true_std
    if np.allclose(true_mean, mean, atol=1e-3) and np.allclose(true_std, std, atol=1e-3):
        text = f"{preprocess.image_px} px, mean {_shown(mean)}, std {_shown(std)}, as in the network"
        checks.passed("preprocessing", text)
        return
    hint = ""
    if np.allclose(mean, 255 * true_mean, atol=1):
        hint = ": they are for values of 0 to 255, and these are 0 to 1"
    elif np.allclose(mean, true_mean[::-1], atol=1e-3) and np.allclose(std, true_std[::-1], atol=1e-3):
        hint = ": they are in the order blue, green, red"
    checks.failed(
        "preprocessing",
        f"preprocess.json has mean {_shown(mean)} and std {_shown(std)}, but the network was trained with "
        f"{_shown(true_mean)} and {_shown(true_std)}{hint}",
    )


def _shown(values: NDArray[Any]) -> str:
    return "/".join(f"{value:.3g}" for value in np.atleast_1d(values))


def _answers(served: Served, checks: Checks) -> None:
    """Compare the network's answers to the reference pictures with those that the manifest has of the torch network."""
    found, network = served.artifact, served.networks[artifact.NETWORK]
    logits = _logits(network, found.preprocess)
    if not np.isfinite(logits).all():
        checks.failed(
            "answers", "The network's outputs are not finite numbers", "another checkpoint of the run, in checkpoints/"
        )
        return
    if len(logits) > 1 and np.ptp(logits, axis=0).max() <= _ALIKE:
        checks.failed(
            "answers",
            "The network gives the same answer to every picture",
            "another checkpoint of the run, in checkpoints/: this one has learned nothing, or its weights are lost",
        )
        return
    expected = found.manifest.answers
    if not expected:
        checks.passed("answers", "an earlier version made the artifact, so none are recorded")
        return
    off = _off(logits, found.labels, expected)
    if off <= _MOST_OFF:
        checks.passed("answers", f"to {len(expected)} pictures as the trained network's (logits within {off:.2g})")
        return
    checks.failed(
        "answers",
        f"The network does not answer as the trained one did: its logits for {len(expected)} pictures are off by "
        f"{off:.2g}. {_cause(network, found, logits)}",
    )


def _logits(network: OnnxNetwork, preprocess: Preprocess, *, exchanged: bool = False) -> NDArray[np.float32]:
    pixels = np.stack([preprocess.pixels(picture) for picture in reference.pictures()])
    return network(np.ascontiguousarray(pixels[..., ::-1]) if exchanged else pixels).logits


def _off(logits: NDArray[np.float32], labels: Sequence[str], expected: Sequence[Mapping[str, float]]) -> float:
    """Return the largest difference from the expected logits; infinity if they are of other labels or pictures."""
    places = {label: place for place, label in enumerate(labels)}
    if len(expected) != len(logits) or any(label not in places for row in expected for label in row):
        return math.inf
    rows = zip(logits, expected, strict=True)
    return max(abs(float(row[places[label]]) - value) for row, wanted in rows for label, value in wanted.items())


def _cause(network: OnnxNetwork, found: Artifact, logits: NDArray[np.float32]) -> str:
    """Find out what would make the answers right."""
    expected = found.manifest.answers
    if _off(_logits(network, found.preprocess, exchanged=True), found.labels, expected) <= _MOST_OFF:
        return "They are right with red and blue exchanged: the network takes BGR"
    for crop_pct in _CROPS:
        for interpolation in ("bilinear", "bicubic"):
            other = replace(found.preprocess, crop_pct=crop_pct, interpolation=cast(Any, interpolation))
            if other != found.preprocess and _off(_logits(network, other), found.labels, expected) <= _MOST_OFF:
                return f"They are right with crop_pct={crop_pct} and interpolation={interpolation}"
    largest = [sorted(row)[-len(wanted) :] for row, wanted in zip(logits, expected, strict=False)]
    values = [sorted(wanted.values()) for wanted in expected]
    if len(largest) == len(values) and np.allclose(largest, values, atol=_MOST_OFF):
        return "They are right for other labels: labels.json has other names, or another order"
    return "Its weights or its preprocessing have changed since"


def _int8(served: Served, checks: Checks) -> None:
    about, network = served.artifact.manifest.int8, served.networks.get(artifact.NETWORK_INT8)
    if about is None and network is None:
        return
    if about is None or network is None:
        lacks = "no measured accuracy in the manifest" if about is None else f"no {artifact.NETWORK_INT8}"
        checks.failed("int8", f"The quantised network is never used: there is {lacks}", f"{checks.again} --int8")
        return
    if not (0 <= about.accuracy <= 1 and 0 <= about.accuracy_fp32 <= 1 and about.photos > 0):
        checks.failed(
            "int8",
            f"The manifest's accuracies of int8 and fp32, {about.accuracy:g} and {about.accuracy_fp32:g} on "
            f"{about.photos} photos, are not shares of photos",
            f"{checks.again} --int8",
        )
        return
    pixels = np.stack([served.artifact.preprocess.pixels(picture) for picture in reference.pictures()])
    if not np.isfinite(network(pixels).logits).all():
        checks.failed("int8", "The quantised network's outputs are not finite numbers", f"{checks.again} --int8")
        return
    checks.passed("int8", f"{about.accuracy:.2%} of {about.photos:,} photos right, fp32 {about.accuracy_fp32:.2%}")
