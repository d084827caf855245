"""The command lines: what `train.py` needs around its main function, and `python -m launchers`."""
