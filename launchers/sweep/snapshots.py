"""A study's SQLite file on a machine that may be taken away at any moment.

What is being written cannot be saved file by file: of a database and its journal one might come back without the other.
So the database is used where nothing is saved, and after each change a copy of it, whole, takes the place of the last
one in the folder that is.
"""

import errno
import os
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from dogbreed.run_folder import storage_error, temporary_path


@dataclass(frozen=True)
class Snapshots:
    """live: the database that is used, in a folder of its own; kept: where copies of it go."""

    live: Path
    kept: Path

    def restore(self) -> None:
        """Begin with the newest copy, where there is one. A damaged one is set aside, and it is begun anew."""
        self.live.parent.mkdir(parents=True, exist_ok=True)
        self.live.unlink(missing_ok=True)
        if not self.kept.exists():
            return
        try:
            _copy(self.kept, self.live)
        except sqlite3.Error as error:
            self.live.unlink(missing_ok=True)
            aside = self.kept.with_name(f"{self.kept.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
            self.kept.replace(aside)
            print(
                f"{self.kept.name} is damaged ({error}); it is now {aside.name}, and the search begins anew", flush=True
            )

    def save(self) -> None:
        """Raises StorageError where there is no room; the last copy stays then."""
        temporary = temporary_path(self.kept)
        try:
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            _copy(self.live, temporary)
            temporary.replace(self.kept)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            full = OSError(errno.ENOSPC if "full" in str(error) else errno.EIO, str(error))
            raise storage_error(self.kept, error if isinstance(error, OSError) else full) from error


def _copy(source: Path, target: Path) -> None:
    """As it is between two transactions, whoever writes meanwhile (https://www.sqlite.org/backup.html)."""
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
        there.execute("PRAGMA journal_mode = MEMORY")  # else a journal lies beside it for a moment
        here.backup(there)
    with target.open("rb") as file:
        os.fsync(file.fileno())
