"""Extend uvicorn's HTTP protocol with limits on headers and connections, and with graceful closing."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dogbreed.serving.connections import Connections
from dogbreed.serving.limits import Limits
from dogbreed.serving.problems import Problem

# data still arriving is discarded: closing at once would send a reset, and the client could lose the response
_LINGER_BYTES = 64 * 2**20
_LINGER_S = 30.0
_BROKEN_LINGER_BYTES = 2**20  # after invalid HTTP
_MAX_HEADER_BYTES = 512 * 1024  # the parser has no limit; asyncio delivers up to half of this at once


class Protocol(HttpToolsProtocol):
    """Limits the time and size of headers and the number of connections, and closes without losing a response.

    Sets `scope["state"]["no_room"]` for a connection beyond the limit.
    """

    def __init__(self, *args: Any, connections: Connections, limits: Limits, root_path: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counted, self._headers_s, self._root_path = connections, limits.headers_s, root_path
        self._has_room = True
        self._headers_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_body = False  # the headers are complete, the body is not
        self._ending: asyncio.TimerHandle | None = None
        self._lingers_for: int | None = None  # bytes still to discard

    def connection_made(self, transport: Any) -> None:
        super().connection_made(cast(asyncio.Transport, _Transport(transport, self)))
        self._connection = transport
        self._has_room = self._counted.opened(self)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._headers_are_there()
        if self._ending is not None:
            self._ending.cancel()
        self._counted.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._lingers_for is not None:
            self._lingers_for -= len(data)
            if self._lingers_for < 0:
                self._connection.abort()
            return
        super().data_received(data)
        if self._headers_timer is not None:  # still waiting for the end of the headers
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES:
                self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._wait_for_headers()
        super().on_message_begin()
        self.scope["state"]["no_room"] = not self._has_room and len(self._counted) > self._counted.most

    def on_headers_complete(self) -> None:
        self._headers_are_there()
        self._in_body = True
        self._counted.busy(self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline:
            self._counted.idle(self)

    def send_400_response(self, msg: str) -> None:
        body = Problem("bad_http", msg).response(self._root_path).body
        head = [b"HTTP/1.1 400 Bad Request", b"content-type: application/problem+json", b"connection: close"]
        self._connection.write(b"\r\n".join([*head, b"content-length: %d" % len(body), b"", bytes(body)]))
        self.end(_BROKEN_LINGER_BYTES)

    def give_way(self) -> None:
        if self._connection.get_write_buffer_size() or self._lingers_for is not None:
            self._connection.abort()
        else:
            self._connection.close()

    def end(self, linger_bytes: int = 0) -> None:
        """Close the connection once the response is sent and, within limits, the client has finished sending."""
        if self._ending is not None:
            return
        self._headers_are_there()
        self._counted.idle(self)
        self._ending = self.loop.call_later(_LINGER_S, self._connection.abort)
        linger_bytes = linger_bytes or (_LINGER_BYTES if self._in_body else 0)
        if not linger_bytes:
            self._connection.close()
            return
        self._lingers_for = linger_bytes
        self.flow.resume_reading()
        self._connection.write_eof()  # the client reads the whole response, then closes

    @property
    def ends(self) -> bool:
        return self._ending is not None

    def _wait_for_headers(self) -> None:
        self._headers_are_there()
        self._headers_timer = self.loop.call_later(self._headers_s, self._connection.close)

    def _headers_are_there(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None


class _Transport:
    """Wraps a transport for uvicorn, so that closing it first lets the response reach the client."""

    def __init__(self, transport: Any, protocol: Protocol) -> None:
        self._transport, self._protocol = transport, protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._protocol.end()

    def is_closing(self) -> bool:
        return self._protocol.ends or bool(self._transport.is_closing())
