"""A request's body on its way in: it may take its time as long as it keeps coming, and as there is memory for it.

Progress ends a body, not its length of time: a phone on a weak network may need a minute for a photo.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from dogbreed.serving.limits import Limits
from dogbreed.serving.problems import Problem

_LOOKS = 15  # at the average, in each of its windows


class Pace:
    """Whether a body keeps coming: without a long pause, and with a number of bytes over each window of time.

    now: seconds of any clock, the same for all calls.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._bytes, self._last = 0, now
        self._before = deque([(now, 0)])  # times and how many bytes had come by then; the first is a window ago

    @property
    def look_again_s(self) -> float:
        """Seconds after which `check` should be asked, even if nothing comes."""
        return min(self._limits.body_pause_s, self._limits.body_window_s / _LOOKS)

    def came(self, now: float, count: int) -> None:
        if count:
            self._bytes, self._last = self._bytes + count, now

    def check(self, now: float) -> None:
        """Raise Problem where the body has paused for too long, or comes too slowly."""
        limits = self._limits
        if now - self._last >= limits.body_pause_s:
            raise Problem("slow_body", f"Nothing came for {limits.body_pause_s:g} s, after {self._bytes:,} bytes")
        if now - self._before[-1][0] >= limits.body_window_s / _LOOKS:
            self._before.append((now, self._bytes))
        while len(self._before) > 1 and now - self._before[1][0] >= limits.body_window_s:
            self._before.popleft()
        since, bytes_then = self._before[0]
        if now - since >= limits.body_window_s:
            came, least = self._bytes - bytes_then, limits.body_bytes_per_s * (now - since)
            if came < least:
                raise Problem(
                    "slow_body",
                    f"{came:,} bytes came in {now - since:.1f} s, fewer than {limits.body_bytes_per_s:,} a second. "
                    "Try: a smaller copy of the picture",
                )


class Buffered:
    """The bodies that are in memory: no more bytes at a time than `most`."""

    def __init__(self, most: int, changed: Callable[[int], object]) -> None:
        self.most, self._changed, self.bytes = most, changed, 0

    @contextmanager
    def body(self) -> Iterator[bytearray]:
        """One body, to be filled by `add`; its place is free again at the end."""
        content = bytearray()
        try:
            yield content
        finally:
            self._take(-len(content))

    def add(self, content: bytearray, part: bytes) -> None:
        """Raise Problem where there is no place for it."""
        if self.bytes + len(part) > self.most:
            raise Problem("overloaded", f"{self.bytes:,} bytes of other requests are in memory. Try: again in a second")
        content += part
        self._take(len(part))

    def _take(self, count: int) -> None:
        self.bytes += count
        self._changed(self.bytes)


async def read(request: Request, content: bytearray, buffered: Buffered, limits: Limits) -> None:
    """Read a request's body into `content`, which is one of `buffered`.

    Raises Problem where it is too long (at once, if its length is said before), does not keep coming or finds no place,
    and ClientDisconnect where the client has gone.
    """
    too_long = Problem(
        "body_too_large", f"The body has more than {limits.body_bytes:,} bytes. Try: a smaller copy of the picture"
    )
    said = request.headers.get("content-length", "0")
    if not said.isdigit() or int(said) > limits.body_bytes:
        raise too_long
    pace = Pace(limits, time.monotonic())
    more = True
    while more:
        pace.check(time.monotonic())
        try:
            async with asyncio.timeout(pace.look_again_s):
                message = await request.receive()
        except TimeoutError:
            continue
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        if len(content) + len(part) > limits.body_bytes:
            raise too_long
        pace.came(time.monotonic(), len(part))
        buffered.add(content, part)
