import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dogbreed.data import DogBreedData, EpochSampler, TrainLoader
from dogbreed.errors import DataError
from dogbreed.transforms import Augment


def data(photos: Path, **settings: object) -> DogBreedData:
    made = DogBreedData(photos, **{"batch_size": 4, "image_px": 32, "workers": 0, "augment": Augment(), **settings})
    made.setup()
    return made


def epoch(loader: TrainLoader, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
    return list(loader)


def equal(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_a_batch_is_bytes_in_the_layout_that_convolutions_like(photos: Path) -> None:
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


def test_loading_leaves_the_global_random_numbers_alone(photos: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    made = data(photos)
    list(made.train_dataloader()), list(made.val_dataloader())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_an_epoch_holds_each_photo_once() -> None:
    sampler = EpochSampler(100, seed=0)
    sampler.set_epoch(5)
    assert sorted(index for _, index in sampler) == list(range(100))
    assert {number for number, _ in sampler} == {5}


def test_evaluation_reads_every_photo_in_order(photos: Path) -> None:
    labels = torch.cat([labels for _, labels in data(photos).test_dataloader()])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_folder_that_is_missing_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent does not exist.\nTry: data.root="):
        DogBreedData(tmp_path / "absent").setup()


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
        [sys.executable, "-c", GONE, str(copy)], capture_output=True, text=True, timeout=120, check=True
    )
    assert "cannot be read any more" in ended.stdout
    assert "copy/train/00" in ended.stdout
    assert len(ended.stdout.splitlines()) == 2, ended.stdout
