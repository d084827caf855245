"""What people send first: forms, any image type or none, data URLs, methods and addresses that are nearly right."""

import base64
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.support.odd_pictures import saved, upright
from tests.support.serving import WAIT_S, Reply, Served, serving, tiny_model

JPEG, PNG, WEBP = saved(upright(), "JPEG"), saved(255 - upright(), "PNG"), saved(upright()[::-1], "WEBP")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with serving(tiny_model(folder / "model.tar.gz"), folder) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def post(served: Served, query: str = "", **given: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(f"http://127.0.0.1:{served.port}/invocations{query}", timeout=WAIT_S, **given)


def form(*parts: bytes, boundary: str = "x", end: bytes = b"--x--\r\n") -> tuple[bytes, str]:
    """A body of these parts, and its Content-Type."""
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end
    return body, f"multipart/form-data; boundary={boundary}"


def part(content: bytes, disposition: str = 'form-data; name="file"; filename="a.jpg"', more: bytes = b"") -> bytes:
    return f"Content-Disposition: {disposition}\r\n".encode() + more + b"\r\n" + content


def send(served: Served, *parts: bytes, **given: Any) -> Reply:
    body, content_type = form(*parts, **given)
    return served.classify(body, content_type=content_type)


# forms


def test_a_form_with_a_file_is_answered_as_the_file_is(served: Served) -> None:
    for content in (JPEG, PNG, WEBP):
        expected = served.classify(content).json
        assert post(served, files={"file": content}).json() == expected
        assert post(served, files={"image": ("my dog.heic", content, "image/heic")}).json() == expected


def test_curl_sends_one_file_or_several(served: Served, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    assert curl, "This test needs curl. Try: apt-get install curl"
    for name, content in (("a b.jpg", JPEG), ("c.png", PNG)):
        (tmp_path / name).write_bytes(content)
    command = [curl, "-sS", "--noproxy", "*", f"http://127.0.0.1:{served.port}/invocations?top=1"]
    one = subprocess.run([*command, "-F", "file=@a b.jpg"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert one == served.classify(JPEG, "?top=1").body
    words = [*command, "-F", "a=@a b.jpg", "-F", "note=a dog", "-F", "a=@c.png"]
    both = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    assert both.count('"predictions"') == 2


@pytest.mark.parametrize("files", [["a", "b", "c"], ["files", "files", "files"], ["files[]", "x", "files[]"]])
def test_each_file_of_a_form_is_answered_in_order(files: list[str], served: Served) -> None:
    contents = [JPEG, PNG, WEBP]
    sent = [(name, (f"{n}.jpg", content)) for n, (name, content) in enumerate(zip(files, contents, strict=True))]
    answer = post(served, "?top=3", files=sent, data={"top": "no number", "heat_map": "x", "comment": "a dog"}).json()
    expected = [served.classify(content, "?top=3").json for content in contents]
    assert [one["predictions"] for one in answer["results"]] == [one["predictions"] for one in expected]
    assert answer["model"] == expected[0]["model"]


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; name="file"; filename="a.jpg"',
        "form-data; name=file; filename=a.jpg",
        'form-data; name="file"; filename="Hündin \\"Lou\\".jpg"',
        'form-data; name="file"; filename*=UTF-8\'\'H%C3%BCndin.jpg; filename="x"',
        'form-data; filename="blob"; name="image"',
        'FORM-DATA; NAME="file"; FILENAME="a.jpg"',
    ],
)
def test_a_file_is_known_by_having_a_name(disposition: str, served: Served) -> None:
    expected = served.classify(JPEG).json
    assert send(served, part(JPEG, disposition)).json == expected
    assert send(served, part(JPEG, disposition, b"Content-Type: text/plain\r\n")).json == expected


def test_a_part_that_only_says_that_it_is_an_image_is_a_file_too(served: Served) -> None:
    nameless = part(JPEG, 'form-data; name="file"', b"content-type: image/jpeg\r\n")
    assert send(served, nameless, part(b"x", 'form-data; name="note"')).json == served.classify(JPEG).json
    assert send(served, part(JPEG), boundary='"x"').status == 200


def test_each_bad_file_of_a_form_is_named_by_its_place(served: Served) -> None:
    large = saved(np.zeros((4000, 4000), np.uint8), "PNG")
    answer = post(served, files=[("f", ("a", JPEG)), ("f", ("b", large)), ("f", ("c", b"no")), ("f", ("d", b""))])
    found = [(one["picture"], one["code"]) for one in answer.json()["errors"]]
    assert (answer.status_code, found) == (422, [(1, "too_many_pixels"), (2, "unsupported_format"), (3, "empty")])


def test_the_limits_of_a_request_are_those_of_all_its_files(served: Served) -> None:
    files = [("f", (str(n), JPEG)) for n in range(17)]
    assert len(post(served, files=files[:16]).json()["results"]) == 16
    assert post(served, files=files).json()["code"] == "too_many_pictures"
    padded = JPEG + bytes(3_500_000)
    assert post(served, files={"a": padded}).status_code == 200
    assert post(served, files={"a": padded, "b": padded}).json()["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("sent", "status", "code", "words"),
    [
        (form(), 400, "empty", "curl -F file=@"),
        (form(part(b"a.jpg", 'form-data; name="file"')), 400, "empty", "with the @"),  # curl -F file=a.jpg
        (form(part(b"", 'form-data; name="file"; filename=""')), 400, "empty", "no file"),  # a page's empty field
        ((b"x", "multipart/form-data"), 400, "bad_form", "boundary"),
        ((b"x", "multipart/form-data; boundary="), 400, "bad_form", "boundary"),
        ((b"x", f"multipart/form-data; boundary={'x' * 5000}"), 400, "bad_form", "Boundary length"),
        (form(part(JPEG), boundary="y"), 400, "bad_form", "Try: "),
        (form(part(JPEG), end=b""), 400, "bad_form", "truncated"),
        ((JPEG, "multipart/form-data; boundary=x"), 400, "bad_form", "Try: "),
        ((b"", "multipart/form-data; boundary=x"), 400, "empty", "Try: "),
    ],
)
def test_forms_without_a_picture_and_broken_ones_are_refused_with_words(
    sent: tuple[bytes, str], status: int, code: str, words: str, served: Served
) -> None:
    reply = served.classify(sent[0], content_type=sent[1])
    assert (reply.status, reply.json["code"]) == (status, code)
    assert words in reply.json["detail"]


# types and texts


@pytest.mark.parametrize(
    "content_type",
    ["image/jpg", "image/pjpeg", "image/gif", "image/heic", "image/*", "IMAGE/PNG; q=1", "application/octet-stream"],
)
def test_the_bytes_decide_whatever_image_type_is_said(content_type: str, served: Served) -> None:
    assert served.classify(JPEG, content_type=content_type).json == served.classify(JPEG).json
    assert served.classify(b"GIF89a", content_type=content_type).json["code"] == "unsupported_format"


@pytest.mark.parametrize("headers", [{}, {"Content-Type": ""}])
def test_no_type_at_all_is_taken(headers: Mapping[str, str], served: Served) -> None:
    with closing(served.connect()) as connection:
        connection.request("POST", "/invocations", JPEG, headers)
        assert connection.getresponse().status == 200


def test_who_lets_curl_choose_the_type_is_told_what_to_type(served: Served) -> None:
    reply = served.classify(JPEG, content_type="application/x-www-form-urlencoded")
    assert reply.status == 415
    assert "curl -F file=@photo.jpg" in reply.json["detail"]


@pytest.mark.parametrize(
    "prefix",
    ["data:image/jpeg;base64,", "data:;base64,", "DATA:image/heic;charset=x;BASE64,", "data:text/plain;base64,"],
)
def test_data_urls_are_taken_as_browsers_make_them(prefix: str, served: Served) -> None:
    expected, text = served.classify(JPEG).json, base64.b64encode(JPEG).decode()
    assert served.invoke({"image": prefix + text}).json == expected
    quoted = text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    assert served.invoke({"image": prefix + quoted}).json == expected
    (one, other) = served.invoke({"images": [prefix + text, text]}).json["results"]
    assert one["predictions"] == other["predictions"]


@pytest.mark.parametrize(
    "text", ["data:image/jpeg,abc", "data:image/jpeg;base64,%%%", "data:", "data:image/svg+xml,<svg/>"]
)
def test_data_urls_that_hold_no_base64_are_refused_with_words(text: str, served: Served) -> None:
    reply = served.invoke({"image": text})
    assert (reply.status, reply.json["code"]) == (422, "bad_base64")


# addresses and methods


def test_a_slash_at_the_end_or_two_at_the_beginning_change_nothing(served: Served) -> None:
    expected = served.classify(JPEG).json
    for path in ("/invocations/", "//invocations", "//invocations//?top=5"):
        reply = served.ask("POST", path, JPEG, content_type="image/jpeg", host="elsewhere.example")
        assert (reply.status, reply.json) == (200, expected)
    for path in ("/ping/", "/health/", "/metrics/", "/openapi.json/"):
        assert served.ask("GET", path).status == 200
    moved = served.ask("GET", "/docs/", host="elsewhere.example")  # its own addresses are relative
    assert (moved.status, moved.headers["location"]) == (308, "../docs")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/invocations", 405),  # curl -T
        ("GET", "/invocations", 405),  # a browser
        ("PATCH", "/invocations/", 405),
        ("POST", "/", 405),
        ("PUT", "/invocations/photo.jpg", 404),  # curl -T photo.jpg .../invocations/
        ("POST", "/predict", 404),
    ],
)
def test_who_is_nearly_right_is_told_what_to_do(method: str, path: str, status: int, served: Served) -> None:
    reply = served.ask(method, path, JPEG, content_type="image/jpeg")
    assert reply.status == status
    assert "POST /invocations" in reply.json["detail"]
    assert "curl -F file=@photo.jpg" in reply.json["detail"]
    if status == 405:
        assert reply.headers["allow"]
