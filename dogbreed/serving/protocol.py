"""HTTP before there is a request: what is broken, too long or too slow there is ended here."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dogbreed.serving.problems import Problem

HEADERS_S = 10.0  # from a connection's, or a request's, first moment to the end of its headers
_MAX_HEADER_BYTES = 512 * 1024  # the parser has no limit; asyncio hands over up to half of this at once


class Protocol(HttpToolsProtocol):
    """uvicorn's, with a limit for headers in time and size, and with problem JSON for what is no HTTP."""

    _headers_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._headers_timer is not None:  # still waiting for the end of the headers
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES:
                self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._wait_for_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._headers_are_there()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        body = Problem("bad_http", msg).response().body
        head = [b"HTTP/1.1 400 Bad Request", b"content-type: application/problem+json", b"connection: close"]
        self.transport.write(b"\r\n".join([*head, b"content-length: %d" % len(body), b"", bytes(body)]))
        self.transport.close()

    def _wait_for_headers(self) -> None:
        self._headers_are_there()
        self._headers_timer = self.loop.call_later(HEADERS_S, self.transport.close)

    def _headers_are_there(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None
