"""The commands: `train.py`'s frame, and `python -m launchers`."""
