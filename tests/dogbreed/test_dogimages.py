"""The download against a real HTTP server with faults on demand, and malicious archives."""

import contextlib
import hashlib
import io
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed import dogimages
from dogbreed.dogimages import DogImages
from dogbreed.errors import DataError, StorageError
from tests.support.launcher_contract import until
from tests.support.odd_pictures import jpeg
from tests.support.ports import reserved_port

BREEDS = ("001.Affenpinscher", "002.Afghan_hound")
COUNTS = {"train": 6, "valid": 2, "test": 2}


def members() -> dict[str, bytes]:
    """Add noise after each picture, so that the zip is large enough to be interrupted in the middle."""
    noise = np.random.default_rng(0)
    return {
        f"dogImages/{split}/{breed}/{breed[4:]}_{n:05d}.jpg": jpeg() + noise.bytes(60_000)
        for split, count in COUNTS.items()
        for breed in BREEDS
        for n in range(count // len(BREEDS))
    }


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # the same date each time
    return file.getvalue()


WHOLE = zipped(members())


@dataclass
class Server:
    """Serves `content` at /dogImages.zip. faults: what goes wrong with the next requests, one each.

    stalls_at: the byte before which a response that begins earlier stands still for good.
    """

    content: bytes = WHOLE
    faults: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes of content, per request
    send_tag: bool = True
    know_ranges: bool = True
    chunk_s: float = 0.0
    port: int = 0
    stalls_at: int | None = None
    unstall: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dogImages.zip"

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for headers in self.headers]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        self.headers.append(dict(request.headers))
        number = len(self.sent)
        self.sent.append(0)
        if fault.isdigit():
            request.send_error(int(fault))
            return
        if fault == "reset":
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        start = int((re.match(r"bytes=(\d+)-", request.headers.get("Range", "")) or [0, 0])[1])
        fresh = request.headers.get("If-Range") == self.tag or fault == "blind to If-Range"
        start = start if fresh and self.know_ranges else 0
        if start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        if start:
            first = start + 1 if fault == "another range" else start
            request.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        if self.send_tag:
            request.send_header("ETag", self.tag)
        if fault != "no length":
            lie = {"length too large": 1000, "length too small": -1000}.get(fault, 0)
            request.send_header("Content-Length", str(len(body) + lie))
        request.end_headers()
        stalls = self.stalls_at is not None and start < self.stalls_at
        if stalls:
            body = self.content[start : self.stalls_at]
        if fault in ("break", "no length"):
            body = body[: len(body) // 2]
        elif fault == "break early":
            body = body[: len(body) // 3]
        elif fault == "length too small":
            body = body[:-1000]
        for at in range(0, len(body), 16_384):
            self.sent[number] += len(body[at : at + 16_384])  # before the client can have it and look at the sum
            request.wfile.write(body[at : at + 16_384])
            time.sleep(self.chunk_s)
        request.wfile.flush()
        if stalls:
            self.unstall.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                served.answer(self)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        served.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.unstall.set()
        http.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "dogImages"


def source(server: Server | str, **options: Any) -> DogImages:
    url = server if isinstance(server, str) else server.url
    return DogImages(url, **{"counts": COUNTS, "breeds": BREEDS, "timeout_s": 99.0, "sleep": lambda s: None, **options})


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_complete(root: Path) -> None:
    assert files(root) == {name.removeprefix("dogImages/"): content for name, content in members().items()}
    beside = {path.name for path in root.parent.iterdir()}
    assert beside <= {"dogImages", ".dogImages.lock"}, "nothing of the download is left"


# --- downloads that go well in the end ---


def test_a_download_arrives_and_leaves_nothing_else(server: Server, root: Path) -> None:
    source(server).prepare(root)
    assert_complete(root)
    assert server.ranges == [None]


def test_nothing_is_done_where_the_photos_are_there(server: Server, root: Path) -> None:
    source(server).prepare(root)
    server.headers.clear()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    source(server).prepare(root)
    assert server.headers == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_an_interrupted_download_resumes_where_it_stopped(server: Server, root: Path) -> None:
    server.faults = ["break", "500", "break", "reset", "503", "429"]
    source(server).prepare(root)
    assert_complete(root)
    half, quarter = len(WHOLE) // 2, len(WHOLE) // 2 + (len(WHOLE) - len(WHOLE) // 2) // 2
    assert server.ranges == [
        None,
        f"bytes={half}-",
        f"bytes={half}-",
        *[f"bytes={quarter}-"] * 4,
    ]
    assert sum(server.sent) == len(WHOLE), "no byte is sent twice"
    assert {headers["If-Range"] for headers in server.headers[1:]} == {server.tag}


def test_a_stalled_download_loses_no_byte(server: Server, root: Path) -> None:
    server.stalls_at = len(WHOLE) // 2
    source(server, timeout_s=0.3).prepare(root)
    assert_complete(root)
    assert f"bytes={len(WHOLE) // 2}-" in server.ranges  # and others, where this machine itself stands still


def test_a_file_that_changed_meanwhile_is_downloaded_again(server: Server, root: Path) -> None:
    server.content = WHOLE[::-1]
    server.faults = ["break", *["404"]]
    with pytest.raises(DataError):
        source(server).prepare(root)
    server.content = WHOLE
    source(server).prepare(root)
    assert_complete(root)
    assert server.ranges[-1] == f"bytes={len(WHOLE) // 2}-"
    assert server.sent[-1] == len(WHOLE)


@pytest.mark.parametrize("fault", ["blind to If-Range", "another range"])
def test_a_partial_response_of_another_version_or_range_is_not_appended(server: Server, root: Path, fault: str) -> None:
    server.content = WHOLE[::-1] if fault == "blind to If-Range" else WHOLE
    server.faults = ["break", "404"]
    with pytest.raises(DataError):
        source(server).prepare(root)
    server.content, server.faults = WHOLE, [fault]
    source(server).prepare(root)
    assert_complete(root)
    assert server.ranges[-2:] == [f"bytes={len(WHOLE) // 2}-", None]


def test_a_kill_between_the_first_answer_and_the_first_byte_mixes_no_versions(server: Server, root: Path) -> None:
    """The stamp of a new version must not lie beside bytes of the old one, whenever the process ends."""
    server.content = WHOLE[::-1]
    server.faults = ["break", "404"]
    with pytest.raises(DataError):
        source(server).prepare(root)
    part = root.with_name("dogImages.zip.part")
    seen: list[bool] = []

    def dies(path: Path, text: str, *arguments: Any) -> int:
        seen.append(part.exists())
        raise KeyboardInterrupt

    server.content = WHOLE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", dies)
        with pytest.raises(KeyboardInterrupt):
            source(server).prepare(root)
    assert seen == [False]
    source(server).prepare(root)
    assert_complete(root)


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(server: Server, root: Path) -> None:
    server.know_ranges = False
    server.faults = ["break", "break"]
    source(server).prepare(root)
    assert_complete(root)
    assert server.sent == [len(WHOLE) // 2, len(WHOLE) // 2, len(WHOLE)]


def test_a_server_that_never_gets_further_is_given_up(server: Server, root: Path) -> None:
    server.know_ranges = False
    server.faults = ["break", "break early"] * 50  # more than the time before, every second time
    with pytest.raises(DataError, match="the connection ended early"):
        source(server).prepare(root)
    assert len(server.headers) <= 6


def test_without_a_version_a_part_is_not_continued(server: Server, root: Path) -> None:
    server.send_tag = False
    server.faults = ["break"]
    source(server).prepare(root)
    assert_complete(root)
    assert server.ranges == [None, None]


def test_a_content_length_that_is_too_large_does_no_harm(server: Server, root: Path) -> None:
    server.faults = ["length too large"]
    source(server).prepare(root)
    assert_complete(root)
    assert server.ranges == [None, f"bytes={len(WHOLE)}-"]


@pytest.mark.parametrize("fault", ["length too small", "no length"])
def test_half_a_zip_that_claims_to_be_whole_is_not_kept(server: Server, root: Path, fault: str) -> None:
    server.faults = [fault]
    with pytest.raises(DataError, match=r"the download \([\d,]+ bytes\) is not a zip file"):
        source(server).prepare(root)
    source(server).prepare(root)
    assert_complete(root)


def test_a_part_larger_than_the_file_is_dropped(server: Server, root: Path) -> None:
    root.parent.mkdir()
    part = root.with_name("dogImages.zip.part")
    part.write_bytes(bytes(len(WHOLE) + 5))
    part.with_name("dogImages.zip.part.version").write_text(server.tag)
    source(server).prepare(root)
    assert_complete(root)
    assert server.ranges == [f"bytes={len(WHOLE) + 5}-", None]


def test_a_root_that_is_a_link_is_filled_where_it_leads(server: Server, root: Path, tmp_path: Path) -> None:
    (tmp_path / "large disk" / "dogs").mkdir(parents=True)
    root.parent.mkdir()
    root.symlink_to(tmp_path / "large disk" / "dogs")
    source(server).prepare(root)
    assert root.is_symlink()
    assert len(files(root)) == 10
    assert {path.name for path in root.parent.iterdir()} == {"dogImages"}


def test_hidden_files_of_an_empty_root_are_kept(server: Server, root: Path) -> None:
    root.mkdir(parents=True)
    (root / ".gitkeep").write_text("mine")
    source(server).prepare(root)
    assert (root / ".gitkeep").read_text() == "mine"
    assert len(files(root)) == 11


def test_a_zip_put_there_by_hand_is_used_and_kept(root: Path) -> None:
    root.parent.mkdir()
    archive = root.with_name("dogImages.zip")
    archive.write_bytes(WHOLE)
    source("http://127.0.0.1:9/none").prepare(root)
    assert len(files(root)) == 10
    assert archive.read_bytes() == WHOLE


def test_two_processes_download_once(server: Server, root: Path) -> None:
    server.chunk_s = 0.01
    errors: list[BaseException] = []

    def prepare() -> None:
        try:
            source(server).prepare(root)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(3)]  # flock holds between threads as well
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert server.ranges == [None]
    assert_complete(root)


CODE = """
import sys
from pathlib import Path
from dogbreed.dogimages import DogImages
breeds, counts = ("001.Affenpinscher", "002.Afghan_hound"), {"train": 6, "valid": 2, "test": 2}
DogImages(sys.argv[1], counts, breeds).prepare(Path(sys.argv[2]))
"""


def test_a_killed_download_is_completed_by_the_next_process(server: Server, root: Path) -> None:
    server.stalls_at = 200_000
    with subprocess.Popen([sys.executable, "-c", CODE, server.url, root]) as process:
        part = root.with_name("dogImages.zip.part")
        until(lambda: part.exists() and part.stat().st_size > 100_000, every_s=0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    have = part.stat().st_size
    assert 100_000 < have <= server.stalls_at
    server.stalls_at = None
    done = subprocess.run([sys.executable, "-c", CODE, server.url, root], capture_output=True, text=True, check=True)
    assert server.ranges == [None, f"bytes={have}-"]
    assert server.sent[-1] == len(WHOLE) - have
    assert (done.stdout, done.stderr) == ("", ""), "no bar where there is no terminal"
    assert_complete(root)


def test_what_a_killed_process_had_unpacked_is_removed(server: Server, root: Path) -> None:
    (root.parent / ".dogImages.unpacking" / "train").mkdir(parents=True)
    (root.parent / ".dogImages.unpacking" / "train" / "half.jpg").write_text("half")
    source(server).prepare(root)
    assert_complete(root)


# --- downloads that cannot go well ---


def assert_helps(error: DataError, url: str, root: Path) -> None:
    text = str(error)
    for part in (url, str(root), f"{root}.zip", "train/, valid/, test/", "data=folder", "experiment=quickstart"):
        assert part in text
    assert "\nTry: " in text


@pytest.mark.parametrize("status", ["403", "404"])
def test_a_refusal_is_final_and_says_what_to_do(server: Server, root: Path, status: str) -> None:
    server.faults = [status] * 9
    with pytest.raises(DataError, match=f"HTTP {status}") as caught:
        source(server).prepare(root)
    assert_helps(caught.value, server.url, root)
    assert len(server.headers) == 1


def test_no_server_says_what_to_do(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []
    with reserved_port() as port:  # at which nobody listens
        url = f"http://127.0.0.1:{port}/dogImages.zip"
        with pytest.raises(DataError, match="Connection refused") as caught:
            source(url, sleep=waits.append).prepare(root)
    assert_helps(caught.value, url, root)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert caplog.text.count("retrying") == 4


def test_a_server_that_is_broken_for_good_is_asked_five_times(server: Server, root: Path) -> None:
    server.faults = ["500"] * 50
    with pytest.raises(DataError, match="HTTP 500") as caught:
        source(server).prepare(root)
    assert_helps(caught.value, server.url, root)
    assert len(server.headers) == 5


def test_the_error_says_what_is_kept(server: Server, root: Path) -> None:
    server.faults = ["break", "404"]
    with pytest.raises(DataError, match=rf"0 MB are kept in {root}.zip.part; the next attempt resumes there"):
        source(server).prepare(root)


def test_a_web_page_instead_of_the_zip_is_refused_and_not_kept(server: Server, root: Path) -> None:
    server.content = b"<html>Please log in to this network</html>"
    with pytest.raises(DataError, match=r"the download \(42 bytes\) is not a zip file") as caught:
        source(server).prepare(root)
    assert_helps(caught.value, server.url, root)
    assert not root.with_name("dogImages.zip.part").exists()


@pytest.mark.parametrize("url", ["dogImages.zip", "gopher+x://host/x", "http://[::1/x", "http://a b/x"])
def test_an_invalid_url_says_what_to_do(url: str, root: Path) -> None:
    with pytest.raises(DataError) as caught:
        source(url).prepare(root)
    assert_helps(caught.value, url, root)


def test_a_full_disk_is_noticed_before_the_download(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(StorageError, match=r"no room for 0.00 GB of dogImages(.|\n)*Try: data.root="):
        source(server).prepare(root)


def test_a_disk_that_fills_up_is_a_storage_error_and_what_arrived_is_kept(server: Server, root: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n" + CODE
    done = subprocess.run([sys.executable, "-c", limited, server.url, root], capture_output=True, text=True)
    assert f"StorageError: Cannot write {root}.zip.part: File too large.\nTry: free some space" in done.stderr
    source(server).prepare(root)
    assert_complete(root)
    assert server.ranges == [None, "bytes=150000-"]


def test_a_place_that_cannot_be_written_is_a_storage_error(server: Server) -> None:
    with pytest.raises(StorageError, match="Cannot write /proc/no/dogImages"):
        source(server).prepare(Path("/proc/no/dogImages"))


def test_a_root_that_is_a_file_is_refused_before_the_download(server: Server, root: Path) -> None:
    root.parent.mkdir()
    root.write_text("woof")
    with pytest.raises(DataError, match="is a file"):
        source(server).prepare(root)
    assert server.headers == []


def test_a_download_is_logged_and_draws_no_bar_without_a_terminal(
    server: Server, root: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dogbreed"):
        source(server).prepare(root)
    assert capfd.readouterr() == ("", "")
    assert "Downloading dogImages (1 MB)" in caplog.text
    assert "Unpacking 10 photos" in caplog.text


# --- archives ---


def unpack(root: Path, content: bytes, **options: Any) -> None:
    root.parent.mkdir(exist_ok=True)
    root.with_name("dogImages.zip").write_bytes(content)
    source("http://127.0.0.1:9/none", **options).prepare(root)


def link(name: str, to: str) -> Callable[[zipfile.ZipFile], None]:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = 0o120777 << 16
        archive.writestr(info, to)

    return add


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "dogImages/train/../../../evil.jpg",
        "dogImages/train/001.Affenpinscher/../../../../evil.jpg",
        "/tmp/evil.jpg",
        "//host/share/evil.jpg",
        "C:/evil.jpg",
        "C:\\evil.jpg",
        "dogImages/train/C:/evil.jpg",
        "..\\..\\evil.jpg",
        "dogImages\\train\\evil.jpg",
        "dogImages/train/001.Affenpinscher/..\\evil.jpg",
        "..",
        "__MACOSX/../../evil.jpg",
    ],
)
def test_a_path_that_may_leave_the_folder_is_refused_with_nothing_written(
    name: str, root: Path, tmp_path: Path
) -> None:
    content = zipped({**members(), name: b"evil"})
    with pytest.raises(DataError, match="contains a path that may leave the folder") as caught:
        unpack(root, content)
    assert repr(name) in str(caught.value)
    assert set(files(tmp_path)) == {"data/dogImages.zip", "data/.dogImages.lock"}
    assert not root.exists()


@pytest.mark.parametrize("to", ["/etc/passwd", "../../..", "inside.jpg"])
def test_links_are_refused_with_nothing_written(to: str, root: Path, tmp_path: Path) -> None:
    file = io.BytesIO(WHOLE)
    with zipfile.ZipFile(file, "a") as archive:
        link("dogImages/train/001.Affenpinscher/link", to)(archive)
    with pytest.raises(DataError, match=r"contains a link: 'dogImages/train/001\.Affenpinscher/link'"):
        unpack(root, file.getvalue())
    assert set(files(tmp_path)) == {"data/dogImages.zip", "data/.dogImages.lock"}


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab./\\:~ \n", min_size=1, max_size=12))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    member = zipfile.ZipInfo(f"train/{name}" if name[0] not in "/\\" else name)
    if dogimages._unsafe(member, Path("x.zip")):
        return
    inner = source("http://127.0.0.1:9/none")._inner(member)
    if inner is not None:
        assert os.path.normpath(Path("/base") / inner).startswith("/base/train/")


def test_macos_and_hidden_and_other_files_are_ignored(root: Path) -> None:
    more = {
        "__MACOSX/dogImages/train/001.Affenpinscher/._a.jpg": b"x",
        "dogImages/.DS_Store": b"x",
        "dogImages/train/001.Affenpinscher/.DS_Store": b"x",
        "dogImages/train/.hidden/a.jpg": b"x",
        "README.txt": b"x",
        "dogImages/LICENSE": b"x",
        "dogImages/train/": b"",
    }
    unpack(root, zipped({**more, **members()}))
    assert len(files(root)) == 10


def test_the_folder_around_the_splits_may_be_missing(root: Path) -> None:
    unpack(root, zipped({name.removeprefix("dogImages/"): content for name, content in members().items()}))
    assert len(files(root)) == 10


def damaged(kind: str) -> bytes:
    match kind:
        case "cut off":
            return WHOLE[:-100]
        case "no zip":
            return b"woof" * 100
        case "empty":
            return b""
        case "wrong bytes":
            return WHOLE[:5000] + bytes(b ^ 255 for b in WHOLE[5000:5100]) + WHOLE[5100:]
        case "encrypted" | "unknown compression":
            content = bytearray(WHOLE)
            at = content.index(b"PK\1\2")
            if kind == "encrypted":
                content[6] |= 1
                content[at + 8] |= 1
            else:
                content[8] = content[at + 10] = 77
            return bytes(content)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, photo in members().items():
            archive.writestr(name, photo)
    content = bytearray(file.getvalue())
    content[200:260] = b"\xff" * 60  # inside the first compressed stream
    return bytes(content)


@pytest.mark.parametrize(
    "kind", ["cut off", "no zip", "empty", "wrong bytes", "encrypted", "unknown compression", "wrong compressed bytes"]
)
def test_a_damaged_zip_says_what_to_do_and_leaves_nothing(kind: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a complete zip file(.|\n)*Try: delete it, so that it is "):
        unpack(root, damaged(kind))
    assert set(files(tmp_path)) == {"data/dogImages.zip", "data/.dogImages.lock"}


def test_a_zip_of_something_else_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"has no files in train, valid, test \(it has 2 others\)"):
        unpack(root, zipped({"cats/1.jpg": b"x", "cats/2.jpg": b"x"}))


def test_a_zip_that_unpacks_to_more_than_the_disk_holds_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(StorageError, match="no room"):
        unpack(root, WHOLE)
    assert set(files(tmp_path)) == {"data/dogImages.zip", "data/.dogImages.lock"}


# --- what is there ---


def test_missing_breeds_and_wrong_counts_are_findings_that_name_what_was_seen(root: Path) -> None:
    there = members()
    del there["dogImages/train/001.Affenpinscher/Affenpinscher_00001.jpg"]
    there = {name: content for name, content in there.items() if "valid/002" not in name and "/test/" not in name}
    there["dogImages/valid/Poodle/a.jpg"] = b"x"
    with pytest.raises(DataError) as caught:
        unpack(root, zipped(there))
    text = str(caught.value)
    assert text.startswith("3 problems found:")
    assert f"{root}/train has 5 photos; dogImages has 6." in text
    assert f"{root}/valid lacks 1 of 2 breed folders, first 002.Afghan_hound (seen: 001.Affenpinscher, Poodle)" in text
    assert f"{root}/test lacks 2 of 2 breed folders, first 001.Affenpinscher (seen: no folder {root}/test)" in text
    assert text.count("Try: ") == 3
    assert "data=folder" in text


def test_hidden_files_do_not_count_as_photos(server: Server, root: Path) -> None:
    source(server).prepare(root)
    (root / "train" / BREEDS[0] / ".DS_Store").write_text("x")
    source(server).prepare(root)


def test_another_set_of_photos_is_not_overwritten(server: Server, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "my dog.jpg").write_bytes(jpeg())
    with pytest.raises(DataError, match="lacks 2 of 2 breed folders"):
        source(server).prepare(root)
    assert list(files(root)) == ["my dog.jpg"]
    assert server.headers == []


def test_the_real_settings_are_those_of_the_published_zip() -> None:
    real = DogImages("https://example.org/dogImages.zip")
    assert len(real.breeds) == 133
    assert dict(real.counts) == {"train": 6680, "valid": 835, "test": 836}
