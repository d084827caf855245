"""A PostgreSQL server of one's own, on loopback, from Debian's packages."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.ports import reserved_port


def _programs() -> Path:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places:
        raise RuntimeError("There is no PostgreSQL here.\nTry: apt-get install postgresql")
    return places[-1]


@contextmanager
def server() -> Iterator[str]:
    """The address of one, as SQLAlchemy wants it."""
    with server_and_restart() as (url, _):
        yield url


def empty_database(address: str) -> str:
    """Make a database on the server at this address, and return its own."""
    import sqlalchemy

    name = f"made_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{address.rpartition('/')[0]}/{name}"


@contextmanager
def server_and_restart() -> Iterator[tuple[str, Callable[[float], None]]]:
    """The address, and what stops the server and starts it again after so many seconds.

    PostgreSQL refuses to run as root, so then it runs as the user postgres.
    """
    programs = _programs()
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
    place, reserved = Path(tempfile.mkdtemp(prefix="dogbreed-postgres-")), ExitStack()
    try:
        if user is not None:
            os.chown(place, user.pw_uid, user.pw_gid)
        port = reserved.enter_context(reserved_port())

        def call(program: str, *arguments: str) -> None:
            words: Sequence[str] = [str(programs / program), "-D", str(place / "data"), *arguments]
            done = subprocess.run(
                words,
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else [],
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                timeout=300,
            )
            assert done.returncode == 0, words

        call("initdb", "-U", "tester", "-A", "trust", "-N")
        settings = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={place} -c fsync=off"

        def control(*arguments: str) -> None:
            call("pg_ctl", "-w", "-t", "240", *arguments)

        def start() -> None:
            control("-o", settings, "-l", str(place / "log"), "start")

        def restart(seconds: float) -> None:
            control("-m", "fast", "stop")
            time.sleep(seconds)
            start()

        start()
        try:
            yield (f"postgresql://tester:secret-word@127.0.0.1:{port}/postgres", restart)
        finally:
            control("-m", "immediate", "stop")
    finally:
        reserved.close()
        shutil.rmtree(place, ignore_errors=True)
