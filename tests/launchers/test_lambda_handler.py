"""The Lambda function in front of an endpoint: both kinds of events, and what each error becomes."""

import ast
import base64
import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from tests.support.odd_pictures import saved, upright

PROBABILITIES = [0.25, 0.75]
JPEG = b"\xff\xd8\xff\xe0" + b"x" * 100
WEBP = b"RIFF\x01\x02\x03\x04WEBPVP8 "
CONTEXT = SimpleNamespace(aws_request_id="r-1")


class Endpoint:
    """Stands for SageMaker's runtime: answers, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, dict[str, Any]()

    def invoke_endpoint(self, **asked: Any) -> dict[str, Any]:
        self.asked = asked
        if self.error is not None:
            raise self.error
        answer = {"predictions": []} if "verbose" not in asked["Accept"] else PROBABILITIES
        return {"Body": io.BytesIO(json.dumps(answer).encode())}


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("ENDPOINT", "dogbreed-dogs")
    from launchers.deploy import lambda_handler

    monkeypatch.setattr(lambda_handler, "client", Endpoint())
    return lambda_handler


def url_event(
    body: bytes = b"", *, text: str | None = None, method: str = "POST", path: str = "/", **headers: str
) -> Any:
    """Return the event of a function URL; `text` is a body that is not in base64."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = text if text is not None else base64.b64encode(body).decode()
    http = {"method": method, "path": path}
    encoded = {"body": content, "isBase64Encoded": text is None} if content else {"isBase64Encoded": False}
    return {"version": "2.0", "rawPath": path, "headers": named, "requestContext": {"http": http}, **encoded}


def direct(photo: bytes, **more: Any) -> dict[str, Any]:
    return {"body": base64.b64encode(photo).decode(), "content_type": "image/jpeg", **more}


def code_of(answer: dict[str, Any]) -> tuple[int, str]:
    return answer["statusCode"], json.loads(answer["body"])["code"]


@pytest.mark.parametrize(
    "event",
    [
        direct(JPEG),
        {"content": base64.b64encode(JPEG).decode(), "type": "image/jpeg"},
        {"body": base64.b64encode(JPEG).decode(), "headers": {"Content-Type": "image/jpeg"}},
        url_event(JPEG, content_type="image/jpeg"),
        url_event(JPEG, content_type="application/x-www-form-urlencoded"),  # curl's own
        url_event(JPEG, path="/invocations"),
        url_event(text=json.dumps(direct(JPEG)), content_type="application/json"),
    ],
)
def test_a_photo_is_answered_with_bare_probabilities(front: ModuleType, event: Any) -> None:
    answer = front.handler(event, CONTEXT)
    assert json.loads(answer["body"]) == PROBABILITIES
    assert (answer["statusCode"], answer["headers"]["Content-Type"]) == (200, "application/json")
    asked = front.client.asked
    assert (asked["EndpointName"], asked["Body"], asked["ContentType"]) == ("dogbreed-dogs", JPEG, "image/jpeg")


def test_names_are_answered_where_they_are_asked_for(front: ModuleType) -> None:
    for event in (
        direct(JPEG, accept="application/json;verbose=true"),
        url_event(JPEG, accept="application/json; verbose=true"),
    ):
        assert json.loads(front.handler(event, CONTEXT)["body"]) == {"predictions": []}


@pytest.mark.parametrize("picture", [saved(upright(), kind) for kind in ("JPEG", "PNG", "WEBP")])
def test_the_types_that_the_endpoint_takes_pass(front: ModuleType, picture: bytes) -> None:
    assert front.handler(url_event(picture), CONTEXT)["statusCode"] == 200


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (url_event(), (400, "empty")),
        (direct(b""), (400, "empty")),
        ({}, (400, "empty")),
        ({"body": None}, (400, "empty")),
        ("hello", (400, "bad_event")),
        ([1], (400, "bad_event")),
        (url_event(text="{", content_type="application/json"), (400, "bad_json")),
        (url_event(text="[" * 100_000, content_type="application/json"), (400, "bad_json")),
        (url_event(text="a text about dogs", content_type="text/plain"), (415, "unsupported_type")),
        (url_event(b"GIF89a..", content_type="image/gif"), (415, "unsupported_type")),
        (url_event(JPEG, content_type="image/png"), (415, "unsupported_type")),
        (url_event(JPEG, content_type="multipart/form-data; boundary=x"), (415, "unsupported_type")),
        (direct(b"x" * 4_600_001), (413, "body_too_large")),
        (direct(b"x" * 7_000_000), (413, "body_too_large")),
        ({"body": "not base64!", "content_type": "image/jpeg"}, (422, "bad_base64")),
        (url_event(JPEG, method="GET"), (405, "method_not_allowed")),
        (url_event(JPEG, path="/docs"), (404, "not_found")),
    ],
)
def test_what_is_no_photo_is_refused_before_the_endpoint_is_asked(
    front: ModuleType, event: Any, expected: tuple[int, str]
) -> None:
    answer = front.handler(event, CONTEXT)
    assert code_of(answer) == expected
    assert answer["headers"]["Content-Type"] == "application/problem+json"
    assert front.client.asked == {}


def test_the_largest_photo_passes(front: ModuleType) -> None:
    assert front.handler(direct(JPEG + b"x" * (front.LARGEST - len(JPEG))), CONTEXT)["statusCode"] == 200


def error(code: str, status: int = 400, **more: Any) -> ClientError:
    response: dict[str, Any] = {"Error": {"Code": code, "Message": "arn:aws:secret"}, "ResponseMetadata": {}, **more}
    return ClientError({**response, "ResponseMetadata": {"HTTPStatusCode": status}}, "InvokeEndpoint")


def of_model(status: int, message: str = "Traceback: secret") -> ClientError:
    return error("ModelError", 424, OriginalStatusCode=status, OriginalMessage=message)


TABLE = [
    (of_model(422, '{"title": "The picture cannot be decoded"}'), 422, ""),
    (of_model(400, "what?"), 400, "refused"),
    (of_model(500), 502, "endpoint_failed"),
    (of_model(503), 503, "overloaded"),
    (of_model(0, "Your invocation timed out while waiting for a response from container primary."), 504, "timeout"),
    (error("ThrottlingException"), 429, "throttled"),
    (error("ModelNotReadyException", 429), 503, "not_ready"),
    (error("ServiceUnavailable", 503), 503, "not_ready"),
    (error("ValidationError"), 502, "no_endpoint"),
    (error("AccessDeniedException", 403), 502, "denied"),
    (error("InternalFailure", 500), 502, "endpoint_failed"),
    (error("InternalDependencyException", 530), 502, "endpoint_failed"),
    (error("413", 413), 413, "body_too_large"),
    (ReadTimeoutError(endpoint_url="https://x"), 504, "timeout"),
    (ConnectTimeoutError(endpoint_url="https://x"), 504, "timeout"),
    (EndpointConnectionError(endpoint_url="https://x"), 502, "unreachable"),
]


@pytest.mark.parametrize(("raised", "status", "code"), TABLE)
def test_each_error_of_the_endpoint_has_its_status_and_tells_nothing_of_its_inside(
    front: ModuleType, raised: Exception, status: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    front.client.error = raised
    answer = front.handler(direct(JPEG), CONTEXT)
    said = json.loads(answer["body"])
    assert (answer["statusCode"], said.get("code", "")) == (status, code)
    assert ("Retry-After" in answer["headers"]) == (status in (429, 503, 504))
    assert "secret" not in answer["body"]
    log = json.loads(capsys.readouterr().out)
    assert (log["requestId"], log["status"], log["bytes"], log["type"]) == ("r-1", status, len(JPEG), "image/jpeg")


@given(event=st.recursive(st.none() | st.text() | st.integers(), lambda each: st.lists(each) | st.dictionaries(
    st.sampled_from(["body", "headers", "requestContext", "http", "isBase64Encoded", "content_type", "rawPath"]), each
)))  # fmt: skip
def test_no_event_breaks_it(event: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        patch.setenv("ENDPOINT", "dogbreed-dogs")
        from launchers.deploy import lambda_handler

        patch.setattr(lambda_handler, "client", Endpoint())
        answer = lambda_handler.handler(event, CONTEXT)
    assert 400 <= answer["statusCode"] < 500


def test_it_is_one_file_that_needs_boto3_alone_and_logs_no_photo(
    front: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = ast.parse(Path(str(front.__file__)).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names == {"boto3", "botocore"}
    front.handler(url_event(JPEG, authorization="secret", content_type="image/jpeg"), CONTEXT)
    line = capsys.readouterr().out
    assert set(json.loads(line)) == {"requestId", "bytes", "type", "endpointMs", "status", "ms"}


def test_the_client_gives_up_before_the_function_does(front: ModuleType) -> None:
    assert front.CONFIG.retries["total_max_attempts"] * (front.CONFIG.connect_timeout + front.CONFIG.read_timeout) < 20
