"""uvicorn, with a beginning and an end that lose no request: ready only when warm, drained before it stops."""

import asyncio
import logging
import signal
import time
from concurrent.futures import Future
from types import FrameType

import uvicorn

from dogbreed.hardware import give_back_freed_memory
from dogbreed.inference import Predictor
from dogbreed.serving.app import Application
from dogbreed.serving.intake import Limits
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.protocol import Protocol
from dogbreed.serving.service import Service

log = logging.getLogger("dogbreed.serving")

_DRAIN_S = 20.0  # at most; SageMaker kills 30 s after SIGTERM
_QUIET_S = 1.0  # so long without a request, and nothing can be on its way any more
_IDLE_S = 75  # a connection is kept; longer than load balancers keep theirs, so that they close first


class Server(uvicorn.Server):
    """Listens at once, while the model is still being loaded elsewhere. On SIGTERM or SIGINT it drains; a second signal
    ends it at once.

    Draining: /ping says 503, every answer closes its connection, new ones are still answered. It ends when nothing has
    come for a second.
    """

    def __init__(self, predictor: "Future[Predictor]", host: str, port: int, limits: Limits) -> None:
        self.application = Application(Metrics())
        self.error: BaseException | None = None
        self._predictor, self._limits = predictor, limits
        self._loading: asyncio.Task[None] | None = None
        self._drain_began = self._last_request = 0.0
        self._requests = 0
        super().__init__(
            uvicorn.Config(
                self.application.asgi(),
                host,
                port,
                loop="asyncio",
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=1024,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=5,
            )
        )

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            service = Service(await asyncio.wrap_future(self._predictor), self._limits, self.application.metrics)
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
        await asyncio.to_thread(service.predictor.prepare_for_several)  # meanwhile it answers already
        await asyncio.to_thread(give_back_freed_memory)  # what loading took: a third of all

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.application.draining or self.application.service is None:
            self.should_exit = self.force_exit = True
            return
        self.application.draining = True
        self._drain_began = self._last_request = time.monotonic()
        log.info("%s: answering what has come, then ending", signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        if self.application.draining:
            now = time.monotonic()
            busy = self.application.service is not None and self.application.service.waiting > 0
            if busy or self.server_state.total_requests != self._requests:
                self._last_request, self._requests = now, self.server_state.total_requests
            if now - self._last_request >= _QUIET_S or now - self._drain_began >= _DRAIN_S:
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().shutdown(sockets)  # type: ignore[arg-type]
        if self.application.service is not None:
            self.application.service.close()
