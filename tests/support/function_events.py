"""Events as a function URL sends them to a Lambda function."""

from typing import Any

from dogbreed.serving import event as ours


def event(method: str, path: str, body: bytes = b"", **headers: str) -> dict[str, Any]:
    """A request in payload format 2.0. Headers: `content_type` stands for Content-Type."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    host = {"host": "abc.lambda-url.eu-west-1.on.aws", "x-forwarded-proto": "https"}
    return ours.event(method, path, body, {**host, **named})
