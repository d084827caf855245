"""Parse pictures from multipart/form-data, as sent by `curl -F` and `requests.post(files=...)`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dogbreed.serving.problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 1000  # files and other fields


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)

    @property
    def is_file(self) -> bool:
        """Return whether it has a file name or a file's type. An empty file field has neither name nor content."""
        _, options = parse_options_header(self.headers.get(b"content-disposition"))
        if b"filename" in options:
            return bool(options[b"filename"] or self.content)
        kind = self.headers.get(b"content-type", b"").strip().lower()
        return kind.startswith((b"image/", b"application/octet-stream"))


class _Reader:
    """Collects a form's parts from the parser's callbacks."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.complete = False
        self._name, self._value = bytearray(), bytearray()

    def on_part_begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise FormParserError(f"it has more than {_MAX_PARTS} fields")
        self.parts.append(_Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self.parts[-1].headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].content += data[start:end]

    def on_end(self) -> None:
        self.complete = True


def boundary(content_type: str) -> bytes:
    """Return the multipart boundary from a Content-Type. Raises Problem if it has none."""
    found = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not found:
        raise Problem(
            "bad_form",
            "The Content-Type has no boundary. Try: let curl -F or requests.post(files=...) set the header",
        )
    return found


def pictures(body: bytes, content_type: str) -> list[bytes]:
    """Return the content of each file, in order; other fields are ignored. Raises Problem."""
    reader = _Reader()
    calls: MultipartCallbacks = {
        "on_part_begin": reader.on_part_begin,
        "on_header_field": reader.on_header_field,
        "on_header_value": reader.on_header_value,
        "on_header_end": reader.on_header_end,
        "on_part_data": reader.on_part_data,
        "on_end": reader.on_end,
    }
    try:
        parser = MultipartParser(boundary(content_type), calls)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(
            "bad_form",
            f"The body is not valid multipart/form-data: {str(error)[:200]}. Try: curl -F file=@photo.jpg",
        ) from error
    if not reader.complete:
        raise Problem("bad_form", "The form is truncated: its last boundary is missing. Try: send it again")
    return [bytes(part.content) for part in reader.parts if part.is_file]
