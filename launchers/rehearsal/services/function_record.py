"""A Lambda function as it is kept: its versions, aliases, URLs, permissions and limits, as Lambda describes them."""

import json
import re
import shutil
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from dogbreed.run_folder import write_json
from launchers.rehearsal.access import HERE
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.service import Answer, Refused

LATEST = "$LATEST"
_writing = threading.Lock()  # threads of several requests save at the same time
_FILE = "function.json"
_CONFIGURED = (  # what a version has of the request
    "Runtime", "Role", "Handler", "Description", "Timeout", "MemorySize", "Environment", "Architectures",
    "EphemeralStorage", "LoggingConfig",
)  # fmt: skip


@dataclass
class Version:
    """Code and configuration: `$LATEST`, which changes, or a published version.

    digest: of the package, hexadecimal, which names its folder. size: of the package, in bytes. ready, updated: when it
    becomes active, and when its latest change is complete, on the cloud's clock. denied: actions that a fault takes
    from its role.
    """

    number: str
    config: dict[str, Any]
    digest: str
    sha256: str
    size: int
    modified: float
    ready: float
    updated: float
    denied: list[str] = field(default_factory=list)
    revision: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def memory_mb(self) -> int:
        return int(self.config.get("MemorySize", 128))

    @property
    def timeout_s(self) -> int:
        return int(self.config.get("Timeout", 3))

    @property
    def disk_mb(self) -> int:
        return int(self.config.get("EphemeralStorage", {}).get("Size", 512))

    @property
    def architecture(self) -> str:
        return str(self.config.get("Architectures", ["x86_64"])[0])

    @property
    def json_logs(self) -> bool:
        return bool(self.config.get("LoggingConfig", {}).get("LogFormat") == "JSON")

    def configure(self, asked: Mapping[str, Any]) -> None:
        self.config |= {key: asked[key] for key in _CONFIGURED if key in asked}


@dataclass
class Alias:
    """version: where its requests go, but for those shares that go to further versions."""

    version: str
    weights: dict[str, float] = field(default_factory=dict)
    description: str = ""
    revision: str = field(default_factory=lambda: str(uuid.uuid4()))

    def versions(self) -> list[str]:
        return [self.version, *self.weights]


@dataclass
class Url:
    """A function URL. port: of loopback, the same one after a restart where that is free."""

    id: str
    auth: str
    created: float
    mode: str = "BUFFERED"
    cors: dict[str, Any] | None = None
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@dataclass
class FunctionRecord:
    """A function. folder: its own. policies, urls, provisioned: by qualifier, which is empty for the function itself.

    reserved: concurrent executions that are its own, and all that it may have; None for those that nobody has reserved.
    """

    folder: Path
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)
    policies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    urls: dict[str, Url] = field(default_factory=dict)
    provisioned: dict[str, int] = field(default_factory=dict)
    reserved: int | None = None
    published: int = 0

    @property
    def latest(self) -> Version:
        return self.versions[LATEST]

    def arn(self, qualifier: str = "") -> str:
        return HERE.arn("lambda", f"function:{self.name}" + (f":{qualifier}" if qualifier else ""))

    def log_group(self, version: Version) -> str:
        return str(version.config.get("LoggingConfig", {}).get("LogGroup") or f"/aws/lambda/{self.name}")

    def version(self, qualifier: str) -> Version:
        """Return a version by its number, or by an alias, of which it is the main one. Raises Refused."""
        number = self.aliases[qualifier].version if qualifier in self.aliases else qualifier or LATEST
        if number not in self.versions:
            raise missing(self.arn(qualifier))
        return self.versions[number]

    def alias(self, name: str) -> Alias:
        if name not in self.aliases:
            raise missing(self.arn(name), "Cannot find alias arn: ")
        return self.aliases[name]

    def save(self) -> None:
        with _writing:
            kept = asdict(self)
            del kept["folder"]
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / _FILE, kept)

    def delete(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @classmethod
    def load_all(cls, folder: Path) -> Iterable[Self]:
        for file in sorted(folder.glob(f"*/{_FILE}")):
            kept = json.loads(file.read_bytes())
            for key, kind in (("versions", Version), ("aliases", Alias), ("urls", Url)):
                kept[key] = {name: kind(**each) for name, each in kept[key].items()}
            yield cls(file.parent, **kept)

    # --- as Lambda describes it ---

    def describe(self, version: Version, clock: Clock) -> Answer:
        config = version.config
        active, complete = clock.now() >= version.ready, clock.now() >= version.updated
        pending = {"StateReason": "The function is being created.", "StateReasonCode": "Creating"}
        logging = {"LogFormat": "Text", **config.get("LoggingConfig", {}), "LogGroup": self.log_group(version)}
        return {
            "FunctionName": self.name,
            "FunctionArn": self.arn("" if version.number == LATEST else version.number),
            "Description": "",
            "PackageType": "Zip",
            "TracingConfig": {"Mode": "PassThrough"},
            "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
            **config,
            "Timeout": version.timeout_s,
            "MemorySize": version.memory_mb,
            "Architectures": [version.architecture],
            "EphemeralStorage": {"Size": version.disk_mb},
            "LoggingConfig": logging,
            "CodeSize": version.size,
            "CodeSha256": version.sha256,
            "LastModified": stamp(version.modified),
            "Version": version.number,
            "RevisionId": version.revision,
            "State": "Active" if active else "Pending",
            **({} if active else pending),
            "LastUpdateStatus": "Successful" if complete or not active else "InProgress",
        }

    def describe_alias(self, name: str) -> Answer:
        alias = self.alias(name)
        return {
            "AliasArn": self.arn(name),
            "Name": name,
            "FunctionVersion": alias.version,
            "Description": alias.description,
            "RevisionId": alias.revision,
            **({"RoutingConfig": {"AdditionalVersionWeights": alias.weights}} if alias.weights else {}),
        }

    def describe_url(self, qualifier: str) -> Answer:
        if qualifier not in self.urls:
            raise Refused("ResourceNotFoundException", "The resource you requested does not exist.", 404, Type="User")
        url = self.urls[qualifier]
        return {
            "FunctionUrl": url.address,
            "FunctionArn": self.arn(qualifier),
            "AuthType": url.auth,
            "CreationTime": stamp(url.created),
            "LastModifiedTime": stamp(url.created),
            "InvokeMode": url.mode,
            **({"Cors": url.cors} if url.cors else {}),
        }


_NAME = re.compile(
    r"(?:(?:arn:aws:lambda:[a-z0-9-]+:)?(?:\d{12}:)?function:)?(?P<name>[\w-]+)(?::(?P<qualifier>\$LATEST|[\w-]+))?"
)


def name_and_qualifier(asked: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of a call's function and its qualifier, which is a parameter or part of the name; else empty."""
    found = _NAME.fullmatch(asked["FunctionName"])
    if found is None:
        raise wrong(f"{asked['FunctionName']} is not the name of a function.")
    within, given = found["qualifier"] or "", asked.get("Qualifier") or ""
    if within and given and within != given:
        raise wrong("The derived qualifier from the function name does not match the specified qualifier.")
    return found["name"], given or within


def missing(arn: str, words: str = "Function not found: ") -> Refused:
    return Refused("ResourceNotFoundException", f"{words}{arn}", 404, Type="User")


def wrong(text: str) -> Refused:
    return Refused("InvalidParameterValueException", text, 400, Type="User")


def conflict(text: str) -> Refused:
    return Refused("ResourceConflictException", text, 409, Type="User")


def stamp(moment: float) -> str:
    """Return a time as Lambda writes it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"
