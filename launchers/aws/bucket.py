"""Check a bucket, and clean up what runs left in it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from dogbreed import commands
from launchers.aws.actions import Where
from launchers.aws.errors import code_of, errors, network_errors, rehearsal_of
from launchers.aws.layout import Layout
from launchers.aws.s3 import MISSING, head, objects
from launchers.base import CleanupReport, Cloud
from launchers.spec import SPEC_FILE
from launchers.status import Failures


def bucket_findings(cloud: Cloud, bucket: str, account: str) -> list[str]:
    """Return the problems of the bucket: missing, in another account, in another region, or public.

    A missing bucket is created if the cloud is a rehearsal. account: the id of its owner.
    """
    from botocore.exceptions import ClientError

    client = cloud.client("s3")
    try:
        with network_errors(f"checking the bucket {bucket}"):
            found = client.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
    except ClientError as error:
        code = code_of(error)
        region = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        if code in MISSING and cloud.makes_buckets:
            with errors(f"creating the bucket {bucket}"):
                client.create_bucket(Bucket=bucket)
            return []
        if code in MISSING:
            create = commands.shell("aws", "s3", "mb", f"s3://{bucket}", "--region", str(cloud.region))
            return [f"The bucket {bucket} does not exist.\nTry: {create}"]
        if code in ("301", "PermanentRedirect") or (code == "400" and region):
            return [_elsewhere(bucket, str(region), cloud)]
        if code in ("403", "AccessDenied"):
            arn = Where(cloud.region or "").bucket(bucket)
            state_dir = rehearsal_of(error)
            where = [] if state_dir is None else ["--state-dir", state_dir]
            grant = commands.launchers("iam", "--apply", "--bucket", bucket, *where)
            ways = ["launcher.bucket=<one of yours>", grant]
            return [
                f"The bucket {bucket} is in another account, or s3:ListBucket on {arn} is not permitted to you.\n"
                + commands.one_per_line(ways)
            ]
        with errors(f"checking the bucket {bucket}"):
            raise
    region = found.get("BucketRegion") or found["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    findings = []
    if region and region != cloud.region:
        findings.append(_elsewhere(bucket, region, cloud))
    if _is_public(client, bucket):
        all_blocked = "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true"
        block = ("put-public-access-block", "--bucket", bucket, "--public-access-block-configuration", all_blocked)
        ways = ["a private one", commands.shell("aws", "s3api", *block)]
        findings.append(f"The bucket {bucket} is publicly readable.\n{commands.one_per_line(ways)}")
    return findings


def cleanup(
    cloud: Cloud, layout: Layout, has_job: Callable[[str], bool], older_than: timedelta | None, apply: bool
) -> CleanupReport:
    """Find, and with `apply` remove, settings of runs without a job, and unfinished multipart uploads.

    The parts of such uploads are billed. has_job: by run id. older_than: defaults to a day if None, because the
    files of a run that is being submitted look the same.
    """
    before = datetime.now(UTC) - (timedelta(days=1) if older_than is None else older_than)
    client, failures, gone = cloud.client("s3"), Failures(), list[str]()
    lone: dict[str, str] = {}
    uploads: dict[str, dict[str, Any]] = {}
    with failures.noted():
        lone = {layout.uri(key): key for key in _lone_specs(cloud, layout, has_job, before, failures)}
    with failures.noted():
        uploads = {
            f"{layout.uri(item['Key'])} (unfinished upload {item['UploadId']})": item
            for item in _unfinished_uploads(cloud, layout)
            if item["Initiated"] < before
        }
    found = (*lone, *uploads)
    if not apply:
        return CleanupReport(found, errors=tuple(failures.errors))
    for uri, key in lone.items():
        with failures.noted(), errors(f"deleting {uri}"):
            client.delete_object(Bucket=layout.bucket, Key=key)
            gone += [uri] if head(cloud, layout.bucket, key) is None else []
    for name, item in uploads.items():
        with failures.noted(), errors(f"deleting {name}"):
            client.abort_multipart_upload(Bucket=layout.bucket, Key=item["Key"], UploadId=item["UploadId"])
    if uploads:
        with failures.noted():
            left = {item["UploadId"] for item in _unfinished_uploads(cloud, layout)}
            gone += [name for name, item in uploads.items() if item["UploadId"] not in left]
    return CleanupReport(found, tuple(gone), tuple(failures.errors))


def _lone_specs(
    cloud: Cloud, layout: Layout, has_job: Callable[[str], bool], before: datetime, failures: Failures
) -> list[str]:
    """List the keys of settings that are the only file of their run and were uploaded before `before`."""
    runs: dict[str, list[tuple[str, datetime]]] = {}
    for name, written in objects(cloud, layout.uri(layout.runs)):
        run_id, _, rest = name.partition("/")
        runs.setdefault(run_id, []).append((rest, written))
    lone = []
    for run_id, files in sorted(runs.items()):
        if [name for name, _ in files] == [SPEC_FILE] and files[0][1] < before:
            with failures.noted():
                lone += [] if has_job(run_id) else [layout.spec(run_id)]
    return lone


def _unfinished_uploads(cloud: Cloud, layout: Layout) -> list[dict[str, Any]]:
    with errors(f"looking for unfinished uploads in {layout.bucket}"):
        found = cloud.client("s3").list_multipart_uploads(Bucket=layout.bucket, Prefix=f"{layout.prefix}/")
    return list(found.get("Uploads", []))


def _is_public(client: Any, bucket: str) -> bool:
    """Return whether the bucket's policy or ACL makes it public; one that may not be read counts as private."""
    from botocore.exceptions import ClientError

    try:
        with network_errors(f"checking public access to {bucket}"):
            status = client.get_bucket_policy_status(Bucket=bucket)
        if status["PolicyStatus"]["IsPublic"]:
            return True
    except ClientError as error:
        if code_of(error) not in ("NoSuchBucketPolicy", "AccessDenied"):
            with errors(f"checking public access to {bucket}"):
                raise
    try:
        with network_errors(f"checking public access to {bucket}"):
            grants = client.get_bucket_acl(Bucket=bucket)["Grants"]
    except ClientError as error:
        if code_of(error) != "AccessDenied":
            with errors(f"checking public access to {bucket}"):
                raise
        return False
    return any(str(grant["Grantee"].get("URI", "")).endswith(("AllUsers", "AuthenticatedUsers")) for grant in grants)


def _elsewhere(bucket: str, region: str, cloud: Cloud) -> str:
    where = f"The bucket {bucket} is in {region}, but the job runs in {cloud.region}."
    return f"{where}\nTry: aws.region={region}, or another bucket"
