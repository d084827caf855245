"""Compare and show names of folders that people, cameras and file systems have written.

Needs only the standard library.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence


def comparable(name: str) -> str:
    """Return the form in which names are compared: Unicode NFC, without blanks and invisible characters at both ends.

    macOS decomposes letters with accents (NFD), and a zip made there carries such names to other systems.
    """
    text = unicodedata.normalize("NFC", name)
    first, last = 0, len(text)
    while first < last and _invisible(text[first]):
        first += 1
    while first < last and _invisible(text[last - 1]):
        last -= 1
    return text[first:last] or name


def printable(name: str) -> str:
    """Make a file's name printable and valid UTF-8: POSIX allows any bytes in it, line breaks included."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spelled(name: str) -> str:
    """Return a name with the code points that cannot be told apart on a screen: `Café (Cafe\\u0301)`, `'cat '`."""
    shown = printable(name)
    if shown != shown.strip():
        return repr(shown)
    return shown if name.isascii() else f"{shown} ({ascii(name)[1:-1]})"


def listed(names: Iterable[str], most: int = 3) -> str:
    """List the first names and how many more there are."""
    all_names = list(names)
    return ", ".join(map(printable, all_names[:most])) + (
        f" and {len(all_names) - most} more" if len(all_names) > most else ""
    )


def alike(name: str, others: Sequence[str]) -> str | None:
    """Return the name among `others` that was most probably meant; None if none is close."""
    skeletons = {_skeleton(other): other for other in others}
    close = difflib.get_close_matches(_skeleton(name), skeletons, n=1, cutoff=0.85)
    return skeletons[close[0]] if close else None


def difference(name: str, other: str) -> str:
    """Say in which way two names differ that look alike."""
    if comparable(name).casefold() == comparable(other).casefold():
        return "in upper and lower case"
    if _skeleton(name) == _skeleton(other):
        return "in blanks, signs or the form of letters"
    return "in spelling"


def _skeleton(name: str) -> str:
    """Return the letters and digits of a name alone, in lower case and without accents."""
    text = unicodedata.normalize("NFKD", name).casefold()
    return "".join(c for c in text if c.isalnum()) or text


def _invisible(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"
