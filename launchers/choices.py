"""Know which settings the chosen file of a group has, such as conf/launcher/sagemaker_gpu.yaml, and what is near them.

The files are read as they are, without Hydra.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from dogbreed import commands
from launchers.project import PROJECT

GROUPS = ("launcher", "aws", "logger", "hpo")  # whose files have keys of their own
_CONF = PROJECT / "conf"
_CUTOFF = 0.75  # of difflib's similarity: run_dir is near runs_dir, but profile is not near role


def hint(group: str, key: str, value: Any, typed: Sequence[str]) -> str:
    """Return what to try instead of `GROUP.KEY`, which the chosen file does not have.

    typed: the overrides of the command, which may choose the file.
    """
    return hint_in(group, chosen(group, typed), key, value)


def hint_in(group: str, name: str, key: str, value: Any) -> str:
    """Return what to try instead of `GROUP.KEY`, which conf/GROUP/NAME.yaml does not have."""
    keys = keys_of(group, name)
    part, _, rest = key.partition(".")
    if rest and (_CONF / group / part).is_dir() and (tried := _in_part(group, part, rest, value)):
        return tried
    if any(key.startswith(f"{known}.") for known, default in keys.items() if default == {}):
        return f"Try: {shown(f'+{group}.{key}', value)}"  # any key can be added there
    elsewhere = {other: keys_of(group, other) for other in _names(group) if other != name}
    if others := [other for other, its in elsewhere.items() if key in its]:
        return _in_others(group, dict.fromkeys(others, key), value)
    if found := _near(key, keys):
        return f"Try: {' or '.join(shown(f'{group}.{each}', value) for each in found)}"
    if near := {other: found[0] for other, its in elsewhere.items() if (found := _near(key, its))}:
        return _in_others(group, near, value)
    listed = textwrap.fill(f"conf/{group}/{name}.yaml has {', '.join(keys) or 'no keys'}.", 79, break_long_words=False)
    return f"{listed}\nTry: {commands.train(commands.override(group, name), '--help')}"


def _in_part(group: str, part: str, rest: str, value: Any) -> str:
    """Return what to try instead of `GROUP.PART.REST`, by the files in conf/GROUP/PART; empty if none is near."""
    keys = {file.stem: dict(_leaves(read_yaml(file), "")) for file in sorted((_CONF / group / part).glob("*.yaml"))}
    if known := [name for name, its in keys.items() if rest in its]:
        return commands.one_per_line(
            [f"{commands.setting(f'{group}/{part}', name)} {shown(f'{group}.{part}.{rest}', value)}" for name in known]
        )
    near = {each for its in keys.values() for each in _near(rest, its)}
    return f"Try: {' or '.join(shown(f'{group}.{part}.{each}', value) for each in sorted(near))}" if near else ""


def _in_others(group: str, keys: Mapping[str, str], value: Any) -> str:
    """keys: by the name of a file of the group that has it."""
    choices = [f"{commands.setting(group, name)} {shown(f'{group}.{key}', value)}" for name, key in keys.items()]
    return commands.one_per_line(choices[:3])


def unread(group: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield each setting of a composed group that no file with its class has: key, value, name of the nearest file.

    Somebody's own class may have any settings.
    """
    same = [name for name in _names(group) if read_whole(group, name).get("_target_") == node.get("_target_")]
    known = {key.partition(".")[0] for name in same for key in keys_of(group, name)}
    nearest = max(same, default="", key=lambda name: sum(node.get(k) == v for k, v in keys_of(group, name).items()))
    for key, value in node.items():
        if same and key not in known and key != "_target_":
            yield key, value, nearest


def chosen(group: str, typed: Sequence[str]) -> str:
    """Return the name of the group's file that a command uses: typed, or an experiment's, or the default."""
    if name := _typed(group, typed):
        return name
    experiment = _CONF / "experiment" / f"{_typed('experiment', typed)}.yaml"
    files = [experiment] if experiment.is_file() else []
    for file in [*files, _CONF / "config.yaml"]:
        for entry in read_yaml(file).get("defaults", []):
            for where, name in entry.items() if isinstance(entry, dict) else ():
                if where.removeprefix("override ").lstrip("/") == group and name:
                    return str(name)
    return ""


def keys_of(group: str, name: str) -> dict[str, Any]:
    """Return the keys of conf/GROUP/NAME.yaml with its bases, nested ones with dots, and their values."""
    file = _CONF / group / f"{name}.yaml"
    return dict(_keys(file, group)) if name and file.is_file() else {}


def shown(key: str, value: Any) -> str:
    """Return `key=value` as it is typed in a shell; the key alone if the value is not a plain one."""
    return commands.setting(key, value) if isinstance(value, str | int | float | bool) else key


def read_whole(group: str, name: str) -> dict[str, Any]:
    """Read conf/GROUP/NAME.yaml with the files of the group that it is based on."""
    content = read_yaml(_CONF / group / f"{name}.yaml")
    bases = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    return {key: value for each in bases for key, value in read_whole(group, each).items()} | content


@lru_cache
def read_yaml(file: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    loaded: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded or {}


def _typed(group: str, typed: Sequence[str]) -> str:
    found = [word.partition("=")[2] for word in typed if re.match(rf"\+*{group}(@[^=]*)?=", word)]
    return commands.unquoted(found[-1]) if found else ""


def near_names(name: str, names: Sequence[str]) -> list[str]:
    """Return up to three names that may have been meant: those that contain what was typed, or else similar ones."""
    typed = name.lower()
    return [known for known in names if typed in known.lower()][:3] or get_close_matches(typed, names, 3, 0.6)


def _names(group: str) -> list[str]:
    return sorted(file.stem for file in (_CONF / group).glob("*.yaml"))


def _keys(file: Path, group: str) -> Iterator[tuple[str, Any]]:
    content = read_yaml(file)
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            yield from _keys(file.with_name(f"{entry}.yaml"), group)
        for where, name in entry.items() if isinstance(entry, dict) else ():
            part = str(where).removeprefix(f"/{group}/")
            if part != str(where) and name:  # /hpo/sampler: tpe
                below = read_yaml(_CONF / group / part / f"{name}.yaml")
                yield from _leaves(below.get(group, {}).get(part, below), f"{part}.")
    # a file for the whole config (@package _global_) has its group as a key
    yield from _leaves(content[group] if isinstance(content.get(group), dict) else content, "")


def _leaves(node: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key in ("defaults", "_target_", "hydra"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _near(key: str, keys: Mapping[str, Any]) -> list[str]:
    last = {known.rpartition(".")[2]: known for known in keys}
    found = [last[name] for name in get_close_matches(key.rpartition(".")[2].lower(), last, 3, _CUTOFF)]
    return found or get_close_matches(key.lower(), list(keys), 3, _CUTOFF)
