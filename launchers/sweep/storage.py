"""Where studies are kept: SQLite or PostgreSQL, their locks, and their errors in plain words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dogbreed.errors import DogBreedError
from launchers.base import LaunchError
from launchers.runs.processes import claimed

SQLITE_WAIT_S = 20.0  # for another process's lock on the file
LOCK_WAIT_S = 60  # for another sweeper to claim or end a trial, which takes milliseconds


class StudyError(LaunchError):
    """The study's database cannot be reached, or holds something else."""


def open_storage(url: str) -> Any:
    """Optuna's RDBStorage at this URL; makes the file's folder and the tables. Raises StudyError."""
    from optuna.storages import RDBStorage

    if sqlite_file(url) is None and not re.match(r"postgresql(\+\w+)?://", url):
        raise StudyError(
            f"hpo.storage={hidden(url)} is no database that a study can be kept in.\n"
            "Try: sqlite:////an/absolute/path/study.db, or postgresql://user:password@host/database"
        )
    with storage_errors(url), exclusive(url, "tables"):  # two that make the same tables at once fail
        if sqlite_file(url) is not None:
            return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_WAIT_S}})
        return RDBStorage(_with_driver(url), engine_kwargs={"pool_pre_ping": True})


def study_names(url: str) -> set[str]:
    """Of the studies in a database; none where it is not there yet. Raises StudyError."""
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
    """One process at a time for this database and name; freed when the process ends, however it ends."""
    if (file := sqlite_file(url)) is not None:
        with claimed(file.absolute().parent):
            yield
        return
    from sqlalchemy import NullPool, create_engine, text

    # a connection of its own: Optuna's transactions begin and end while this one is open
    with create_engine(_with_driver(url), poolclass=NullPool).begin() as connection:
        # whoever holds it and hangs is thrown out by the server
        for limit in ("lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = '{LOCK_WAIT_S}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"dogbreed {name}"})
        yield


def _with_driver(url: str) -> str:
    """SQLAlchemy would look for psycopg2, which gets no new features."""
    return re.sub(r"^postgresql://", "postgresql+psycopg://", url)


def sqlite_file(url: str) -> Path | None:
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """The database's own errors in words that tell what to do."""
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
        said = " ".join(str(getattr(cause, "orig", None) or cause).split())
        raise StudyError(f"The study in {hidden(url)} cannot be used: {said}\nTry: {_remedy(url, said)}") from error


def _remedy(url: str, said: str) -> str:
    if (file := sqlite_file(url)) is None:
        return "whether the server runs and the address, name and password are right; then the same command goes on"
    if "locked" in said or "disk I/O" in said:
        return (
            f"whether another program has {file.name} open. On a network disk SQLite's locks often do not work: "
            "hpo.storage=sqlite:////a/local/disk/study.db, or a PostgreSQL"
        )
    if "not a database" in said or "malformed" in said:
        return f"move {file} aside; its trials' folders are beside it"
    return "hpo.storage=sqlite:////a/folder/that/can/be/written/study.db"


def hidden(url: str) -> str:
    """Without the password."""
    url = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
    return re.sub(r"([?&](?:ssl)?password=)[^&\s'\"]*", r"\1***", url)
