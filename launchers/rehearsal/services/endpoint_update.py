"""Update an endpoint: blue/green with canary or linear steps, bake times and rollback by alarms; or its capacities.

Sources: "Deployment guardrails for updating models in production" in the SageMaker developer guide.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from launchers.aws.actions import Need
from launchers.rehearsal.access import HERE, authorize
from launchers.rehearsal.principals import of_role
from launchers.rehearsal.service import Refused, invalid
from launchers.rehearsal.services.alarms import alarm_states
from launchers.rehearsal.services.endpoint_fleet import Fleet
from launchers.rehearsal.services.endpoint_instance import StartError
from launchers.rehearsal.services.endpoint_record import Change, Variant

if TYPE_CHECKING:
    from launchers.rehearsal.services.endpoint_run import EndpointRun

_STEP_S = 0.1  # real, that phases take here which take minutes there
_LOOK_S = 0.5  # of the clock, between two looks at the alarms


class RollbackError(Exception):
    """Why an update is rolled back."""


class Updating:
    """Carries out the record's change, on the endpoint's thread."""

    def __init__(self, run: "EndpointRun") -> None:
        self.endpoint, self.record, self.clock = run, run.record, run.around.clock
        assert self.record.change is not None
        self.change: Change = self.record.change
        deployment = self.change.deployment or {}
        self.policy: Mapping[str, Any] = deployment.get("BlueGreenUpdatePolicy", {})
        self.alarms = [each["AlarmName"] for each in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])]
        self._until = self.clock.now() + self.policy.get("MaximumExecutionTimeoutInSeconds", math.inf)

    def run(self, abandoned: Callable[[], bool]) -> None:
        """Carry it out, or roll it back. Leaves all as it is if the server shuts down meanwhile."""
        time.sleep(_STEP_S)
        self._abandoned = abandoned
        try:
            if self.change.fleet:
                self._replace_fleet()
            else:
                self._change_capacities()
        except (StartError, RollbackError) as error:
            if not abandoned():
                self._roll_back(str(error))
            return
        if not abandoned():
            self.record.config_name, self.record.variants = self.change.config_name, self.change.variants
            self.record.metrics, self.record.change = self.change.metrics, None
            if self.change.fleet:
                self.record.deployment = self.change.deployment
            self.record.to("InService")

    def _replace_fleet(self) -> None:
        endpoint, blue = self.endpoint, self.endpoint.fleet
        endpoint.green = green = Fleet(
            endpoint.around, self.change.variants, self.change.config_name, self.change.metrics
        )
        green.start(self._ended)
        self._check()
        routing = self.policy.get("TrafficRoutingConfiguration", {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0})
        for share in shares(routing, self.change.variants):
            green.to("ActivatingTraffic")
            endpoint.balancer.share({blue: 1 - share, green: share} if share < 1 else {green: 1.0})
            green.to("Baking")
            self._bake(routing["WaitIntervalInSeconds"])
        green.to(None)
        self.clock.wait(self.policy.get("TerminationWaitInSeconds", 0), self._looking)
        if not self._abandoned():
            endpoint.fleet, endpoint.green = green, None
            blue.stop()

    def _change_capacities(self) -> None:
        """Start or stop instances until there are as many as wanted, and set the weights."""
        fleet = self.endpoint.fleet
        fleet.to("Updating")
        for wanted in self.change.variants:
            present = next(variant for variant in fleet.variants if variant.name == wanted.name)
            running = len(fleet.instances[wanted.name])
            if wanted.count > running:
                fleet.grow(present, wanted.count - running, self._ended)
            fleet.shrink(present, wanted.count)
        fleet.variants = list(self.change.variants)
        fleet.to(None)
        self.endpoint.balancer.share({fleet: 1.0})

    def _roll_back(self, reason: str) -> None:
        """Return to what was before. The endpoint is in service with it, and says why."""
        self.record.to("RollingBack", reason)
        endpoint = self.endpoint
        endpoint.balancer.share({endpoint.fleet: 1.0})
        if endpoint.green is not None:
            endpoint.green.stop()
            endpoint.green = None
        for variant in endpoint.fleet.variants:
            endpoint.fleet.shrink(variant, variant.count)
        endpoint.fleet.to(None)
        self.record.change = None
        self.record.to("InService", reason)

    def _bake(self, seconds: float) -> None:
        """Watch the alarms for so long. Raises RollbackError if one goes off."""
        until = self.clock.now() + seconds
        self._check()
        while self.clock.now() < until and not self._abandoned():
            self.clock.wait(min(_LOOK_S, max(until - self.clock.now(), 0)), self._abandoned)
            self.endpoint.look()
            self._check()

    def _check(self) -> None:
        """Raise RollbackError if an alarm has gone off, or the time is over."""
        states = alarm_states(self.alarms)
        if tripped := [name for name in self.alarms if states.get(name) == "ALARM"]:
            raise RollbackError(f"One or more alarms went off during the deployment: {', '.join(tripped)}")
        if self.clock.now() > self._until:
            raise RollbackError("The deployment exceeded MaximumExecutionTimeoutInSeconds")

    def _looking(self) -> bool:
        self.endpoint.look()
        return self._abandoned()

    def _ended(self) -> bool:
        """Supervise the fleet in service while another one starts."""
        with suppress(StartError):
            self.endpoint.fleet.look()
        if self.clock.now() > self._until:
            raise RollbackError("The deployment exceeded MaximumExecutionTimeoutInSeconds")
        return self._abandoned()


# --- what a request may ask for ---


def shares(routing: Mapping[str, Any], variants: Sequence[Variant]) -> Iterator[float]:
    """Yield the shares of traffic that the new fleet has, step by step."""
    total = min(variant.count for variant in variants)
    if routing["Type"] == "CANARY":
        yield _share(routing["CanarySize"], total)
    elif routing["Type"] == "LINEAR":
        size = _share(routing["LinearStepSize"], total)
        yield from (step * size for step in range(1, math.ceil(round(1 / size, 9))))
    yield 1.0


def _share(size: Mapping[str, Any], total: int) -> float:
    return float(size["Value"] / (total if size["Type"] == "INSTANCE_COUNT" else 100))


def check_deployment(deployment: Mapping[str, Any], variants: Sequence[Variant]) -> None:
    """Raise Refused for a DeploymentConfig that SageMaker does not accept for these variants."""
    if "RollingUpdatePolicy" in deployment:
        raise invalid("The rehearsal cloud has no rolling deployments.")
    policy = deployment.get("BlueGreenUpdatePolicy")
    if policy is None:
        return
    routing = policy["TrafficRoutingConfiguration"]
    for kind, key, least in (("CANARY", "CanarySize", 0.0), ("LINEAR", "LinearStepSize", 0.1)):
        if (routing["Type"] == kind) != (key in routing):
            verb = "must" if routing["Type"] == kind else "must not"
            raise invalid(f"{key} {verb} be specified for traffic routing of type {routing['Type']}.")
        for variant in variants if key in routing else ():
            if not least <= _share(routing[key], variant.count) <= 0.5:
                asked = f"{routing[key]['Value']} ({routing[key]['Type']}) of {variant.count} instances"
                limits = "less than or equal to 50%" if least == 0 else "10-50%"
                raise invalid(
                    f"{key} must be {limits} of the variant's total instance count, got {asked} of variant "
                    f"{variant.name}."
                )
    steps = len(list(shares(routing, variants)))
    waits = steps * routing["WaitIntervalInSeconds"] + policy.get("TerminationWaitInSeconds", 0)
    longest = policy.get("MaximumExecutionTimeoutInSeconds")
    if longest is not None and longest <= waits:
        raise invalid(
            f"MaximumExecutionTimeoutInSeconds ({longest}) must be greater than the total waiting time of "
            f"TerminationWaitInSeconds and WaitIntervalInSeconds ({waits})."
        )


def check_alarms(deployment: Mapping[str, Any], variants: Sequence[Variant], denied: Sequence[str]) -> None:
    """Raise Refused unless the alarms exist and the models' roles may look at them, as SageMaker does under them.

    denied: actions that a fault takes from the roles.
    """
    names = [each["AlarmName"] for each in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])]
    if missing := [name for name in names if name not in alarm_states(names)]:
        raise invalid(f"Could not find the alarms of AutoRollbackConfiguration: {', '.join(missing)}.")
    roles = {model["ExecutionRoleArn"] for variant in variants for model in variant.models.values()}
    for role in sorted(roles):
        needs = [Need("cloudwatch:DescribeAlarms", HERE.arn("cloudwatch", f"alarm:{name}")) for name in names]
        try:
            authorize(of_role(role, "SageMaker", denied), needs)
        except Refused as refused:
            raise invalid(f"The execution role cannot monitor the alarms: {refused.text}") from None


def retained(wanted: Variant, present: Variant | None, excluded: Sequence[str]) -> Variant:
    """Return a variant with the properties that it keeps over an update (RetainAllVariantProperties)."""
    if present is None:
        return wanted
    count = wanted.count if "DesiredInstanceCount" in excluded else present.count
    weight = wanted.weight if "DesiredWeight" in excluded else present.weight
    return Variant(wanted.config, wanted.models, count, weight)
