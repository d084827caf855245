"""`python -m dogbreed.report RUN_FOLDER`: write the report of a run folder again, without training or testing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dogbreed.errors import DogBreedError
from dogbreed.report import write
from dogbreed.report.reading import photos_root
from dogbreed.run_folder import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and return the exit status: 0, or 1 after an error, which is printed to stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.report",
        description="Write the report of a run folder again, without training or testing.",
    )
    parser.add_argument("run_folder", type=Path, help="the folder that holds metrics.json and predictions.csv")
    parser.add_argument(
        "--photos", type=Path, help="where the photos are (default: data.root of the run's config.yaml)"
    )
    options = parser.parse_args(arguments)
    folder = RunFolder(options.run_folder.expanduser())
    try:
        photos = options.photos.expanduser() if options.photos else photos_root(folder)
        print(write(folder, photos))
    except DogBreedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
