"""Write the report of a run: one self-contained HTML file, readable years later on a machine without a network.

`python -m dogbreed.report RUN_FOLDER` writes it again from the files in the run folder.
"""

from pathlib import Path

from dogbreed.report.page import render
from dogbreed.report.reading import ReportError, read
from dogbreed.run_folder import RunFolder, write_bytes

__all__ = ["ReportError", "write"]


def write(folder: RunFolder, photos_root: Path) -> Path:
    """Write `folder.report` from the other files of `folder` and the photos below `photos_root`; return its path.

    Needs metrics.json and predictions.csv. The report itself names other missing files, photos included. Raises
    ReportError if a file cannot be used, StorageError if the report cannot be written; a previous report then stays
    unchanged.
    """
    page = render(read(folder), photos_root)
    write_bytes(folder.report, page.encode(errors="replace"))  # file names may hold bytes of no valid encoding
    return folder.report
