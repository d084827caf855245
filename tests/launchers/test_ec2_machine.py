"""What a machine on EC2 asks by itself: its metadata; and whether an error ends the run or only the machine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from launchers.remote.endings import of_error
from launchers.remote.instance import Metadata

PATHS = {"/latest/meta-data/instance-id": "i-0123456789abcdef0"}


class Service(ThreadingHTTPServer):
    """IMDSv2: each answer needs a token, of which `valid` is the only one."""

    daemon_threads = True
    valid, tokens = "", 0


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self.server.tokens += 1
        self.server.valid = f"token {self.server.tokens}"
        self.answer(200, self.server.valid)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != self.server.valid:
            self.answer(401, "")
        else:
            self.answer(200 if self.path in PATHS else 404, PATHS.get(self.path, ""))

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_metadata_are_read_with_a_token_that_is_renewed_when_it_is_no_longer_valid(service: Service) -> None:
    metadata = Metadata(f"http://127.0.0.1:{service.server_port}/")
    for _ in range(3):
        assert metadata.get("instance-id") == "i-0123456789abcdef0"
        assert metadata.get("spot/instance-action") is None
    assert service.tokens == 1
    service.valid = "another"
    assert metadata.get("instance-id") == "i-0123456789abcdef0"
    assert service.tokens == 2


def test_the_metadata_of_a_proxy_are_not_asked_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert Metadata(f"http://127.0.0.1:{service.server_port}").get("instance-id") is not None


@pytest.mark.parametrize(
    ("error", "outcome", "cause"),
    [
        (ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject"), "failed", "[permission]"),
        (ClientError({"Error": {"Code": "NoSuchBucket"}}, "GetObject"), "failed", "[bad_config]"),
        (ClientError({"Error": {"Code": "SlowDown"}}, "GetObject"), "interrupted", ""),
        # of a clock that is wrong: the next machine's may be right
        (ClientError({"Error": {"Code": "RequestTimeTooSkewed"}}, "GetObject"), "interrupted", ""),
        (EndpointConnectionError(endpoint_url="https://s3"), "interrupted", ""),
        (OSError(28, "No space left on device"), "failed", "[quota]"),
        (KeyError("run"), "failed", "[unknown]"),
    ],
)
def test_an_error_that_every_machine_would_meet_ends_the_run_and_another_only_the_machine(
    error: Exception, outcome: str, cause: str
) -> None:
    ending = of_error(error)
    assert ending.outcome == outcome
    assert ending.reason.startswith(cause)
    assert "\n" not in ending.reason
