"""Serve an artifact on loopback as the image would: its command, variables and packages, no home, limited memory."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from dogbreed import artifact, commands
from launchers.project import PROJECT

IMAGE = Path(__file__).parent / "image"
_INSIDE = Path(__file__).with_name("inside.py")
_OPEN_FILES = 1024
_LISTENING = re.compile(r"Listening on http://127\.0\.0\.1:(\d+)")


class Reply(NamedTuple):
    """status: of the answer. seconds: until its last byte."""

    status: int
    body: bytes
    seconds: float


class Server:
    """The server's process. log: what it has printed."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, folders: Sequence[Path]) -> None:
        self._process, self._log, self._folders = process, log, folders
        self._files = self._listed()
        self.port = 0
        self.began = time.monotonic()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def exit_status(self) -> int | None:
        return self._process.poll()

    def listens(self) -> bool:
        """Return whether it listens; from then on `port` is set."""
        if not self.port and (found := _LISTENING.search(self.log)):
            self.port = int(found[1])
        return self.port > 0

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "",
        timeout_s: float = 60.0,
    ) -> Reply:
        """Send one request on a connection of its own. Raises OSError or HTTPException."""
        began = time.monotonic()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.read(), time.monotonic() - began)

    def peak_memory_bytes(self) -> int:
        """Return the most memory that it has used; 0 where the system does not say."""
        with suppress(OSError):
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
                return int(found[1]) * 1024
        return 0

    def written(self) -> list[str]:
        """Return the files in its folders that were not there at its start."""
        return sorted(path.name for path in self._listed() - self._files)

    def _listed(self) -> set[Path]:
        return {path for folder in self._folders for path in folder.rglob("*")}

    def stop(self, within_s: float) -> int | None:
        """Send SIGTERM and return the exit status; None if it still runs after `within_s` seconds."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def serving(model: Path, scratch: Path, environ: Mapping[str, str], *, memory_bytes: int) -> Iterator[Server]:
    """Start the server with the files of the artifact at `model`; kill it at the end if it is still there.

    scratch: an empty folder. environ: the container's variables besides the image's.
    """
    base = scratch / "ml"
    _unpack(model, base / "model")
    settings = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(PROJECT),
        **image_variables(),
        **environ,
        "SAGEMAKER_BASE_DIR": str(base),
    }
    limits = [str(memory_bytes), str(_OPEN_FILES), ",".join(packages())]
    command = [sys.executable, "-P", str(_INSIDE), *limits, "serve", "--host", "127.0.0.1", "--port", "0"]
    log, workdir = scratch / "server.log", scratch / "workdir"
    workdir.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=workdir, env=settings, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield Server(process, log, (base, workdir))
    finally:
        process.kill()
        process.wait()
        for path in (base / "model", *(base / "model").iterdir()):
            path.chmod(0o700)  # so that the scratch folder can be removed


def _unpack(model: Path, folder: Path) -> None:
    """Write the artifact's files, read-only as SageMaker mounts them. model: an archive, or a folder of its files."""
    folder.mkdir(parents=True)
    if model.is_dir():
        for name in (artifact.MANIFEST, artifact.LABELS, artifact.PREPROCESS, artifact.NETWORK, artifact.NETWORK_INT8):
            if (model / name).exists():
                shutil.copyfile(model / name, folder / name)
    else:
        shutil.unpack_archive(model, folder, "gztar", filter="data")
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)


def image_variables() -> dict[str, str]:
    """Return the variables that the Dockerfile sets."""
    text = (IMAGE / "Dockerfile").read_text().replace("\\\n", " ")
    pairs = [pair for line in text.splitlines() if line.startswith("ENV ") for pair in commands.words(line)[1:]]
    return dict(pair.split("=", 1) for pair in pairs)


def missing_packages() -> list[str]:
    """Return the packages of the extra [serve] that are not installed here."""
    lines = (IMAGE / "serve-requirements.txt").read_text().splitlines()
    names = [re.split(r"[<>=!~ ]", line)[0] for line in lines if line and not line.startswith("#")]
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return distribution(name) is not None
    except PackageNotFoundError:
        return False


def packages() -> list[str]:
    """Return the top-level names that can be imported in the image, besides Python's own."""
    found = {"dogbreed"}
    for line in (IMAGE / "serve-constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        with suppress(PackageNotFoundError):  # one that only this version of a package needs
            for file in distribution(line.partition("==")[0]).files or ():
                top = file.parts[0]
                found.add(top.partition(".")[0] if len(file.parts) == 1 else top)
    return sorted(name for name in found if name.isidentifier())
