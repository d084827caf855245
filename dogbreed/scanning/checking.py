"""Check the files of a data folder: the digest of each, or the reason why it is unusable. Results are cached."""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import PIL
from PIL import features

from dogbreed.cache import cache_folder
from dogbreed.errors import DataError, StorageError
from dogbreed.hardware import available_cpus
from dogbreed.preprocess import probe, read_picture
from dogbreed.run_folder import write_text
from dogbreed.scanning.listing import File

log = logging.getLogger("dogbreed")

_WORTH_A_BAR = 200  # files; fewer are checked at once
_MEMORY = f"2-pillow-{PIL.__version__}"  # results of other code or another Pillow are not reused
_READS = ["avif" if features.check("avif") else "", "heif" if find_spec("pillow_heif") else ""]  # here, beside others


def check(root: Path, files: Sequence[File]) -> dict[str, File]:
    """Return every file by its path, with its digest or its problem. Reads no file whose result is cached."""
    place = os.fsencode(f"{_MEMORY}\n{os.path.realpath(root)}")
    memory = cache_folder() / "scans" / f"{hashlib.sha256(place).hexdigest()[:24]}.json"
    known = _remembered(memory)
    checked = {file.path: known.get((file.path, file.size, file.mtime_ns, file.ctime_ns), file) for file in files}
    fresh = [file for file in checked.values() if not file.problem and not file.digest]
    if fresh:
        checked |= {file.path: file for file in check_all(root, fresh)}
        rows = {file.path: [*file.as_row(), _READS] for file in checked.values() if file.lasting}
        try:
            write_text(memory, json.dumps(rows))
        except (StorageError, OSError) as error:  # the next scan is slower, nothing worse
            log.debug("Cannot cache the scan of %s: %s", root, error)
    return checked


def _remembered(memory: Path) -> dict[tuple[str, int, int, int], File]:
    try:
        rows = json.loads(memory.read_bytes())
        return {
            (path, size, mtime, ctime): File(path, size, mtime, ctime, str(problem), str(digest), lasting=True)
            for path, (size, mtime, ctime, problem, digest, *reads) in rows.items()
            if reads == [_READS] or not problem  # what could not be read then may be readable now
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # no cache, or a damaged one
        return {}


def check_all(root: Path, files: Sequence[File]) -> Iterator[File]:
    # Threads, not processes: Pillow and hashlib release the interpreter's lock, and the caller's script needs no
    # `if __name__ == "__main__"`. Warnings are silenced here as well, because `probe` does so for the whole process,
    # and a thread that ends may restore them for the others.
    with warnings.catch_warnings(), ThreadPoolExecutor(available_cpus()) as pool:
        warnings.simplefilter("ignore")
        results = pool.map(lambda file: _check_one(root, file), files)
        if len(files) < _WORTH_A_BAR:
            yield from results
            return
        from rich.console import Console
        from rich.progress import track

        log.info("Checking %s photos in %s", f"{len(files):,}", root)  # only once: results are cached
        console = Console(stderr=True)
        yield from track(
            results, "Checking photos", len(files), transient=True, console=console, disable=not console.is_terminal
        )


def _check_one(root: Path, file: File) -> File:
    try:
        content = read_picture(root / file.path)
        probe(content)
    except DataError as error:
        return replace(file, problem=str(error), lasting=True)
    except OSError as error:  # a disk or permission error, which can go away without a change of the file's dates
        return replace(file, problem=error.strerror or str(error))
    return replace(file, digest=hashlib.blake2b(content, digest_size=16).hexdigest(), lasting=True)
