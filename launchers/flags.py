"""Refuse what Hydra's own command line would refuse with its usage: flags that do not exist, and words behind flags."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from dogbreed import commands
from dogbreed.errors import ConfigError, raise_findings
from launchers import known
from launchers.choices import near_names

_CHOICE = re.compile(r"argument (?P<flag>\S+): invalid choice: '?(?P<given>.*?)'? \(choose from (?P<all>.*)\)", re.S)
_NO_VALUE = re.compile(r"argument (?P<flag>\S+): expected")
_GIVEN_VALUE = re.compile(r"argument (?P<flag>\S+): ignored explicit argument")
_SEVERAL = re.compile(r"ambiguous option: (?P<flag>\S+) could match (?P<choices>.*)")
_WITH_VALUE = (
    *("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd", "--cfg", "-c", "--package", "-p"),
    *("--info", "-i", "--experimental-rerun"),
)


def refuse_unknown(words: Sequence[str]) -> None:
    """Raise ConfigError for flags that `train.py` does not have, and for settings on both sides of a flag.

    words: of the command. Hydra takes its settings in one piece.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(_in_words(message))

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    left = parser.parse_known_args(list(words))[1]
    if unknown := [word for word in left if word.startswith("-")]:
        options = sorted(name for name in parser._option_string_actions if name.startswith("--"))
        raise_findings(ConfigError, [_unknown(word, _value_of(word, words), options) for word in unknown])
    if left:
        flags, settings = _apart(words)
        raise ConfigError(
            f"Settings must be together, but some are in front of {' '.join(flags)}, and {' '.join(left)} behind it.\n"
            f"Try: {commands.train(*flags, *settings)}"
        )


def _in_words(message: str) -> str:
    """Return an error of Python's parser in words of ours, with what to try."""
    if found := _CHOICE.fullmatch(message):
        choices = re.findall(r"[\w-]+", found["all"])
        flag = _longest(found["flag"])
        meant = near_names(found["given"], choices) or choices
        tried = " or ".join(f"{flag}={name}" for name in meant)
        return f"{flag}={found['given']} is not one of the choices: {', '.join(choices)}.\nTry: {tried}"
    if found := _NO_VALUE.match(message):
        return f"{_longest(found['flag'])} needs a value.\nTry: {_longest(found['flag'])}=VALUE; or {_list()}"
    if found := _GIVEN_VALUE.match(message):
        return f"{_longest(found['flag'])} takes no value.\nTry: {_longest(found['flag'])}"
    if found := _SEVERAL.fullmatch(message):
        return f"{found['flag']} could be any of several flags.\nTry: {' or '.join(found['choices'].split(', '))}"
    return f"{message}\nTry: {_list()}"


def _list() -> str:
    return f"{commands.train('--hydra-help')}, which lists the flags; settings are typed as key=value"


def _longest(names: str) -> str:
    """Return a flag's long name. names: as Python's parser has them, such as --cfg/-c."""
    return max(names.split("/"), key=len)


def _unknown(word: str, value: str, options: Sequence[str]) -> str:
    """Say that there is no such flag, and which flag or setting may have been meant. value: that was typed for it."""
    name = word.partition("=")[0]
    flags = get_close_matches(name, options, 3, 0.8)
    settings = [] if flags else known.near(name.lstrip("-").replace("-", "_"))
    meant = flags or [commands.shell(f"{key}={value}") for key in settings]
    return f"{name} is not a flag of train.py.\nTry: {' or '.join(meant) or _list()}"


def _value_of(word: str, words: Sequence[str]) -> str:
    """Return the value that was typed for a flag: behind =, or as the next word. `true` if there is none."""
    _, assigned, value = word.partition("=")
    following = list(words[words.index(word) + 1 :])[:1] if word in words else []  # -mx is reported as -x
    if assigned:
        return value
    return next((each for each in following if not each.startswith("-") and "=" not in each), "true")


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags with their values, and the settings, in the order in which they were typed.

    Python's parser takes the beginning of a long flag, such as --config-n, for the flag.
    """
    flags, settings, left = list[str](), list[str](), list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            settings.append(word)
            continue
        flags.append(word)
        if left and (word in _WITH_VALUE or (word.startswith("--") and any(of.startswith(word) for of in _WITH_VALUE))):
            flags.append(left.pop(0))
    return flags, settings
