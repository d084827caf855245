"""The demo page in a real browser: a photo comes in by every way, and goes out as breeds, bars and a heat map."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dogbreed.breeds import BREEDS
from dogbreed.inference import Predictor
from dogbreed.unlike import WARNING
from tests.support.browser import answer, chromium, given, page_of, picture, problem
from tests.support.odd_pictures import saved
from tests.support.serving import Served, serving, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model.tar.gz")


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(model, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    with page_of(browser, f"http://127.0.0.1:{served.port}/") as opened:
        yield opened


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "my dog's photo.jpg"
    path.write_bytes(saved(picture(0), "JPEG"))
    return path


def asked(page: Any, field: str, give: Callable[[], object]) -> None:
    """Hold that `give` makes the page ask for a file, in this field of it.

    The system's own window, which a busy headless browser may fail to announce, is not opened.
    """
    page.evaluate(
        """(field) => document.getElementById(field).addEventListener("click", (event) => {
            event.preventDefault(); window.asked = true; }, {once: true})""",
        field,
    )
    give()
    page.wait_for_function("window.asked")


def expected(model: Path, content: bytes) -> list[str]:
    return [one.breed for one in Predictor.from_artifact(model).predict(content)]


def test_a_chosen_photo_is_answered_as_the_predictor_answers(page: Any, photo: Path, model: Path) -> None:
    page.set_input_files("#file", photo)
    breeds = answer(page)
    assert breeds == expected(model, photo.read_bytes())
    assert page.inner_text("#answer") == breeds[0]
    assert re.match(r"\d+ ms for \d+ kB: [\d.]+ ms decoding, [\d.]+ ms in the network", page.inner_text("#latency"))
    shares = [float(share) for share in re.findall(r"([\d.]+) %", page.inner_text("#breeds"))]
    page.wait_for_function(  # the bars grow
        """(shares) => [...document.querySelectorAll("#breeds i")].every(
            (bar, n) => Math.abs(bar.offsetWidth / bar.parentNode.offsetWidth - shares[n]) < .01)""",
        arg=[share / 100 for share in shares],
    )
    assert page.locator("#breeds i").count() == len(shares) == 5


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_can_be_dropped_or_pasted(kind: str, page: Any, photo: Path, model: Path) -> None:
    given(page, kind, photo.read_bytes())
    assert answer(page) == expected(model, photo.read_bytes())


def test_a_phone_offers_its_camera(browser: Any, served: Served, photo: Path) -> None:
    of_a_phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    with page_of(browser, f"http://127.0.0.1:{served.port}/", **of_a_phone) as phone:
        asked(phone, "camera", lambda: phone.tap("#shoot"))
        assert phone.get_attribute("#camera", "capture") == "environment"
        phone.set_input_files("#camera", photo)
        assert len(answer(phone)) == 5
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [(390, 844), (390, 664), (1100, 700)])
def test_the_answer_is_in_view(size: tuple[int, int], browser: Any, served: Served, tmp_path: Path) -> None:
    tall = tmp_path / "tall.jpg"
    tall.write_bytes(saved(picture(0, 600, 1200), "JPEG"))
    viewport = {"width": size[0], "height": size[1]}
    with page_of(browser, f"http://127.0.0.1:{served.port}/", viewport=viewport, is_mobile=size[0] == 390) as opened:
        opened.set_input_files("#file", tall)
        answer(opened)
        for seen in ("#answer", "#breeds li:last-child"):
            box = opened.locator(seen).bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= size[1], seen


@pytest.mark.parametrize("address", ["", "docs"])
def test_no_page_is_wider_than_a_phone_and_no_code_is_broken(address: str, browser: Any, served: Served) -> None:
    home = f"http://127.0.0.1:{served.port}/{address}"
    phone = {"width": 390, "height": 844}
    with page_of(browser, f"http://127.0.0.1:{served.port}/", viewport=phone, is_mobile=True) as opened:
        opened.goto(home)
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        broken = opened.evaluate(
            """() => [...document.querySelectorAll("td:first-child, tr[id] code")].filter((one) => {
                const range = document.createRange();
                range.selectNodeContents(one);
                return range.getClientRects().length > 1;
            }).map((one) => one.innerText)"""
        )
        assert broken == []


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
    assert "not a JPEG" in problem(page)
    assert page.get_attribute("#problem", "role") == "alert"
    assert page.locator("#result").is_hidden()


def test_what_is_not_an_answer_of_the_server_is_said_aloud_too(page: Any, photo: Path) -> None:
    """Proxies answer with pages of their own."""
    page.route(
        "**/invocations*", lambda route: route.fulfill(status=413, content_type="text/html", body="<h1>413</h1>")
    )
    page.set_input_files("#file", photo)
    assert "failed with status 413" in problem(page)
    page.unroute("**/invocations*")
    page.route("**/invocations*", lambda route: route.abort())
    page.set_input_files("#file", photo)
    page.locator("#problem", has_text="The server does not respond").wait_for()


def test_after_an_error_the_example_is_not_the_last_photo(page: Any, photo: Path) -> None:
    page.set_input_files("#file", photo)
    answer(page)
    assert "my dog" in page.inner_text("#code")
    given(page, "drop", b"\xff\xd8\xff\xe0 no photo")
    problem(page)
    assert "@'photo.jpg' -H 'Content-Type: image/jpeg'" in page.inner_text("#code")
    page.set_input_files("#file", photo)
    answer(page)
    assert page.locator("#problem").is_hidden()
    assert "my dog" in page.inner_text("#code")


def test_the_page_speaks_of_any_classes(page: Any, photo: Path) -> None:
    before = page.inner_text("body") + page.title()
    given(page, "drop", photo.read_bytes())
    names = answer(page)
    page.locator("#only", has_text="knows only its 133 classes").wait_for()
    after = page.inner_text("body")
    for name in names:
        after = after.replace(name, "")
    assert not re.findall(r"\b(?:dogs?|breeds?)\b", before + after, re.IGNORECASE)


@pytest.mark.parametrize(("share", "words"), [(0.8, "Most likely"), (0.3, "Most likely, but not certain")])
def test_an_answer_that_is_not_sure_says_so(share: float, words: str, page: Any, photo: Path) -> None:
    predictions = [{"breed": "Pug", "label": "1.Pug", "probability": share}]
    told = {"predictions": predictions, "heat_map": None, "model": {"name": "m", "precision": "p", "version": "v"}}
    page.route("**/invocations*", lambda route: route.fulfill(json=told))
    page.set_input_files("#file", photo)
    assert answer(page) == ["Pug"]
    assert page.inner_text("#kind") == words
    assert ("not certain" in page.inner_text("#said")) == (share < 0.5)


def test_a_photo_unlike_the_training_photos_is_said_to_be(page: Any, photo: Path) -> None:
    page.set_input_files("#file", photo)
    answer(page)
    assert page.locator("#unlike").is_hidden()
    assert "not judged" not in page.inner_text("#only")
    photo.write_bytes(saved(0 * np.asarray(picture(0)), "JPEG"))
    page.set_input_files("#file", photo)
    page.wait_for_selector("#unlike")
    assert page.inner_text("#unlike") == WARNING
    assert page.inner_text("#said").startswith(WARNING)
    assert page.get_attribute("#breeds .row", "title") in BREEDS


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
    asked(page, "file", lambda: page.keyboard.press("Enter"))
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
