"""Hydra's errors about a command, with what to try in its place, quoted for the shell."""

import re
import sys
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dogbreed import commands
from dogbreed.errors import DogBreedError
from launchers import known

_UNKNOWN = re.compile(r"Could not override '\+*([^']+)'")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]+)=(.*)'")
_SWEPT = re.compile(r"Sweep parameters '(.*)' requires --multirun")


def message(error: Exception) -> str:
    """Return what Hydra or OmegaConf found wrong, in words for the person who typed the command."""
    text = str(error).strip()
    if found := _UNKNOWN.match(text):
        return f"{found[1]} is not a setting.\n{known.hint(found[1], _typed_value(found[1]), sys.argv[1:])}"
    if found := _AMBIGUOUS.match(text):
        one_value = commands.override(found[1], found[2])
        return f"{found[1]}={found[2]} could be several values or one with a comma in it.\n" + commands.one_per_line(
            [commands.train("-m", *sys.argv[1:]), commands.train(*_replaced(f"{found[1]}={found[2]}", one_value))]
        )
    if found := _SWEPT.match(text):
        return f"{found[1]} is a range to search in, but this is a single run.\nTry: " + commands.train(
            "-m", "hpo=optuna", *(word for word in sys.argv[1:] if not word.startswith("hpo="))
        )
    causes = [text]
    if isinstance(error.__cause__, OmegaConfBaseException | HydraException | DogBreedError):
        causes.append(str(error.__cause__))
    return "\n".join(causes)


def _typed_value(key: str) -> Any:
    """Return the value that was typed for a key, as Hydra reads it; None if there is none."""
    words = [word for word in sys.argv[1:] if word.lstrip("+").partition("=")[0] == key]
    return OverridesParser.create().parse_override(words[-1]).value() if words else None


def _replaced(old: str, new: str) -> list[str]:
    return [new if word == old else word for word in sys.argv[1:]]
