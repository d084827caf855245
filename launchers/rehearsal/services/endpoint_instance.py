"""One instance of an endpoint: a container that is a real process, with HTTP on a port of loopback."""

import http.client
import io
import secrets
import signal
import socket
import tarfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launchers.aws.actions import Need
from launchers.aws.s3 import split_uri
from launchers.cost import serving
from launchers.rehearsal.access import HERE, authorize, may_log
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.images import Found, ImageStore
from launchers.rehearsal.machine import Machine
from launchers.rehearsal.names import REGION, Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.principals import of_role, role_session
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.endpoint_load import Load
from launchers.rehearsal.services.endpoint_record import EndpointRecord, Variant
from launchers.rehearsal.services.kept_logs import KeptLogs
from launchers.rehearsal.services.models import containers_of, data_of
from launchers.rehearsal.services.training_record import now

ML = "/opt/ml"
GRACE_S = 30.0  # from SIGTERM to SIGKILL
PING_S = 2.0  # in which a container must answer
_EVERY_S = 5.0  # between two pings of a healthy container
_FAILED_PINGS = 3  # in a row, after which it counts as unhealthy
_SILENT_S = 15.0  # real, which these take for one that does not answer at all, as no clock makes it faster
_RESTART_S = 1.0  # after a container has ended
_STEP_S = 0.05


class StartError(Exception):
    """Why instances did not come into service: the endpoint's FailureReason."""


@dataclass(frozen=True)
class Surroundings:
    """What all instances of an endpoint have in common. no_capacity: whether no instances are found for it."""

    record: EndpointRecord
    store: ObjectStore
    images: ImageStore
    logs: KeptLogs
    server: Server
    clock: Clock
    faults: Faults = field(default_factory=Faults)
    no_capacity: bool = False


class Instance:
    """Runs the image of a variant's model on one simulated machine.

    kind: its instance type. config, metrics: the name of its endpoint configuration, and that one's MetricsConfig.
    healthy: whether its container answers pings. outstanding: requests that it has not answered yet. load: what it is
    busy with.
    """

    def __init__(
        self, around: Surroundings, variant: Variant, kind: str, config: str, metrics: Mapping[str, Any]
    ) -> None:
        self.around, self.variant, self.kind, self.config, self.metrics = around, variant, kind, config, metrics
        self.id = f"i-{secrets.token_hex(9)[:17]}"
        self.model = variant.model(kind)
        self.machine = Machine(around.record.folder / "machines" / self.id, {ML: "ml"})
        self.healthy, self.outstanding = False, 0
        self.load = Load(serving.vcpus(kind), around.faults.service_s)
        self.image: Found | None = None
        self.image_resolved = now()
        self._container = containers_of(self.model)[0]
        self._stream = f"{variant.name}/{self.id}"
        role = of_role(self.model["ExecutionRoleArn"], "SageMaker", around.faults.denied_to_role)
        self._role, self._logs = role, may_log(role, around.record.log_group)
        self._port = _ReservedPort()
        self._started = False
        self._pinged, self._failed, self._ended = 0.0, 0, 0.0
        self._answered: float | None = None  # when it last answered a ping, whatever it said; of time.monotonic
        self._restarted = False

    @property
    def starting(self) -> bool:
        """Return whether its container runs for the first time, and has not answered a ping yet."""
        return self._answered is None and not self._restarted and self.machine.running

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def name(self) -> str:
        """The container's name in messages."""
        return str(self._container.get("ContainerHostname", "primary"))

    def prepare(self) -> None:
        """Pull the image and unpack the artifact. Raises StartError."""
        uri = self._container["Image"]
        self.image = self.around.images.find(uri)
        if self.image is None:
            raise StartError(f"Requested image {uri} not found.")
        self._check_pull(uri, self.image.repository)
        model = self.machine.path(f"{ML}/model")
        model.mkdir(parents=True)
        if (data := data_of(self._container)) is not None:
            self._unpack(data, model)
        for path in (*model.rglob("*"), model):
            path.chmod(0o555 if path.is_dir() else 0o444)  # SageMaker mounts it read-only

    def start(self) -> None:
        """Start the container. Raises StartError if there is no such program."""
        image = self.image.image if self.image else None
        words = [*image.entrypoint, *(image.command if not image.entrypoint else ()), "serve"] if image else []
        program = image.program(words[0]) if image else None
        if image is None or program is None:
            raise StartError(
                f"CannotStartContainerError. Please ensure the model container for variant {self.variant.name} starts "
                "correctly when invoked with 'docker run <image> serve'"
            )
        place = Path(image.place) if image.place else None
        self.machine.start(
            [program, *words[1:]], self._environment(image.environment, image.path), home=False, place=place
        )
        self._started = True
        if self._logs:
            self.around.logs.add(self.around.record.log_group, self._stream, [])

    def look(self) -> None:
        """Forward the container's output, ping it if it is time to, and start it again if it has ended."""
        if not self._started:  # it waits for its machine
            return
        self._pump()
        clock = self.around.clock
        if not self.machine.running:
            self.healthy, self._failed, self._restarted = False, 0, True
            self._ended = self._ended or clock.now()
            if clock.now() - self._ended >= _RESTART_S:
                self.machine.kill()  # what the container has left running
                self._ended = 0.0
                self.start()
        elif not self.healthy or clock.now() - self._pinged >= _EVERY_S:
            self._pinged = clock.now()
            status = ping(self.port)
            self._failed = 0 if status == 200 else self._failed + 1
            if status is not None:
                self._answered = time.monotonic()
            silent = self._answered is None or time.monotonic() - self._answered >= _SILENT_S
            lost = self._failed >= _FAILED_PINGS and (status is not None or silent)
            self.healthy = status == 200 or (self.healthy and not lost)

    def stop(self) -> None:
        """End the container: SIGTERM once its requests are answered, SIGKILL 30 s later; delete the machine.

        Requests take as long as they take, on a faster clock as well.
        """
        self.healthy = False
        clock, until = self.around.clock, time.monotonic() + GRACE_S
        while self.outstanding and time.monotonic() < until:
            time.sleep(_STEP_S)
        self.machine.signal(signal.SIGTERM)
        clock.wait(GRACE_S, lambda: not self.machine.running)
        self.remove()

    def remove(self) -> None:
        """Kill the container, and delete the machine."""
        self.healthy = False
        self.machine.kill()
        self._pump(last=True)
        make_writable(self.machine.folder)
        self.machine.remove()
        self._port.close()

    def _pump(self, *, last: bool = False) -> None:
        lines = self.machine.read_lines(last=last)
        if lines and self._logs:
            record = self.around.record
            self.around.logs.add(record.log_group, self._stream, lines, self.around.faults.log_delay_s)

    def _check_pull(self, uri: str, repository: str) -> None:
        for name, resource in (
            ("GetAuthorizationToken", "*"),
            ("BatchGetImage", repository),
            ("GetDownloadUrlForLayer", repository),
        ):
            try:
                authorize(self._role, [Need(f"ecr:{name}", resource)])
            except Refused:
                role = self.model["ExecutionRoleArn"]
                raise StartError(f"The role '{role}' does not have {name} permission for the image: '{uri}'.") from None

    def _unpack(self, uri: str, model: Path) -> None:
        bucket, key = split_uri(uri)
        try:
            authorize(self._role, [Need("s3:GetObject", HERE.bucket(bucket, key))])
            content = self.around.store.get(bucket, key)
        except Refused:
            content = None
        if content is None:
            raise StartError(
                f'Failed to download model data for container "container_1" from URL: "{uri}". Please ensure that '
                "there is an object located at the URL and that the role passed to CreateModel has permissions to "
                "download the model."
            )
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
                archive.extractall(model, filter="data")
        except (tarfile.TarError, OSError, EOFError):
            raise StartError(
                f'Failed to extract model data archive for container "container_1" from URL "{uri}". Please ensure '
                "that the object located at the URL is a valid tar.gz archive."
            ) from None

    def _environment(self, of_image: Mapping[str, str], path: Any) -> dict[str, str]:
        """Return the container's variables. With network isolation it has no credentials, and cannot reach AWS."""
        role = self.model["ExecutionRoleArn"]
        isolated = self.model.get("EnableNetworkIsolation")
        return {
            "PATH": ":".join([*path, "/usr/local/bin", "/usr/bin", "/bin"]),
            "SAGEMAKER_BASE_DIR": str(self.machine.path(ML)),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "DOGBREED_HOST": "127.0.0.1",  # a rehearsal is not for other machines
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            **of_image,
            **self._container.get("Environment", {}),
            **(
                {"PIP_NO_INDEX": "1"}
                if isolated
                else {
                    "AWS_ENDPOINT_URL": self.around.server.url,
                    **role_session(role, "SageMaker", self.around.faults.denied_to_role),
                }
            ),
        }


def ping(port: int) -> int | None:
    """Return the status with which a container answers GET /ping; None if it does not in time."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PING_S)) as connection:
            began = time.monotonic()
            connection.request("GET", "/ping")
            status = connection.getresponse().status
            return status if time.monotonic() - began <= PING_S else None
    except (OSError, http.client.HTTPException):
        return None


def make_writable(folder: Path) -> None:
    """Undo what `prepare` did to the model's folder, so that it can be deleted."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


class _ReservedPort:
    """A port of loopback that no other program is given: a socket is bound to it, which does not listen.

    Both this socket and servers set SO_REUSEADDR, so a server can bind to the port all the same.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()
