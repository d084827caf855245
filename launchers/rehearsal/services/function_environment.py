"""One execution environment of a Lambda function: a process of awslambdaric with the unpacked package, and its limits.

It finds the package and Lambda's runtime, and nothing else that is installed here.
"""

import json
import queue
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from moto.logs.models import logs_backends

from launchers.rehearsal.access import may_log
from launchers.rehearsal.machine import Machine
from launchers.rehearsal.names import ACCOUNT, REGION, Server
from launchers.rehearsal.principals import of_role, role_session
from launchers.rehearsal.services.function_package import Packages, import_problem
from launchers.rehearsal.services.function_record import FunctionRecord, Version
from launchers.rehearsal.services.function_runtime import LARGEST_ANSWER, Event, Posted, RuntimeApi
from launchers.rehearsal.services.kept_logs import KeptLogs

TASK = "/var/task"
_LOOK_S = 0.02
ON_DEMAND, PROVISIONED = "on-demand", "provisioned-concurrency"


@dataclass(frozen=True)
class Around:
    """What all environments have in common."""

    packages: Packages
    logs: KeptLogs
    server: Server


class Died(Exception):  # noqa: N818 (what happened to a function is no error of ours)
    """The environment has ended. kind: as errorType. status: as in the log's report."""

    def __init__(self, kind: str, text: str, status: str = "error") -> None:
        super().__init__(text)
        self.kind, self.text, self.status = kind, text, status

    def body(self, request_id: str) -> bytes:
        return json.dumps(
            {"errorType": self.kind, "errorMessage": f"RequestId: {request_id} Error: {self.text}"}
        ).encode()


@dataclass(frozen=True)
class Outcome:
    """What an invocation has led to. error: empty for an answer, else Unhandled. lines: of the log."""

    payload: bytes
    error: str
    version: str
    request_id: str
    duration_s: float
    lines: tuple[str, ...]


class Environment:
    """folder: of its machine. kind: ON_DEMAND or PROVISIONED. initialized: it has asked for its first event."""

    def __init__(self, around: Around, record: FunctionRecord, version: Version, kind: str) -> None:
        self.around, self.record, self.version, self.kind = around, record, version, kind
        self.busy, self.idle_since = False, 0.0
        self.id = secrets.token_hex(16)
        self.machine = Machine(record.folder / "environments" / self.id, {TASK: "task"})
        self.stream = f"{datetime.now(UTC):%Y/%m/%d}/[{version.number}]{self.id}"
        self.init_s, self.peak_mb = 0.0, 0.0
        self._api: RuntimeApi | None = None
        self._unreported = False  # whether the time of its start is still to be reported, with the first invocation

    @property
    def initialized(self) -> bool:
        return self._api is not None and self._api.ready.is_set() and self.machine.running

    # --- start ---

    def initialize(self, until: float) -> None:
        """Start the function, and wait until it takes events. until: of time.monotonic. Raises Died."""
        began = time.monotonic()
        if self._api is not None:
            self.machine.kill()
            self._api.close()
        self._api = RuntimeApi()
        place = self.around.packages.of(self.version.digest)
        problem = import_problem(place, self.version.config["Runtime"], self.version.architecture)
        if problem:
            module = self.version.config["Handler"].rpartition(".")[0]
            raise Died("Runtime.ImportModuleError", f"Unable to import module '{module}': {problem}")
        task = self.machine.path(TASK)
        if not task.is_symlink():
            task.parent.mkdir(parents=True, exist_ok=True)
            task.symlink_to(place)
        self._log([self._of_platform("initStart", None)])
        self.machine.start(
            ["python", "-P", "-S", "-m", "awslambdaric", self.version.config["Handler"]],
            self._environment(task, self.around.packages.runtime()),
            disk_mb=self.version.disk_mb,
            home=False,
            place=task,
        )
        posted = self._wait(until, ready=True)
        if posted is not None:
            found = json.loads(posted.body)
            raise Died(found.get("errorType") or "Unhandled", found.get("errorMessage") or "")
        self.init_s, self._unreported = time.monotonic() - began, True

    def _environment(self, task: Path, runtime: Path) -> dict[str, str]:
        version, config, api = self.version, self.version.config, self._api
        assert api is not None
        logging = config.get("LoggingConfig", {})
        level = {"AWS_LAMBDA_LOG_LEVEL": logging.get("ApplicationLogLevel", "INFO")} if version.json_logs else {}
        return {
            **config.get("Environment", {}).get("Variables", {}),
            "PYTHONPATH": f"{task}:{runtime}",
            "PYTHONDONTWRITEBYTECODE": "1",  # the package is read-only
            "TZ": ":UTC",
            "LAMBDA_TASK_ROOT": str(task),
            "LAMBDA_RUNTIME_DIR": str(runtime),
            "_HANDLER": config["Handler"],
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{config['Runtime']}",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.around.server.url,
            "AWS_LAMBDA_FUNCTION_NAME": self.record.name,
            "AWS_LAMBDA_FUNCTION_VERSION": version.number,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(version.memory_mb),
            "AWS_LAMBDA_INITIALIZATION_TYPE": self.kind,
            "AWS_LAMBDA_LOG_GROUP_NAME": self.record.log_group(version),
            "AWS_LAMBDA_LOG_STREAM_NAME": self.stream,
            **({"AWS_LAMBDA_LOG_FORMAT": "JSON"} if version.json_logs else {}),
            **level,
            **role_session(config["Role"], self.record.name, version.denied),
        }

    # --- an invocation ---

    def invoke(self, event: Event, until: float, died: Died | None = None) -> Outcome:
        """Hand over an event, and wait for the answer. until: of time.monotonic.

        died: why the function did not start, which then is the answer.
        """
        began, lines = time.monotonic(), [self._of_platform("start", event.request_id)]
        body, error, status = b"", "", "success"
        try:
            if died is not None:
                raise died
            assert self._api is not None
            self._api.send(event)
            posted = self._wait(until)
            assert posted is not None
            body, error = posted.body, "" if posted.kind == "response" else "Unhandled"
            status = "success" if posted.kind == "response" else "error"
            if posted.kind == "too-large":
                text = f"Response payload size exceeded maximum allowed payload size ({LARGEST_ANSWER} bytes)."
                body = json.dumps({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": text}).encode()
        except Died as end:
            body, error, status = end.body(event.request_id), "Unhandled", end.status
            if died is not None and end.kind.startswith("Runtime.Import"):  # as awslambdaric reports it
                body = json.dumps(
                    {"errorType": end.kind, "errorMessage": end.text, "requestId": event.request_id}
                ).encode()
            self.machine.kill()
        duration_s = time.monotonic() - began
        lines += self.machine.read_lines(last=not self.machine.running)
        if status == "timeout":
            seconds = f"{self.version.timeout_s:.2f}"
            lines.append(f"{_now()} {event.request_id} Task timed out after {seconds} seconds")
        lines += self._report(event.request_id, duration_s, status)
        self._log(lines)
        return Outcome(body, error, self.version.number, event.request_id, duration_s, tuple(lines))

    def stop(self) -> None:
        """End the process, and delete the machine."""
        self.machine.kill()
        self._log(self.machine.read_lines(last=True))
        if self._api is not None:
            self._api.close()
        self.machine.remove()

    # --- limits ---

    def _wait(self, until: float, *, ready: bool = False) -> Posted | None:
        """Wait for what the function posts; with `ready`, return None once it asks for an event. Raises Died."""
        assert self._api is not None
        while not (ready and self._api.ready.is_set()):
            with suppress(queue.Empty):
                return self._api.posted.get(timeout=_LOOK_S)
            self._measure()
            if self.peak_mb > self.version.memory_mb:
                self.machine.kill()
                raise Died("Runtime.ExitError", "Runtime exited with error: signal: killed")
            if not self.machine.running:
                with suppress(queue.Empty):  # it has posted that as its last word
                    return self._api.posted.get_nowait()
                code = self.machine.exit_code or 0
                how = f"signal: {-code}" if code < 0 else f"exit status {code}"
                raise Died("Runtime.ExitError", f"Runtime exited with error: {how}")
            if time.monotonic() > until:
                self.machine.kill()
                text = f"Task timed out after {self.version.timeout_s:.2f} seconds"
                raise Died("Sandbox.Timedout", text, "timeout")
        return None

    def _measure(self) -> None:
        with suppress(psutil.Error):
            process = psutil.Process(self.machine.pid or 0)
            used = process.memory_info().rss + sum(each.memory_info().rss for each in process.children(recursive=True))
            self.peak_mb = max(self.peak_mb, used / 2**20)

    # --- its log ---

    def _log(self, lines: list[str]) -> None:
        """Write to CloudWatch as the function's role, as far as that may."""
        group = self.record.log_group(self.version)
        needed = ["CreateLogStream", "PutLogEvents"]
        if group not in logs_backends[ACCOUNT][REGION].groups:
            needed.append("CreateLogGroup")
        role = of_role(self.version.config["Role"], self.record.name, self.version.denied)
        if lines and may_log(role, group, needed):
            self.around.logs.add(group, self.stream, lines)

    def _of_platform(self, kind: str, request_id: str | None) -> str:
        runtime = self.version.config["Runtime"].replace("python", "python:")
        if self.version.json_logs:
            about = {"requestId": request_id, "version": self.version.number} if request_id else {
                "initializationType": self.kind, "phase": "init", "runtimeVersion": f"{runtime}.rehearsal",
            }  # fmt: skip
            return json.dumps({"time": _now(), "type": f"platform.{kind}", "record": about})
        if request_id:
            return f"START RequestId: {request_id} Version: {self.version.number}"
        return f"INIT_START Runtime Version: {runtime}.rehearsal"

    def _report(self, request_id: str, duration_s: float, status: str) -> list[str]:
        """Return the lines at the end of an invocation; a cold start on demand is billed with it."""
        self._measure()
        init_ms = 1e3 * self.init_s if self._unreported else None
        self._unreported = False
        billed = 1e3 * duration_s + (init_ms or 0 if self.kind == ON_DEMAND else 0)
        rounded_up = int(-(-billed // 1))
        if self.version.json_logs:
            metrics = {
                "durationMs": round(1e3 * duration_s, 3),
                "billedDurationMs": rounded_up,
                "memorySizeMB": self.version.memory_mb,
                "maxMemoryUsedMB": round(self.peak_mb),
                **({"initDurationMs": round(init_ms, 3)} if init_ms is not None else {}),
            }
            record = {"requestId": request_id, "metrics": metrics, "status": status}
            return [json.dumps({"time": _now(), "type": "platform.report", "record": record})]
        parts = [
            f"REPORT RequestId: {request_id}",
            f"Duration: {1e3 * duration_s:.2f} ms",
            f"Billed Duration: {rounded_up} ms",
            f"Memory Size: {self.version.memory_mb} MB",
            f"Max Memory Used: {self.peak_mb:.0f} MB",
            *([f"Init Duration: {init_ms:.2f} ms"] if init_ms is not None else []),
            *([f"Status: {status}"] if status != "success" else []),
        ]
        return [f"END RequestId: {request_id}", "\t".join(parts)]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
