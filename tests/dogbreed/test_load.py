"""Requests that are sent and timed, to a small server of the tests' own."""

import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed import load
from dogbreed.load import Target, arrivals, closed_loop, first_answer, open_loop
from tests.support.answering import answering
from tests.support.ports import reserved_port

PICTURES = [b"a", b"b", b"c"]


def test_clients_send_each_request_once_and_wait_for_its_answer() -> None:
    with answering(service_s=0.02, slots=2) as (url, server):
        found = closed_loop(Target(url), PICTURES, 2, 7)
    assert sorted(body for body, _ in server.seen) == [b"a", b"a", b"a", b"b", b"b", b"c", b"c"]
    assert [one.answer.status for one in found.requests] == [200] * 7  # never a third at once
    assert all(one.seconds >= 0.02 and one.late_s == 0 for one in found.requests)
    assert found.seconds >= 4 * 0.02


def test_clients_stop_when_their_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def a_second_later(method: str, url: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        now[0] += 1
        return headers

    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 0.0))
    with answering() as (url, _):
        found = closed_loop(Target(url, a_second_later), PICTURES, 1, 1000, seconds=2.5)
    assert [(one.at_s, one.seconds) for one in found.requests] == [(0, 1), (1, 1), (2, 1)]


def test_an_open_loop_does_not_wait_for_answers_and_times_from_when_each_was_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    due = [0.0, 0.01, 0.02, 0.03]
    with answering(wait=threading.Barrier(4, timeout=60).wait) as (url, _):  # no answer until the fourth has come
        together = open_loop(Target(url), PICTURES, due)
    monkeypatch.setattr(load, "MOST_AT_ONCE", 1)  # each has to wait for the one before
    with answering(service_s=0.15) as (url, _):
        in_turn = open_loop(Target(url), PICTURES, due)
    assert [(one.at_s, one.answer.status) for one in together.requests] == [(at, 200) for at in due]
    assert in_turn.seconds >= 4 * 0.15
    for number, one in enumerate(in_turn.requests):
        assert one.seconds >= 0.15 * (number + 1) - due[number] - 0.01  # a stall counts for all that were due meanwhile
        assert one.late_s >= 0.15 * number - due[number] - 0.01


def test_a_connection_that_a_server_has_closed_while_it_was_idle_is_opened_again() -> None:
    with answering(closes=True) as (url, server):
        found = closed_loop(Target(url), PICTURES, 1, 5)
    assert [one.answer.status for one in found.requests] == [200] * 5
    assert len(server.seen) == 5


def test_what_does_not_answer_is_an_answer_with_status_0() -> None:
    with reserved_port() as port:
        found = first_answer(Target(f"http://127.0.0.1:{port}/"), b"")
    assert found.status == 0
    assert "refused" in found.words
    told = threading.Event()
    with answering(wait=told.wait) as (url, _):
        assert "timed out" in first_answer(Target(url, timeout_s=0.05), b"").words
        told.set()


def test_a_server_s_own_times_are_read_without_waiting() -> None:
    with answering(timing="wait;dur=40.0, decode;dur=3.5, network;dur=12.0") as (url, _):
        assert first_answer(Target(url), b"a").service_s == pytest.approx(0.0155)
    with answering() as (url, _):
        assert first_answer(Target(url), b"a").service_s is None


def test_each_request_is_signed_for_its_own_body_and_path() -> None:
    def sign(method: str, url: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        return {**headers, "Authorization": f"{method} {url} {body!r}"}

    with answering() as (url, server):
        closed_loop(Target(url, sign), PICTURES, 1, 3)
    assert [headers["authorization"] for _, headers in server.seen] == [f"POST {url} {body!r}" for body in PICTURES]
    assert {headers["content-type"] for _, headers in server.seen} == {"application/octet-stream"}


@given(st.floats(0.1, 500), st.integers(1, 300), st.floats(0.1, 100), st.integers(0, 9))
def test_times_at_random_ascend_and_keep_both_limits(rps: float, requests: int, seconds: float, seed: int) -> None:
    found = arrivals(rps, requests, seconds, seed)
    assert found == sorted(found) == arrivals(rps, requests, seconds, seed)
    assert len(found) <= requests
    assert not found or 0 < found[0] <= found[-1] < seconds


def test_times_at_random_have_the_rate_that_was_asked_for() -> None:
    assert len(arrivals(50, 10**6, 200, 0)) == pytest.approx(10_000, rel=0.03)
