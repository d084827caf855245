"""What launchers do with S3: upload what is not there, bring things home, check a bucket, find what was left over."""

import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from launchers import datasets
from launchers.aws import Cloud, code_of, errors, network_errors, split_uri
from launchers.base import LAUNCHED_FILE, SEARCH_FILE, SPEC_FILE, CleanupReport, RunSpec
from launchers.bundle import BUNDLE_FILE, ENTRY_FILE, pack

_AT_ONCE = 8  # transfers
_FEATURE = re.compile(r"[^/]+/(?:recipe\.json|shards/[0-9a-f]{32}\.(?:npy|json))")  # of what a store holds, what lasts
_TEMPORARY = re.compile(r"^\..+\.tmp-\d+$")
_MISSING = ("404", "NoSuchKey", "NotFound", "NoSuchBucket")


def put(cloud: Cloud, parameters: Mapping[str, Any], spec: RunSpec, sent: Mapping[str, Any]) -> None:
    """One object of the plan. All but the settings are known by their key: where they are, nothing is uploaded."""
    from launchers.describe import PROJECT

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
            body = Path(__file__).with_name(ENTRY_FILE).read_bytes()
        else:
            shown = datasets.of_photos(spec.photos, spec.config["data"]) if name == datasets.FEATURES_ABOUT else sent
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
    names = [datasets.shard_name(number) for number in range(len(spec.photos.shards))]
    if datasets.MANIFEST in have and have >= set(names):
        return
    options = {key: value for key, value in parameters.items() if key not in ("Bucket", "Key", "Body")}
    about: dict[str, dict[str, Any]] = {}
    with errors(f"uploading the photos to {uri}"), _Transfer(sum(spec.photos.shards)) as transfer:
        for number, name in enumerate(names):
            if name in have:
                found = head(cloud, bucket, prefix + name) or {}
                about[name] = {"size": found["ContentLength"], "sha256": found["Metadata"]["sha256"]}
                transfer.add(spec.photos.shards[number])
        for name, content in datasets.pack(spec.photos, datasets.digests_folder(), have=have):
            digest = hashlib.sha256(content).hexdigest()
            client.upload_fileobj(
                io.BytesIO(content),
                bucket,
                prefix + name,
                ExtraArgs={**options, "Metadata": {"sha256": digest}},
                Callback=transfer.add,
                Config=TransferConfig(max_concurrency=_AT_ONCE),
            )
            about[name] = {"size": len(content), "sha256": digest}
        shards = [{"name": name, **about[name]} for name in names]
        manifest = {"digest": spec.photos.digest, "files": spec.photos.files, "shards": shards}
        body = (json.dumps(manifest, indent=2) + "\n").encode()
        client.put_object(**{**options, "Bucket": bucket, "Key": prefix + datasets.MANIFEST, "Body": body})


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


def head(cloud: Cloud, bucket: str, key: str) -> dict[str, Any] | None:
    """Null where there is no such object."""
    from botocore.exceptions import ClientError

    try:
        found: dict[str, Any] = cloud.client("s3").head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if code_of(error) in _MISSING:
            return None
        raise
    return found


def read(cloud: Cloud, uri: str) -> bytes | None:
    from botocore.exceptions import ClientError

    bucket, key = split_uri(uri)
    with errors(f"reading {uri}"):
        try:
            return bytes(cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as error:
            if code_of(error) in _MISSING:
                return None
            raise


def objects(cloud: Cloud, uri: str) -> Iterator[tuple[str, datetime]]:
    """(name below the prefix, when it was written) of each object under `uri`, which is a folder."""
    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    with errors(f"listing {uri}"):
        pages = cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"][len(prefix) :], item["LastModified"]


def download(cloud: Cloud, uri: str, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> int:
    """Everything under `uri`, with its dates; each file whole or not at all. Returns how many."""
    import os

    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    found = [
        (name, at)
        for name, at in objects(cloud, uri)
        if wanted(name) and not _is_temporary(name) and ".." not in name.split("/")
    ]
    client = cloud.client("s3")

    def one(item: tuple[str, datetime]) -> None:
        name, written = item
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        client.download_file(bucket, prefix + name, str(temporary))
        os.utime(temporary, (written.timestamp(), written.timestamp()))
        temporary.replace(path)

    with errors(f"downloading {uri}"), ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(one, found))
    return len(found)


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

    with errors(f"copying features to {target}"), ThreadPoolExecutor(_AT_ONCE) as pool:
        for names in (numbers - have, indices - have):
            copied += len(list(pool.map(one, sorted(names))))
    return copied


def _is_index(name: str) -> bool:
    return "/shards/" in name


def _numbers_of(index: str) -> str:
    return index.removesuffix(".json") + ".npy"


def send_checkpoints(cloud: Cloud, spec: RunSpec, uri: str, encryption: Mapping[str, Any]) -> None:
    """Of what goes on elsewhere: what this machine trained last, unless the cloud has what is newer."""
    folder, newest = Path(spec.folder), "checkpoints/last.ckpt" if spec.search is None else "study.db"
    last = folder / newest
    if not last.exists():
        return
    bucket, prefix = split_uri(uri)
    with errors(f"uploading checkpoints to {uri}"):
        there = head(cloud, bucket, f"{prefix}/{newest}")
        if there is not None and last.stat().st_mtime <= there["LastModified"].timestamp() + 1:
            return
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_temporary(path.name)]
        if spec.search is not None:  # other trials have ended, and are not gone on with
            best = _best_trial(folder)
            files = [path for path in files if path == last or best in path.parents]
        client = cloud.client("s3")

        def one(path: Path) -> None:
            if path.name != LAUNCHED_FILE:
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.upload_file(str(path), bucket, key, ExtraArgs=dict(encryption))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, files))


def _best_trial(search: Path) -> Path | None:
    """The folder of a search's best trial so far."""
    try:
        return search / f"{json.loads((search / SEARCH_FILE).read_bytes())['trial']:05d}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def bucket_findings(cloud: Cloud, bucket: str, account: str) -> list[str]:
    """What is wrong with it: missing, somebody else's, in another region, or open to everyone."""
    from botocore.exceptions import ClientError

    client = cloud.client("s3")
    try:
        with network_errors(f"looking at the bucket {bucket}"):
            found = client.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
    except ClientError as error:
        code = code_of(error)
        region = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        if code in _MISSING and cloud.makes_buckets:
            client.create_bucket(Bucket=bucket)
            return []
        if code in _MISSING:
            return [f"There is no bucket {bucket}.\nTry: aws s3 mb s3://{bucket} --region {cloud.region}"]
        if code in ("301", "PermanentRedirect") or (code == "400" and region):
            return [_elsewhere(bucket, str(region), cloud)]
        if code in ("403", "AccessDenied"):
            return [
                f"The bucket {bucket} is in another account, or closed to you.\nTry: launcher.bucket=<one of yours>"
            ]
        with errors(f"looking at the bucket {bucket}"):
            raise
    region = found.get("BucketRegion") or found["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    findings = []
    if region and region != cloud.region:
        findings.append(_elsewhere(bucket, region, cloud))
    if _is_public(client, bucket):
        findings.append(
            f"Everybody can read the bucket {bucket}.\nTry: a private one; or aws s3api put-public-access-block "
            f"--bucket {bucket} --public-access-block-configuration BlockPublicAcls=true,IgnorePublicAcls=true,"
            "BlockPublicPolicy=true,RestrictPublicBuckets=true"
        )
    return findings


def cleanup(
    cloud: Cloud,
    bucket: str,
    prefix: str,
    has_job: Callable[[str], bool],
    older_than: timedelta | None,
    apply: bool,
) -> CleanupReport:
    """Settings without a job, and uploads in parts that broke off (their parts are billed)."""
    # what a run is about to use looks the same for a while
    client, before = cloud.client("s3"), datetime.now(UTC) - (timedelta(days=1) if older_than is None else older_than)
    runs: dict[str, list[tuple[str, datetime]]] = {}
    for name, written in objects(cloud, f"s3://{bucket}/{prefix}/runs"):
        run_id, _, rest = name.partition("/")
        runs.setdefault(run_id, []).append((rest, written))
    lone = [
        f"s3://{bucket}/{prefix}/runs/{run_id}/spec.json"
        for run_id, files in sorted(runs.items())
        if [name for name, _ in files] == ["spec.json"] and files[0][1] < before and not has_job(run_id)
    ]
    with errors(f"looking for unfinished uploads in {bucket}"):
        uploads = {
            f"s3://{bucket}/{item['Key']} (unfinished upload {item['UploadId']})": item
            for item in client.list_multipart_uploads(Bucket=bucket, Prefix=f"{prefix}/").get("Uploads", [])
            if item["Initiated"] < before
        }
    found = (*lone, *uploads)
    if not apply:
        return CleanupReport(found)
    with errors("removing what is left over"):
        for uri in lone:
            client.delete_object(Bucket=bucket, Key=split_uri(uri)[1])
        for item in uploads.values():
            client.abort_multipart_upload(Bucket=bucket, Key=item["Key"], UploadId=item["UploadId"])
        left = {item["UploadId"] for item in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])}
        gone = [uri for uri in lone if head(cloud, bucket, split_uri(uri)[1]) is None]
    gone += [name for name, item in uploads.items() if item["UploadId"] not in left]
    return CleanupReport(found, tuple(gone))


def _is_public(client: Any, bucket: str) -> bool:
    """By its policy or its access list; what may not be looked at counts as private."""
    from botocore.exceptions import ClientError

    try:
        if client.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]:
            return True
    except ClientError as error:
        if code_of(error) not in ("NoSuchBucketPolicy", "AccessDenied"):
            with errors(f"looking at who may read {bucket}"):
                raise
    try:
        grants = client.get_bucket_acl(Bucket=bucket)["Grants"]
    except ClientError as error:
        if code_of(error) != "AccessDenied":
            with errors(f"looking at who may read {bucket}"):
                raise
        return False
    return any(str(grant["Grantee"].get("URI", "")).endswith(("AllUsers", "AuthenticatedUsers")) for grant in grants)


def _elsewhere(bucket: str, region: str, cloud: Cloud) -> str:
    where = f"The bucket {bucket} is in {region}, and the job in {cloud.region}."
    return f"{where}\nTry: aws.region={region}, or another bucket"


def _is_temporary(name: str) -> bool:
    return _TEMPORARY.match(name.rpartition("/")[2]) is not None
