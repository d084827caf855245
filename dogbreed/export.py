"""`python -m dogbreed.export MODEL`: export a checkpoint or a file of weights as model.tar.gz, served without torch."""

import argparse
import json
import logging
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dogbreed import artifact, bare, checkpoints, class_names, reference, unlike
from dogbreed.artifact import TOLERANCE, Int8, Manifest
from dogbreed.drawn import without_dogs
from dogbreed.errors import ArtifactError, DogBreedError
from dogbreed.inference import MAX_ACCURACY_LOSS, Predictor
from dogbreed.model import DogBreedClassifier
from dogbreed.onnx_export import silent, to_onnx
from dogbreed.onnx_network import HEAT_MAPS, LOGITS, PIXELS, OnnxNetwork
from dogbreed.run_folder import RunFolder, write_bytes
from dogbreed.scanning.names import listed
from dogbreed.unlike import Unlike

log = logging.getLogger("dogbreed")

_METRICS = ("val/acc", "val/top5", "test/acc", "test/top5", "test/f1", "test/ece")
_CHECKED, _CALIBRATED_ON = 8, 256  # images to compare; photos to calibrate the int8 ranges with
_KEPT = 5  # logits of a reference picture
Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels [N, image_px, image_px, 3] and labels [N]


def write(here: RunFolder) -> None:
    """Write `here.model` from best.ckpt; only log a warning if ONNX cannot express the network.

    Raises StorageError if the disk is full.
    """
    try:
        write_bytes(here.model, export(here.best))
    except ArtifactError as error:
        log.warning("Did not write %s: %s", here.model.name, error)


def export(checkpoint: Path, *, quantise_with: tuple[Iterable[Batch], Iterable[Batch]] | None = None) -> bytes:
    """Return the artifact's bytes, which are the same for the same checkpoint and versions of torch and onnx.

    What the checkpoint lacks (run id, commit, metrics) is read from its run folder, if it is in one.
    quantise_with: batches of training photos, and all validation batches; adds an int8 network, and what is measured
    on it.
    Raises CheckpointError, or ArtifactError if the network cannot be exported or its outputs differ afterwards.
    """
    saved = checkpoints.read_whole(checkpoint)
    model = DogBreedClassifier.from_state(saved).eval()
    here = RunFolder(checkpoint.absolute().parents[1])
    beside = checkpoint.absolute() == here.best.absolute()
    metrics = _json(here.metrics) if beside else {}
    git = (_json(here.environment).get("git") or {}) if beside else {}
    return export_model(
        model,
        run_id=_run_id(here) if beside else "",
        commit=str(git.get("commit") or "") + ("-dirty" if git.get("dirty") else ""),
        metrics={name: metrics[name] for name in _METRICS if name in metrics},
        calibrated=checkpoints.calibration(saved),
        quantise_with=quantise_with,
    )


def export_model(
    model: DogBreedClassifier,
    *,
    run_id: str = "",
    commit: str = "",
    metrics: Mapping[str, float] | None = None,
    calibrated: tuple[int | None, Unlike | None] = (None, None),
    quantise_with: tuple[Iterable[Batch], Iterable[Batch]] | None = None,
) -> bytes:
    """Return the artifact's bytes of a network in eval mode on the CPU. See `export`, and Manifest for the others.

    calibrated: as `checkpoints.calibration` returns it.
    """
    calibrated_on, judged = calibrated
    network = _to_onnx(model)
    content = network.SerializeToString(deterministic=True)
    networks, int8 = {artifact.NETWORK: content}, None
    found = {artifact.NETWORK: judged}
    if quantise_with is not None:
        training, validation = quantise_with
        networks[artifact.NETWORK_INT8] = _quantised(network, training)
        int8, measured = _measured(model, networks, validation)
        found = {**measured, **({artifact.NETWORK: judged} if judged else {})}
    manifest = Manifest(
        backbone=str(model.hparams["backbone"]),
        run_id=run_id,
        commit=commit,
        opset=next(used.version for used in network.opset_import if not used.domain),
        temperature=float(model.temperature),
        metrics=metrics or {},
        parity_error=_parity_error(model, content),
        heat_maps=len(network.graph.output) > 1,
        int8=int8,
        answers=_answers(model),
        validation_photos=calibrated_on,
        unlike={name: each for name, each in found.items() if each is not None},
    )
    return artifact.pack(manifest, model.classes, model.preprocess, networks)


def export_file(source: Path, classes: Path | Sequence[str] | None = None) -> bytes:
    """Return the artifact's bytes of a run's checkpoint, a bare file of weights, or an artifact, which is only checked.

    See `dogbreed.model_files.artifact_of`.
    """
    if artifact.is_artifact(source):
        class_names.refuse_others(artifact.read(source).labels, classes, source)
        return source.read_bytes()
    content = bare.read(source)
    if not checkpoints.is_own(content):
        return export_model(bare.classifier(source, content, classes))
    class_names.refuse_others(content["hyper_parameters"]["classes"], classes, source)
    return export(source)


class _Exported(nn.Module):
    """Maps pixels to logits, and to heat maps if the head allows.

    The head is one linear layer on averages over all positions, so it can be applied to each position before averaging
    (class activation maps: Zhou et al. 2016, arXiv 1512.04150).
    """

    def __init__(self, model: DogBreedClassifier, last: str | None) -> None:
        super().__init__()
        self.model, self.last = model, last

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        images = pixels.permute(0, 3, 1, 2).float() * model.pixel_scale + model.pixel_shift
        if self.last is None:
            return (model.head(model.backbone(images)),)
        seen: list[Tensor] = []
        handle = model.backbone.get_submodule(self.last).register_forward_hook(lambda _, __, maps: seen.append(maps))
        logits = model.head(model.backbone(images))
        handle.remove()
        linear = cast(nn.Linear, model.head[-1])
        return logits, nn.functional.conv2d(seen[0], linear.weight[:, :, None, None], linear.bias)


def _last_maps(model: DogBreedClassifier, pixels: Tensor) -> str | None:
    """Find the part of the backbone whose averaged feature maps are the head's input; return None if there is none."""
    found: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def seen(_: nn.Module, __: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.ndim == 4 and out.shape[1] == model.width and out[0, 0].numel() > 1:
                found[name] = out.mean((2, 3))

        return seen

    handles = [part.register_forward_hook(record(name)) for name, part in model.backbone.named_modules() if name]
    with torch.inference_mode():
        features = model.backbone(pixels.permute(0, 3, 1, 2).float() * model.pixel_scale + model.pixel_shift)
    for handle in handles:
        handle.remove()
    close = [name for name, means in found.items() if torch.allclose(means, features, rtol=1e-3, atol=1e-4)]
    return close[-1] if close else None


def _to_onnx(model: DogBreedClassifier) -> onnx.ModelProto:
    example = torch.from_numpy(_examples(model.preprocess.image_px)[:2])
    last = _last_maps(model, example)
    try:
        program = to_onnx(
            _Exported(model, last).eval(),
            example,
            input_names=[PIXELS],
            output_names=[LOGITS, HEAT_MAPS][: 1 if last is None else 2],
            dynamic_shapes={"pixels": {0: torch.export.Dim("n", min=1, max=1024)}},
        )
        with silent():
            network: onnx.ModelProto = program.model_proto
    except Exception as error:  # the exporter lets through whatever a network's own code raises
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ArtifactError(f"this network cannot be exported to ONNX: {reason}") from error
    _strip(network)
    return network


def _strip(network: onnx.ModelProto) -> None:
    """Remove the exporter's metadata, which contains paths of this machine."""
    graph = network.graph
    for part in (network, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _examples(image_px: int) -> NDArray[np.uint8]:
    """Return images of coarse to fine noise, uint8 [N, image_px, image_px, 3], always the same."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(_CHECKED):
        cell = 2 ** (number % 4) if image_px >= 16 else 1
        coarse = rng.integers(256, size=(-(-image_px // cell), -(-image_px // cell), 3), dtype=np.uint8)
        images.append(np.kron(coarse, np.ones((cell, cell, 1), np.uint8))[:image_px, :image_px])
    return np.stack(images)


def _parity_error(model: DogBreedClassifier, content: bytes) -> float:
    """Return a bound of the difference of probabilities after the export. Raises ArtifactError if above TOLERANCE.

    It is a power of ten and at least 1e-5: what is below depends on the number of threads, and the artifact does not.
    """
    network = OnnxNetwork(content, classes=len(model.classes), image_px=model.preprocess.image_px)
    pixels = _examples(model.preprocess.image_px)
    with torch.inference_mode():
        expected = (model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).float() / model.temperature).softmax(-1)
    seen = (torch.from_numpy(network(pixels).logits) / model.temperature).softmax(-1)
    error = float((seen - expected).abs().max())
    if not error <= TOLERANCE:
        raise ArtifactError(f"the exported network's probabilities are off by {error:.2g}, more than {TOLERANCE:g}")
    return max(1e-5, float(f"1e{math.ceil(math.log10(error or 1e-5))}"))


def _answers(model: DogBreedClassifier) -> list[dict[str, float]]:
    """Return the largest logits for each picture of `dogbreed.reference`, rounded so that they are the same again."""
    pixels = np.stack([model.preprocess.pixels(picture) for picture in reference.pictures()])
    with torch.inference_mode():
        logits = model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).float()
    largest = logits.topk(min(_KEPT, logits.shape[1]))
    rows = zip(largest.indices.tolist(), largest.values.tolist(), strict=True)
    return [{model.classes[n]: round(value, 2) for n, value in zip(*row, strict=True)} for row in rows]


def _quantised(network: onnx.ModelProto, training: Iterable[Batch]) -> bytes:
    """Quantise weights and activations to 8 bits, with activation ranges measured on training photos."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Photos(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._batches = _first(training, _CALIBRATED_ON)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(({PIXELS: pixels} for pixels, _ in self._batches), None)

    last = {output.name for output in network.graph.output}
    kept = [node.name for node in network.graph.node if last & set(node.output)]  # the head: a thousandth of the work
    with tempfile.TemporaryDirectory() as folder, silent():
        path = Path(folder) / artifact.NETWORK_INT8
        quantize_static(network, path, Photos(), quant_format=QuantFormat.QDQ, per_channel=True, nodes_to_exclude=kept)
        quantised = onnx.load(path)
    _strip(quantised)
    content: bytes = quantised.SerializeToString(deterministic=True)
    return content


def _first(batches: Iterable[Batch], photos: int) -> Iterator[Batch]:
    for pixels, labels in batches:
        yield pixels[:photos], labels[:photos]
        photos -= len(pixels)
        if photos <= 0:
            return


def _measured(
    model: DogBreedClassifier, networks: dict[str, bytes], validation: Iterable[Batch]
) -> tuple[Int8, dict[str, Unlike | None]]:
    """Measure accuracy on the validation photos, and how well each network file tells other pictures from them."""
    opened = {
        name: OnnxNetwork(networks[name], classes=len(model.classes), image_px=model.preprocess.image_px)
        for name in (artifact.NETWORK, artifact.NETWORK_INT8)
    }
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in opened}
    all_labels = []
    for pixels, labels in validation:
        for name, network in opened.items():
            logits[name].append(network(pixels).logits)
        all_labels.append(labels)
    truth = np.concatenate(all_labels)
    whole = {name: np.concatenate(parts) for name, parts in logits.items()}
    fp32, int8 = (float((whole[name].argmax(1) == truth).mean()) for name in opened)
    found = {
        name: unlike.measured(whole[name], without_dogs.logits(network.logits, model.preprocess))
        for name, network in opened.items()
    }
    return Int8(accuracy=int8, accuracy_fp32=fp32, photos=len(truth)), found


def _batches(loader: Iterable[Any]) -> Iterator[Batch]:
    """Convert a loader's torch batches (images uint8 [N, 3, H, W], labels) to arrays of pixels and labels."""
    for batch in loader:
        yield np.ascontiguousarray(batch[0].permute(0, 2, 3, 1).numpy()), batch[1].numpy()


def _photos_of(here: RunFolder, root: Path | None) -> tuple[Iterable[Batch], Iterable[Batch]]:
    """Load training (not augmented) and validation photos of the run in `here`. Raises DataError, ArtifactError."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    if not here.config.is_file():
        raise ArtifactError(
            f"--int8 needs the run's validation photos, but {here.config}, which names them, does not exist.\n"
            "Try: a checkpoint in its run folder"
        )
    settings = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(here.config)))["data"]
    changed = {"root": str(root)} if root is not None else {}
    data = instantiate({**settings, **changed, "augment": None, "workers": 0}, _convert_="all")
    data.setup()
    return _batches(data.train_dataloader()), _batches(data.val_dataloader())


def _json(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text()))
    except (OSError, ValueError):  # a checkpoint outside a run folder
        return {}


def _run_id(here: RunFolder) -> str:
    from omegaconf import OmegaConf

    return str(OmegaConf.select(OmegaConf.load(here.config), "run_id") or "") if here.config.is_file() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a model and return the exit status: 1 if it is missing or cannot be exported."""
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.export",
        description="Write a model as model.tar.gz: ONNX, labels, preprocessing and a manifest.",
        epilog="example: python -m dogbreed.export runs/RUN",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a run's or search's folder (its best.ckpt), a checkpoint, or another program's file: a state dict or a "
        "pickled ResNet50",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: model.tar.gz in the run's folder, or beside the file"
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names of another program's file: one per line or a JSON list, in the order of the outputs, or the "
        "folder of the photos (default: those in the file, or dogImages' if there are 133)",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="add a quantised network, with its accuracy measured on the validation photos; "
        f"it is used if it loses at most {MAX_ACCURACY_LOSS * 100:g} points and the processor has VNNI or AMX",
    )
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="with --int8: the run's photos, if they moved")
    options = parser.parse_args(arguments)
    checkpoint = options.model.expanduser()
    if checkpoint.is_dir():
        checkpoint = RunFolder.of(checkpoint).best
    in_folder = checkpoint.parent.name == "checkpoints"
    here = RunFolder(checkpoint.parents[1] if in_folder else checkpoint.parent)
    output = options.output or here.model
    try:
        photos = _photos_of(here, options.photos) if options.int8 else None
        if photos is None and checkpoint.is_file():
            write_bytes(output, export_file(checkpoint, options.classes))
        else:
            write_bytes(output, export(checkpoint, quantise_with=photos))
        found = artifact.read(output)
    except DogBreedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{output}  {output.stat().st_size / 1e6:.1f} MB, version {found.version}")
    print(f"its probabilities are within {found.manifest.parity_error:g} of the torch network's")
    if options.classes or not found.manifest.run_id:
        print(f"{len(found.labels)} classes: {listed(found.labels)}")
    if (int8 := found.manifest.int8) is not None:
        used = Predictor.from_artifact(output).about.precision == "int8"
        print(
            f"int8: {int8.accuracy:.2%} of {int8.photos:,} validation photos classified correctly, "
            f"fp32 {int8.accuracy_fp32:.2%}; " + ("used on this machine" if used else "not used on this machine")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
