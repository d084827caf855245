"""Draw scenarios: which launcher, which faults, who is killed when, and how a person goes on. Pure."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

JOBS = ("sagemaker_gpu", "sagemaker_spot", "sagemaker_multi")
MACHINES = ("ec2_spot", "ec2_on_demand")
RUNS = (*JOBS, *MACHINES, "local")
DEPLOYMENTS = ("endpoint", "front", "lambda")
SEARCHES = ("one_job", "tuner")
ONWARD_OF_SEARCHES = ("as told", "the same command", "elsewhere", "on another machine")
KINDS = (*RUNS, *DEPLOYMENTS, *SEARCHES)
ZONES = [f"us-east-1{letter}" for letter in "abcdef"]
# updates of a deployment: the first one makes a revision, which can be rolled back; the others change what is around it
CHANGES = {
    "endpoint": ("launcher.start_s=299",),
    "front": ("launcher.start_s=299", "launcher.reserved=2"),
    "lambda": ("launcher.memory_mb=2048", "launcher.reserved=2"),
}
_TAKEN = {"status": 5, "logs": 4, "invoke": 3, "result": 5, "download": 4, "cancel": 6, "cleanup": 16}  # actions, about
_TAKEN_OF_DEPLOYMENT = {**_TAKEN, "status": 10, "rollback": 12, "cancel": 18}

_DENIED_JOBS = (
    *("s3:PutObject", "s3:GetObject", "s3:ListBucket", "iam:GetRole", "iam:PassRole", "sagemaker:CreateTrainingJob"),
    *("sagemaker:DescribeTrainingJob", "sagemaker:ListTags", "sagemaker:AddTags"),
)
_DENIED_MACHINES = (
    *("s3:PutObject", "s3:GetObject", "s3:ListBucket", "iam:PassRole", "ec2:CreateLaunchTemplate", "ec2:CreateTags"),
    *("autoscaling:CreateAutoScalingGroup", "autoscaling:CreateOrUpdateTags", "autoscaling:DescribeAutoScalingGroups"),
    *("autoscaling:PutScheduledUpdateGroupAction", "ec2:DescribeSubnets", "ec2:DescribeImages"),
)
_DENIED_DEPLOYMENTS = (
    *(
        "s3:PutObject",
        "scheduler:CreateSchedule",
        "sagemaker:CreateModel",
        "iam:PassRole",
        "sagemaker:DescribeEndpoint",
    ),
    *("sagemaker:CreateEndpointConfig", "cloudwatch:PutMetricAlarm", "sagemaker:InvokeEndpoint", "sagemaker:AddTags"),
)
_DENIED_FRONTS = (
    *("logs:CreateLogGroup", "logs:PutRetentionPolicy", "lambda:CreateFunction", "lambda:PublishVersion"),
    *("lambda:PutFunctionConcurrency", "lambda:CreateAlias", "lambda:CreateFunctionUrlConfig"),
)
_DENIED_LAMBDAS = (
    *("s3:PutObject", "scheduler:CreateSchedule", "logs:CreateLogGroup", "logs:PutRetentionPolicy", "iam:PassRole"),
    *("lambda:CreateFunction", "lambda:PublishVersion", "lambda:InvokeFunction", "lambda:CreateAlias"),
    *("lambda:CreateFunctionUrlConfig", "lambda:GetFunction", "lambda:UpdateFunctionCode", "lambda:UpdateAlias"),
)
_DENIED_TO_JOB = ("s3:GetObject", "s3:PutObject", "s3:ListBucket", "logs:PutLogEvents", "ecr:BatchGetImage")
_DENIED_TO_MACHINE = ("s3:GetObject", "s3:PutObject", "autoscaling:TerminateInstanceInAutoScalingGroup")


@dataclass(frozen=True)
class Kill:
    """The end of a command. call: of AWS, from 1, at which it comes; step: of training on this machine."""

    signal: str
    call: int | None = None
    step: int | None = None
    after: bool = False


@dataclass(frozen=True)
class Lacking:
    """A verb that is typed once with a permission missing: that of its `action`th action, from 1."""

    verb: str
    action: int


@dataclass
class Scenario:
    """What happens to one run, search or deployment.

    client: faults that the first command alone meets; rented: those of what it rents. endless: nothing that is rented
    can end the run, so that its deadline must. server_dies_s: seconds until the cloud's process is killed; it comes
    back with its state. waits: whether the command stays until the end. tight: whether limits.max_usd ends the run.
    onward: how what has failed or was cancelled goes on: as its message tells, by the command that started it, from
    another folder, where nothing is known of it, or also on another launcher. during: the step of a deployment at which
    faults and the end of a command come. change: the update of a deployment. abandoned: nobody looks after it once it
    was asked for. lacking: a verb that is typed with a permission missing, before it is typed as it should be.
    """

    seed: int
    kind: str
    client: dict[str, Any] = field(default_factory=dict)
    rented: dict[str, Any] = field(default_factory=dict)
    endless: bool = False
    kill: Kill | None = None
    server_dies_s: float | None = None
    cancel_after_s: float | None = None
    waits: bool = False
    tight: bool = False
    onward: str = "as told"
    last: str = "result"
    during: str = "create"
    change: str = ""
    abandoned: bool = False
    lacking: Lacking | None = None

    @classmethod
    def draw(cls, seed: int) -> "Scenario":
        pick = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        drawn = cls(seed, kind, waits=pick.random() < 0.4)
        for trouble in pick.sample(_troubles(kind), pick.choice([2, 2, 3])):
            trouble(drawn, pick)
        others = [each for each in RUNS if each != kind]
        drawn.onward = pick.choice(["as told", "as told", "elsewhere", pick.choice(others)])
        drawn.last = pick.choice(["result", "result", "download", "cancel", "cleanup"])
        if kind in SEARCHES:
            drawn.onward = pick.choice(ONWARD_OF_SEARCHES)
        if kind in DEPLOYMENTS:
            drawn.during = pick.choice(["create", "create", "update", "rollback", "cancel"])
            drawn.abandoned = drawn.during == "create" and pick.random() < 0.3
            drawn.change = pick.choice(CHANGES[kind]) if drawn.during == "update" else CHANGES[kind][0]
        if kind != "local" and not drawn.abandoned and pick.random() > (0.2 if kind in DEPLOYMENTS else 0.6):
            drawn.lacking = drawn._draw_lacking(pick)
        return drawn

    def _draw_lacking(self, pick: random.Random) -> Lacking:
        """Draw a verb that is typed in this scenario, and which of its actions is not permitted."""
        if self.kind in DEPLOYMENTS:
            verb = pick.choice(["status", "logs", "invoke", "cancel", "cancel", "cleanup"])
            if self.during == "rollback":
                verb = "rollback"
            return Lacking(verb, pick.randint(1, _TAKEN_OF_DEPLOYMENT[verb]))
        cancel = [] if self.cancel_after_s is None else ["cancel"] * 2
        verb = pick.choice(["status", "cleanup", self.last, self.last, *cancel])
        return Lacking(verb, pick.randint(1, _TAKEN[verb]))

    def __str__(self) -> str:
        """Say what happens, in a few words."""
        parts = [f"{name}={value}" for name, value in {**self.client, **self.rented}.items()]
        if self.kill is not None:
            where = f"step {self.kill.step}" if self.kill.step else f"call {self.kill.call}"
            parts.append(f"{self.kill.signal} {'after' if self.kill.after else 'at'} {where}")
        if self.server_dies_s is not None:
            parts.append(f"server killed after {self.server_dies_s:.1f} s")
        if self.cancel_after_s is not None:
            parts.append(f"cancelled after {self.cancel_after_s:.1f} s")
        if self.kind in DEPLOYMENTS:
            parts.append("then left alone" if self.abandoned else f"during {self.during}")
            if self.during == "update":
                parts.append(self.change)
        if self.lacking is not None:
            parts.append(f"{self.lacking.verb} without action {self.lacking.action}")
        if self.tight:
            parts.append("a tight limits.max_usd")
        return f"{self.kind}: {', '.join(parts)}"


Trouble = Callable[[Scenario, random.Random], None]


def _troubles(kind: str) -> list[Trouble]:
    if kind == "local":
        return [_kill_training, _kill_training, _cancel]
    if kind in DEPLOYMENTS:
        actions = _DENIED_DEPLOYMENTS + (_DENIED_FRONTS if kind == "front" else ())
        if kind == "lambda":
            return [_throttle, _fail_s3, _expire, _kill, _kill, _kill, _kill_server, _deny(_DENIED_LAMBDAS)]
        return [_throttle, _fail_s3, _expire, _kill, _kill, _kill, _kill_server, _deny(actions), _no_instance]
    if kind in SEARCHES:
        own = [_deny(_DENIED_JOBS), _deny_to_role(_DENIED_TO_JOB), _crash, _no_machine, _quota, _reclaim, _reclaim]
        return [_throttle, _fail_s3, _expire, _kill, _kill, _kill_server, _cancel, *own]
    common = [_throttle, _fail_s3, _expire, _kill, _kill, _kill_server, _cancel]
    if kind in MACHINES:
        hopeless = _hopeless(_DENIED_TO_MACHINE)
        own = [_deny(_DENIED_MACHINES), _crash, _boot_failure, _no_machine_in, hopeless, hopeless]
        return [*common, *own, *([_reclaim, _reclaim, _rebalance] if kind == "ec2_spot" else [])]
    own = [_deny(_DENIED_JOBS), _deny_to_role(_DENIED_TO_JOB), _crash, _no_machine, _quota, _tight, _late]
    return [*common, *own, *([_reclaim, _reclaim] if kind == "sagemaker_spot" else [])]


# --- what may happen ---


def _moment(pick: random.Random) -> str:
    late = f"{pick.uniform(0, 4):.2f}s"
    return pick.choice([late, late, f"checkpoint {pick.randint(1, 3)}", f"epoch {pick.randint(1, 3)}", "start"])


def _throttle(to: Scenario, pick: random.Random) -> None:
    to.client["throttled"] = pick.choice([1, 3, 8])  # a request is sent eight times, then it fails


def _fail_s3(to: Scenario, pick: random.Random) -> None:
    to.client["s3_failures"] = pick.choice([1, 2, 3])


def _expire(to: Scenario, pick: random.Random) -> None:
    to.client["expires_after"] = pick.randint(1, 40)


def _kill(to: Scenario, pick: random.Random) -> None:
    name = pick.choice(["SIGKILL", "SIGTERM"])
    to.kill = Kill(name, call=pick.randint(1, 34), after=pick.random() < 0.5)


def _kill_training(to: Scenario, pick: random.Random) -> None:
    to.kill = Kill(pick.choice(["SIGKILL", "SIGTERM", "SIGINT"]), step=pick.randint(1, 40))


def _kill_server(to: Scenario, pick: random.Random) -> None:
    to.server_dies_s = pick.uniform(1, 14)


def _cancel(to: Scenario, pick: random.Random) -> None:
    to.cancel_after_s, to.waits = pick.uniform(0, 9), False


def _deny(actions: tuple[str, ...]) -> Trouble:
    def deny(to: Scenario, pick: random.Random) -> None:
        to.client["denied"] = [pick.choice(actions)]

    return deny


def _deny_to_role(actions: tuple[str, ...]) -> Trouble:
    def deny(to: Scenario, pick: random.Random) -> None:
        to.rented["denied_to_role"] = [pick.choice(actions)]

    return deny


def _crash(to: Scenario, pick: random.Random) -> None:
    to.rented |= {"crash_at": _moment(pick), "crashes": pick.choice([1, 1, 2, 3])}


def _no_machine(to: Scenario, pick: random.Random) -> None:
    to.rented["no_capacity"] = 1


def _no_instance(to: Scenario, pick: random.Random) -> None:
    to.client["no_capacity_of"] = pick.choice([["ml.c7i.large"], ["ml.c7i.large", "ml.c6i.large"]])


def _no_machine_in(to: Scenario, pick: random.Random) -> None:
    to.rented |= {"no_capacity_in": pick.sample(ZONES, pick.randint(1, 4)), "no_capacity": pick.randint(0, 2)}


def _quota(to: Scenario, pick: random.Random) -> None:
    to.client["quotas"] = {"ml.m5.large": pick.choice([0, 1]) if to.kind == "sagemaker_multi" else 0}


def _tight(to: Scenario, pick: random.Random) -> None:
    to.tight, to.waits = True, False


def _late(to: Scenario, pick: random.Random) -> None:
    to.rented |= {"log_delay_s": pick.choice([0, 2]), "upload_lag_s": pick.choice([0.4, 1.0])}


def _reclaim(to: Scenario, pick: random.Random) -> None:
    count = pick.choice([1, 2, 3])
    to.rented |= {"reclaim_at": [_moment(pick) for _ in range(count)], "reclaims": count, "hard": pick.random() < 0.5}


def _boot_failure(to: Scenario, pick: random.Random) -> None:
    to.rented["boot_failures"] = 1


def _rebalance(to: Scenario, pick: random.Random) -> None:
    to.rented["rebalance_at"] = _moment(pick)


def _hopeless(denied: tuple[str, ...]) -> Trouble:
    def hopeless(to: Scenario, pick: random.Random) -> None:
        everywhere = [
            {"no_capacity_in": ZONES},
            {"clock_skew_s": 1800},
            {"denied_to_role": [pick.choice(denied)]},
            {"crash_at": "start", "crashes": 1000},
        ]
        to.rented |= pick.choice(everywhere)
        to.endless, to.waits = True, False

    return hopeless
