"""Upload files that are missing in the bucket: code, settings, photos, checkpoints; and share features within it."""

import hashlib
import io
import json
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from launchers.aws.errors import errors
from launchers.aws.s3 import AT_ONCE, head, objects, split_uri
from launchers.aws.saved import progress_there, remove_pointer
from launchers.base import Cloud
from launchers.payload import code, photos
from launchers.project import PROJECT
from launchers.runs.collect import files_to_resume_from
from launchers.runs.progress import is_further, progress_here
from launchers.spec import SPEC_FILE, RunSpec

_ENTRY = PROJECT / "launchers" / "remote" / "entry.py"
_FEATURE = re.compile(r"[^/]+/(?:recipe\.json|shards/[0-9a-f]{32}\.(?:npy|json))")  # the lasting files of a store


def upload(cloud: Cloud, parameters: Mapping[str, Any], spec: RunSpec, sent: Mapping[str, Any]) -> None:
    """Upload the content of one PutObject request of a plan.

    All objects but the settings are named by their content, so existing ones are not uploaded again. parameters: of the
    request; a key with a trailing slash represents the photos. sent: the content of the settings.
    """
    name = str(parameters["Key"]).rpartition("/")[2]
    if not name:
        send_photos(cloud, parameters, spec)
        return
    with errors(f"uploading {name} to s3://{parameters['Bucket']}"):
        if name == SPEC_FILE or head(cloud, parameters["Bucket"], parameters["Key"]) is None:
            cloud.client("s3").put_object(**{**parameters, "Body": _body(name, spec, sent)})


def _body(name: str, spec: RunSpec, sent: Mapping[str, Any]) -> bytes:
    """Return the content of an object of a plan. name: the last part of its key."""
    match name:
        case code.BUNDLE_FILE:
            assert spec.code is not None
            return code.pack(PROJECT, spec.code)
        case code.ENTRY_FILE:
            return _ENTRY.read_bytes()
        case code.TOOLKIT_FILE:
            return code.pack_entry(_ENTRY.read_bytes())
        case photos.FEATURES_ABOUT:
            return _as_json(photos.of_photos(spec.photos, spec.config["data"]))
        case _:
            assert name == SPEC_FILE, name
            return _as_json(sent)


def _as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def send_photos(cloud: Cloud, parameters: Mapping[str, Any], spec: RunSpec) -> None:
    """Upload the shards of the data folder that are missing in S3, then the manifest that lists all of them.

    Each shard is whole or absent, so an interrupted upload continues with the next one. parameters: of the PutObject
    that represents all photos.
    """
    from boto3.s3.transfer import TransferConfig

    assert spec.photos is not None
    bucket, prefix = str(parameters["Bucket"]), str(parameters["Key"])
    uri, client = f"s3://{bucket}/{prefix}", cloud.client("s3")
    have = {name for name, _ in objects(cloud, uri)}
    names = [photos.shard_name(number) for number in range(len(spec.photos.shards))]
    if photos.MANIFEST in have and have >= set(names):
        return
    options = {key: value for key, value in parameters.items() if key not in ("Bucket", "Key", "Body")}
    about: dict[str, dict[str, Any]] = {}
    with errors(f"uploading the photos to {uri}"), _Progress(sum(spec.photos.shards)) as progress:
        for number, name in enumerate(names):
            if name in have:
                found = head(cloud, bucket, prefix + name) or {}
                about[name] = {"size": found["ContentLength"], "sha256": found["Metadata"]["sha256"]}
                progress.add(spec.photos.shards[number])
        for name, content in photos.pack(spec.photos, photos.digests_folder(), have=have):
            digest = hashlib.sha256(content).hexdigest()
            client.upload_fileobj(
                io.BytesIO(content),
                bucket,
                prefix + name,
                ExtraArgs={**options, "Metadata": {"sha256": digest}},
                Callback=progress.add,
                Config=TransferConfig(max_concurrency=AT_ONCE),
            )
            about[name] = {"size": len(content), "sha256": digest}
        shards = [{"name": name, **about[name]} for name in names]
        manifest = {"digest": spec.photos.digest, "files": spec.photos.files, "shards": shards}
        client.put_object(**{**options, "Bucket": bucket, "Key": prefix + photos.MANIFEST, "Body": _as_json(manifest)})


class _Progress:
    """Shows the number of bytes sent: a bar on a terminal, elsewhere one line."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "_Progress":
        words = f"Sending {self._size / 1e6:,.0f} MB of photos"
        if sys.stdout.isatty():
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns)
            self._bar.start()
            self._task = self._bar.add_task(words, total=self._size)
        else:
            print(words, flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=count)


def share_features(cloud: Cloud, source: str, target: str, encryption: Mapping[str, Any]) -> int:
    """Copy the features that `source` has and `target` lacks, within S3, and return how many files that is.

    Data files are copied before their index, so that concurrent readers find only complete shards.
    """
    (bucket, prefix), (to, place) = split_uri(f"{source.rstrip('/')}/"), split_uri(f"{target.rstrip('/')}/")
    have = {name for name, _ in objects(cloud, target)}
    found = {name for name, _ in objects(cloud, source) if _FEATURE.fullmatch(name)}
    numbers = {name for name in found if name.endswith(".npy")}
    indices = {name for name in found - numbers if not _is_index(name) or _numbers_of(name) in numbers | have}
    client, copied = cloud.client("s3"), 0

    def copy(name: str) -> None:
        here = {"Bucket": bucket, "Key": prefix + name}
        client.copy_object(Bucket=to, Key=place + name, CopySource=here, **encryption)

    with errors(f"copying features to {target}"), ThreadPoolExecutor(AT_ONCE) as pool:
        for names in (numbers - have, indices - have):
            copied += len(list(pool.map(copy, sorted(names))))
    return copied


def _is_index(name: str) -> bool:
    return "/shards/" in name


def _numbers_of(index: str) -> str:
    return index.removesuffix(".json") + ".npy"


def send_checkpoints(cloud: Cloud, spec: RunSpec, uri: str, encryption: Mapping[str, Any]) -> None:
    """Upload what this machine trained of a run that is resumed elsewhere, unless what the cloud has is as far.

    uri: of the run's checkpoints.
    """
    folder = Path(spec.folder)
    here = progress_here(spec.output, folder)
    if here is None or not is_further(here, progress_there(cloud, uri, spec.output), folder, uri):
        return
    bucket, prefix = split_uri(uri)
    with errors(f"uploading checkpoints to {uri}"):
        client = cloud.client("s3")

        def send(path: Path) -> None:
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.upload_file(str(path), bucket, key, ExtraArgs=dict(encryption))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(send, files_to_resume_from(spec)))
    remove_pointer(cloud, uri)  # what a machine of EC2 has saved is not as far
