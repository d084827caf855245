"""One CodeBuild build being run: the source, the buildspec's commands in a private folder, the log, the phases."""

import io
import os
import re
import signal
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from dogbreed.commands import shell
from launchers.aws.actions import Need
from launchers.rehearsal.access import HERE, authorize, may_log
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.docker import IMAGES
from launchers.rehearsal.machine import Machine
from launchers.rehearsal.names import REGION, Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.principals import of_role, role_session
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.build_record import Build
from launchers.rehearsal.services.kept_logs import KeptLogs

_LOGGING = ("CreateLogGroup", "CreateLogStream", "PutLogEvents")  # what CodeBuild's own roles may do
_PHASES = ("install", "pre_build", "build", "post_build")
_COMPLETE = re.compile(r"\[Container\] Phase complete: (\w+) State: (\w+)")
_ENTERING = re.compile(r"\[Container\] Entering phase (\w+)")
_FAILED = re.compile(r"\[Container\] Command did not exit successfully (.*)")
_POLL_S, _STEP_S = 0.05, 0.1
_SOURCE = "/codebuild/output/src"
_ROOT = Path(__file__).resolve().parents[3]  # where this package is imported from


class PhaseError(Exception):
    """Why a phase failed before any command: the code and the message of its context."""

    def __init__(self, phase: str, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.phase, self.code, self.text = phase, code, text


class BuildRun(threading.Thread):
    """Runs a build, and keeps its record up to date."""

    def __init__(
        self, build: Build, store: ObjectStore, images: Path, logs: KeptLogs, server: Server, clock: Clock
    ) -> None:
        super().__init__(daemon=True, name=build.id)
        self.build, self.store, self.images, self.logs = build, store, images, logs
        self.server, self.clock = server, clock
        self.stopped = threading.Event()
        self._abandoned = threading.Event()
        self._role = of_role(build.project["serviceRole"], "AWSCodeBuild", build.denied)
        self._machine = Machine(build.folder / "machine", {_SOURCE: "src", "/codebuild/bin": "bin"})

    def abandon(self) -> None:
        """Kill the build, because the server shuts down: it has failed."""
        self._abandoned.set()

    def run(self) -> None:
        try:
            time.sleep(_STEP_S)
            self._check_log()
            spec = self._source()
            self._run_commands(spec)
        except PhaseError as error:
            self.build.phase(error.phase, "FAILED", error.code, error.text)
            self._say([f"[Container] {error.phase}: {error}"])
            self.build.end("FAILED")
        except Exception as error:
            traceback.print_exc()
            self.build.phase("BUILD", "FAULT", "INTERNAL_ERROR", repr(error))
            self.build.end("FAULT")
        finally:
            self._machine.remove()

    def _check_log(self) -> None:
        self.build.phase("QUEUED", "SUCCEEDED")
        if not may_log(self._role, self.build.log_group, _LOGGING):
            raise PhaseError(
                "PROVISIONING",
                "ACCESS_DENIED",
                f"Service role {self.build.project['serviceRole']} does not allow AWS CodeBuild to create Amazon "
                f"CloudWatch Logs log streams for build {self.build.arn}.",
            )
        self.build.phase("PROVISIONING", "SUCCEEDED")

    def _source(self) -> Mapping[str, Any]:
        """Unpack the source, and return its buildspec. Raises PhaseError."""
        source, place = self.build.project["source"], self._machine.path(_SOURCE)
        place.mkdir(parents=True)
        if source["type"] == "S3":
            bucket, _, key = source["location"].partition("/")
            try:
                authorize(self._role, [Need("s3:GetObject", HERE.bucket(bucket, key))])
            except Refused as refused:
                raise PhaseError("DOWNLOAD_SOURCE", "CLIENT_ERROR", f"AccessDenied: {refused.text}") from None
            content = self.store.get(bucket, key)
            if content is None:
                text = f"NoSuchKey: The specified key does not exist. for primary source and source version {key}"
                raise PhaseError("DOWNLOAD_SOURCE", "CLIENT_ERROR", text)
            try:
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    archive.extractall(place)
            except zipfile.BadZipFile:
                raise PhaseError("DOWNLOAD_SOURCE", "CLIENT_ERROR", f"{key} is not a zip archive") from None
        text = source.get("buildspec") or "buildspec.yml"
        if "\n" not in text:
            if not (place / text).is_file():
                raise PhaseError(
                    "DOWNLOAD_SOURCE", "YAML_FILE_ERROR", f"stat {_SOURCE}/{text}: no such file or directory"
                )
            text = (place / text).read_text()
        try:
            spec = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise PhaseError("DOWNLOAD_SOURCE", "YAML_FILE_ERROR", str(error)) from None
        if not isinstance(spec, dict) or not isinstance(spec.get("phases"), dict):
            raise PhaseError("DOWNLOAD_SOURCE", "YAML_FILE_ERROR", "This build does not have phases in its buildspec")
        self.build.phase("DOWNLOAD_SOURCE", "SUCCEEDED")
        return spec

    def _run_commands(self, spec: Mapping[str, Any]) -> None:
        """Run all phases in one shell, as CodeBuild does, until they end, or the build is stopped or takes too long."""
        self._programs()
        self._machine.start(
            ["/bin/bash", "-c", script(spec["phases"])], self._environment(spec), place=self._machine.path(_SOURCE)
        )
        until = self.clock.now() + 60 * self.build.project.get("timeoutInMinutes", 60)
        status, failure = "", ""
        while True:
            running = self._machine.running
            lines = self._machine.read_lines(last=not running)
            self._say(lines)
            failure = self._follow(lines, failure)
            if not running:
                break
            if self._abandoned.is_set() or self.stopped.is_set() or self.clock.now() > until:
                status = "STOPPED" if self.stopped.is_set() else "FAILED" if self._abandoned.is_set() else "TIMED_OUT"
                self._machine.signal(signal.SIGTERM)
                self._machine.kill()
                self.build.phase(self.build.current, status)
                break
            time.sleep(_POLL_S)
        self.build.end(status or ("FAILED" if self._machine.exit_code else "SUCCEEDED"))

    def _follow(self, lines: list[str], failure: str) -> str:
        """Update the phases from the log. Returns the last command that failed."""
        for line in lines:
            if entering := _ENTERING.fullmatch(line):
                self.build.enter(entering[1])
            elif failed := _FAILED.fullmatch(line):
                failure = f"Error while executing command: {failed[1]}"
            elif complete := _COMPLETE.fullmatch(line):
                code = ("COMMAND_EXECUTION_ERROR", failure) if complete[2] == "FAILED" else ("", "")
                self.build.phase(complete[1], complete[2], *code)
        return failure

    def _say(self, lines: list[str]) -> None:
        if lines and may_log(self._role, self.build.log_group, _LOGGING):
            self.logs.add(self.build.log_group, self.build.log_stream, lines)

    def _programs(self) -> None:
        """Put the rehearsal's `docker` and `aws` where the build finds them first."""
        folder = self._machine.path("/codebuild/bin")
        folder.mkdir(parents=True)
        for name in ("docker", "aws"):
            file = folder / name
            python = f"PYTHONPATH={shell(str(_ROOT))} exec {shell(sys.executable)}"
            file.write_text(f'#!/bin/sh\n{python} -m launchers.rehearsal.docker {name} "$@"\n')
            file.chmod(0o755)

    def _environment(self, spec: Mapping[str, Any]) -> dict[str, str]:
        project, environment = self.build.project, self.build.project["environment"]
        of_spec = {name: str(value) for name, value in spec.get("env", {}).get("variables", {}).items()}
        given = {each["name"]: each["value"] for each in environment.get("environmentVariables", [])}
        path = f"{self._machine.path('/codebuild/bin')}:/usr/local/bin:/usr/bin:/bin"
        return {
            "PATH": path,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.server.url,
            "AWS_CONFIG_FILE": os.devnull,
            "CODEBUILD_BUILD_ID": self.build.id,
            "CODEBUILD_BUILD_ARN": self.build.arn,
            "CODEBUILD_SRC_DIR": str(self._machine.path(_SOURCE)),
            **of_spec,
            **given,
            **role_session(project["serviceRole"], "AWSCodeBuild", self.build.denied),
            **({IMAGES: str(self.images)} if environment.get("privilegedMode") else {}),
        }


def script(phases: Mapping[str, Any]) -> str:
    """Return a shell script that runs the phases' commands.

    A command that fails ends its phase and the build; post_build alone runs after a failed build phase as well.
    """
    lines = ["failed=0; skip=0"]
    for name in _PHASES:
        commands = [str(command).strip() for command in (phases.get(name) or {}).get("commands") or ()]
        title = name.upper()
        if not commands:
            continue
        guard = 'if [ "$skip" = 0 ]; then' if name == "post_build" else 'if [ "$failed" = 0 ]; then'
        lines += [guard, f"echo '[Container] Entering phase {title}'", "here=0"]
        for command in commands:
            shown = shell(f"[Container] Running command {command.splitlines()[0]}")
            first = shell(f"[Container] Command did not exit successfully {command.splitlines()[0]} exit status")
            lines += ['if [ "$here" = 0 ]; then', f"echo {shown}", command, "status=$?"]
            lines += [f'if [ "$status" != 0 ]; then echo {first} "$status"; here=1; failed=1; fi', "fi"]
        if name != "build":
            lines.append('if [ "$here" != 0 ]; then skip=1; fi')
        lines += [
            f"if [ \"$here\" = 0 ]; then echo '[Container] Phase complete: {title} State: SUCCEEDED'",
            f"else echo '[Container] Phase complete: {title} State: FAILED'; fi",
            "fi",
        ]
    return "\n".join([*lines, 'exit "$failed"'])
