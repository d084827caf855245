"""What a machine on EC2 asks by itself: its metadata; and whether an error ends the run or only the machine."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from launchers.remote import ec2, instance
from launchers.remote.endings import of_error
from launchers.remote.instance import Metadata

PATHS = {"/latest/meta-data/instance-id": "i-0123456789abcdef0"}


class Service(ThreadingHTTPServer):
    """IMDSv2: each answer needs a token, of which `valid` is the only one. unheard: so many requests get no answer."""

    daemon_threads = True
    valid, tokens, unheard = "", 0, 0


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self.server.tokens += 1
        self.server.valid = f"token {self.server.tokens}"
        self.answer(200, self.server.valid)

    def do_GET(self) -> None:
        if self.server.unheard:
            self.server.unheard -= 1
        elif self.headers.get("X-aws-ec2-metadata-token") != self.server.valid:
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


def test_metadata_that_get_no_answer_are_asked_for_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_AGAIN_S", 0.0)
    metadata, service.unheard = Metadata(f"http://127.0.0.1:{service.server_port}"), 3
    assert metadata.get("instance-id") == "i-0123456789abcdef0"
    service.unheard = 1000
    with pytest.raises(ConnectionError):
        metadata.get("instance-id")


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"pendingTime": "soon"}', '{"pendingTime": null}'])
def test_the_time_of_a_launch_that_the_metadata_do_not_tell_is_not_known(
    text: str | None, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, metadata = "/latest/dynamic/instance-identity/document", Metadata(f"http://127.0.0.1:{service.server_port}")
    monkeypatch.setitem(PATHS, path, '{"instanceId": "i-1", "pendingTime": "2026-11-24T12:00:07Z"}')
    assert metadata.launched() == datetime(2026, 11, 24, 12, 0, 7, tzinfo=UTC)
    if text is None:
        monkeypatch.delitem(PATHS, path)
    else:
        monkeypatch.setitem(PATHS, path, text)
    assert metadata.launched() is None


def test_the_metadata_of_a_proxy_are_not_asked_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert Metadata(f"http://127.0.0.1:{service.server_port}").get("instance-id") is not None


class Bucket:
    """S3 and the metadata of a machine, in memory."""

    def __init__(self, submission: dict[str, Any]) -> None:
        self.objects: dict[str, Any] = {"submission": submission}
        self.metadata: Any = self
        self.since: datetime | None = None

    def get(self, path: str) -> str | None:
        return {"instance-type": "m5.large"}.get(path.replace("meta-data/", ""), path)

    def launched(self) -> datetime | None:
        return self.since

    def read(self, key: str) -> Any:
        return self.objects.get(key)

    def names(self, prefix: str) -> list[str]:
        return []

    def write(self, key: str, value: Any, encryption: Any, **condition: str) -> datetime:
        self.objects[key] = value
        return datetime.now(UTC)


@pytest.mark.parametrize(
    ("launched", "restarted", "seconds"),
    [(None, False, 600), (690, False, 690), (690, True, 600)],  # before a restart it had another record
)
def test_a_claim_says_when_its_machine_ends_at_the_latest_and_counts_from_its_launch(
    launched: int | None, restarted: bool, seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = {
        "run": "runs/r", "number": 1, "after": 0, "max_attempts": 2, "encryption": {}, "ends_at": 1_764_000_600,
        "beside_usd_per_hour": 0.016,
    }  # fmt: skip
    bucket: Any = Bucket(submission)
    bucket.since = None if launched is None else datetime.now(UTC) - timedelta(seconds=launched)
    if restarted:
        (tmp_path / "ml").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(ec2, "_since_start_s", lambda: 600.0)
        claiming = ec2._Attempt(bucket, "submission", tmp_path, ec2._Signals.__new__(ec2._Signals))
        claiming._submission = submission
        claiming._claim()
    for record in (bucket.objects["runs/r/attempts/00001.json"], claiming._record):
        assert record["ends_at"] == "2025-11-24T16:10:00.000+00:00"
        assert record["beside_usd_per_hour"] == 0.016
        assert seconds <= (datetime.now(UTC) - datetime.fromisoformat(record["started"])).total_seconds() < seconds + 80


def test_the_time_since_the_first_script_does_not_depend_on_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime = tmp_path / "uptime"
    assert ec2._since_start_s(uptime) == 0.0
    uptime.write_text("350.5 100.0\n")
    assert ec2._since_start_s(uptime) == 0.0
    monkeypatch.setenv("DOGBREED_BEGAN", "50.5")
    assert ec2._since_start_s(uptime) == 300.0


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
