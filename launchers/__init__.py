"""The machines that `train.py` can run on: they know nothing of the science, and never import torch at the top."""

from launchers.api import launch, prepare

__all__ = ["launch", "prepare"]
