"""Hydra's errors about a command, with what to try in its place, quoted for the shell."""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.errors import DogBreedError
from launchers import known
from launchers.choices import near_names
from launchers.config_sources import ConfigSources
from launchers.project import PROJECT

_UNKNOWN = re.compile(r"Could not override '\+*([^']+)'")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]+)=(.*)'")
_SWEPT = re.compile(r"Sweep parameters '(.*)' requires --multirun")
_NO_OPTION = re.compile(r"In '(?P<file>[^']*)': Could not (find|load) '(?P<group>[^']+)/(?P<name>[^'/]+)'")
_NO_CONFIG = re.compile(r"Cannot find primary config '([^']+)'")
_NO_FOLDER = re.compile(r"(?:Additional|Primary) config directory.*'([^']+)'", re.DOTALL)
_OPTION = re.compile(r"^\t(.+)$", re.MULTILINE)
_WHOLE = ("config", "hydra/config")  # in which Hydra looks for what was typed


def message(error: Exception, words: Sequence[str] | None = None) -> str:
    """Return what Hydra or OmegaConf found wrong, in words for the person who typed the command.

    words: of the command; None for those of this process.
    """
    text, typed = str(error).strip(), sys.argv[1:] if words is None else list(words)
    if found := _UNKNOWN.match(text):
        return f"{found[1]} is not a setting.\n{known.hint(found[1], _typed_value(found[1], typed), typed)}"
    if found := _NO_OPTION.match(text):
        return _no_option(found["group"], found["name"], found["file"], text, typed)
    if found := _NO_CONFIG.match(text):
        return _no_config(found[1], typed)
    if found := _NO_FOLDER.match(text):
        return no_folder(Path(found[1]))
    if found := _AMBIGUOUS.match(text):
        one_value = commands.override(found[1], found[2])
        return f"{found[1]}={found[2]} could be several values or one with a comma in it.\n" + commands.one_per_line(
            [commands.train("-m", *typed), commands.train(*_replaced(f"{found[1]}={found[2]}", one_value, typed))]
        )
    if found := _SWEPT.match(text):
        return f"{found[1]} is a range to search in, but this is a single run.\nTry: " + commands.train(
            "-m", "hpo=optuna", *(word for word in typed if not word.startswith("hpo="))
        )
    causes = [text]
    if isinstance(error.__cause__, OmegaConfBaseException | HydraException | DogBreedError):
        causes.append(str(error.__cause__))
    return "\n".join(causes)


def _no_option(group: str, name: str, file: str, text: str, typed: Sequence[str]) -> str:
    """Say that a group has no such option. file: of the config that names it. text: Hydra's, with the options."""
    here = any(word.lstrip("+").startswith((f"{group}=", f"{group}@")) for word in typed)
    by = "" if here else f", which {'a config file' if file in _WHOLE else f'{file}.yaml'} names,"
    options = known.options(group, _OPTION.findall(text.partition("Config search path")[0]))
    if not options:
        return f"{group}={name}{by} is not a choice: there is no conf/{group}.\nTry: {commands.train('--help')}"
    said = f"{group}={name}{by} is not one of the choices: {', '.join(options)}."
    meant = near_names(name, options) or (options if len(options) == 1 else [])
    tried = " or ".join(commands.setting(group, option) for option in meant)
    return f"{said}\nTry: {tried or commands.train('--help') + ', which says what each of them is'}"


def _no_config(name: str, typed: Sequence[str]) -> str:
    """Say that there is no primary config of a name, and which there are."""
    sources = ConfigSources.split(typed)[0]
    folders = [Path(at) for at in (sources.folder or PROJECT / "conf", sources.beside) if at is not None]
    there = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    where = " or ".join(shown_path(folder) for folder in folders)
    meant = near_names(name.removesuffix(".yaml"), there) or (there if len(there) == 1 else [])
    tried = " or ".join(f"--config-name={each}" for each in meant)
    return f"There is no config {name}.yaml in {where}.\nTry: {tried or 'the same command without --config-name'}"


def no_folder(folder: Path) -> str:
    """Say that the folder that --config-dir names does not exist, and which are near."""
    beside = sorted(path.name for path in _folders(folder.absolute().parent))
    near = (shown_path(folder.absolute().parent / name) for name in near_names(folder.name, beside))
    tried = " or ".join(f"--config-dir={path}" for path in near)
    return f"The folder of configs {folder} does not exist.\nTry: {tried or 'the path of a folder that exists'}"


def _folders(parent: Path) -> Iterator[Path]:
    try:
        yield from (path for path in parent.iterdir() if path.is_dir())
    except OSError:
        return


def _typed_value(key: str, typed: Sequence[str]) -> Any:
    """Return the value that was typed for a key, as Hydra reads it; None if there is none."""
    found = [word for word in typed if word.lstrip("+").partition("=")[0] == key]
    return OverridesParser.create().parse_override(found[-1]).value() if found else None


def _replaced(old: str, new: str, typed: Sequence[str]) -> list[str]:
    return [new if word == old else word for word in typed]
