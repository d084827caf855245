"""Train one run, from photos to report, in one folder: `run`; and prepare what several runs share: `share`."""

from dogbreed.training.history import Watch
from dogbreed.training.pipeline import run, share
from dogbreed.training.trainer import use_hardware

__all__ = ["Watch", "run", "share", "use_hardware"]
