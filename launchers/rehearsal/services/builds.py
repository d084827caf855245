"""CodeBuild: projects, and builds that really run the commands of their buildspec, `docker build` among them."""

import json
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dogbreed.run_folder import write_json
from launchers.aws.actions import CODEBUILD
from launchers.rehearsal.access import HERE, check_trust
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.machine import remove_left_over
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Answer, Call, Handler, Refused, wait_for_ends
from launchers.rehearsal.services.build_record import Build
from launchers.rehearsal.services.build_run import BuildRun
from launchers.rehearsal.services.kept_logs import KeptLogs
from launchers.rehearsal.services.training_record import now

_OVERRIDES = {  # StartBuild's parameter -> where it goes in the project
    "buildspecOverride": ("source", "buildspec"),
    "sourceTypeOverride": ("source", "type"),
    "sourceLocationOverride": ("source", "location"),
    "privilegedModeOverride": ("environment", "privilegedMode"),
    "imageOverride": ("environment", "image"),
    "computeTypeOverride": ("environment", "computeType"),
}


class Builds:
    """All projects and builds. folder: contains projects/NAME.json and builds/UUID/. images: where images are kept."""

    def __init__(self, folder: Path, store: ObjectStore, images: Path, logs: KeptLogs, clock: Clock) -> None:
        self.folder, self.store, self.images, self.logs, self.clock = folder, store, images, logs, clock
        self._server: Server | None = None
        self._projects: dict[str, dict[str, Any]] = {}
        self._builds: dict[str, Build] = {}
        self._runs: dict[str, BuildRun] = {}
        self._lock = threading.RLock()
        handlers: dict[str, Handler] = {
            "CreateProject": self.create,
            "UpdateProject": self.update,
            "DeleteProject": self.delete,
            "ListProjects": self.list_projects,
            "BatchGetProjects": self.projects,
            "StartBuild": self.start,
            "StopBuild": self.stop,
            "BatchGetBuilds": self.builds,
            "ListBuilds": self.list_builds,
            "ListBuildsForProject": self.list_builds,
        }
        self.operations = {("codebuild", name): handler for name, handler in handlers.items()}

    @property
    def active(self) -> bool:
        return any(run.is_alive() for run in list(self._runs.values()))

    def begin(self, server: Server) -> None:
        self._server = server
        for file in sorted((self.folder / "projects").glob("*.json")):
            self._projects[file.stem] = json.loads(file.read_bytes())
        for build in Build.load_all(self.folder / "builds"):
            remove_left_over(build.folder / "machine")
            if build.ended is None:
                build.phase(build.current, "FAULT", "INTERNAL_ERROR", "the rehearsal cloud was stopped meanwhile")
                build.end("FAULT")
            self._builds[build.id] = build

    def end(self) -> None:
        for run in list(self._runs.values()):
            run.abandon()
        wait_for_ends(list(self._runs.values()))

    # --- projects ---

    def create(self, call: Call) -> Answer:
        asked, name = dict(call.parameters), call.parameters["name"]
        with self._lock:
            if name in self._projects:
                raise Refused("ResourceAlreadyExistsException", f"Project already exists: {_project_arn(name)}")
            _check(asked)
            defaults = {"timeoutInMinutes": 60, "queuedTimeoutInMinutes": 480, "tags": []}
            return {"project": self._keep({**defaults, **asked, "arn": _project_arn(name), "created": now()})}

    def update(self, call: Call) -> Answer:
        with self._lock:
            changed = {**self._project(call.parameters["name"]), **call.parameters}
            _check(changed)
            return {"project": self._keep(changed)}

    def delete(self, call: Call) -> Answer:
        """Delete a project; CodeBuild has nothing against one that does not exist."""
        with self._lock:
            if self._projects.pop(call.parameters["name"], None) is not None:
                (self.folder / "projects" / f"{call.parameters['name']}.json").unlink()
        return {}

    def list_projects(self, call: Call) -> Answer:
        return {"projects": sorted(self._projects)}

    def projects(self, call: Call) -> Answer:
        names = call.parameters["names"]
        missing = [name for name in names if name not in self._projects]
        return {
            "projects": [self._projects[name] for name in names if name in self._projects],
            "projectsNotFound": missing,
        }

    def _keep(self, project: Mapping[str, Any]) -> dict[str, Any]:
        kept = {**project, "lastModified": now()}
        self._projects[kept["name"]] = kept
        (self.folder / "projects").mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "projects" / f"{kept['name']}.json", kept)
        return kept

    def _project(self, name: str) -> dict[str, Any]:
        if name not in self._projects:
            raise Refused("ResourceNotFoundException", f"Project cannot be found: {_project_arn(name)}")
        return self._projects[name]

    # --- builds ---

    def start(self, call: Call) -> Answer:
        assert self._server is not None
        asked = call.parameters
        with self._lock:
            project = _overridden(self._project(asked["projectName"]), asked)
            _check(project)
            name, number = (
                project["name"],
                1 + sum(each.project["name"] == asked["projectName"] for each in self._all()),
            )
            unique = str(uuid.uuid4())
            denied = list(call.faults.denied_to_role)
            build = Build(self.folder / "builds" / unique, f"{name}:{unique}", number, project, now(), denied)
            build.phase("SUBMITTED", "SUCCEEDED")
            build.enter("QUEUED")
            self._builds[build.id] = build
            self._runs[build.id] = BuildRun(build, self.store, self.images, self.logs, self._server, self.clock)
            begun = json.loads(json.dumps(build.describe()))
            self._runs[build.id].start()
        return {"build": begun}

    def stop(self, call: Call) -> Answer:
        build = self._builds.get(call.parameters["id"])
        if build is None:
            raise Refused("ResourceNotFoundException", f"Build cannot be found: {call.parameters['id']}")
        if build.ended is None:
            self._runs[build.id].stopped.set()
        return {"build": build.describe()}

    def builds(self, call: Call) -> Answer:
        ids = call.parameters["ids"]
        found = [self._builds[each].describe() for each in ids if each in self._builds]
        return {"builds": found, "buildsNotFound": [each for each in ids if each not in self._builds]}

    def list_builds(self, call: Call) -> Answer:
        """Return the ids of all builds, or of one project's, the latest first."""
        name = call.parameters.get("projectName")
        if name is not None:
            self._project(name)
        found = [each for each in self._all() if name in (None, each.project["name"])]
        found.sort(key=lambda each: each.started, reverse=call.parameters.get("sortOrder") != "ASCENDING")
        return {"ids": [each.id for each in found]}

    def _all(self) -> Sequence[Build]:
        return list(self._builds.values())


def _overridden(project: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a project as one build has it."""
    changed = json.loads(json.dumps(project))
    for key, (part, member) in _OVERRIDES.items():
        if key in asked:
            changed[part][member] = asked[key]
    changed["serviceRole"] = asked.get("serviceRoleOverride", changed["serviceRole"])
    environment = changed["environment"]
    given = {each["name"]: each for each in environment.get("environmentVariables", [])}
    given |= {each["name"]: each for each in asked.get("environmentVariablesOverride", [])}
    environment["environmentVariables"] = list(given.values())
    if "timeoutInMinutesOverride" in asked:
        changed["timeoutInMinutes"] = asked["timeoutInMinutesOverride"]
    return dict(changed)


def _check(project: Mapping[str, Any]) -> None:
    """Raise Refused for a project that CodeBuild does not accept, or that the rehearsal has not."""
    source, role = project["source"], project["serviceRole"]
    if source["type"] not in ("S3", "NO_SOURCE"):
        raise _invalid(f"The rehearsal cloud builds sources in S3, got {source['type']}")
    if source["type"] == "S3" and "/" not in source.get("location", ""):
        raise _invalid("Invalid project source: location must be a valid S3 source")
    if source["type"] == "NO_SOURCE" and "\n" not in source.get("buildspec", ""):
        raise _invalid("Invalid project source: buildspec must be inline for source type NO_SOURCE")
    if project["environment"]["type"] != "LINUX_CONTAINER":
        raise _invalid(f"The rehearsal cloud has LINUX_CONTAINER alone, got {project['environment']['type']}")
    arn = HERE.role(role)
    try:
        context = {"aws:SourceAccount": [ACCOUNT], "aws:SourceArn": [_project_arn(project["name"])]}
        check_trust(arn, {"Service": [CODEBUILD]}, context)
    except Refused:
        raise _invalid(f"CodeBuild is not authorized to perform: sts:AssumeRole on service role {arn}") from None


def _project_arn(name: str) -> str:
    return HERE.arn("codebuild", f"project/{name}")


def _invalid(text: str) -> Refused:
    return Refused("InvalidInputException", text)
