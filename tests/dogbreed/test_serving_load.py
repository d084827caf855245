"""Slow clients, many clients and broken ones, over real sockets: nobody keeps others out, and every answer arrives."""

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from starlette.requests import Request

from dogbreed.inference import Predictor
from dogbreed.serving.body import Pace
from dogbreed.serving.connections import Connections
from dogbreed.serving.limits import Limits
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.problems import Problem
from dogbreed.serving.protocol import Protocol
from dogbreed.serving.server import listen
from dogbreed.serving.service import Service
from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.serving import Served, asked, half_sent, metric, reply_on, serving, tiny_model

PNG = saved(upright(), "PNG")
NOISE = saved(np.random.default_rng(0).integers(256, size=(100, 150, 3), dtype=np.uint8), "PNG")  # 45 kB
HEAVY = saved(np.zeros((3500, 3500, 3), np.uint8), "PNG")  # few bytes that take a while


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model.tar.gz")


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With the usual limits, but for those on time."""
    with serving(model, tmp_path_factory.mktemp("served")) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def narrow(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With limits on numbers and sizes that are met soon."""
    limits = ("--max-waiting=3", "--max-connections=60", "--max-body-bytes=8000000", "--max-buffered-bytes=20000000")
    with serving(model, tmp_path_factory.mktemp("narrow"), *limits) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def hasty(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With limits on pauses that are met soon, while a body may be slow."""
    with serving(model, tmp_path_factory.mktemp("hasty"), "--body-pause-s=0.8", "--idle-s=1") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def swift(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With a limit on the average speed that is met soon, while a body may pause."""
    limits = ("--body-bytes-per-s=4000", "--body-window-s=1.2")
    with serving(model, tmp_path_factory.mktemp("swift"), *limits) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@contextmanager
def files(count: int) -> Iterator[None]:
    """As many open files for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard < count:
            pytest.skip(f"this process may open {hard} files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# slow bodies


class SetClock(asyncio.SelectorEventLoop):
    """A loop whose time passes only as a test wants it to."""

    now = 100.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def service(model: Path) -> Iterator[Service]:
    """With a deadline of 1 s."""
    made = Service(Predictor.from_artifact(model), Limits(deadline_s=1), Metrics())
    yield made
    made.close()


def asked_of(service: Service, loop: SetClock, parts: int) -> Any:
    """The answer to a request whose body comes in so many parts, one a second."""
    size = -(-len(NOISE) // parts)
    coming = iter(range(0, len(NOISE), size))

    async def receive() -> dict[str, Any]:
        loop.now += 1
        at = next(coming)
        return {"type": "http.request", "body": NOISE[at : at + size], "more_body": at + size < len(NOISE)}

    headers = [(b"content-length", b"%d" % len(NOISE)), (b"content-type", b"image/png")]
    request = Request({"type": "http", "method": "POST", "query_string": b"", "headers": headers}, receive)
    with closing(loop):
        return loop.run_until_complete(service.handle(request))


def test_a_body_that_keeps_coming_may_take_longer_than_the_deadline(service: Service) -> None:
    assert len(asked_of(service, SetClock(), 20).answer.probabilities) == 1


def test_an_answer_that_takes_longer_than_the_deadline_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, told = SetClock(), threading.Event()

    def slow(*_: object) -> None:
        loop.now += 1.5
        loop.call_soon_threadsafe(lambda: None)  # look at the clock
        told.wait()

    monkeypatch.setattr(service, "_answered", slow)
    try:
        with pytest.raises(Problem, match=r"took more than 1 s\. Try: ") as caught:
            asked_of(service, loop, 1)
    finally:
        told.set()
    assert caught.value.code == "deadline"


@pytest.mark.parametrize("first", [0, 5, 40_000])
def test_a_body_that_pauses_is_given_up(first: int, hasty: Served) -> None:
    with half_sent(hasty, NOISE, count=first) as connection:
        reply = reply_on(connection)
    assert (reply.status, reply.json["code"], reply.headers["connection"]) == (408, "slow_body", "close")
    assert f"after {first:,} bytes" in reply.json["detail"]


@pytest.mark.parametrize("first", [0, 30_000])
def test_a_body_that_drips_is_given_up_even_if_it_began_well(first: int, swift: Served) -> None:
    def drip() -> None:
        with suppress(OSError):  # until the server has enough of it
            for at in range(first, first + 100):
                connection.sendall(NOISE[at : at + 1])
                time.sleep(0.1)

    with half_sent(swift, NOISE, count=first) as connection:
        thread = threading.Thread(target=drip)
        thread.start()
        reply = reply_on(connection)
    thread.join()
    assert (reply.status, reply.json["code"]) == (408, "slow_body")
    assert "fewer than 4,000 per second" in reply.json["detail"]


def given_up_at(pace: Pace, began: float, arrivals: dict[float, int]) -> float | None:
    """When a body is given up of which so many bytes come at these times; None for never in two minutes."""
    for tenth in range(1200):
        now = round(began + tenth / 10, 1)
        pace.came(now, arrivals.get(now, 0))
        with suppress(Problem):
            pace.check(now)
            continue
        return now
    return None


@pytest.mark.parametrize(
    ("bytes_per_s", "pause_s", "ends_at_s"),
    [
        (400_000, 0.1, None),
        (8_100, 0.2, None),
        (16_500, 7, None),  # in bursts
        (7_000, 0.2, 15),
        (1, 1, 15),
        (50_000, 10.5, 10),
    ],
)
def test_the_pace_of_a_body_as_it_is_set(bytes_per_s: int, pause_s: float, ends_at_s: float | None) -> None:
    """Two minutes of a body; time is an argument."""
    arrivals = {round(100 + n * pause_s, 1): round(bytes_per_s * pause_s) for n in range(1, int(120 / pause_s))}
    ended = given_up_at(Pace(Limits(), 100.0), 100.0, arrivals)
    assert ended is None if ends_at_s is None else ended == pytest.approx(100 + ends_at_s, abs=1.1)


def test_a_photo_that_stops_after_a_good_minute_is_noticed_within_the_window() -> None:
    arrivals = {float(second): 100_000 if second < 60 else 1 for second in range(120)}
    ended = given_up_at(Pace(Limits(), 0.0), 0.0, arrivals)
    assert ended is not None
    assert 60 < ended <= 76


def test_a_time_in_which_the_server_stood_still_is_not_the_clients() -> None:
    pace = Pace(Limits(), 100.0)
    pace.came(101.0, 50_000)
    pace.held_up(60.0)
    pace.check(163.0)
    pace.came(163.0, 100)
    pace.held_up(60.0)
    assert given_up_at(pace, 224.0, {}) == pytest.approx(233, abs=0.2)  # a pause of 10 s in all


# many clients


def test_a_place_is_taken_when_the_body_is_there(narrow: Served) -> None:
    with ExitStack() as held:
        for _ in range(40):
            held.enter_context(half_sent(narrow, NOISE, count=100))
        until(lambda: metric(narrow, "dogbreed_buffered_bytes") >= 4000)
        assert narrow.ask("GET", "/health").json["waiting"] == 0
        assert narrow.classify(PNG).status == 200


def test_too_many_requests_are_shed_and_told_when_to_come_again(narrow: Served) -> None:
    stop = threading.Event()

    def load() -> None:
        with closing(narrow.connect()) as connection:
            while not stop.is_set():
                asked(connection, "POST", "/invocations", HEAVY, content_type="image/png")

    clients = [threading.Thread(target=load) for _ in range(5)]
    for client in clients:
        client.start()
    try:
        shed: list[Any] = []
        until(lambda: (shed.append(narrow.classify(PNG)) or shed[-1].status) == 503)
        assert (shed[-1].json["code"], shed[-1].headers["retry-after"]) == ("overloaded", "1")
        assert narrow.ask("GET", "/ping").status == 200  # busy, not ill
    finally:
        stop.set()
        for client in clients:
            client.join()
    until(lambda: narrow.classify(PNG).status == 200)


def test_idle_connections_and_dripping_ones_keep_nobody_out(model: Path, tmp_path: Path) -> None:
    """1,100 that have asked once, said nothing or half a line, and the usual soft limit of 1,024 open files."""
    with files(1500), ExitStack() as held, serving(model, tmp_path, shell="ulimit -Sn 1024") as running:
        for _ in range(40):
            held.enter_context(half_sent(running, PNG, count=50))
        for number in range(1100):
            connection = held.enter_context(running.open_socket())
            connection.sendall((b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", b"", b"POST /invoc")[number % 3])
        for _ in range(3):
            assert running.ask("GET", "/ping").status == 200
            assert running.classify(PNG).status == 200
        assert metric(running, "dogbreed_connections") <= 1001
        assert running.log.stat().st_size < 10_000
        assert "Traceback" not in running.log.read_text()


def test_fewer_open_files_mean_fewer_connections(model: Path, tmp_path: Path) -> None:
    with ExitStack() as held, serving(model, tmp_path, shell="ulimit -n 320") as running:
        for _ in range(500):
            connection = held.enter_context(running.open_socket())
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: running.classify(PNG).status == 200)  # once some have been answered, which makes room
        log = running.log.read_text()
        assert "Limited to 64 connections instead of 1000" in log
        assert len(log) < 10_000
        assert "Traceback" not in log


def test_where_all_connections_are_busy_a_new_one_is_told_so(narrow: Served) -> None:
    with ExitStack() as held:
        busy = [held.enter_context(half_sent(narrow, PNG)) for _ in range(60)]
        until(lambda: metric(narrow, "dogbreed_connections") >= 61)
        reply = narrow.classify(PNG)
        assert (reply.status, reply.json["code"], reply.headers["connection"]) == (503, "overloaded", "close")
        assert reply.headers["retry-after"] == "1"
        assert narrow.ask("GET", "/ping").status == 200  # whoever watches it does not take it for ill
        for connection in busy[:2]:
            connection.sendall(PNG[-10:])
            assert reply_on(connection).status == 200
        assert narrow.classify(PNG).status == 200


def test_bodies_have_no_more_memory_than_they_may(narrow: Served) -> None:
    large = bytes(8_000_000)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(half_sent(narrow, large, count=7_900_000))
        until(lambda: metric(narrow, "dogbreed_buffered_bytes") >= 2 * 7_900_000)
        reply = narrow.classify(large)
        assert (reply.status, reply.json["code"]) == (503, "overloaded")
        assert narrow.classify(PNG).status == 200
    until(lambda: metric(narrow, "dogbreed_buffered_bytes") == 0)
    assert narrow.classify(large).status == 415


def test_connections_are_kept(served: Served) -> None:
    with closing(served.connect()) as connection:
        connection.connect()
        local = connection.sock.getsockname()
        for _ in range(5):
            assert asked(connection, "POST", "/invocations", PNG, content_type="image/png").status == 200
            assert connection.sock.getsockname() == local


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(served: Served) -> None:
    """Which comes 40 ms after the first part of an answer, if the system waits for it before it sends the second."""
    with closing(served.connect()) as connection:

        def waited_s() -> float:
            began = time.monotonic()
            connection.request("GET", "/health")
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # or it would come at once
            connection.getresponse().read()
            return time.monotonic() - began

        waited_s()
        until(lambda: waited_s() < 0.03, timeout_s=60)  # one is enough: otherwise all take longer


def test_the_connections_of_a_server_send_at_once_what_they_have() -> None:
    (listening,) = listen("127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()), listening.accept()[0] as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_idle_connections_are_closed(hasty: Served) -> None:
    with closing(hasty.connect()) as connection:
        assert asked(connection, "GET", "/ping", None).status == 200
        assert connection.sock.recv(1) == b""


def test_clients_that_go_away_take_nothing_with_them(narrow: Served) -> None:
    gone = metric(narrow, "dogbreed_requests_total", code="gone")
    for _ in range(20):
        half_sent(narrow, PNG).close()
    until(lambda: metric(narrow, "dogbreed_requests_total", code="gone") >= gone + 20)
    until(lambda: metric(narrow, "dogbreed_buffered_bytes") == 0)
    assert narrow.classify(PNG).status == 200


# early answers


@pytest.mark.parametrize(
    ("content_type", "path", "status"),
    [
        ("image/jpeg", "/invocations", 413),
        ("text/html", "/invocations", 415),
        ("multipart/form-data", "/invocations", 400),
        ("image/jpeg", "/nothing", 404),
        ("image/jpeg", "/ping", 405),
    ],
)
def test_an_early_refusal_reaches_a_client_that_sends_all_first(
    content_type: str, path: str, status: int, served: Served
) -> None:
    reply = served.ask("POST", path, bytes(20_000_000), content_type=content_type)
    assert (reply.status, reply.headers["connection"]) == (status, "close")


def test_an_early_refusal_reaches_a_client_that_does_not_know_its_length(served: Served) -> None:
    with closing(served.connect()) as connection:
        parts = (bytes(100_000) for _ in range(200))
        connection.request("POST", "/invocations", parts, {"Content-Type": "image/png"}, encode_chunked=True)
        assert connection.getresponse().status == 413


def test_what_is_thrown_away_has_a_bound(served: Served) -> None:
    with half_sent(served, b"", count=0) as empty:
        assert reply_on(empty).status == 400
    with served.open_socket() as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n")
        sent = 0
        with suppress(ConnectionResetError, BrokenPipeError):
            while sent < 200_000_000:
                connection.sendall(bytes(1_000_000))
                sent += 1_000_000
    assert sent < 100_000_000


def test_who_asks_before_sending_is_refused_before_sending(served: Served) -> None:
    with served.open_socket() as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\nExpect: 100-continue\r\n\r\n"
        )
        reply = reply_on(connection)
    assert (reply.status, reply.headers["connection"]) == (413, "close")


# what is no HTTP


@pytest.mark.parametrize(
    "head",
    [
        b"no http at all\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    ],
)
def test_what_is_no_http_is_refused_as_a_problem(head: bytes, served: Served) -> None:
    with served.open_socket() as connection:
        connection.sendall(head)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad_http"


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nx: ", b"GET /"])
def test_headers_without_end_are_cut_off(head: bytes, served: Served) -> None:
    with served.open_socket() as connection:
        answer, sent = b"", 0
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(head)
            while sent < 50_000_000:
                connection.sendall(b"y" * 100_000)
                sent += 100_000
            answer = connection.recv(100)
        assert sent < 50_000_000
        assert answer.startswith(b"HTTP/1.1 400") or not answer


def test_headers_that_never_come_are_given_up() -> None:
    """The timer of a connection ends it, before and between requests; time is an argument here."""
    loop, transport = MagicMock(), MagicMock()
    config = MagicMock(loaded=True)
    protocol = Protocol(
        config,
        MagicMock(default_headers=[]),
        {},
        loop,
        connections=Connections(1),
        limits=Limits(headers_s=7),
        root_path="",
    )
    protocol.connection_made(transport)
    protocol.data_received(b"GET /ping HTTP/1.1\r\nHost")
    wait_s, close = loop.call_later.call_args.args
    assert wait_s == 7
    close()
    transport.close.assert_called_once()
