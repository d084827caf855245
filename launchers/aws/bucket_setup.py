"""Create a bucket for runs, or bring one into shape: private, encrypted, TLS only, old leftovers removed by itself."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from launchers.aws.errors import code_of, errors
from launchers.aws.policy import document, partition_of
from launchers.aws.roles import Change
from launchers.aws.s3 import MISSING
from launchers.base import Cloud

_BROKEN_UPLOAD_DAYS = 1
_RUN_DAYS = 180  # then a run's files move to a cheaper class, from which they are read as before
_ABSENT = (
    "NoSuchPublicAccessBlockConfiguration",
    "NoSuchBucketPolicy",
    "NoSuchLifecycleConfiguration",
    "ServerSideEncryptionConfigurationNotFoundError",
)


def changes(cloud: Cloud, bucket: str, prefix: str) -> Iterator[Change]:
    """Yield what must change so that the bucket is as it should be; nothing, if it is."""
    client = cloud.client("s3")
    exists = _exists(client, bucket)
    if not exists:
        yield Change(f"create the bucket {bucket} in {cloud.region}", lambda: _create(cloud, bucket))
    for text, get, put, wanted in _settings(cloud, bucket, prefix):
        if not exists or _read(client, get, bucket, wanted) != wanted:
            yield Change(f"{text} of {bucket}", _put(client, put, bucket, wanted))


def _settings(cloud: Cloud, bucket: str, prefix: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield what each setting is, the methods that read and write it, and its value as the writing one takes it."""
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    yield (
        "block public access",
        "get_public_access_block",
        "put_public_access_block",
        {"PublicAccessBlockConfiguration": dict.fromkeys(names, True)},
    )
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}
    yield (
        "set the encryption",
        "get_bucket_encryption",
        "put_bucket_encryption",
        {"ServerSideEncryptionConfiguration": {"Rules": [rule]}},
    )
    arn = f"arn:{partition_of(cloud.region)}:s3:::{bucket}"
    policy = document(
        [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ]
    )
    yield "allow TLS only, in the policy", "get_bucket_policy", "put_bucket_policy", {"Policy": policy}
    rules = [
        {
            "ID": "dogbreed-broken-uploads",
            "Filter": {"Prefix": f"{prefix}/"},
            "Status": "Enabled",
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _BROKEN_UPLOAD_DAYS},
        },
        {
            "ID": "dogbreed-old-runs",
            "Filter": {"Prefix": f"{prefix}/runs/"},
            "Status": "Enabled",
            "Transitions": [{"Days": _RUN_DAYS, "StorageClass": "GLACIER_IR"}],
        },
    ]
    yield (
        "set the lifecycle",
        "get_bucket_lifecycle_configuration",
        "put_bucket_lifecycle_configuration",
        {"LifecycleConfiguration": {"Rules": rules}},
    )


def _exists(client: Any, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    with errors(f"checking the bucket {bucket}"):
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) in MISSING:
                return False
            raise
    return True


def _create(cloud: Cloud, bucket: str) -> None:
    # us-east-1 is the one region that is not named
    where = {} if cloud.region == "us-east-1" else {"LocationConstraint": cloud.region}
    cloud.client("s3").create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": where} if where else {}))


def _read(client: Any, method: str, bucket: str, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a setting in the form that the method which writes it takes; None if it is not set."""
    from botocore.exceptions import ClientError

    with errors(f"reading the settings of {bucket}"):
        try:
            found = getattr(client, method)(Bucket=bucket)
        except ClientError as error:
            if code_of(error) in _ABSENT:
                return None
            raise
    (name,) = wanted
    if name == "Policy":
        return {name: json.loads(found[name])}
    if name == "LifecycleConfiguration":
        return {name: {"Rules": sorted(found["Rules"], key=lambda rule: str(rule["ID"]))}}
    return {name: found[name]}


def _put(client: Any, method: str, bucket: str, wanted: Mapping[str, Any]) -> Any:
    values = {name: json.dumps(value) if name == "Policy" else value for name, value in wanted.items()}
    return lambda: getattr(client, method)(Bucket=bucket, **values)
