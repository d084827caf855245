"""The record of an endpoint: what survives a restart of the cloud, and most of what DescribeEndpoint shows."""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from dogbreed.run_folder import write_json
from launchers.rehearsal.access import HERE
from launchers.rehearsal.services.training_record import now

IN_PROGRESS = ("Creating", "Updating", "RollingBack", "SystemUpdating", "Deleting")
_FILE = "endpoint.json"
_FAILURE_MOST = 1024  # characters of a FailureReason


@dataclass
class Variant:
    """A production variant as it was deployed: later changes of its configuration and models do not reach it.

    config: as in the endpoint configuration. models: requests of CreateModel, by the model's name. count, weight: what
    is wanted now.
    """

    config: dict[str, Any]
    models: dict[str, dict[str, Any]]
    count: int
    weight: float

    @classmethod
    def of(cls, config: Mapping[str, Any], models: Mapping[str, dict[str, Any]]) -> Self:
        weight = config.get("InitialVariantWeight", 1.0)
        return cls(dict(config), dict(models), config["InitialInstanceCount"], weight)

    @property
    def name(self) -> str:
        return str(self.config["VariantName"])

    @property
    def kinds(self) -> list[str]:
        """The instance types to try, the preferred one first."""
        pools = sorted(self.config.get("InstancePools", []), key=lambda pool: pool["Priority"])
        return [pool["InstanceType"] for pool in pools] or [self.config["InstanceType"]]

    def model(self, kind: str) -> dict[str, Any]:
        """Return the model that runs on instances of this type."""
        pools = {pool["InstanceType"]: pool for pool in self.config.get("InstancePools", [])}
        return self.models[pools.get(kind, {}).get("ModelNameOverride", self.config["ModelName"])]


@dataclass
class Change:
    """An update that is in progress. deployment: a DeploymentConfig. fleet: whether all instances are replaced."""

    config_name: str
    variants: Sequence[Variant]
    metrics: dict[str, Any]
    deployment: dict[str, Any] | None
    started: float
    fleet: bool = True


@dataclass
class EndpointRecord:
    """An endpoint, kept in a folder of its own. Times are seconds since 1970. metrics: its MetricsConfig."""

    folder: Path
    name: str
    config_name: str
    variants: Sequence[Variant]
    created: float
    metrics: dict[str, Any] = field(default_factory=dict)
    status: str = "Creating"
    modified: float = 0.0
    failure: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    deployment: dict[str, Any] | None = None  # the last one
    change: Change | None = None
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def arn(self) -> str:
        return HERE.arn("sagemaker", f"endpoint/{self.name}")

    @property
    def log_group(self) -> str:
        return f"/aws/sagemaker/Endpoints/{self.name}"

    def to(self, status: str, failure: str | None = None) -> None:
        """Change the status, and save."""
        self.status, self.modified = status, now()
        self.failure = failure[:_FAILURE_MOST] if failure else None
        self.save()

    def save(self) -> None:
        saved = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("folder", "_writing")
        }
        saved |= {"variants": [asdict(each) for each in self.variants], "change": self.change and asdict(self.change)}
        with self._writing:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / _FILE, saved)

    @classmethod
    def load_all(cls, folder: Path) -> Iterable[Self]:
        for file in sorted(folder.glob(f"*/{_FILE}")):
            saved = json.loads(file.read_bytes())
            saved["variants"] = [Variant(**each) for each in saved["variants"]]
            if change := saved["change"]:
                saved["change"] = Change(**{**change, "variants": [Variant(**each) for each in change["variants"]]})
            yield cls(file.parent, **saved)

    def instances(self) -> Sequence[Variant]:
        """Return the variants whose instances count against quotas now."""
        if self.status == "Failed":
            return ()
        if self.change is None:
            return self.variants
        return [*self.variants, *self.change.variants] if self.change.fleet else self.change.variants

    def summary(self) -> dict[str, Any]:
        return {
            "EndpointName": self.name,
            "EndpointArn": self.arn,
            "CreationTime": self.created,
            "LastModifiedTime": self.modified,
            "EndpointStatus": self.status,
        }

    def describe(self) -> dict[str, Any]:
        """Return what DescribeEndpoint shows, without what the instances add to it."""
        more = {
            "EndpointConfigName": self.config_name,
            "FailureReason": self.failure,
            "LastDeploymentConfig": self.deployment,
            "MetricsConfig": self.metrics or None,
        }
        return {**self.summary(), **{key: value for key, value in more.items() if value is not None}}
