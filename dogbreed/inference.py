"""Predict ranked breeds for photos: the Predictor for notebooks, the command line, the server and the benchmarks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dogbreed import artifact
from dogbreed.breeds import display_names
from dogbreed.onnx_network import OnnxNetwork, Output, choose
from dogbreed.picture_inputs import PictureInput, picture_source
from dogbreed.preprocess import Preprocess
from dogbreed.unlike import NOT_MEASURED, Choice, Unlike, status

if TYPE_CHECKING:
    from dogbreed.model import DogBreedClassifier

MAX_ACCURACY_LOSS = 0.005  # of a quantised network: half a point


@dataclass(frozen=True)
class Prediction:
    """Holds one breed and its calibrated probability (0..1).

    breed: the class's display name. label: its folder's name. index: its place in the model's labels, from 0.
    """

    breed: str
    probability: float
    label: str
    index: int


@dataclass(frozen=True)
class About:
    """Describes the network. version: of the artifact, by content; empty for a checkpoint. precision: fp32 or int8.

    unlike: whether it is judged if photos are unlike the training photos: "on", or "off" with the reason.
    """

    name: str
    version: str
    run_id: str
    precision: str
    unlike: str = NOT_MEASURED


class Answer(NamedTuple):
    """Holds the network's outputs for N photos.

    probabilities: float32 [N, classes], in the order of the labels; rows sum to 1.
    heat_maps: float32 [N, classes, h, w], the evidence for a class at each position of the square that the network
    sees; None if the network has no heat maps.
    unlike: bool [N], whether each photo is unlike those that the network was trained on; None if that is not judged.
    """

    probabilities: NDArray[np.float32]
    heat_maps: NDArray[np.float32] | None
    unlike: NDArray[np.bool_] | None


class Predictor:
    """Ranks breeds for photos, with the preprocessing and temperature that the model was tested with.

    predictor = Predictor.load("runs/<run>")
    predictor.predict("photo.jpg")[0].breed
    """

    def __init__(
        self,
        network: Callable[[NDArray[np.uint8]], Output],
        *,
        labels: Sequence[str],
        preprocess: Preprocess,
        temperature: float,
        about: About,
        judging: Unlike | None = None,
    ) -> None:
        self._judging = judging
        self._network, self._temperature = network, np.float32(temperature)
        self.labels = tuple(labels)
        self.breeds = tuple(display_names(labels))
        self.preprocess = preprocess
        self.about = about

    @classmethod
    def load(cls, path: str | Path, *, unlike: Choice = "auto") -> "Predictor":
        """Load an artifact, a run folder (its artifact, or else its best.ckpt) or a checkpoint.

        unlike: whether to judge if photos are unlike the training photos; auto: if that is reliable with this model.
        Raises ArtifactError or CheckpointError.
        """
        path = Path(path).expanduser()
        load = cls.from_artifact if artifact.is_artifact(path) else cls.from_checkpoint
        return load(path, unlike=unlike)

    @classmethod
    def from_artifact(
        cls,
        path: str | Path,
        *,
        max_accuracy_loss: float = MAX_ACCURACY_LOSS,
        several: bool = False,
        unlike: Choice = "auto",
    ) -> "Predictor":
        """Load an artifact into ONNX Runtime, without torch. path: model.tar.gz, its unpacked folder, or a run folder.

        max_accuracy_loss: use the quantised network if it loses at most this much, on processors that support it.
        several: prepare for calls from several threads, see `prepare_for_several`. unlike: as in `load`.
        Raises ArtifactError.
        """
        found = artifact.read(Path(path).expanduser())
        name = choose(found, max_accuracy_loss)
        network = OnnxNetwork(
            found.networks[name],
            classes=len(found.labels),
            image_px=found.preprocess.image_px,
            several=several,
        )
        manifest = found.manifest
        precision = "fp32" if name == artifact.NETWORK else "int8"
        return cls(
            network,
            labels=found.labels,
            preprocess=found.preprocess,
            temperature=manifest.temperature,
            about=About(manifest.backbone, found.version, manifest.run_id, precision),
            judging=manifest.unlike.get(name),
        )._judged(unlike)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, unlike: Choice = "auto") -> "Predictor":
        """Load a checkpoint into torch. path: a checkpoint, or a run folder (its best.ckpt). unlike: as in `load`.

        Raises CheckpointError.
        """
        from dogbreed import checkpoints  # imports torch, which artifacts do not need
        from dogbreed.model import DogBreedClassifier
        from dogbreed.run_folder import RunFolder

        path = Path(path).expanduser()
        saved = checkpoints.read_whole(RunFolder.of(path).best if path.is_dir() else path)
        predictor = cls.from_model(DogBreedClassifier.from_state(saved))
        _, predictor._judging = checkpoints.calibration(saved)
        return predictor._judged(unlike)

    def _judged(self, unlike: Choice) -> "Predictor":
        """Set whether photos are judged, and say so in `about`."""
        self.about = replace(self.about, unlike=status(self._judging, unlike))
        if self.about.unlike != "on":
            self._judging = None
        return self

    @classmethod
    def from_model(cls, model: "DogBreedClassifier") -> "Predictor":
        """Wrap a torch model on its device; puts it into eval mode."""
        return cls(
            _Torch(model),
            labels=model.classes,
            preprocess=model.preprocess,
            temperature=float(model.temperature),
            about=About(str(model.hparams["backbone"]), "", "", "fp32"),
        )

    def prepare_for_several(self) -> None:
        """Prepare for calls from several threads at once, each on one core; needs `several` at loading."""
        if isinstance(self._network, OnnxNetwork):
            self._network.prepare_for_several()

    def predict(self, picture: PictureInput, *, top: int = 5) -> list[Prediction]:
        """Return the `top` most probable breeds of one photo, best first.

        picture: a path, bytes (also bytearray, memoryview), a file opened in binary mode, a Pillow image, or an array
        of integers 0..255: [H, W, 3] in RGB, [H, W, 4] in RGBA or [H, W] in grey. Raises DataError if it is none of
        them, or does not decode.
        """
        return self.predict_many([picture], top=top)[0]

    def predict_many(self, pictures: Sequence[PictureInput], *, top: int = 5) -> list[list[Prediction]]:
        """Return the most probable breeds of several photos, in one pass through the network."""
        return [self.ranked(row, top=top) for row in self.probabilities(pictures)]

    def judged(self, picture: PictureInput, *, top: int = 5) -> tuple[list[Prediction], bool | None]:
        """Return the most probable breeds of one photo, and whether it is unlike those that the model was trained on.

        The latter is None if it is not judged; `about.unlike` says why.
        """
        answer = self._answer([picture])
        unlike = None if answer.unlike is None else bool(answer.unlike[0])
        return self.ranked(answer.probabilities[0], top=top), unlike

    def probabilities(self, pictures: Sequence[PictureInput]) -> NDArray[np.float32]:
        """Return probabilities, float32 [photos, classes], in the order of `labels`; each row sums to 1."""
        if not len(pictures):
            return np.empty((0, len(self.labels)), np.float32)
        return self._answer(pictures).probabilities

    def _answer(self, pictures: Sequence[PictureInput]) -> Answer:
        return self.answer(np.stack([self.preprocess.pixels(picture_source(picture)) for picture in pictures]))

    def answer(self, pixels: NDArray[np.uint8]) -> Answer:
        """Return the outputs for photos as `preprocess` returns them: uint8 [N, image_px, image_px, 3]."""
        logits, heat_maps = self._network(pixels)
        scaled = logits / self._temperature
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        judged = None if self._judging is None else self._judging.judge(logits)
        return Answer(powers / powers.sum(axis=1, keepdims=True), heat_maps, judged)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's logits before temperature scaling, float32 [N, classes], for pixels as in `answer`."""
        return self._network(pixels).logits

    def ranked(self, probabilities: NDArray[np.float32], *, top: int = 5) -> list[Prediction]:
        """Return the `top` most probable breeds of one row of probabilities, best first."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(self.breeds[n], float(probabilities[n]), self.labels[n], int(n)) for n in order]


class _Torch:
    """Runs a classifier in eval mode on pixels."""

    def __init__(self, model: "DogBreedClassifier") -> None:
        self.model = model.eval()

    def __call__(self, pixels: NDArray[np.uint8]) -> Output:
        import torch

        with torch.inference_mode():
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.model.device)
            return Output(self.model(images).float().cpu().numpy(), None)
