"""A real server in a process of its own, a tiny model for it, and a client: for the tests of serving."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families

from dogbreed import artifact
from dogbreed.artifact import Manifest
from dogbreed.breeds import BREEDS
from dogbreed.preprocess import Preprocess
from dogbreed.unlike import Unlike
from tests.support.launcher_contract import until

IMAGE_PX = 32
PATIENT_S = "600"  # where servers and clients stand still for seconds, as on a busy machine, nothing is given up
WAIT_S = 240  # of clients
_PATIENT = {
    f"DOGBREED_{limit}_S": PATIENT_S for limit in ("DEADLINE", "BODY_PAUSE", "BODY_WINDOW", "HEADERS", "IDLE", "DRAIN")
}

UNLIKE = Unlike(threshold=-3.0, photos=100, flagged=0.05, auroc={"pages of text": 0.9, "drawn scenes": 0.85})


def tiny_model(path: Path, *, unlike: Unlike | None = UNLIKE) -> Path:
    """An artifact of 133 breeds that looks at mean colours: it costs nothing, and answers differently to each photo.

    Black photos are unlike its training photos.
    """
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array((4 * rng.standard_normal((len(BREEDS), 3, 1, 1))).astype(np.float32), "weights")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "white"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["images"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["pooled", "weights"], ["heat_maps"]),
        helper.make_node("GlobalAveragePool", ["heat_maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
    ]
    side = IMAGE_PX // 8
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", IMAGE_PX, IMAGE_PX, 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(BREEDS)]),
            helper.make_tensor_value_info("heat_maps", TensorProto.FLOAT, ["n", len(BREEDS), side, side]),
        ],
        [weights, numpy_helper.from_array(np.float32(255), "white")],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(network, full_check=True)
    judged = {} if unlike is None else {artifact.NETWORK: unlike}
    manifest = Manifest("tiny", "run-1", "", 20, 0.7, {}, 0.0, True, validation_photos=100, unlike=judged)
    content = {artifact.NETWORK: network.SerializeToString()}
    path.write_bytes(artifact.pack(manifest, BREEDS, Preprocess(image_px=IMAGE_PX, crop_pct=0.9), content))
    return path


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A server that runs: where it is, and what its process has used."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def open_socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request on a connection of its own. Headers: `content_type` stands for Content-Type."""
        with closing(self.connect()) as connection:
            return asked(connection, method, path, body, **headers)

    def classify(self, picture: bytes, query: str = "", **headers: str) -> Reply:
        return self.ask("POST", f"/invocations{query}", picture, **{"content_type": "application/x-image", **headers})

    def invoke(self, value: Any, **headers: str) -> Reply:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", "/invocations", body, content_type="application/json", **headers)

    def memory_mb(self, field: str) -> float:
        """Of /proc/PID/status, such as VmRSS."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{field}:")) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def asked(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, **headers: str) -> Reply:
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    response = connection.getresponse()
    return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


@contextmanager
def serving(
    model: Path,
    scratch: Path,
    *options: str,
    ready: bool = True,
    environ: Mapping[str, str] | None = None,
    shell: str = "",
) -> Iterator[Served]:
    """`python -m dogbreed.serving MODEL`, on a free port; killed at the end if it is still there.

    It waits for whatever takes long, unless options say otherwise.
    environ: variables besides those of this process. shell: what a shell does first, such as `ulimit -n 300`.
    """
    log = scratch / "server.log"
    command = [sys.executable, "-m", "dogbreed.serving", str(model), "--port", "0", *options]
    if shell:
        command = ["bash", "-c", f'{shell}; exec "$0" "$@"', *command]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, text=True, env={**os.environ, **_PATIENT, **(environ or {})}
        )
    try:
        until(lambda: "Listening on" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        address = log.read_text().split("Listening on http://")[1].split()[0]
        served = Served(process, int(address.rpartition(":")[2]), log)
        if ready:
            until(lambda: served.ask("GET", "/ping").status == 200)
        yield served
    finally:
        process.kill()
        process.wait()


def half_sent(served: Served, body: bytes, *, count: int | None = None, path: str = "/invocations") -> socket.socket:
    """A connection with a request of which `count` bytes of the body were sent; None for all but the last 10."""
    connection = served.open_socket()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[: len(body) - 10 if count is None else count])
    return connection


def reply_on(connection: socket.socket) -> Reply:
    """The answer that comes on a connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def metric(served: Served, name: str, /, **labels: str) -> float:
    """A value out of /metrics; 0 for one that is not there."""
    text = served.ask("GET", "/metrics").body.decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return next((s.value for s in samples if s.name == name and labels.items() <= s.labels.items()), 0.0)


def stopped(served: Served, *, within_s: float = 240) -> int:
    """SIGTERM, and the exit status that comes of it."""
    served.process.send_signal(signal.SIGTERM)
    return served.process.wait(within_s)
