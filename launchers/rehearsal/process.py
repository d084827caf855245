"""Start, find and stop the process of the rehearsal cloud."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dogbreed import commands
from dogbreed.commands import shown_path
from launchers.rehearsal.names import LOCK_FILE, LOG_FILE, SERVER_FILE, Server
from launchers.runs.processes import living_process
from launchers.status import Cause, LaunchError

IDLE_S = 3600.0
_START_S = 180.0  # on a busy machine
_END_S = 120.0  # until a server that was told to end is killed
_LOOK_S = 0.05
_started: list[subprocess.Popen[bytes]] = []  # servers, of which this process is the parent


def default_place() -> Path:
    """Return the default state folder, the same as in conf/aws/rehearsal.yaml."""
    cache = Path(os.environ.get("DOGBREED_CACHE") or "~/.cache/dogbreed").expanduser()
    return commands.working_folder() / cache / "rehearsal"


def start(place: Path, idle_s: float) -> Server:
    """Return the server whose state is in `place`; start one if none is running.

    idle_s: seconds without a request or a job after which a new server ends. Raises LaunchError if it does not start.
    """
    if server := running(place):
        return server
    try:
        import moto.server  # noqa: F401
        import regex  # noqa: F401
    except ImportError as error:
        raise LaunchError(
            f"The rehearsal cloud needs the package {error.name}.\nTry: pip install -e '.[rehearsal]'", Cause.BAD_CONFIG
        ) from error
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o700)
    with (place / LOCK_FILE).open("w") as lock:
        until = time.monotonic() + _START_S
        while not _locked(lock):  # another process is starting the server, or a server is still ending
            if server := running(place):
                return server
            if time.monotonic() > until:
                raise LaunchError(
                    f"Another process is starting or ending the rehearsal cloud in {shown_path(place)}, and has not "
                    f"done so within {_START_S:g} s.\nTry: the same command again, later"
                )
            time.sleep(_LOOK_S)
        return running(place) or _started_in(place, idle_s, lock)


def _started_in(place: Path, idle_s: float, lock: IO[str]) -> Server:
    """Start a server, which holds the lock for as long as it lives: no two may have the same state, whoever is killed.

    Raises LaunchError if it does not start.
    """
    with (place / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "launchers.rehearsal.server", str(place), str(idle_s)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that Ctrl-C does not reach it
            env={**_of_nobody(), "PYTHONPATH": os.pathsep.join(_python_path())},
            pass_fds=() if sys.platform == "win32" else (lock.fileno(),),
        )
    _started.append(process)
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if server := running(place):
            return server
        if process.poll() is not None:
            break
        time.sleep(_LOOK_S)
    process.kill()
    process.wait()
    raise _not_started(place)


def _locked(file: IO[str]) -> bool:
    """Lock a file, for whoever has it open. Return False if another process has locked it."""
    with suppress(ImportError):  # Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some network disks cannot lock
            return True
    return True


def _not_started(place: Path) -> LaunchError:
    log = place / LOG_FILE
    tail = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
    return LaunchError(f"The rehearsal cloud did not start; {shown_path(log)} ends with:\n" + "\n".join(tail))


def running(place: Path) -> Server | None:
    """Return the server, or None if none is running."""
    seen = _living(place)
    return None if seen is None else Server(seen["url"], seen["key"])


def _living(place: Path) -> dict[str, Any] | None:
    """Return what the server has noted of itself, or None if none is running."""
    try:
        noted = json.loads((place / SERVER_FILE).read_bytes())
        seen = {name: noted[name] for name in ("pid", "process_started", "url", "key")}
        return seen if living_process(seen["pid"], seen["process_started"]) else None
    except (OSError, ValueError, KeyError):
        return None


def stop(place: Path) -> bool:
    """Stop the server together with its jobs. Return False if none was running."""
    import psutil

    seen = _living(place)
    if seen is None:
        return False
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        process = psutil.Process(seen["pid"])
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _END_S
        while living_process(seen["pid"], seen["process_started"]):
            if time.monotonic() > until:
                process.kill()
                break
            time.sleep(_LOOK_S)
    for child in _started:  # so that none is left as a zombie; one may be seen as ended while its threads still end
        if child.pid == seen["pid"]:
            child.wait()
        child.poll()
    return True


def _of_nobody() -> dict[str, str]:
    """Return the environment without the user's AWS account and proxies, which the rehearsal must not depend on."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"AWS_|.*_PROXY$", name, re.I)}
    return {**kept, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def _python_path() -> list[str]:
    project = str(Path(__file__).resolve().parents[2])
    return [project, *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])]
