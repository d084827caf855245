"""Command lines that name what may have been meant by a command or an option that does not exist."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from launchers.choices import near_names

_CHOICE = re.compile(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", re.DOTALL)
_UNKNOWN = "is unknown here."


class Parser(argparse.ArgumentParser):
    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse the words of a command. What is left over is reported by the parser of its verb, which has options."""
        found, left = self.parse_known_args(args, namespace)
        if left:
            verb: argparse.ArgumentParser = getattr(found, "parser", self)
            verb.error(f"{' '.join(left)} {_UNKNOWN}")
        return found

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and what to try; exit with 2."""
        text, meant = message, list[str]()
        if found := _CHOICE.fullmatch(message):
            verb, choices = found[1] == "COMMAND", re.findall(r"[\w-]+", found[3])
            text = f"{found[2]} is not {'a command' if verb else f'a choice of {found[1]}'}."
            meant = [f"{self.prog} {name}" if verb else name for name in near_names(found[2], choices)]
        elif message.endswith(_UNKNOWN):
            options = sorted({*re.findall(r"--[\w-]+", self.format_help())})
            meant = [name for word in message.split() for name in near_names(word.partition("=")[0], options)]
        self.exit(2, f"error: {text}\nTry: {' or '.join(dict.fromkeys(meant)) or f'{self.prog} --help'}\n")
