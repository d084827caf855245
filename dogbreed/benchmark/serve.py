"""Benchmark serving a ResNet50 against FastAPI with eager torch, under 1 to 8 closed-loop clients."""

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from dogbreed import load
from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup, SideError
from dogbreed.benchmark.pictures import photo
from dogbreed.run_folder import write_bytes

CLIENTS = (1, 2, 4, 8)
_PHOTOS = 16
_START_S = 120.0


def _backbone(setup: Setup) -> str:
    return "resnet18" if setup.quick else "resnet50"


def _prepare(setup: Setup) -> None:
    """Create random weights, the same for both sides, and photos: 900 x 675, as on a web page, and one of 12 MP."""
    place = setup.place("serve")
    if (place / "large.jpg").exists():
        return
    import torch

    from dogbreed import checkpoints, export
    from dogbreed.breeds import BREEDS
    from dogbreed.model import DogBreedClassifier

    torch.manual_seed(0)
    model = DogBreedClassifier(BREEDS, backbone=_backbone(setup), weights=None)
    state = {name.removeprefix("backbone."): value for name, value in model.backbone_state().items()}
    state |= {f"fc.{name}": value for name, value in model.head[-1].state_dict().items()}
    torch.save(state, place / "weights.pt")
    checkpoint = place / "checkpoints" / "best.ckpt"
    checkpoints.write({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, checkpoint)
    for number in range(_PHOTOS):
        write_bytes(place / f"{number:02d}.jpg", photo(number))
    pixels = np.stack([model.preprocess.pixels(path) for path in sorted(place.glob("[0-9]*.jpg"))])
    batch = [(pixels, np.zeros(len(pixels), np.int64))]  # the accuracy of random weights is meaningless
    write_bytes(place / "model.tar.gz", export.export(checkpoint, quantise_with=(batch, batch)))
    write_bytes(place / "large.jpg", photo(0, width=900 if setup.quick else 4000, height=675 if setup.quick else 3000))


def dogbreed_command(setup: Setup, *, int8: bool = False) -> list[str]:
    """Return Python's arguments to start the server, up to the port's value."""
    allowed = ["--max-accuracy-loss", "1" if int8 else "-1"]
    return ["-m", "dogbreed.serving", str(setup.place("serve") / "model.tar.gz"), *allowed, "--port"]


def fastapi_command(setup: Setup) -> list[str]:
    weights = str(setup.place("serve") / "weights.pt")
    return ["-m", "dogbreed.benchmark.plain_server", weights, _backbone(setup)]


def _measured(setup: Setup, words: Sequence[str]) -> Sample:
    place = setup.place("serve")
    pictures = [(place / f"{number:02d}.jpg").read_bytes() for number in range(_PHOTOS)]
    large = (place / "large.jpg").read_bytes()
    requests = 8 if setup.quick else 240
    sample: Sample = {}
    with _server(words, pictures[0], setup.fresh("server")) as (server, port, first_answer_s):
        sample["first_answer_s"] = first_answer_s
        _closed_loop(port, pictures, 2, 8)  # warm-up, not counted
        for clients in CLIENTS:
            began = time.perf_counter()
            seconds = _closed_loop(port, pictures, clients, requests)
            sample[f"images_per_s_{clients}"] = len(seconds) / (time.perf_counter() - began)
            sample[f"p50_ms_{clients}"] = 1000 * statistics.median(seconds)
            sample[f"p99_ms_{clients}"] = 1000 * statistics.quantiles(seconds, n=100, method="inclusive")[98]
            if clients == 1:  # what the capacity planner reads
                sample["service_ms"] = [round(1000 * each, 3) for each in seconds]
        sample["memory_mb"] = server.memory_info().rss / 1e6
        small, big = (
            statistics.median(_closed_loop(port, [picture], 1, max(4, requests // 12)))
            for picture in (pictures[0], large)
        )
        sample["large_extra_ms"] = 1000 * (big - small)
    return sample


@contextmanager
def _server(words: Sequence[str], picture: bytes, folder: Path) -> Iterator[tuple[psutil.Process, int, float]]:
    """Start a server; yield its process, its port, and the seconds from its start to its first answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen([sys.executable, *words, str(port)], stdout=output, stderr=output)
    try:
        while not _answers(port, picture):
            if process.poll() is not None or time.perf_counter() - began > _START_S:
                raise SideError(f"The server does not answer:\n{(folder / 'output.txt').read_text(errors='replace')}")
            time.sleep(0.01)
        yield psutil.Process(process.pid), port, time.perf_counter() - began
    finally:
        process.kill()
        process.wait()


def _answers(port: int, picture: bytes) -> bool:
    return load.first_answer(_target(port), picture).status == 200


def _target(port: int) -> load.Target:
    return load.Target(f"http://127.0.0.1:{port}/invocations", timeout_s=_START_S)


def _closed_loop(port: int, pictures: Sequence[bytes], clients: int, requests: int) -> list[float]:
    """Return the seconds of each request; each client waits for its answer, on a keep-alive connection."""
    found = load.closed_loop(_target(port), pictures, clients, requests).requests
    for each in found:
        if each.answer.status != 200:
            raise SideError(f"The server answered {each.answer.status}: {each.answer.words!r}")
    return [each.seconds for each in found]


def _rows(setup: Setup) -> Sequence[Row]:
    rows = []
    for clients in CLIENTS:
        name = f"serve, {clients} client{'s' * (clients > 1)}"
        speed, late = f"images_per_s_{clients}", f"p99_ms_{clients}"
        rows.append(Row(name, ("ours", speed), ("FastAPI", speed), "images/s", goal=2))
        rows.append(Row("  p99", ("ours", late), ("FastAPI", late), "ms", goal=1))
        rows.append(Row("  int8", ("int8", speed), ("FastAPI", speed), "images/s", goal=2))
        rows.append(Row("  int8, p99", ("int8", late), ("FastAPI", late), "ms", goal=1))
    return [
        *rows,
        Row("serve, memory", ("ours", "memory_mb"), ("FastAPI", "memory_mb"), "MB", goal=2),
        Row("serve, start", ("ours", "first_answer_s"), ("FastAPI", "first_answer_s"), "s", goal=3),
        Row("serve, 12 MP more", ("ours", "large_extra_ms"), None, "ms", goal=60, at_most=True),
    ]


BENCHMARK = Benchmark(
    name="serve",
    about=(
        "ResNet50, 133 classes, the same random weights and photos of 900 x 675: `python -m dogbreed.serving`, in fp32 "
        "and, if the processor supports it, with its int8 network, "
        "against FastAPI with torchvision's transform on PIL and eager torch, as in benchmark/plain_server.py. 240 "
        "requests each with 1, 2, 4 and 8 clients that wait for their answers, on the same cores. Memory: resident, "
        "afterwards. Start: from the command to the first answer. 12 MP more: 4000 x 3000 against a small photo."
    ),
    repeats=3,
    prepare=_prepare,
    sides={
        "FastAPI": lambda setup: _measured(setup, fastapi_command(setup)),
        "ours": lambda setup: _measured(setup, dogbreed_command(setup)),
        "int8": lambda setup: _measured(setup, dogbreed_command(setup, int8=True)),
    },
    rows=_rows,
)
