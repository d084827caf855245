"""Hold a running server to SageMaker's contract for containers, and to the answers of the artifact's own network.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html: connections are accepted within
250 ms, /ping answers within 2 s with status 200 and an empty body, and SIGTERM is followed by SIGKILL after 30 s.
"""

import io
import json
import re
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

import numpy as np
from PIL import Image

from dogbreed import artifact, reference
from dogbreed.scanning.names import listed
from launchers.deploy.checks import Checks
from launchers.deploy.contents import Served
from launchers.deploy.served import Reply, Server
from launchers.formatting import size

START_S = 60.0  # until /ping answers 200; a server takes about one second, and more on a busy machine
_ACCEPT_S, _PING_S, _STOP_S = 0.25, 2.0, 30.0
_TRIES = 4  # of what is to be quick: a machine that is busy with something else says nothing of the server
_MOST_OFF = 1e-4  # of a probability from the artifact's own
_SUM_OFF = 1e-3
_TYPES = ("image/jpeg", "application/x-image", "application/octet-stream")
_UNKNOWN_HEADERS = {  # that SageMaker and proxies add
    "X-Amzn-SageMaker-Custom-Attributes": "trace=1",
    "X-Amzn-SageMaker-Target-Variant": "main",
    "X-Amzn-SageMaker-Inference-Id": "doctor",
    "X-Forwarded-For": "10.0.0.1",
}
_LAST_LINES = 3
_OUT_OF_MEMORY = re.compile(
    r"MemoryError|bad[_ ]alloc|allocate memory|memory allocation|failed to map segment|"
    r"pthread_create failed|can't start new thread",
    re.IGNORECASE,
)


def examine(server: Server, served: Served, checks: Checks, *, memory_bytes: int) -> None:
    """Make all checks of one server, from its start to its end."""
    if not _starts(server, checks, memory_bytes):
        return
    try:
        _pings(server, checks)
        _predicts(server, served, checks)
        _refuses(server, checks)
    except (OSError, HTTPException) as error:
        checks.failed(
            "server",
            f"The server stopped answering ({str(error) or type(error).__name__}){_last(server)}",
            "its log above; with less memory than the network needs it is killed",
        )
    _memory(server, checks, memory_bytes)
    _stops(server, checks)
    if written := server.written():
        checks.failed(
            "files", f"The server writes files, where it may not have the right to: {listed(written)}", "its log"
        )


def _starts(server: Server, checks: Checks, memory_bytes: int) -> bool:
    """Wait until the server is ready, and until its first socket accepts."""
    listening_s = 0.0
    while time.monotonic() - server.began < START_S:
        if server.exit_status is not None:
            ended = f"The server ended at once with status {server.exit_status}"
            if _OUT_OF_MEMORY.search(server.log):
                cause = f"{ended}: {_mb(memory_bytes)} MB of memory are not enough{_last(server)}"
                checks.failed("start", cause, checks.larger)
            else:
                checks.failed("start", f"{ended}{_last(server)}", _way_out(server, checks))
            return False
        if server.listens():
            listening_s = listening_s or time.monotonic() - server.began
            if _ready(server):
                ready_s = time.monotonic() - server.began
                checks.passed("start", f"listens after {listening_s:.1f} s, ready after {ready_s:.1f} s")
                return True
        time.sleep(0.02)
    what = "/ping does not answer with 200" if server.listens() else "it does not listen"
    checks.failed("start", f"{what} within {START_S:.0f} s of its start{_last(server)}", _way_out(server, checks))
    return False


def _ready(server: Server) -> bool:
    try:
        return server.ask("/ping").status == 200
    except (OSError, HTTPException):
        return False


def _way_out(server: Server, checks: Checks) -> str:
    if "The image has no package" in server.log:
        return "add the package to the extra [serve] and to launchers/deploy/image/, or import it where it is needed"
    return f"correct what it says; or {checks.again}"


def _last(server: Server) -> str:
    lines = [line for line in server.log.splitlines() if line.strip()][-_LAST_LINES:]
    return ". Its last lines:\n" + "\n".join(f"  {line[:200]}" for line in lines) if lines else ", without a word"


def _pings(server: Server, checks: Checks) -> None:
    accepted_s, ping = _accepted_s(server), server.ask("/ping")
    for _ in range(_TRIES - 1):
        if accepted_s > _ACCEPT_S:
            accepted_s = min(accepted_s, _accepted_s(server))
        if ping.seconds > _PING_S:
            ping = min(ping, server.ask("/ping"), key=lambda reply: reply.seconds)
    wrong = []
    if accepted_s > _ACCEPT_S:
        wrong.append(f"a connection is accepted after {1000 * accepted_s:.0f} ms, more than {1000 * _ACCEPT_S:.0f}")
    if ping.seconds > _PING_S:
        wrong.append(f"/ping takes {ping.seconds:.1f} s, more than {_PING_S:g}")
    if ping.status != 200 or ping.body:
        wrong.append(f"/ping answers {ping.status} with {len(ping.body)} bytes, not 200 with none")
    if wrong:
        checks.failed("/ping", f"SageMaker's contract is broken: {'; '.join(wrong)}", "fewer settings of the server")
    else:
        checks.passed(
            "/ping", f"200, empty, after {1000 * ping.seconds:.0f} ms; a socket after {1000 * accepted_s:.0f}"
        )


def _accepted_s(server: Server) -> float:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60):
        return time.monotonic() - began


def _predicts(server: Server, served: Served, checks: Checks) -> None:
    """Send the reference pictures in each form, and compare the answers with the artifact's network in this process."""
    photos = [_jpeg(picture) for picture in reference.pictures()]
    forms: list[tuple[bytes, Mapping[str, str]]] = [
        *((photo, {"Content-Type": kind}) for photo in photos for kind in _TYPES),
        (photos[0], {"Content-Type": _TYPES[0], **_UNKNOWN_HEADERS}),
    ]
    replies = [_answered(server, photo, headers) for photo, headers in forms]
    for reply, (_, headers) in zip(replies, forms, strict=True):
        if reply.status != 200:
            checks.failed(
                "/invocations",
                f"A JPEG as {headers['Content-Type']}{' with unknown headers' * (len(headers) > 1)} is answered with "
                f"{reply.status}: {_text(reply)}",
                f"other variables of the container; or {checks.again}",
            )
            return
    answers = [json.loads(reply.body) for reply in replies]
    precision = str(answers[0]["model"]["precision"])
    name = artifact.NETWORK_INT8 if precision == "int8" else artifact.NETWORK
    preprocess = served.artifact.preprocess
    own = served.probabilities(name, np.stack([preprocess.pixels(photo) for photo in photos]))
    expected = dict(zip(photos, own, strict=True))
    off = 0.0
    for (photo, _), answer in zip(forms, answers, strict=True):
        row = np.asarray(answer["probabilities"], float)
        if problem := _wrong_row(row, len(served.artifact.labels)):
            checks.failed("/invocations", f"An answer {problem}")
            return
        off = max(off, float(np.abs(row - expected[photo]).max()))
    if off > _MOST_OFF:
        checks.failed(
            "/invocations",
            f"The server's probabilities differ from the artifact's own by {off:.2g}, more than {_MOST_OFF:g}",
            "the versions of onnxruntime, Pillow and simplejpeg in launchers/deploy/image/serve-constraints.txt",
        )
        return
    kinds = ", ".join(kind.partition("/")[2] for kind in _TYPES)
    checks.passed("/invocations", f"{own.shape[1]} probabilities as {kinds}, within {off:.1g} of the artifact's")
    checks.passed(
        "latency", f"{1000 * statistics.median(reply.seconds for reply in replies):.0f} ms a photo, {precision}"
    )


def _answered(server: Server, photo: bytes, headers: Mapping[str, str]) -> Reply:
    """Send a photo, and once more if there was no time for it, as on a machine that is busy with something else."""
    reply = server.ask("/invocations", photo, headers)
    return reply if reply.status != HTTPStatus.SERVICE_UNAVAILABLE else server.ask("/invocations", photo, headers)


def _wrong_row(row: Any, classes: int) -> str:
    if row.shape != (classes,):
        return f"has {row.size} probabilities, not {classes}"
    if not np.isfinite(row).all() or row.min() < 0:
        return "has probabilities that are negative or not numbers"
    if abs(row.sum() - 1) > _SUM_OFF:
        return f"has probabilities that sum to {row.sum():.4f}, not to 1"
    return ""


def _refuses(server: Server, checks: Checks) -> None:
    """Send what is too large, empty or no picture: each must be refused, and the server must go on."""
    limit = int(json.loads(server.ask("/health").body)["max_body_bytes"])
    jpeg = {"Content-Type": "image/jpeg"}
    sent: Sequence[tuple[str, Callable[[], Reply], int]] = (
        (f"a body of {limit + 1:,} bytes", lambda: server.ask("/invocations", bytes(limit + 1), jpeg), 413),
        ("an empty body", lambda: server.ask("/invocations", b"", jpeg), 400),
        ("a text", lambda: server.ask("/invocations", b"not a picture", jpeg), 400),
    )
    for what, ask, status in sent:
        try:
            answered = ask().status
        except (ConnectionError, BrokenPipeError):  # it may close the connection before it has read all of a large body
            answered = 413
        if not 400 <= answered < 500 or (status == 413 and answered != 413):
            checks.failed("limits", f"The server answers {what} with {answered}, not with a refusal")
            return
    if server.ask("/ping").status != 200:
        checks.failed("limits", f"The server is not well after what it refused{_last(server)}", "its log")
        return
    checks.passed("limits", f"photos of up to {size(limit)}; larger, empty and damaged ones are refused")


def _memory(server: Server, checks: Checks, memory_bytes: int) -> None:
    peak = server.peak_memory_bytes()
    if peak > memory_bytes:
        checks.failed(
            "memory",
            f"The server has used {_mb(peak)} MB, and it has {_mb(memory_bytes)}",
            checks.larger,
        )
    elif peak:
        checks.passed("memory", f"{_mb(peak)} MB at most, of {_mb(memory_bytes)}")


def _mb(count: int) -> str:
    return f"{count / 2**20:,.0f}"


def _stops(server: Server, checks: Checks) -> None:
    if server.exit_status is not None:
        return  # said already
    began = time.monotonic()
    status = server.stop(_STOP_S)
    if status == 0:
        checks.passed("stop", f"{time.monotonic() - began:.1f} s after SIGTERM, of {_STOP_S:.0f} s")
    else:
        how = "does not end" if status is None else f"ends with status {status}"
        cause = f"The server {how} within {_STOP_S:.0f} s of SIGTERM, after which SageMaker kills it"
        checks.failed("stop", f"{cause}{_last(server)}", "DOGBREED_DRAIN_S=20")


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _text(reply: Reply) -> str:
    try:
        return str(json.loads(reply.body)["detail"])
    except (ValueError, KeyError, TypeError):
        return repr(reply.body[:100])
