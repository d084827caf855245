"""The demo page in a real browser: a photo comes in by every way, and goes out as breeds, bars and a heat map."""

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from dogbreed.inference import Predictor
from tests.support.odd_pictures import saved
from tests.support.serving import Served, serving, tiny_model

CHROMIUM = shutil.which("chromium")


def picture(seed: int, width: int = 400, height: int = 300) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(256, size=(3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model.tar.gz")


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(model, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM, "This test opens the page in Chromium, which is not installed. Try: apt-get install chromium"
    options = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """The page, watched: errors and requests to other addresses end the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 1000}, color_scheme="light")
    opened = context.new_page()
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda message: troubles.append(message.text) if "Content Security" in message.text else None)
    home = f"http://127.0.0.1:{served.port}/"
    opened.on(
        "request",
        lambda request: None if request.url.startswith((home, f"blob:{home}")) else troubles.append(request.url),
    )
    opened.goto(home)
    yield opened
    context.close()
    assert not troubles


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "my dog's photo.jpg"
    path.write_bytes(saved(picture(0), "JPEG"))
    return path


def answer(page: Any) -> list[str]:
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector("body:not(.busy)")
    return [text.partition("\n")[0] for text in page.locator("#breeds li").all_inner_texts()]


def expected(model: Path, content: bytes) -> list[str]:
    return [one.breed for one in Predictor.from_artifact(model).predict(content)]


def given(page: Any, kind: str, content: bytes, media_type: str = "image/jpeg") -> None:
    """A file dropped onto the page, or pasted into it."""
    page.evaluate(
        """([kind, text, type]) => {
            const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "photo", { type }));
            const event = kind === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [kind, base64.b64encode(content).decode(), media_type],
    )


def test_a_chosen_photo_is_answered_as_the_predictor_answers(page: Any, photo: Path, model: Path) -> None:
    page.set_input_files("#file", photo)
    breeds = answer(page)
    assert breeds == expected(model, photo.read_bytes())
    assert page.inner_text("#answer") == breeds[0]
    assert re.match(r"\d+ ms for \d+ kB: [\d.]+ ms decoding, [\d.]+ ms in the network", page.inner_text("#latency"))
    shares = [float(share) for share in re.findall(r"([\d.]+) %", page.inner_text("#breeds"))]
    page.wait_for_timeout(500)  # the bars grow
    widths = page.eval_on_selector_all(
        "#breeds i", "bars => bars.map(bar => bar.offsetWidth / bar.parentNode.offsetWidth)"
    )
    assert widths == pytest.approx([share / 100 for share in shares], abs=0.01)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_can_be_dropped_or_pasted(kind: str, page: Any, photo: Path, model: Path) -> None:
    given(page, kind, photo.read_bytes())
    assert answer(page) == expected(model, photo.read_bytes())


def test_a_phone_offers_its_camera(browser: Any, served: Served, photo: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.goto(f"http://127.0.0.1:{served.port}/")
    with phone.expect_file_chooser() as chooser:
        phone.tap("#shoot")
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files(photo)
    assert len(answer(phone)) == 5
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_the_heat_map_is_where_the_network_looked(page: Any, photo: Path, model: Path) -> None:
    page.set_input_files("#file", photo)
    answer(page)
    predictor = Predictor.from_artifact(model)
    found = predictor.answer(predictor.preprocess.pixels(photo)[None])
    assert found.heat_maps is not None
    heat = found.heat_maps[0, found.probabilities[0].argmax()]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    reds = page.evaluate(
        """() => {
            const canvas = document.getElementById("heat"), photo = document.getElementById("photo");
            const scale = Math.min(canvas.width / photo.naturalWidth, canvas.height / photo.naturalHeight);
            const side = 0.9 * Math.min(photo.naturalWidth, photo.naturalHeight) * scale;
            const context = canvas.getContext("2d");
            const at = (x, y) => [...context.getImageData(Math.round(x), Math.round(y), 1, 1).data];
            const places = [];
            for (let row = 0; row < 4; row++) for (let column = 0; column < 4; column++) places.push(at(
                (canvas.width - side) / 2 + (column + .5) * side / 4,
                (canvas.height - side) / 2 + (row + .5) * side / 4));
            return { places, corner: at(2, 2) };
        }"""
    )
    redness = [red - green / 2 for red, green, *_ in reds["places"]]
    assert divmod(int(np.argmax(redness)), 4) == (row, column)
    assert reds["corner"][3] == 0  # the network did not see it
    page.uncheck("#show-heat")
    assert page.get_attribute("#heat", "class") == "off"


def test_what_the_server_refuses_is_said_aloud(page: Any) -> None:
    given(page, "drop", b"\xff\xd8\xff\xe0 no photo")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.get_attribute("#problem", "role") == "alert"
    assert "not those of a JPEG" in page.inner_text("#problem")
    assert page.locator("#result").is_hidden()
    given(page, "drop", b"text", "text/plain")
    assert "no picture" in page.inner_text("#problem")


def test_other_formats_and_large_photos_are_converted_in_the_browser(page: Any, served: Served) -> None:
    given(page, "drop", saved(picture(1), "GIF"), "image/gif")
    assert len(answer(page)) == 5
    noise = np.random.default_rng(0).integers(256, size=(2400, 2400, 3), dtype=np.uint8)
    large = saved(Image.fromarray(noise), "JPEG", quality=95)
    assert len(large) > 6 * 1024 * 1024
    with page.expect_response("**/invocations*") as response:
        given(page, "drop", large)
    assert response.value.status == 200


def test_the_calls_that_are_shown_are_those_that_work(page: Any, photo: Path, served: Served, tmp_path: Path) -> None:
    import subprocess
    import sys

    page.set_input_files("#file", photo)
    breeds = answer(page)
    curl = page.inner_text("#code")
    page.click("#tab-python")
    python = page.inner_text("#code")
    for command in (["bash", "-c", curl], [sys.executable, "-c", python]):
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "no_proxy": "*"}, check=True
        )
        if command[0] == "bash":
            assert [one["breed"] for one in json.loads(done.stdout)["predictions"]] == breeds
        else:
            assert [line.split("%")[1].strip() for line in done.stdout.splitlines()] == breeds


def test_all_of_it_works_by_keyboard(page: Any, photo: Path) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pick"
    # the system's own window, which a busy headless browser may fail to announce, is not opened
    page.evaluate(
        """() => document.getElementById("file").addEventListener("click", (event) => {
            event.preventDefault(); window.asked = true; }, {once: true})"""
    )
    page.keyboard.press("Enter")
    page.wait_for_function("window.asked")
    page.set_input_files("#file", photo)
    answer(page)
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1] == "tab-curl":
            page.keyboard.press("ArrowRight")
            assert page.evaluate("document.activeElement.id") == "tab-python"
            assert "urllib" in page.inner_text("#code")
    assert reached == ["show-heat", "tab-curl", "copy", "code", ""]


def test_a_screen_reader_hears_the_answer_and_finds_names_for_all(page: Any, photo: Path) -> None:
    page.set_input_files("#file", photo)
    breeds = answer(page)
    assert page.get_attribute("#said", "role") == "status"
    assert page.inner_text("#said").startswith(f"Most likely {breeds[0]}, ")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([hidden]), a, img, [role=tabpanel]")]
            .filter((one) => !(one.innerText || one.ariaLabel || one.labels?.length || one.hasAttribute("alt")))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(scheme: str, page: Any, photo: Path) -> None:
    """WCAG's contrast: at least 4.5 for text."""
    page.emulate_media(color_scheme=scheme)
    page.set_input_files("#file", photo)
    answer(page)
    ratios = page.evaluate(
        """() => {
            const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
            const rgb = (colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                return [...canvas.getImageData(0, 0, 1, 1).data]; };
            const light = (colour) => rgb(colour).slice(0, 3).map((v) => v / 255)
                .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
            const ground = (one) => { while (one && /, 0\\)$|transparent/.test(getComputedStyle(one).backgroundColor))
                one = one.parentElement; return getComputedStyle(one || document.documentElement).backgroundColor; };
            return [...document.querySelectorAll("h1, h2, p, a, button, li span, pre, label, footer span")]
                .filter((one) => one.offsetParent && one.innerText.trim() && !one.closest(".hidden")).map((one) => {
                    const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
                    return [one.innerText.slice(0, 20), (a + .05) / (b + .05)];
                });
        }"""
    )
    assert len(ratios) > 15
    assert [found for found in ratios if found[1] < 4.5] == []
