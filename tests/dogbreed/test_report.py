"""The report is one file that describes a run correctly, whatever its folder contains."""

import base64
import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_runs
from PIL import Image, ImageDraw
from setuptools import find_packages

from dogbreed import report
from dogbreed.breeds import BREEDS, display_names
from dogbreed.errors import StorageError
from dogbreed.report import ReportError, analysis, page, plots, reading
from dogbreed.report.__main__ import main
from dogbreed.report.photos import thumbnail
from dogbreed.run_folder import RunFolder
from tests.support.browser import NO_NAMES
from tests.support.project import ROOT

THREE = ("001.Affenpinscher", "002.Afghan_hound", "003.Airedale_terrier")
COLUMNS = "epoch,step,lr,train/loss,train/acc,val/loss,val/acc,val/top5,val/f1,val/ece,seconds,images_per_s"
HOSTILE = "<script>alert(1)</script>\"' onload=x $\\frac$ {{ 7 * 7 }}"


def make_run(
    root: Path,
    *,
    classes: Sequence[str] = THREE,
    photos_each: float = 12,
    accuracy: float = 0.75,
    epochs: int = 12,
    seed: int = 0,
) -> tuple[RunFolder, Path]:
    """A run folder as a training run leaves it, with photos; breeds are mistaken for their neighbours in the list."""
    rng = np.random.default_rng(seed)
    run, photos = RunFolder(root / "runs" / "2026-11-23-quickstart"), root / "photos"
    run.path.mkdir(parents=True)
    rows = []
    skill = np.clip(rng.normal(accuracy, 0.13, len(classes)), 0, 1) if accuracy < 1 else np.ones(len(classes))
    for place, breed in enumerate(classes):
        for number in range(max(1, rng.poisson(photos_each))):
            right = rng.random() < skill[place]
            away = int(rng.choice([-2, -1, 1, 2], p=[0.1, 0.2, 0.55, 0.15]))
            predicted = place if right else (place + (away if len(classes) > 2 else 1)) % len(classes)
            probability = np.clip(rng.beta(7, 1.6) if right else rng.beta(3.5, 2.6), 0.02, 1)
            path = f"test/{breed.replace('/', '')}/{place:03}_{number:05}.jpg"
            rows.append((path, breed, classes[predicted], f"{probability:.6f}"))
            draw_photo(photos / path, place, number)
    write_predictions(run, rows)
    right_share = sum(row[1] == row[2] for row in rows) / len(rows)
    write_history(run, epochs, right_share, rng)
    run.metrics.write_text(
        json.dumps(
            {"val/acc": right_share - 0.004, "val/loss": 0.6812, "test/acc": right_share, "test/loss": 0.702}
            | {"test/top5": min(1.0, right_share + 0.15), "test/f1": right_share - 0.011, "test/ece": 0.0231}
            | {"test/ece_uncalibrated": 0.0934, "temperature": 1.317, "train/images_per_s": 62.4}
            | {"train/seconds": 128.3, "epochs": epochs, "steps": 21 * epochs}
            | {"val/photos": 399.0, "val/confidence": 0.7213, "val/unlike": 0.0476, "test/unlike": 0.0451}
            | {"unlike/auroc of pages of text": 0.951, "unlike/auroc of drawn scenes": 0.784}
        )
    )
    run.config.write_text(
        "# resolved\nrun_id: 2026-11-23-quickstart\nseed: 0\nmonitor: val/acc\nmode: max\n"
        f"data:\n  _target_: dogbreed.data.DogBreedData\n  root: {photos}\n  batch_size: 64\n"
        "model:\n  backbone: tf_efficientnet_lite0\n  trainable: head\n  lr: 0.002\ntrainer:\n  max_epochs: 12\n"
    )
    packages = {"torch": "2.15.0", "torchvision": "0.29.2", "lightning": "2.6.6", "timm": "1.0.31", "numpy": "2.4.6"}
    run.environment.write_text(
        json.dumps(
            {"python": "3.11.7", "platform": "Linux-6.1-x86_64", "packages": packages, "seed": 0, "skipped": 2}
            | {"git": {"commit": "1bbc640d2a11", "dirty": True}, "device": "cpu, 2 threads", "classes": list(classes)}
            | {"photos": {"train": 1330, "valid": 399, "test": len(rows)}, "started": "2026-11-23T00:00:00+00:00"}
            | {"command": "python train.py experiment=quickstart"}
        )
    )
    run.fit.write_text(json.dumps({"epochs": epochs, "steps": 21 * epochs, "seconds": 128.3, "images_per_s": 62.4}))
    run.skipped.write_text(
        "path,reason\ntrain/001.A/broken.jpg,damaged: truncated\nvalid/002.B/x.jpg,the file is empty\n"
    )
    run.log.write_text("2026-11-23 00:00:00,123 INFO started\n")
    run.checkpoints.mkdir()
    run.best.write_bytes(b"\0" * 4096)
    return run, photos


def draw_photo(path: Path, breed: int, number: int) -> None:
    """A small JPEG of a dog's head on grass, wider or taller by turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (320, 240) if number % 2 else (240, 300)
    image = Image.new("RGB", size, (120 + number % 40, 150, 110))
    pen = ImageDraw.Draw(image)
    coat = tuple(np.random.default_rng(breed).integers(40, 230, 3).tolist())
    x, y = size[0] // 2, size[1] // 2
    for side in (-1, 1):
        pen.ellipse((x + side * 62 - 22, y - 66, x + side * 62 + 22, y + 22), fill=tuple(c * 3 // 4 for c in coat))
    pen.ellipse((x - 66, y - 66, x + 66, y + 74), fill=coat)
    for side in (-1, 1):
        pen.ellipse((x + side * 26 - 8, y - 24, x + side * 26 + 8, y - 8), fill=(20, 20, 20))
    pen.ellipse((x - 15, y + 14, x + 15, y + 36), fill=(20, 20, 20))
    image.save(path, "JPEG", quality=85)


def write_predictions(run: RunFolder, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("path", "breed", "predicted", "probability"), *rows])
    run.predictions.write_text(text.getvalue())


def write_history(run: RunFolder, epochs: int, reached: float, rng: np.random.Generator) -> None:
    rows = [COLUMNS]
    for epoch in range(1, epochs + 1):
        way = 1 - np.exp(-epoch / 3)
        noise = rng.normal(0, 0.01, 4)
        values = (
            4.9 - 4.1 * way + noise[0],
            reached * way + noise[1],
            4.9 - 4.2 * way,
            reached * way + noise[3] - 0.02,
        )
        rows.append(f"{epoch},{21 * epoch},0.002,{','.join(f'{v:.5f}' for v in values)},0.93,0.7,0.04,10.5,62.4")
    run.history.write_text("\n".join(rows) + "\n")


class Page(HTMLParser):
    """A parsed page: tags with attributes, the text, and tables as rows of cell texts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._open_cells = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open_cells += 1

    def handle_endtag(self, tag: str) -> None:
        self._open_cells -= tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open_cells:
            row = self.tables[-1][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())

    def table(self, first_heading: str) -> list[list[str]]:
        """Return the rows below the header of the table that starts with this heading."""
        return next(table[1:] for table in self.tables if table[0][0] == first_heading)

    def images(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def report_of(run: RunFolder, photos: Path) -> Page:
    return Page(report.write(run, photos).read_text())


def predictions_of(run: RunFolder) -> list[dict[str, str]]:
    with run.predictions.open(newline="") as file:
        return list(csv.DictReader(file))


def plain(breed: str) -> str:
    return re.sub(r"^\d+\.", "", breed).replace("_", " ")


@pytest.fixture(scope="module", autouse=True)
def with_plots() -> Iterator[None]:
    """For the fixtures of this file as well, which begin before a test's marks count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(quick_runs.PLOTS, "1")
        yield


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    """A finished run of 133 breeds, with its report."""
    run, photos = make_run(tmp_path_factory.mktemp("many"), classes=BREEDS, photos_each=6.3, accuracy=0.82)
    report.write(run, photos)
    return run, photos


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    """A finished run of 3 breeds, with its report."""
    run, photos = make_run(tmp_path_factory.mktemp("few"), photos_each=40)
    report.write(run, photos)
    return run, photos


@pytest.fixture
def small(tmp_path: Path) -> tuple[RunFolder, Path]:
    """A finished run of 3 breeds, without a report, for a test to change."""
    return make_run(tmp_path)


@pytest.fixture(params=["many", "few"])
def finished(request: pytest.FixtureRequest) -> RunFolder:
    run: RunFolder = request.getfixturevalue(request.param)[0]
    return run


def assert_self_contained(page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}={value}"
            if name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
                assert value.startswith(("data:", "#")), f"{tag} {name}={value}"
            for address in re.findall(r"url\(\s*['\"]?([^)]*)", value):
                assert address.startswith("#"), f"{tag} {name}={value}"
    for address in re.findall(r"(?:url\(|@import)\s*['\"]?([^)]*)", page.text):
        assert address.startswith(("data:", "#"))


def test_report_asks_for_nothing_outside_itself(finished: RunFolder) -> None:
    page = Page(finished.report.read_text())
    assert_self_contained(page)
    policy = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none';")


def test_ids_are_unique_and_all_that_are_referred_to_exist(finished: RunFolder) -> None:
    html = finished.report.read_text()
    tags = Page(html).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = {name for _, a in tags for key in ("aria-labelledby",) for name in a.get(key, "").split()}
    referred |= set(re.findall(r'(?:href="|url\()#([\w.-]+)', html))
    assert referred <= set(ids)


def test_confused_pairs_are_those_of_the_predictions(many: tuple[RunFolder, Path]) -> None:
    rows = predictions_of(many[0])
    counts = Counter((row["breed"], row["predicted"]) for row in rows if row["breed"] != row["predicted"])
    photos = Counter(row["breed"] for row in rows)
    listed = Page(many[0].report.read_text()).table("Breed, mistaken for")
    assert len(listed) == page.PAIRS
    for breeds, count, *_ in listed:
        pair = next(p for p in counts if breeds == f"{plain(p[0])} mistaken for {plain(p[1])}")
        assert count == f"{counts[pair]} of {photos[pair[0]]}"
    assert [int(row[1].split()[0]) for row in listed] == sorted(counts.values(), reverse=True)[: page.PAIRS]


def test_photos_of_a_pair_are_its_most_confident_mistakes_and_a_correct_one(few: tuple[RunFolder, Path]) -> None:
    rows = predictions_of(few[0])
    shown = [re.sub(r".*: ", "", image["alt"]) for image in Page(few[0].report.read_text()).images()]

    def surest(breed: str, predicted: str, number: int) -> list[str]:
        found = [row for row in rows if (row["breed"], row["predicted"]) == (breed, predicted)]
        return [row["path"] for row in sorted(found, key=lambda row: -float(row["probability"]))[:number]]

    counts = Counter((row["breed"], row["predicted"]) for row in rows if row["breed"] != row["predicted"])
    breed, predicted = counts.most_common(1)[0][0]
    expected = [*surest(breed, predicted, page.MISTAKES_SHOWN), *surest(predicted, predicted, 1)]
    assert shown[: len(expected)] == expected


def test_worst_breeds_are_those_of_the_predictions(many: tuple[RunFolder, Path]) -> None:
    rows = predictions_of(many[0])
    photos, named = Counter(r["breed"] for r in rows), Counter(r["predicted"] for r in rows)
    right = Counter(r["breed"] for r in rows if r["breed"] == r["predicted"])
    worst, whole_list = (t for t in Page(many[0].report.read_text()).tables if t[0][0] == "Breed")
    assert worst[1:] == whole_list[1 : 1 + page.WORST]
    assert len(whole_list) == 1 + len(BREEDS)
    recalls = []
    for label, recall, precision, f1, count in whole_list[1:]:
        breed = next(b for b in BREEDS if plain(b) == label)
        recalls.append(right[breed] / photos[breed])
        assert recall == f"{100 * recalls[-1]:.0f} %"
        assert precision == (f"{100 * right[breed] / named[breed]:.0f} %" if named[breed] else page.ABSENT)
        assert f1 == f"{2 * right[breed] / (photos[breed] + named[breed]):.2f}"
        assert count == str(photos[breed])
    assert recalls == sorted(recalls)


def test_headline_states_the_measured_numbers_and_chance(many: tuple[RunFolder, Path]) -> None:
    rows, text = predictions_of(many[0]), " ".join(Page(many[0].report.read_text()).text.split())
    right = sum(row["breed"] == row["predicted"] for row in rows)
    accuracy = f"{100 * right / len(rows):.1f} %"  # split() above turned narrow spaces into plain ones
    assert f"{right} of {len(rows)} test photos were assigned the correct one of 133 breeds: {accuracy}, where" in text
    for expected in (
        "chance is 0.75 %",
        "before calibration: 9.3 %",
        "2 min 8 s",
        "1.317",
        "fitted on the 399 validation photos",
        "The mean confidence on them is 72.1 %; so many photos can support ",
        "This happens to 4.5 % of the test photos.",
        "0.95 for pages of text, 0.78 for drawn scenes. That is too unreliable, so it is off",
        "tf_efficientnet_lite0",
    ):
        assert expected in text
    for expected in ("1bbc640d2a11, with uncommitted changes", "batch_size: 64", "2.15.0", "checkpoints/best.ckpt"):
        assert expected in text
    assert "damaged: truncated" in text


def test_metrics_that_contradict_the_predictions_are_pointed_out(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    assert "not from the same test" not in report_of(run, photos).text
    run.metrics.write_text(json.dumps({"test/acc": 0.99}))
    assert "not from the same test" in report_of(run, photos).text


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    run, photos = make_run(tmp_path, classes=(HOSTILE, "ordinary", "日本犬 \u202e\x07"))
    run.config.write_text(run.config.read_text().replace("2026-11-23-quickstart", "</title><script>alert(2)</script>"))
    run.skipped.write_text("path,reason\n<img src=x onerror=alert(3)>,</details><script>\n")
    (run.path / "<b>file").write_text("")
    page = report_of(run, photos)
    assert_self_contained(page)
    assert HOSTILE in page.text
    assert "</title><script>alert(2)</script>" in page.text
    assert "<img src=x onerror=alert(3)>" in page.text
    assert "\u202e" not in "".join(row[0] for row in page.table("Breed"))
    assert not {"b", "frac"} & {tag for tag, _ in page.tags}


def test_names_that_are_not_utf8_are_shown_with_a_replacement_sign(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    run.predictions.write_bytes(b"path,breed,predicted,probability\ntest/\xff.jpg,\xff\xfe,b,0.5\ntest/b.jpg,b,b,0.9\n")
    assert "\ufffd\ufffd" in report_of(run, photos).text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("test/gone.jpg", "photo not found"),
        ("test/broken.jpg", "photo unreadable"),
        ("test", "not a file"),
        ("../secret.jpg", "outside the data folder"),
        ("/etc/passwd", "outside the data folder"),
        ("", "outside the data folder"),
        ("test/" + 300 * "x" + ".jpg", "photo unreadable"),
    ],
)
def test_a_photo_that_cannot_be_shown_is_a_note(tmp_path: Path, path: str, said: str) -> None:
    run, photos = make_run(tmp_path)
    (photos / "test" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    draw_photo(tmp_path / "secret.jpg", 0, 0)
    write_predictions(run, [(path, "a", "b", "0.9"), ("test/b.jpg", "b", "b", "0.8")])
    page = report_of(run, photos)
    assert said in page.text
    assert not page.images()


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (800, 400), "blue")
    image.paste("red", (0, 0, 400, 400))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees, so that its left is the top
    image.save(tmp_path / "turned.jpg", exif=exif)
    uri = thumbnail(tmp_path, "turned.jpg")
    shown = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert shown.size == (96, 192)
    assert shown.getpixel((48, 20))[0] > 200  # type: ignore[index]
    assert shown.getpixel((48, 170))[2] > 200  # type: ignore[index]


def test_a_run_without_mistakes_has_no_confused_pairs(tmp_path: Path) -> None:
    run, photos = make_run(tmp_path, accuracy=1.0)
    page = report_of(run, photos)
    assert "No test photo was mistaken for another breed." in page.text
    assert "3 of 3 breeds were classified correctly in every test photo." in page.text
    assert not page.images()


def test_a_single_epoch_is_drawn_as_points(tmp_path: Path) -> None:
    run, photos = make_run(tmp_path, epochs=1)
    html = report.write(run, photos).read_text()
    assert "Loss by epoch" in html
    assert "best epoch (1)" in html


def test_a_missing_value_is_a_gap_in_its_curve(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    run.history.write_text("epoch,val/acc,val/loss,train/acc\n1,0.1,2.0,\n2,0.2,,\n3,,1.0,\n4,0.4,0.9,\n5,0.3,0.8")
    history = reading.read(run).history
    np.testing.assert_array_equal(history["val/acc"], [0.1, 0.2, np.nan, 0.4, 0.3])
    html = report.write(run, photos).read_text()
    lines = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--valid\)', html)
    assert any(line.count("M") == 2 for line in lines)  # the pen is lifted once
    assert "best epoch (4)" in html
    assert ">train<" not in html  # nor is there a line for what has no values


def test_an_epoch_written_twice_counts_as_the_later_one(small: tuple[RunFolder, Path]) -> None:
    run, _ = small
    run.history.write_text("epoch,val/acc\n2,0.2\n1,0.1\n2,0.25\n3,0.3\n,\n4")
    history = reading.read(run).history
    np.testing.assert_array_equal(history["epoch"], [1, 2, 3, 4])
    np.testing.assert_array_equal(history["val/acc"], [0.1, 0.25, 0.3, np.nan])


def test_best_epoch_follows_the_runs_monitor(small: tuple[RunFolder, Path]) -> None:
    run, _ = small
    run.history.write_text("epoch,val/acc,val/loss\n1,0.5,3\n2,0.9,2\n3,0.9,1\n4,0.1,4\n")
    assert page.best_epoch(reading.read(run)) == 3  # of the equal ones, that with the lower loss
    run.config.write_text("monitor: val/f1\nmode: max\n")
    run.history.write_text("epoch,val/f1,val/loss\n1,0.9,\n2,0.9,2\n3,0.9,3\n4,,1\n")
    assert page.best_epoch(reading.read(run)) == 2
    run.config.write_text("monitor: val/loss\nmode: min\n")
    assert page.best_epoch(reading.read(run)) == 4
    run.config.write_text("monitor: val/unheard\n")
    assert page.best_epoch(reading.read(run)) is None


def test_the_best_epoch_is_the_one_that_was_tested(small: tuple[RunFolder, Path]) -> None:
    run, _ = small
    run.history.write_text("epoch,val/acc,val/loss\n1,0.5,3\n2,0.9,2\n3,0.9,1\n")
    metrics = json.loads(run.metrics.read_text())
    run.metrics.write_text(json.dumps({**metrics, "best_epoch": 2.0}))  # of a version that kept the first of equals
    assert page.best_epoch(reading.read(run)) == 2


def test_only_metrics_and_predictions_are_needed(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    for path in (run.config, run.environment, run.history, run.skipped, run.fit):
        path.unlink()
    text = report_of(run, photos).text
    for said in ("config.yaml is missing", "environment.json is missing", "there are no curves", run.path.name):
        assert said in text


def test_a_test_set_without_photos_is_reported(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    write_predictions(run, [])
    run.environment.unlink()
    assert "No test photo was predicted." in report_of(run, photos).text


def test_values_that_were_not_measured_are_dashes(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    run.metrics.write_text('{"test/acc": NaN, "test/f1": null, "test/ece": "x"}')
    write_predictions(run, [("test/a.jpg", "a", "b", ""), ("test/b.jpg", "b", "b", "")])
    text = report_of(run, photos).text
    assert "predictions.csv holds no probabilities." in text
    assert page.ABSENT in text


def test_everything_missing_or_damaged_is_reported_at_once(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    run.metrics.unlink()
    run.predictions.write_text("path,breed\n")
    run.environment.write_text("[1")
    with pytest.raises(ReportError) as raised:
        report.write(run, photos)
    for said in (
        "3 problems found",
        "metrics.json is missing",
        "its first line lacks predicted, probability",
        "environment.json cannot",
    ):
        assert said in str(raised.value)
    assert not run.report.exists()


def test_a_failure_leaves_the_old_report(small: tuple[RunFolder, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run, photos = small
    before = report.write(run, photos).read_bytes()
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise RuntimeError("no ink")

        patch.setattr(plots, "confusion_matrix", fail)
        with pytest.raises(RuntimeError, match="no ink"):
            report.write(run, photos)
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No room"):
            report.write(run, photos)
    assert run.report.read_bytes() == before
    assert not list(run.path.glob(".*"))


def test_the_same_run_gives_the_same_file(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    assert report.write(run, photos).read_bytes() == report.write(run, photos).read_bytes()


def test_a_report_of_guesses_on_noise_stays_below_3_mb(tmp_path: Path) -> None:
    """The worst case: photos that do not compress, and mistakes that are nearly all different."""
    run, photos = make_run(tmp_path, classes=BREEDS, photos_each=1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    rows = []
    for number, (true, predicted) in enumerate(rng.integers(0, len(BREEDS), (8351, 2))):
        rows.append((f"test/{number % 50}.jpg", BREEDS[true], BREEDS[predicted], f"{rng.random():.6f}"))
    for number in range(50):
        Image.fromarray(pixels).save(photos / "test" / f"{number}.jpg")
    write_predictions(run, rows)
    assert report.write(run, photos).stat().st_size < 3_000_000


def test_more_classes_than_pixels_are_drawn_in_blocks(tmp_path: Path) -> None:
    names = [f"{n:05}.breed_{n}" for n in range(3000)]
    rows = [("test/a.jpg", name, name, 0.9) for name in names] + [("test/a.jpg", names[0], names[-1], 0.9)]
    cells = analysis.confusion(reading.index_predictions(rows, names))
    svg = plots.confusion_matrix(cells, display_names(names), "matrix")
    picture = Image.open(io.BytesIO(base64.b64decode(svg.partition("base64,")[2].partition('"')[0])))
    assert picture.size == (750, 750)
    red, green, blue, opacity = picture.convert("RGBA").getpixel((749, 0))  # type: ignore[misc]
    assert (red, green, blue) == plots.WRONG_RGB
    assert opacity > 100


def test_scores_agree_with_the_textbook() -> None:
    rows = [("", "a", "a", 0.95), ("", "a", "b", 0.55), ("", "b", "b", 1.0), ("", "b", "b", 0.5), ("", "c", "a", 0.0)]
    tested = reading.index_predictions(rows, ["a", "b", "c", "never"])
    scores = analysis.breed_scores(tested)
    np.testing.assert_allclose(scores.recall, [1 / 2, 1, 0, np.nan])
    np.testing.assert_allclose(scores.precision, [1 / 2, 2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(scores.f1, [1 / 2, 4 / 5, 0, np.nan])
    assert analysis.worst_first(scores).tolist() == [2, 0, 1]
    bins = analysis.reliability(tested)
    assert bins.count.tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    np.testing.assert_allclose(bins.accuracy[[0, 5, 9]], [0, 0.5, 1])
    np.testing.assert_allclose(bins.confidence[[0, 5, 9]], [0, 0.525, 0.975])
    low, high = analysis.wilson(np.array([81]), np.array([263]))
    np.testing.assert_allclose([low[0], high[0]], [0.2553, 0.3662], atol=1e-4)  # Newcombe 1998, table I, method 3


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["001.Affenpinscher", "002.Afghan_hound"], ["Affenpinscher", "Afghan hound"]),
        (["001.dog", "002.dog"], ["001.dog", "002.dog"]),
        (["001.", "7"], ["001.", "7"]),
        (["a\nb", "\udcff"], ["a\ufffdb", "\ufffd"]),
    ],
)
def test_labels_are_short_as_long_as_they_differ(classes: list[str], expected: list[str]) -> None:
    assert display_names(classes) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(8.21, "8.2 s"), (59.96, "1 min 0 s"), (100.1, "1 min 40 s"), (3725.2, "1 h 2 min")]
)
def test_durations_are_for_people(seconds: float, expected: str) -> None:
    assert page.duration(seconds) == expected


@pytest.mark.parametrize(
    ("bytes_", "expected"), [(0, "0 B"), (999, "999 B"), (4096, "4.1 kB"), (99_600, "100 kB"), (2.5e12, "2500 GB")]
)
def test_sizes_are_for_people(bytes_: int, expected: str) -> None:
    assert page.size(bytes_) == expected


def test_command_writes_the_report_again(small: tuple[RunFolder, Path]) -> None:
    run, _ = small
    done = subprocess.run(
        [sys.executable, "-m", "dogbreed.report", str(run.path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(run.report)), done.stderr
    assert Page(run.report.read_text()).images()


def test_command_expands_the_home_folder(small: tuple[RunFolder, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run, photos = small
    monkeypatch.setenv("HOME", str(photos.parent))
    run.config.write_text("data:\n  root: ~/photos\n")
    assert main([str(run.path)]) == 0
    assert Page(run.report.read_text()).images()


def test_command_takes_photos_from_elsewhere(small: tuple[RunFolder, Path]) -> None:
    run, photos = small
    run.config.unlink()
    assert main([str(run.path), "--photos", str(photos)]) == 0
    assert Page(run.report.read_text()).images()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", "seed: 0\n", "does not say where the photos are"),
        ("config.yaml", "data: [", "does not say where the photos are"),
        ("metrics.json", None, "train.py resume="),
    ],
)
def test_command_ends_with_status_1_and_a_reason(
    small: tuple[RunFolder, Path], capsys: pytest.CaptureFixture[str], name: str, content: str | None, said: str
) -> None:
    run, _ = small
    (run.path / name).unlink() if content is None else (run.path / name).write_text(content)
    assert main([str(run.path)]) == 1
    assert said in capsys.readouterr().err


def test_command_refuses_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--photos", str(tmp_path)]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err


def test_importing_the_report_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, dogbreed.report; print({'torch', 'matplotlib', 'PIL'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_the_installed_package_has_the_page() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "dogbreed.report" in find_packages(str(ROOT), **settings["packages"]["find"])
    others = {path.name for path in (ROOT / "dogbreed" / "report").iterdir() if path.suffix in (".css", ".jinja")}
    assert others == set(settings["package-data"]["dogbreed.report"])


# In a real browser


CHECK = """<script>addEventListener("load", () => {
  const shown = [...document.images].map(image => image.naturalWidth);
  const rasters = [...document.querySelectorAll("svg image")].map(image => image.getBoundingClientRect().width);
  const crowded = [], outside = [];
  for (const svg of document.querySelectorAll("svg.plot")) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    for (const [name, a] of texts) {
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        outside.push(name);
      for (const [other, b] of texts)
        if (a !== b && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
          crowded.push(name + " / " + other);
    }
  }
  const page = document.documentElement;
  const found = {shown, rasters, crowded, outside, wide: page.scrollWidth - page.clientWidth,
                 background: getComputedStyle(page).backgroundColor};
  const note = document.createElement("pre");
  note.id = "found";
  note.textContent = JSON.stringify(found);
  document.body.append(note);
});</script>"""


def browse(html: Path, scratch: Path, *options: str) -> str:
    """Open `html` in headless Chromium and return its output."""
    chromium = shutil.which("chromium")
    assert chromium, "This test opens the report in Chromium, which is not installed. Try: apt-get install chromium"
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", NO_NAMES]
    command += ["--proxy-server=http://127.0.0.1:9", "--proxy-bypass-list=<-loopback>"]  # nobody there: nothing leaves
    command += [f"--user-data-dir={tempfile.mkdtemp(dir=scratch)}", *options, html.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def look(run: RunFolder, scratch: Path, *options: str) -> dict[str, Any]:
    """Return what CHECK finds in a copy of the report without its policy against scripts."""
    html = re.sub(r"<meta http-equiv=[^>]*>", CHECK, run.report.read_text(), count=1)
    copy = scratch / "checked.html"
    copy.write_text(html)
    dom = browse(copy, scratch, "--dump-dom", *options)
    found: dict[str, Any] = json.loads(unescape(dom.rpartition('<pre id="found">')[2].partition("</pre>")[0]))
    return found


@pytest.mark.parametrize("width", [1280, 420])
def test_browser_shows_every_photo_and_readable_plots(finished: RunFolder, tmp_path: Path, width: int) -> None:
    found = look(finished, tmp_path, f"--window-size={width},2000")
    assert len(found["shown"]) == len(Page(finished.report.read_text()).images()) > 3
    assert all(pixels > 0 for pixels in [*found["shown"], *found["rasters"]])
    assert found["rasters"]
    assert found["outside"] == []
    assert found["crowded"] == []
    assert found["wide"] <= 0  # nothing sticks out sideways


def test_browser_takes_light_and_dark_from_the_reader(few: tuple[RunFolder, Path], tmp_path: Path) -> None:
    backgrounds = [look(few[0], tmp_path, f"--blink-settings=preferredColorScheme={n}")["background"] for n in (0, 1)]
    dark, light = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in backgrounds)
    assert dark < 150 < 600 < light


def requests_of(html: Path, scratch: Path, *options: str) -> list[str]:
    """Return the URLs that a page requested, from Chromium's log; Chromium's own requests have no origin there."""
    log_path = scratch / "net.json"
    browse(html, scratch, f"--log-net-log={log_path}", *options)
    log = json.loads(log_path.read_text())
    begun = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event.get("params", {}) for event in log["events"] if event["type"] == begun]
    return [a["url"] for a in asked if a.get("initiator", "not an origin") != "not an origin"]


def test_browser_asks_the_network_for_nothing(finished: RunFolder, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    assert requests_of(finished.report, tmp_path, f"--screenshot={picture}", "--window-size=1280,2400") == []
    with Image.open(picture) as seen:
        assert seen.size == (1280, 2400)
        assert len(seen.convert("RGB").getcolors(1 << 24) or []) > 100  # something is on it


def test_browser_would_be_kept_from_asking(few: tuple[RunFolder, Path], tmp_path: Path) -> None:
    """The policy blocks a request that the test above would see without it."""
    address = "http://photos.invalid/dog.jpg"
    tempting = tmp_path / "tempting.html"
    html = few[0].report.read_text().replace("</header>", f'</header><img src="{address}">')
    tempting.write_text(html)
    assert requests_of(tempting, tmp_path, "--dump-dom") == []
    tempting.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", html))
    assert requests_of(tempting, tmp_path, "--dump-dom") == [address]


def test_browser_runs_no_script_of_a_report(few: tuple[RunFolder, Path], tmp_path: Path) -> None:
    scripted = tmp_path / "scripted.html"
    scripted.write_text(few[0].report.read_text().replace("</main>", "</main>" + CHECK))
    assert '<pre id="found">' not in browse(scripted, tmp_path, "--dump-dom")
