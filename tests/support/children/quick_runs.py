"""Runs without what takes long each time and which few tests look at: their model.tar.gz, features by ONNX, and plots.

Tests marked `exports`, `onnx` and `plots` have them: the marks set these variables of the environment. No process, and
no SQLite in it, waits for the disk: what is written outlasts them all the same, and no test cuts the power. What is the
same each time is done once a process: to parse a YAML text or an interpolation, to merge the files of conf/ that a
command chooses, and to scan this project's code for what is sent. Garbage is looked for more rarely: a seventh of the
time of importing torch goes to that.
"""

import contextlib
import copy
import functools
import gc
import io
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import on_import

EXPORTS, ONNX, PLOTS = (f"DOGBREED_TESTS_{name}" for name in ("EXPORT", "ONNX", "PLOTS"))

PROJECT = Path(__file__).parents[3]
UNCHANGED = {"hydra.conf", str(PROJECT / "conf"), ""}  # the sources of configs: Hydra's own, ours, and its schemas


def install() -> None:
    on_import.change("dogbreed.training.pipeline", _without_artifact)
    on_import.change("dogbreed.features.engine", _eager)
    on_import.change("dogbreed.report.plots", _undrawn)
    on_import.change("launchers.sweep.page", _without_plots)
    on_import.change("sqlite3.dbapi2", _unsynced)
    on_import.change("omegaconf._utils", _parsed_once)
    on_import.change("omegaconf.grammar_parser", _each_text_once)
    on_import.change("hydra._internal.config_loader_impl", _merged_once)
    on_import.change("launchers.project", _asked_once)
    on_import.change("launchers.payload.code", _scanned_once)
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    gc.set_threshold(10_000, 10, 10)


def _without_artifact(pipeline: Any) -> None:
    export = pipeline._export
    pipeline._export = lambda here: export(here) if EXPORTS in os.environ else None


def _eager(engine: Any) -> None:
    name = engine.name

    def eager(device: Any, precision: str, *, compiled: bool) -> str:
        chosen: str = name(device, precision, compiled=compiled) if ONNX in os.environ else engine.EAGER
        return chosen

    engine.name = eager


def _undrawn(plots: Any) -> None:
    svg = plots.svg
    plots.svg = lambda *given, **named: svg(*given, **named) if PLOTS in os.environ else plots.Markup("<svg></svg>")


def _without_plots(page: Any) -> None:
    plots = page._plots
    page._plots = lambda study: plots(study) if PLOTS in os.environ else []


def _unsynced(sqlite: Any) -> None:
    connect = sqlite.connect

    def connected(*given: Any, **named: Any) -> Any:
        made = connect(*given, **named)
        with contextlib.suppress(sqlite.Error):  # of a file that is no database, which is for whoever reads it
            made.execute("PRAGMA synchronous=OFF")
        return made

    sqlite.connect = connected


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


def _each_text_once(grammar_parser: Any) -> None:
    """Tests resolve the same interpolations thousands of times, and nobody changes a parse tree."""
    grammar_parser.parse = functools.lru_cache(4096)(grammar_parser.parse)


def _merged_once(loading: Any) -> None:
    """Find and merge the files of one choice of groups once: what is set of their values is set in a copy.

    Only of files that no test changes: those of Hydra itself, of conf/, and of the copies of it that jobs have.
    """
    find, loader = loading.create_defaults_list, loading.ConfigLoaderImpl
    merge = loader._compose_config_from_defaults_list
    found: dict[Any, Any] = {}
    merged: dict[int, Any] = {}  # by the identity of the list of files, which `found` keeps

    def find_once(repo: Any, config_name: str | None, overrides_list: list[Any], **named: Any) -> Any:
        places = [source.path for source in repo.get_sources()]
        if not all(place in UNCHANGED or place.endswith("/code/conf") for place in places):
            return find(repo, config_name, overrides_list, **named)
        values = [each for each in overrides_list if not repo.group_exists(each.key_or_group)]
        groups = [each.input_line for each in overrides_list if each not in values]
        key = (config_name, *groups, *places)
        if key in found:
            kept = copy.copy(found[key])
            kept.config_overrides = values
            return kept
        fresh = find(repo, config_name, overrides_list, **named)
        if fresh.config_overrides == values and "???" not in fresh.overrides.known_choices.values():
            found[key] = fresh
        return fresh

    def merge_once(self: Any, defaults: list[Any], repo: Any) -> Any:
        if not any(kept.defaults is defaults for kept in found.values()):
            return merge(self, defaults, repo)
        if id(defaults) not in merged:
            merged[id(defaults)] = merge(self, defaults, repo)
        return copy.deepcopy(merged[id(defaults)])

    loading.create_defaults_list, loader._compose_config_from_defaults_list = find_once, merge_once


def _asked_once(project: Any) -> None:
    project.git_state = functools.cache(project.git_state)


def _scanned_once(code: Any) -> None:
    scan = code.scan
    found: dict[str, Any] = {}

    def once(
        root: Path,
        config_dirs: Sequence[Path] = (),
        *,
        stays: Mapping[Path, str] | None = None,
        model_weights: object = None,
    ) -> Any:
        around = any(root.is_relative_to(folder) for folder in stays or {})
        inside = any(folder.is_relative_to(root) and folder.exists() for folder in stays or {})
        if root != PROJECT or around or inside or config_dirs or "/" in str(model_weights):
            return scan(root, config_dirs, stays=stays, model_weights=model_weights)
        if str(model_weights) not in found:
            found[str(model_weights)] = scan(root, stays=stays, model_weights=model_weights)
        return found[str(model_weights)]

    code.scan = once
