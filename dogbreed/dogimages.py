"""Udacity's dogImages: 8,351 photos of 133 breeds, downloaded once, checked, and unpacked where nothing can escape."""

import http.client
import logging
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dogbreed.breeds import BREEDS
from dogbreed.errors import DataError, StorageError, raise_findings
from dogbreed.run_folder import storage_error

log = logging.getLogger("dogbreed")

COUNTS = {"train": 6680, "valid": 835, "test": 836}
_CHUNK = 1 << 20
_TRIES = 5  # in a row without a byte


@dataclass(frozen=True)
class DogImages:
    """url: of the zip. counts: photos per split, and breeds: class folders per split, that must be there."""

    url: str
    counts: Mapping[str, int] = field(default_factory=lambda: dict(COUNTS))
    breeds: tuple[str, ...] = BREEDS
    timeout_s: float = 30.0  # without a byte; then the connection is tried anew
    sleep: Callable[[float], None] = time.sleep

    def prepare(self, root: Path) -> None:
        """Download and unpack where `root` is empty; check what is there. Raises DataError, StorageError."""
        if not root.is_dir() or not any(root.iterdir()):
            archive = root.with_name(root.name + ".zip")
            if not archive.is_file():
                self._download(archive, root)
            self._unpack(archive, root)
            archive.unlink()
        raise_findings(DataError, self._findings(root))

    def _findings(self, root: Path) -> list[str]:
        findings = []
        for split, expected in self.counts.items():
            missing = [breed for breed in self.breeds if not (root / split / breed).is_dir()]
            if missing:
                findings.append(
                    f"{root / split} lacks {len(missing)} of {len(self.breeds)} breed folders, "
                    f"first {missing[0]}.\nTry: data.root=<the folder that holds train/, valid/ and test/ of "
                    "dogImages>, or data=folder for another set of photos"
                )
                continue
            found = sum(not e.name.startswith(".") for b in self.breeds for e in os.scandir(root / split / b))
            if found != expected:
                findings.append(
                    f"{root / split} has {found:,} photos; dogImages has {expected:,}.\n"
                    f"Try: move {root} away, so that it is downloaded anew, or data=folder data.root={root} to train "
                    "on what is there"
                )
        return findings

    def _download(self, archive: Path, root: Path) -> None:
        """Into archive.part, from where an earlier try broke off; renamed when it is whole."""
        part = archive.with_name(archive.name + ".part")
        tries = 0
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            while tries < _TRIES:
                before = part.stat().st_size if part.exists() else 0
                try:
                    if self._fetch(part):
                        part.replace(archive)
                        return
                    problem = "the connection ended early"
                except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                    problem = str(getattr(error, "reason", "") or error)
                    if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                        break  # 403, 404: asking again will not help
                tries = tries + 1 if not part.exists() or part.stat().st_size == before else 0
                log.warning("The download broke off: %s", problem)
                self.sleep(min(2.0**tries, 30.0))
        except OSError as error:
            raise storage_error(part, error) from error
        have = (
            f"{part.stat().st_size / 1e6:,.0f} MB are kept in {part}; the next try goes on from there.\n"
            * part.exists()
        )
        raise DataError(
            f"Cannot download dogImages from {self.url}: {problem}.\n{have}"
            f"Try: put the zip's content (train/, valid/, test/) into {root} by hand, or the zip itself at {archive},\n"
            "     or data.source.url=<another address>, or data=folder data.root=<your own photos>,\n"
            "     or train with no download at all: python train.py experiment=quickstart"
        )

    def _fetch(self, part: Path) -> bool:
        """One connection; whether `part` is whole afterwards."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        have = part.stat().st_size if part.exists() else 0
        stamp = part.with_name(part.name + ".etag")  # which version of the file the part is of
        request = urllib.request.Request(self.url)
        if have and stamp.exists():
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", stamp.read_text())
        try:
            response = urllib.request.urlopen(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return True  # nothing is left to send
            raise
        with response:
            if response.status != 206:
                have = 0  # the server sends all of it, or the file has changed
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            if total and shutil.disk_usage(part.parent).free < total - have:
                raise StorageError(f"{part.parent} has no room for the {total / 1e9:.2f} GB of dogImages.")
            stamp.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
            columns = (
                "{task.description}",
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            with part.open("ab" if have else "wb") as file, Progress(*columns, disable=not sys.stderr.isatty()) as bar:
                task = bar.add_task("dogImages", total=total, completed=have)
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    bar.advance(task, len(chunk))
                done = file.tell()
        if total is not None and done < total:
            return False
        stamp.unlink(missing_ok=True)
        return True

    def _unpack(self, archive: Path, root: Path) -> None:
        """All or nothing: into a folder beside `root`, then renamed. No member may leave it."""
        fresh = root.with_name(f".{root.name}.tmp-{os.getpid()}")
        try:
            with zipfile.ZipFile(archive) as content:
                members = [m for m in content.infolist() if not m.filename.startswith("__MACOSX/") and not m.is_dir()]
                raise_findings(DataError, [f for m in members for f in _unsafe(m, archive)][:5])
                size = sum(member.file_size for member in members)
                if size > shutil.disk_usage(archive.parent).free:
                    raise StorageError(f"{archive.parent} has no room for the {size / 1e9:.2f} GB inside {archive}.")
                log.info("Unpacking %s photos into %s", f"{len(members):,}", root)
                for member in members:
                    path = PurePosixPath(member.filename)
                    inner = path.parts[1:] if path.parts[0] not in COUNTS else path.parts  # below dogImages/
                    target = fresh.joinpath(*inner)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content.open(member) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file, _CHUNK)
            if root.is_dir():
                root.rmdir()  # empty, or prepare had not come here
            fresh.replace(root)
        except (zipfile.BadZipFile, EOFError) as error:
            raise DataError(
                f"{archive} is no whole zip file ({error}).\nTry: delete it, so that it is downloaded anew"
            ) from error
        except OSError as error:
            raise storage_error(fresh, error) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _unsafe(member: zipfile.ZipInfo, archive: Path) -> list[str]:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or is_link:
        what = "a link" if is_link else "a path that leaves the folder"
        return [f"{archive} holds {what}: {member.filename!r}. It is not unpacked.\nTry: another address for the zip"]
    return []
