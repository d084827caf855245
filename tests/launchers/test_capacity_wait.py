"""Where there is no machine for a run or a trial, it is tried again: nothing is wrong with it."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError, Interrupted
from launchers import api, capacity_wait, prepare
from launchers.aws.errors import translated
from launchers.aws.shortage import shortage_in
from launchers.capacity_wait import CapacityWait, pause_s_of, wait_s_of
from launchers.status import Cause, Handle, LaunchError, Phase, Shortage, Status
from launchers.sweep.machines import Machines
from tests.support.sweeps import LONGEST_S, Sweep, read_until, states

QUOTA = (
    "The account-level service limit '{} for training job usage' is {} Instances, with current utilization of {} "
    "Instances and a request delta of {} Instances. Please use AWS Service Quotas to request an increase."
)
NONE_FREE = LaunchError("no capacity", Cause.CAPACITY, Shortage("no capacity"))
NONE_AT_ALL = LaunchError("quota", Cause.QUOTA, Shortage("quota", limit=0, used=0, wanted=1))
RUN = Handle("toy", "there", "run")


# --- what AWS says ---


@given(st.integers(0, 999), st.integers(0, 999), st.integers(1, 99))
def test_a_quota_is_read_from_the_words_of_an_error(limit: int, used: int, wanted: int) -> None:
    found = shortage_in("ResourceLimitExceeded: " + QUOTA.format("ml.p4d.24xlarge", limit, used, wanted))
    assert found is not None
    assert (found.limit, found.used, found.wanted) == (limit, used, wanted)
    assert found.lasting == (limit < wanted)


@pytest.mark.parametrize(
    ("reason", "lasting"),
    [
        ("ResourceLimitExceeded: You have reached a limit", False),
        (
            "ResourceLimitExceeded: The account-level service limit 'Longest run time for a training job' is 432,000 "
            "Seconds, with current utilization of 0 Seconds and a request delta of 864,000 Seconds.",
            True,
        ),
        ("CapacityError: Unable to provision requested ML compute capacity.", False),
        ("ClientError: CapacityError: Unable to provision it", False),
        ("InsufficientInstanceCapacity: We currently do not have sufficient capacity", False),
        ("AlgorithmError: ExecuteUserScriptError: [user_code] CapacityError: of mine, exit code: 1", None),
        ("AlgorithmError: [quota] No space left on device, exit code: 1", None),
        ("ThrottlingException: Rate exceeded", None),
        ("InternalServerError: please retry", None),
        ("", None),
    ],
)
def test_only_a_missing_machine_is_a_shortage(reason: str, lasting: bool | None) -> None:
    found = shortage_in(reason)
    assert (None if found is None else found.lasting) is lasting


def test_an_error_of_the_interface_carries_its_shortage() -> None:
    from botocore.exceptions import ClientError

    answer: Any = {"Error": {"Code": "ResourceLimitExceeded", "Message": QUOTA.format("ml.m5.large", 2, 2, 1)}}
    error = translated(ClientError(answer, "CreateTrainingJob"), "creating the training job")
    assert error.shortage == Shortage("the quota of 2 for 'ml.m5.large for training job usage' has 2 in use", 2, 2, 1)
    answer["Error"]["Code"] = "ThrottlingException"  # which is not that there is no machine
    assert translated(ClientError(answer, "CreateTrainingJob"), "creating the training job").shortage is None


# --- one run ---


@dataclass
class Cloudy:
    """A launcher that has no machine, for so many submissions."""

    refusals: int
    error: LaunchError = NONE_FREE
    wait_for_capacity_h: float | None = None
    poll_s: float = 5.0
    submitted: int = 0
    phase: Phase = Phase.RUNNING
    cancelled: int = 0
    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def submit(self, plan: Any) -> Handle:
        self.submitted += 1
        if self.submitted <= self.refusals:
            raise self.error
        return RUN

    def status(self, handle: Handle) -> Status:
        return Status(self.phase)

    def cancel(self, handle: Handle) -> None:
        self.cancelled += 1

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def waiting(self, default_h: float = 0.0) -> CapacityWait:
        return CapacityWait(self, default_h, self.sleep, lambda: self.now)  # type: ignore[arg-type]


def submit(launcher: Cloudy, default_h: float = 0.0) -> Handle:
    plan: Any = None
    return launcher.waiting(default_h).submit(plan)


def test_a_run_waits_for_a_machine_as_long_as_it_is_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Cloudy(refusals=3, wait_for_capacity_h=1)
    assert submit(launcher) == RUN
    assert launcher.slept == [60, 60, 60]
    said = capsys.readouterr().out
    assert said.count("No machine: no capacity.") == 3
    assert all(len(line) <= 80 for line in said.splitlines())


@given(st.floats(0, 100), st.floats(0.1, 60))
def test_the_waiting_ends_when_the_hours_are_over(pauses: float, poll_s: float) -> None:
    hours = pauses * 12 * poll_s / 3600
    error = LaunchError("", shortage=Shortage(""))  # a new one, for its notes
    launcher = Cloudy(refusals=10**9, wait_for_capacity_h=hours, poll_s=poll_s, error=error)
    with pytest.raises(LaunchError) as caught:
        submit(launcher)
    assert sum(launcher.slept) == pytest.approx(3600 * hours)
    assert max(launcher.slept, default=0) <= 12 * poll_s
    assert "launcher.wait_for_capacity_h=4" in caught.value.__notes__[0]


def test_a_run_by_itself_does_not_wait_and_a_search_in_one_job_waits_an_hour() -> None:
    alone, search = Cloudy(refusals=10**9), Cloudy(refusals=10**9)
    for launcher, hours in ((alone, 0.0), (search, 1.0)):
        with pytest.raises(LaunchError):
            submit(launcher, hours)
        assert sum(launcher.slept) == 3600 * hours


@pytest.mark.parametrize("error", [NONE_AT_ALL, LaunchError("disk full", Cause.QUOTA), LaunchError("denied")])
def test_nothing_is_waited_for_where_waiting_cannot_help(error: LaunchError) -> None:
    launcher = Cloudy(refusals=10**9, error=error, wait_for_capacity_h=8)
    with pytest.raises(LaunchError):
        submit(launcher)
    assert (launcher.submitted, launcher.slept) == (1, [])


@pytest.mark.parametrize(("stop", "signum"), [(KeyboardInterrupt(), 2), (SystemExit(143), 15), (SystemExit(129), 1)])
def test_a_signal_ends_the_waiting_and_nothing_runs(stop: BaseException, signum: int) -> None:
    launcher = Cloudy(refusals=10**9, wait_for_capacity_h=8)

    def sleep(seconds: float) -> None:
        raise stop

    plan: Any = None
    waiting = launcher.waiting()
    waiting.sleep = sleep
    with pytest.raises(Interrupted, match="no job is running") as caught:
        waiting.submit(plan)
    assert (caught.value.signum, launcher.submitted) == (signum, 1)


@pytest.mark.parametrize(
    ("phase", "cancelled"), [(Phase.SUBMITTED, 1), (Phase.PROVISIONING, 1), (Phase.RUNNING, 0), (Phase.RECOVERING, 0)]
)
def test_a_job_that_still_has_no_machine_is_cancelled_with_the_waiting(
    phase: Phase, cancelled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: Any = SimpleNamespace(handle=RUN)
    launcher = Cloudy(refusals=0, wait_for_capacity_h=1, phase=phase)
    ends = iter([NONE_FREE, Interrupted("The run continues", 2)])

    def follow(launcher: Any, handle: Handle) -> None:
        raise next(ends)

    monkeypatch.setattr(capacity_wait, "follow", follow)
    with pytest.raises(Interrupted) as caught:
        launcher.waiting().follow(plan)
    assert (launcher.cancelled, "no job is running" in str(caught.value)) == (cancelled, bool(cancelled))


def test_launch_waits_as_the_command_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, plan = prepare(["data=drawn", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run"])
    launcher = Cloudy(refusals=2, wait_for_capacity_h=1, poll_s=0)
    monkeypatch.setattr(api, "prepare", lambda overrides: (launcher, plan))
    assert api.launch([]) == RUN
    assert launcher.submitted == 3


CLOUDY = ["launcher=sagemaker_gpu", "aws.region=eu-west-1", "aws.bucket=my-bucket", "aws.role=MyRole", "data=drawn"]


@pytest.mark.parametrize("hours", ["-1", "true", "soon", ".nan", ".inf"])
def test_hours_that_are_no_hours_are_found_in_the_plan(hours: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"launcher\.wait_for_capacity_h must be a number of hours, at least 0"):
        prepare([*CLOUDY, f"launcher.wait_for_capacity_h={hours}", f"hydra.run.dir={tmp_path}/run"])


def test_the_setting_reaches_the_launcher(tmp_path: Path) -> None:
    launcher, _ = prepare([*CLOUDY, "launcher.wait_for_capacity_h=0.5", f"hydra.run.dir={tmp_path}/run"])
    assert (wait_s_of(launcher, 1.0), pause_s_of(launcher)) == (1800, 60)


# --- the trials of a search ---


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def machines(parallel: int = 4, wait_s: float = 3600, instances: int = 1) -> tuple[Machines, Clock]:
    clock = Clock()
    return Machines(parallel, wait_s, 60, instances, clock), clock


def full(limit: int, used: int, wanted: int = 1) -> Shortage:
    return Shortage("quota", limit, used, wanted)


def test_a_search_whose_own_trials_fill_the_quota_runs_fewer_at_once() -> None:
    found, clock = machines()
    assert "From now on 2 at once" in found.lack(full(2, 2), running=3) + found.lack(full(2, 2), running=2)
    assert (found.parallel, found.has_room(1), found.has_room(2)) == (2, True, False)
    clock.now += 10 * 3600
    assert found.has_room(1)
    assert not found.over


def test_each_trial_counts_with_all_its_machines() -> None:
    found, _ = machines(instances=2)
    found.lack(full(5, 4, wanted=2), running=2)
    assert found.parallel == 2


def test_a_search_waits_where_others_have_the_machines_and_keeps_what_runs() -> None:
    found, clock = machines(parallel=2)
    assert "Next try in 60 s" in found.lack(full(2, 2), running=1)  # one of the two is somebody else's
    assert not found.has_room(1)
    clock.now += 60
    assert found.has_room(1)
    clock.now += 3600
    found.lack(full(2, 2), running=1)  # the hour is over, but a trial runs
    assert (found.parallel, found.over) == (1, "")


@pytest.mark.parametrize("shortage", [full(1, 1), Shortage("no capacity")])
def test_a_search_without_any_machine_ends_after_the_hour(shortage: Shortage) -> None:
    found, clock = machines()
    tries = 0
    while not found.over:
        found.lack(shortage, running=0)
        clock.now, tries = clock.now + 60, tries + 1
    assert tries == 61
    with pytest.raises(LaunchError, match=r"3 of 10 trials have ended(.|\n)*Once there is one: again"):
        found.raise_if_over("detail", done=3, n_trials=10, again="again")


def test_a_machine_in_between_begins_the_hour_anew() -> None:
    found, clock = machines()
    for _ in range(10):
        found.lack(Shortage("no capacity"), running=0)
        clock.now += 3000
        found.found()
    assert not found.over


@pytest.mark.parametrize("running", [0, 3])
def test_a_quota_of_nothing_ends_the_search_at_once(running: int) -> None:
    found, _ = machines()
    found.lack(full(0, 0), running=running)
    assert found.over
    assert not found.has_room(0)


def test_several_trials_that_are_refused_at_once_say_so_once() -> None:
    found, _ = machines()
    told = [found.lack(Shortage("no capacity"), running=0) for _ in range(4)]
    assert [bool(each) for each in told] == [True, False, False, False]


def test_trials_that_found_no_machine_keep_their_numbers_and_none_fails(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "scarce")
    refused = {"FAKE_QUOTA": "1", "FAKE_NO_CAPACITY": "4"}  # more than the failures in a row that end a search
    process = sweep.start("hpo.n_trials=4", "hpo.parallel=2", FAKE_HELD='{"others": 0}', **refused)
    said = read_until(process, "From now on 1 at once.")  # while the one that has a machine keeps it
    sweep.release()
    said += process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == 0, said
    assert states(sweep.study()) == {"COMPLETE": 4}, said
    assert sorted(sweep.ended) == [0, 1, 2, 3]
    assert "failed" not in said.replace("0 failed", "")


def test_a_search_with_a_quota_of_nothing_ends_without_a_failed_trial(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "none")
    said = sweep.run("hpo.n_trials=4", "hpo.parallel=2", status=1, FAKE_QUOTA="0")
    assert states(sweep.study()).keys() == {"WAITING"}
    assert "There is no machine for the search; 0 of 4 trials have ended" in said
    assert "Once there is one: python " in said
