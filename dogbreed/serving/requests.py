"""ASGI middleware: request ids, access log, latency metrics, and closing connections where necessary."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dogbreed.serving.metrics import Metrics
from dogbreed.serving.problems import Problem

log = logging.getLogger("dogbreed.serving")
access = logging.getLogger("dogbreed.serving.access")

PREDICTS = "/invocations"
WATCHED = ("/ping", "/health", "/metrics")  # polled by machines every few seconds: answered even when overloaded
_DOCS = "/docs"
_ID = re.compile(r"[A-Za-z0-9._:=/+-]{1,128}")
_GONE = 499  # nginx's status for a client that disconnected


class Requests:
    """Wraps an ASGI application.

    A request's id is the client's X-Request-Id, or a new one; the response repeats it. The access log has one line per
    request, with sizes and times, never with bodies or query strings. root_path: as in Settings; it is stripped from
    the path if the proxy has not done so. last: returns whether to close connections after the response.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, root_path: str, last: Callable[[], bool]) -> None:
        self._app, self._metrics, self._root_path, self._last = app, metrics, root_path, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _Request(scope, receive, send, self._root_path, self._last)
        try:
            if request.state["no_room"] and request.path not in WATCHED:
                raise Problem("overloaded", "Too many connections are open. Try: again in a second")
            if request.path == "":  # the pages' links are relative, and need the slash
                await request.redirect(self._root_path.rpartition("/")[2] + "/")
            elif request.path == _DOCS and scope["path"].endswith("/"):
                await request.redirect("../docs")
            else:
                scope["path"] = self._root_path + request.path
                await self._app(scope, request.receive, request.send)
        except Problem as problem:
            await request.refuse(problem)
        except asyncio.CancelledError:
            await request.refuse(
                Problem("ending", "The server shut down before this request was complete. Try: again in a second")
            )
        except Exception:  # a response has been sent already
            log.exception("Request %s failed", request.id)
        self._count(request)

    def _count(self, request: "_Request") -> None:
        seconds, code = time.perf_counter() - request.began, request.state.get("code", "")
        if request.path == PREDICTS and "code" in request.state:
            self._metrics.requests.labels(code).inc()
            self._metrics.seconds.labels(request.status).observe(seconds)
        if request.path in WATCHED and request.status == 200:
            return
        client = (request.scope.get("client") or ("-",))[0]
        access.info(
            "%s %s %a %d%s received=%d sent=%d ms=%.1f id=%s",
            client,
            request.scope["method"],
            request.scope["path"][:100],
            request.status,
            f" {code}" if code not in ("", "ok") else "",
            request.received,
            request.sent,
            1000 * seconds,
            request.id,
        )


class _Request:
    """Tracks one request while it is handled: bytes received and sent, status."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, root_path: str, last: Callable[[], bool]) -> None:
        self.scope, self.began = scope, time.perf_counter()
        self.state = scope["state"]
        self.status, self.received, self.sent = _GONE, 0, 0
        headers = Headers(scope=scope)
        asked_id = headers.get("x-request-id", "")
        self.id = self.state["id"] = asked_id if _ID.fullmatch(asked_id) else uuid.uuid4().hex
        self._receive, self._send, self._root_path, self._last = receive, send, root_path, last
        self._complete = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        scope["root_path"] = root_path
        scope["path"] = re.sub("/{2,}", "/", scope["path"])  # from proxies that join two paths
        self.path = _below(root_path, scope["path"])

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._complete = self._complete or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            if self._last() or self.state["no_room"] or not self._complete:  # the rest of its body is not read
                headers["connection"] = "close"
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        self.state["code"] = problem.code
        if self.status == _GONE:  # no response has started
            await problem.response(self._root_path)(self.scope, self.receive, self.send)

    async def redirect(self, address: str) -> None:
        start = {"type": "http.response.start", "status": 308, "headers": [(b"location", address.encode())]}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": b""})


def _below(root_path: str, path: str) -> str:
    """Return the path without the root path and without a trailing slash."""
    if root_path and (path == root_path or path.startswith(root_path + "/")):
        path = path.removeprefix(root_path)
        return path if path in ("", "/") else path.rstrip("/")
    return path.rstrip("/") or "/"
