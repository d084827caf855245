"""A model and the threads that run it: a request comes in, waits for a thread, is decoded and goes through it."""

import asyncio
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request

from dogbreed.errors import ArtifactError, DataError
from dogbreed.hardware import available_cpus
from dogbreed.inference import Answer, Predictor
from dogbreed.serving.intake import FORMATS, Asked, Limits, asked, content_type, each, examine
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.problems import Problem

_THROWN_AWAY = 8  # times the limit


@dataclass
class Answered:
    """What became of one request. seconds: spent in each part."""

    asked: Asked
    answer: Answer
    seconds: dict[str, float]


class Service:
    """Has a thread for each core, which decodes a request's pictures and runs the network on them."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
        self.predictor, self.limits, self.metrics = predictor, limits, metrics
        self._threads = ThreadPoolExecutor(available_cpus(), "inference")
        self._waiting = 0

    def warm_up(self) -> None:
        """A picture of each format through all of it. Raises ArtifactError where that does not work."""
        side = self.predictor.preprocess.image_px
        pixels = np.zeros((side, side, 3), np.uint8)
        for kind in FORMATS:  # Pillow loads its decoders when they are needed
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, kind)
            pixels = self._pixels(picture.getvalue())
        probabilities = self.predictor.answer(pixels[None]).probabilities
        if not np.isfinite(probabilities).all():
            raise ArtifactError("The network's probabilities are no numbers.")

    @property
    def waiting(self) -> int:
        """Requests that are read, decoded or computed right now."""
        return self._waiting

    async def handle(self, request: Request) -> Answered:
        """Raises Problem; also where there are too many others, or the deadline passes."""
        with self._admitted():
            try:
                async with asyncio.timeout(self.limits.deadline_s):
                    return await self._handle(request)
            except TimeoutError as error:
                raise Problem(
                    "deadline", f"It took more than {self.limits.deadline_s:g} s. Try: again later"
                ) from error

    async def _handle(self, request: Request) -> Answered:
        media_type = content_type(request.headers.get("content-type"))
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem("unsupported_type", "Bodies with a Content-Encoding are not taken. Try: without one")
        body, query = await self._body(request), dict(request.query_params)
        came = time.perf_counter()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: self._answered(media_type, body, query, came))

    def _answered(self, media_type: str, body: bytes, query: dict[str, str], came: float) -> Answered:
        began = time.perf_counter()
        what = asked(media_type, body, query, self.limits)
        pixels = np.stack(each(self._pixels, what.pictures, batch=what.batch))
        decoded = time.perf_counter()
        answer = self.predictor.answer(pixels)
        seconds = {"wait": began - came, "decode": decoded - began, "network": time.perf_counter() - decoded}
        return Answered(what, answer, seconds)

    def _pixels(self, picture: bytes) -> NDArray[np.uint8]:
        examine(picture)
        try:
            return self.predictor.preprocess.pixels(picture)
        except DataError as error:
            raise Problem("damaged_picture", str(error).removeprefix("the picture: ")) from error

    async def _body(self, request: Request) -> bytes:
        """The whole body. One that is too long is refused before it comes, where the client waits for that.

        Others do not look for an answer before all is sent: what is not much too long is read and thrown away.
        """
        most = self.limits.body_bytes
        problem = Problem(
            "body_too_large", f"The body has more than {most:,} bytes. Try: a smaller copy of the picture"
        )
        said = request.headers.get("content-length", "0")
        too_long = not said.isdigit() or int(said) > most
        if too_long and ("expect" in request.headers or not said.isdigit() or int(said) > _THROWN_AWAY * most):
            raise problem
        parts, length = [], 0
        try:
            async with asyncio.timeout(self.limits.deadline_s / 2):
                async for part in request.stream():
                    length += len(part)
                    too_long |= length > most
                    if length > _THROWN_AWAY * most:
                        raise problem
                    if not too_long:
                        parts.append(part)
        except TimeoutError as error:
            raise Problem("slow_body", f"{length:,} bytes came in {self.limits.deadline_s / 2:g} s") from error
        if too_long:
            raise problem
        return b"".join(parts)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._waiting >= self.limits.waiting:
            raise Problem("overloaded", f"{self._waiting} requests are waiting already. Try: again in a second")
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        try:
            yield
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
