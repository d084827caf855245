"""The addresses of the server and what they answer."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dogbreed.serving import openapi
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.problems import Problem, as_json
from dogbreed.serving.service import Answered, Service

_PAGE = {  # address: file in page/, its type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_GUARDED = {  # nothing from elsewhere, nothing inline, in nobody's frame
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_ROUND = 8  # decimals: float32 has no more, and 133 of them still sum to 1 within 1e-5


class Application:
    """The state between requests: the service once it is there, and whether the server is about to end."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.service: Service | None = None
        self.draining = False
        self._began = time.monotonic()
        self._files = {path: (files(__package__) / "page" / name).read_bytes() for path, (name, _) in _PAGE.items()}

    @property
    def status(self) -> str:
        return "draining" if self.draining else "loading" if self.service is None else "ready"

    def asgi(self) -> Starlette:
        get = {"/ping": self._ping, "/health": self._health, "/metrics": self._metrics}
        get |= {"/openapi.json": self._openapi, "/docs": self._docs, **dict.fromkeys(_PAGE, self._file)}
        routes = [Route(path, self._closing(endpoint)) for path, endpoint in get.items()]
        routes.append(Route("/invocations", self._closing(self._invocations), methods=["POST"]))
        handlers: dict[Any, Any] = {HTTPException: _http_problem, Exception: _internal}
        return Starlette(routes=routes, exception_handlers=handlers)

    def _closing(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """While the server drains, each answer is the last one of its connection, so that none is lost."""

        async def answer(request: Request) -> Response:
            response = await endpoint(request)
            if self.draining:
                response.headers["Connection"] = "close"
            return response

        return answer

    async def _ping(self, request: Request) -> Response:
        return Response(status_code=200 if self.status == "ready" else 503)

    async def _health(self, request: Request) -> Response:
        body = {"status": self.status, "uptime_s": round(time.monotonic() - self._began, 1)}
        if self.service is not None:
            body |= {"waiting": self.service.waiting, "model": _model(self.service)}
        return _json(body, 200 if self.status == "ready" else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    async def _openapi(self, request: Request) -> Response:
        return _json(openapi.document())

    async def _docs(self, request: Request) -> Response:
        return Response(openapi.page(), media_type="text/html; charset=utf-8", headers=_GUARDED)

    async def _file(self, request: Request) -> Response:
        path = request.url.path
        return Response(self._files[path], media_type=_PAGE[path][1], headers=_GUARDED)

    async def _invocations(self, request: Request) -> Response:
        began = time.perf_counter()
        code = "internal"
        try:
            if self.service is None:
                raise Problem("not_ready", "The model is being loaded. Try: again in a second")
            answered = await self.service.handle(request)
            response = self._answer(self.service, request, answered)
            code = "ok"
            return response
        except Problem as problem:
            code = problem.code
            return problem.response()
        except ClientDisconnect:
            code = "gone"
            return Response(status_code=400)  # nobody reads it
        finally:
            self.metrics.requests.labels(code).inc()
            self.metrics.seconds.observe(time.perf_counter() - began)

    def _answer(self, service: Service, request: Request, answered: Answered) -> Response:
        rows = answered.answer.probabilities
        self.metrics.pictures.inc(len(rows))
        for part, seconds in answered.seconds.items():
            self.metrics.parts.labels(part).observe(seconds)
        timing = ", ".join(f"{part};dur={1000 * seconds:.1f}" for part, seconds in answered.seconds.items())
        headers = {"Server-Timing": timing}
        body: Any
        if "verbose=false" in request.headers.get("accept", "").replace(" ", "").lower():
            body = [_rounded(row) for row in rows] if answered.asked.batch else _rounded(rows[0])
            return _json(body, headers=headers)
        results = [self._result(service, answered, place) for place in range(len(rows))]
        body = {"results": results} if answered.asked.batch else results[0]
        return _json({**body, "model": _model(service)}, headers=headers)

    def _result(self, service: Service, answered: Answered, place: int) -> dict[str, Any]:
        row = answered.answer.probabilities[place]
        ranked = service.predictor.ranked(row, top=answered.asked.top)
        result: dict[str, Any] = {
            "predictions": [{"breed": one.breed, "probability": round(one.probability, _ROUND)} for one in ranked],
            "probabilities": _rounded(row),
        }
        if answered.asked.heat_map:
            maps = answered.answer.heat_maps
            result["heat_map"] = (
                None
                if maps is None
                else {
                    "crop_pct": service.predictor.preprocess.crop_pct,
                    "rows": _from_0_to_1(maps[place, int(row.argmax())]),
                }
            )
        return result


def _from_0_to_1(heat: NDArray[np.float32]) -> list[list[float]]:
    span = float(heat.max() - heat.min()) or 1.0
    rows: list[list[float]] = np.round((heat - heat.min()) / span, 3).astype(float).tolist()
    return rows


def _rounded(row: NDArray[np.float32]) -> list[float]:
    values: list[float] = np.round(row.astype(np.float64), _ROUND).tolist()
    return values


def _model(service: Service) -> dict[str, str]:
    return asdict(service.predictor.about)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(as_json(value), status, headers, media_type="application/json")


async def _http_problem(request: Request, error: HTTPException) -> Response:
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    response = Problem(code, f"{request.method} {request.url.path[:80]!a}. Try: /docs").response()
    response.headers.update(error.headers or {})
    return response


async def _internal(request: Request, error: Exception) -> Response:  # uvicorn logs the error itself
    return Problem("internal", "The log of the server says what it was").response()
