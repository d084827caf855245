"""Lambda's Runtime API for one execution environment, on a port of loopback: awslambdaric takes its events from it.

Source: "Using the Lambda runtime API for custom runtimes" in the Lambda developer guide.
"""

import queue
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGEST = 6 * 1024 * 1024  # bytes of an event
LARGEST_ANSWER = LARGEST + 100
_RUNTIME = "/2018-06-01/runtime/"


@dataclass(frozen=True)
class Event:
    """One invocation, as the function gets it. deadline_ms: since 1970."""

    request_id: str
    payload: bytes
    arn: str
    deadline_ms: int


@dataclass(frozen=True)
class Posted:
    """What the function has posted. kind: response, error, init (it could not start) or too-large."""

    kind: str
    body: bytes
    request_id: str = ""


@dataclass
class RuntimeApi:
    """A server with one client. ready: the function has asked for its first event. posted: what it has answered."""

    ready: threading.Event = field(default_factory=threading.Event)
    posted: "queue.Queue[Posted]" = field(default_factory=queue.Queue)
    _events: "queue.Queue[Event | None]" = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="runtime api").start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def send(self, event: Event) -> None:
        self._events.put(event)

    def next(self) -> Event | None:
        """Wait for the next event; None once the environment has ended."""
        self.ready.set()
        return self._events.get()

    def close(self) -> None:
        self._events.put(None)
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    api: RuntimeApi
    protocol_version = "HTTP/1.1"  # curl, inside of awslambdaric, keeps its connection

    def do_GET(self) -> None:
        if self.path != f"{_RUNTIME}invocation/next":
            self._reply(404, b"{}", {})
            return
        event = self.api.next()
        if event is None:
            self.close_connection = True
            return
        headers = {
            "Lambda-Runtime-Aws-Request-Id": event.request_id,
            "Lambda-Runtime-Deadline-Ms": str(event.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": event.arn,
        }
        self._reply(200, event.payload, headers)

    def do_POST(self) -> None:
        body = self._body()
        parts = self.path.removeprefix(_RUNTIME).split("/")
        if parts == ["init", "error"]:
            self.api.posted.put(Posted("init", body))
        elif parts[0] == "invocation" and parts[2:] in (["response"], ["error"]):
            kind = "too-large" if len(body) > LARGEST_ANSWER else parts[2]
            self.api.posted.put(Posted(kind, body, parts[1]))
        else:
            self._reply(404, b"{}", {})
            return
        self._reply(202, b'{"status":"OK"}\n', {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        with suppress(OSError):  # the function has been killed meanwhile
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Drop the message."""
