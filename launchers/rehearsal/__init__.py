"""The rehearsal cloud: AWS's interfaces on this machine, with training jobs that really run. No account, no cost.

It is a process of its own that is started when it is first needed, found again through `state_dir`, and ended by
`python -m launchers rehearsal stop`, or by itself when nothing has happened for a while.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dogbreed.errors import ConfigError, raise_findings
from launchers.aws import TIMEOUTS, import_boto3
from launchers.base import Cause, LaunchError, shown_path
from launchers.rehearsal.names import BUCKET, DOOR_HEADER, LOCK_FILE, LOG_FILE, REGION, SERVER_FILE, TROUBLE_HEADER
from launchers.rehearsal.trouble import Trouble, unknown
from launchers.run_state import living_process

IDLE_S = 3600.0
_START_S = 60.0
_started: list[subprocess.Popen[bytes]] = []  # servers, of which this process is the parent


@dataclass(frozen=True)
class Server:
    """Where the server is, and the access key that it wants to see: only who may read its state may use it."""

    url: str
    key: str


@dataclass
class Rehearsal:
    """Stands where an account would stand: `aws=rehearsal`.

    state_dir: where it keeps its S3 and the records of its jobs. reclaims: how often a spot machine is taken away from
    each job. trouble: what else goes wrong, see `Trouble`. idle_s: after so long without a request or a job its process
    ends.
    """

    region: str | None = REGION
    bucket: str | None = None
    role: str | None = None
    state_dir: str = "~/.cache/dogbreed/rehearsal"
    reclaims: int = 1
    trouble: Mapping[str, Any] = field(default_factory=dict)
    idle_s: float = IDLE_S
    poll_s: float = 0.3
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _door: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False, compare=False)

    @property
    def scope(self) -> str:
        return "rehearsal"

    @property
    def default_bucket(self) -> str | None:
        return self.bucket or BUCKET

    @property
    def place(self) -> Path:
        return Path(self.state_dir).expanduser()

    def findings(self) -> list[str]:
        """What is wrong with the settings."""
        if names := unknown(self.trouble):
            return [f"Unknown in aws.trouble: {', '.join(names)}.\nTry: {', '.join(Trouble.__dataclass_fields__)}"]
        return list(self._trouble().findings())

    def client(self, service: str) -> Any:
        if service not in self._clients:
            raise_findings(ConfigError, self.findings())
            boto3 = import_boto3("rehearsal")
            from botocore.config import Config

            server = start(self.place, self.idle_s)
            client = boto3.client(
                service,
                region_name=self.region,
                endpoint_url=server.url,
                aws_access_key_id=server.key,
                aws_secret_access_key=server.key,
                config=Config(**TIMEOUTS, s3={"addressing_style": "path"}),
            )
            headers = {TROUBLE_HEADER: self._trouble().to_header(), DOOR_HEADER: self._door}
            # before signing, so that they are in each retry as well
            client.meta.events.register("before-call", lambda params, **_: params["headers"].update(headers))
            client.meta.events.register("before-parameter-build", _validate)
            self._clients[service] = client
        return self._clients[service]

    @property
    def option(self) -> str:
        usual = self.place == default_place()
        return "" if usual else f" --state-dir {shlex.quote(str(self.place))}"

    @property
    def makes_buckets(self) -> bool:
        return not self._trouble().no_bucket

    def describe(self) -> str:
        return f"the rehearsal cloud on this machine, in {self.state_dir}"

    def _trouble(self) -> Trouble:
        return Trouble(**{"reclaims": self.reclaims, **self.trouble})


def default_place() -> Path:
    """Where the state is if nothing else is said; as conf/aws/rehearsal.yaml has it."""
    return Path(os.environ.get("DOGBREED_CACHE", "~/.cache/dogbreed")).expanduser() / "rehearsal"


def start(place: Path, idle_s: float) -> Server:
    """The server whose state is in `place`; it is started where none is running.

    Raises LaunchError where it does not come up.
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
        with suppress(ImportError):  # Windows
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        if server := running(place):  # another process was faster
            return server
        with (place / LOG_FILE).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "launchers.rehearsal.server", str(place), str(idle_s)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C here is not meant for it
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_python_path())},
            )
        _started.append(process)
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if server := running(place):
                return server
            if process.poll() is not None:
                break
            time.sleep(0.05)
        process.kill()
        process.wait()
        tail = (place / LOG_FILE).read_text(errors="replace").splitlines()[-3:]
        raise LaunchError(
            f"The rehearsal cloud does not come up; {shown_path(place / LOG_FILE)} ends with:\n" + "\n".join(tail)
        )


def running(place: Path) -> Server | None:
    """The server; null where none is running."""
    try:
        seen = json.loads((place / SERVER_FILE).read_bytes())
        alive = living_process(seen["pid"], seen["process_started"])
        return Server(seen["url"], seen["key"]) if alive else None
    except (OSError, ValueError, KeyError):
        return None


def stop(place: Path) -> bool:
    """End the server, and with it the jobs that run in it. False where none was running."""
    if running(place) is None:
        return False
    seen = json.loads((place / SERVER_FILE).read_bytes())
    process = living_process(seen["pid"], seen["process_started"])
    if process is not None:
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 20
        while living_process(seen["pid"], seen["process_started"]):
            if time.monotonic() > until:
                process.kill()
                break
            time.sleep(0.05)
    for child in _started:
        child.poll()  # an ended one is no zombie then
    return True


def _validate(params: Mapping[str, Any], model: Any, **_: Any) -> None:
    """Also here, for what the server cannot tell from the bytes of a request: S3's."""
    from botocore.exceptions import ParamValidationError

    from launchers.rehearsal.validation import findings

    if model.service_model.service_name == "s3" and model.input_shape is not None:
        given = {name: value for name, value in params.items() if name not in ("Body", "Bucket")}
        required = {name: "x" for name in ("Bucket",) if name in params}
        if report := list(findings(model.input_shape, {**given, **required})):
            raise ParamValidationError(report="\n".join(report))


def _python_path() -> list[str]:
    project = str(Path(__file__).resolve().parents[2])
    return [project, *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])]
