"""The benchmarks measure what they claim: both sides get the same data, in turn. No test asserts a speed."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dogbreed.benchmark import __main__ as command
from dogbreed.benchmark import finetune, frozen, harness, overhead, pictures, probe, serve, speedup
from dogbreed.benchmark import input as input_pipeline
from dogbreed.benchmark.harness import Benchmark, Row, Setup, SideError, interleaved, results, steady_seconds, table
from dogbreed.benchmark.machine import in_words, machine
from dogbreed.scanning.layout import SPLITS
from tests.support.photos import make_photos, tiny_settings
from tests.support.project import ROOT

BENCHMARKS = command.BENCHMARKS
FASTER = Row("faster", ("ours", "seconds"), ("usual", "seconds"), "s", goal=2)


def samples(usual: list[float], ours: list[float], metric: str = "seconds") -> dict[str, list[harness.Sample]]:
    return {side: [{metric: value} for value in values] for side, values in (("usual", usual), ("ours", ours))}


def test_the_sides_take_turns() -> None:
    order: list[str] = []
    interleaved(["usual", "ours"], 3, lambda side: order.append(side) or {}, lambda line: None)  # type: ignore[func-returns-value]
    assert order == ["usual", "ours"] * 3


def test_a_time_is_that_of_the_whole_process(tmp_path: Path) -> None:
    clock: Iterator[float] = iter([100.0, 103.5])
    assert harness.timed([sys.executable, "-c", "pass"], tmp_path / "said", clock=lambda: next(clock)) == 3.5


def test_a_side_that_fails_ends_the_benchmark_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(SideError, match=r"(?s)exit status 1.*no such photo"):
        harness.timed([sys.executable, "-c", "raise SystemExit('no such photo')"], tmp_path / "said")


def test_the_ratio_is_of_the_medians_and_its_range_that_of_the_pairs() -> None:
    (result,) = results([FASTER], samples([10, 30, 20], [5, 5, 40]))
    assert (result.reference, result.ours, result.ratio) == (20, 5, 4)
    assert (result.lowest, result.highest) == (0.5, 6)


@pytest.mark.parametrize(
    ("unit", "at_most", "goal", "usual", "ours", "ratio", "reached"),
    [
        ("s", False, 15, 300.0, 20.0, 15, True),  # times as fast
        ("s", False, 15, 299.0, 20.0, 14.95, False),
        ("images/s", False, 2.5, 100.0, 249.0, 2.49, False),
        ("ms", True, 1.03, 100.0, 103.0, 1.03, True),  # times as long
        ("s", True, 2.5, 1.0, 2.6, 2.6, False),
        ("s", False, None, 2.0, 1.0, 2, None),
    ],
)
def test_goals_hold_for_the_right_side_of_the_ratio(
    unit: Any, at_most: bool, goal: float | None, usual: float, ours: float, ratio: float, reached: bool | None
) -> None:
    row = Row("row", ("ours", "seconds"), ("usual", "seconds"), unit, goal, at_most)
    (result,) = results([row], samples([usual], [ours]))
    assert result.ratio == pytest.approx(ratio)
    assert result.reached is reached


def test_a_goal_may_be_for_dogbreed_alone() -> None:
    row = Row("waiting", ("ours", "waiting"), None, "share", goal=0.05, at_most=True)
    (result,) = results([row], samples([], [0.02, 0.2, 0.04], "waiting"))
    assert (result.ours, result.reached, result.ratio) == (0.04, True, None)
    assert "4.0%" in table([result])
    assert "<= 5%, reached" in table([result])


def test_a_missed_goal_is_shown_as_missed() -> None:
    assert ">= 2, missed" in table(results([FASTER], samples([15], [10])))


def test_the_table_is_markdown_within_80_columns() -> None:
    rows = [row for one in BENCHMARKS.values() for gpu in (False, True) for row in one.rows(Setup(Path(), gpu=gpu))]
    slow = {side: [dict.fromkeys(metrics_of(rows), 1234.5)] for one in BENCHMARKS.values() for side in one.sides}
    lines = table(results(rows, slow)).splitlines()
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= 80
    assert {line.count("|") for line in lines} == {6}


def metrics_of(rows: list[Row]) -> set[str]:
    return {metric for row in rows for _, metric in filter(None, (row.ours, row.reference))}


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows_name_sides_that_exist(name: str, gpu: bool) -> None:
    benchmark = BENCHMARKS[name]
    for row in benchmark.rows(Setup(Path(), gpu=gpu)):
        assert row.ours[0] in benchmark.sides
        assert row.reference is None or row.reference[0] in benchmark.sides


def test_warm_up_steps_count_as_the_mean_of_their_epochs_other_steps() -> None:
    assert steady_seconds([[9, 9, 1, 2], [3, 4]]) == 1.5 * 4 + 7
    assert steady_seconds([[9, 9, 9, 2]]) == 5.5 * 4
    assert steady_seconds([[9, 1]]) == 2  # too short to leave any out but the first


def test_photos_are_a_function_of_their_number_and_as_large_as_real_ones() -> None:
    one, same, other = pictures.photo(0), pictures.photo(0), pictures.photo(1)
    assert one == same != other
    assert Image.open(io.BytesIO(one)).size == (900, 675)
    assert 80_000 < len(one) < 160_000


def test_photos_lie_in_all_splits_and_are_made_once(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"classes": 2, "train": 3, "valid": 2, "test": 2, "width": 64, "height": 48}
    pictures.make_photos(tmp_path, **sizes)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    assert [len(list((tmp_path / split).rglob("*.jpg"))) for split in ("train", "valid", "test")] == [3, 2, 2]
    assert len({path.read_bytes() for path in made}) == 7  # no photo is in two splits
    pictures.make_photos(tmp_path, **sizes)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")} == made


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 photos for training: two batches."""
    folder = tmp_path_factory.mktemp("noise")
    return pictures.make_photos(folder, classes=2, train=64, valid=2, test=2, width=320, height=240)


def test_both_sides_of_input_give_batches_of_the_same_shape_and_statistics(noise: Path) -> None:
    torch.manual_seed(0)
    usual, ours = (list(side(noise)()) for side in (input_pipeline.reference, input_pipeline.ours))
    assert [(batch.shape, batch.dtype) for batch in usual] == [(batch.shape, batch.dtype) for batch in ours]
    one, other = torch.cat(usual), torch.cat(ours)
    assert len(one) == 64
    assert torch.allclose(one.mean((0, 2, 3)), other.mean((0, 2, 3)), atol=0.1)
    assert torch.allclose(one.std((0, 2, 3)), other.std((0, 2, 3)), rtol=0.1)
    # neighbouring pixels differ as much on both: neither side sees blurred or coarser pictures
    detail = [(batch[..., 1:] - batch[..., :-1]).abs().mean() for batch in (one, other)]
    assert detail[0] == pytest.approx(float(detail[1]), rel=0.15)


def test_both_sides_of_input_read_the_same_photos(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dogbreed.transforms import Augment

    seen: dict[str, set[str]] = {"usual": set(), "ours": set()}
    read, view = Image.open, Augment.view

    def reads(path: Any, *arguments: Any, **more: Any) -> Any:
        seen["usual"].add(str(getattr(path, "name", path)))
        return read(path, *arguments, **more)

    def views(self: Augment, picture: Any, **more: Any) -> Any:
        seen["ours"].add(str(picture))
        return view(self, picture, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", reads)
        list(input_pipeline.reference(noise)())
    monkeypatch.setattr(Augment, "view", views)
    list(input_pipeline.ours(noise)())
    assert seen["ours"] == seen["usual"] == {str(path) for path in (noise / "train").rglob("*.jpg")}


def test_the_plain_loop_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = make_photos(tmp_path / "photos")
    threads = torch.get_num_threads()
    losses = frozen.plain(photos, epochs=4, batch_size=8, image_px=32, network="resnet18")
    torch.set_num_threads(threads)
    assert losses[-1] < losses[0]
    assert "test acc" in capsys.readouterr().out


def test_the_timer_records_every_step_of_a_run(photos: Path, tmp_path: Path) -> None:
    from dogbreed.benchmark import runs

    runs.STEPS.__init__()  # type: ignore[misc]  # of this process's one run, which this may not be
    runs.train([*tiny_settings(photos), runs.CLOCKED], tmp_path / "run")
    found = runs.STEPS.summary()
    assert [len(epoch) for epoch in found["steps"]] == [6, 6]  # 24 photos in batches of 4, two epochs
    assert found["px"] == [32, 32]
    assert 0 <= found["waiting"] < 1
    assert found["images_per_s"] > 0
    assert sum(map(sum, found["steps"])) <= found["steps_and_validation_s"] <= found["fit_s"]


def test_the_two_sides_of_a_network_step_start_from_the_same_batches(tmp_path: Path) -> None:
    from hydra.utils import instantiate

    from dogbreed.benchmark import runs

    setup = Setup(tmp_path, quick=True)
    sizes: dict[str, Any] = {"classes": 2, "train": 8, "valid": 2, "test": 2, "width": 64, "height": 48}
    pictures.make_photos(setup.place("network"), **sizes)
    data = instantiate(runs.settings(overhead._network_overrides(setup))["data"])
    data.setup()
    first, second = (list(data.train_dataloader()) for _ in range(2))
    assert [images.shape for images, _ in first] == [(8, 3, overhead.IMAGE_PX, overhead.IMAGE_PX)]
    assert all(torch.equal(one, other) for one, other in zip(first[0], second[0], strict=True))


@pytest.mark.parametrize("name", ["frozen", "finetune", "overhead"])
def test_the_settings_of_dogbreeds_sides_compose(name: str, tmp_path: Path) -> None:
    from dogbreed.benchmark import runs

    setup = Setup(tmp_path)
    overrides = {
        "frozen": frozen._overrides(setup),
        "finetune": finetune._overrides(setup, 2, f"data.start_px={finetune.START_PX}"),
        "overhead": overhead.feature_overrides(setup),
    }[name]
    composed = runs.settings(overrides)
    assert composed["model"]["weights"] is None
    assert composed["model"]["trainable"] == ("all" if name == "finetune" else "head")


def test_settings_compose_where_no_launcher_is_loaded() -> None:
    script = "from dogbreed.benchmark import runs; print(runs.settings(['experiment=quickstart'])['run_id'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "benchmark", done.stderr


def measured_steps(milliseconds: float = 1000) -> dict[str, list[harness.Sample]]:
    sample = {"step_ms": milliseconds, "backward_s": milliseconds / 1500, "other_s": milliseconds / 3000}
    return {side: [sample] for side in speedup.BENCHMARK.sides}


def test_simulated_speed_ups_follow_from_the_measured_step() -> None:
    slow, fast = (speedup.simulated(measured_steps(ms)) for ms in (10_000, 100))
    assert max(map(len, slow)) <= 80
    (slow_row,), (fast_row,) = ([line for line in lines if "m5.large, all" in line] for lines in (slow, fast))
    gains = [[float(cell) for cell in row.split("|")[3:-1]] for row in (slow_row, fast_row)]
    assert gains[0] == sorted(gains[0])
    assert all(one > other for one, other in zip(*gains, strict=True))  # more to compute hides more of the network
    assert gains[0][0] == pytest.approx(2, rel=0.02)
    gpu = [line for line in slow if "ml.g5" in line]
    assert gpu == [line for line in fast if "ml.g5" in line]  # stated, not measured
    assert len(gpu) == 3


def test_a_bare_step_is_that_of_its_batch(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    found = speedup._step(Setup(tmp_path, quick=True), speedup.HEAD, 16)
    torch.set_num_threads(threads)
    assert found["step_ms"] == pytest.approx(1000 * (found["backward_s"] + found["other_s"]))
    assert found["images_per_s"] == pytest.approx(64_000 / found["step_ms"])


def test_the_machine_is_described_in_80_columns() -> None:
    found = machine()
    assert found["cores"] >= 1
    assert torch.__version__.startswith(found["torch"])
    assert max(map(len, in_words(found))) <= 80


def test_an_unknown_benchmark_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["decoding"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in [*BENCHMARKS, "all"])


def test_an_unknown_side_is_refused_with_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["frozen", "--side", "theirs", "--work", str(tmp_path)]) == 1
    assert "plain, ours" in capsys.readouterr().err


def test_json_holds_what_was_printed_and_every_single_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([10.0, 4.0, 12.0, 6.0, 11.0, 5.0])
    toy = Benchmark(
        "toy", "Two numbers.", 3, lambda setup: None, {"usual": no_side, "ours": no_side}, lambda _: [FASTER]
    )
    monkeypatch.setattr(command, "BENCHMARKS", {"toy": toy})
    monkeypatch.setattr(command, "measured", lambda benchmark, side, setup: {"seconds": next(values)})
    monkeypatch.setattr(command, "_ABOUT", {"toy": "two numbers"})
    assert command.main(["toy", "--json", str(tmp_path / "found.json"), "--work", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    entry = found["benchmarks"]["toy"]
    assert entry["samples"] == samples([10, 12, 11], [4, 6, 5])
    assert entry["rows"][0]["ratio"] == 2.2
    assert entry["rows"][0]["reached"] is True
    assert found["machine"]["commit"] == machine()["commit"]
    said = capsys.readouterr().out
    assert "11.0 s" in said
    assert "5.00 s" in said
    assert "2.20" in said
    assert ">= 2, reached" in said


def no_side(setup: Setup) -> harness.Sample:
    raise AssertionError("the sides are faked")


def test_quick_input_runs_as_a_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dogbreed.benchmark", "input", "--quick", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["quick"] is True
    assert [len(found["benchmarks"]["input"]["samples"][side]) for side in ("reference", "ours")] == [1, 1]
    assert all(row["ours"] > 0 for row in found["benchmarks"]["input"]["rows"])


def test_clients_of_serve_send_each_request_once_and_time_it() -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    seen: list[bytes] = []

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(500 if seen[-1] == b"bad" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        seconds = serve._closed_loop(server.server_port, [b"a", b"b", b"c"], 2, 7)
        assert len(seconds) == 7
        assert sorted(seen) == [b"a", b"a", b"a", b"b", b"b", b"c", b"c"]
        with pytest.raises(SideError, match="answered 500"):
            serve._closed_loop(server.server_port, [b"bad"], 1, 1)
        server.shutdown()


@pytest.mark.slow
def test_both_sides_of_serve_have_the_same_network(tmp_path: Path) -> None:
    import http.client
    from contextlib import closing

    import numpy as np

    setup = Setup(tmp_path, quick=True)
    serve._prepare(setup)
    picture = (setup.place("serve") / "00.jpg").read_bytes()
    answers = []
    for words in (serve.ours_command(setup), serve.fastapi_command(setup)):
        with (
            serve._server(words, picture, setup.fresh("server")) as (_, port, _seconds),
            closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
        ):
            connection.request("POST", "/invocations", picture, {"Content-Type": "application/octet-stream"})
            answers.append(np.array(json.loads(connection.getresponse().read())["probabilities"]))
    assert answers[0].argmax() == answers[1].argmax()
    assert np.abs(answers[0] - answers[1]).max() < 0.02  # the plain one scales first and crops then, at full size


def test_patterns_of_a_kind_differ_and_their_classes_lie_in_all_splits(tmp_path: Path) -> None:
    one, same, other = pictures.pattern(0, 3), pictures.pattern(0, 3), pictures.pattern(1, 3)
    assert one == same != other
    pictures.make_patterns(tmp_path, classes=2, train=3, valid=1, test=2)
    counts = {split: [len(list(kind.iterdir())) for kind in sorted((tmp_path / split).iterdir())] for split in SPLITS}
    assert counts == {"train": [3, 3], "valid": [1, 1], "test": [2, 2]}
    assert len({path.read_bytes() for path in tmp_path.rglob("*.jpg")}) == 12


def test_the_regression_s_strength_is_chosen_on_the_validation_photos() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(60, 100)), np.array([0] * 40 + [1] * 20)
    of_train, of_many = (rows, labels), (rng.normal(size=(60, 100)), np.zeros(60))
    weak = probe.regression({"train": of_train, "valid": of_many, "test": of_many})
    assert weak == (1.0, 1e-4)  # which names the commonest class
    strong = probe.regression({"train": of_train, "valid": of_train, "test": of_many})
    assert strong[1] > 1e-4  # the smallest that gets all of them right
    assert strong[0] < 1


def test_the_regression_sees_the_features_that_the_head_is_trained_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOGBREED_CACHE", str(tmp_path))
    seen = probe.features_of([*tiny_settings(photos), "model.trainable=head"])
    assert {split: rows.shape[0] for split, (rows, _) in seen.items()} == {"train": 24, "valid": 9, "test": 9}
    assert [np.bincount(labels).tolist() for _, labels in seen.values()] == [[8] * 3, [3] * 3, [3] * 3]
    assert all(len(np.unique(rows, axis=0)) == len(rows) for rows, _ in seen.values())
