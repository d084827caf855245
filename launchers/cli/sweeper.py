"""The sweeper that `hpo=optuna` and `hpo=sagemaker_tuner` select instead of Hydra's own.

Importing this module registers it. Optuna, and everything else that a search needs, is imported when one starts.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

_MODULE = "hydra_plugins.dogbreed_sweeper"  # Hydra refuses a plugin from a module of any other first name


class SearchSweeper(Sweeper):
    """Passes a command's overrides to `launchers.sweep`. Hydra's launchers are not used: trials use `launcher=`."""

    def __init__(self) -> None:
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config = config

    def sweep(self, arguments: list[str]) -> Any:
        from launchers.sweep.tuner_settings import TunerSettings

        assert self._config is not None
        if TunerSettings.chosen(self._config):
            from launchers.sweep.tuner import search as tune

            return tune(self._config, arguments)
        from launchers.sweep.search import search

        return search(self._config, arguments)


def _register() -> None:
    """Register the sweeper under the name that Hydra requires, without a folder of that name in the project."""
    package, _, name = _MODULE.partition(".")
    try:
        parent = import_module(package)
    except ModuleNotFoundError:  # no other plugin is installed
        parent = sys.modules[package] = ModuleType(package)
        parent.__path__ = []
    setattr(parent, name, sys.modules[__name__])
    sys.modules[_MODULE] = sys.modules[__name__]
    SearchSweeper.__module__ = _MODULE
    Plugins.instance().register(SearchSweeper)


_register()
