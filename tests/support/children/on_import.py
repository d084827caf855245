"""Changes modules as they are imported, in each process of the tests: those that no test needs are never imported."""

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_changes: dict[str, list[Callable[[Any], None]]] = {}
_changed: set[str] = set()


def change(name: str, by: Callable[[Any], None]) -> None:
    """Call `by` with the module of this name, once it has been imported, after what others have asked for."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _changes.setdefault(name, []).append(by)


def catch_up() -> None:
    """Change what has been imported past the finder: pytest finds modules of its plugins, as Hydra's, by itself."""
    for name in _changes.keys() & sys.modules.keys() - _changed:
        _change(sys.modules[name])


def _change(module: ModuleType) -> None:
    _changed.add(module.__name__)
    for each in _changes[module.__name__]:
        each(module)


class _Finder:
    """Finds these modules as they would be found, and changes them once they have run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _change(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
