"""A server of a few lines that takes its time and refuses what is too much, for what sends requests."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answering(BaseHTTPRequestHandler):
    """Answers 200 after `service_s`, `slots` requests at once; 429 to further ones. seen: bodies, and headers.

    wait: what else comes before an answer, such as the `wait` of an event or a barrier.
    """

    protocol_version = "HTTP/1.1"
    service_s = 0.0
    slots = 1000
    status = 200
    timing = ""
    closes = False  # each connection after its answer, without saying so
    wait: Callable[[], object] = staticmethod(lambda: None)
    seen: list[tuple[bytes, dict[str, str]]]
    inside: threading.Semaphore

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((body, {name.lower(): value for name, value in self.headers.items()}))
        if not self.inside.acquire(blocking=False):
            self._say(429, b"Rate exceeded")
            return
        try:
            time.sleep(self.service_s)
            self.wait()
        finally:
            self.inside.release()
        self._say(self.status, b"{}" if self.status == 200 else b"a  reason")

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.timing:
            self.send_header("Server-Timing", self.timing)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.closes

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def answering(**about: Any) -> Iterator[tuple[str, type[Answering]]]:
    """Yield the address of such a server, and its handler. about: what differs from the class."""
    slots = about.get("slots", Answering.slots)
    kind = type("Handler", (Answering,), {"seen": [], "inside": threading.Semaphore(slots), **about})
    with _Server(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/ask?top=1", kind
        finally:
            server.shutdown()
            thread.join()
