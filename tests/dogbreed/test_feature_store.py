"""The feature store returns correct rows or none, despite kills, damage and concurrent processes."""

import errno
import json
import logging
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dogbreed.errors import CacheError, StorageError
from dogbreed.features import claims, locks, maintenance, mapped, prints, shards
from dogbreed.features import store as store_module
from dogbreed.features.mapped import Features
from dogbreed.features.store import FeatureStore, Recipe, RowKey
from dogbreed.photos import scan
from tests.support.launcher_contract import until
from tests.support.photos import make_photos
from tests.support.stores import (
    RECIPE,
    assert_holds,
    data_files,
    file_size_limit,
    fill,
    keys,
    small_shards,  # noqa: F401 (a fixture)
    values,
)

# --- rows ---

some_keys = st.lists(st.sampled_from(keys(6, views=2)), max_size=12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(some_keys, st.sampled_from(["write", "write first", "release", "reopen"])), max_size=6))
def test_a_store_answers_as_a_dict_does(steps: list[tuple[list[RowKey], str]]) -> None:
    known: set[RowKey] = set()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(shards, "SHARD_ROWS", 3):
        store = FeatureStore(RECIPE, folder=Path(folder))
        for rows, action in steps:
            lacking = [row for row in dict.fromkeys(rows) if row not in known]
            assert store.missing(rows) == lacking
            claimed: list[RowKey] = []
            for n, claim in enumerate(store.claim(rows)):
                claimed += claim.rows
                if action == "write" or (action == "write first" and n == 0):
                    claim.write(values(claim.rows))
                    known.update(claim.rows)
                if action == "reopen":
                    break
            assert claimed == lacking[: len(claimed) if action == "reopen" else None]
            store.close()  # what was not written
            if action == "reopen":
                store = FeatureStore(RECIPE, folder=Path(folder))
            assert sorted(store.rows()) == sorted(known)
            if set(rows) <= known:
                assert_holds(store, rows)
            else:
                with pytest.raises(CacheError, match=r"rows are not in(.|\n)*Try: "):
                    store.read(rows)
        store.close()


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_any_shape_come_back(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    recipe = Recipe({}, shape, dtype)
    store = fill(FeatureStore(recipe, folder=tmp_path), keys(5))
    assert_holds(store, keys(5)[::-1])
    features = store.read(keys(5))
    assert (len(features), features.shape, features.dtype) == (5, shape, recipe.array_dtype)
    assert features.nbytes == 5 * recipe.row_bytes == values(keys(5), recipe).nbytes


def test_bfloat16_keeps_every_bit(tmp_path: Path) -> None:
    import torch

    bits = np.arange(2**16, dtype=np.uint16).reshape(4, -1)  # all there are: infinities, NaNs, subnormals
    store = FeatureStore(Recipe({}, (2**14,), "bfloat16"), folder=tmp_path)
    (claim,) = store.claim(keys(4))
    claim.write(torch.from_numpy(bits).view(torch.bfloat16).view(torch.uint16).numpy())
    back = store.read(keys(4)).take(np.arange(4))
    assert torch.from_numpy(back).view(torch.bfloat16).dtype == torch.bfloat16
    np.testing.assert_array_equal(back, bits)


def test_float32_keeps_every_bit(tmp_path: Path) -> None:
    numbers = np.array([[0.0, -0.0, np.inf, np.nan], [1e-45, -3.4e38, np.pi, 1.0]], np.float32)
    store = FeatureStore(RECIPE, folder=tmp_path)
    next(store.claim(keys(2))).write(numbers)
    assert store.read(keys(2)).take(np.arange(2)).tobytes() == numbers.tobytes()


def test_a_view_in_memory_of_any_layout_is_written_right(tmp_path: Path) -> None:
    store = FeatureStore(RECIPE, folder=tmp_path)
    (claim,) = store.claim(keys(6))
    claim.write(np.asfortranarray(values(keys(6))))
    assert_holds(store, keys(6))


@pytest.mark.parametrize("wrong", [np.zeros((3, 5), np.float32), np.zeros((2, 4), np.float32), np.zeros((3, 4))])
def test_rows_of_another_shape_or_dtype_are_refused_and_free_again(wrong: NDArray[Any], tmp_path: Path) -> None:
    store = FeatureStore(RECIPE, folder=tmp_path)
    with pytest.raises(ValueError, match=r"rows must be float32 \[3, 4\], not"):
        next(store.claim(keys(3))).write(wrong)
    assert data_files(store) == []
    assert [claim.rows for claim in store.claim(keys(3))] == [tuple(keys(3))]


def test_a_photo_without_a_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digest"):
        FeatureStore(RECIPE, folder=tmp_path).missing([("", 0)])


def test_shards_are_files_of_numpy_within_their_limits(tmp_path: Path) -> None:
    store = fill(FeatureStore(RECIPE, folder=tmp_path), keys(600))
    arrays = [np.load(path) for path in data_files(store)]
    assert sorted(map(len, arrays)) == [88, 256, 256]
    assert Recipe({}, (2**20,)).shard_rows == 16
    assert Recipe({}, (2**20,), "bfloat16").shard_rows == 32
    assert Recipe({}, (2**26,)).shard_rows == 1
    for path, array in zip(data_files(store), arrays, strict=True):
        rows = [(digest, view) for digest, view in json.loads(path.with_suffix(".json").read_bytes())["rows"]]
        np.testing.assert_array_equal(array, values(rows))


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 10**6), max_size=6), count=st.integers(1, 256), dtype=st.sampled_from(("<f4", "<u2"))
)
def test_the_header_is_what_numpy_reads(shape: list[int], count: int, dtype: str) -> None:
    import io

    from numpy.lib import format as numpy_format

    recipe = Recipe({}, tuple(shape), {"<f4": "float32", "<u2": "bfloat16"}[dtype])
    header = shards._header(count, recipe)
    file = io.BytesIO(header)
    assert numpy_format.read_magic(file) == (1, 0)
    assert numpy_format.read_array_header_1_0(file) == ((count, *shape), False, np.dtype(dtype))
    assert file.tell() == len(header)
    assert len(header) % 64 == 0


# --- reading ---


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 29), max_size=40), st.permutations(keys(15, views=2)))
def test_taking_is_indexing(indices: list[int], order: list[RowKey]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(shards, "SHARD_ROWS", 4),
        fill(FeatureStore(RECIPE, folder=Path(folder)), keys(15, views=2)) as store,
    ):
        features = store.read(order)
        loaded = features.load()
        with mock.patch.object(mapped, "_most_maps", return_value=2):  # of eight shards
            few_maps = store.read(order)
        expected = values(order)[indices]
        for one in (features, loaded, few_maps, *pickle.loads(pickle.dumps((features, loaded)))):
            taken = one.take(np.array(indices, np.int64))
            np.testing.assert_array_equal(taken, expected)
            taken += 1  # a copy
            np.testing.assert_array_equal(one.take(np.array(indices, np.int64)), expected)
        assert len(few_maps._maps) <= 2
        assert features.array is None
        assert loaded.load() is loaded
        np.testing.assert_array_equal(loaded.array, values(order))


@pytest.mark.parametrize("bad", [[-1], [0, 3], [10**9]])
@pytest.mark.parametrize("held", [False, True])
def test_an_index_out_of_range_is_refused(bad: list[int], held: bool, tmp_path: Path) -> None:
    features = fill(FeatureStore(RECIPE, folder=tmp_path), keys(3)).read(keys(3))
    with pytest.raises(IndexError, match="0 to 2"):
        (features.load() if held else features).take(np.array(bad))


def test_a_pickle_holds_no_numbers_and_says_when_a_file_is_gone(tmp_path: Path) -> None:
    recipe = Recipe({}, (100_000,))
    store = fill(FeatureStore(recipe, folder=tmp_path), keys(3))
    sent = pickle.dumps(store.read(keys(3)))
    assert len(sent) < 10_000
    received: Features = pickle.loads(sent)
    data_files(store)[0].unlink()
    with pytest.raises(CacheError, match="Try: start the run again"):
        received.take(np.array([0]))


def test_what_was_read_stays_readable_when_the_store_is_deleted(tmp_path: Path) -> None:
    store = fill(FeatureStore(RECIPE, folder=tmp_path), keys(3))
    features = store.read(keys(3))
    shutil.rmtree(store.path)
    np.testing.assert_array_equal(features.take(np.arange(3)), values(keys(3)))
    assert store.missing(keys(3)) == keys(3)
    assert_holds(fill(store, keys(3)), keys(3))


# --- staleness ---

CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda new: new["fields"].update(backbone="resnet18"),
    lambda new: new["fields"].update(weights="0124"),
    lambda new: new["fields"].update(image_px=225),
    lambda new: new["fields"].update(image_px=224.0),
    lambda new: new["fields"].update(image_px="224"),
    lambda new: new["fields"].update(scale=[0.35, 0.9999999999999999]),
    lambda new: new["fields"].update(scale=[1.0, 0.35]),
    lambda new: new["fields"].update(crop=0),
    lambda new: new["fields"].update(crop=False),
    lambda new: new["fields"].update(another=None),
    lambda new: new["fields"].pop("crop"),
    lambda new: new.update(shape=(2, 2)),
    lambda new: new.update(shape=(5,)),
    lambda new: new.update(dtype="bfloat16"),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_any_change_of_the_recipe_is_another_store(number: int, tmp_path: Path) -> None:
    store = fill(FeatureStore(RECIPE, "resnet50", tmp_path), keys(3))
    new = {"fields": dict(RECIPE.fields), "shape": RECIPE.shape, "dtype": RECIPE.dtype}
    CHANGES[number](new)
    other = FeatureStore(Recipe(**new), "resnet50", tmp_path)
    assert other.path != store.path
    assert other.missing(keys(3)) == keys(3)


def test_the_same_recipe_is_the_same_store_whatever_the_order_of_its_fields(tmp_path: Path) -> None:
    fill(FeatureStore(RECIPE, "a", tmp_path), keys(3)).close()
    fields = dict(reversed(RECIPE.fields.items())) | {"scale": (0.35, 1.0)}
    assert_holds(FeatureStore(Recipe(fields, (4,)), "a", tmp_path), keys(3))


def test_a_recipe_cannot_be_changed_by_its_creator() -> None:
    fields: dict[str, Any] = {"scale": [0.35]}
    recipe = Recipe(fields, (4,))
    fields["scale"].append(1)
    assert recipe == Recipe({"scale": [0.35]}, (4,))


@pytest.mark.parametrize("wrong", [{"dtype": "float64"}, {"shape": (0,)}, {"shape": (2.0,)}, {"fields": {"a": np.nan}}])
def test_a_recipe_that_json_cannot_hold_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"dtype|shape|JSON"):
        Recipe(**{"fields": {}, "shape": (1,), **wrong})


def test_a_changed_byte_of_a_photo_is_a_missing_row_and_a_date_is_not(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "photos", train=2, valid=1, test=1)

    def rows() -> list[RowKey]:
        return [(photo.digest, 0) for photo in scan(root).splits["train"]]

    photo = root / "train" / "001.Class_1" / "000.jpg"
    picture = photo.read_bytes()
    photo.write_bytes(picture + b"\0")
    store = FeatureStore(RECIPE, folder=tmp_path)
    numbers = np.arange(4 * len(rows()), dtype=np.float32).reshape(-1, 4)
    next(store.claim(rows())).write(numbers)
    os.utime(photo, (1, 1))
    assert store.missing(rows()) == []
    before, date = rows(), photo.stat()
    time.sleep(0.02)  # a tick of the file system's clock
    photo.write_bytes(picture + b"\1")
    os.utime(photo, ns=(date.st_atime_ns, date.st_mtime_ns))
    (lacking,) = store.missing(rows())
    assert lacking not in before
    photo.with_name("another name.jpg").write_bytes((photo.with_name("001.jpg")).read_bytes())
    assert store.missing(rows()) == [lacking], "a copy is the same photo"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"woof", b"\xff", b'{"fields": {}, "shape": [4]}', b"[" * 9999])
def test_a_store_whose_recipe_is_damaged_is_not_used(content: bytes, tmp_path: Path) -> None:
    store = fill(FeatureStore(RECIPE, folder=tmp_path), keys(3))
    (store.path / "recipe.json").write_bytes(content)
    for use in (lambda: FeatureStore(RECIPE, folder=tmp_path), lambda: FeatureStore.at(store.path)):
        with pytest.raises(CacheError, match=r"recipe\.json is damaged(.|\n)*Try: python -m dogbreed.features verify"):
            use()


def test_a_store_with_the_recipe_of_another_is_not_used(tmp_path: Path) -> None:
    store = fill(FeatureStore(RECIPE, folder=tmp_path), keys(3))
    other = FeatureStore(Recipe({**RECIPE.fields, "weights": "9"}, (4,)), folder=tmp_path)
    shutil.copy(other.path / "recipe.json", store.path)
    for use in (lambda: FeatureStore(RECIPE, folder=tmp_path), lambda: FeatureStore.at(store.path)):
        with pytest.raises(CacheError, match=r"recipe\.json (does not match|belongs to)(.|\n)*cannot be trusted"):
            use()


def test_a_store_that_lost_its_recipe_gets_it_back_and_keeps_its_rows(tmp_path: Path) -> None:
    store = fill(FeatureStore(RECIPE, folder=tmp_path), keys(3))
    (store.path / "recipe.json").unlink()
    assert_holds(FeatureStore(RECIPE, folder=tmp_path), keys(3))


# --- damage ---


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size % (path.stat().st_size + 1))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swap(one: Path, two: Path) -> None:
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)


def from_another_store(data: Path) -> None:
    other = fill(FeatureStore(Recipe({"other": 1}, (4,)), folder=data.parents[2]), keys(4))
    shutil.copy(data_files(other)[0], data)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "data cut": lambda data, _: truncate(data, 150),
    "data cut by a byte": lambda data, _: truncate(data, -2),
    "data emptied": lambda data, _: truncate(data, 0),
    "data longer": lambda data, _: data.write_bytes(data.read_bytes() + b"\0"),
    "data gone": lambda data, _: data.unlink(),
    "header": lambda data, _: flip(data, 0),
    "shape in the header": lambda data, _: flip(data, 61),
    "seal": lambda data, _: flip(data, -1),
    "data of another shard": lambda data, other: swap(data, other),
    "data of another store": lambda data, _: from_another_store(data),
    "index emptied": lambda data, _: truncate(data.with_suffix(".json"), 0),
    "index cut": lambda data, _: truncate(data.with_suffix(".json"), 40),
    "index of another shard": lambda data, other: swap(data.with_suffix(".json"), other.with_suffix(".json")),
    "index garbled": lambda data, _: data.with_suffix(".json").write_bytes(b'{"rows": [["a", 1e999]], "checksum": 1}'),
    "index another's": lambda data, _: data.with_suffix(".json").write_bytes(b"[1, 2]"),
    "index gone": lambda data, _: data.with_suffix(".json").unlink(),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
@pytest.mark.usefixtures("small_shards")
def test_a_damaged_shard_is_noticed_and_computed_again(
    name: str, when: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = fill(FeatureStore(RECIPE, folder=tmp_path), keys(12))
    one, two, _ = data_files(store)
    lost = {tuple(row) for path in (one, two) for row in json.loads(path.with_suffix(".json").read_bytes())["rows"]}
    DAMAGES[name](one, two)
    if when == "before it is opened":
        store = FeatureStore(RECIPE, folder=tmp_path)
    with caplog.at_level(logging.WARNING, "dogbreed"):
        missing = store.missing(keys(12))
    assert missing
    assert set(missing) <= lost
    assert len(missing) == (8 if "another shard" in name else 4)
    assert ("is damaged" in caplog.text) == (name != "index gone")
    with pytest.raises(CacheError, match=f"{len(missing)} of 12 rows are not in"):
        store.read(keys(12))
    assert_holds(fill(store, keys(12)), keys(12))
    caplog.clear()
    assert_holds(FeatureStore(RECIPE, folder=tmp_path), keys(12))
    assert caplog.text == "", "said once"
    store.close()
    assert maintenance.remove_leftovers(store.path)
    assert all(not damage for *_, damage in FeatureStore.at(store.path).inspect(numbers=True))
    assert_holds(FeatureStore(RECIPE, folder=tmp_path), keys(12))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_flipped_bit_outside_the_numbers_gives_a_wrong_row(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = fill(FeatureStore(RECIPE, folder=Path(folder)), keys(3, views=2))
        (file,) = data_files(store)
        header = len(shards._header(6, RECIPE))
        if data.draw(st.booleans()):
            file = file.with_suffix(".json")
            place = data.draw(st.integers(0, file.stat().st_size - 1))
        else:
            outside = [*range(header), *range(file.stat().st_size - 16, file.stat().st_size)]
            place = data.draw(st.sampled_from(outside))
        content = bytearray(file.read_bytes())
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(content)
        again = FeatureStore(RECIPE, folder=Path(folder))
        assert set(again.rows()) <= set(keys(3, views=2))
        assert_holds(again, again.rows())
        assert_holds(fill(again, keys(3, views=2)), keys(3, views=2))
        store.close()
        again.close()


def test_a_flipped_bit_in_the_numbers_is_found_by_reading_them_all(tmp_path: Path) -> None:
    store = fill(FeatureStore(RECIPE, folder=tmp_path), keys(6))
    (file,) = data_files(store)
    size = file.stat().st_size
    for place in (len(shards._header(6, RECIPE)), 170, size - 17):
        flip(file, place)
        assert [damage for *_, damage in store.inspect(numbers=True)] == ["its checksum differs"]
        flip(file, place)
    assert [damage for *_, damage in store.inspect(numbers=True)] == [""]


def test_inspecting_damage_changes_nothing(tmp_path: Path) -> None:
    store = fill(FeatureStore(RECIPE, folder=tmp_path), keys(6))
    truncate(data_files(store)[0], 5)
    before = sorted(store.path.rglob("*"))
    assert [damage for *_, damage in FeatureStore.at(store.path).inspect()] == ["it has 5 bytes instead of 240"]
    assert sorted(store.path.rglob("*")) == before


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_leaves_the_store_usable(tmp_path: Path) -> None:
    recipe = Recipe({}, (50_000,))
    store = FeatureStore(recipe, folder=tmp_path)
    claims = store.claim(keys(12))
    first = next(claims)
    first.write(values(first.rows, recipe))
    with file_size_limit(300_000), pytest.raises(StorageError, match=r"No room to write(.|\n)*DOGBREED_CACHE"):
        next(claims).write(values(keys(12)[4:8], recipe))
    with file_size_limit(100):
        claim = next(store.claim(keys(12)))  # what was not written is free again
        with pytest.raises(StorageError, match="No room to write"):
            claim.write(values(claim.rows, recipe))
        with pytest.raises(StorageError, match="No room to write"):
            FeatureStore(Recipe({"another": "one"}, (1,)), folder=tmp_path)
    assert len(data_files(store)) == 1, "nothing half-written has a name"
    assert store.missing(keys(12)) == keys(12)[4:]
    store.close()
    assert_holds(fill(FeatureStore(recipe, folder=tmp_path), keys(12)), keys(12))


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Try: (.|\n)*DOGBREED_CACHE"):
        FeatureStore(RECIPE, folder=tmp_path / "file")


# --- several at once ---

BUILDER = """
import os, random, sys, time
from pathlib import Path
import numpy as np
from dogbreed.features import claims, shards
from dogbreed.features.store import FeatureStore, Recipe

claims._MUTEX_TIMEOUT_S = 600.0  # also where its holder stands still
folder, log, seed, pause_s = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
shards.SHARD_ROWS = 8
recipe = Recipe({"test": "builders"}, (5_000,))
rows = [(f"{n:032x}", view) for n in range(60) for view in range(2)]
if seed:
    random.Random(seed).shuffle(rows)
store = FeatureStore(recipe, "shared", folder)
print("ready", flush=True)
sys.stdin.readline()
while store.missing(rows):
    for claim in store.claim(rows):
        with open(log, "a") as file:
            file.write("".join(f"{digest} {view}\\n" for digest, view in claim.rows))
        time.sleep(pause_s)
        numbers = [[(int(d, 16) * 31 + v * 7 + n) % 60_000 for n in range(5_000)] for d, v in claim.rows]
        claim.write(np.array(numbers, np.float32))
    time.sleep(0.01)
store.read(rows)
"""
BUILT = Recipe({"test": "builders"}, (5_000,))
ALL_ROWS = keys(60, views=2)


@contextmanager
def builders(tmp_path: Path, seeds: Sequence[int], pause_s: float = 0.0) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that wait; `go` lets them begin."""
    started = []
    try:
        for seed in seeds:
            command = [sys.executable, "-c", BUILDER, tmp_path / "stores", tmp_path / "log", str(seed), str(pause_s)]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def go(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()


def computed(tmp_path: Path) -> Counter[RowKey]:
    lines = (tmp_path / "log").read_text().splitlines()
    return Counter((line.split()[0], int(line.split()[1])) for line in lines)


@pytest.mark.parametrize("seeds", [(0, 0, 0), (1, 2, 3)], ids=["the same list", "each its own order"])
def test_processes_that_build_the_same_rows_at_once_compute_each_once(seeds: tuple[int, ...], tmp_path: Path) -> None:
    with builders(tmp_path, seeds, pause_s=0.01) as processes:
        go(processes)
        assert [process.wait(240) for process in processes] == [0, 0, 0]
    assert computed(tmp_path) == Counter(ALL_ROWS)
    with FeatureStore(BUILT, "shared", tmp_path / "stores") as store:
        assert_holds(store, ALL_ROWS)
        assert all(not damage for *_, damage in store.inspect(numbers=True))
        store.close()
        assert maintenance.leftovers(store.path) == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 60))])
def test_others_complete_what_processes_killed_at_any_moment_have_begun(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    with builders(tmp_path, (0, 0, seed), pause_s=0.002) as processes:
        go(processes)
        for process in processes[:2]:
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        assert processes[2].wait(240) == 0
    store = FeatureStore(BUILT, "shared", tmp_path / "stores")
    assert_holds(store, ALL_ROWS)
    assert all(not damage for *_, damage in store.inspect(numbers=True))
    lost = sum(computed(tmp_path).values()) - len(ALL_ROWS)
    assert 0 <= lost <= 2 * 8, "each that was killed loses at most what it was computing"
    store.close()
    assert maintenance.remove_leftovers(store.path)
    assert maintenance.leftovers(store.path) == []
    assert_holds(FeatureStore(BUILT, "shared", tmp_path / "stores"), ALL_ROWS)


CRASH = """
import os, sys
from pathlib import Path
import numpy as np
from dogbreed.features.store import FeatureStore, Recipe

def crash_at(function):
    def step(*arguments, **named):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return function(*arguments, **named)
    return step

for owner, name in ((os, "fsync"), (os, "open"), (Path, "replace"), (Path, "mkdir"), (Path, "open"), (Path, "touch")):
    setattr(owner, name, crash_at(getattr(owner, name)))
for step in range(100):
    child = os.fork()
    if child == 0:
        left = step
        store = FeatureStore(Recipe({"test": "crash"}, (4,)), folder=Path(sys.argv[1], str(step)))
        for claim in store.claim([(f"{n:032x}", 0) for n in range(3)]):
            claim.write(np.array([[(n * 31 + k) % 60_000 for k in range(4)] for n in range(3)], np.float32))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
print(step)
"""


def test_a_crash_before_any_step_leaves_a_usable_store(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    last = int(done.stdout)  # the one that ended well
    recipe = Recipe({"test": "crash"}, (4,))
    lacking = []
    for step in range(last + 1):
        store = FeatureStore(recipe, folder=tmp_path / str(step))
        lacking.append(len(store.missing(keys(3))))
        assert_holds(fill(store, keys(3)), keys(3))
        store.close()
        assert maintenance.remove_leftovers(store.path)
        assert_holds(FeatureStore(recipe, folder=tmp_path / str(step)), keys(3))
    assert lacking[0] == 3
    assert lacking[-1] == 0
    assert lacking == sorted(lacking, reverse=True)
    assert last > 15


def test_the_claim_of_a_dead_process_is_free_at_once(tmp_path: Path) -> None:
    with builders(tmp_path, (0,), pause_s=1000) as (process,):
        go([process])
        until(lambda: (tmp_path / "log").exists() and bool((tmp_path / "log").read_text()), every_s=0.01)
        store = FeatureStore(BUILT, "shared", tmp_path / "stores")
        held = list(computed(tmp_path))
        assert list(store.claim(held)) == []
        assert next(store.claim(ALL_ROWS)).rows[0] not in held
        assert maintenance.in_use(store.path)
        assert not maintenance.remove(store.path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert [claim.rows for claim in store.claim(held)] == [tuple(held)]


def test_a_child_that_outlives_its_parent_holds_no_claim(tmp_path: Path) -> None:
    """DataLoader's workers do this for seconds after their parent was killed."""
    script = f"""
        import multiprocessing, os, time
        from pathlib import Path
        from dogbreed.features.store import FeatureStore, Recipe

        def outlive():
            print(os.getpid(), flush=True)
            time.sleep(1000)

        store = FeatureStore(Recipe({{}}, (4,)), folder=Path({str(tmp_path)!r}))
        claim = next(store.claim([("a", 0)]))
        multiprocessing.get_context("fork").Process(target=outlive).start()
        time.sleep(1000)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        store = FeatureStore(Recipe({}, (4,)), folder=tmp_path)
        assert list(store.claim([("a", 0)])) == []
        parent.kill()
        parent.wait()
        try:
            assert [claim.rows for claim in store.claim([("a", 0)])] == [(("a", 0),)]
        finally:
            os.kill(child, signal.SIGKILL)


def _close_and_claim_twice_and_close(store: FeatureStore, pipe: Any) -> None:
    store.close()
    for _ in range(2):
        pipe.recv()
        claims = list(store.claim(keys(8)))
        pipe.send([claim.rows for claim in claims])
        for claim in claims:
            claim.release()
    store.close()
    pipe.send("closed")
    pipe.recv()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_claims_for_itself_and_releases_nothing_of_its_parent(tmp_path: Path) -> None:
    store = FeatureStore(RECIPE, folder=tmp_path)
    first, second = store.claim(keys(8))
    context = multiprocessing.get_context("fork")
    pipe, childs_end = context.Pipe()
    child = context.Process(target=_close_and_claim_twice_and_close, args=(store, childs_end))
    child.start()
    try:
        pipe.send("go")
        assert pipe.recv() == []
        second.release()
        pipe.send("go")
        assert pipe.recv() == [second.rows]
        assert pipe.recv() == "closed"
        other = FeatureStore(RECIPE, folder=tmp_path)
        assert [claim.rows for claim in other.claim(keys(8))] == [second.rows], "the first is claimed still"
        first.release()
    finally:
        child.kill()
        child.join()


def test_a_lock_whose_file_is_deleted_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_and_lose(path: Path) -> int:
        opened.append(os.open(path, os.O_RDWR | os.O_CREAT))
        if len(opened) == 1:
            path.unlink()  # by its last holder
        return opened[-1]

    with monkeypatch.context() as patch:
        patch.setattr(locks, "_open", open_and_lose)
        lock = locks.FileLock(tmp_path / "lock")
        assert lock.acquire()
    assert len(opened) == 2
    assert not locks.FileLock(tmp_path / "lock").acquire()
    lock.release()
    assert locks.FileLock(tmp_path / "lock").acquire()


@pytest.mark.usefixtures("small_shards")
def test_threads_and_stores_of_one_process_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_MUTEX_TIMEOUT_S", 600.0)  # also where this process stands still
    rows = keys(80)
    shared = FeatureStore(RECIPE, folder=tmp_path)
    claimed: list[RowKey] = []

    def work(store: FeatureStore) -> None:
        for claim in store.claim(rows):
            claimed.extend(claim.rows)
            time.sleep(0.001)
            claim.write(values(claim.rows))

    threads = [threading.Thread(target=work, args=(shared,)) for _ in range(2)]
    threads += [threading.Thread(target=work, args=(FeatureStore(RECIPE, folder=tmp_path),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == rows
    assert_holds(shared, rows)


@pytest.mark.usefixtures("small_shards")
def test_claims_are_open_until_written_or_released(tmp_path: Path) -> None:
    store, other = FeatureStore(RECIPE, folder=tmp_path), FeatureStore(RECIPE, folder=tmp_path)
    claims = store.claim(keys(10))
    one, two = next(claims), next(claims)  # the second is prepared while the first is computed
    assert (one.rows, two.rows) == (tuple(keys(10)[:4]), tuple(keys(10)[4:8]))
    assert [claim.rows for claim in other.claim(keys(10))] == [tuple(keys(10)[8:])]
    other.close()
    with one:
        pass
    assert next(other.claim(keys(10))).rows == one.rows
    one.release()  # a second time: others' claims stay theirs
    assert list(FeatureStore(RECIPE, folder=tmp_path).claim(one.rows)) == []
    two.write(values(two.rows))
    assert store.missing(keys(10)) == keys(10)[:4] + keys(10)[8:]


def test_where_there_are_no_locks_rows_are_right_and_work_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    store, other = FeatureStore(RECIPE, folder=tmp_path), FeatureStore(RECIPE, folder=tmp_path)
    (one,), (two,) = store.claim(keys(3)), other.claim(keys(3))
    assert one.rows == two.rows == tuple(keys(3))
    one.write(values(one.rows))
    two.write(values(two.rows))
    assert len(data_files(store)) == 2
    assert_holds(store, keys(3))
    assert maintenance.remove(store.path), "nothing that looks like a lock is left behind"


def test_two_processes_without_locks_build_the_same_store(tmp_path: Path) -> None:
    script = "import fcntl\ndef flock(*_): raise OSError(37, 'No locks available')\nfcntl.flock = flock\n" + BUILDER
    with mock.patch(f"{__name__}.BUILDER", script), builders(tmp_path, (0, 0)) as processes:
        go(processes)
        assert [process.wait(240) for process in processes] == [0, 0]
    assert_holds(FeatureStore(BUILT, "shared", tmp_path / "stores"), ALL_ROWS)


def test_a_process_that_sleeps_with_the_mutex_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_MUTEX_TIMEOUT_S", 0.05)
    store = FeatureStore(RECIPE, folder=tmp_path)
    sleeper = locks.FileLock(store.path / "claims" / "mutex")
    assert sleeper.acquire()
    assert_holds(fill(store, keys(3)), keys(3))
    sleeper.release()


@pytest.mark.parametrize("content", [b"", b"woof", b"[[1]]", b"7"])
def test_an_invalid_list_of_claims_stops_no_process(content: bytes, tmp_path: Path) -> None:
    store, other = FeatureStore(RECIPE, folder=tmp_path), FeatureStore(RECIPE, folder=tmp_path)
    next(store.claim(keys(3)))
    (listed,) = (store.path / "claims").glob("*.json")
    listed.write_bytes(content)
    assert_holds(fill(other, keys(3)), keys(3))


# --- python -m dogbreed.features ---


def features_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "dogbreed.features", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})


def said(*arguments: str, status: int = 0) -> str:
    done = features_cli(*arguments)
    assert (done.returncode, done.stderr) == (status, "")
    assert max(map(len, done.stdout.replace(str(store_module.stores_folder()), "").splitlines())) <= 80
    return done.stdout


def filled(name: str, count: int = 600, views: int = 1, *, days_ago: float = 0) -> FeatureStore:
    fields = {"backbone": f"timm/{name}", "engine": "onnxruntime-1.32", "precision": "fp32", "name": name}
    with fill(FeatureStore(Recipe(fields, (64,)), name), keys(count, views)) as store:
        when = time.time() - days_ago * 86_400
        os.utime(store.path / "used", (when, when))
        return store


def test_an_empty_cache_is_listed_verified_and_pruned() -> None:
    assert said("list").startswith("No features are cached in ")
    assert said("verify").startswith("No features are cached in ")
    assert said("prune").startswith("Nothing to remove.")
    assert said("prune", "--all", "--apply") == "Nothing to remove.\n"


def test_the_list_shows_all_stores_the_last_used_first() -> None:
    old, new = filled("old", days_ago=3.5), filled("new-augmented", views=4)
    text = said("list")
    assert text.index(new.path.name) < text.index(old.path.name)
    assert "600 rows (600 photos, 1 view), " in text
    assert "2,400 rows (600 photos, 4 views), " in text
    assert "last used 3 days ago" in text
    assert "timm/old, onnxruntime-1.32, fp32, 64 float32 a row" in text
    assert "\n2 stores, " in text
    next(new.claim([("f", 0)]))
    assert "in use now" in said("list")


def test_the_list_tells_prints_of_photos_from_features() -> None:
    with FeatureStore(prints.recipe(160, 0.875, "bicubic"), "prints") as store:
        next(store.claim([("0" * 32, 0)])).write(np.zeros((1, *store.recipe.shape), store.recipe.array_dtype))
    assert "1 row (1 photo, 1 view), " in said("list")
    assert "not features, but prints of 160 px center crops" in " ".join(said("list").split())


def test_reading_counts_as_use(tmp_path: Path) -> None:
    store = filled("old", days_ago=3)
    assert time.time() - maintenance.last_used(store.path) > 2 * 86_400
    store.read(keys(2))
    assert time.time() - maintenance.last_used(store.path) < 3600


def test_verify_names_damaged_shards_and_removes_them_with_repair() -> None:
    good, bad = filled("good"), filled("bad")
    flipped, cut, _ = data_files(bad)
    flip(flipped, 5_000)
    truncate(cut, 5_000)
    text = said("verify", status=1)
    assert f"{good.path.name}: 3 shards, good\n" in text
    assert f"{bad.path.name}: 2 of 3 shards damaged\n" in text
    assert f"    {flipped.stem}: its checksum differs\n" in text
    assert f"    {cut.stem}: it has 5,000 bytes instead of " in text
    assert said("verify", "good") == f"{good.path.name}: 3 shards, good\n"
    assert "1 damaged shard: see python -m dogbreed.features verify" in said("list"), "what can be seen without reading"
    assert said("verify", status=1) == text, "looking changes nothing"
    assert "2 of 3 shards damaged and removed" in said("verify", "--repair", bad.path.name)
    assert said("verify", "bad") == f"{bad.path.name}: 1 shard, good\n"
    assert_holds(fill(FeatureStore(bad.recipe, "bad"), keys(600)), keys(600))


def test_a_store_with_a_damaged_recipe_is_listed_and_repaired_by_removing_it() -> None:
    store = filled("bad")
    (store.path / "recipe.json").write_text("woof")
    assert "damaged, " in said("list")
    assert f"{store.path.name}: damaged" in said("verify", status=1)
    assert "removed: the whole store" in said("verify", "--repair")
    assert not store.path.exists()


def test_prune_shows_first_and_removes_with_apply() -> None:
    old, new = filled("old", days_ago=40), filled("new")
    for options in (("--unused-for", "30"), ("--max-gb", "0.00025")):
        text = said("prune", *options)
        assert old.path.name in text
        assert new.path.name not in text
        assert "Nothing has been removed. Add --apply" in text
    assert old.path.exists()
    assert said("prune", "--unused-for", "30", "--apply").splitlines()[-1].startswith("Removed: ")
    assert not old.path.exists()
    assert_holds(new, keys(600))
    new.close()
    said("prune", "--all", "--apply")
    assert list(store_module.stores_folder().iterdir()) == []


def test_prune_removes_the_least_recently_used_until_enough_is_free() -> None:
    stores = [filled(f"store{n}", days_ago=n) for n in (2, 4, 1, 3)]
    size = maintenance.folder_bytes(stores[0].path)
    said("prune", "--max-gb", str(2.5 * size / 1e9), "--apply")
    assert [store.path.exists() for store in stores] == [True, False, True, False]


def test_prune_keeps_a_store_in_use() -> None:
    store = filled("busy", days_ago=40)
    features = store.read(keys(3))
    when = time.time() - 40 * 86_400
    os.utime(store.path / "used", (when, when))
    text = said("prune", "--all", "--apply")
    assert f"kept: {store.path.name}" in text
    assert "a live process uses it" in text.replace("\n        ", " ")
    store.close()
    del store, features
    assert "Removed: " in said("prune", "--all", "--apply")


def test_prune_clears_what_interrupted_processes_left() -> None:
    store = filled("left")
    orphans = [
        store.path / "shards" / f".{'a' * 32}.npy.tmp-12ab34cd",
        store.path / "shards" / f"{'b' * 32}.npy",
        store.path / "shards" / f"{'c' * 32}.damaged",
        store.path / ".recipe.json.tmp-12ab34cd",
        store.path / "claims" / "0123456789abcdef.lock",
        store.path / "claims" / "0123456789abcdef.json",
        store.path / "claims" / ".0123456789abcdef.json.tmp-12ab34cd",
    ]
    for path in orphans:
        path.write_bytes(b"woof")
    shutil.copytree(store.path, store.path.with_name(f".removed-{store.path.name}-0123"))
    assert f"7 leftover files in {store.path.name}" in said("prune")
    assert all(path.exists() for path in orphans)
    assert "whose removal was interrupted" in said("prune", "--apply")
    assert not any(path.exists() for path in orphans)
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]
    assert_holds(FeatureStore.at(store.path), keys(600))
    assert said("prune").startswith("Nothing to remove.")


def test_other_folders_beside_the_stores_are_left_alone() -> None:
    mine = store_module.stores_folder() / "my photos"
    mine.mkdir(parents=True)
    (mine / "dog.jpg").touch()
    said("prune", "--all", "--apply")
    assert (mine / "dog.jpg").exists()


def test_an_unknown_name_is_an_error_without_a_traceback() -> None:
    done = features_cli("verify", "nosuch")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: No store in ")
    assert "\nTry: python -m dogbreed.features list\n" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("woof",), ("prune", "--max-gb", "-1"), ("prune", "--unused-for", "nan")])
def test_a_wrong_command_line_prints_the_usage(arguments: tuple[str, ...]) -> None:
    done = features_cli(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m dogbreed.features")


def test_the_command_loads_neither_torch_nor_lightning() -> None:
    filled("a")
    script = (
        "import sys; from dogbreed.features.__main__ import main; main(['list']); main(['verify']); main(['prune']); "
        "assert not {'torch', 'lightning', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
