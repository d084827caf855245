"""Runs without what takes seconds each time and which few tests look at: their model.tar.gz, and features by ONNX.

Tests marked `exports` and `onnx` have them: the marks set these variables of the environment. No process waits for the
disk: what it has written outlasts it all the same, and no test cuts the power.
"""

import os
from typing import Any

import on_import

EXPORTS, ONNX = "DOGBREED_TESTS_EXPORT", "DOGBREED_TESTS_ONNX"


def install() -> None:
    on_import.change("dogbreed.training.pipeline", _without_artifact)
    on_import.change("dogbreed.features.engine", _eager)
    os.fsync = lambda descriptor: None  # type: ignore[assignment]


def _without_artifact(pipeline: Any) -> None:
    export = pipeline._export
    pipeline._export = lambda here: export(here) if EXPORTS in os.environ else None


def _eager(engine: Any) -> None:
    name = engine.name

    def eager(device: Any, precision: str, *, compiled: bool) -> str:
        chosen: str = name(device, precision, compiled=compiled) if ONNX in os.environ else engine.EAGER
        return chosen

    engine.name = eager
