"""A plan's worst case is never below the bill, and limits.max_usd never below all bills of a run or of a search.

The bills are those of the rehearsal cloud's own code for training jobs, run on a clock of the test's: machines that
train for any time, end by themselves, late or never, and are taken away at any moment.
"""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers.cost import prices
from launchers.cost.comparison import Sized
from launchers.cost.limits import Limits
from launchers.deploy import front, limited, rates, request
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.on_lambda import request as on_lambda_request
from launchers.deploy.request import types_of
from launchers.deploy.scaling import Concurrency, Fixed, Report
from launchers.ec2 import fitting as ec2_fitting
from launchers.ec2 import state
from launchers.ec2.spot import Ec2Launcher
from launchers.ec2.state import Attempt, Seen
from launchers.plan import Plan
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.names import Server
from launchers.rehearsal.services import training_attempt, training_pools, training_record, training_run
from launchers.rehearsal.services.ec2_instance import Instance
from launchers.rehearsal.services.training_record import JobRecord
from launchers.sagemaker import fitting, tuning_limits
from launchers.sagemaker.job import TrainingJob
from launchers.sagemaker.settings import JobSettings
from launchers.sagemaker.training import SageMakerLauncher
from launchers.spec import Deployed, RunSpec, SearchOutput
from launchers.status import LaunchError
from launchers.sweep.budget import Budget
from launchers.sweep.trials import State, Trial
from tests.support import deployments, ec2_plans
from tests.support.plans import launched, planned
from tests.support.tuned import STRATEGIES, asked

SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROUNDING = 1 + 1e-9  # of sums of fractions
STEP_S = 5.0  # of the test's clock; a job is ended at most that late


class Clock:
    """Takes the place of the module `time`: sleeping takes no time, and passes it by STEP_S at least."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, STEP_S)


@dataclass
class Machine:
    """Trains for a time, and takes another one to end when it is told to."""

    clock: Clock
    trains_s: float
    ends_s: float
    crashes: bool

    def __post_init__(self) -> None:
        self.began, self.told_at, self.killed = self.clock.now, float("inf"), False

    @property
    def running(self) -> bool:
        over = min(self.began + self.trains_s, self.told_at + self.ends_s)
        return not self.killed and self.clock.now < over

    @property
    def exit_code(self) -> int | None:
        return None if self.running else int(self.crashes)

    def signal(self, number: int) -> None:
        self.told_at = min(self.told_at, self.clock.now)

    def kill(self) -> None:
        self.killed = True

    def start(self, *args: Any, **kwargs: Any) -> None: ...
    def remove(self) -> None: ...

    def path(self, name: str) -> Path:
        return Path("/nowhere")


class Rehearsed(training_run.JobRun):
    """A job of the rehearsal cloud whose machines are the test's. draw: of what happens."""

    def __init__(self, record: JobRecord, clock: Clock, draw: random.Random, faults: Faults) -> None:
        nothing = SimpleNamespace(role=None)
        super().__init__(record, nothing, Server("", ""), faults, no_capacity=False)  # type: ignore[arg-type]
        self.clock, self.draw = clock, draw

    def _furnish(self, attempt: int) -> str:
        count = int(self.job.request["ResourceConfig"]["InstanceCount"])
        trains_s, ends_s = self.draw.choice([30.0, 400.0, 3000.0, 1e9]), self.draw.choice([0.0, 30.0, 119.0, 1e9])
        crashes = self.draw.random() < 0.1
        machines = [Machine(self.clock, trains_s, ends_s, crashes) for _ in range(count)]
        self._hosts = [SimpleNamespace(machine=machine, stream="") for machine in machines]  # type: ignore[misc]
        return ""

    def _pause(self, seconds: float) -> bool:
        self.clock.now += self.draw.choice([1.0, 200.0])
        return False


class Pump:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def pump(self, *args: Any, **kwargs: Any) -> list[str]:
        return []

    def close(self) -> None: ...
    def last_written(self, *args: Any) -> None: ...
    def sync(self, *args: Any) -> None: ...


@contextmanager
def on_a_clock(clock: Clock, draw: random.Random) -> Iterator[None]:
    """Run the rehearsal's code on the test's clock, with machines, logs and files that are not there."""

    def uploads(*args: Any, **kwargs: Any) -> None:
        clock.now += draw.choice([0.0, 20.0, fitting.UPLOADING_S - 2 * STEP_S])

    with pytest.MonkeyPatch.context() as patched:
        for module in (training_attempt, training_run):
            patched.setattr(module, "time", clock)
        for place in (training_attempt, training_record, training_pools):
            patched.setattr(place, "now", lambda: clock.now)
        patched.setattr(JobRecord, "save", lambda self: None)
        patched.setattr(training_run, "now", lambda: clock.now)
        for name in ("LogPump", "Checkpoints"):
            patched.setattr(training_run, name, Pump)
        patched.setattr(training_run, "may_log", lambda *args: True)
        patched.setattr(training_run, "upload", uploads)
        patched.setattr(training_run, "remove_machines", lambda job: None)
        patched.setattr(training_attempt, "command", lambda *args: ([], {}))
        patched.setattr(training_attempt, "environment", lambda *args: {})
        yield


def bill_of(record: JobRecord, now: float) -> float:
    """Return what a job has cost so far, as the launcher reads it from AWS's answer."""
    usd = read(record).usd(now)
    assert usd is not None
    return usd


def read(record: JobRecord) -> TrainingJob:
    answer = {**record.describe(), "WarmPoolStatus": training_pools.status(record) or {}}
    for key in ("CreationTime", "LastModifiedTime", "TrainingStartTime", "TrainingEndTime"):
        if key in answer:
            answer[key] = datetime.fromtimestamp(answer[key], UTC)
    return TrainingJob.of(answer)


@dataclass
class Account:
    """Runs the jobs of one run after the other, and knows what they have cost."""

    clock: Clock
    draw: random.Random
    records: list[JobRecord]

    def submit(self, create: Mapping[str, Any]) -> JobRecord:
        record = JobRecord(Path("/nowhere"), dict(create), self.clock.now)
        training_pools.reuse(record, self.records)
        self.records.append(record)
        faults = Faults(
            reclaims=self.draw.randint(0, 4),
            reclaim_at=[f"{self.draw.choice([1, 100, 700])}s"],
            hard=self.draw.random() < 0.5,
            crash_at=self.draw.choice([None, "50s"]),
        )
        Rehearsed(record, self.clock, self.draw, faults).run()
        assert record.status in training_record.FINISHED
        self.clock.now += self.draw.choice([0.0, 30.0, 5000.0])  # until the next
        return record

    @property
    def usd(self) -> float:
        return sum(bill_of(record, self.clock.now) for record in self.records)

    @property
    def to_come_usd(self) -> float:
        """What machines that are kept may still cost."""
        return sum(read(record).to_come_usd(self.clock.now) for record in self.records)


@lru_cache
def base() -> tuple[SageMakerLauncher, Plan]:
    return launched("spot"), planned("spot")


def launcher_of(draw: random.Random) -> SageMakerLauncher:
    spot = draw.random() < 0.5
    max_run_s = draw.choice([600, 3600])
    return replace(
        base()[0],
        spot=spot,
        instance_type=draw.choice(["ml.m5.large", "ml.g4dn.xlarge", "ml.g5.48xlarge", "auto"]),
        instances=draw.choice([1, 1, 5]),
        max_run_s=max_run_s,
        max_wait_s=max_run_s * 2 if spot else None,
        keep_alive_s=None if spot else draw.choice([None, 600]),
    )


def plan_with(launcher: SageMakerLauncher, limits: Mapping[str, Any]) -> Plan:
    spec = base()[1].spec
    return launcher.plan(replace(spec, config={**spec.config, "limits": dict(limits)}))


@SETTINGS
@given(
    seed=st.integers(0, 2**32),
    factor=st.floats(0.5, 0.99) | st.floats(1.01, 30),
    hours=st.sampled_from([None, 0.2, 5.0]),
)
def test_a_run_stays_below_its_worst_case_and_with_its_further_jobs_within_the_limit(
    seed: int, factor: float, hours: float | None
) -> None:
    draw, clock = random.Random(seed), Clock()
    launcher = launcher_of(draw)
    unlimited = plan_with(launcher, {})
    assert unlimited.costs is not None
    max_usd = unlimited.costs.least_usd * factor
    if factor < 1:
        with pytest.raises(ConfigError, match=r"limits\.max_usd"):
            plan_with(launcher, {"max_usd": max_usd, "max_hours": hours})
        return
    plan = plan_with(launcher, {"max_usd": max_usd, "max_hours": hours})
    assert plan.costs is not None
    assert plan.costs.worst_usd <= max_usd * ROUNDING
    account = Account(clock, draw, [])
    with on_a_clock(clock, draw):
        for _ in range(4):  # submitted again, or resumed
            create = plan.requests[-1].parameters
            if account.usd:
                try:
                    create = fitting.less_spent(create, Limits(max_usd=max_usd), account.usd)
                except LaunchError:
                    break  # too little is left
            before = account.usd
            record = account.submit(create)
            assert account.usd - before <= plan.costs.worst_usd * ROUNDING
            if record.status == "Completed":
                break
        clock.now += 10_000
        assert account.usd <= max_usd * ROUNDING


@SETTINGS
@given(seed=st.integers(0, 2**32))
def test_without_limits_the_worst_case_holds_too(seed: int) -> None:
    draw, clock = random.Random(seed), Clock()
    plan, account = plan_with(launcher_of(draw), {}), Account(clock, draw, [])
    assert plan.costs is not None
    with on_a_clock(clock, draw):
        account.submit(plan.requests[-1].parameters)
        clock.now += 10_000
        assert 0 < account.usd <= plan.costs.worst_usd * ROUNDING


def trial(number: int, **about: Any) -> Trial:
    return Trial(number, "running", {}, None, "", 0.0, 0, "", **about)


@SETTINGS
@example(seed=3866, factor=5.5, n_trials=5)  # machines that are kept count, but not above what a trial was given
@given(seed=st.integers(0, 2**32), factor=st.floats(1.0, 60), n_trials=st.integers(1, 12))
def test_a_search_of_many_jobs_stays_within_its_limit(seed: int, factor: float, n_trials: int) -> None:
    draw, clock = random.Random(seed), Clock()
    launcher = launcher_of(draw)
    costs = plan_with(launcher, {}).costs
    assert costs is not None
    max_usd = 2 * costs.least_usd * factor
    budget = Budget(Limits(max_usd=max_usd), costs, n_trials, clock=clock.monotonic)
    if max_usd < 2 * budget.need_usd:
        with pytest.raises(ConfigError, match="is not enough for a search"):
            budget.check()
        return
    budget.check()
    trials: dict[int, Trial] = {}
    accounts: dict[int, Account] = {}

    def runs(number: int, given_usd: float) -> None:
        plan = plan_with(launcher, {"max_usd": given_usd})
        account = accounts.setdefault(number, Account(clock, draw, []))
        create = plan.requests[-1].parameters
        if account.records:
            create = fitting.less_spent(create, Limits(max_usd=given_usd), account.usd + account.to_come_usd)
        account.submit(create)

    with on_a_clock(clock, draw):
        for number in range(n_trials):
            given_usd = budget.share(list(trials.values()), number)
            if given_usd is None:
                break
            trials[number] = trial(number, given_usd=given_usd)
            assert budget.share(list(trials.values()), number) == given_usd  # when it is claimed again
            runs(number, given_usd)
            if draw.random() < 0.3:  # it was interrupted, and the next command resumes it
                with suppress(LaunchError):  # if too little is left
                    runs(number, given_usd)
            known = draw.random() < 0.8  # what it has cost; otherwise all that it was given counts
            usd = accounts[number].usd if known else None
            state = cast(State, draw.choice(["complete", "pruned", "failed"]))
            trials[number] = replace(trials[number], state=state, usd=usd)
        assert len(trials) >= min(n_trials, budget.fitting) >= 1
        best = draw.choice(list(trials.values()))
        (word,) = budget.for_the_test(list(trials.values()), best)
        runs(best.number, float(word.partition("=")[2]))
        clock.now += 10_000
        assert sum(account.usd for account in accounts.values()) <= max_usd * ROUNDING


# --- a search by SageMaker's tuner ---


@lru_cache
def tuner() -> tuple[JobSettings, RunSpec]:
    found = asked(*STRATEGIES["bayesian"])
    return found.tuner.jobs_like, found.plan.spec


def trials_of(trials: int, at_once: int, whole_s: float, draw: random.Random, longest_s: float) -> float:
    """Return the seconds that the machines of a tuning job are paid, which runs trials beside each other."""
    free, paid_s = [0.0] * at_once, 0.0  # when the machine of each trial is free
    for _ in range(trials):
        place = min(range(at_once), key=free.__getitem__)
        if free[place] >= whole_s:
            break
        asked_s = min(draw.choice([30.0, 900.0, 1e9]), longest_s + draw.uniform(0, 180))
        over = min(free[place] + asked_s, whole_s + draw.uniform(0, 180))
        paid_s, free[place] = paid_s + over - free[place], over
    return paid_s


@SETTINGS
@given(
    seed=st.integers(0, 2**32),
    factor=st.floats(1.01, 300) | st.none(),
    trials=st.integers(1, 30),
    at_once=st.integers(1, 10),
)
def test_a_search_by_the_tuner_stays_below_its_worst_case_and_with_further_jobs_within_the_limit(
    seed: int, factor: float | None, trials: int, at_once: int
) -> None:
    draw, (tuned, spec) = random.Random(seed), tuner()
    settings_ = replace(tuned, max_run_s=draw.choice([600, 14_400]))
    assert spec.tuning is not None
    assert isinstance(spec.output, SearchOutput)
    row = prices.instance(settings_.instance_type)
    assert row is not None
    at_once = min(at_once, trials)
    least_usd = (120 + 180) / 3600 * row.usd * at_once
    max_usd = None if factor is None else least_usd * factor
    spec = replace(
        spec,
        config={**spec.config, "limits": {"max_usd": max_usd}},
        tuning=replace(spec.tuning, parallel=at_once, max_run_s=draw.choice([None, 3600])),
        output=replace(spec.output, trials=trials),
    )
    assert not list(tuning_limits.findings(settings_, spec))
    fitted = tuning_limits.fit(settings_, spec)
    worst = fitted.worst_usd(spec, row.usd)
    whole_s = math.inf if fitted.whole_s is None else float(fitted.whole_s)
    billed = trials_of(trials, at_once, whole_s, draw, fitted.settings.max_run_s) / 3600 * row.usd
    assert billed <= worst * ROUNDING
    if max_usd is None:
        return
    assert worst <= max_usd * ROUNDING
    resources = {"MaxParallelTrainingJobs": at_once}
    machines = {"InstanceType": settings_.instance_type, "InstanceCount": 1}
    sent = {"TrainingJobDefinition": {"HyperParameterTuningResourceConfig": machines}}
    for _ in range(3):  # it is continued, by a tuning job that learns from the ones before
        given = {} if fitted.whole_s is None else {"MaxRuntimeInSeconds": fitted.whole_s}
        try:
            less = tuning_limits.less_spent(sent, {**resources, **given}, spec.config, billed)
        except LaunchError:
            break  # too little is left
        whole_s = float({**given, **less}.get("MaxRuntimeInSeconds", math.inf))
        billed += trials_of(trials, at_once, whole_s, draw, fitted.settings.max_run_s) / 3600 * row.usd
        assert billed <= max_usd * ROUNDING


# --- EC2 and deployments ---


def on_ec2(draw: random.Random) -> Ec2Launcher:
    return replace(
        ec2_plans.launched("ec2"),
        instance_type=draw.choice(["m5.large", "g4dn.xlarge"]),
        other_types=draw.choice([(), ("c5.xlarge", "m5.xlarge")]),
        on_demand=draw.random() < 0.3,
        deadline_h=draw.choice([0.5, 8]),
        volume_gb=draw.choice([8, 2000]),
        public_ip=draw.random() < 0.5,
    )


def machines_of(launcher: Ec2Launcher, deadline_h: float, clock: Clock, draw: random.Random) -> Iterator[Instance]:
    """Yield the machines of one submission: one after the other, the last of which its group ends at the deadline."""
    deadline = clock.now + 3600 * deadline_h
    while clock.now < deadline and draw.random() < 0.9:
        kind = draw.choice(launcher.types)
        row = prices.ec2(kind)
        assert row is not None
        price = row.usd * (1.0 if launcher.on_demand else draw.uniform(*prices.spot_range()))
        began = clock.now + draw.choice([0.0, 60.0, 2000.0])  # while there is none
        ended = min(began + draw.choice([10.0, 1000.0, 1e6]), deadline + draw.uniform(0, ec2_fitting.ENDING_S))
        clock.now = ended
        if ended > began and began < deadline:
            yield Instance(
                Path("/nowhere"), "i-1", kind, "us-east-1a", "subnet-1", "", not launcher.on_demand, {}, began,
                price=price, began=began, ended=ended, state="terminated",
            )  # fmt: skip


@SETTINGS
@given(seed=st.integers(0, 2**32), factor=st.floats(1.01, 40))
def test_machines_of_ec2_stay_below_the_worst_case_and_with_further_submissions_within_the_limit(
    seed: int, factor: float
) -> None:
    draw, clock = random.Random(seed), Clock()
    launcher, spec = on_ec2(draw), ec2_plans.planned("ec2").spec
    usual = launcher.plan(spec).costs
    assert usual is not None
    max_usd = usual.least_usd * factor
    capped = replace(spec, config={**spec.config, "limits": {"max_usd": max_usd, "max_attempts": 10}})
    plan = launcher.plan(capped)
    assert plan.costs is not None
    assert plan.costs.worst_usd <= max_usd * ROUNDING
    billed, attempts = 0.0, list[Attempt]()  # as the rehearsal bills, and as the launcher counts
    beside = ec2_fitting.beside_usd(launcher, 3600)
    for _ in range(4):
        seen, now = Seen(launcher.layout, "r", None, attempts=tuple(attempts)), datetime.fromtimestamp(clock.now, UTC)
        try:
            fitted = ec2_fitting.fit(launcher, capped, spent_usd=state.usd_of(seen, now) or 0.0)
        except LaunchError:
            break  # too little is left
        before, ends_at = billed, clock.now + 3600 * fitted.deadline_h + ec2_fitting.ENDING_S
        for machine in machines_of(launcher, fitted.deadline_h, clock, draw):
            seconds = machine.seconds(clock.now)
            billed += machine.bill(clock.now)["usd"] + ec2_fitting.beside_usd(launcher, seconds)
            began, ended, last = (datetime.fromtimestamp(at, UTC) for at in (machine.began, machine.ended, ends_at))
            told = ended if draw.random() < 0.5 else None  # some die and record nothing
            bought = "on-demand" if launcher.on_demand else "spot"
            attempts.append(Attempt(1, 1, "i-1", machine.type, "a", bought, began, told, "", last, beside))
        assert billed - before <= plan.costs.worst_usd * ROUNDING + 1e-5
    assert billed <= max_usd * ROUNDING + 1e-5  # the rehearsal rounds each machine to a millionth


def deployment_of(draw: random.Random) -> DeployLauncher:
    """Return any deployment whose cost is limited by something."""
    variant = draw.choice(["realtime", "realtime", "lambda"])
    scaling = draw.choice([None, Fixed(), Concurrency(2, 5), Report(1, 3)]) if variant == "realtime" else None
    kind, fallback = draw.choice([("ml.c7i.large", "ml.c6i.large"), ("ml.m5.large", None)])
    front = draw.choice([None, "lambda"]) if variant == "realtime" else None
    return deployments.launcher(
        variant=variant,
        front=front,
        reserved=draw.choice([1, 3, 40]) if front or variant == "lambda" else None,
        provisioned=draw.choice([0, 1]) if front else 0,
        memory_mb=draw.choice([None, 3008]),
        architecture=draw.choice(["x86_64", "arm64"]),
        instances=draw.choice([1, 3]) if scaling in (None, Fixed()) else 1,
        scaling=scaling,
        instance_type=kind,
        fallback_type=fallback,
        ttl_hours=draw.choice([None, 8]),
        bake_s=draw.choice([180, 900]),
    )


def hour_of(launcher: DeployLauncher, spec: RunSpec, draw: random.Random) -> float:
    """Return what an hour of one costs: instances that scaling starts and stops, and a function that is called."""
    ending = replace(launcher, ttl_hours=8)  # with a limit it ends by itself
    usd = 0.0
    if launcher.variant == "realtime":
        row = prices.hosting(draw.choice(list(types_of(launcher))))
        assert row is not None
        usd = row.usd * draw.randint(ending.count, ending.most)
    if (size := rates.function_of(ending, spec)) is not None:
        assert launcher.reserved is not None
        each_s = draw.choice([0.0004, 0.1, 0.1234, 60.0])  # of a request, each of which is rounded up
        calls = int(draw.choice([0.0, 0.5, 1.0]) * 3600 * launcher.reserved * min(10.0, 1 / each_s))
        billed_s, warm = math.ceil(each_s * 1000) / 1000, launcher.provisioned / launcher.reserved
        usd += calls * (1 - warm) * call_usd(size, billed_s, size.usd_per_gb_s)
        usd += calls * warm * call_usd(size, billed_s, prices.lambda_prices().provisioned_use_usd_per_gb_s)
        usd += launcher.provisioned * size.warm_usd_per_month / 730
    return usd


def call_usd(size: Sized, seconds: float, usd_per_gb_s: float) -> float:
    return prices.lambda_prices().usd_per_million / 1e6 + seconds * size.gb * usd_per_gb_s


@SETTINGS
@given(seed=st.integers(0, 2**32), factor=st.floats(1.01, 40), updates=st.integers(0, 3))
def test_a_deployment_and_its_updates_stay_below_their_worst_case_and_within_the_limit(
    seed: int, factor: float, updates: int
) -> None:
    draw, now = random.Random(seed), datetime(2026, 11, 24, 12, tzinfo=UTC)
    launcher, spec = deployment_of(draw), deployments.spec()
    least = limited.costs(replace(launcher, ttl_hours=8), spec)
    assert least is not None
    max_usd = least.least_usd * factor
    billed = counted = 0.0  # as AWS bills, and at most, by our records
    before, earlier, ends = None, launcher, now
    for _ in range(1 + updates):
        assert spec.deployment is not None
        deployment = replace(spec.deployment, before=before, spent_usd=counted)
        capped = replace(
            spec, deployment=deployment, config={"limits": {"max_usd": max_usd}}, created_at=now.isoformat()
        )
        try:
            plan = launcher.plan(capped)
        except ConfigError:
            assert before is not None  # the first has enough; too little is left for this one
            break
        assert plan.costs is not None
        assert plan.costs.worst_usd <= max_usd * ROUNDING
        fitted = limited.fit(launcher, capped)
        assert fitted.ttl_hours is not None
        assert not plan.requests or fitted.ttl_hours * 3600 >= launcher.start_s - 1 or launcher.variant == "lambda"
        rate, both_s = rates.of(fitted, capped).most, limited.overlap_s(fitted, capped)
        assert rate is not None
        if both_s:
            assert before is not None
            present = rates.in_service(before).most
            assert present is not None
            billed += draw.uniform(0, both_s) / 3600 * hour_of(earlier, spec, draw)
            counted += both_s / 3600 * present
        stays = before is not None and before.ttl_hours == fitted.ttl_hours and not both_s
        ends = ends if stays else now + timedelta(hours=fitted.ttl_hours)
        lived_s = draw.uniform(0, (ends - now).total_seconds())
        billed += lived_s / 3600 * hour_of(fitted, capped, draw)
        counted += lived_s / 3600 * rate
        assert billed <= counted * ROUNDING
        now += timedelta(seconds=lived_s)
        before = as_found(fitted, capped, ends)
        earlier = fitted
        more = {"instances": draw.choice([1, 3])} if launcher.scaling in (None, Fixed()) else {}
        launcher = replace(launcher, **more, bake_s=draw.choice([180, 900]))
    late_s = (ends - now).total_seconds() + draw.uniform(0, 300)  # until its schedules have ended it
    assert billed + late_s / 3600 * hour_of(fitted, capped, draw) <= max_usd * ROUNDING


def as_found(settings: DeployLauncher, spec: RunSpec, ends: datetime) -> Deployed:
    """Return what a plan has made, as the launcher finds it afterwards."""
    about = {"expires_at": ends.isoformat(), "ttl_hours": settings.ttl_hours}
    if settings.variant == "lambda":
        facts = on_lambda_request.wanted_facts(settings, spec)
        return Deployed(on_lambda_request.revision(settings, spec), facts, variant="lambda", **about)
    return Deployed(
        request.revision(settings, spec),
        request.wanted_facts(settings, spec),
        scaling=str(settings.scaled or ""),
        front=front.revision(settings, spec),
        reserved=settings.reserved,
        warm=settings.provisioned,
        **about,
    )


@given(st.integers(0, 2**32))
def test_what_is_in_service_costs_what_its_settings_say(seed: int) -> None:
    settings = replace(deployment_of(random.Random(seed)), ttl_hours=8)
    spec = deployments.spec()
    found, wanted = rates.in_service(as_found(settings, spec, datetime.now(UTC))), rates.of(settings, spec)
    assert (found.least, found.most) == pytest.approx((wanted.least, wanted.most))
