"""The server over real HTTP: what it answers, SageMaker's contract, load, and how it ends."""

import base64
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dogbreed.breeds import BREEDS, display_names
from dogbreed.inference import Predictor
from dogbreed.serving import docs
from dogbreed.serving.problems import PROBLEMS
from tests.support.odd_pictures import saved, upright
from tests.support.ports import reserved_port
from tests.support.serving import WAIT_S, Served, asked, metric, serving, stopped, tiny_model

PICTURES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
PNG = saved(upright(), "PNG")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model.tar.gz")


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(model, tmp_path_factory.mktemp("served")) as running:
        yield running


# what it answers


@pytest.mark.parametrize("content_type", [*PICTURES, "application/x-image", "application/octet-stream"])
def test_a_picture_is_answered_with_ranked_breeds(content_type: str, served: Served, model: Path) -> None:
    picture = saved(upright(), PICTURES.get(content_type, "JPEG"))
    reply = served.classify(picture, content_type=content_type)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    answer = reply.json
    assert answer.keys() == {"predictions", "unlike_training_photos", "probabilities", "model"}
    (expected,) = Predictor.from_artifact(model).predict_many([picture])
    assert [one["breed"] for one in answer["predictions"]] == [one.breed for one in expected]
    assert answer["predictions"][0]["probability"] == pytest.approx(expected[0].probability, abs=1e-7)
    assert len(answer["probabilities"]) == 133
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert answer["model"] == {
        "name": "tiny",
        "version": answer["model"]["version"],
        "run_id": "run-1",
        "precision": "fp32",
        "unlike": "on",
    }
    for one in answer["predictions"]:
        assert BREEDS[one["index"]] == one["label"]
        assert answer["probabilities"][one["index"]] == one["probability"]


def test_a_photo_unlike_the_training_photos_is_named_in_each_form_of_answer(served: Served) -> None:
    black = base64.b64encode(saved(0 * upright(), "PNG")).decode()
    usual = base64.b64encode(PNG).decode()
    assert served.invoke({"image": black}).json["unlike_training_photos"] is True
    assert served.classify(PNG).json["unlike_training_photos"] is False
    both = served.invoke({"images": [black, usual]}).json["results"]
    assert [one["unlike_training_photos"] for one in both] == [True, False]
    assert np.shape(served.invoke({"images": [black]}, accept="application/json;verbose=false").json) == (1, 133)
    assert "Judging whether photos are unlike the training photos: on" in served.log.read_text()


def test_the_bare_array_is_what_the_original_endpoint_gave(served: Served) -> None:
    full = served.classify(PNG).json["probabilities"]
    for accept in ("application/json;verbose=false", "Application/JSON; verbose=false"):
        assert served.classify(PNG, accept=accept).json == full
    assert served.classify(PNG, accept="application/json").json["probabilities"] == full
    text = base64.b64encode(PNG).decode()
    assert served.invoke({"images": [text, text]}, accept="application/json;verbose=false").json == [full, full]


def test_json_takes_one_picture_or_several(served: Served) -> None:
    text, other = (base64.b64encode(content).decode() for content in (PNG, saved(255 - upright(), "PNG")))
    alone = served.invoke({"image": text, "top": 2}).json
    assert alone == served.classify(PNG, "?top=2").json
    assert len(alone["predictions"]) == 2
    both = served.invoke({"images": [text, other]}).json
    assert both["results"][0]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)
    assert both["results"][0]["predictions"][0] != both["results"][1]["predictions"][0]
    assert "predictions" not in both


def test_each_bad_picture_of_a_batch_is_named(served: Served) -> None:
    good = base64.b64encode(PNG).decode()
    reply = served.invoke({"images": [good, base64.b64encode(b"GIF89a").decode(), base64.b64encode(PNG[:99]).decode()]})
    assert reply.status == 422
    assert [(e["picture"], e["code"]) for e in reply.json["errors"]] == [
        (1, "unsupported_format"),
        (2, "damaged_picture"),
    ]


def test_the_heat_map_says_where_the_first_breed_was_seen(served: Served, model: Path) -> None:
    predictor = Predictor.from_artifact(model)
    answer = predictor.answer(predictor.preprocess.pixels(PNG)[None])
    assert answer.heat_maps is not None
    expected = answer.heat_maps[0, answer.probabilities[0].argmax()]
    for reply in (
        served.classify(PNG, "?heat_map=true"),
        served.invoke({"image": base64.b64encode(PNG).decode(), "heat_map": True}),
    ):
        found = reply.json["heat_map"]
        assert found["crop_pct"] == 0.9
        rows = np.array(found["rows"])
        assert (rows.min(), rows.max()) == (0, 1)
        assert np.unravel_index(rows.argmax(), rows.shape) == np.unravel_index(expected.argmax(), expected.shape)
    assert "heat_map" not in served.classify(PNG).json


def test_a_server_says_how_long_each_part_took(served: Served) -> None:
    timing = served.classify(PNG).headers["server-timing"]
    assert re.fullmatch(r"wait;dur=[\d.]+, decode;dur=[\d.]+, network;dur=[\d.]+", timing)


def test_unknown_headers_and_a_missing_type_are_no_hindrance(served: Served) -> None:
    reply = served.ask("POST", "/invocations", PNG, x_amzn_sagemaker_custom_attributes="trace=1", x_unknown="y" * 5000)
    assert reply.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/../../etc/passwd", 404, "not_found"),
        ("GET", "/page.css/../app.py", 404, "not_found"),
        ("GET", "/invocations", 405, "method_not_allowed"),
        ("DELETE", "/ping", 405, "method_not_allowed"),
        ("POST", "/invocations", 400, "empty"),
    ],
)
def test_what_is_not_there_is_a_problem_with_a_code(
    method: str, path: str, status: int, code: str, served: Served
) -> None:
    reply = served.ask(method, path)
    assert (reply.status, reply.json["code"], reply.headers["content-type"]) == (
        status,
        code,
        "application/problem+json",
    )


def test_bodies_that_are_coded_are_refused(served: Served) -> None:
    assert served.classify(PNG, content_encoding="gzip").status == 415


def test_metrics_are_what_prometheus_reads(served: Served) -> None:
    before = [metric(served, "dogbreed_requests_total", code=code) for code in ("ok", "empty")]
    answered = metric(served, "dogbreed_part_seconds_count", part="network"), metric(served, "dogbreed_pictures_total")
    text = base64.b64encode(PNG).decode()
    assert [served.classify(PNG).status, served.classify(b"").status] == [200, 400]
    assert served.invoke({"images": [text, text, text]}).status == 200
    assert metric(served, "dogbreed_requests_total", code="ok") == before[0] + 2
    assert metric(served, "dogbreed_requests_total", code="empty") == before[1] + 1
    assert metric(served, "dogbreed_model", name="tiny", precision="fp32") == 1
    assert metric(served, "dogbreed_part_seconds_count", part="network") == answered[0] + 2
    assert metric(served, "dogbreed_pictures_total") == answered[1] + 4
    assert metric(served, "dogbreed_requests_waiting") == metric(served, "dogbreed_buffered_bytes") == 0


def test_times_are_counted_by_status(served: Served) -> None:
    before = {status: metric(served, "dogbreed_request_seconds_count", status=status) for status in ("200", "400")}
    for body in (PNG, b"", b"", PNG, PNG):
        served.classify(body)
    assert metric(served, "dogbreed_request_seconds_count", status="200") == before["200"] + 3
    assert metric(served, "dogbreed_request_seconds_count", status="400") == before["400"] + 2


def test_health_says_which_model_answers(served: Served) -> None:
    health = served.ask("GET", "/health").json
    assert health["status"] == "ready"
    assert health["model"] == served.classify(PNG).json["model"]


@pytest.mark.parametrize("path", ["/", "/docs", "/page.css", "/page.js", "/photo.js", "/docs.js", "/icon.svg"])
def test_pages_ask_nobody_else_for_anything(path: str, served: Served) -> None:
    reply = served.ask("GET", path)
    assert reply.status == 200
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    known = {b"http://www.w3.org", b"http://127.0.0.1:8080", b"http://127.0.0.1:%d" % served.port}
    assert not set(re.findall(rb"https?://[\w.:-]+", reply.body)) - known


def test_every_problem_has_its_place_in_the_docs(served: Served) -> None:
    page = served.ask("GET", "/docs").body.decode()
    assert all(f'id="{code}"' in page for code in PROBLEMS)


# SageMaker's contract: `serve`, /opt/ml/model, port 8080; sockets within 250 ms, /ping within 2 s, answers within 60 s


def test_ping_is_200_only_after_a_warm_up(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path, ready=False) as running:
        statuses = []
        while 200 not in statuses:
            reply = running.ask("GET", "/ping")
            statuses.append(reply.status)
            assert reply.body == b""
        assert set(statuses) <= {200, 503}
        assert running.classify(PNG).status == 200
        assert "Ready: tiny fp32" in running.log.read_text()


def test_what_cannot_be_served_ends_the_server_with_words(tmp_path: Path) -> None:
    (tmp_path / "text.tar.gz").write_text("no artifact")
    (tmp_path / "torn.tar.gz").write_bytes(tiny_model(tmp_path / "good.tar.gz").read_bytes()[:5000])
    for name, words in (
        ("text.tar.gz", "is not a valid artifact"),
        ("torn.tar.gz", "is not valid: "),
        ("none", "is not a valid artifact"),
    ):
        command = [sys.executable, "-m", "dogbreed.serving", str(tmp_path / name), "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 1
        assert "error: " in done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_taken_port_ends_the_server_with_words(model: Path, served: Served) -> None:
    command = [sys.executable, "-m", "dogbreed.serving", str(model), "--port", str(served.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 3
    assert "address already in use" in done.stderr


def test_serve_takes_sagemakers_word_folder_and_port(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    import tarfile

    from dogbreed.serving import __main__ as command

    with tarfile.open(model) as packed:
        packed.extractall(tmp_path / "model", filter="data")
    given: list[tuple[Any, ...]] = []

    class Recorded:
        error = None

        def __init__(self, *arguments: Any) -> None:
            given.append(arguments)

        def run(self) -> None:
            pass

    monkeypatch.setattr("dogbreed.serving.server.Server", Recorded)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["serve", "serve"])
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "9090")
    assert command.serve() == 0
    ((predictor, settings),) = given
    assert (settings.host, settings.port) == ("0.0.0.0", 9090)
    assert predictor.result().about == Predictor.from_artifact(model).about


def test_the_limits_of_the_contract_are_kept_under_load(served: Served) -> None:
    """Measured while all is busy. A machine that tests share may be slow, or stand still for a while: the limits are
    taken ten times as long, and the median counts.
    """
    stop = threading.Event()
    connected_s, answered_s = [], []
    hard = saved(np.random.default_rng(0).integers(256, size=(1500, 1500, 3), dtype=np.uint8), "PNG")

    def load() -> None:
        with closing(served.connect()) as connection:
            while not stop.is_set():
                reply = asked(connection, "POST", "/invocations", hard[:6_000_000], content_type="image/png")
                assert reply.status in (200, 413, 422)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            began = time.monotonic()
            with served.open_socket():
                connected_s.append(time.monotonic() - began)
            began = time.monotonic()
            assert served.ask("GET", "/ping").status == 200
            answered_s.append(time.monotonic() - began)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statistics.median(connected_s) < 2.5
    assert statistics.median(answered_s) < 20


def test_a_killed_server_leaves_nothing_that_keeps_the_next_from_starting(model: Path, tmp_path: Path) -> None:
    before = sorted(model.parent.iterdir())
    with reserved_port() as port:
        with serving(model, tmp_path, "--port", str(port)) as first:
            assert first.classify(PNG).status == 200
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        with serving(model, tmp_path, "--port", str(port)) as second:
            assert second.port == first.port == port
            assert second.classify(PNG).status == 200
    assert sorted(model.parent.iterdir()) == before


# the same answer everywhere


@pytest.mark.exports
def test_endpoint_command_notebook_and_evaluation_agree_on_200_photos(tmp_path: Path) -> None:
    from tests.support.photos import make_photos
    from tests.support.runs import config, run

    photos = make_photos(tmp_path / "photos", classes=4, train=8, valid=4, test=50, px=48)
    folder = tmp_path / "run"
    run(config(photos), folder)
    rows = [line.split(",") for line in (folder / "predictions.csv").read_text().splitlines()[1:]]
    assert len(rows) == 200
    paths = [photos / row[0] for row in rows]
    names, best = [row[2] for row in rows], np.array([float(row[3]) for row in rows])
    evaluated = Predictor.from_checkpoint(folder)
    notebook = Predictor.from_artifact(folder)
    expected = evaluated.probabilities(paths)
    assert np.abs(expected.max(1) - best).max() < 1e-4  # the run's own test, in batches
    assert np.abs(notebook.probabilities(paths) - expected).max() < 1e-4
    assert [evaluated.labels[n] for n in expected.argmax(1)] == names
    command = [sys.executable, "-m", "dogbreed.predict", str(folder), "--json", *map(str, paths)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    said = [json.loads(line)["predictions"][0] for line in printed.splitlines()]
    shown = dict(zip(evaluated.labels, display_names(evaluated.labels), strict=True))
    assert [one["breed"] for one in said] == [shown[name] for name in names]
    assert np.abs(np.array([one["probability"] for one in said]) - best).max() < 1e-4
    with serving(folder, tmp_path) as running, closing(running.connect()) as connection:
        answers = np.array(
            [
                asked(
                    connection, "POST", "/invocations", path.read_bytes(), accept="application/json;verbose=false"
                ).json
                for path in paths
            ]
        )
    assert np.abs(answers - expected).max() < 1e-4
    assert (answers.argmax(1) == expected.argmax(1)).all()
    assert len(set(names)) > 1


def test_the_readmes_way_to_ask_works(served: Served, tmp_path: Path) -> None:
    """The examples of /docs, as they stand there, against this server."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(saved(upright(), "JPEG"))
    for name, example in docs.EXAMPLES.items():
        code = example.replace("127.0.0.1:8080", f"127.0.0.1:{served.port}")
        command = [sys.executable, "-c", code] if name.startswith("Python") else ["bash", "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "no_proxy": "*"}
        )
        assert done.returncode == 0, done.stderr
        answer = done.stdout
        assert "breed" in answer or len(json.loads(answer)) == 133


def test_an_unpacked_folder_is_served_too(model: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(model) as packed:
        packed.extractall(tmp_path / "model", filter="data")
    with serving(tmp_path / "model", tmp_path) as running:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/health") as reply:
            assert json.load(reply)["model"]["name"] == "tiny"
        assert stopped(running) == 0
