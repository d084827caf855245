"""The machines that `train.py` can run on. No module here imports torch when it is loaded."""

from launchers.api import launch, prepare

__all__ = ["launch", "prepare"]
