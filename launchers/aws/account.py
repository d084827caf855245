"""Your AWS account: its region, and clients for its services. boto3 is imported when a client is needed."""

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

from launchers.aws.endpoint import refuse_rehearsal
from launchers.aws.errors import errors, import_boto3

_CREATING = Lock()  # boto3's default session creates one client at a time


@dataclass
class Account:
    """Your own account. Credentials and profile are found as the AWS CLI finds them, and never sent along with a run.

    bucket, role: defaults for launchers that do not set their own.
    """

    bills: ClassVar[bool] = True

    region: str | None = None
    bucket: str | None = None
    role: str | None = None
    poll_s: float = 5.0
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def scope(self) -> str:
        return self.region or "nowhere"

    @property
    def answers(self) -> bool:
        return True

    @property
    def default_bucket(self) -> str | None:
        return self.bucket

    def client(self, service: str) -> Any:
        if service not in self._clients:
            boto3 = import_boto3()
            from botocore.config import Config

            with errors(f"connecting to {service}"), _CREATING:
                client = boto3.client(
                    service, region_name=self.region, config=Config(**CLIENT_SETTINGS, user_agent_extra="dogbreed")
                )
            refuse_rehearsal(client.meta.endpoint_url)
            self._clients[service] = client
        return self._clients[service]

    @property
    def place(self) -> dict[str, str]:
        return {}

    @property
    def option(self) -> list[str]:
        return []

    @property
    def overrides(self) -> list[str]:
        return []

    @property
    def makes_buckets(self) -> bool:
        return False

    def findings(self) -> list[str]:
        if self.region is None:
            return ["No AWS region is configured.\nTry: aws.region=eu-west-1, or AWS_REGION, or aws configure"]
        return []

    def describe(self) -> str:
        return f"SageMaker in {self.region}"


CLIENT_SETTINGS: dict[str, Any] = {
    "retries": {"mode": "standard", "total_max_attempts": 8},  # exponential backoff with jitter
    "connect_timeout": 10,
    "read_timeout": 60,
    "max_pool_connections": 80,  # 8 transfers of files at once, of 10 parts each; others wait, with a warning
}


@lru_cache
def configured_region() -> str | None:
    """Return the region that the AWS CLI would use, from the environment or ~/.aws/config; None if neither sets it."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if os.environ.get(name):
            return os.environ[name]
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    parser = configparser.RawConfigParser()
    try:
        parser.read(Path(os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser())
    except (configparser.Error, UnicodeDecodeError):  # a broken file is reported by what needs it
        return None
    section: Mapping[str, str] = next(
        (dict(parser[name]) for name in (f"profile {profile}", profile) if parser.has_section(name)), {}
    )
    return section.get("region")
