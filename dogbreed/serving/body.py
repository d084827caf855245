"""Read request bodies with limits on size, speed and total memory.

An upload is aborted if it stalls, not if it takes long: a phone on a weak network may need a minute for a photo.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from starlette.requests import ClientDisconnect, Request

from dogbreed.serving.limits import Limits
from dogbreed.serving.problems import Problem

_CHECKS = 15  # of the average speed, per window


class Pace:
    """Checks an upload's speed: no long pause, and a minimum number of bytes over each window of time.

    now: seconds of any monotonic clock, the same for all calls.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._bytes, self._last = 0, now
        self._before = deque([(now, 0)])  # times and bytes received by then; the first is one window ago

    @property
    def look_again_s(self) -> float:
        """Return the seconds after which to call `check`, even if no data arrives."""
        return min(self._limits.body_pause_s, self._limits.body_window_s / _CHECKS)

    def came(self, now: float, count: int) -> None:
        if count:
            self._bytes, self._last = self._bytes + count, now

    def held_up(self, seconds: float) -> None:
        """Leave out a time in which the server itself stood still: the client could send no more than buffers hold."""
        self._last += seconds
        self._before = deque((then + seconds, count) for then, count in self._before)

    def check(self, now: float) -> None:
        """Raise Problem if the upload has paused for too long, or is too slow."""
        limits = self._limits
        if now - self._last >= limits.body_pause_s:
            raise Problem("slow_body", f"No data arrived for {limits.body_pause_s:g} s, after {self._bytes:,} bytes")
        if now - self._before[-1][0] >= limits.body_window_s / _CHECKS:
            self._before.append((now, self._bytes))
        while len(self._before) > 1 and now - self._before[1][0] >= limits.body_window_s:
            self._before.popleft()
        since, bytes_then = self._before[0]
        if now - since >= limits.body_window_s:
            came, least = self._bytes - bytes_then, limits.body_bytes_per_s * (now - since)
            if came < least:
                raise Problem(
                    "slow_body",
                    f"{came:,} bytes arrived in {now - since:.1f} s, fewer than {limits.body_bytes_per_s:,} per second."
                    " Try: a smaller copy of the picture",
                )


class Buffered:
    """Tracks the request bodies in memory, and limits their total to `most` bytes."""

    def __init__(self, most: int, changed: Callable[[int], object]) -> None:
        self.most, self._changed, self.bytes = most, changed, 0

    @contextmanager
    def body(self) -> Iterator[bytearray]:
        """Yield a buffer to be filled by `add`; its memory is released at the end."""
        content = bytearray()
        try:
            yield content
        finally:
            self._take(-len(content))

    def add(self, content: bytearray, part: bytes) -> None:
        """Append `part` to a buffer. Raises Problem if the total would exceed the limit."""
        if self.bytes + len(part) > self.most:
            raise Problem(
                "overloaded", f"Other requests already hold {self.bytes:,} bytes in memory. Try: again in a second"
            )
        content += part
        self._take(len(part))

    def _take(self, count: int) -> None:
        self.bytes += count
        self._changed(self.bytes)


async def read(request: Request, content: bytearray, buffered: Buffered, limits: Limits) -> None:
    """Read a request's body into `content`, which is one of `buffered`.

    Raises Problem if it is too large (at once, if Content-Length says so), too slow or exceeds the memory limit, and
    ClientDisconnect if the client has disconnected.
    """
    too_long = Problem(
        "body_too_large", f"The body has more than {limits.body_bytes:,} bytes. Try: a smaller copy of the picture"
    )
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > limits.body_bytes:
        raise too_long
    pace = Pace(limits, time.monotonic())
    more = True
    while more:
        began, wait_s = time.monotonic(), pace.look_again_s
        pace.check(began)
        message = None
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                message = await request.receive()
        pace.held_up(max(0.0, time.monotonic() - began - wait_s))
        if message is None:
            continue
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        if len(content) + len(part) > limits.body_bytes:
            raise too_long
        pace.came(time.monotonic(), len(part))
        buffered.add(content, part)
