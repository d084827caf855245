import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed import loading
from dogbreed.data import LEFT_OUT, DogBreedData, EpochOrder, StepSampler, TrainLoader, epoch_px, even_batch
from dogbreed.errors import ConfigError, DataError, Interrupted
from dogbreed.interruption import Interruption
from dogbreed.loading import PhotoLoader
from dogbreed.preprocess import Preprocess
from dogbreed.transforms import Augment, relight
from tests.support.photos import make_photos
from tests.support.project import ROOT


def data(photos: Path, **settings: object) -> DogBreedData:
    made = DogBreedData(photos, **{"batch_size": 4, "image_px": 32, "workers": 0, "augment": Augment(), **settings})
    made.setup()
    return made


def epoch(loader: TrainLoader, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader.batch_sampler.sampler.set_epoch(number)  # type: ignore[union-attr]
    return list(loader)


def equal(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_a_batch_is_uint8_in_channels_last_layout(photos: Path) -> None:
    images, labels, light = next(iter(data(photos).train_dataloader()))
    assert (images.shape, images.dtype, labels.shape) == ((4, 3, 32, 32), torch.uint8, (4,))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (light.shape, light.dtype) == ((4, 3), torch.float32)


def test_order_and_augmentation_depend_on_seed_and_epoch_and_not_on_the_workers(photos: Path) -> None:
    first = epoch(data(photos).train_dataloader(), 1)
    assert equal(first, epoch(data(photos, workers=2).train_dataloader(), 1))
    assert not equal(first, epoch(data(photos).train_dataloader(), 2))
    assert not equal(first, epoch(data(photos, seed=1).train_dataloader(), 1))


def test_persistent_workers_see_each_new_epoch(photos: Path) -> None:
    loader = data(photos, workers=1).train_dataloader()
    assert equal(epoch(loader, 0), epoch(data(photos).train_dataloader(), 0))
    assert equal(epoch(loader, 1), epoch(data(photos).train_dataloader(), 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_is_resumed_gives_the_rest_of_the_epoch(photos: Path, workers: int) -> None:
    whole = epoch(data(photos).train_dataloader(), 3)
    for done in range(len(whole)):
        loader = data(photos, workers=workers).train_dataloader()
        loader.load_state_dict({"batches": done})
        assert equal(epoch(loader, 3), whole[done:])
        assert equal(epoch(loader, 4), epoch(data(photos).train_dataloader(), 4))


def test_the_loader_counts_what_it_gave_and_not_what_its_workers_prepared(photos: Path) -> None:
    loader = data(photos, workers=2).train_dataloader()
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.state_dict() == {"batches": 2}


def test_loading_does_not_change_the_global_random_state(photos: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    made = data(photos)
    list(made.train_dataloader()), list(made.val_dataloader())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_an_epoch_holds_each_photo_once() -> None:
    order = EpochOrder(100, 20, seed=0)
    order.set_epoch(5)
    keys = [key for batch in StepSampler(order) for key in batch]
    assert sorted(index for _, index in keys) == list(range(100))
    assert {number for number, _ in keys} == {5}


def test_evaluation_reads_every_photo_in_order(photos: Path) -> None:
    labels = torch.cat([labels for _, labels in data(photos).test_dataloader()])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_missing_folder_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent does not exist.\nTry: data.root="):
        DogBreedData(tmp_path / "absent").setup()


# --- light ---


def test_the_model_gets_relit_images_and_labels(photos: Path) -> None:
    made = data(photos)
    images, labels, light = next(iter(made.train_dataloader()))
    relit, same_labels = made.on_after_batch_transfer((images, labels, light), 0)
    assert torch.equal(relit, relight(images, light))
    assert torch.equal(same_labels, labels)
    assert relit.dtype == torch.uint8
    assert relit.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(relit, images)


@pytest.mark.parametrize("augment", [None, Augment(jitter=0.0)])
def test_without_jitter_there_is_no_light_to_change(photos: Path, augment: Augment | None) -> None:
    made = data(photos, augment=augment)
    for loader in (made.train_dataloader(), made.val_dataloader()):
        batch = next(iter(loader))
        assert len(batch) == 2
        assert made.on_after_batch_transfer(batch, 0) is batch


# --- evaluation without a second decode ---


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record every picture that is decoded in this process."""
    seen: list[object] = []
    plain = Preprocess.pixels

    def counting(self: Preprocess, picture: object) -> object:
        seen.append(picture)
        return plain(self, picture)  # type: ignore[arg-type]

    monkeypatch.setattr(Preprocess, "pixels", counting)
    return seen


def test_a_second_evaluation_decodes_nothing(photos: Path, decodes: list[object]) -> None:
    made = data(photos)
    first = list(made.val_dataloader())
    assert len(decodes) == 9
    assert equal(first, list(made.val_dataloader()))
    assert equal(first, list(made.val_dataloader()))
    assert len(decodes) == 9
    list(made.test_dataloader())
    assert len(decodes) == 18


def test_the_evaluation_loaders_stay_the_same(photos: Path) -> None:
    made = data(photos)
    assert made.val_dataloader() is made.val_dataloader()
    assert made.test_dataloader() is made.test_dataloader()
    assert made.test_dataloader() is not made.val_dataloader()


def test_a_partial_evaluation_is_not_mistaken_for_a_complete_one(photos: Path, decodes: list[object]) -> None:
    """Lightning reads two batches before it trains."""
    loader = data(photos).val_dataloader()
    batches = iter(loader)
    next(batches), next(batches)
    batches.close()
    assert len(list(loader)) == 3
    assert len(decodes) == 8 + 9
    list(loader)
    assert len(decodes) == 8 + 9


def test_an_evaluation_set_that_does_not_fit_is_decoded_again(
    photos: Path, decodes: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = 9 * 3 * 32 * 32
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: 8 * images)  # and labels
    loader = data(photos).val_dataloader()
    assert equal(list(loader), list(loader))
    assert len(decodes) == 18


def test_kept_batches_need_no_workers_and_no_shared_memory(photos: Path) -> None:
    before = set(multiprocessing.active_children())
    loader = data(photos, workers=2).val_dataloader()
    first = list(loader)
    assert set(multiprocessing.active_children()) <= before
    again = list(loader)
    assert equal(first, again)
    assert not any(part.is_shared() for batch in again for part in batch)
    assert equal(again, list(data(photos).val_dataloader()))
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in again)


# --- waiting ---


class Slow(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Takes its time, which the clock below counts."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def __getitem__(self, key: str) -> tuple[np.ndarray, int]:
        self.clock[0] += 1.5
        return np.full((4, 4, 3), len(key), np.uint8), len(key)


def test_waiting_is_counted_and_what_the_caller_does_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(loading.time, "perf_counter", lambda: clock[0])
    loader = PhotoLoader(Slow(clock), 0, [["a", "bb"], ["ccc"]])
    assert loader.waited_s == 0
    seen = []
    for images, numbers in loader:
        seen.append((images.shape, numbers.tolist()))
        clock[0] += 100
    assert seen == [((2, 3, 4, 4), [1, 2]), ((1, 3, 4, 4), [3])]
    assert loader.waited_s == 4.5
    list(loader)
    assert loader.waited_s == 9


@pytest.mark.parametrize("workers", [0, 1])
def test_every_loader_reports_how_long_the_caller_waited(photos: Path, workers: int) -> None:
    made = data(photos, workers=workers)
    for loader in (made.train_dataloader(), made.val_dataloader(), made.test_dataloader()):
        list(loader)
        assert loader.waited_s > 0


# --- progressive resizing ---


def test_pictures_grow_evenly_to_the_size_that_is_used() -> None:
    sizes = [epoch_px(n, start_px=128, image_px=224, epochs=8) for n in range(10)]
    assert sizes == [128, 160, 160, 192, 192, 224, 224, 224, 224, 224]


@settings(max_examples=200, deadline=None)
@given(start=st.integers(32, 600), more=st.integers(0, 400), epochs=st.integers(1, 200))
def test_sizes_never_shrink_nor_leave_their_range(start: int, more: int, epochs: int) -> None:
    image_px = start + more
    sizes = [epoch_px(n, start_px=start, image_px=image_px, epochs=epochs) for n in range(epochs + 2)]
    assert sizes == sorted(sizes)
    assert 32 <= sizes[0] <= image_px
    assert sizes[0] <= start + 16 or epochs == 1
    assert all(px % 32 == 0 or px == image_px for px in sizes)
    assert set(sizes[epochs - math.ceil(epochs / 4) :]) == {image_px}


def test_training_pictures_grow_and_evaluation_stays(photos: Path) -> None:
    made = data(photos, image_px=96, start_px=32, grow_epochs=4)
    loader = made.train_dataloader()
    assert [{images.shape[-1] for images, *_ in epoch(loader, n)} for n in range(6)] == [
        {32},
        {64},
        {64},
        {96},
        {96},
        {96},
    ]
    assert {images.shape[-2:] for images, _ in made.val_dataloader()} == {(96, 96)}


def test_a_grown_picture_is_what_it_would_be_without_growing(photos: Path) -> None:
    grown = data(photos, start_px=32, image_px=64, grow_epochs=2).train_dataloader()
    assert equal(epoch(grown, 1), epoch(data(photos, image_px=64).train_dataloader(), 1))


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        ({"start_px": 31, "grow_epochs": 4}, "data.start_px must be 32 to the model's image_px=224, got 31"),
        ({"start_px": 256, "grow_epochs": 4}, "data.start_px must be 32 to the model's image_px=224, got 256"),
        ({"start_px": 64}, "data.grow_epochs must be at least 1 .* got None"),
        ({"start_px": 64, "grow_epochs": -1}, "data.grow_epochs must be at least 1 .* got -1"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_found(photos: Path, wrong: dict[str, int], finding: str) -> None:
    with pytest.raises(ConfigError, match=finding):
        data(photos, **{"image_px": 224, **wrong})


def test_all_settings_out_of_range_are_found_at_once(photos: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        data(photos, batch_size=0, start_px=8, grow_epochs=0)
    assert all(name in str(caught.value) for name in ("batch_size", "start_px", "grow_epochs"))


# --- photos that vanish ---

GONE = """
import sys, pathlib
from dogbreed.data import DogBreedData
from dogbreed.errors import DataError
root = pathlib.Path(sys.argv[1])
data = DogBreedData(root, batch_size=4, image_px=32, workers=2)
data.setup()
next(root.glob("train/*/*.jpg")).unlink()
try:
    list(data.train_dataloader())
except DataError as error:
    print(error)
    kept = error  # and with it the loader, its workers and its queues
"""


def test_a_photo_that_vanishes_is_named_plainly_and_the_process_ends(photos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(photos, tmp_path / "copy")
    ended = subprocess.run(
        [sys.executable, "-c", GONE, str(copy)], capture_output=True, text=True, timeout=300, check=True
    )
    assert "can no longer be read" in ended.stdout
    assert "copy/train/00" in ended.stdout
    assert len(ended.stdout.splitlines()) == 2, ended.stdout


# --- steps of a small set ---


@given(size=st.integers(1, 400), batch=st.integers(1, 128))
def test_an_epoch_leaves_out_at_most_a_tenth_or_no_more_than_with_the_batch_asked_for(size: int, batch: int) -> None:
    even = even_batch(size, batch)
    assert 1 <= even <= batch
    if batch < size:
        assert size % even <= size % batch
        assert even == batch or size % batch > LEFT_OUT * size


@pytest.mark.parametrize(("size", "batch", "even"), [(127, 64, 63), (96, 64, 48), (6680, 64, 64), (40, 64, 64)])
def test_steps_are_evened_only_where_much_would_be_left_out(size: int, batch: int, even: int) -> None:
    assert even_batch(size, batch) == even


def test_smaller_steps_are_said_and_used(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "data", train=5, valid=1, test=1)  # 15 training photos
    loaded = DogBreedData(root, batch_size=8, image_px=32, workers=0)
    loaded.setup()
    assert [len(labels) for _, labels, *_ in loaded.train_dataloader()] == [7, 7]
    assert loaded.describe_steps() == (
        "Steps of 7 photos instead of 8, which would leave out 7 of the 15 training photos in each epoch"
    )
    assert DogBreedData(root, batch_size=5, image_px=32, workers=0).describe_steps() == ""


# --- waiting for workers ---


class Slowly(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Sleeps for `seconds` in the worker process, then yields a picture of 2 x 2 pixels."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __getitem__(self, key: str) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        time.sleep(self.seconds)
        return np.zeros((2, 2, 3), np.uint8), 1


class Stuck(Slowly):
    """Yields nothing before there is a file, or the process of the test has ended."""

    def __init__(self, until: Path) -> None:
        super().__init__(0)
        self.until, self.test = until, os.getpid()

    def __getitem__(self, key: str) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        while not self.until.exists() and os.getppid() == self.test:
            time.sleep(0.02)
        return super().__getitem__(key)


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PhotoLoader]:
    """A loader of whose worker no batch comes; at the end one does, so that the worker ends."""
    monkeypatch.setattr(loading, "_POLL_S", 0.05)
    yield PhotoLoader(Stuck(tmp_path / "let-go"), 1, [["a"]])
    (tmp_path / "let-go").touch()


def test_a_worker_that_sends_nothing_ends_the_run_with_what_to_set(
    stuck: PhotoLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "STALLED_S", 0.2)
    with pytest.raises(ConfigError, match=r"sent nothing for \d+ s(.|\n)*data\.workers=0;(.|\n)*--shm-size") as caught:
        list(stuck)
    assert "/dev/shm: " in str(caught.value)


def test_a_slow_batch_is_waited_for_and_later_passes_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_POLL_S", 0.05)
    loader = PhotoLoader(Slowly(0.2), 1, [["a"], ["b", "c"]])
    for _ in range(2):
        assert [len(labels) for _, labels in loader] == [1, 2]


def test_a_signal_ends_the_wait_for_workers(stuck: PhotoLoader) -> None:
    with pytest.raises(Interrupted, match="while it waited for photos"), Interruption() as stop, stop.deferred():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        list(stuck)


def test_batches_go_through_pipes_where_shared_memory_is_full(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "_room_left", lambda: 10.0)
    batches = list(PhotoLoader(Slowly(0), 2, [["a"], ["b", "c"]]))
    assert [tuple(pixels.shape) for pixels, _ in batches] == [(1, 3, 2, 2), (2, 3, 2, 2)]
    assert not batches[0][0].is_shared()
    (warning,) = [record.getMessage() for record in caplog.records if "Shared memory is too small" in record.message]
    assert "docker run --shm-size=2g" in warning


def test_without_semaphores_the_caller_decodes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loading.multiprocessing, "Semaphore", refused)
    loading._can_start_workers.cache_clear()
    loader = PhotoLoader(Slowly(0), 4, [["a"]])
    loading._can_start_workers.cache_clear()
    assert (loader.num_workers, len(list(loader))) == (0, 1)
    assert "Photos are decoded without worker processes" in caplog.text


_IN_A_CONTAINER = """
import time
import numpy as np
from dogbreed import loading
from dogbreed.interruption import Interruption
from dogbreed.loading import PhotoLoader


class Pictures:
    def __getitem__(self, number):
        return np.full((224, 224, 3), number % 251, np.uint8), number


steps = [list(range(64 * step, 64 * step + 64)) for step in range(10_000)]
with Interruption() as stop:
    for step, (pictures, numbers) in enumerate(PhotoLoader(Pictures(), 8, steps)):
        assert numbers.tolist() == steps[step] and (pictures[:, 0, 5, 7] == numbers % 251).all()
        print(step, flush=True)
        while step == 0 and loading._room_left() > pictures.nbytes + 4096:  # the workers decode ahead: all that may
            time.sleep(0.01)
        stop.check()
"""


@pytest.mark.cloud  # starts eight workers
def test_eight_workers_share_64_mb_and_one_signal_ends_them() -> None:
    """Docker's default /dev/shm: the workers' batches of 9.6 MB, two each, do not fit."""
    own_mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    small = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*own_mount, small], capture_output=True).returncode:
        pytest.skip("this machine lets users mount nothing")
    words = [*own_mount, f'{small} && exec "$0" -c "$1"', sys.executable, _IN_A_CONTAINER]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line.strip())
                if line.strip() == "40":
                    break
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=240)
        finally:
            process.kill()
    assert [line for line in said if line.isdigit()] == [str(step) for step in range(41)]
    assert any("Shared memory is too small" in line for line in said)
    assert "Interrupted" in rest
