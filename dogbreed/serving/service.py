"""Run a model in threads: a request waits for a thread, which decodes its pictures and runs the network."""

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
from dogbreed.serving import body
from dogbreed.serving.intake import FORMATS, Asked, asked, check_type, each, examine
from dogbreed.serving.limits import Limits
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.problems import Problem


@dataclass
class Answered:
    """The result of one request. seconds: time per stage; received_s: time to receive the body."""

    asked: Asked
    answer: Answer
    seconds: dict[str, float]
    received_s: float = 0.0


class Service:
    """Runs one thread per core, which decodes a request's pictures and runs the network on them."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
        self.predictor, self.limits, self.metrics = predictor, limits, metrics
        self._threads = ThreadPoolExecutor(available_cpus(), "inference")
        self._buffered = body.Buffered(limits.buffered_bytes, metrics.buffered.set)
        self._waiting = 0

    def warm_up(self) -> None:
        """Classify one picture of each format. Raises ArtifactError if the results are not finite."""
        side = self.predictor.preprocess.image_px
        pixels = np.zeros((side, side, 3), np.uint8)
        for kind in FORMATS:  # Pillow loads its decoders on first use
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, kind)
            pixels = self._pixels(picture.getvalue())
        probabilities = self.predictor.answer(pixels[None]).probabilities
        if not np.isfinite(probabilities).all():
            raise ArtifactError(
                "The network returned probabilities that are not finite.\n"
                "Try: export the model again with python -m dogbreed.export"
            )

    @property
    def waiting(self) -> int:
        """Return the number of fully received requests that are waiting or being processed."""
        return self._waiting

    async def handle(self, request: Request) -> Answered:
        """Answer a request; it counts as waiting once its body is complete.

        Raises Problem, also if too many requests are waiting, or the deadline passes.
        """
        media_type = request.headers.get("content-type", "")
        check_type(media_type)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(
                "unsupported_type",
                "Content-Encoding is not supported. Try: send the body uncompressed, without this header",
            )
        began = time.perf_counter()
        with self._buffered.body() as content:
            await body.read(request, content, self._buffered, self.limits)
            received_s = time.perf_counter() - began
            with self._admitted():
                answered = await self._computed(media_type, bytes(content), dict(request.query_params))
        answered.received_s = received_s
        return answered

    async def _computed(self, media_type: str, content: bytes, query: dict[str, str]) -> Answered:
        came, loop = time.perf_counter(), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                return await loop.run_in_executor(self._threads, self._answered, media_type, content, query, came)
        except TimeoutError as error:
            raise Problem(
                "deadline", f"The request took more than {self.limits.deadline_s:g} s. Try: again later"
            ) from error

    def _answered(self, media_type: str, content: bytes, query: dict[str, str], came: float) -> Answered:
        began = time.perf_counter()
        what = asked(media_type, content, query, self.limits)
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

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._waiting >= self.limits.waiting:
            raise Problem("overloaded", f"{self._waiting} requests are already waiting. Try: again in a second")
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        try:
            yield
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
