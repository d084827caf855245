"""Read from a bucket what a run has saved while it trained, whichever launcher's machine saved it.

A machine of SageMaker saves files under their own names. One of EC2 saves contents, and a pointer that lists them
(launchers/remote/sync.py): if there is a pointer, it counts.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dogbreed.run_folder import is_passing, temporary_path
from launchers.aws import s3
from launchers.aws.errors import errors
from launchers.aws.layout import RunLocation
from launchers.aws.s3 import AT_ONCE, split_uri
from launchers.base import Cloud
from launchers.remote.sync import CONTENTS, POINTER, Pointer, is_safe
from launchers.runs.progress import Progress, progress
from launchers.spec import RunOutput, SearchOutput
from launchers.status import LaunchError


def pointer(cloud: Cloud, uri: str) -> Pointer | None:
    """Return what the pointer of a run lists; None if its files have their own names. uri: of its checkpoints."""
    place = f"{RunLocation.of_checkpoints(uri).uri}/{POINTER}"
    content = s3.read(cloud, place)
    if content is None:
        return None
    try:
        found = Pointer.from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchError(f"{place} is damaged: {error}") from error
    return None if found.plain else found


def download(cloud: Cloud, uri: str, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> int:
    """Download all saved files of a run that are `wanted`, with their dates, and return how many that is.

    uri: of its checkpoints. wanted: by name below the run's folder. Each file is there whole or not at all.
    """
    found = pointer(cloud, uri)
    if found is None:
        return s3.download(cloud, uri, folder, wanted)
    bucket, contents = _contents(uri)
    client = cloud.client("s3")
    names = [name for name in found.files if wanted(name) and is_safe(name) and not is_passing(name)]

    def one(name: str) -> None:
        saved, path = found.files[name], folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        client.download_file(bucket, contents + saved.sha256, str(temporary))
        os.utime(temporary, (saved.written, saved.written))
        temporary.replace(path)

    with errors(f"downloading {uri}"), ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, names))
    return len(names)


def give_own_names(cloud: Cloud, uri: str, encryption: Mapping[str, str]) -> None:
    """Copy what a pointer lists to the files' own names, and remove the pointer, for a machine that reads those."""
    found = pointer(cloud, uri)
    if found is None:
        return
    (bucket, contents), (_, place) = _contents(uri), split_uri(uri)
    client = cloud.client("s3")

    def copy(name: str) -> None:
        source = {"Bucket": bucket, "Key": contents + found.files[name].sha256}
        client.copy_object(Bucket=bucket, Key=f"{place}/{name}", CopySource=source, **encryption)

    with errors(f"copying checkpoints to {uri}"), ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(copy, filter(is_safe, found.files)))
    remove_pointer(cloud, uri)


def remove_pointer(cloud: Cloud, uri: str) -> None:
    """Let what is under the files' own names count. uri: of a run's checkpoints."""
    bucket, key = split_uri(f"{RunLocation.of_checkpoints(uri).uri}/{POINTER}")
    with errors(f"removing s3://{bucket}/{key}"):
        cloud.client("s3").delete_object(Bucket=bucket, Key=key)


def progress_there(cloud: Cloud, uri: str, output: RunOutput | SearchOutput) -> Progress | None:
    """Return the progress of the run that saves its files at `uri`; None if it has saved nothing.

    Downloads a checkpoint only if there is no file beside it that tells.
    """
    found = pointer(cloud, uri)
    bucket, prefix = split_uri(uri)

    def key_of(name: str) -> str | None:
        if found is not None:
            saved = found.files.get(name)
            return None if saved is None else _contents(uri)[1] + saved.sha256
        with errors(f"checking {uri}"):
            return f"{prefix}/{name}" if s3.head(cloud, bucket, f"{prefix}/{name}") is not None else None

    with tempfile.TemporaryDirectory() as place:

        def path_of(name: str) -> Path | None:
            key = key_of(name)
            if key is None:
                return None
            path = Path(place) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with errors(f"downloading {uri}/{name}"):
                cloud.client("s3").download_file(bucket, key, str(path))
            return path

        return progress(output, path_of, lambda name: key_of(name) is not None)


def _contents(uri: str) -> tuple[str, str]:
    """Return the bucket and the prefix of contents. uri: of a run's checkpoints."""
    return split_uri(f"{RunLocation.of_checkpoints(uri).uri}/{CONTENTS}")
