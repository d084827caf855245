"""How many instances an endpoint has: the settings of conf/launcher/scaling, and the rules that follow from them."""

from dataclasses import dataclass, replace
from typing import ClassVar, cast

from launchers.aws import scaling as rules
from launchers.aws.scaling import Metric, Policy, StepScaling, TargetTracking


@dataclass(frozen=True)
class Fixed:
    """As many instances as launcher.instances says, always."""

    kind: ClassVar[str] = "none"


@dataclass(frozen=True)
class Concurrency:
    """Follow the requests in progress. conf/launcher/scaling/concurrency.yaml explains each key."""

    kind: ClassVar[str] = "concurrency"

    min: int = 2
    max: int = 3
    target: float | None = None
    out_s: float = 60
    in_s: float = 300

    def policy(self, vcpus: int) -> Policy:
        return rules.concurrency(float(vcpus if self.target is None else self.target), self.out_s, self.in_s)


@dataclass(frozen=True)
class Report:
    """Follow the CPUs in steps of one instance. conf/launcher/scaling/report.yaml explains each key."""

    kind: ClassVar[str] = "report"

    min: int = 1
    max: int = 3
    cpu_percent: float = 140
    calm_percent: float = 70
    out_s: float = 60
    in_s: float = 300

    def policy(self, vcpus: int) -> Policy:
        return rules.report(float(self.cpu_percent), float(self.calm_percent), self.out_s, self.in_s)


@dataclass(frozen=True)
class Invocations:
    """Follow the requests per minute. conf/launcher/scaling/invocations.yaml explains each key."""

    kind: ClassVar[str] = "invocations"

    min: int = 1
    max: int = 3
    max_rps: float | None = None
    safety: float = rules.SAFETY
    out_s: float = 300
    in_s: float = 300

    def policy(self, vcpus: int) -> Policy:
        assert self.max_rps is not None, "the checks refuse settings without it"
        return rules.invocations(self.max_rps, self.safety, self.out_s, self.in_s)


Scaling = Fixed | Concurrency | Report | Invocations
METRICS: dict[str, Metric] = {"concurrency": "concurrency", "report": "cpu", "invocations": "invocations"}


@dataclass(frozen=True)
class Scaled:
    """How an endpoint scales, with every number: as the settings ask for it, or as it was found in the account.

    kind: as in conf/launcher/scaling. least, most: numbers of instances. policy: None if the account has none, or only
    a part of one.
    """

    kind: str
    least: int
    most: int
    policy: Policy | None

    def __str__(self) -> str:
        """Say all of it in a line, so that equal ones, and only these, read the same."""
        rule, about = self.policy, f"{self.kind}: {self.least} to {self.most} instances"
        if rule is None:
            return f"{about}, not complete"
        if isinstance(rule, TargetTracking):
            about = f"{about}, at {rule.target:g} each"
        else:
            about = f"{about}, more above {rule.high.threshold:g}"
            about += f", fewer below {rule.low.threshold:g}" if rule.low else ""
        return f"{about}, waits of {rule.out_s:g} and {rule.in_s:g} s"

    @property
    def numbers(self) -> str:
        """The same as fits into a tag. Of steps that somebody has changed by hand it holds the thresholds."""
        rule, found = self.policy, list[float]()
        if isinstance(rule, TargetTracking):
            found = [rule.target, rule.out_s, rule.in_s]
        elif isinstance(rule, StepScaling):
            found = [rule.high.threshold, rule.low.threshold if rule.low else 0.0, rule.out_s, rule.in_s]
        return " ".join([self.kind, str(self.least), str(self.most), *map(repr, map(float, found))])

    @classmethod
    def of_numbers(cls, text: str) -> "Scaled":
        """Return what `numbers` holds."""
        kind, least, most, *rest = text.split()
        found, policy = list(map(float, rest)), cast(Policy | None, None)
        if kind == "report" and found:
            policy = rules.report(*found)
        elif kind == "concurrency" and found:
            policy = rules.concurrency(*found)
        elif found:
            policy = TargetTracking(found[0], out_s=found[1], in_s=found[2])
        return cls(kind, int(least), int(most), policy)

    def on(self, share: float) -> "Scaled":
        """Return the same for instances with so many times as many vCPUs."""
        rule = self.policy
        if isinstance(rule, TargetTracking):
            rule = replace(rule, target=rule.target * share)
        elif isinstance(rule, StepScaling):
            low = rule.low and replace(rule.low, threshold=rule.low.threshold * share)
            rule = replace(rule, high=replace(rule.high, threshold=rule.high.threshold * share), low=low)
        return replace(self, policy=rule)


def kind_of(text: str) -> str:
    """Return the kind in what `Scaled` says of itself; empty for none."""
    return text.partition(":")[0]
