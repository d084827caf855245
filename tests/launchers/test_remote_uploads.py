"""A rented machine beside SageMaker's agent, which writes markers and uploads late: nothing breaks, nothing is lost."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from dogbreed.report.reading import _stored_files
from dogbreed.run_folder import RunFolder, is_passing, lasting_files, temporary_path
from launchers.remote import entry, uploads
from tests.support.launcher_contract import until
from tests.support.machines import LONGEST_S, SAYS, Machine

MARKERS = ("last.ckpt.sagemaker-uploading", "last.ckpt.sagemaker-uploaded")
SAVES_ON_SIGTERM = """
import os, signal, sys, time
from pathlib import Path
folder = Path(os.environ["SAGEMAKER_BASE_DIR"]) / "checkpoints"
def save(*_):
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").write_text("weights")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(folder / "up").touch()
time.sleep(600)
"""


def test_what_comes_and_goes_has_one_definition() -> None:
    names = [*MARKERS, temporary_path(Path("last.ckpt")).name, "last.ckpt", "sagemaker-uploaded.json", "metrics.csv"]
    for name in names:
        assert is_passing(name) == name.endswith(entry._PASSING)
        assert is_passing(name) == name.endswith((uploads._UPLOADING, uploads._UPLOADED, uploads._IGNORED))
    assert [name for name in names if is_passing(name)] == names[:3]


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A run folder with an agent that is in a great hurry: its markers come and go all the time."""
    folder = tmp_path / "run"
    files = [folder / name for name in ("checkpoints/last.ckpt", "metrics.csv", "checkpoints/best.ckpt", "train.log")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    ending = threading.Event()

    def mark() -> None:
        while not ending.is_set():
            for path in files:
                path.with_name(f"{path.name}.sagemaker-uploading").touch()
            for path in files:
                path.with_name(f"{path.name}.sagemaker-uploading").unlink()

    agent = threading.Thread(target=mark)
    agent.start()
    yield folder
    ending.set()
    agent.join()


def test_markers_that_vanish_while_a_folder_is_read_hurt_nobody(busy: Path, tmp_path: Path) -> None:
    expected = {"checkpoints/last.ckpt", "metrics.csv", "checkpoints/best.ckpt", "train.log"}
    for n in range(200):
        entry._copy_run_folder(busy, tmp_path / f"output-{n}")
        assert {path.relative_to(busy).as_posix() for path in lasting_files(busy)} == expected
        assert {file.name for file in _stored_files(RunFolder(busy))} == expected
        assert {path.relative_to(busy).as_posix() for path in uploads.stamps(busy)} == expected
    copied = {path.relative_to(tmp_path / "output-7").as_posix() for path in (tmp_path / "output-7").rglob("*.*")}
    assert copied == expected


def test_markers_and_half_written_files_of_the_machine_before_are_no_part_of_the_run(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS)
    folder = machine.base / "checkpoints"
    folder.mkdir()
    for name in (*MARKERS, ".last.ckpt.tmp-9.sagemaker-ignore"):
        (folder / name).touch()
    assert machine.run()[0] == 0
    assert not (folder / ".last.ckpt.tmp-9.sagemaker-ignore").exists()
    kept = {path.name for path in (machine.base / "output/data").rglob("*.*")}
    assert kept == {"metrics.json", "best.ckpt"}


def stopped(machine: Machine, **environment: str) -> "subprocess.Popen[str]":
    """A machine that has been told to end, and whose train.py has saved."""
    process = machine.start(**environment)
    until(lambda: (machine.base / "checkpoints/up").exists())
    process.send_signal(signal.SIGTERM)
    until(lambda: is_written(machine.base / "checkpoints/checkpoints/last.ckpt", "weights"))
    return process


def is_written(path: Path, text: str) -> bool:
    """Return whether a file is whole: a marker beside it is not older from then on."""
    return path.exists() and path.read_text() == text


def test_after_a_signal_it_stays_until_the_checkpoint_is_marked_as_uploaded(tmp_path: Path) -> None:
    agent = f'(folder / "checkpoints" / "{MARKERS[0]}").touch()'  # which is there as soon as something is saved
    machine = Machine(tmp_path / "ml", SAVES_ON_SIGTERM.replace("    sys.exit", f"    {agent}\n    sys.exit"))
    process = stopped(machine, DOGBREED_UPLOADS_S="100")
    place = machine.base / "checkpoints/checkpoints"
    until((place / MARKERS[0]).exists)
    assert process.poll() is None
    (place / MARKERS[1]).touch()
    (place / MARKERS[0]).unlink()
    assert "missing in S3" not in process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == 143


def test_a_marker_that_is_older_than_the_checkpoint_tells_nothing_and_it_gives_up(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAVES_ON_SIGTERM)
    place = machine.base / "checkpoints/checkpoints"
    place.mkdir(parents=True)
    (place / MARKERS[1]).touch()
    os.utime(place / MARKERS[1], (1e9, 1e9))
    process = stopped(machine, DOGBREED_UPLOADS_S="1")
    assert "some of them may be missing in S3" in process.communicate(timeout=LONGEST_S)[0]


def test_a_checkpoint_that_came_with_the_machine_is_not_waited_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", "raise SystemExit(1)")
    place = machine.base / "checkpoints/checkpoints"
    place.mkdir(parents=True)
    (place / "last.ckpt").write_text("of an earlier machine")
    assert machine.run(DOGBREED_UPLOADS_S=str(10 * LONGEST_S))[0] == 1


def test_after_a_success_it_stays_for_the_features_that_later_runs_read(tmp_path: Path) -> None:
    computes = """
import os
from pathlib import Path
folder = Path(os.environ["DOGBREED_FEATURES"]) / "store" / "shards"
folder.mkdir(parents=True)
(folder / "a.npy").write_text("rows")
(folder / "a.npy.sagemaker-uploading").touch()
"""
    machine = Machine(tmp_path / "ml", computes)
    process = machine.start(DOGBREED_UPLOADS_S="100")
    shard = machine.base / "checkpoints/features/store/shards/a.npy"
    until(shard.with_name("a.npy.sagemaker-uploading").exists)
    assert process.poll() is None
    shard.with_name("a.npy.sagemaker-uploaded").touch()
    shard.with_name("a.npy.sagemaker-uploading").unlink()
    assert "missing in S3" not in process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == 0


class Clock:
    """Takes the place of the module `time`: sleeping takes no time, and does what is due by then."""

    def __init__(self, due: Sequence[tuple[float, Callable[[], object]]]) -> None:
        self.now, self.due = 0.0, list(due)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.due and self.due[0][0] <= self.now:
            self.due.pop(0)[1]()


@pytest.mark.parametrize(
    ("agent", "known", "after_s"),
    [
        # another upload is in progress until 30 s; then it must stay as it is for a fiftieth of the time
        ([(5, "uploading", True), (10, "uploaded", True), (30, "uploading", False)], True, 32),
        ([(5, "uploaded", True), (6, "another", True)], False, 80),
        ([(5, "uploading", True), (10, "too early", True)], False, 80),
        ([], False, 20),  # without any marker a fifth of the time must do
        ([(15, "uploading", True)], False, 80),
    ],
)
def test_how_long_it_waits_for_the_agent(
    agent: list[tuple[float, str, bool]],
    known: bool,
    after_s: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "checkpoints" / "last.ckpt"
    file.parent.mkdir()
    file.write_text("weights")

    def mark(what: str, there: bool) -> None:
        of = file.with_name("best.ckpt") if what == "another" else file
        kind = {"another": "uploading", "too early": "uploaded"}.get(what, what)
        marker = of.with_name(f"{of.name}.sagemaker-{kind}")
        marker.touch() if there else marker.unlink()
        if what == "too early":
            os.utime(marker, (1e9, 1e9))

    clock = Clock([(at, partial(mark, what, there)) for at, what, there in agent])
    monkeypatch.setattr(uploads, "time", clock)
    monkeypatch.setenv("DOGBREED_UPLOADS_S", "100")
    assert uploads.wait_for([file], tmp_path, until=80) is known
    assert clock.now == pytest.approx(after_s, abs=0.2)


def test_what_is_waited_for_is_what_somebody_reads_where_it_was_saved(tmp_path: Path) -> None:
    before = uploads.stamps(tmp_path)
    names = ["metrics.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "features/a/recipe.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def needed(*, failed: bool, tuned: bool) -> set[str]:
        found = uploads.needed(tmp_path, before, failed=failed, tuned=tuned)
        return {path.relative_to(tmp_path).as_posix() for path in found}

    assert needed(failed=True, tuned=False) == needed(failed=True, tuned=True) == {"checkpoints/last.ckpt"}
    assert needed(failed=False, tuned=False) == {"features/a/recipe.json"}  # the rest is in its archive
    assert needed(failed=False, tuned=True) == set(names)
