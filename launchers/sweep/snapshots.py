"""Keep a study's SQLite file safe on a machine that may be interrupted at any moment.

A database cannot be saved file by file while it is being written: it might be restored without its journal. So the live
database is in a folder that is not saved, and after each change a complete copy of it replaces the previous copy in the
folder that is saved.
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
    """Copies of a database. live: the database in use, in a folder of its own. kept: the file that holds its copy."""

    live: Path
    kept: Path

    def restore(self) -> None:
        """Restore the live database from its copy, if there is one. A damaged copy is renamed, and the study is new."""
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
                f"{self.kept.name} is damaged ({error}); renamed it to {aside.name}, and the search starts over",
                flush=True,
            )

    def save(self) -> None:
        """Replace the copy. Raises StorageError if that fails, as on a full disk; the previous copy then stays."""
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
    """Copy a database as it is between two transactions, even while it is written (https://www.sqlite.org/backup.html)."""
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
        there.execute("PRAGMA journal_mode = MEMORY")  # otherwise a journal file appears beside it for a moment
        here.backup(there)
    with target.open("rb") as file:
        os.fsync(file.fileno())
