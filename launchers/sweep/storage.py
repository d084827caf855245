"""The databases of studies, SQLite or PostgreSQL: opening them, locking them and explaining their errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dogbreed.errors import DogBreedError
from launchers.runs.processes import claimed
from launchers.status import LaunchError

SQLITE_WAIT_S = 60.0  # to wait for another process's lock on the file
LOCK_WAIT_S = 60  # to wait for another sweeper that claims or ends a trial, which takes milliseconds


class StudyError(LaunchError):
    """The study's database cannot be reached, or holds a different study."""


def open_storage(url: str) -> Any:
    """Open Optuna's RDBStorage at this URL, and create the file's folder and the tables. Raises StudyError."""
    from optuna.storages import RDBStorage

    if sqlite_file(url) is None and not re.match(r"postgresql(\+\w+)?://", url):
        raise StudyError(
            f"hpo.storage={hidden(url)} is not a supported database URL.\n"
            "Try: sqlite:////an/absolute/path/study.db, or postgresql://user:password@host/database"
        )
    with storage_errors(url), exclusive(url, "tables"):  # two processes that create the tables at once would fail
        if sqlite_file(url) is not None:
            return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_WAIT_S}})
        return RDBStorage(_with_driver(url), engine_kwargs={"pool_pre_ping": True})


def study_names(url: str) -> set[str]:
    """Return the names of the studies in a database; an empty set if it is new. Raises StudyError."""
    storage = open_storage(url)
    try:
        with storage_errors(url):
            return {study.study_name for study in storage.get_all_studies()}
    finally:
        close(storage)


def close(storage: Any) -> None:
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def exclusive(url: str, name: str) -> Iterator[None]:
    """Let one process at a time in, for this database and name. The lock is freed however the process ends."""
    if (file := sqlite_file(url)) is not None:
        with claimed(file.absolute().parent):
            yield
        return
    from sqlalchemy import NullPool, create_engine, text

    # on its own connection, because Optuna's transactions begin and end while this one is open
    with create_engine(_with_driver(url), poolclass=NullPool).begin() as connection:
        # the server disconnects a process that hangs while it holds the lock
        for limit in ("lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = '{LOCK_WAIT_S}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"dogbreed {name}"})
        yield


def _with_driver(url: str) -> str:
    """Select psycopg 3 in the URL: by default SQLAlchemy uses psycopg2, which gets no new features."""
    return re.sub(r"^postgresql://", "postgresql+psycopg://", url)


def sqlite_file(url: str) -> Path | None:
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn the database's own errors into StudyError, with a hint what to do."""
    try:
        yield
    except DogBreedError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and "psycopg" in str(error):
            raise StudyError(
                "A study in PostgreSQL needs its driver.\nTry: pip install 'dogbreed[postgresql]'"
            ) from error
        cause = error.__cause__ or error
        if not any(type(e).__module__.startswith(("sqlalchemy", "alembic", "optuna.")) for e in (error, cause)):
            if isinstance(error, OSError):
                raise StudyError(f"The study in {hidden(url)} cannot be used: {error}") from error
            raise
        message = " ".join(str(getattr(cause, "orig", None) or cause).split())
        raise StudyError(f"The study in {hidden(url)} cannot be used: {message}\nTry: {_hint(url, message)}") from error


def _hint(url: str, message: str) -> str:
    if (file := sqlite_file(url)) is None:
        return "check that the server runs and that host, user and password are right; the same command then resumes"
    if "locked" in message or "disk I/O" in message:
        return (
            f"close other programs that have {file.name} open. SQLite's locks often fail on network disks; there, use "
            "hpo.storage=sqlite:////a/local/disk/study.db, or PostgreSQL"
        )
    if "not a database" in message or "malformed" in message:
        return f"move {file} aside; its trials' folders are beside it"
    return "hpo.storage=sqlite:////a/writable/folder/study.db"


def hidden(url: str) -> str:
    """Return the URL with its password masked."""
    url = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
    return re.sub(r"([?&](?:ssl)?password=)[^&\s'\"]*", r"\1***", url)
