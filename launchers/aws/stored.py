"""What launchers keep in a bucket, with what that costs a month, and what of it has expired."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from launchers.aws.bills import BILLS
from launchers.aws.errors import errors
from launchers.aws.layout import Layout
from launchers.aws.results import read_spec
from launchers.aws.tags import KEPT_DAYS
from launchers.base import Cloud
from launchers.payload.photos import FEATURES
from launchers.remote.ec2 import ATTEMPTS, RESULT
from launchers.spec import RunSpec
from launchers.status import Cause, Failures, LaunchError

USD_PER_GB = 0.023  # a month, of the standard class in us-east-1: https://aws.amazon.com/s3/pricing/

_RECORDS = (BILLS, ATTEMPTS, RESULT, "submissions/")  # what `launchers cost` reads, as launchers/aws/bills.py has it
# folders below the prefix -> what one folder in them is called
_KINDS = {"runs": "run", FEATURES: "features", "data": "photos", "code": "code", "models": "models of"}


@dataclass(frozen=True)
class Stored:
    """The files below a folder of the bucket. key: of the folder, with a slash at its end. latest: of their dates."""

    kind: str
    name: str
    key: str
    size: int
    latest: datetime

    @property
    def usd_per_month(self) -> float:
        return self.size / 1e9 * USD_PER_GB

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def _is_record(file: str) -> bool:
    """Return whether a file tells what a run or a deployment has cost: those stay. file: below its folder."""
    return file.startswith(_RECORDS)


@dataclass(frozen=True)
class Kept:
    """What is kept below a layout's prefix. Every method asks the cloud, and raises LaunchError."""

    cloud: Cloud
    layout: Layout

    def everything(self) -> list[Stored]:
        """List each run, each set of features, photos or code, and each deployment's models."""
        found: dict[str, Stored] = {}
        start = f"{self.layout.prefix}/"
        for item in self._objects(start):
            kind, _, rest = item["Key"].removeprefix(start).partition("/")
            name, _, file = rest.partition("/")
            if kind not in _KINDS or not name or _is_record(file):
                continue
            key = f"{start}{kind}/{name}/"
            before = found.get(key) or Stored(_KINDS[kind], name, key, 0, item["LastModified"])
            size, latest = before.size + int(item["Size"]), max(before.latest, item["LastModified"])
            found[key] = Stored(before.kind, name, key, size, latest)
        return list(found.values())

    def expired(self, active: Iterable[str], days: float = KEPT_DAYS, now: datetime | None = None) -> list[Stored]:
        """Return what is older than `days` and that nothing uses which is in progress.

        active: the ids of runs and the names of deployments in progress; what the runs' specs name is in use, however
        old it is. Raises LaunchError if a spec cannot be read, because that run's code and photos are then unknown.
        """
        before, active = (now or datetime.now(UTC)) - timedelta(days=days), set(active)
        everything = self.everything()
        old = [each for each in everything if each.latest < before and each.name not in active]
        if not old:
            return []
        runs = [each.name for each in everything if each.kind == _KINDS["runs"] and each.name in active]
        used = {key for run_id in runs for key in self._used(read_spec(self.cloud, self.layout.run(run_id)))}
        return [each for each in old if each.key not in used]

    def _used(self, spec: RunSpec) -> Iterator[str]:
        """Yield the folders that a run reads besides its own."""
        if spec.code is not None:
            yield self.layout.code(spec)
        if spec.photos is not None:
            yield self.layout.photos(spec)
        yield self.layout.features(spec)

    def remove(self, wanted: Sequence[Stored], failures: Failures) -> list[Stored]:
        """Delete everything below these folders; return those of which nothing is left.

        failures: gets one error for each folder of which something resists, after everything else was deleted. Where
        AWS cannot be reached, nothing further is tried.
        """
        own = Failures()
        for each in wanted:
            with own.noted():
                self._remove(each)
            if _is_unreachable(own):
                break
        failures.errors += own.errors
        if wanted:
            with failures.noted():
                left = {each.key for each in self.everything()}
                return [each for each in wanted if each.key not in left]
        return []

    def _remove(self, folder: Stored) -> None:
        client, failures = self.cloud.client("s3"), Failures()
        keys = [item["Key"] for item in self._objects(folder.key)]
        files = [key for key in keys if not _is_record(key.removeprefix(folder.key))]
        deleted = 0
        for key in files:
            with failures.noted(), errors(f"deleting {self.layout.uri(key)}"):
                client.delete_object(Bucket=self.layout.bucket, Key=key)
                deleted += 1
            if _is_unreachable(failures):
                break
        if failures.errors:
            left = f"{len(files) - deleted} of {len(files)} files of {folder} are left."
            cause = Cause.CAPACITY if _is_unreachable(failures) else Cause.UNKNOWN
            raise LaunchError(f"{left}\n{failures.errors[-1]}", cause)

    def _objects(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        with errors(f"listing {self.layout.uri(prefix)}"):
            pages = self.cloud.client("s3").get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.layout.bucket, Prefix=prefix):
                yield from page.get("Contents", [])


def _is_unreachable(failures: Failures) -> bool:
    """Return whether AWS cannot be reached, or throttles, by the latest error: the next requests would also fail."""
    return any(isinstance(error, LaunchError) and error.cause is Cause.CAPACITY for error in failures.errors[-1:])
