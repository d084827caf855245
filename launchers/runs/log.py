"""Write and read train.log, the log of a local run, in which each attempt has its own marker."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from launchers.status import LogLine

TAIL_LINES = 10

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ")  # as logging writes %(asctime)s
_ATTEMPT = re.compile(r"^\S+ \S+ INFO attempt (\d+) \(pid \d+ on .*\)$")


class LogFile:
    """Copies what this process logs at INFO or above to `path` while it is entered; `write` adds further lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._library = logging.getLogger("dogbreed")
        self._handler = _QuietFileHandler(path, mode="a", encoding="utf-8", delay=True)
        self._handler.setFormatter(logging.Formatter(_FORMAT))
        self._handler.setLevel(logging.INFO)

    def __enter__(self) -> Self:
        _end_torn_line(self._path)
        self._level_before = self._library.level
        if not self._library.isEnabledFor(logging.INFO):
            self._library.setLevel(logging.INFO)  # a notebook's root logger passes only warnings
        logging.getLogger().addHandler(self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        logging.getLogger().removeHandler(self._handler)
        self._library.setLevel(self._level_before)
        with suppress(OSError):
            self._handler.close()

    def begin(self, attempt: int, pid: int, host: str) -> None:
        self.write(logging.INFO, f"attempt {attempt} (pid {pid} on {host})")  # _ATTEMPT matches this

    def write(self, level: int, text: str, error: BaseException | None = None) -> None:
        """Write a line to the file only: the terminal shows the error that stops a run once, at the very end."""
        exc_info = (type(error), error, error.__traceback__) if error else None
        self._handler.handle(logging.LogRecord("launchers", level, __file__, 0, text, None, exc_info))


class _QuietFileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Ignore a full disk: it is reported once, when a file that matters is written, not for each log line."""


def read_lines(path: Path, *, over: Callable[[], bool], poll_s: float) -> Iterator[LogLine]:
    """Yield all lines, then those that are added until `over()` returns True."""
    attempt, begun, place = 1, "", 0
    at: datetime | None = None  # of the last line that says it: those of a traceback do not
    while True:
        last = over()  # called before reading, so that no line is missed
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(place)
            added = file.read()
            place += len(added)
            *lines, begun = (begun + added.decode(errors="replace")).split("\n")
            for text in [*lines, begun] if last and begun else lines:
                if marker := _ATTEMPT.match(text):
                    attempt = int(marker[1])
                at = _time_of(text) or at
                yield LogLine(attempt, 0, text, at)
        if last:
            return
        time.sleep(poll_s)


def _time_of(text: str) -> datetime | None:
    """Return the time at the beginning of a line; None if it has none. It is written in this machine's time zone."""
    found = _TIME.match(text)
    if found is None:
        return None
    try:
        return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").astimezone(UTC)
    except ValueError:
        return None


def tail(path: Path) -> tuple[str, ...]:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
        return tuple(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
    return ()


def _end_torn_line(path: Path) -> None:
    """End a half-written line of a killed process, so that the next attempt starts on a line of its own."""
    with suppress(OSError), path.open("r+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
