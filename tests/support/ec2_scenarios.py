"""Seeded scenarios of runs on EC2: faults of the cloud, clients that are killed, and what must hold in each of them."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from launchers import prepare
from launchers.base import Launcher
from launchers.cli.verbs import main as launchers_command
from launchers.payload.code import BUNDLE_FILE
from launchers.plan import Plan
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import BUCKET
from launchers.rehearsal.services.ec2_catalog import usd
from launchers.rehearsal.services.ec2_instance import Instance
from launchers.status import LaunchError, Phase
from tests.support.fleet import Fleet
from tests.support.project import ROOT
from tests.support.stand_in_training import STEPS

STAND_IN = Path(__file__).with_name("stand_in_training.py")
TYPES = ("m5.large", "m5a.large", "m6i.large")
ZONES = [f"us-east-1{letter}" for letter in "abcdef"]
SAVED_WITHIN_S = 4.0  # from a checkpoint to its place in S3: two intervals of the machine, which is busy here
_QUICK_DEADLINE_H, _DEADLINE_H = 0.1, 1.0  # 36 s and 6 min here, where the cloud's clock runs ten times as fast
_composing = threading.Lock()


@dataclass(frozen=True)
class Scenario:
    """What happens to one run.

    killed_at: the number of the client's call, from 1, at which it is killed while it submits the run; after: whether
    the call is still made. endless: no machine can end the run, so that its deadline must.
    """

    seed: int
    faults: dict[str, Any] = field(default_factory=dict)
    reclaims: int = 0
    killed_at: int | None = None
    after: bool = False
    endless: bool = False
    cancel_after_s: float | None = None
    last: str = "result"

    @classmethod
    def draw(cls, seed: int) -> "Scenario":
        pick = random.Random(seed)

        def moment() -> str:
            late = f"{pick.uniform(0, 4):.2f}s"
            return pick.choice([late, late, f"checkpoint {pick.randint(1, 3)}", f"epoch {pick.randint(1, 3)}", "start"])

        faults: dict[str, Any] = {}
        reclaims = pick.choice([0, 0, 1, 1, 2, 3])
        if reclaims:
            faults["reclaim_at"] = [moment() for _ in range(reclaims)]
            faults["hard"] = pick.random() < 0.5
        if pick.random() < 0.2:
            faults |= {"crash_at": moment(), "crashes": 1}
        if pick.random() < 0.15:
            faults["boot_failures"] = 1
        if pick.random() < 0.2:
            faults["no_capacity"] = pick.randint(1, 2)
        if pick.random() < 0.15:
            faults["no_capacity_in"] = pick.sample(ZONES, pick.randint(1, 4))
        if pick.random() < 0.15:
            faults["rebalance_at"] = moment()
        if pick.random() < 0.1:
            faults["s3_failures"] = pick.randint(1, 3)
        endless = pick.random() < 0.15
        if endless:
            hopeless: list[dict[str, Any]] = [
                {"no_capacity_in": ZONES},
                {"clock_skew_s": 1800},
                {"denied_to_role": ["s3:GetObject"]},
                {"denied_to_role": ["s3:PutObject"]},
                {"denied_to_role": ["autoscaling:TerminateInstanceInAutoScalingGroup"]},
                {"crash_at": "start", "crashes": 1000},
            ]
            faults |= pick.choice(hopeless)
        return cls(
            seed,
            faults,
            reclaims,
            killed_at=pick.randint(1, 34) if pick.random() < 0.35 else None,
            after=pick.random() < 0.5,
            endless=endless,
            cancel_after_s=pick.uniform(0, 8) if pick.random() < 0.25 else None,
            last=pick.choice(["result", "result", "cancel", "cleanup"]),
        )


@dataclass
class Played:
    """A scenario in a cloud. folder: of what belongs to this one; state: of the cloud."""

    scenario: Scenario
    state: Path
    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.notes = self.folder.parent / "notes"
        self.notes.mkdir(exist_ok=True)
        self.launcher, self.plan = self._prepared(self.scenario.faults, self.scenario.reclaims)

    @property
    def run_id(self) -> str:
        return self.plan.spec.run_id

    def play(self) -> None:
        """Let it happen, and check what must hold. Raises AssertionError."""
        scenario = self.scenario
        self._stand_in()
        self._submit()
        client, _ = self._prepared({}, 0, "elsewhere")  # another one, without faults of its own
        handle = self.plan.handle
        if scenario.cancel_after_s is not None:
            time.sleep(scenario.cancel_after_s)
            client.cancel(handle)
        else:
            _wait_for(lambda: client.status(handle).phase is Phase.LOST or client.status(handle).finished)
            _wait_for(lambda: not self._alive())  # without that any client does anything
        phase = client.status(handle).phase
        self._last(client)
        self.check(phase)
        assert self.left() == [], f"left after {scenario.last}: {self.left()}"

    def _last(self, client: Launcher) -> None:
        if self.scenario.last == "cancel":
            client.cancel(self.plan.handle)
        elif self.scenario.last == "cleanup":
            from datetime import timedelta

            client.cleanup(older_than=timedelta(0), apply=True)
        else:
            succeeded = client.status(self.plan.handle).phase is Phase.SUCCEEDED
            try:
                result = client.result(self.plan.handle)
            except LaunchError:
                if succeeded:
                    raise
            else:
                assert result.metrics["val/acc"] == 1.0

    # --- what must hold ---

    def check(self, phase: Phase) -> None:
        """Check all but what is left in the account. phase: in which the run ended."""
        scenario, notes = self.scenario, self.noted()
        assert not self._alive(), "a machine is still billed"
        assert not [each for each in notes if each["event"] == "overlap"], "two machines trained at the same time"
        for earlier, later in pairwise(self._machines()):
            ended = earlier.left if earlier.left is not None else earlier.ended
            assert ended is not None
            assert later.began is None or later.began >= ended, "two machines of one run were up at the same time"
        self._check_bill()
        self._check_progress(notes)
        submitted = scenario.killed_at is None
        if submitted and not scenario.endless and scenario.cancel_after_s is None:
            assert phase is Phase.SUCCEEDED, f"{phase}: {self.launcher.status(self.plan.handle)}"
            assert notes[-1]["step"] == STEPS

    def _check_bill(self) -> None:
        """Check that the run has cost no more than its plan says: until ten minutes after its deadline, on demand."""
        hours = (_QUICK_DEADLINE_H if self.scenario.endless else _DEADLINE_H) + 1 / 6
        bills = [each.bill(0.0) for each in self._machines()]
        assert sum(each["seconds"] for each in bills) <= 3600 * hours, bills
        assert sum(each["usd"] for each in bills) <= hours * max(map(usd, TYPES)), bills

    def _check_progress(self, notes: list[dict[str, Any]]) -> None:
        """Check that each attempt began with the last checkpoint of the one before, or with one a little older.

        A machine that was killed has lost what it saved in its last moments, which are those before its last note.
        """
        starts = [n for n, each in enumerate(notes) if each["event"] == "started"]
        for begin, end in pairwise(starts):
            attempt, resumed = notes[begin:end], notes[end]["step"]
            saved = [each for each in attempt if each["event"] == "saved"]
            machine = self._machine_at(attempt[0]["at"])
            if machine.left is not None and attempt[-1]["event"] in ("asked to end", "ended"):  # it had the time
                wanted = attempt[-1]["step"]
            else:
                old = [each["step"] for each in saved if each["at"] < attempt[-1]["at"] - SAVED_WITHIN_S]
                wanted = max([notes[begin]["step"], *old])
            assert resumed >= wanted, f"resumed at step {resumed}, but {wanted} was saved: {attempt}"

    def _machine_at(self, moment: float) -> Instance:
        """Return the machine that was up at a moment, in real seconds since 1970."""
        return next(each for each in self._machines() if each.launched < moment <= each.changed)

    def left(self) -> list[str]:
        """Return what is still in the account of this run."""
        fleet = Fleet(Rehearsal(state_dir=str(self.state), reclaims=0))
        groups = fleet.groups.describe_auto_scaling_groups()["AutoScalingGroups"]
        templates = fleet.ec2.describe_launch_templates()["LaunchTemplates"]
        names = [each["AutoScalingGroupName"] for each in groups]
        names += [each["LaunchTemplateName"] for each in templates]
        actions = fleet.groups.describe_scheduled_actions()["ScheduledUpdateGroupActions"]
        names += [each["AutoScalingGroupName"] for each in actions]
        return [name for name in names if self.run_id in name]

    def noted(self) -> list[dict[str, Any]]:
        file = self.notes / f"dogbreed-{self.run_id}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _machines(self) -> list[Instance]:
        every = Instance.load_all(self.state / "ec2" / "instances")
        return [each for each in every if self.run_id in (each.group or "")]

    def _alive(self) -> list[Instance]:
        return [each for each in self._machines() if each.alive]

    # --- how it happens ---

    def _prepared(self, faults: dict[str, Any], reclaims: int, home: str = "run") -> tuple[Launcher, Plan]:
        short = self.scenario.endless
        spelled = [f"+aws.faults.{name}={json.dumps(value)}" for name, value in faults.items()]
        with _composing:  # Hydra has one state for all threads
            return prepare(
                [
                    "experiment=quickstart",
                    "launcher=ec2_spot",
                    "aws=rehearsal",
                    "aws.launch_as=dogbreed-launch",
                    f"aws.state_dir={self.state}",
                    "aws.clock_rate=10",
                    f"aws.reclaims={reclaims}",
                    f"run_id=s{self.scenario.seed}-{self.folder.name}",
                    f"launcher.deadline_h={_QUICK_DEADLINE_H if short else _DEADLINE_H}",
                    f"launcher.other_types=[{','.join(TYPES[1:])}]",
                    f"hydra.run.dir={self.folder / home}",
                    *spelled,
                ]
            )

    def _stand_in(self) -> None:
        """Put code with another train.py where the launcher would put the project's, which it then does not send."""
        text = STAND_IN.read_text().replace('NOTES = ""', f"NOTES = {str(self.notes)!r}")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            for name, content in _code(text):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        layout: Any = self.launcher.layout  # type: ignore[attr-defined]
        key = f"{layout.code(self.plan.spec)}{BUNDLE_FILE}"
        s3 = Rehearsal(state_dir=str(self.state), reclaims=0).client("s3")
        s3.put_object(Bucket=BUCKET, Key=key, Body=buffer.getvalue())

    def _submit(self) -> None:
        if self.scenario.killed_at is None:
            self.launcher.submit(self.plan)
            return
        words = [sys.executable, "-m", __name__, str(self.scenario.seed), str(self.state), str(self.folder)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr  # 0: it makes fewer calls than that

    def submit_until_killed(self) -> None:
        """Submit the run in this process, which is killed meanwhile."""
        self._count_calls()
        self.launcher.submit(self.plan)

    def _count_calls(self) -> None:
        """Let this process be killed at a call of the client."""
        cloud: Any = self.launcher.cloud  # type: ignore[attr-defined]
        made, scenario = 0, self.scenario

        def count(**_: Any) -> None:
            nonlocal made
            made += 1
            if made == scenario.killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

        moment = "after-call" if scenario.after else "before-call"
        for service in ("s3", "ec2", "autoscaling", "ssm", "iam", "sts", "service-quotas", "kms"):
            cloud.client(service).meta.events.register(moment, count)


def _wait_for(reached: Callable[[], bool]) -> None:
    """Wait, looking seldom: many scenarios share few processors."""
    end = time.monotonic() + 400
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(1)


def _code(train: str) -> Iterator[tuple[str, bytes]]:
    yield "train.py", train.encode()
    yield "pyproject.toml", b"[project]\ndependencies = []\n"
    for path in sorted((ROOT / "launchers" / "remote").glob("*.py")):
        yield f"launchers/remote/{path.name}", path.read_bytes()


@contextmanager
def cloud_for(state: Path) -> Iterator[Path]:
    """Yield the folder of a cloud that can run EC2 machines, under the roles that launchers print.

    Its images have a package `torch` that does not take long to import.
    """
    packages = state / "ec2" / "packages"
    packages.mkdir(parents=True)
    (packages / "torch.py").write_text("")
    try:
        assert launchers_command(["iam", "--apply", "--state-dir", str(state), "--for", "launcher=ec2_spot"]) == 0
        yield state
    finally:
        process.stop(state)


if __name__ == "__main__":
    Played(Scenario.draw(int(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])).submit_until_killed()
