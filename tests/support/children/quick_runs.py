"""Runs without what takes seconds each time and which few tests look at: their model.tar.gz, and features by ONNX.

The functions are replaced as their modules are imported, in each process. Tests marked `exports` and `onnx` have them:
the marks set these variables of the environment.
"""

import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

EXPORTS, ONNX = "DOGBREED_TESTS_EXPORT", "DOGBREED_TESTS_ONNX"


def install() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _without_artifact(pipeline: Any) -> None:
    export = pipeline._export
    pipeline._export = lambda here: export(here) if EXPORTS in os.environ else None


def _eager(engine: Any) -> None:
    name = engine.name

    def eager(device: Any, precision: str, *, compiled: bool) -> str:
        chosen: str = name(device, precision, compiled=compiled) if ONNX in os.environ else engine.EAGER
        return chosen

    engine.name = eager


_CHANGES = {"dogbreed.training.pipeline": _without_artifact, "dogbreed.features.engine": _eager}


class _Finder:
    """Finds these modules as they would be found, and changes them once they have run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _CHANGES[name](module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
