"""Define the server's routes and their responses."""

import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from importlib.resources import files
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dogbreed.serving import docs, openapi
from dogbreed.serving.limits import Limits
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.problems import Problem, as_json
from dogbreed.serving.requests import PREDICTS, Requests
from dogbreed.serving.service import Answered, Service

_Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_PAGE = {  # path: file in page/, its media type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/photo.js": ("photo.js", "text/javascript; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_GUARDED = {  # no external or inline content, no embedding in frames
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_ADDRESS = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,255}(/[\w./~-]*)?")  # safe to show in a page
_ROUND = 8  # decimals: float32 has no more, and 133 of them still sum to 1 within 1e-5


class Application:
    """Holds the state between requests: the service, once it is loaded, and whether the server is draining.

    root_path: the path prefix under which a proxy exposes the server, such as /dogs.
    """

    def __init__(self, metrics: Metrics, limits: Limits, root_path: str = "") -> None:
        self.metrics, self.limits, self.root_path = metrics, limits, root_path
        self.service: Service | None = None
        self.draining = False
        self._began = time.monotonic()
        self._document = openapi.document(limits, root_path)
        self._docs_page = docs.page(self._document)

    @property
    def status(self) -> str:
        return "draining" if self.draining else "loading" if self.service is None else "ready"

    def asgi(self) -> ASGIApp:
        get: dict[str, _Endpoint] = {"/ping": self._ping, "/health": self._health, "/metrics": self._metrics}
        get |= {"/openapi.json": self._openapi, "/docs": self._docs}
        get |= {path: _file(name, kind) for path, (name, kind) in _PAGE.items()}
        routes = [Route(path, endpoint) for path, endpoint in get.items()]
        routes.append(Route(PREDICTS, self._invocations, methods=["POST"]))
        handlers: dict[Any, Any] = {Problem: _problem, HTTPException: _http_problem, Exception: _internal}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False  # it would redirect to the host in the client's Host header
        # while the server drains, every response closes its connection, so that no request is lost
        return Requests(app, self.metrics, self.root_path, lambda: self.draining)

    async def _ping(self, request: Request) -> Response:
        return Response(status_code=200 if self.status == "ready" else 503)

    async def _health(self, request: Request) -> Response:
        body: dict[str, Any] = {"status": self.status, "uptime_s": round(time.monotonic() - self._began, 1)}
        body |= {"max_body_bytes": self.limits.body_bytes}
        if self.service is not None:
            body |= {"waiting": self.service.waiting, "model": _model(self.service)}
            body |= {"classes": len(self.service.predictor.labels)}
        return _json(body, 200 if self.status == "ready" else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    async def _openapi(self, request: Request) -> Response:
        return _json(self._document)

    async def _docs(self, request: Request) -> Response:
        address = f"{request.url.scheme}://{request.headers.get('host', '')}{self.root_path}"
        shown = self._docs_page.replace(docs.ADDRESS, address) if _ADDRESS.fullmatch(address) else self._docs_page
        return Response(shown, media_type="text/html; charset=utf-8", headers=_GUARDED)

    async def _invocations(self, request: Request) -> Response:
        if self.service is None:
            raise Problem("not_ready", "The model is still loading. Try: again in a second")
        try:
            answered = await self.service.handle(request)
        except ClientDisconnect:
            request.state.code = "gone"
            return Response(status_code=499)  # the client has disconnected
        request.state.code = "ok"
        return self._answer(self.service, request, answered)

    def _answer(self, service: Service, request: Request, answered: Answered) -> Response:
        rows = answered.answer.probabilities
        self.metrics.pictures.inc(len(rows))
        for part, seconds in {"receive": answered.received_s, **answered.seconds}.items():
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
        row, judged = answered.answer.probabilities[place], answered.answer.unlike
        ranked = service.predictor.ranked(row, top=answered.asked.top)
        result: dict[str, Any] = {
            "predictions": [{**asdict(one), "probability": round(one.probability, _ROUND)} for one in ranked],
            "unlike_training_photos": None if judged is None else bool(judged[place]),
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


def _file(name: str, media_type: str) -> _Endpoint:
    content = (files(__package__) / "page" / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_GUARDED)

    return answer


def _refused(request: Request, problem: Problem) -> Response:
    request.state.code = problem.code
    return problem.response(request.scope["root_path"])


async def _problem(request: Request, error: Problem) -> Response:
    return _refused(request, error)


async def _http_problem(request: Request, error: HTTPException) -> Response:
    path = request.scope["path"][:80]
    predicts = f"POST {request.scope['root_path']}{PREDICTS}, such as curl -F file=@photo.jpg, or open /docs"
    if error.status_code == 405:
        what = predicts if (error.headers or {}).get("Allow") == "POST" else f"GET, or {predicts}"
        problem = Problem("method_not_allowed", f"{request.method} is not supported at {path!a}. Try: {what}")
    else:
        problem = Problem("not_found", f"The path {path!a} does not exist. Try: {predicts}")
    response = _refused(request, problem)
    response.headers.update(error.headers or {})
    return response


async def _internal(request: Request, error: Exception) -> Response:  # `Requests` logs the error itself
    detail = f"The server failed to handle the request. Try: look for request {request.state.id} in the server's log"
    return _refused(request, Problem("internal", detail))
