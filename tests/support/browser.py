"""A real browser for the tests of pages, and what such tests do with a page: the demo page of the server."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"  # it would look for updates
_OPTIONS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", NO_NAMES]
_LONGEST_MS = 180_000  # to wait for anything; a browser on a busy machine takes its time


@contextmanager
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium")
    assert path, "This test opens the page in Chromium, which is not installed. Try: apt-get install chromium"
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=_OPTIONS, timeout=_LONGEST_MS)
        yield opened
        opened.close()


@contextmanager
def page_of(browser: Any, home: str, *, first: str = "", **context: Any) -> Iterator[Any]:
    """The page at `home`, watched: errors and requests to other addresses end the test.

    first: a script that runs before those of the page. context: of the browser, such as its viewport.
    """
    window = browser.new_context(**{"viewport": {"width": 1100, "height": 1000}, "color_scheme": "light", **context})
    window.set_default_timeout(_LONGEST_MS)
    opened = window.new_page()
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda message: troubles.append(message.text) if "Content Security" in message.text else None)
    own = (home, f"blob:{'/'.join(home.split('/')[:3])}/")
    opened.on("request", lambda request: None if request.url.startswith(own) else troubles.append(request.url))
    if first:
        opened.add_init_script(first)
    opened.goto(home)
    yield opened
    window.close()
    assert not troubles


def picture(seed: int, width: int = 400, height: int = 300) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(256, size=(3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def answer(page: Any) -> list[str]:
    """The names that the page shows, once it does."""
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector("body:not(.busy)")
    return [text.partition("\n")[0] for text in page.locator("#breeds li").all_inner_texts()]


def problem(page: Any) -> str:
    """What the page complains of, once it does."""
    page.wait_for_selector("#problem:not([hidden])")
    return str(page.inner_text("#problem"))


def given(page: Any, kind: str, content: bytes, media_type: str = "image/jpeg", name: str = "photo") -> None:
    """A file is dropped onto the page, or pasted into it."""
    page.evaluate(
        """([kind, text, name, type]) => {
            const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type }));
            const event = kind === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [kind, base64.b64encode(content).decode(), name, media_type],
    )


def chosen(page: Any, path: Path, content: bytes) -> None:
    """A file is chosen in the page; for content that is too large to be handed over otherwise."""
    path.write_bytes(content)
    page.set_input_files("#file", path)
