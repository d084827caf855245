"""What a machine on EC2 saves and the next one brings back: whole files of one moment, by one machine at a time."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from launchers.remote import sync
from launchers.remote.sync import Pointer, Superseded, Sync


class Store:
    """S3 as far as it is used here: conditional puts, lists, and a call that fails when it is told to."""

    class exceptions:  # noqa: N801 (as in boto3)
        class NoSuchKey(Exception):  # noqa: N818
            pass

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.fails_before: Callable[[str], bool] = lambda key: False
        self.fails_after: Callable[[str], bool] = lambda key: False
        self._lock = threading.Lock()

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        if Key not in self.objects:
            raise self.exceptions.NoSuchKey
        return {"Body": io.BytesIO(self.objects[Key]), "ETag": self._etag(Key)}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **more: str) -> dict[str, Any]:  # noqa: N803
        with self._lock:
            if self.fails_before(Key):
                raise ConnectionError(Key)
            exists = Key in self.objects
            if ("IfNoneMatch" in more and exists) or (
                "IfMatch" in more and (not exists or more["IfMatch"] != self._etag(Key))
            ):
                raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")
            self.objects[Key] = Body
            self.puts.append(Key)
            if self.fails_after(Key):
                raise ConnectionError(Key)
            return {"ETag": self._etag(Key)}

    def upload_fileobj(self, file: Any, bucket: str, key: str, ExtraArgs: Any = None) -> None:  # noqa: N803
        self.put_object(Bucket=bucket, Key=key, Body=file.read())

    def delete_object(self, *, Bucket: str, Key: str) -> None:  # noqa: N803
        self.objects.pop(Key, None)

    def download_file(self, bucket: str, key: str, path: str) -> None:
        Path(path).write_bytes(self.objects[key])

    def get_paginator(self, name: str) -> "Store":
        return self

    def paginate(self, *, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:  # noqa: N803
        found = [key for key in sorted(self.objects) if key.startswith(Prefix)]
        yield {"Contents": [{"Key": key, "Size": len(self.objects[key])} for key in found]}

    def _etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.objects[key]).hexdigest()}"'

    @property
    def pointer(self) -> Pointer:
        return Pointer.from_json(self.objects["runs/r/saved.json"])

    @property
    def contents(self) -> set[str]:
        return {key.rpartition("/")[2] for key in self.objects if key.startswith("runs/r/saved/")}


def machine(store: Store, folder: Path, attempt: int) -> Sync:
    one = Sync(store, "b", "runs/r", folder, attempt)
    one.take_over()
    one.restore()
    return one


def write(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(content)
    path.with_suffix(".new").replace(path)


def test_what_one_machine_saved_the_next_one_has(tmp_path: Path) -> None:
    store = Store()
    first = machine(store, tmp_path / "1", 1)
    write(first.folder, "checkpoints/last.ckpt", "weights")
    write(first.folder, "metrics.csv", "a,b")
    write(first.folder, ".half.sagemaker-ignore", "no")
    assert first.save()
    assert not first.save()  # nothing has changed
    second = machine(store, tmp_path / "2", 2)
    assert (second.folder / "checkpoints/last.ckpt").read_text() == "weights"
    assert sorted(store.pointer.files) == ["checkpoints/last.ckpt", "metrics.csv"]
    assert store.pointer.attempt == 2
    assert not second.save()


def test_a_renamed_checkpoint_is_not_sent_again_and_what_is_unused_goes(tmp_path: Path) -> None:
    store = Store()
    one = machine(store, tmp_path, 1)
    write(tmp_path, "last.ckpt", "first")
    one.save()
    for number in range(4):
        (tmp_path / "last.ckpt").replace(tmp_path / "previous.ckpt")
        write(tmp_path, "last.ckpt", f"step {number}")
        before = len(store.puts)
        one.save()
        assert len(store.puts) == before + 2  # the new content and the pointer
    assert len(store.contents) <= 3  # those of the pointer, and of the one before for whoever reads it now


def test_a_machine_that_was_superseded_saves_no_more(tmp_path: Path) -> None:
    store = Store()
    first = machine(store, tmp_path / "1", 1)
    write(first.folder, "last.ckpt", "early")
    first.save()
    second = machine(store, tmp_path / "2", 2)
    write(first.folder, "last.ckpt", "of a machine that should be gone")
    with pytest.raises(Superseded):
        first.save()
    write(second.folder, "last.ckpt", "later")
    second.save()
    with pytest.raises(Superseded):
        Sync(store, "b", "runs/r", tmp_path / "1", 1).take_over()
    third = machine(store, tmp_path / "3", 3)
    assert (third.folder / "last.ckpt").read_text() == "later"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["last.ckpt", "previous.ckpt", "metrics.csv"]),
            st.text("ab", min_size=1, max_size=4),
            st.sampled_from(["", "before content", "after content", "before pointer", "after pointer", "new machine"]),
        ),
        max_size=12,
    )
)
def test_whenever_a_machine_ends_the_next_one_finds_files_of_one_moment(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]]
) -> None:
    """A put that fails, or whose answer is lost, at any point; what was saved is one of the folder's states."""
    base = tmp_path_factory.mktemp("sync")
    store, attempt = Store(), 1
    one = machine(store, base / "1", attempt)
    states: list[dict[str, str]] = [{}]
    saved = 0  # the latest state that is certainly in S3
    for name, content, fault in steps:
        write(one.folder, name, content)
        states.append({path.name: path.read_text() for path in one.folder.iterdir() if path.suffix != ".new"})
        when, _, what = fault.partition(" ")
        failing = (lambda key: key.endswith("saved.json")) if what == "pointer" else (lambda key: "/saved/" in key)
        if fault and fault != "new machine":
            setattr(store, f"fails_{when}", failing)
        try:
            one.save()
            saved = len(states) - 1
        except ConnectionError:
            pass
        store.fails_before = store.fails_after = lambda key: False
        if fault == "new machine":
            attempt += 1
            one = machine(store, base / str(attempt), attempt)
            found = {path.name: path.read_text() for path in one.folder.iterdir()}
            assert found in states[saved:]
            states, saved = [found], 0
    attempt += 1
    last = machine(store, base / str(attempt), attempt)
    assert {path.name: path.read_text() for path in last.folder.iterdir()} in states[saved:]


def test_a_content_that_is_damaged_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store()
    first = machine(store, tmp_path / "1", 1)
    write(first.folder, "last.ckpt", "late")
    write(first.folder, "previous.ckpt", "early")
    first.save()
    broken = store.pointer.files["last.ckpt"].sha256
    store.objects[f"runs/r/saved/{broken}"] = b"la"
    second = machine(store, tmp_path / "2", 2)
    assert [path.name for path in second.folder.iterdir()] == ["previous.ckpt"]
    assert "last.ckpt was saved, and cannot be read" in capsys.readouterr().out


def test_what_another_launcher_saved_is_brought_until_something_is_saved_here(tmp_path: Path) -> None:
    store = Store()
    store.objects["runs/r/checkpoints/checkpoints/last.ckpt"] = b"of SageMaker"
    store.objects["runs/r/checkpoints/../x"] = b"not ours"
    for attempt in (1, 2):  # the first machine is taken away before it saves anything
        one = machine(store, tmp_path / str(attempt), attempt)
        assert (one.folder / "checkpoints/last.ckpt").read_bytes() == b"of SageMaker"
    write(one.folder, "checkpoints/last.ckpt", "of EC2")
    one.save()
    assert not store.pointer.plain
    assert (machine(store, tmp_path / "3", 3).folder / "checkpoints/last.ckpt").read_text() == "of EC2"


def test_features_are_saved_under_their_own_names_numbers_first(tmp_path: Path) -> None:
    store = Store()
    one = machine(store, tmp_path / "1", 1)
    shard = f"features/0a1b/shards/{'0' * 32}"
    for name in (f"{shard}.json", f"{shard}.npy", "features/0a1b/recipe.json", "features/0a1b/claims/x"):
        write(one.folder, name, "x")
    one.save()
    sent = [key.removeprefix("runs/r/checkpoints/") for key in store.puts if "features" in key]
    assert sent[0] == f"{shard}.npy"
    assert sorted(sent[1:]) == ["features/0a1b/recipe.json", f"{shard}.json"]
    second = machine(store, tmp_path / "2", 2)
    assert (second.folder / f"{shard}.npy").exists()
    second.save()
    assert len([key for key in store.puts if "features" in key]) == 3


def test_a_log_is_saved_in_parts_each_of_which_is_sent_whole_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "LOG_PART", 10)
    store = Store()
    one, log = machine(store, tmp_path / "1", 3), tmp_path / "log.txt"
    one.save_log(log)  # there is none yet
    text = ""
    for line in ("first\n", "second line\n", "x" * 25, "\n", ""):
        text += line
        log.write_text(text)
        one.save_log(log)
        parts = [store.objects[key] for key in sorted(store.objects) if "/logs/" in key]
        assert b"".join(parts).decode() == text
    assert store.puts.count(f"runs/r/{sync.log_key(3, 0)}") == 2  # while it grew, and whole
