"""The machines that `train.py` can run on: they know nothing of the science, and never import torch at the top."""
