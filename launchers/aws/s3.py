"""Read, write, list and download objects in S3."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from dogbreed.run_folder import is_passing, temporary_path
from launchers.aws.errors import code_of, errors, network_errors
from launchers.base import Cloud

AT_ONCE = 8  # transfers
MISSING = ("404", "NoSuchKey", "NotFound", "NoSuchBucket")  # codes of S3 for what does not exist


def head(cloud: Cloud, bucket: str, key: str) -> dict[str, Any] | None:
    """Return an object's metadata, or None if it does not exist."""
    from botocore.exceptions import ClientError

    try:
        found: dict[str, Any] = cloud.client("s3").head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if code_of(error) in MISSING:
            return None
        raise
    return found


def read(cloud: Cloud, uri: str) -> bytes | None:
    """Return an object's content, or None if it does not exist."""
    from botocore.exceptions import ClientError

    bucket, key = split_uri(uri)
    with errors(f"reading {uri}"):
        try:
            return bytes(cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as error:
            if code_of(error) in MISSING:
                return None
            raise


def write_json(cloud: Cloud, uri: str, value: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Write an object in place of an earlier one. options: of the upload, as `encryption` returns them."""
    bucket, key = split_uri(uri)
    body = (json.dumps(value, indent=2) + "\n").encode()
    cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=body, **options)


def objects(cloud: Cloud, uri: str) -> Iterator[tuple[str, datetime]]:
    """Yield name and time of writing of each object under `uri`, which is a folder. Names are relative to it."""
    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    with errors(f"listing {uri}"):
        pages = cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"][len(prefix) :], item["LastModified"]


def missing(cloud: Cloud, uri: str) -> str:
    """Return why there is nothing under `uri`, which is a folder; an empty string if there is something.

    What these credentials may not list counts as something: the job's role may be allowed to.
    """
    from botocore.exceptions import ClientError

    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    try:
        with network_errors(f"looking into {uri}"):
            found = cloud.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix.lstrip("/"), MaxKeys=1)
    except ClientError as error:
        return f"The bucket {bucket} does not exist." if code_of(error) in MISSING else ""
    return "" if found["KeyCount"] else f"There are no files under {uri}."


def download(cloud: Cloud, uri: str, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> int:
    """Download everything under `uri` that is `wanted`, with its dates, and return how many files that is.

    wanted: by name below `uri`. Each file is there whole or not at all. Files that are
    `is_passing` are left out.
    """
    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    found = [
        (name, at)
        for name, at in objects(cloud, uri)
        if wanted(name) and not is_passing(name) and ".." not in name.split("/")
    ]
    client = cloud.client("s3")

    def one(item: tuple[str, datetime]) -> None:
        name, written = item
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        client.download_file(bucket, prefix + name, str(temporary))
        os.utime(temporary, (written.timestamp(), written.timestamp()))
        temporary.replace(path)

    with errors(f"downloading {uri}"), ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, found))
    return len(found)


def encryption(kms_key: str | None) -> dict[str, str]:
    """Return the arguments of an upload that encrypt the object with that key; none without a key."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}


def split_uri(uri: str) -> tuple[str, str]:
    """Split an S3 URI: s3://bucket/a/b -> bucket, a/b."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
