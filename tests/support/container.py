"""A container for endpoints in the rehearsal cloud: `python container.py serve`, standard library only.

It answers with what it sees. Bodies: `fail` is answered with 500, `wrong` with 422, `die` ends it, `wait N` takes N
seconds. Variables: PING_STATUS, FAIL_ALL, START_S, END_S (how long it takes to end after SIGTERM), EXITS, HELD (a file:
while it is there, a container does not begin to serve, and a body `hold` is not answered).
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

MODEL = Path(os.environ["SAGEMAKER_BASE_DIR"], "model")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(int(os.environ.get("PING_STATUS", "200")), b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        word, _, rest = body[:20].decode(errors="replace").partition(" ")
        print(f"asked {word}", flush=True)
        if word == "wait":
            time.sleep(float(rest))
        if word == "hold":
            wait_while_held()
        if word == "die":
            os._exit(1)
        if word == "fail" or os.environ.get("FAIL_ALL"):
            self.answer(500, b"no dogs today")
        elif word == "wrong":
            self.answer(422, b'{"title": "no picture"}')
        else:
            self.answer(200, json.dumps(self.seen(body)).encode())

    def seen(self, body: bytes) -> dict[str, object]:
        try:
            (MODEL / "new").touch()
            writes = True
        except OSError:
            writes = False
        return {
            "size": len(body),
            "pid": os.getpid(),
            "type": self.headers.get("Content-Type"),
            "accept": self.headers.get("Accept"),
            "custom": self.headers.get("X-Amzn-SageMaker-Custom-Attributes"),
            "model": (MODEL / "answer.txt").read_text() if (MODEL / "answer.txt").exists() else None,
            "writes": writes,
            "variables": sorted(os.environ),
        }

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def wait_while_held() -> None:
    while (file := os.environ.get("HELD")) and Path(file).exists():
        time.sleep(0.05)


def end(signum: int, frame: FrameType | None) -> None:
    time.sleep(float(os.environ.get("END_S", "0")))
    os._exit(0)


if __name__ == "__main__":
    assert sys.argv[-1] == "serve", sys.argv
    print("starting", flush=True)
    if os.environ.get("EXITS"):
        sys.exit("I do not start")
    time.sleep(float(os.environ.get("START_S", "0")))
    wait_while_held()
    signal.signal(signal.SIGTERM, end)
    port = int(os.environ["SAGEMAKER_BIND_TO_PORT"])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
