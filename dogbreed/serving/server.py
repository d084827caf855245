"""Run uvicorn without losing requests: ready only after a warm-up, drained before it stops."""

import asyncio
import errno
import logging
import signal
import socket
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from dogbreed.errors import DogBreedError
from dogbreed.hardware import give_back_freed_memory
from dogbreed.inference import Predictor
from dogbreed.serving import connections
from dogbreed.serving.app import Application
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.protocol import Protocol
from dogbreed.serving.service import Service
from dogbreed.serving.settings import Settings

log = logging.getLogger("dogbreed.serving")

# uvicorn's, of 0.1 s: after so many without a request, none can be in transit any more. Not seconds: a server that
# itself stands still for one would find the requests of that time only afterwards
_QUIET_TICKS = 10
_BACKLOG = 1024  # connections waiting to be accepted
_ACCEPTED_AT_ONCE = 64  # before they are counted: fewer than the open files reserved for other uses
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SAY_AGAIN_S = 60.0


class CannotListenError(DogBreedError):
    """The server cannot listen on the address."""


class Server(uvicorn.Server):
    """Listens at once, while the model is loading in another thread. On SIGTERM, SIGINT or SIGHUP it drains; a second
    signal stops it at once. If SIGHUP was ignored at the start, as under nohup, it stays ignored.

    While draining, /ping returns 503, every response closes its connection, and new requests are still answered. The
    server stops when no request has arrived for a second and none is in progress.
    """

    def __init__(self, predictor: "Future[Predictor]", settings: Settings) -> None:
        self.settings = settings
        self.error: BaseException | None = None
        self.application = Application(Metrics(), settings.limits, settings.root_path)
        self._connections = connections.Connections(connections.that_fit(settings.limits.connections))
        self.application.metrics.connections.set_function(lambda: len(self._connections))
        self._predictor = predictor
        self._loading: asyncio.Task[None] | None = None
        self._drain_began = self._said_no_room = 0.0
        self._requests = self._quiet_ticks = 0
        protocol = partial(
            Protocol, connections=self._connections, limits=settings.limits, root_path=settings.root_path
        )
        super().__init__(
            uvicorn.Config(
                self.application.asgi(),
                loop="asyncio",
                http=protocol,  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_ACCEPTED_AT_ONCE,
                timeout_keep_alive=settings.limits.idle_s,  # type: ignore[arg-type]
                timeout_graceful_shutdown=2,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._failed)
        sockets = listen(self.settings.host, self.settings.port)
        await super().startup(sockets)
        for each in sockets:
            each.listen(_BACKLOG)
        host, port = sockets[0].getsockname()[:2]
        below = f" below {self.settings.root_path}/" if self.settings.root_path else ""
        log.info("Listening on http://%s:%d%s", f"[{host}]" if ":" in host else host, port, below)
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            predictor = await asyncio.wrap_future(self._predictor)
            service = Service(predictor, self.settings.limits, self.application.metrics)
            await asyncio.to_thread(service.warm_up)
        except Exception as error:
            self.error, self.should_exit = error, True
            return
        about = service.predictor.about
        self.application.metrics.serves(about)
        self.application.service = service
        log.info(
            "Ready: %s %s, version %s, run %s", about.name, about.precision, about.version, about.run_id or "unknown"
        )
        log.info("Judging whether photos are unlike the training photos: %s", about.unlike)
        await asyncio.to_thread(service.predictor.prepare_for_several)  # requests are already answered meanwhile
        await asyncio.to_thread(give_back_freed_memory)  # a third of the memory was needed only for loading

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error once a minute that asyncio reports a thousand times a second if it cannot accept connections."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _NO_ROOM):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said_no_room > _SAY_AGAIN_S:
            self._said_no_room = time.monotonic()
            log.error(
                "Cannot accept new connections: %s. Try: a higher limit on open files (ulimit -n)", error.strerror
            )

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        with super().capture_signals():
            before = signal.getsignal(signal.SIGHUP)
            if before != signal.SIG_IGN:
                signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.application.draining or self.application.service is None:
            self.should_exit = self.force_exit = True
            return
        self.application.draining = True
        self._drain_began, self._quiet_ticks = time.monotonic(), 0
        log.info("%s: finishing pending requests, then shutting down", signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        if self.application.draining:
            is_quiet = not self.server_state.tasks and self.server_state.total_requests == self._requests
            self._quiet_ticks, self._requests = is_quiet * (self._quiet_ticks + 1), self.server_state.total_requests
            drained_s = time.monotonic() - self._drain_began
            if self._quiet_ticks > _QUIET_TICKS or drained_s >= self.settings.limits.drain_s:
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.application.service is not None:
            self.application.service.close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses of `host`, on the same port; :: includes IPv4.

    port: 0 for a free one. Raises CannotListenError.
    """
    try:
        if host == "::" and socket.has_dualstack_ipv6():
            return [_bound((host, port), socket.AF_INET6, both=True)]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        sockets: list[socket.socket] = []
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            number = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_bound((address[0], number, *address[2:]), family))
        return sockets
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotListenError(
            f"Cannot listen on {host} port {port}: {reason}.\nTry: another --port (0 for a free one) or --host"
        ) from error


def _bound(address: tuple[Any, ...], family: int, *, both: bool = False) -> socket.socket:
    bound = socket.create_server(address, family=family, dualstack_ipv6=both, backlog=_BACKLOG)
    # inherited by connections; without it the end of a response waits 40 ms for the client's ACK
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound
