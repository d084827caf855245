"""The server in a Lambda function: events of function URLs, direct calls, and what is loaded at the start."""

import base64
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from dogbreed.errors import ArtifactError
from dogbreed.inference import Predictor
from dogbreed.serving.event import BODY_BYTES, MODEL_SHA256, MODEL_URI, content
from dogbreed.serving.function import Function
from tests.support.function_events import event
from tests.support.odd_pictures import saved, upright
from tests.support.serving import PATIENT_S, tiny_model

CONTEXT = SimpleNamespace(aws_request_id="8f5d-1")
PHOTO = saved(upright(), "JPEG")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("function") / "model.tar.gz")


@pytest.fixture(scope="module", autouse=True)
def log_levels() -> Iterator[None]:
    """Restore them: a function sets those of its process."""
    loggers = [logging.getLogger(), logging.getLogger("mangum")]
    before = [each.level for each in loggers]
    yield
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)


@pytest.fixture(scope="module")
def function(model: Path) -> Iterator[Function]:
    made = Function.of({"DOGBREED_DEADLINE_S": PATIENT_S}, model)
    yield made
    made.close()


def test_a_photo_gets_the_answer_that_predict_gives(function: Function, model: Path) -> None:
    answer = function(event("POST", "/invocations", PHOTO, content_type="image/jpeg"), CONTEXT)
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"] == "application/json"
    expected = Predictor.from_artifact(model).probabilities([PHOTO])[0]
    assert json.loads(content(answer))["probabilities"] == pytest.approx(list(expected), abs=1e-6)


def test_a_direct_call_is_what_the_api_takes_as_json(function: Function) -> None:
    by_url = function(event("POST", "/invocations", PHOTO, content_type="image/jpeg"), CONTEXT)
    direct = function({"image": base64.b64encode(PHOTO).decode()}, CONTEXT)
    assert json.loads(direct["body"]) == json.loads(by_url["body"])


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/", "text/html", b"page.js"),
        ("/page.css", "text/css", b"{"),
        ("/icon.svg", "image/svg", b"<svg"),
        ("/docs", "text/html", b"https://abc.lambda-url.eu-west-1.on.aws/invocations"),
        ("/openapi.json", "application/json", b"/invocations"),
        ("/metrics", "text/plain", b"dogbreed_pictures"),
    ],
)
def test_the_page_and_the_docs_are_there(path: str, kind: str, words: bytes, function: Function) -> None:
    answer = function(event("GET", path), CONTEXT)
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"].startswith(kind)
    assert words in content(answer)


def test_the_page_is_told_how_large_a_photo_may_be(function: Function) -> None:
    assert json.loads(function(event("GET", "/health"), CONTEXT)["body"])["max_body_bytes"] == BODY_BYTES
    assert len(base64.b64encode(bytes(BODY_BYTES))) < 6 * 2**20 - 100_000  # Lambda's limit, and its own part


def test_a_body_that_lambda_could_not_take_is_refused_with_words(function: Function) -> None:
    answer = function(event("POST", "/invocations", bytes(BODY_BYTES + 1), content_type="image/png"), CONTEXT)
    assert answer["statusCode"] == 413
    assert json.loads(answer["body"])["code"] == "body_too_large"
    assert "connection" not in answer["headers"]  # it is Lambda's


@pytest.mark.parametrize(
    ("odd", "status"),
    [
        (None, 422),
        ([], 422),
        ("dog", 422),
        ({}, 422),
        ({"image": "%"}, 422),
        ({"requestContext": None}, 400),
        ({"version": "2.0", "requestContext": {}}, 400),
        ({**event("POST", "/invocations"), "body": "é"}, 400),
        ({**event("POST", "/invocations"), "headers": {"content-type": 7}}, 400),
        ({**event("GET", "/ping"), "headers": None, "body": None}, 200),
    ],
)
def test_an_event_that_is_none_is_refused_with_words(odd: Any, status: int, function: Function) -> None:
    answer = function(odd, CONTEXT)
    assert answer["statusCode"] == status
    if status != 200:
        assert json.loads(answer["body"])["detail"]


def test_a_request_has_the_id_of_lambdas_log_or_its_own(function: Function) -> None:
    assert function(event("GET", "/ping"), CONTEXT)["headers"]["x-request-id"] == "8f5d-1"
    assert function(event("GET", "/ping", x_request_id="mine"), CONTEXT)["headers"]["x-request-id"] == "mine"


# --- a model in S3 ---


@pytest.fixture
def in_s3(model: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Stands for S3, and keeps what is asked of it."""
    asked = []

    def download_file(bucket: str, key: str, path: str) -> None:
        asked.append((bucket, key))
        Path(path).write_bytes(model.read_bytes())

    monkeypatch.setattr(boto3, "client", lambda service: SimpleNamespace(download_file=download_file))
    return asked


def test_a_model_in_s3_is_loaded_at_the_start(
    in_s3: list[tuple[str, str]], model: Path, tmp_path: Path, function: Function
) -> None:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    made = Function.of({MODEL_URI: "s3://bucket/models/dogs.tar.gz", MODEL_SHA256: digest}, tmp_path / "model")
    assert in_s3 == [("bucket", "models/dogs.tar.gz")]
    assert made(event("POST", "/invocations", PHOTO), CONTEXT)["statusCode"] == 200
    made.close()
    assert function(event("POST", "/invocations", PHOTO), CONTEXT)["statusCode"] == 200  # each for itself


@pytest.mark.parametrize("digest", ["0" * 64, ""])
def test_another_model_than_the_function_was_deployed_for_is_not_served(
    digest: str, in_s3: list[tuple[str, str]], tmp_path: Path
) -> None:
    given = {MODEL_URI: "s3://bucket/models/dogs.tar.gz", MODEL_SHA256: digest}
    with pytest.raises(ArtifactError, match=r"The SHA-256 of s3://bucket/models/dogs\.tar\.gz is "):
        Function.of(given, tmp_path / "model")


def test_the_handler_names_nothing_that_the_package_lacks() -> None:
    from launchers.payload import package

    entry = dict(package.contents(Path(__file__).parents[2]))[f"{package.HANDLER.partition('.')[0]}.py"].decode()
    assert re.findall(r"^(?:from|import) (\w+)", entry, re.MULTILINE) == ["os", "pathlib", "dogbreed"]
    compile(entry, "lambda_function.py", "exec")
