"""The README, the guides beside the code and CONTRIBUTING, read as their tests need them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.support.project import ROOT

README = ROOT / "README.md"
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(python|pip|torchrun|docker|curl|ruff|mypy|lint-imports|git|DOGBREED_\w+=\S+)\b")


@dataclass(frozen=True)
class Session:
    """A command and what a guide shows of its output; `...` stands for lines that are left out."""

    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Guide:
    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _BLOCK.sub("", self.text)

    def code(self) -> list[str]:
        """Return what stands in backticks."""
        return [" ".join(found.split()) for found in _CODE.findall(self.prose)]

    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    def anchors(self) -> set[str]:
        """Return the names that GitHub gives to the headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def commands(self) -> list[str]:
        """Return the commands of bash blocks, one a line, and those in backticks."""
        lines = [line for block in _BLOCK.finditer(self.text) if block["language"] == "bash" for line in _lines(block)]
        return [*lines, *(text for text in self.code() if " " in text and _COMMAND.match(text))]

    def sessions(self) -> Iterator[Session]:
        """Yield the last command of each bash block with the output block that follows it directly."""
        blocks = list(_BLOCK.finditer(self.text))
        for block, following in pairwise(blocks):
            follows = not self.text[block.end() : following.start()].strip()
            if block["language"] == "bash" and not following["language"] and follows:
                yield Session(_lines(block)[-1], tuple(following["text"].splitlines()))

    def python(self) -> list[str]:
        return [block["text"] for block in _BLOCK.finditer(self.text) if block["language"] == "python"]


GUIDES = [
    Guide(path)
    for path in [
        README,
        *sorted(ROOT.glob("dogbreed/*/README.md")),
        *sorted(ROOT.glob("launchers/**/README.md")),
        ROOT / ".github" / "CONTRIBUTING.md",
    ]
]


def all_commands() -> list[str]:
    """Return every command of every guide, once, in order."""
    return list(dict.fromkeys(command for guide in GUIDES for command in guide.commands()))


def _lines(block: re.Match[str]) -> list[str]:
    """Return the commands of a block, without comments and with single spaces."""
    lines = (re.sub(r"\s+# .*$", "", line) for line in block["text"].splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]
