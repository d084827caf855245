"""What the launchers share that run `train.py` on rented machines of AWS, whichever service has the machines."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dogbreed import commands
from launchers.aws import s3, sent, transfer
from launchers.aws.layout import Layout
from launchers.base import Cloud
from launchers.payload.packages import versions
from launchers.plan import Request
from launchers.project import PROJECT
from launchers.spec import RunSpec
from launchers.status import Cause, Handle, LaunchError


class InBucket:
    """Settings of which one is the bucket. A dataclass that inherits this has the fields that are read here."""

    if TYPE_CHECKING:

        @property
        def cloud(self) -> Cloud: ...
        @property
        def bucket(self) -> str | None: ...
        @property
        def prefix(self) -> str: ...
        @property
        def kms_key(self) -> str | None: ...
        @property
        def secrets(self) -> Mapping[str, str] | None: ...

    @property
    def layout(self) -> Layout:
        assert self.bucket is not None, "the checks refuse settings without a bucket"
        return Layout(self.bucket, self.prefix)

    @property
    def encryption(self) -> dict[str, str]:
        """The encryption arguments of each upload."""
        return s3.encryption(self.kms_key)


class OfCloud:
    """What follows from the cloud of a launcher alone."""

    if TYPE_CHECKING:

        @property
        def cloud(self) -> Cloud: ...

    @property
    def answers(self) -> bool:
        return self.cloud.answers

    @property
    def poll_s(self) -> float:
        return self.cloud.poll_s

    def name_of(self, handle: Handle) -> Sequence[str]:
        return [str(handle), *self.cloud.option]

    def folder(self, handle: Handle) -> Path | None:
        return None  # it writes to S3; `result` and `fetch` download

    def _attach_or_cancel(self, handle: Handle) -> str:
        name = self.name_of(handle)
        return commands.one_per_line([commands.launchers("attach", *name), commands.launchers("cancel", *name)])


class OnAws(InBucket, OfCloud):
    """A launcher of runs: what is sent to its bucket before a machine is asked for."""

    if TYPE_CHECKING:

        def __init__(self, cloud: Cloud, *, bucket: str | None = None) -> None: ...

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        return cls(cloud, bucket=bucket or cloud.default_bucket)

    def check_photos(self, spec: RunSpec) -> None:
        """Raise LaunchError if the photos are to come from a folder in S3 in which there is nothing."""
        root = str(spec.config["data"]["root"])
        if root.startswith("s3://") and (problem := s3.missing(self.cloud, root)):
            listed = commands.shell("aws", "s3", "ls", f"{root.rstrip('/').rpartition('/')[0]}/")
            raise LaunchError(f"{problem}\nTry: data.root=<a folder that `{listed}` shows>", Cause.BAD_CONFIG)

    def upload(self, spec: RunSpec, requests: Iterable[Request]) -> None:
        """Send the objects that are missing in the bucket. requests: of `sent.requests`."""
        needed = versions(PROJECT, sent.extras(spec, self.secrets))
        settings = {**sent.settings_file(spec, self.secrets), "versions": needed}
        for put in requests:
            transfer.upload(self.cloud, put.parameters, spec, settings)
