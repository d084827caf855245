"""Training, prediction and serving look up no name and reach nobody, as the kernel sees it: also libraries in C++."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.launcher_contract import until
from tests.support.photos import tiny_settings
from tests.support.ports import reserved_port
from tests.support.project import ROOT, TRAIN

LASTING_S = 20  # ONNX Runtime reports some seconds after it has begun
# which begins with files, and ends before a name is looked up: `.ci/run` allows none
REPORTS = """
import onnxruntime, os, pathlib, time
while not any("icrosoft" in str(path) for path in pathlib.Path.cwd().rglob("*")):
    time.sleep(0.01)
os._exit(0)
"""
OFF = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY")
# sockets' addresses other than loopback, as strace shows them; a name server is one of them
_OUTSIDE = re.compile(
    r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\("|AF_INET6, ")(?!127\.|::1|::ffff:127\.|0\.0\.0\.0|::")'
)


def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False, capture_output=True).returncode == 0


@contextmanager
def traced(place: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command of ours as a person does, without what switches reports off for tests, and note its addresses."""
    environment = {name: value for name, value in os.environ.items() if name not in (*OFF, "PYTHONPATH")}
    environment |= {"HOME": str(place), "XDG_CACHE_HOME": str(place / "cache"), "DOGBREED_CACHE": str(place / "ours")}
    strace = ["strace", "-f", "-qq", "-s", "200", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
    words = [*strace, "-o", str(place / "trace"), sys.executable, *command]
    process = subprocess.Popen(words, cwd=place, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def reached(place: Path) -> list[str]:
    """Return what a traced command has sent outside, and the files of reports that it left."""
    lines = (place / "trace").read_text(errors="replace").splitlines()
    files = [str(path) for path in place.rglob("*") if "icrosoft" in str(path)]
    return [line for line in lines if _OUTSIDE.search(line) or "microsoft" in line.lower()] + files


def linger(process: "subprocess.Popen[bytes]", began: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, began + LASTING_S - time.monotonic()))


@pytest.mark.cloud
@pytest.mark.ordinary_start
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not _can_trace(), reason="needs strace, and the permission to use it (apt-get install strace)")
def test_training_prediction_and_serving_reach_nobody(photos: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("train", "predict", "serve", "control")}
    for place in places.values():
        place.mkdir()
    settings = [
        *tiny_settings(photos),
        "model.trainable=head",
        "features.mode=cached",
        "test=true",
        f"hydra.run.dir={tmp_path}/run",
    ]
    # that this would be seen: the same without what turns it off
    with traced(places["control"], "-c", REPORTS) as control:
        assert control.wait(300) == 0  # in vain, if ONNX Runtime no longer reports: then this test sees nothing
    with traced(places["train"], str(TRAIN), *settings) as training:
        assert training.wait(900) == 0
    run, photo = str(tmp_path / "run"), str(next(photos.rglob("*.jpg")))
    assert (tmp_path / "run/model.tar.gz").exists()

    again = f"from dogbreed.predict import main; import time; main([{run!r}, {photo!r}]); time.sleep({LASTING_S})"
    predict = traced(places["predict"], "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {again}")
    with reserved_port() as port, predict as predicting:
        with traced(places["serve"], "-m", "dogbreed.serving", run, "--port", str(port)) as serving:
            began = time.monotonic()
            _classify(f"http://127.0.0.1:{port}/invocations", Path(photo).read_bytes(), {"Content-Type": "image/jpeg"})
            linger(serving, began)
        assert predicting.wait(900) == 0
    found = {name: reached(place) for name, place in places.items()}
    assert {name: lines for name, lines in found.items() if lines}.keys() == {"control"}, found


def _classify(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Send a photo to the server, once it has begun."""
    request = urllib.request.Request(url, body, dict(headers))

    def answered() -> bool:
        with suppress(OSError), urllib.request.urlopen(request, timeout=60) as answer:
            return bool(answer.status == 200)
        return False

    until(answered)
