"""Download Udacity's dogImages (8,351 photos of 133 breeds) once, check it, and unpack it safely."""

import contextlib
import http.client
import logging
import os
import shutil
import stat
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any

from dogbreed import commands
from dogbreed.breeds import BREEDS, PHOTOS
from dogbreed.errors import DataError, StorageError, raise_findings

log = logging.getLogger("dogbreed")

_CHUNK = 1 << 20
_TRIES = 5  # in a row without new bytes


class _BrokenOff(Exception):  # noqa: N818 (an event, not an error)
    """The connection ended before the whole file arrived. for_good: a retry would fail the same way."""

    def __init__(self, problem: str, *, for_good: bool = False) -> None:
        super().__init__(problem)
        self.for_good = for_good


@dataclass(frozen=True)
class DogImages:
    """Downloads dogImages. url: of the zip. counts: expected photos per split. breeds: expected class folders."""

    url: str
    counts: Mapping[str, int] = field(default_factory=lambda: dict(PHOTOS))
    breeds: tuple[str, ...] = BREEDS
    timeout_s: float = 30.0  # without a byte; then the download reconnects
    sleep: Callable[[float], None] = time.sleep

    def prepare(self, root: Path) -> None:
        """Download and unpack if `root` is empty; check its contents. Raises DataError, StorageError.

        If `<root>.zip` exists, it is used instead of a download, and kept.
        """
        root = Path(os.path.realpath(root))  # it may be a link to a larger disk: the zip and the photos go there
        if root.exists() and not root.is_dir():
            raise DataError(f"{root} is a file.\nTry: data.root=<a folder for the photos>")
        if _is_empty(root):
            with _alone(root):
                if _is_empty(root):  # check again: another process may have filled it in the meantime
                    self._fill(root)
        raise_findings(DataError, self._findings(root))

    def _fill(self, root: Path) -> None:
        archive = root.with_name(root.name + ".zip")
        by_hand = archive.is_file()
        if not by_hand:
            self._download(archive, root)
        self._unpack(archive, root)
        if not by_hand:
            archive.unlink()

    def _findings(self, root: Path) -> list[str]:
        findings = []
        for split, expected in self.counts.items():
            there = {breed for breed in self.breeds if (root / split / breed).is_dir()}
            if missing := [breed for breed in self.breeds if breed not in there]:
                findings.append(
                    f"{root / split} lacks {len(missing)} of {len(self.breeds)} breed folders, first {missing[0]} "
                    f"(seen: {_seen(root / split)}).\nTry: data.root=<the folder that holds train/, valid/ and test/ "
                    "of dogImages>, or data=folder for another set of photos"
                )
                continue
            found = sum(not e.name.startswith(".") for b in self.breeds for e in os.scandir(root / split / b))
            if found != expected:
                findings.append(
                    f"{root / split} has {found:,} photos; dogImages has {expected:,}.\n"
                    f"Try: move {root} away, so that it is downloaded again; or, to train on these photos, "
                    f"data=folder {commands.setting('data.root', root)}"
                )
        return findings

    def _download(self, archive: Path, root: Path) -> None:
        """Download into archive.part, resuming an earlier attempt; rename it once it is complete."""
        part = archive.with_name(archive.name + ".part")
        furthest, tries = _size(part), 0
        while True:
            try:
                self._fetch(part)
                break
            except _BrokenOff as broken:
                # only new bytes count as progress: a server that ignores Range starts over each time
                tries = 1 if _size(part) > furthest else tries + 1
                furthest = max(furthest, _size(part))
                if broken.for_good or tries == _TRIES:
                    raise self._cannot_download(str(broken), archive, root) from broken
                log.warning("The download of dogImages was interrupted (%s); retrying", broken)
            self.sleep(2.0 ** (tries - 1))
        if not zipfile.is_zipfile(part):
            size = _size(part)
            part.unlink()
            raise self._cannot_download(f"the download ({size:,} bytes) is not a zip file", archive, root)
        with _writing(archive):
            part.replace(archive)

    def _cannot_download(self, problem: str, archive: Path, root: Path) -> DataError:
        part = archive.with_name(archive.name + ".part")
        kept = (
            f"{_size(part) / 1e6:,.0f} MB are kept in {part}; the next attempt resumes there.\n" if _size(part) else ""
        )
        return DataError(
            f"Cannot download dogImages from {self.url}: {problem}.\n{kept}"
            f"Try: put the zip's content (train/, valid/, test/) into {root} by hand, or the zip itself at {archive},\n"
            "     or data.source.url=<another address>, or data=folder data.root=<your own photos>,\n"
            "     or train with no download at all: python train.py experiment=quickstart"
        )

    def _fetch(self, part: Path) -> None:
        """Download the rest of `part` over one connection. Raises _BrokenOff, StorageError."""
        have = _size(part)
        stamp = part.with_name(part.name + ".version")  # the version of the file that the part belongs to
        with _writing(part):
            version = stamp.read_text() if have and stamp.exists() else ""
        with _network():
            request = urllib.request.Request(self.url)
            if version:  # without a version, the file may have changed, and two versions would be mixed
                request.add_header("Range", f"bytes={have}-")
                request.add_header("If-Range", version)
            try:
                response = urllib.request.urlopen(request, timeout=self.timeout_s)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 416 and error.headers.get("Content-Range", "") == f"bytes */{have}":
                        stamp.unlink(missing_ok=True)
                        return  # the part is complete
                if error.code == 416:
                    part.unlink(missing_ok=True)
                    raise _BrokenOff("the file at this address has changed") from error
                hopeless = error.code < 500 and error.code not in (408, 429)
                raise _BrokenOff(f"HTTP {error.code} {error.reason}", for_good=hopeless) from error
        with response:
            if response.status == 206:
                if not _continues(response.headers, have, version):
                    part.unlink()
                    raise _BrokenOff("the file at this address has changed")
            else:
                have = 0  # the server sends the whole file: it does not support ranges, or the file has changed
            length = response.headers.get("Content-Length") or ""
            total = have + int(length) if length.isdigit() else None
            with _writing(part):
                part.parent.mkdir(parents=True, exist_ok=True)
                if total and shutil.disk_usage(part.parent).free < total - have:
                    raise _no_room(part.parent, total - have)
                if not have:
                    part.unlink(missing_ok=True)  # before its stamp: never bytes of one version with another's stamp
                    stamp.write_text(_version(response.headers))
                with part.open("ab") as file, _bar(total, have) as advance:
                    while chunk := _receive(response):
                        file.write(chunk)
                        advance(len(chunk))
                    done = file.tell()
        if total is not None and done < total:
            raise _BrokenOff("the connection ended early")
        stamp.unlink(missing_ok=True)

    def _unpack(self, archive: Path, root: Path) -> None:
        """Unpack atomically, into a folder beside `root` that is then renamed. No member may escape it."""
        fresh = root.with_name(f".{root.name}.unpacking")
        try:
            with _writing(fresh), zipfile.ZipFile(archive) as content:
                members = content.infolist()
                raise_findings(DataError, [f for m in members for f in _unsafe(m, archive)][:5])
                photos = [(member, inner) for member in members if (inner := self._inner(member))]
                if not photos:
                    raise DataError(
                        f"{archive} has no files in {', '.join(self.counts)} (it has {len(members):,} others).\n"
                        "Try: another address for the zip: data.source.url=..., or data=folder data.root=<your photos>"
                    )
                size = sum(member.file_size for member, _ in photos)
                if size > shutil.disk_usage(archive.parent).free:
                    raise _no_room(archive.parent, size)
                log.info("Unpacking %s photos into %s", f"{len(photos):,}", root)
                shutil.rmtree(fresh, ignore_errors=True)  # left by a process that was killed
                for member, inner in photos:
                    target = fresh / inner
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content.open(member) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file, _CHUNK)
                with contextlib.suppress(OSError):  # missing, with hidden files, or a mount point
                    root.rmdir()
                if root.is_dir():
                    for folder in sorted(fresh.iterdir()):
                        shutil.move(folder, root / folder.name)
                else:
                    fresh.replace(root)
        # the exceptions of zipfile for damaged, encrypted and exotic files
        except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, ValueError) as error:
            raise DataError(
                f"{archive} is not a complete zip file ({error}).\nTry: delete it, so that it is downloaded again"
            ) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _inner(self, member: zipfile.ZipInfo) -> PurePosixPath | None:
        """Return a photo's path below the root, starting with train/, valid/ or test/; None for any other member."""
        parts = PurePosixPath(member.filename).parts
        if member.is_dir() or parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
            return None
        inner = parts if parts[0] in self.counts else parts[1:]  # the zip has a folder dogImages/ around them
        return PurePosixPath(*inner) if len(inner) > 1 and inner[0] in self.counts else None


def _is_empty(root: Path) -> bool:
    return not root.is_dir() or all(entry.name.startswith(".") for entry in root.iterdir())


def _seen(folder: Path) -> str:
    if not folder.is_dir():
        return f"no folder {folder}"
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "") or "nothing"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version(headers: Message) -> str:
    """Return a validator for If-Range that identifies the file's version (not a weak ETag); "" if there is none."""
    tag = headers.get("ETag") or ""
    return tag if tag.startswith('"') else headers.get("Last-Modified") or ""


def _continues(headers: Message, have: int, version: str) -> bool:
    """Return whether this partial response continues what we have; some servers ignore If-Range."""
    same = _version(headers) in ("", version)
    return same and (headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _receive(response: Any) -> bytes:
    with _network():
        return bytes(response.read1(_CHUNK))  # read() would lose what a broken connection had sent


@contextlib.contextmanager
def _network() -> Iterator[None]:
    try:
        yield
    except (ValueError, http.client.InvalidURL) as error:
        raise _BrokenOff(f"no address: {error}", for_good=True) from error
    except (OSError, http.client.HTTPException) as error:  # URLError, ssl.SSLError and TimeoutError are OSErrors
        raise _BrokenOff(str(getattr(error, "reason", "") or error) or type(error).__name__) from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}.\n"
            "Try: free some space, or data.root=<a folder that you can write to>"
        ) from error


def _no_room(folder: Path, size: int) -> StorageError:
    return StorageError(
        f"{folder} has no room for {size / 1e9:.2f} GB of dogImages "
        f"({shutil.disk_usage(folder).free / 1e9:.2f} GB are free).\nTry: data.root=<a folder on another disk>"
    )


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Let one process at a time fill `root`: two would write into the same file."""
    with _writing(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = root.with_name(f".{root.name}.lock").open("w")
    with lock:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("Waiting for another process, which is filling %s", root)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:  # some network disks cannot lock
                log.debug("%s cannot be locked", lock.name)
        yield


@contextlib.contextmanager
def _bar(total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        log.info("Downloading dogImages (%s)", "size unknown" if total is None else f"{(total - done) / 1e6:,.0f} MB")
        yield lambda size: None
        return
    columns = (TextColumn("dogImages"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda size: bar.advance(task, size)


def _unsafe(member: zipfile.ZipInfo, archive: Path) -> list[str]:
    name = member.filename
    parts = PurePosixPath(name).parts
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    # backslashes and colons are special only on Windows; dogImages has neither
    if is_link or not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
        what = "a link" if is_link else "a path that may leave the folder"
        return [f"{archive} contains {what}: {name!r}. It was not unpacked.\nTry: another address for the zip"]
    return []
