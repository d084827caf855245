"""The report of a run: one HTML file with every picture inside, to be read years later on a machine without network.

`python -m dogbreed.report RUN_FOLDER` writes it again from what the run folder holds.
"""

from pathlib import Path

from dogbreed.report.page import render
from dogbreed.report.reading import ReportError, read
from dogbreed.run_folder import RunFolder, write_bytes

__all__ = ["ReportError", "write"]


def write(folder: RunFolder, photos_root: Path) -> Path:
    """Write `folder.report` from the other files of `folder` and the photos below `photos_root`; return its path.

    Needs metrics.json and predictions.csv. What else is missing, photos included, is said in the report instead of
    failing. Raises ReportError where a file cannot be used, StorageError where the report cannot be written; the
    report that was there before then stays as it was.
    """
    page = render(read(folder), photos_root)
    write_bytes(folder.report, page.encode(errors="replace"))  # file names may hold bytes that no encoding knows
    return folder.report
