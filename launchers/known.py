"""Know which settings exist, from the files in conf/, and refuse what nothing reads with the settings that are near.

The files are read as they are, without Hydra, so that the check takes milliseconds.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dogbreed import commands
from launchers import choices
from launchers.choices import read_yaml, shown
from launchers.project import PROJECT

_OURS = ("data", "model")  # groups whose files list every argument of their class
_OPEN = ("logger", "hydra")  # their classes may have any further argument
_CHOSEN = ("launcher", "aws", "hpo")  # each file of these groups lists every argument of its class
_MEANT = {  # what other libraries call it
    "epochs": "trainer.max_epochs", "num_epochs": "trainer.max_epochs", "patience": "trainer.max_epochs",
    "early_stopping": "trainer.max_epochs", "learning_rate": "model.lr", "num_workers": "data.workers",
    "bs": "data.batch_size", "batch": "data.batch_size", "image_size": "model.image_px", "img_size": "model.image_px",
    "pretrained": "model.weights", "freeze": "model.trainable", "fp16": "trainer.precision", "amp": "trainer.precision",
    "gpus": "trainer.accelerator", "device": "trainer.accelerator", "wd": "model.weight_decay", "metric": "monitor",
    "random_seed": "seed", "path": "data.root", "data_dir": "data.root", "output_dir": "hydra.run.dir",
}  # fmt: skip


def findings(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield each setting of a run that nothing reads, with what may have been meant.

    config: as composed, with its interpolations: a setting that another one refers to is read.
    """
    interpolated = " ".join(_texts(config))
    for key, value in _unread(config):
        if re.search(rf"\$\{{{re.escape(key)}\b", interpolated):
            continue
        yield f"Nothing reads the setting {key}.\n{hint(key, value)}"
    for group in _CHOSEN:
        node = config.get(group)
        for key, value, name in choices.unread(group, node) if isinstance(node, Mapping) else ():
            if not re.search(rf"\$\{{{group}\.{re.escape(key)}\b", interpolated):
                yield f"Nothing reads the setting {group}.{key}.\n{choices.hint_in(group, name, key, value)}"


def hint(key: str, value: Any = None, typed: Sequence[str] = ()) -> str:
    """Return what to try instead of a setting that does not exist. typed: the overrides of the command."""
    group, _, rest = key.lstrip("+~").partition(".")
    if "/" in key:
        return _hint_of_group(key.lstrip("+~"), value)
    if group in choices.GROUPS and rest:
        return choices.hint(group, rest, value, typed)
    if _can_be_added(key):
        return f"Try: {shown(f'+{key}', value)}"
    if found := near(key):
        return f"Try: {' or '.join(shown(name, value) for name in found)}"
    return f"Try: {commands.train('--help')}, which lists all settings"


def options(group: str, listed: Sequence[str] = ()) -> list[str]:
    """Return what one can choose in a group. listed: by Hydra, which knows further folders; else those of conf/."""
    names = listed or [file.stem for file in (PROJECT / "conf" / group).glob("*.yaml")]
    return sorted(name for name in names if name != "base")  # base.yaml holds what the options share


def _hint_of_group(group: str, value: Any) -> str:
    """Return what to try instead of `GROUP/PART=value` where no part of the config is chosen from that folder."""
    conf = PROJECT / "conf"
    groups = sorted(path.relative_to(conf).as_posix() for path in conf.rglob("*") if path.is_dir())
    if group not in groups:
        meant = choices.near_names(group, [name for name in groups if "/" in name])
        return f"Try: {' or '.join(shown(name, value) for name in meant) or commands.train('--help')}"
    above, _, part = group.rpartition("/")
    takes = [name for name in options(above) if _takes(conf / above / f"{name}.yaml", part, group)]
    ways = [f"{commands.setting(above, name)} {shown(group, value)}" for name in takes]
    return commands.one_per_line(ways) if ways else f"Try: {commands.train('--help')}"


def _takes(file: Path, part: str, group: str) -> bool:
    """Return whether the defaults of a file choose from a folder beside it."""
    chosen = [entry for entry in read_yaml(file).get("defaults", []) if isinstance(entry, dict)]
    return any(str(name).removeprefix("override ") in (part, f"/{group}") for entry in chosen for name in entry)


def near(key: str) -> list[str]:
    """Return up to three settings that may have been meant by a key that is none."""
    path = key.lstrip("+~").lower().split(".")
    if meant := [_MEANT[part] for part in reversed(path) if part in _MEANT]:
        return list(dict.fromkeys(meant))[:1]
    keys = _keys()
    by_name: dict[str, list[str]] = {}
    for known in keys:
        by_name.setdefault(known.rpartition(".")[2], []).append(known)
    found = [known for name in get_close_matches(path[-1], by_name, 3, 0.7) for known in by_name[name]]
    whole = [known for known in keys if len(path) == 1 or "." in known]  # a group alone is no setting in a group
    return (found or get_close_matches(".".join(path), whole, 3, 0.7))[:3]


def _unread(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    tree = _tree()
    for key, value in config.items():
        if key in (*_OPEN, *_CHOSEN):
            continue
        if key not in tree:
            yield from _leaves(key, value)
        elif isinstance(value, Mapping) and isinstance(tree[key], Mapping):
            yield from _unread_below(key, value, tree[key])


def _unread_below(at: str, node: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    target = node.get("_target_")
    if at == "data.source" or (target is not None and target not in known.get("_target_", ())):
        return  # it may have further arguments; or it is somebody's own class
    added = [key for key in node if key not in known]
    if at == "trainer" and added:
        added = [key for key in added if key not in _trainer_arguments()]
    for key in added:
        yield from _leaves(f"{at}.{key}", node[key])
    for key, value in node.items():
        if isinstance(value, Mapping) and isinstance(known.get(key), Mapping) and known[key]:
            yield from _unread_below(f"{at}.{key}", value, known[key])


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, below in value.items():
            yield from _leaves(f"{key}.{name}", below)
    else:
        yield key, value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str) and "${" in value:
        yield value


def _can_be_added(key: str) -> bool:
    group, _, rest = key.lstrip("+~").partition(".")
    return group == "trainer" and rest in _trainer_arguments()


@lru_cache
def _tree() -> dict[str, Any]:
    """Return the keys that exist, nested. `_target_` holds the classes whose arguments are listed."""
    conf = PROJECT / "conf"
    tree = dict(read_yaml(conf / "config.yaml"))
    for name in ("defaults", "hydra", "_target_"):
        tree.pop(name, None)
    for group in (folder.name for folder in conf.iterdir() if folder.is_dir()):
        tree.setdefault(group, None)
        if group in (*_OURS, "trainer"):
            tree[group] = {}
            for file in sorted((conf / group).glob("*.yaml")):
                _merge(tree[group], read_yaml(file))
            tree[group].pop("defaults", None)
    return tree


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if key == "_target_":
            tree[key] = (*tree.get(key, ()), value)
        elif isinstance(value, Mapping):
            if not isinstance(tree.get(key), dict):
                tree[key] = {}
            _merge(tree[key], value)
        else:
            tree.setdefault(key, None)


@lru_cache
def _keys() -> list[str]:
    """Return all settings that conf/ lists, those of nested classes included."""
    leaves = (key for name, value in _tree().items() for key, _ in _leaves(name, value))
    return sorted(key for key in leaves if not key.endswith("_target_"))


@lru_cache
def _trainer_arguments() -> frozenset[str]:
    """Return the arguments of Lightning's Trainer, from its source, because importing it takes seconds."""
    package = find_spec("lightning")
    for place in (package.submodule_search_locations or []) if package else []:
        source = Path(place) / "pytorch" / "trainer" / "trainer.py"
        if source.exists():
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    return frozenset(argument.arg for argument in [*node.args.args, *node.args.kwonlyargs])
    return frozenset()
