"""Deployments without a cloud, for tests of commands: `registry.LAUNCHERS["toydeploy"]` is ToyDeployments here.

What is deployed is a folder of files, one for each name, whose text is the phase.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

from launchers.base import Capabilities, CleanupReport, Cloud
from launchers.spec import Deployed
from launchers.status import Cause, Handle, LaunchError, LogLine, Phase, RunResult, Status


@dataclass(frozen=True)
class ToyDeployments:
    scheme: ClassVar[str] = "toydeploy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=False,
        multi_node=False,
        follow_logs=True,
        exact_cost=False,
        graceful_cancel=True,
        remote=True,
        sends_code=False,
        whole_search=False,
        deploys=True,
    )
    answers: ClassVar[bool] = True
    poll_s: ClassVar[float] = 0.02

    place: str

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        return cls(cloud.scope)

    def status(self, handle: Handle) -> Status:
        file = Path(self.place, handle.run_id)
        if not file.is_file():
            return Status(Phase.LOST, Cause.UNKNOWN, f"There is no deployment {handle.run_id}.")
        return Status(Phase(file.read_text()), detail="revision 1", started_at="2020-01-01T10:00:00+00:00")

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        for file in sorted(Path(self.place).iterdir()):
            if file.is_file() and name in file.name:
                handle = Handle(self.scheme, self.place, file.name)
                yield handle, self.status(handle)

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        yield LogLine(1, 0, "Listening")

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        if self.status(handle).phase is Phase.LOST:
            return self.status(handle)
        Path(self.place, handle.run_id).unlink()
        return Status(Phase.CANCELLED, Cause.BY_USER, "Removed: endpoint.")

    def invoke(self, handle: Handle, picture: bytes) -> dict[str, Any]:
        best = {"breed": "Beagle", "probability": 0.75, "label": "016.Beagle", "index": 15}
        return {"predictions": [best], "unlike_training_photos": None, "probabilities": [0.75], "model": {"id": "a"}}

    def rollback(self, handle: Handle) -> Status:
        return self.status(handle)

    def deployed(self, name: str) -> Deployed | None:
        return Deployed("1", {"machines": "2 x ml.m5.large"}, expires_at="2026-11-24T10:00:00+00:00")

    def result(self, handle: Handle) -> RunResult:
        raise LaunchError(f"The deployment {handle} is not in service: {self.status(handle)}")

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        return CleanupReport(())

    def name_of(self, handle: Handle) -> Sequence[str]:
        return [str(handle)]

    def folder(self, handle: Handle) -> Path | None:
        return None
