"""Find files whose writer died before it could rename them to their final names."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from time import time

from dogbreed.run_folder import TEMPORARY


def half_written(folders: Iterable[Path], older_than: timedelta | None) -> list[Path]:
    """List half-written files in run folders whose writer has died. older_than: their least age; None for any."""
    before = None if older_than is None else time() - older_than.total_seconds()
    found = [path for folder in folders for path in sorted(folder.rglob(".*.tmp-*")) if _is_left_over(path)]
    return [path for path in found if before is None or path.lstat().st_mtime < before]


def _is_left_over(path: Path) -> bool:
    import psutil

    name = TEMPORARY.fullmatch(path.name)
    return name is not None and path.is_file() and not psutil.pid_exists(int(name["pid"]))
