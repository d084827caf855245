"""What a Lambda function with a model is told and asked: its variables, and events as function URLs send them."""

import base64
from collections.abc import Mapping
from typing import Any

BODY_BYTES = 4_400_000  # an event has at most 6 MB, and a picture is in it as base64
MODEL_URI, MODEL_SHA256 = "DOGBREED_MODEL_URI", "DOGBREED_MODEL_SHA256"  # of a model that is not in the package


def event(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a request as a function URL sends it, in payload format 2.0."""
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": dict(headers or {}),
        "requestContext": {"http": {"method": method, "path": path, "sourceIp": "direct"}},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


def content(answer: Mapping[str, Any]) -> bytes:
    """Return the body of an answer to such an event."""
    text = str(answer.get("body") or "")
    return base64.b64decode(text) if answer.get("isBase64Encoded") else text.encode()
