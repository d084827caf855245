"""A cloud for each scenario: a copy of one that is set up, whose process may be killed and comes back."""

import io
import json
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launchers import prepare
from launchers.cli.verbs import main as launchers_command
from launchers.payload.code import BUNDLE_FILE
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import BUCKET, SERVER_FILE
from tests.support.launcher_contract import until
from tests.support.processes import alive
from tests.support.project import ROOT
from tests.support.serving import tiny_model

_STAND_IN = ROOT / "tests" / "support" / "stand_in_training.py"
MODEL = "model.tar.gz"  # in the state's folder: what deployments serve
_IDLE_S = 120.0  # of a process that a test could not stop


@dataclass
class OwnCloud:
    """A cloud of one scenario. state: its folder."""

    state: Path
    deaths: list[float] = field(default_factory=list)  # of its process, in seconds since 1970
    _admin: Rehearsal | None = None

    @property
    def admin(self) -> Rehearsal:
        """The account as its administrator sees it, through the process that runs now."""
        if self._admin is None:
            self._admin = Rehearsal(state_dir=str(self.state), reclaims=0, clock_rate=10, idle_s=_IDLE_S)
        return self._admin

    @property
    def notes(self) -> Path:
        return self.state / "notes"

    def noted(self, run_id: str) -> list[dict[str, Any]]:
        file = self.notes / f"{run_id}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def start(self) -> None:
        process.start(self.state, _IDLE_S)

    def kill(self) -> None:
        """Kill its process, and start another with its state."""
        pid = json.loads((self.state / SERVER_FILE).read_bytes())["pid"]
        os.kill(pid, signal.SIGKILL)
        self.deaths.append(time.time())
        until(lambda: not alive(pid))  # `start` would take a process that is dying for one that runs
        self._admin = None
        self.start()


@contextmanager
def set_up(place: Path, *settings: str) -> Iterator[Path]:
    """Yield the state of a cloud that has the roles that launchers print, and code that trains nothing.

    It does not run: scenarios copy it. settings: what its roles are for; all that launchers need, and the image of
    deployments besides, which takes a while, if there are none.
    """
    state = place / "state"
    packages = state / "ec2" / "packages"
    packages.mkdir(parents=True)
    (packages / "torch.py").write_text("")  # that does not take long to import
    of = [word for text in settings for word in ("--for", text)]
    try:
        assert launchers_command(["iam", "--apply", "--state-dir", str(state), *of]) == 0
        _send_stand_in(state, place / "run")
        if not settings:
            _build_image(state, place / "run")
    finally:
        process.stop(state)
    yield state


def _send_stand_in(state: Path, home: Path) -> None:
    """Put code with another train.py where launchers would put the project's, which they then do not send."""
    where = ["aws=rehearsal", "aws.role=dogbreed-training", f"aws.state_dir={state}", f"hydra.run.dir={home}"]
    launcher, plan = prepare(["experiment=quickstart", "launcher=sagemaker_gpu", *where])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in _code():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    layout: Any = launcher.layout  # type: ignore[attr-defined]
    s3 = Rehearsal(state_dir=str(state), reclaims=0).client("s3")
    s3.put_object(Bucket=BUCKET, Key=f"{layout.code(plan.spec)}{BUNDLE_FILE}", Body=buffer.getvalue())


def _build_image(state: Path, home: Path) -> None:
    """Deploy a model, which builds the image, and take it down."""
    model = tiny_model(state / MODEL)
    where = ["aws=rehearsal", "aws.clock_rate=10", f"aws.state_dir={state}", f"hydra.run.dir={home}"]
    launcher, plan = prepare(["launcher=deploy", "name=first", f"checkpoint={model}", *where])
    launcher.cancel(launcher.submit(plan))


def _code() -> Iterator[tuple[str, bytes]]:
    yield "train.py", _STAND_IN.read_bytes()
    yield "pyproject.toml", b"[project]\ndependencies = []\n"
    for path in sorted((ROOT / "launchers" / "remote").glob("*.py")):
        yield f"launchers/remote/{path.name}", path.read_bytes()


@contextmanager
def copy_of(state: Path, place: Path) -> Iterator[OwnCloud]:
    """Yield a cloud of its own, which runs. state: of the one that is set up."""
    shutil.copytree(state, place, symlinks=True)
    (place / SERVER_FILE).unlink(missing_ok=True)
    cloud = OwnCloud(place)
    try:
        cloud.start()
        yield cloud
    finally:
        process.stop(place)
