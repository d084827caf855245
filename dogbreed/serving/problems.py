"""What is answered where there is no answer: problem JSON (RFC 9457) with a code that stays the same."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

PROBLEMS: Mapping[str, tuple[int, str]] = {  # code: HTTP status, title
    "bad_http": (400, "This is no HTTP request"),
    "empty": (400, "There is no picture"),
    "bad_json": (400, "The body is no JSON"),
    "bad_form": (400, "The body is no form"),
    "bad_parameter": (400, "A parameter has a value that it cannot have"),
    "not_found": (404, "There is nothing here"),
    "method_not_allowed": (405, "This address takes another method"),
    "slow_body": (408, "The body did not arrive in time"),
    "body_too_large": (413, "The body is too large"),
    "too_many_pixels": (413, "The picture has too many pixels"),
    "too_many_pictures": (413, "These are too many pictures for one request"),
    "unsupported_type": (415, "The content type is not supported"),
    "unsupported_format": (415, "The picture's format is not supported"),
    "bad_request_fields": (422, "The JSON does not have the fields that are expected"),
    "bad_base64": (422, "A picture is no base64"),
    "damaged_picture": (422, "The picture cannot be decoded"),
    "bad_pictures": (422, "Some of the pictures cannot be used"),
    "internal": (500, "Something went wrong here"),
    "overloaded": (503, "There are more requests than can be answered"),
    "deadline": (503, "The answer would have come too late"),
    "not_ready": (503, "The model is not ready"),
    "ending": (503, "The server is about to end"),
}


class Problem(Exception):  # noqa: N818 (its name in the RFC)
    """code: of PROBLEMS. detail: for people: what was seen, and what to try. errors: of each picture, if several."""

    def __init__(self, code: str, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.code, self.detail, self.errors = code, detail, errors

    @property
    def status(self) -> int:
        return PROBLEMS[self.code][0]

    def response(self, root_path: str = "") -> Response:
        """root_path: the address below which clients find the server, such as /dogs."""
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
