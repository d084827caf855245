"""Photos on their way from the demo page to the server, in a real browser: converted, uploaded, and behind a proxy."""

import base64
import http.client
import io
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import answer, chosen, chromium, given, page_of, picture, problem
from tests.support.odd_pictures import saved
from tests.support.serving import WAIT_S, Served, serving, tiny_model

PREFIX = "/user/lou/proxy/8080"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with serving(tiny_model(folder / "model.tar.gz"), folder) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


# the browser tells nobody else what a page has sent
KEPT = """{
    const send = XMLHttpRequest.prototype.send;
    XMLHttpRequest.prototype.send = function (body) { window.kept = body; return send.call(this, body); };
}"""


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    with page_of(browser, f"http://127.0.0.1:{served.port}/", first=KEPT) as opened:
        yield opened


def sent(page: Any, give: Any) -> tuple[str, bytes, int]:
    """What the server gets when `give` gives the page a photo: its type and bytes; and the status of the answer."""
    with page.expect_response("**/invocations*") as response:
        give()
    content = page.evaluate(
        """() => new Promise((resolve) => {
            const reader = new FileReader();
            reader.onload = () => resolve(reader.result.split(",")[1]);
            reader.readAsDataURL(window.kept);
        })"""
    )
    return response.value.request.headers["content-type"], base64.b64decode(content), response.value.status


def opened_as(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG"
    return image.convert("RGB")


def flat(width: int, height: int, kind: str, **options: Any) -> bytes:
    """A picture of many pixels and few bytes, red in its upper half."""
    image = Image.new("RGB", (width, height), "navy")
    image.paste("red", (0, 0, width, height // 2))
    return saved(image, kind, **options)


@pytest.mark.parametrize(
    ("width", "height", "kind"),
    [(4032, 3024, "WEBP"), (5120, 2880, "PNG"), (8160, 6144, "JPEG"), (16382, 3628, "JPEG"), (640, 16000, "PNG")],
)
def test_a_photo_of_too_many_pixels_is_converted_whatever_its_bytes(
    width: int, height: int, kind: str, page: Any, tmp_path: Path
) -> None:
    content = flat(width, height, kind, **({"method": 0} if kind == "WEBP" else {}))
    content_type, photo, status = sent(page, lambda: chosen(page, tmp_path / "photo", content))
    seen = opened_as(photo)
    assert (content_type, max(seen.size), status) == ("image/jpeg", 2000, 200)
    assert seen.width / seen.height == pytest.approx(width / height, rel=0.02)
    assert len(answer(page)) == 5
    assert "@'photo.jpg'" in page.inner_text("#code")  # the file itself would be refused


def test_a_photo_of_too_many_bytes_is_converted(page: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(1500, 1500, 3), dtype=np.uint8)
    large = saved(Image.fromarray(noise), "PNG")
    assert len(large) > 6 * 1024 * 1024
    content_type, photo, status = sent(page, lambda: chosen(page, tmp_path / "noise.png", large))
    assert (content_type, opened_as(photo).size, status) == ("image/jpeg", (1500, 1500), 200)


def test_a_server_that_takes_less_gets_less(browser: Any, tmp_path: Path) -> None:
    with (
        serving(tiny_model(tmp_path / "model.tar.gz"), tmp_path, "--max-body-bytes", "20000") as strict,
        page_of(browser, f"http://127.0.0.1:{strict.port}/", first=KEPT) as opened,
    ):
        opened.locator("#model", has_text="tiny").wait_for()  # by then it knows
        noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(900, 1200, 3), dtype=np.uint8))
        _, photo, status = sent(opened, lambda: given(opened, "drop", saved(noise, "JPEG")))
        assert status == 200
        assert len(photo) <= 20_000
        assert 200 < opened_as(photo).width < 1200


def test_a_photo_that_the_server_takes_is_sent_as_it_is(page: Any) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        content = saved(picture(1), kind)
        # what the file is called and said to be counts for nothing: without an ending, or with a wrong one
        for said, name in (("", "IMG_0001"), ("image/heic", "x.heic"), ("text/plain", "x.txt"), (f"image/{kind}", "a")):
            found = sent(page, lambda content=content, said=said, name=name: given(page, "drop", content, said, name))
            assert found == (f"image/{kind.lower()}", content, 200)
            answer(page)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "AVIF"])
@pytest.mark.parametrize("said", ["image/x", ""])
def test_what_only_the_browser_opens_is_converted(said: str, kind: str, page: Any) -> None:
    """As HEIC is where the system knows it."""
    content_type, photo, status = sent(page, lambda: given(page, "drop", saved(picture(1), kind), said, "photo"))
    seen = opened_as(photo)
    assert (content_type, seen.size, status) == ("image/jpeg", (400, 300), 200)
    difference = np.asarray(seen).astype(int) - np.asarray(picture(1)).astype(int)
    assert np.abs(difference).mean() < 12


def test_a_photo_that_lies_on_its_side_is_converted_upright(page: Any, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    _, photo, status = sent(page, lambda: chosen(page, tmp_path / "a.jpg", flat(4000, 3000, "JPEG", exif=exif)))
    seen = np.asarray(opened_as(photo))
    assert (seen.shape, status) == ((2000, 1500, 3), 200)
    assert seen[1000, 1400, 0] > 200 > seen[1000, 100, 0]  # what was above is at the right


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(500), "HEIC"),
        (b"%PDF-1.7 ...", "IMG_0001 is not a picture that this browser can open"),
        (b"", "not a picture"),
    ],
)
def test_what_the_browser_cannot_open_is_named(content: bytes, words: str, page: Any) -> None:
    given(page, "drop", content, "", "IMG_0001")
    assert words in problem(page)
    assert "Try: " in problem(page)


@pytest.mark.parametrize("kind", ["text/uri-list", "text/plain", "text/html"])
def test_an_address_from_another_tab_is_called_that(kind: str, page: Any) -> None:
    page.evaluate(
        """(kind) => {
            const data = new DataTransfer();
            data.setData(kind, "https://example.com/dog.jpg");
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        kind,
    )
    assert "a link or text" in problem(page)
    assert "save the picture" in problem(page)


def test_no_offscreen_canvas_is_needed(browser: Any, served: Served) -> None:
    """Safari before 16.4 has none."""
    home = f"http://127.0.0.1:{served.port}/"
    with page_of(browser, home, first="delete window.OffscreenCanvas; delete window.createImageBitmap;") as opened:
        given(opened, "drop", saved(picture(0), "GIF"), "image/gif")
        assert len(answer(opened)) == 5
        assert opened.evaluate(
            """() => { const heat = document.getElementById("heat");
                return heat.getContext("2d").getImageData(heat.width / 2, heat.height / 2, 1, 1).data[3]; }"""
        )


def test_a_slow_upload_shows_how_far_it_is(page: Any, tmp_path: Path) -> None:
    slow = page.context.new_cdp_session(page)
    slow.send("Network.enable")
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 60_000}
    slow.send("Network.emulateNetworkConditions", conditions)
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(1000, 1200, 3), dtype=np.uint8))
    chosen(page, tmp_path / "photo.png", saved(noise, "PNG"))  # which takes a minute
    page.locator("#doing", has_text=re.compile(r"^Uploading the photo: [1-9]\d? %$")).wait_for()
    assert page.locator("#sent").is_visible()
    assert 0 < page.evaluate("document.getElementById('sent').value") < 1
    assert page.inner_text("#said") == "Uploading the photo"
    slow.send("Network.emulateNetworkConditions", {**conditions, "uploadThroughput": -1})
    assert len(answer(page)) == 5
    assert page.locator("#progress").is_hidden()


# behind a proxy


class Proxy(BaseHTTPRequestHandler):
    """Shows a server below PREFIX and takes that off, as jupyter-server-proxy and nginx do."""

    port = 0

    def do_GET(self) -> None:
        if not self.path.startswith(PREFIX + "/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {"Content-Type": self.headers["Content-Type"]} if body else {}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)) as upstream:
            upstream.request(self.command, self.path.removeprefix(PREFIX), body or None, headers)
            reply = upstream.getresponse()
            content = reply.read()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("connection", "date", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 (the name that http.server looks for)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def front(served: Served) -> Iterator[str]:
    """The address of a proxy before the server, which does not know it."""
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Before", (Proxy,), {"port": served.port}))
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{proxy.server_port}{PREFIX}"
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def test_page_and_docs_work_behind_a_proxy_that_the_server_does_not_know(front: str, browser: Any) -> None:
    with page_of(browser, f"{front}/") as opened:
        given(opened, "drop", saved(picture(0), "JPEG"))
        assert len(answer(opened)) == 5
        assert opened.evaluate("getComputedStyle(document.body).maxWidth") != "none"  # it has its style
        assert f" {front}/invocations" in opened.inner_text("#code")
        opened.click("text=API documentation")
        opened.wait_for_selector("body.docs")
        assert opened.url == f"{front}/docs"
        assert f"curl -F file=@photo.jpg {front}/invocations" in opened.inner_text("main")
        assert "127.0.0.1:8080" not in opened.inner_text("main")
        opened.goto(f"{front}/docs/")
        assert opened.url == f"{front}/docs"
        opened.click("text=Try the demo page")
        opened.wait_for_selector("#drop")
        assert opened.url == f"{front}/"
