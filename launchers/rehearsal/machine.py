"""A rented machine of the rehearsal cloud: a command in a private folder, for any service."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

from dogbreed.run_folder import write_json
from launchers.rehearsal.marked import FOLDER, kill_marked
from launchers.runs.processes import living_process

_PROCESS_FILE = "process.json"  # in the machine's folder while its command runs


class Machine:
    """Runs one command on one simulated machine.

    folder: the machine's private folder, which represents its disk. mounts: paths on the machine by subfolder, as
    {"/opt/ml": "ml"}. Paths under a mount are translated in the command and in its output, so that both read as they
    would on the machine. /tmp and the home directory are in the folder as well.
    """

    def __init__(self, folder: Path, mounts: Mapping[str, str]) -> None:
        self.folder = folder
        self._mounts = {place: folder / name for place, name in mounts.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._tmp: Path | None = None  # a short name of the work folder, while the process runs
        self._read = 0  # bytes of the output

    def path(self, place: str) -> Path:
        """Return the real path of a path on the machine. Raises ValueError if it is under no mount."""
        for mounted, folder in self._mounts.items():
            if PurePosixPath(place).is_relative_to(mounted):
                return folder / PurePosixPath(place).relative_to(mounted)
        raise ValueError(f"{place} is under none of {', '.join(self._mounts)}")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The command's exit code, or minus the number of the signal that ended it; None until it has ended."""
        return None if self._process is None else self._process.poll()

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        disk_mb: float | None = None,
        home: bool = True,
        place: Path | None = None,
    ) -> None:
        """Start the command. A first word of `python` means this interpreter.

        environment: added to the variables of every machine. disk_mb: no file can grow beyond this. home: whether HOME
        is set. place: where the command starts; a folder of the machine's own if None. A command that has ended can be
        started again: then its output continues.
        """
        work = self.folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        # sockets of processes that decode photos are made there, and the name of one has 107 characters at most
        if self._tmp is None:
            self._tmp = Path(tempfile.mkdtemp(prefix="dogbreed-")) / "tmp"
            self._tmp.symlink_to(work)
        surroundings = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            **({"HOME": str(work)} if home else {}),
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
        }
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._translated(argv),
                cwd=place or work,
                env={**surroundings, **environment, FOLDER: str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=None if disk_mb is None else _file_limit(int(disk_mb * 1e6)),
            )
        pid, started = _identity(self._process)
        write_json(self.folder / _PROCESS_FILE, {"pid": pid, "started": started, "tmp": str(self._tmp)})

    def read_lines(self, *, last: bool = False) -> list[str]:
        """Return the lines that the command has printed since the last call, without blank ones.

        Only whole lines, unless this is the last call. A carriage return, as of a progress bar, ends a line as well.
        """
        if self._process is None:
            return []
        with (self.folder / "output.log").open("rb") as file:
            file.seek(self._read)
            added = file.read()
        whole = added if last else added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        text = whole.decode(errors="replace")
        private = {str(folder): place for place, folder in self._mounts.items()}
        for path, place in {**private, str(self.folder / "work"): "/tmp", str(self._tmp): "/tmp"}.items():
            text = text.replace(path, place)
        return [line for line in re.split(r"[\r\n]+", text) if line.strip()]

    def signal(self, number: int) -> None:
        """Send a signal to the command alone, if it still runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the command and all processes that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            (self.folder / _PROCESS_FILE).unlink(missing_ok=True)
        if self._tmp is not None:
            _remove_tmp(self._tmp)
            self._tmp = None

    def remove(self) -> None:
        """Kill the command, and delete the machine's folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _translated(self, argv: Sequence[str]) -> list[str]:
        words = list(argv)
        for place, folder in self._mounts.items():
            words = [word.replace(place, str(folder)) for word in words]
        return [sys.executable if words[0] == "python" else words[0], *words[1:]]


def remove_left_over(folder: Path) -> None:
    """Kill the command of a machine that outlived a server which was killed, and delete the machine's folder."""
    with suppress(OSError, ValueError, KeyError):
        left = json.loads((folder / _PROCESS_FILE).read_bytes())
        if living_process(left["pid"], left["started"]):
            os.killpg(left["pid"], signal.SIGKILL)
        _remove_tmp(Path(left["tmp"]))
    if folder.exists():
        kill_marked(FOLDER, str(folder))  # the server was killed before it could note what it had just started
    shutil.rmtree(folder, ignore_errors=True)


def _remove_tmp(link: Path) -> None:
    """Remove the link, which does not reach what it points to, and the folder that was made for it."""
    with suppress(OSError):
        link.unlink()
        link.parent.rmdir()


def _file_limit(most: int) -> Callable[[], None]:
    """Return a preexec function that limits the size of files to `most` bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of the write, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return limit


def _identity(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    """Return a process id and its start time in seconds since 1970, which together are unique."""
    try:
        return process.pid, psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        return process.pid, 0.0
