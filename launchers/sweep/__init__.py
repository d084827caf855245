"""Searching hyperparameters: `python train.py -m hpo=optuna`. Begins in `search.py`."""
