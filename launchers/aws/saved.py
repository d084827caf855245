"""Read from a bucket how far a run's saved checkpoints are."""

import tempfile
from pathlib import Path

from launchers.aws import s3
from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.runs.progress import Progress, progress
from launchers.spec import RunOutput, SearchOutput


def progress_there(cloud: Cloud, uri: str, output: RunOutput | SearchOutput) -> Progress | None:
    """Return the progress of the run that saves its files at `uri`; None if it has saved nothing.

    Downloads a checkpoint only if there is no file beside it that tells.
    """
    bucket, prefix = s3.split_uri(uri)

    def exists(name: str) -> bool:
        with errors(f"checking {uri}"):
            return s3.head(cloud, bucket, f"{prefix}/{name}") is not None

    with tempfile.TemporaryDirectory() as place:

        def path_of(name: str) -> Path | None:
            if not exists(name):
                return None
            path = Path(place) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with errors(f"downloading {uri}/{name}"):
                cloud.client("s3").download_file(bucket, f"{prefix}/{name}", str(path))
            return path

        return progress(output, path_of, exists)
