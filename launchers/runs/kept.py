"""Keep a finished run finished when an attempt to train it further is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dogbreed.run_folder import RunFolder, write_bytes
from launchers.runs.state import CANCEL_FILE, STATE_FILE
from launchers.spec import LAUNCHED_FILE, SPEC_FILE

_ABOUT = (STATE_FILE, SPEC_FILE, LAUNCHED_FILE, CANCEL_FILE)  # what says which run this is, and how it ended


@dataclass(frozen=True)
class FinishedRun:
    """A finished run before an attempt to train it further, with the content of the files that describe it."""

    folder: Path
    files: Mapping[str, bytes | None]
    written_ns: int  # when its results were

    @classmethod
    def in_folder(cls, folder: Path) -> Self | None:
        """Return the run in the folder; None if it has no results."""
        written_ns = _results_written_ns(folder)
        if written_ns is None:
            return None
        return cls(folder, {name: _content(folder / name) for name in _ABOUT}, written_ns)

    def restore(self) -> bool:
        """Put the files back and return True, if the attempt has left the results as they were."""
        if _results_written_ns(self.folder) != self.written_ns:
            return False
        for name, content in self.files.items():
            if content is None:
                (self.folder / name).unlink(missing_ok=True)
            else:
                write_bytes(self.folder / name, content)
        return True


def _results_written_ns(folder: Path) -> int | None:
    try:
        return RunFolder(folder).metrics.stat().st_mtime_ns
    except OSError:
        return None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
