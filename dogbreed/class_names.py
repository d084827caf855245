"""Find the names of a network's classes, in label order, if the file of its weights is not a run's. Needs no torch."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dogbreed import commands
from dogbreed.breeds import BREEDS
from dogbreed.errors import DataError, raise_findings
from dogbreed.scanning.layout import understand
from dogbreed.scanning.listing import list_files
from dogbreed.scanning.names import listed, printable

_MOST_BYTES = 4_000_000


def of_network(
    number: int, source: Path, *, given: Path | Sequence[str] | None = None, inside: Any = None
) -> tuple[str, ...]:
    """Return the names of a network's `number` classes.

    source: the file of weights. given: the names, or where they are (see `read`). inside: what the file holds, in which
    programs store `class_to_idx` or `classes`. Without either, 133 classes are dogImages' breeds.
    Raises DataError if there are no names, or another number of them.
    """
    where = commands.shown_path(source)
    if given is not None:
        names = read(given) if isinstance(given, Path) else _checked(list(given), "The list of class names")
        origin = commands.shown_path(given) if isinstance(given, Path) else "the given list"
    else:
        names = _stored(inside) or (BREEDS if number == len(BREEDS) else ())
        origin = "the file itself"
        if not names:
            raise DataError(
                f"{where} has {number} outputs and does not say what their classes are called; only 133 are taken for "
                f"dogImages' breeds.\n{_ADVICE.format(command=_command(source))}"
            )
    if len(names) != number:
        raise DataError(
            f"{where} has {number} outputs, but {origin} has {len(names)} class names.\n"
            f"{_ADVICE.format(command=_command(source))}"
        )
    return names


_ADVICE = (
    "Try: {command}\n"
    "     with one name per line in the order of the outputs, or a JSON list; or the folder of its photos"
)


def _command(source: Path) -> str:
    return commands.module("dogbreed.export", commands.shown_path(source), "--classes", "NAMES.txt")


def refuse_others(own: Sequence[str], given: Path | Sequence[str] | None, source: Path) -> None:
    """Raise DataError if the given names (None for none) are not a model's own."""
    if given is None:
        return
    names = read(given) if isinstance(given, Path) else tuple(given)
    if tuple(own) != names:
        numbers = f"{len(own)} and {len(names)}"
        how = numbers if len(own) != len(names) else "as many, but other names or another order"
        raise DataError(
            f"{commands.shown_path(source)} has class names of its own, which differ from the given ones ({how}).\n"
            "Try: the same without class names"
        )


def read(source: Path) -> tuple[str, ...]:
    """Return the class names in `source`: a folder of photos, or a file with one name per line or JSON.

    A folder's are sorted, as torchvision's ImageFolder numbers them. JSON is a list, or a mapping of names to numbers
    such as ImageFolder.class_to_idx. Raises DataError with all problems.
    """
    shown = commands.shown_path(source)
    try:
        if source.is_dir():
            return _of_folder(source)
        content = source.read_bytes()
    except OSError as error:
        raise DataError(
            f"Cannot read the class names in {shown}: {(error.strerror or str(error)).lower()}.\n"
            "Try: a file with one name per line or a JSON list, or a folder of photos"
        ) from error
    if len(content) > _MOST_BYTES:
        raise DataError(f"{shown} has {len(content):,} bytes, too many for a list of class names.\nTry: another file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{shown} is not a text file in UTF-8 ({error}).\nTry: save it as UTF-8") from error
    if text.lstrip()[:1] in ("[", "{"):
        return _of_json(text, shown)
    return _checked([line.strip() for line in text.splitlines() if line.strip()], shown)


def _of_folder(root: Path) -> tuple[str, ...]:
    layout = understand(root)
    raise_findings(DataError, layout.findings)
    listing = list_files(root, layout)
    names = sorted({name for classes in listing.files.values() for name, files in classes.items() if files})
    if not names:
        raise DataError(
            f"{commands.shown_path(root)} has no photos in class folders.\n"
            "Try: a folder with train/, valid/ and test/, or with one folder per class"
        )
    return _checked(names, commands.shown_path(root))


def _of_json(text: str, shown: str) -> tuple[str, ...]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown} begins like JSON, but is not valid: {error}.\nTry: correct it") from error
    names = _in_order(value) if isinstance(value, dict) else value
    if not isinstance(names, list):
        raise DataError(
            f"{shown} is a JSON object, but does not map class names to the numbers 0 to {max(0, len(value) - 1)}.\n"
            'Try: a list such as ["Beagle", "Boxer"]'
        )
    return _checked(names, shown)


def _stored(content: Any) -> tuple[str, ...]:
    """Return the names that a training program stored beside the weights; none if there are none that can be used."""
    if not isinstance(content, Mapping):
        return ()
    names = _in_order(content.get("class_to_idx")) or next(
        (content[key] for key in ("classes", "class_names") if isinstance(content.get(key), list | tuple)), None
    )
    try:
        return _checked(list(names), "the file") if names else ()
    except DataError:
        return ()


def _in_order(numbers: Any) -> list[Any] | None:
    """Return the keys of a mapping to 0, 1, 2, ... in the order of its values; None if it is not one."""
    if not isinstance(numbers, Mapping) or not all(type(value) is int for value in numbers.values()):
        return None
    names = sorted(numbers, key=numbers.__getitem__)
    return names if [numbers[name] for name in names] == list(range(len(names))) else None


def _checked(names: list[Any], shown: str) -> tuple[str, ...]:
    findings = []
    if wrong := [repr(name) for name in names if not (isinstance(name, str) and name.strip())]:
        findings.append(f"{shown} has entries that are not names: {listed(wrong)}.\nTry: only text that is not empty")
    texts = [name for name in names if isinstance(name, str)]
    if twice := [name for name, count in Counter(texts).items() if count > 1]:
        findings.append(f"{shown} has class names twice: {listed(twice)}.\nTry: a name of its own for each output")
    if odd := [name for name in texts if printable(name) != name]:
        findings.append(f"{shown} has class names that are not printable: {listed(odd)}.\nTry: other names")
    if not names:
        findings.append(f"{shown} has no class names.\nTry: one name per line")
    raise_findings(DataError, findings)
    return tuple(texts)
