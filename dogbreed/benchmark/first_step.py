"""A classifier whose process ends at its first training step."""

import os
from typing import NoReturn

from torch import Tensor

from dogbreed.benchmark.startup import FIRST_STEP
from dogbreed.model import DogBreedClassifier


class StopsAtFirstStep(DogBreedClassifier):
    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> NoReturn:
        print(FIRST_STEP, flush=True)
        os._exit(0)
