"""Names of what a deployment consists of. All of them begin with `dogbreed-`, which its policies rely on."""

import re
from dataclasses import dataclass

PREFIX = "dogbreed-"
VARIANT = "main"  # an update must keep the variant's name
LONGEST = 30  # characters of a deployment's name: schedules have at most 64
_NAME = re.compile(rf"[a-z](?:-?[a-z0-9]){{0,{LONGEST - 1}}}")
RULE = (
    f"it has at most {LONGEST} lower-case letters and digits, begins with a letter, and has single hyphens between them"
)
_REVISION_DIGITS = 10


def is_name(text: str) -> bool:
    """Return whether `text` can name a deployment: lower case, because ARNs are compared with case."""
    return bool(_NAME.fullmatch(text)) and len(text) <= LONGEST


@dataclass(frozen=True)
class Names:
    """Names of the parts of a deployment that stay the same in all its revisions. name: of the deployment."""

    name: str

    @property
    def endpoint(self) -> str:
        return f"{PREFIX}{self.name}"

    @property
    def alarms(self) -> dict[str, str]:
        """Alarms by what they watch."""
        return {kind: f"{self.endpoint}-{kind}" for kind in ("errors", "latency")}

    @property
    def watching(self) -> dict[str, str]:
        """Alarms that only say something, by what they watch."""
        return {kind: f"{self.endpoint}-{kind}" for kind in ("slow", "idle", "throttled")}

    @property
    def steps(self) -> dict[str, str]:
        """Scaling policies in steps, and the alarms that set them off, by direction."""
        return {kind: f"{self.endpoint}-scale-{kind}" for kind in ("out", "in")}

    @property
    def variant(self) -> str:
        """The scalable target: what Application Auto Scaling calls the endpoint's variant."""
        return f"endpoint/{self.endpoint}/variant/{VARIANT}"

    @property
    def schedules(self) -> dict[str, str]:
        """The one-time schedules that end the deployment, by the kind of what they delete."""
        return {kind: f"{self.endpoint}-expiry-{kind}" for kind in ("scaling", "endpoint", "alarms", "logs")}

    @property
    def function_schedules(self) -> dict[str, str]:
        """The same of a deployment that is a function."""
        return {kind: f"{self.endpoint}-expiry-{kind}" for kind in ("function", "function-logs")}

    @property
    def function_log_group(self) -> str:
        return f"/aws/lambda/{self.endpoint}"

    @property
    def log_group(self) -> str:
        return f"/aws/sagemaker/Endpoints/{self.endpoint}"

    def revision(self, revision: str) -> "RevisionNames":
        return RevisionNames(self.name, revision)


@dataclass(frozen=True)
class RevisionNames:
    """Names of the parts that each revision has of its own. revision: hexadecimal digits."""

    name: str
    revision: str

    @property
    def config(self) -> str:
        """Of the endpoint configuration, and of the model."""
        return f"{PREFIX}{self.name}-{self.revision}"

    @property
    def schedules(self) -> dict[str, str]:
        return {kind: f"{self.config}-expiry-{kind}" for kind in ("config", "model")}


def deployment_of(endpoint: str) -> str | None:
    """Return the deployment of an endpoint; None if its name is not one of ours."""
    name = endpoint.removeprefix(PREFIX)
    return name if name != endpoint and is_name(name) else None


def revision_of(config: str, name: str) -> str | None:
    """Return the revision of an endpoint configuration of this deployment; None for any other configuration."""
    found = re.fullmatch(rf"{PREFIX}{re.escape(name)}-([0-9a-f]{{{_REVISION_DIGITS}}})", config)
    return found[1] if found else None


def shortened(digest: str) -> str:
    """Return the revision of a digest."""
    return digest[:_REVISION_DIGITS]
