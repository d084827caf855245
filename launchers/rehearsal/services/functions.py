"""AWS Lambda: functions that really run, in the interface that AWS documents.

The operations on versions, aliases, URLs, permissions and concurrency are in function_settings.py.
"""

import base64
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launchers.aws.access import Decision
from launchers.aws.actions import LAMBDA, Need
from launchers.rehearsal.access import allowed, check_trust
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.machine import remove_left_over
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.principals import caller_named
from launchers.rehearsal.service import Answer, Call, Handler, Refused
from launchers.rehearsal.service_models import service_model
from launchers.rehearsal.services.function_environment import Around
from launchers.rehearsal.services.function_metrics import FunctionMeter
from launchers.rehearsal.services.function_package import (
    LARGEST_UPLOAD,
    RUNTIMES,
    Packages,
    check_here,
    sha256_of,
)
from launchers.rehearsal.services.function_pool import Invoker
from launchers.rehearsal.services.function_record import (
    LATEST,
    FunctionRecord,
    Version,
    conflict,
    missing,
    name_and_qualifier,
    wrong,
)
from launchers.rehearsal.services.function_settings import FunctionSettings
from launchers.rehearsal.services.function_url import UrlServer
from launchers.rehearsal.services.kept_logs import KeptLogs
from launchers.rehearsal.services.training_record import now

_TICK_S = 0.2
_PENDING_S = 2.0  # until a new function or a change is complete, on the cloud's clock
_MOST_VARIABLES = 4096  # bytes of environment variables
_RESERVED = (
    "_HANDLER", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR", "AWS_LAMBDA_INITIALIZATION_TYPE",
)  # fmt: skip
_NOT_HERE = (  # members of a request that the rehearsal cannot honour
    "VpcConfig", "Layers", "FileSystemConfigs", "ImageConfig", "CapacityProviderConfig", "DurableConfig",
    "AcceleratorConfig", "TenancyConfig",
)  # fmt: skip


class Functions:
    """All functions. folder: contains a folder for each of them."""

    def __init__(self, folder: Path, store: ObjectStore, logs: KeptLogs, clock: Clock) -> None:
        self.folder, self.store, self.logs, self.clock = folder, store, logs, clock
        self.meter = FunctionMeter(clock)
        self.packages = Packages(folder.with_name("function-packages"))
        self.records: dict[str, FunctionRecord] = {}
        self.invoker = Invoker(self.records, clock, self.meter)
        self.lock = threading.RLock()
        self._urls: dict[tuple[str, str], UrlServer] = {}
        self._ended = threading.Event()
        self._server: Server | None = None
        settings = FunctionSettings(self)
        handlers: dict[str, Handler] = {
            "CreateFunction": self.create,
            "UpdateFunctionCode": self.update_code,
            "UpdateFunctionConfiguration": self.update_configuration,
            "DeleteFunction": self.delete,
            "GetFunction": self.get,
            "GetFunctionConfiguration": self.get_configuration,
            "ListFunctions": self.list,
            "Invoke": self.invoke,
            **settings.operations,
        }
        names = service_model("lambda").operation_names
        self.operations: Mapping[tuple[str, str], Handler] = {
            ("lambda", name): handlers.get(name, _refuse) for name in names
        }

    @property
    def active(self) -> bool:
        """A function URL is served until it is deleted, as on AWS."""
        return any(record.urls for record in list(self.records.values())) or any(self.invoker.concurrency.busy.values())

    def begin(self, server: Server) -> None:
        self._server = server
        self.invoker.around = Around(self.packages, self.logs, server)
        for record in FunctionRecord.load_all(self.folder):
            for machine in (record.folder / "environments").glob("*"):
                remove_left_over(machine)
            self.records[record.name] = record
            for version in record.versions.values():
                version.ready = version.updated = 0.0
            for qualifier in record.urls:
                self.serve(record, qualifier)
        threading.Thread(target=self._run, daemon=True, name="functions").start()

    def end(self) -> None:
        self._ended.set()
        for server in list(self._urls.values()):
            server.close()
        self.invoker.end()

    def record(self, name: str) -> FunctionRecord:
        """Raises Refused if there is no such function."""
        if name not in self.records:
            raise missing(FunctionRecord(self.folder / name, name).arn())
        return self.records[name]

    def of(self, call: Call) -> tuple[FunctionRecord, str]:
        """Return the function that a call names, and the qualifier. Raises Refused."""
        name, qualifier = name_and_qualifier(call.parameters)
        if call.faults.concurrency is not None:
            self.invoker.concurrency.limit = call.faults.concurrency
        return self.record(name), qualifier

    # --- functions ---

    def create(self, call: Call) -> Answer:
        asked = call.parameters
        name, _ = name_and_qualifier(asked)
        _check_request(asked, needed=("Runtime", "Handler", "Role"))
        if len(name) > 64:
            raise wrong("The function name must have at most 64 characters.")
        with self.lock:
            if name in self.records:
                raise conflict(f"Function already exist: {name}")
            content = self._content(asked["Code"])
            digest = self._unpacked(content)
            ready = self.clock.now() + _PENDING_S
            version = Version(LATEST, {}, digest, sha256_of(content), len(content), now(), ready, ready)
            version.configure(asked)
            version.denied = list(call.faults.denied_to_role)
            record = FunctionRecord(self.folder / name, name, dict(asked.get("Tags") or {}), {LATEST: version})
            self.records[name] = record
            if asked.get("Publish"):
                version = self.publish(record, "")
            record.save()
        return record.describe(version, self.clock)

    def update_code(self, call: Call) -> Answer:
        asked = call.parameters
        with self.lock:
            record, _ = self.of(call)
            version = self._changeable(record, asked)
            content = self._content(asked)
            digest = self._unpacked(content)
            if asked.get("DryRun"):
                return record.describe(version, self.clock)
            changed = Version(**{**vars(version), "digest": digest, "sha256": sha256_of(content), "size": len(content)})
            changed.config = dict(version.config)
            if "Architectures" in asked:
                changed.config["Architectures"] = asked["Architectures"]
            version = self._changed(record, changed, call)
            if asked.get("Publish"):
                version = self.publish(record, "")
                record.save()
            self._forget_packages()
        return record.describe(version, self.clock)

    def update_configuration(self, call: Call) -> Answer:
        asked = call.parameters
        _check_request(asked)
        with self.lock:
            record, _ = self.of(call)
            changed = Version(**vars(self._changeable(record, asked)))
            changed.config = dict(changed.config)
            changed.configure(asked)
            return record.describe(self._changed(record, changed, call), self.clock)

    def delete(self, call: Call) -> Answer:
        """Delete a function with all that belongs to it, or one version. Its log group stays, as on AWS."""
        with self.lock:
            record, qualifier = self.of(call)
            if qualifier:
                if qualifier == LATEST or qualifier in record.aliases:
                    raise wrong("$LATEST version cannot be deleted without deleting the function.")
                record.version(qualifier)
                if using := [name for name, alias in record.aliases.items() if qualifier in alias.versions()]:
                    raise conflict(f"Unable to delete version because the following aliases reference it: [{using[0]}]")
                del record.versions[qualifier]
                record.save()
            else:
                del self.records[record.name]
                for of in list(record.urls):
                    self.stop_serving(record, of)
                self.invoker.forget(record.name)
                record.delete()
            self._forget_packages()
        return {"StatusCode": 204}

    def get(self, call: Call) -> Answer:
        """Describe a function; with its tags only for a caller who may list them, as on AWS."""
        record, qualifier = self.of(call)
        version = record.version(qualifier)
        reserved = {} if record.reserved is None else {"ReservedConcurrentExecutions": record.reserved}
        return {
            "Configuration": record.describe(version, self.clock),
            "Code": {"RepositoryType": "S3", "Location": f"https://awslambda.invalid/{version.digest}"},
            **({"Tags": record.tags} if record.tags and _may_list_tags(call, record) else {}),
            **({"Concurrency": reserved} if reserved else {}),
        }

    def get_configuration(self, call: Call) -> Answer:
        record, qualifier = self.of(call)
        return record.describe(record.version(qualifier), self.clock)

    def list(self, call: Call) -> Answer:
        asked = call.parameters
        found = sorted(self.records.values(), key=lambda record: record.name)
        every = asked.get("FunctionVersion") == "ALL"
        shown = [
            record.describe(version, self.clock)
            for record in found
            for version in (record.versions.values() if every else [record.latest])
        ]
        return paged("Functions", shown, asked)

    def invoke(self, call: Call) -> Answer:
        asked = call.parameters
        record, qualifier = self.of(call)
        kind = asked.get("InvocationType", "RequestResponse")
        if kind == "DryRun":
            return {"StatusCode": 204, "Payload": b""}
        if kind != "RequestResponse":
            raise wrong("The rehearsal cloud has synchronous invocations alone.")
        record.version(qualifier)
        payload = asked.get("Payload") or b"{}"
        outcome = self.invoker.execute(record, qualifier, payload)
        tail = "\n".join(outcome.lines).encode()[-4096:]
        return {
            "StatusCode": 200,
            "ExecutedVersion": outcome.version,
            "Payload": outcome.payload,
            **({"FunctionError": outcome.error} if outcome.error else {}),
            **({"LogResult": base64.b64encode(tail).decode()} if asked.get("LogType") == "Tail" else {}),
        }

    # --- what its settings need as well ---

    def publish(self, record: FunctionRecord, description: str) -> Version:
        """Return a new version; the latest one if nothing has changed since."""
        latest = record.latest
        before = record.versions.get(str(record.published))
        if before is not None and _same(before, latest):
            return before
        record.published += 1
        made = Version(**{**vars(latest), "number": str(record.published), "revision": str(uuid.uuid4())})
        made.config = {**latest.config, **({"Description": description} if description else {})}
        made.ready = max(latest.ready, self.clock.now() + _PENDING_S / 2)
        record.versions[made.number] = made
        return made

    def serve(self, record: FunctionRecord, qualifier: str) -> None:
        assert self._server is not None
        server = UrlServer(record, qualifier, self._server.key, self.invoker.execute)
        self._urls[record.name, qualifier] = server
        record.save()

    def stop_serving(self, record: FunctionRecord, qualifier: str) -> None:
        if server := self._urls.pop((record.name, qualifier), None):
            threading.Thread(target=server.close, daemon=True).start()
        record.urls.pop(qualifier, None)

    def check_idle(self, record: FunctionRecord) -> None:
        """Raise Refused while a change of the function is in progress."""
        if self.clock.now() < record.latest.updated:
            what = f"An update is in progress for resource: {record.arn()}"
            raise conflict(f"The operation cannot be performed at this time. {what}")

    def _changeable(self, record: FunctionRecord, asked: Mapping[str, Any]) -> Version:
        self.check_idle(record)
        if asked.get("RevisionId") not in (None, record.latest.revision):
            text = "The RevisionId provided does not match the latest RevisionId."
            raise Refused("PreconditionFailedException", text, 412, Type="User")
        return record.latest

    def _changed(self, record: FunctionRecord, version: Version, call: Call) -> Version:
        version.revision, version.modified = str(uuid.uuid4()), now()
        version.updated = self.clock.now() + _PENDING_S
        version.denied = list(call.faults.denied_to_role)
        record.versions[LATEST] = version
        record.save()
        return version

    def _content(self, code: Mapping[str, Any]) -> bytes:
        if "ImageUri" in code:
            raise wrong("The rehearsal cloud runs functions from .zip files alone.")
        if "ZipFile" in code:
            given = code["ZipFile"]
            if len(given) > LARGEST_UPLOAD:
                text = f"Request must be smaller than {LARGEST_UPLOAD} bytes for the CreateFunction operation"
                raise Refused("RequestTooLargeException", text, 413, Type="User")
            return base64.b64decode(given)
        if "S3Bucket" not in code or "S3Key" not in code:
            raise wrong("Please provide a source for function code.")
        found = self.store.get(code["S3Bucket"], code["S3Key"])
        if found is None:
            what = "S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist."
            raise wrong(f"Error occurred while GetObject. {what}")
        return found

    def _unpacked(self, content: bytes) -> str:
        digest = self.packages.unpack(content)
        check_here(self.packages.of(digest))
        self.packages.runtime()
        return digest

    def _forget_packages(self) -> None:
        self.packages.keep({version.digest for record in self.records.values() for version in record.versions.values()})

    def _run(self) -> None:
        """Keep the environments that are provisioned, and end those that are not needed any more."""
        while not self._ended.is_set():
            for record in list(self.records.values()):
                try:
                    with self.lock:
                        if self.records.get(record.name) is record:
                            self.invoker.pool(record).tend(provisioned(record))
                except Exception:  # one odd function must not stop all others
                    traceback.print_exc()
            time.sleep(_TICK_S)


def provisioned(record: FunctionRecord) -> dict[str, int]:
    """Return how many environments are provisioned for each version, by way of aliases or directly."""
    found: Counter[str] = Counter()
    for qualifier, count in list(record.provisioned.items()):
        alias = record.aliases.get(qualifier)
        found[alias.version if alias else qualifier] += count
    return dict(found)


def _may_list_tags(call: Call, record: FunctionRecord) -> bool:
    caller = caller_named(call.caller, call.faults.denied)
    return allowed(caller, Need("lambda:ListTags", record.arn())) is Decision.ALLOWED


def paged(key: str, shown: "list[Answer]", asked: Mapping[str, Any]) -> Answer:
    """Return one page of a list."""
    first, most = int(asked.get("Marker") or 0), min(asked.get("MaxItems") or 50, 50)
    more = {"NextMarker": str(first + most)} if len(shown) > first + most else {}
    return {key: shown[first : first + most], **more}


def _same(one: Version, other: Version) -> bool:
    def about(version: Version) -> Any:
        return version.digest, {**version.config, "Description": ""}

    return bool(about(one) == about(other))


def _check_request(asked: Mapping[str, Any], needed: tuple[str, ...] = ()) -> None:
    """Raise Refused for what Lambda, or the rehearsal, cannot make a function of."""
    for problem in _problems(asked, needed):
        raise wrong(problem)
    if "Role" in asked:
        try:
            check_trust(asked["Role"], {"Service": [LAMBDA]}, {"aws:SourceAccount": [ACCOUNT]})
        except Refused:
            raise wrong("The role defined for the function cannot be assumed by Lambda.") from None


def _problems(asked: Mapping[str, Any], needed: tuple[str, ...]) -> Iterator[str]:
    for name in needed:
        if name not in asked:
            yield f"{name} is mandatory for functions created with deployment packages (.zip)."
    for name in _NOT_HERE:
        if asked.get(name) not in (None, [], {}):
            yield f"The rehearsal cloud has no {name}."
    runtime = asked.get("Runtime", RUNTIMES[-1])
    if not runtime.startswith("python"):
        yield f"The rehearsal cloud runs Python functions alone, got {runtime}."
    elif runtime not in RUNTIMES:
        of = "is no longer supported for creating or updating AWS Lambda functions."
        yield f"The runtime parameter of {runtime} {of}"
    if asked.get("Timeout", 3) > 900:
        yield "Value at 'timeout' failed to satisfy constraint: Member must have value less than or equal to 900"
    if asked.get("MemorySize", 128) > 10_240:
        yield "Value at 'memorySize' failed to satisfy constraint: Member must have value less than or equal to 10240"
    variables = (asked.get("Environment") or {}).get("Variables", {})
    if reserved := [name for name in variables if name in _RESERVED]:
        yield (
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided contains reserved keys that are currently not supported for modification. Reserved keys used in "
            f"this request: {', '.join(reserved)}"
        )
    if sum(len(name.encode()) + len(value.encode()) for name, value in variables.items()) > _MOST_VARIABLES:
        yield (
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided exceeded the {_MOST_VARIABLES // 1024}KB limit."
        )


def _refuse(call: Call) -> Answer:
    raise wrong("The rehearsal cloud does not have this operation of Lambda.")
