"""The services that an EC2 machine uses: its metadata service, and S3 and Auto Scaling with its own credentials.

Uses the standard library and boto3, which is imported when it is needed.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

_METADATA = "http://169.254.169.254"
_TOKEN_S = 21600
_TRIES, _AGAIN_S = 5, 1.0  # of a request that nobody answers: what a machine is must not depend on a single one


class Metadata:
    """The instance metadata service, by IMDSv2. endpoint: its URL."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = (endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _METADATA).rstrip("/")
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self._token, self._token_until = "", 0.0

    def launched(self) -> datetime | None:
        """Return when EC2 launched the machine, by its own clock; None if it does not say. Raises OSError."""
        try:
            return datetime.fromisoformat(
                json.loads(self.get("instance-identity/document", "dynamic") or "")["pendingTime"]
            )
        except (ValueError, KeyError, TypeError):
            return None

    def get(self, path: str, below: str = "meta-data") -> str | None:
        """Return what is at /latest/BELOW/PATH; None if there is nothing. Raises OSError."""
        for _ in range(2):
            if time.monotonic() > self._token_until:
                self._token = self._new_token()
                self._token_until = time.monotonic() + _TOKEN_S / 2
            try:
                headers = {"X-aws-ec2-metadata-token": self._token}
                return self._read(urllib.request.Request(f"{self._endpoint}/latest/{below}/{path}", headers=headers))
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401:  # the token is no longer valid
                    raise
                self._token_until = 0.0
        return None

    def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_S)}
        return self._read(urllib.request.Request(f"{self._endpoint}/latest/api/token", method="PUT", headers=headers))

    def _read(self, request: urllib.request.Request) -> str:
        left = _TRIES
        while True:
            left -= 1
            try:
                with self._open(request, timeout=5) as answer:
                    return str(answer.read().decode())
            except urllib.error.HTTPError:
                raise
            except OSError:
                if not left:
                    raise
            time.sleep(_AGAIN_S)


class Aws:
    """The services that the machine uses, with the credentials of its instance profile."""

    def __init__(self, bucket: str) -> None:
        import boto3
        from botocore.config import Config

        config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 6})
        self.bucket, self.s3 = bucket, boto3.client("s3", config=config)
        self.groups, self.metadata = boto3.client("autoscaling", config=config), Metadata()

    def read(self, key: str) -> dict[str, Any] | None:
        """Return a JSON object; None if it does not exist."""
        try:
            found: dict[str, Any] = json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except self.s3.exceptions.NoSuchKey:
            return None
        return found

    def write(self, key: str, value: Mapping[str, Any], encryption: Mapping[str, str], **condition: str) -> datetime:
        """Write a JSON object, and return the time that S3 says it is."""
        content = (json.dumps(value, indent=2) + "\n").encode()
        answer = self.s3.put_object(Bucket=self.bucket, Key=key, Body=content, **encryption, **condition)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def names(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"][len(prefix) :] for page in pages for item in page.get("Contents", [])]

    def download(self, prefix: str, folder: Path, bucket: str | None = None) -> int:
        """Download everything below a prefix into a folder, and return how many objects that is."""
        bucket = bucket or self.bucket
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        names = [item["Key"][len(prefix) :] for page in pages for item in page.get("Contents", [])]
        names = [name for name in names if name and not name.endswith("/") and ".." not in name.split("/")]

        def bring(name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(bucket, prefix + name, str(folder / name))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(bring, names))
        return len(names)
