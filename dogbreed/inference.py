"""From a photo to ranked breeds: the Predictor for notebooks, the command line and servers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dogbreed.breeds import display_name
from dogbreed.preprocess import PictureSource, Preprocess

if TYPE_CHECKING:
    from dogbreed.model import DogBreedClassifier


@dataclass(frozen=True)
class Prediction:
    """One breed and how probable it is (0..1, calibrated). label: its class folder's name."""

    breed: str
    probability: float
    label: str


class Predictor:
    """Ranked breeds for photos, with the very preprocessing and temperature that the model was tested with.

    predictor = Predictor.from_checkpoint("runs/<run>/checkpoints/best.ckpt")
    predictor.predict("photo.jpg")[0].breed
    """

    def __init__(self, model: "DogBreedClassifier") -> None:
        self._model = model.eval()
        self.labels: tuple[str, ...] = model.classes
        self.preprocess: Preprocess = model.preprocess

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> "Predictor":
        """path: a checkpoint, or a run folder (its best.ckpt). Raises CheckpointError."""
        from dogbreed.model import DogBreedClassifier  # torch, late
        from dogbreed.run_folder import RunFolder

        path = Path(path).expanduser()
        return cls(DogBreedClassifier.from_checkpoint(RunFolder(path).best if path.is_dir() else path))

    def predict(self, picture: PictureSource, *, top: int = 5) -> list[Prediction]:
        """The `top` most probable breeds of one photo (path, bytes or Pillow image), best first.

        Raises DataError if it does not decode.
        """
        return self.predict_many([picture], top=top)[0]

    def predict_many(self, pictures: Sequence[PictureSource], *, top: int = 5) -> list[list[Prediction]]:
        """The same for several photos, in one pass through the network."""
        probabilities = self.probabilities(pictures)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [Prediction(display_name(self.labels[n]), float(row[n]), self.labels[n]) for n in ranks]
            for row, ranks in zip(probabilities, order, strict=True)
        ]

    def probabilities(self, pictures: Sequence[PictureSource]) -> NDArray[np.float32]:
        """float32 [photos, classes], in the order of `labels`; each row sums to 1."""
        import torch

        pixels = np.stack([self.preprocess.pixels(picture) for picture in pictures])
        with torch.inference_mode():
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self._model.device)
            logits = self._model(images).float() / self._model.temperature
            result: NDArray[np.float32] = logits.softmax(-1).cpu().numpy()
        return result
