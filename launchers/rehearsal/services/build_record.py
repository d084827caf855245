"""The record of a CodeBuild build, as BatchGetBuilds shows it."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from launchers.rehearsal.access import HERE
from launchers.rehearsal.services.kept_record import KeptRecord
from launchers.rehearsal.services.training_record import now


@dataclass
class Build(KeptRecord):
    """A build. project: its project as it was, with what StartBuild changed.

    denied: actions that a fault takes from its role.
    """

    FILE: ClassVar[str] = "build.json"

    id: str  # PROJECT:UUID
    number: int
    project: dict[str, Any]
    started: float
    denied: list[str] = field(default_factory=list)
    status: str = "IN_PROGRESS"
    current: str = "QUEUED"
    ended: float | None = None
    phases: list[dict[str, Any]] = field(default_factory=list)

    @property
    def arn(self) -> str:
        return HERE.arn("codebuild", f"build/{self.id}")

    @property
    def log_group(self) -> str:
        named = self.project.get("logsConfig", {}).get("cloudWatchLogs", {}).get("groupName")
        return str(named or f"/aws/codebuild/{self.project['name']}")

    @property
    def log_stream(self) -> str:
        return self.id.partition(":")[2]

    def enter(self, phase: str) -> None:
        self.current = phase
        self.phases.append({"phaseType": phase, "startTime": now()})
        self.save()

    def phase(self, phase: str, status: str, code: str = "", text: str = "") -> None:
        """Complete a phase. code, text: why it failed."""
        if not self.phases or self.phases[-1]["phaseType"] != phase:
            self.enter(phase)
        moment, last = now(), self.phases[-1]
        last |= {"phaseStatus": status, "endTime": moment, "durationInSeconds": int(moment - last["startTime"])}
        if code:
            last["contexts"] = [{"statusCode": code, "message": text}]
        self.save()

    def end(self, status: str) -> None:
        moment = now()
        self.phases.append({"phaseType": "COMPLETED", "startTime": moment})
        self.status, self.current, self.ended = status, "COMPLETED", moment  # who sees the end, sees all of it
        self.save()

    def describe(self) -> dict[str, Any]:
        keys = ("source", "artifacts", "environment", "serviceRole", "timeoutInMinutes")
        return {
            "id": self.id,
            "arn": self.arn,
            "buildNumber": self.number,
            "projectName": self.project["name"],
            "startTime": self.started,
            **({"endTime": self.ended} if self.ended is not None else {}),
            "currentPhase": self.current,
            "buildStatus": self.status,
            "buildComplete": self.ended is not None,
            "phases": self.phases,
            **{key: self.project[key] for key in keys if key in self.project},
            "logs": {"groupName": self.log_group, "streamName": self.log_stream},
        }
