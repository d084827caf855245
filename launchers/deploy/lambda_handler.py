"""Answer with the class probabilities of a photo: checks it, and asks the endpoint.

The Lambda function in front of an endpoint. It is sent as this single file, so it imports the standard library and
boto3, which Lambda's runtime has, and nothing of this project.

Two kinds of events are understood: that of a function URL (payload format 2.0), whose body is the photo, and a direct
one, {"body": the photo in base64, "content_type": "image/jpeg"}. The answer to both is {"statusCode", "headers",
"body"}; the body is the list of probabilities in the order of the model's labels, or, for `Accept:
application/json;verbose=true` ("accept" in a direct event), the endpoint's whole answer with names.
"""

import base64
import binascii
import json
import os
import re
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError

LARGEST = 4_600_000  # bytes of a photo: in base64, with what else is in an event, just below Lambda's 6 MB
RETRY_AFTER_S = 1
# at most 2 x (1 + 8) s, within the function's own time; boto3's 60 s and 5 attempts would pile work up at the endpoint
CONFIG = Config(connect_timeout=1, read_timeout=8, retries={"total_max_attempts": 2, "mode": "standard"})
client = boto3.client("sagemaker-runtime", config=CONFIG)

_BODY = ("body", "content", "image", "data")  # names that direct events have for the photo, and for its type
_TYPE = ("content_type", "contentType", "content-type", "type")
_PATHS = ("/", "/invocations")
_UNTYPED = (
    "",
    "application/octet-stream",
    "application/x-image",
    "application/x-www-form-urlencoded",
    "binary/octet-stream",
)
_FORMATS = {  # the first bytes of a file -> its type
    rb"\xff\xd8\xff": "image/jpeg",
    rb"\x89PNG\r\n\x1a\n": "image/png",
    rb"RIFF....WEBP": "image/webp",
}
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
_TITLES = {
    400: "The request cannot be understood",
    404: "The path does not exist",
    405: "The path does not support this method",
    413: "The photo is too large",
    415: "The photo's type is not supported",
    422: "The photo cannot be decoded",
    429: "Too many requests",
    500: "Internal error",
    502: "The endpoint failed",
    503: "The endpoint is not available",
    504: "The endpoint did not answer in time",
}


class Problem(Exception):  # noqa: N818 (its name in RFC 9457)
    """What is answered instead of probabilities. code: a stable word. detail: what was seen, and what to try.

    body: the endpoint's own words, if they are for whoever sent the photo.
    """

    def __init__(self, status: int, code: str, detail: str, body: str = "") -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.body = status, code, detail, body


def handler(event: Any, context: Any) -> dict[str, Any]:
    began = time.monotonic()
    seen: dict[str, Any] = {"requestId": context.aws_request_id}
    try:
        photo, kind, accept = _photo(event, seen)
        answer = _answer(_headers("application/json"), 200, _asked(photo, kind, accept, seen))
    except Problem as problem:
        seen["code"] = problem.code
        answer = _refusal(problem)
    seen |= {"status": answer["statusCode"], "ms": _ms(began)}
    print(json.dumps(seen))  # never the photo, nor what is known of who sent it
    return answer


# --- the request ---


def _photo(event: Any, seen: dict[str, Any]) -> tuple[bytes, str, str]:
    """Return the photo, its type and what is accepted. Raises Problem."""
    http = _within(_within(event, "requestContext"), "http")
    photo, kind, accept = _of_url(event, http) if http else _direct(event)
    seen["bytes"] = len(photo)
    if not photo:
        raise Problem(400, "empty", "The request contains no photo. Try: curl --data-binary @PHOTO.jpg")
    if len(photo) > LARGEST:
        limit = f"at most {LARGEST:,} pass through a Lambda function"
        raise Problem(413, "body_too_large", f"The photo has {len(photo):,} bytes, and {limit}. Try: a smaller photo")
    found = next((name for start, name in _FORMATS.items() if re.match(start, photo, re.DOTALL)), None)
    named = kind.partition(";")[0].strip().lower()
    if found is None or (named not in _UNTYPED and _ALIASES.get(named, named) != found):
        what = "The body is not a JPEG, PNG or WebP" if found is None else f"The body is {found}, not {named}"
        raise Problem(415, "unsupported_type", f"{what}. Try: such a photo, with its own Content-Type")
    seen["type"] = found
    return photo, found, accept


def _of_url(event: dict[str, Any], http: dict[str, Any]) -> tuple[bytes, str, str]:
    headers = _lowered(event)
    path, method = str(event.get("rawPath", "/")), str(http.get("method", "POST"))
    if path not in _PATHS:
        raise Problem(404, "not_found", f"There is no path {path[:80]}. Try: POST /")
    if method != "POST":
        raise Problem(405, "method_not_allowed", f"{method[:20]} is not supported. Try: POST with a photo as the body")
    kind, accept = headers.get("content-type", ""), headers.get("accept", "")
    body = str(event.get("body") or "")
    if event.get("isBase64Encoded"):
        return _decoded(body), kind, accept
    if kind.partition(";")[0].strip().lower() == "application/json" and body:
        try:
            photo, kind, asked = _direct(json.loads(body))
        except (ValueError, RecursionError):
            raise Problem(400, "bad_json", "The body is not valid JSON.") from None
        return photo, kind, asked or accept
    return body.encode(errors="replace"), kind, accept


def _direct(event: Any) -> tuple[bytes, str, str]:
    if not isinstance(event, dict):
        raise Problem(
            400, "bad_event", 'The event is not an object. Try: {"body": BASE64, "content_type": "image/jpeg"}'
        )
    body = next((event[name] for name in _BODY if name in event), None)
    if not isinstance(body, str):
        raise Problem(400, "empty", 'The event has no photo. Try: {"body": BASE64, "content_type": "image/jpeg"}')
    headers = _lowered(event)
    kind = next((event[name] for name in _TYPE if name in event), headers.get("content-type", ""))
    return _decoded(body), str(kind), str(event.get("accept", headers.get("accept", "")))


def _within(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _lowered(event: dict[str, Any]) -> dict[str, str]:
    """Return the event's headers by lower-case name."""
    return {str(name).lower(): str(value) for name, value in _within(event, "headers").items()}


def _decoded(text: str) -> bytes:
    if len(text) > (LARGEST + 2) // 3 * 4 + 4:  # before it takes any memory
        raise Problem(413, "body_too_large", f"The photo has more than {LARGEST:,} bytes. Try: a smaller photo")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(422, "bad_base64", "The photo is not valid base64.") from None


# --- the endpoint ---


def _asked(photo: bytes, kind: str, accept: str, seen: dict[str, Any]) -> str:
    """Return the endpoint's answer. Raises Problem."""
    verbose = re.search(r";\s*verbose=true\b", accept, re.IGNORECASE) is not None
    wanted = "application/json" if verbose else "application/json;verbose=false"
    began = time.monotonic()
    try:
        answer = client.invoke_endpoint(
            EndpointName=os.environ["ENDPOINT"], ContentType=kind, Accept=wanted, Body=photo
        )
        return str(answer["Body"].read().decode())
    except ClientError as error:
        seen["endpoint"] = error.response.get("Error", {}).get("Code", "")
        raise _problem(error) from None
    except (ReadTimeoutError, ConnectTimeoutError):
        raise Problem(504, "timeout", "The endpoint did not answer in time. Try: again, later") from None
    except BotoCoreError as error:
        seen["endpoint"] = type(error).__name__
        raise Problem(502, "unreachable", "The endpoint cannot be reached.") from None
    finally:
        seen["endpointMs"] = _ms(began)


def _problem(error: ClientError) -> Problem:
    """Return what an error of the endpoint means for whoever sent the photo; AWS's own words stay in the log."""
    code = error.response.get("Error", {}).get("Code", "")
    if code == "ModelError":
        return _of_container(error.response)
    if code in ("ThrottlingException", "TooManyRequestsException", "Throttling"):
        return Problem(429, "throttled", "There are more requests than the endpoint takes. Try: again, later")
    if code in ("ServiceUnavailable", "ServiceUnavailableException", "ModelNotReadyException"):
        return Problem(503, "not_ready", "The endpoint is not available. Try: again, later")
    if code == "413":
        return Problem(413, "body_too_large", "The photo is larger than the endpoint takes. Try: a smaller photo")
    if code in ("ValidationError", "ValidationException"):
        return Problem(502, "no_endpoint", "The endpoint is not there.")
    if code in ("AccessDeniedException", "AccessDenied"):
        return Problem(502, "denied", "The function may not ask the endpoint.")
    return Problem(502, "endpoint_failed", "The endpoint failed.")


def _of_container(response: dict[str, Any]) -> Problem:
    """Return what a container's own error means: those of the request are passed on, others are not told."""
    status, text = int(response.get("OriginalStatusCode") or 0), str(response.get("OriginalMessage") or "")
    if 400 <= status < 500:
        return Problem(status, "refused", text[:200], text if _is_problem(text) else "")
    message = f"{text} {response.get('Error', {}).get('Message', '')}"
    if "timed out" in message:
        return Problem(504, "timeout", "The endpoint did not answer in time. Try: again, later")
    if status == 503:
        return Problem(503, "overloaded", "The endpoint is overloaded, or not ready. Try: again, later")
    return Problem(502, "endpoint_failed", "The endpoint failed.")


def _is_problem(text: str) -> bool:
    """Return whether a container's message is problem JSON."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and "title" in found


# --- the answer ---


def _refusal(problem: Problem) -> dict[str, Any]:
    said = {
        "title": _TITLES.get(problem.status, _TITLES[400]),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
    }
    headers = _headers("application/problem+json")
    if problem.status in (429, 503, 504):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if problem.status == 405:
        headers["Allow"] = "POST"
    return _answer(headers, problem.status, problem.body or json.dumps(said))


def _answer(headers: dict[str, str], status: int, body: str) -> dict[str, Any]:
    return {"statusCode": status, "headers": headers, "body": body}


def _headers(kind: str) -> dict[str, str]:
    return {"Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _ms(began: float) -> float:
    return round(1e3 * (time.monotonic() - began), 1)
