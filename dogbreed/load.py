"""Send requests to a server and time each: from clients that wait for their answers, or at times of their own.

In the second, open, loop a time counts from when the request was to be sent. A server that stalls would otherwise be
asked less often meanwhile, and look better than it is to people, who do not wait for each other.
"""

import http.client
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from queue import SimpleQueue
from typing import Self
from urllib.parse import urlsplit

TIMEOUT_S = 60.0
MOST_AT_ONCE = 256  # requests of an open loop; further ones wait, which counts as lateness
_WORDS = 300  # characters of an answer that is no success, which are kept
_TIMING = re.compile(r"(?P<part>[\w-]+);dur=(?P<ms>[\d.]+)")
_WAITS = "wait"  # the part of Server-Timing in which a request waits for its turn
Sign = Callable[[str, str, bytes, dict[str, str]], dict[str, str]]  # method, URL, body, headers -> headers


@dataclass(frozen=True)
class Answer:
    """status: of HTTP; 0 for no answer. service_s: in which the server worked, if it says so. words: of a refusal."""

    status: int
    service_s: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Timed:
    """One request. at_s: when it was to be sent, after the beginning. late_s: how much later it was.

    seconds: from `at_s` to the end of its answer.
    """

    at_s: float
    late_s: float
    seconds: float
    answer: Answer


@dataclass(frozen=True)
class Load:
    """What was sent. seconds: that it took. cpu: of which this process used a core, as a share."""

    requests: Sequence[Timed]
    seconds: float
    cpu: float


@dataclass(frozen=True)
class Target:
    """Where pictures are sent with POST. sign: changes the headers of each request; None for none."""

    url: str
    sign: Sign | None = None
    timeout_s: float = TIMEOUT_S
    content_type: str = "application/octet-stream"

    def connect(self) -> "Connection":
        return Connection(self)


class Connection:
    """One connection, which is kept open between requests."""

    def __init__(self, target: Target) -> None:
        self.target = target
        url = urlsplit(target.url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._http = kind(url.netloc, timeout=target.timeout_s)
        self._used = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, picture: bytes) -> Answer:
        """Send a picture and read the whole answer."""
        headers = {"Content-Type": self.target.content_type}
        if self.target.sign is not None:
            try:
                headers = self.target.sign("POST", self.target.url, picture, headers)
            except Exception as error:  # of any kind: what signs it may have to fetch its credentials
                return _none(error)
        try:
            return self._ask(picture, headers)
        except (ConnectionError, http.client.HTTPException) as error:
            self._http.close()
            again, self._used = self._used, False
            # a server may close a connection that was idle; a first request on a new one has no such excuse
            return self.ask(picture) if again else _none(error)
        except OSError as error:
            self._http.close()
            self._used = False
            return _none(error)

    def _ask(self, picture: bytes, headers: dict[str, str]) -> Answer:
        self._http.request("POST", self._path, picture, headers)
        response = self._http.getresponse()
        body = response.read()
        self._used = True
        words = "" if response.status < 300 else body[:_WORDS].decode(errors="replace")
        return Answer(response.status, _service_s(response.getheader("Server-Timing") or ""), words)


def _none(error: Exception) -> Answer:
    return Answer(0, words=str(error) or type(error).__name__)


def _service_s(timing: str) -> float | None:
    """Return the seconds of all parts of a Server-Timing header but for waiting; None if it has none."""
    parts = [(found["part"], float(found["ms"])) for found in _TIMING.finditer(timing)]
    return sum(ms for part, ms in parts if part != _WAITS) / 1000 if parts else None


def arrivals(rps: float, requests: int, seconds: float, seed: int) -> list[float]:
    """Draw when requests come, at random and independent of each other: at most so many, within these seconds."""
    draw, at = random.Random(seed), 0.0
    found: list[float] = []
    while len(found) < requests:
        at += draw.expovariate(rps)
        if at >= seconds:
            break
        found.append(at)
    return found


def closed_loop(
    target: Target, pictures: Sequence[bytes], clients: int, requests: int, seconds: float = float("inf")
) -> Load:
    """Let clients ask in turn, each of which waits for its answer, until so many requests or seconds are over."""
    found: list[Timed] = []
    numbers = count()  # whose next is one step of the interpreter, so that no two threads get the same
    began, used = time.perf_counter(), time.process_time()

    def client() -> None:
        with target.connect() as connection:
            while (number := next(numbers)) < requests and (at := time.perf_counter() - began) < seconds:
                answer = connection.ask(pictures[number % len(pictures)])
                found.append(Timed(at, 0.0, time.perf_counter() - began - at, answer))

    _together([threading.Thread(target=client, daemon=True) for _ in range(clients)])
    return _load(found, began, used)


def open_loop(target: Target, pictures: Sequence[bytes], at: Sequence[float]) -> Load:
    """Send a request at each of these seconds after the beginning, whether those before have been answered or not."""
    found: list[Timed] = []
    waiting: SimpleQueue[int | None] = SimpleQueue()
    idle = threading.Semaphore(0)
    began, used = time.perf_counter(), time.process_time()

    def worker() -> None:
        with target.connect() as connection:
            while (number := waiting.get()) is not None:
                sent = time.perf_counter() - began
                answer = connection.ask(pictures[number % len(pictures)])
                found.append(Timed(at[number], sent - at[number], time.perf_counter() - began - at[number], answer))
                idle.release()

    threads: list[threading.Thread] = []
    for number, moment in enumerate(at):
        time.sleep(max(0.0, began + moment - time.perf_counter()))
        if not idle.acquire(blocking=False) and len(threads) < MOST_AT_ONCE:
            threads.append(threading.Thread(target=worker, daemon=True))
            threads[-1].start()
        waiting.put(number)
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    return _load(found, began, used)


def _together(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _load(found: list[Timed], began: float, used: float) -> Load:
    seconds = time.perf_counter() - began
    return Load(sorted(found, key=lambda one: one.at_s), seconds, (time.process_time() - used) / max(seconds, 1e-9))


def first_answer(target: Target, picture: bytes) -> Answer:
    """Return the answer to a single request, on a connection of its own."""
    with target.connect() as connection:
        return connection.ask(picture)
