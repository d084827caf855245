"""Runs without what takes seconds each time and which few tests look at: their model.tar.gz, and features by ONNX.

Tests marked `exports` and `onnx` have them: the marks set these variables of the environment. No process waits for the
disk: what it has written outlasts it all the same, and no test cuts the power. A YAML text is parsed once a process.
"""

import functools
import io
import os
import pickle
from typing import Any

import on_import

EXPORTS, ONNX = "DOGBREED_TESTS_EXPORT", "DOGBREED_TESTS_ONNX"


def install() -> None:
    on_import.change("dogbreed.training.pipeline", _without_artifact)
    on_import.change("dogbreed.features.engine", _eager)
    on_import.change("omegaconf._utils", _parsed_once)
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


def _parsed_once(utils: Any) -> None:
    """Tests compose the same forty files thousands of times; Hydra parses each of them anew."""
    loader = functools.cache(utils.get_yaml_loader)
    parsed: dict[str, bytes] = {}

    class Once:
        """Stands for a loader: what yaml.load calls."""

        def __init__(self, stream: Any) -> None:
            self.name = getattr(stream, "name", "<unicode string>")
            self.text = stream if isinstance(stream, str) else stream.read()

        def get_single_data(self) -> Any:
            if self.text not in parsed:
                named = io.StringIO(self.text)
                named.name = self.name  # type: ignore[attr-defined]  # which errors show
                real = loader()(named)
                try:
                    parsed[self.text] = pickle.dumps(real.get_single_data())
                finally:
                    real.dispose()
            return pickle.loads(parsed[self.text])

        def dispose(self) -> None: ...

    utils.get_yaml_loader = lambda: Once
