"""Upload what is not in the bucket yet: code, settings, photos, checkpoints, features."""

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
from launchers.aws.s3 import AT_ONCE, head, is_temporary, objects, split_uri
from launchers.base import SPEC_FILE, Cloud, RunSpec
from launchers.payload import photos
from launchers.payload.code import BUNDLE_FILE, ENTRY_FILE, pack
from launchers.runs.collect import files_to_resume_from

_FEATURE = re.compile(r"[^/]+/(?:recipe\.json|shards/[0-9a-f]{32}\.(?:npy|json))")  # of what a store holds, what lasts


def put(cloud: Cloud, parameters: Mapping[str, Any], spec: RunSpec, sent: Mapping[str, Any]) -> None:
    """One object of the plan. All but the settings are known by their key: where they are, nothing is uploaded."""
    from launchers.project import PROJECT

    assert spec.code is not None
    name = str(parameters["Key"]).rpartition("/")[2]
    if not name:
        send_photos(cloud, parameters, spec)
        return
    with errors(f"uploading {name} to s3://{parameters['Bucket']}"):
        if name != SPEC_FILE and head(cloud, parameters["Bucket"], parameters["Key"]) is not None:
            return
        if name == BUNDLE_FILE:
            body = pack(PROJECT, spec.code)
        elif name == ENTRY_FILE:
            body = (PROJECT / "launchers" / "remote" / "entry.py").read_bytes()
        else:
            shown = photos.of_photos(spec.photos, spec.config["data"]) if name == photos.FEATURES_ABOUT else sent
            body = (json.dumps(shown, indent=2) + "\n").encode()
        cloud.client("s3").put_object(**{**parameters, "Body": body})


def send_photos(cloud: Cloud, parameters: Mapping[str, Any], spec: RunSpec) -> None:
    """The shards of the data folder that are not there yet, then the manifest that says that all of them are.

    Each shard is whole or absent, so an upload that broke off goes on with the next one.
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
    with errors(f"uploading the photos to {uri}"), _Transfer(sum(spec.photos.shards)) as transfer:
        for number, name in enumerate(names):
            if name in have:
                found = head(cloud, bucket, prefix + name) or {}
                about[name] = {"size": found["ContentLength"], "sha256": found["Metadata"]["sha256"]}
                transfer.add(spec.photos.shards[number])
        for name, content in photos.pack(spec.photos, photos.digests_folder(), have=have):
            digest = hashlib.sha256(content).hexdigest()
            client.upload_fileobj(
                io.BytesIO(content),
                bucket,
                prefix + name,
                ExtraArgs={**options, "Metadata": {"sha256": digest}},
                Callback=transfer.add,
                Config=TransferConfig(max_concurrency=AT_ONCE),
            )
            about[name] = {"size": len(content), "sha256": digest}
        shards = [{"name": name, **about[name]} for name in names]
        manifest = {"digest": spec.photos.digest, "files": spec.photos.files, "shards": shards}
        body = (json.dumps(manifest, indent=2) + "\n").encode()
        client.put_object(**{**options, "Bucket": bucket, "Key": prefix + photos.MANIFEST, "Body": body})


class _Transfer:
    """How much of it has been sent: a bar on a terminal, elsewhere one line."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "_Transfer":
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
    """Copy what `source` has of features and `target` has not, within S3. Returns how many files.

    Numbers before what says whose they are: who reads meanwhile finds shards that are whole.
    """
    (bucket, prefix), (to, place) = split_uri(f"{source.rstrip('/')}/"), split_uri(f"{target.rstrip('/')}/")
    have = {name for name, _ in objects(cloud, target)}
    found = {name for name, _ in objects(cloud, source) if _FEATURE.fullmatch(name)}
    numbers = {name for name in found if name.endswith(".npy")}
    indices = {name for name in found - numbers if not _is_index(name) or _numbers_of(name) in numbers | have}
    client, copied = cloud.client("s3"), 0

    def one(name: str) -> None:
        here = {"Bucket": bucket, "Key": prefix + name}
        client.copy_object(Bucket=to, Key=place + name, CopySource=here, **encryption)

    with errors(f"copying features to {target}"), ThreadPoolExecutor(AT_ONCE) as pool:
        for names in (numbers - have, indices - have):
            copied += len(list(pool.map(one, sorted(names))))
    return copied


def _is_index(name: str) -> bool:
    return "/shards/" in name


def _numbers_of(index: str) -> str:
    return index.removesuffix(".json") + ".npy"


def send_checkpoints(cloud: Cloud, spec: RunSpec, uri: str, encryption: Mapping[str, Any]) -> None:
    """Of what goes on elsewhere: what this machine trained last, unless the cloud has what is newer."""
    folder, newest = Path(spec.folder), spec.output.resume_point
    last = folder / newest
    if not last.exists():
        return
    bucket, prefix = split_uri(uri)
    with errors(f"uploading checkpoints to {uri}"):
        there = head(cloud, bucket, f"{prefix}/{newest}")
        if there is not None and last.stat().st_mtime <= there["LastModified"].timestamp() + 1:
            return
        files = [path for path in files_to_resume_from(spec) if not is_temporary(path.name)]
        client = cloud.client("s3")

        def one(path: Path) -> None:
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.upload_file(str(path), bucket, key, ExtraArgs=dict(encryption))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, files))
