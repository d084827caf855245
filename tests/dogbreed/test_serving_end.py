"""How a server ends: a signal lets every request finish, uploads included, and thousands of requests leave nothing."""

import asyncio
import base64
import http.client
import json
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dogbreed.serving import settings
from dogbreed.serving.server import Server
from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.serving import WAIT_S, Served, asked, half_sent, reply_on, serving, stopped, tiny_model

PNG = saved(upright(), "PNG")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model.tar.gz")


def classify_until_closed(served: Served, counts: "Counter[Any]", stop: threading.Event) -> None:
    """Requests one after the other, on a connection that is kept; what becomes of each is counted.

    `lost`: the connection broke after it was accepted. `refused`: there was no connection, so no request.
    """
    connection: http.client.HTTPConnection | None = None
    while not stop.is_set():
        try:
            if connection is None:
                connection = served.connect()
                connection.connect()
        except OSError:
            counts["refused"] += 1
            return
        try:
            reply = asked(connection, "POST", "/invocations", PNG, content_type="image/png")
        except (OSError, http.client.HTTPException) as error:
            counts["lost", repr(error)] += 1
            break
        counts[reply.status] += 1
        if reply.headers.get("connection") == "close":
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


@pytest.mark.parametrize("attempt", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10))])
def test_sigterm_under_load_loses_no_request(attempt: int, model: Path, tmp_path: Path) -> None:
    counts: Counter[Any] = Counter()
    stop = threading.Event()
    with serving(model, tmp_path) as running, half_sent(running, PNG) as slowest:  # until then the server stays
        clients = [threading.Thread(target=classify_until_closed, args=(running, counts, stop)) for _ in range(8)]
        for client in clients:
            client.start()
        until(lambda: counts[200] > 50)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: running.ask("GET", "/ping").status == 503)
        before = counts[200]
        until(lambda: counts[200] > before + 20)  # those that come meanwhile are still answered
        stop.set()
        for client in clients:
            client.join()
        slowest.sendall(PNG[-10:])
        assert reply_on(slowest).status == 200
        assert running.process.wait(WAIT_S) == 0
    assert not [what for what in counts if what not in (200, "refused")], counts


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_lets_a_photo_arrive_that_is_on_its_way(name: str, model: Path, tmp_path: Path) -> None:
    """SIGHUP comes when a terminal is closed."""
    with serving(model, tmp_path) as running, half_sent(running, PNG) as phone:
        until(lambda: running.ask("GET", "/health").status == 200)
        running.process.send_signal(signal.Signals[name])
        until(lambda: running.ask("GET", "/ping").status == 503)
        time.sleep(1.2)  # longer than a server without requests waits before it ends
        phone.sendall(PNG[-10:])
        reply = reply_on(phone)
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert running.process.wait(WAIT_S) == 0
    log = running.log.read_text()
    assert f"{name}: " in log
    assert "Traceback" not in log


def test_a_server_that_stood_still_looks_for_the_requests_of_that_time_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("dogbreed.serving.server.time", SimpleNamespace(monotonic=lambda: now[0]))
    server = Server(Future(), settings.read([str(tmp_path)], {}))
    server.application.service = cast(Any, "a service")
    server.handle_exit(signal.SIGTERM, None)
    now[0] += 9
    assert not asyncio.run(server.on_tick(1))
    assert any(asyncio.run(server.on_tick(1)) for _ in range(20))  # nothing has come


def test_a_request_that_does_not_end_in_time_is_told_so(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path, "--drain-s", "0.5") as running, half_sent(running, PNG) as phone:
        until(lambda: running.ask("GET", "/health").status == 200)
        running.process.send_signal(signal.SIGTERM)
        reply = reply_on(phone)
        assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "ending", "1")
        assert running.process.wait(WAIT_S) == 0
    assert "Traceback" not in running.log.read_text()


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(model: Path, tmp_path: Path) -> None:
    """As `nohup` starts it."""
    with serving(model, tmp_path, shell="trap '' HUP") as running:
        running.process.send_signal(signal.SIGHUP)
        for _ in range(3):
            assert running.classify(PNG).status == 200
        assert "SIGHUP" not in running.log.read_text()
        assert stopped(running) == 0


def test_a_second_signal_ends_it_at_once(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path) as running, half_sent(running, PNG):  # which it would wait for
        until(lambda: running.ask("GET", "/health").status == 200)
        running.process.send_signal(signal.SIGINT)
        until(lambda: "SIGINT" in running.log.read_text())
        running.process.send_signal(signal.SIGINT)
        running.process.wait(WAIT_S)
        assert "Traceback" not in running.log.read_text()


def soak(model: Path, scratch: Path, requests: int, clients: int = 4) -> None:
    """`requests` of all kinds: after a tenth of them neither memory nor descriptors grow."""
    kinds = [(saved(upright(), kind), "image/png") for kind in ("PNG", "JPEG", "WEBP")]
    large = np.random.default_rng(0).integers(256, size=(300, 400, 3), dtype=np.uint8)
    kinds += [(saved(large, "JPEG"), "image/jpeg"), (PNG[:200], "image/png"), (b"{", "application/json")]
    kinds += [(json.dumps({"images": [base64.b64encode(PNG).decode()] * 3}).encode(), "application/json")]
    failed: list[Any] = []

    def client(served: Served, count: int) -> None:
        connection = served.connect()
        for number in range(count):
            body, kind = kinds[number % len(kinds)]
            reply = asked(connection, "POST", "/invocations", body, content_type=kind)
            if reply.status not in (200, 400, 422):
                failed.append(reply)
            if number % 50 == 49:
                connection.close()
                connection = served.connect()
        connection.close()

    def send(served: Served, count: int) -> None:
        threads = [threading.Thread(target=client, args=(served, count // clients)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with serving(model, scratch) as running:
        send(running, requests // 10)
        memory, descriptors = running.memory_mb("VmRSS"), running.descriptors()
        for _ in range(9):
            send(running, requests // 10)
        grown = running.memory_mb("VmRSS") - memory
        print(f"{requests} requests: {memory:.1f} MB, {grown:+.1f} MB; {descriptors} descriptors")
        assert not failed
        assert grown < 10
        until(lambda: running.descriptors() <= descriptors)
        assert stopped(running) == 0


def test_thousands_of_requests_leave_memory_and_descriptors_as_they_were(model: Path, tmp_path: Path) -> None:
    soak(model, tmp_path, 2500)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_requests_leave_memory_and_descriptors_as_they_were(model: Path, tmp_path: Path) -> None:
    soak(model, tmp_path, 100_000)
