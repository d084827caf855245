"""Hyperparameter search: `python train.py -m hpo=optuna`. The entry point is `search.py`."""
