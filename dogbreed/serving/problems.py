"""Error responses: problem JSON (RFC 9457) with stable codes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

PROBLEMS: Mapping[str, tuple[int, str]] = {  # code: HTTP status, title
    "bad_http": (400, "The request is not valid HTTP"),
    "empty": (400, "The request contains no picture"),
    "bad_json": (400, "The body is not valid JSON"),
    "bad_form": (400, "The body is not a valid form"),
    "bad_parameter": (400, "A parameter has an invalid value"),
    "not_found": (404, "The path does not exist"),
    "method_not_allowed": (405, "The path does not support this method"),
    "slow_body": (408, "The body did not arrive in time"),
    "body_too_large": (413, "The body is too large"),
    "too_many_pixels": (413, "The picture has too many pixels"),
    "too_many_pictures": (413, "The request has too many pictures"),
    "unsupported_type": (415, "The content type is not supported"),
    "unsupported_format": (415, "The picture's format is not supported"),
    "bad_request_fields": (422, "The JSON does not have the expected fields"),
    "bad_base64": (422, "A picture is not valid base64"),
    "damaged_picture": (422, "The picture cannot be decoded"),
    "bad_pictures": (422, "Some of the pictures cannot be used"),
    "internal": (500, "Internal server error"),
    "overloaded": (503, "The server is overloaded"),
    "deadline": (503, "The request exceeded its deadline"),
    "not_ready": (503, "The model is not ready"),
    "ending": (503, "The server is shutting down"),
}


class Problem(Exception):  # noqa: N818 (its name in the RFC)
    """An error that is returned to the client as problem JSON.

    code: a key of PROBLEMS. detail: what was seen, and what to try. errors: one per unusable picture of a batch.
    """

    def __init__(self, code: str, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.code, self.detail, self.errors = code, detail, errors

    @property
    def status(self) -> int:
        return PROBLEMS[self.code][0]

    def response(self, root_path: str = "") -> Response:
        """Return the HTTP response. root_path: the path prefix under which clients reach the server, such as /dogs."""
        status, title = PROBLEMS[self.code]
        body = {
            "type": f"{root_path}/docs#{self.code}",
            "title": title,
            "status": status,
            "code": self.code,
            "detail": self.detail,
            **({"errors": self.errors} if self.errors else {}),
        }
        headers = {"Retry-After": "1"} if status == 503 else {}
        return Response(as_json(body), status, headers, media_type="application/problem+json")


def as_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()  # ASCII: no text can fail to be encoded
