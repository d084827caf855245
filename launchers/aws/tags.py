"""Build, write and read the tags of every billable resource."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.spec import RunSpec

RUN_ID = "dogbreed:run-id"
NAME = "dogbreed:name"  # what a person called the run, with name=
OWNER = "dogbreed:owner"
EXPIRES_AT = "dogbreed:expires-at"  # ISO 8601, UTC: for tools that clean up an account by it
PURPOSE = "dogbreed:purpose"
PLAN = "dogbreed:plan"  # a digest of the request: the same plan is the same job
ENDED_EARLY = "dogbreed:ended-early"  # of a job that was stopped because its metrics were sufficient
LIMIT = "dogbreed:limit"  # the setting that shortened a job, such as limits.max_usd=5
SERVED = "dogbreed:served"  # of an endpoint or a function: what has been in service, which `rollback` may bring back
SCALED = "dogbreed:scaled"  # of an endpoint that is rolled back to other instances: to what, and how it scaled before

_MOST_SERVED = 20  # of 10 characters: a tag takes 256
KEPT_DAYS = 30  # of a run, from its submission


def of_run(spec: RunSpec, owner: str) -> dict[str, str]:
    """Return the tags of every resource of a run. They depend on the time in `spec`, not on the clock."""
    named = {NAME: str(spec.config["name"])} if spec.config.get("name") else {}
    return {**_tags(spec, owner, datetime.fromisoformat(spec.created_at) + timedelta(days=KEPT_DAYS)), **named}


def of_deployment(spec: RunSpec, owner: str, expires: datetime | None) -> dict[str, str]:
    """Return the tags of every resource of a deployment. expires: None for one that stays until it is ended."""
    return _tags(spec, owner, expires)


def _tags(spec: RunSpec, owner: str, expires: datetime | None) -> dict[str, str]:
    ends = {} if expires is None else expiry(expires)
    return {RUN_ID: spec.run_id, OWNER: cleaned(owner), **ends, PURPOSE: spec.purpose}


def expiry(at: datetime) -> dict[str, str]:
    return {EXPIRES_AT: f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


def served(tags: Mapping[str, str]) -> list[str]:
    """Return the revisions, or versions, that have served, the latest first. tags: of an endpoint or a function."""
    return tags.get(SERVED, "").split()


def also_served(tags: Mapping[str, str], latest: str) -> dict[str, str]:
    """Return the tag to be added, so that `latest` is among what has served; none if it is already."""
    earlier = served(tags)
    return {} if latest in earlier else {SERVED: " ".join([latest, *earlier][:_MOST_SERVED])}


def cleaned(value: str) -> str:
    """Return `value` as AWS accepts it in a tag: at most 256 of the characters that all its services allow."""
    return re.sub(r"[^\w .:/=+@-]", "-", value)[:256]


def to_aws(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def from_aws(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def read(cloud: Cloud, arn: str) -> dict[str, str]:
    """Read the tags of a SageMaker resource."""
    with errors("reading tags"):
        return from_aws(cloud.client("sagemaker").list_tags(ResourceArn=arn)["Tags"])


def add(cloud: Cloud, arn: str, tags: Mapping[str, str]) -> None:
    """Add tags to a SageMaker resource."""
    with errors("adding tags"):
        cloud.client("sagemaker").add_tags(ResourceArn=arn, Tags=to_aws(tags))


def remove(cloud: Cloud, arn: str, key: str) -> None:
    """Remove a tag of a SageMaker resource, if it has it."""
    with errors("removing a tag"):
        cloud.client("sagemaker").delete_tags(ResourceArn=arn, TagKeys=[key])
