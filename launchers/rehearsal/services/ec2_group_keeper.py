"""What Auto Scaling does by itself: it keeps the desired capacity, replaces machines, executes scheduled actions."""

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from launchers.rehearsal.clock import Clock
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.ec2_catalog import offerings, spot_usd, types, usd
from launchers.rehearsal.services.ec2_group import Group, Member
from launchers.rehearsal.services.ec2_instances import Instances
from launchers.rehearsal.services.ec2_launch import AUTOSCALING_ROLE

_TICK_S = 0.05
_IMPAIRED_S = 30.0  # until failed status checks count; minutes there
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 4.0, 120.0  # after a launch that failed
_FAILED = "Launching EC2 instance failed."
_OUT = "an instance was taken out of service in response to an EC2"
_GONE = f"{_OUT} health check indicating it has been terminated or stopped."
_IMPAIRED = f"{_OUT} instance status checks failure."
_REBALANCE = f"{_OUT} instance rebalance recommendation."


class Keeper(threading.Thread):
    """Follows all groups. groups: returns them; called under `lock`, which requests hold as well."""

    def __init__(
        self, groups: Callable[[], list[Group]], instances: Instances, clock: Clock, lock: threading.RLock
    ) -> None:
        super().__init__(daemon=True, name="auto scaling")
        self._groups, self.instances, self.clock, self._lock = groups, instances, clock, lock
        self._ended = threading.Event()
        self._impaired: dict[str, float] = {}  # since when, on the cloud's clock

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(_TICK_S):
            with self._lock:
                for group in self._groups():
                    if group.deleted:
                        continue
                    try:
                        self.follow(group)
                    except Exception:  # one odd group must not stop all others
                        traceback.print_exc()

    def follow(self, group: Group) -> None:
        """Look at one group, and do what is due."""
        before = len(group.activities), [(member.id, member.state) for member in group.members], len(group.actions)
        self._execute(group)
        self._look(group)
        self._replace(group)
        self._keep(group)
        if group.deleting and not group.members:
            group.deleted, group.actions = True, {}
        now = len(group.activities), [(member.id, member.state) for member in group.members], len(group.actions)
        if now != before or group.deleted:
            group.save()

    # --- scheduled actions ---

    def _execute(self, group: Group) -> None:
        if group.is_suspended("ScheduledActions") or group.deleting:
            return
        due = [name for name, action in group.actions.items() if action["due"] <= self.clock.now()]
        for name in sorted(due, key=lambda name: float(group.actions[name]["due"])):
            request = group.actions.pop(name)["request"]
            least, most = request.get("MinSize", group.least), request.get("MaxSize", group.most)
            desired = request.get("DesiredCapacity")
            group.least, group.most = (group.least if least is None else least), (group.most if most is None else most)
            wanted = group.desired if desired is None else desired
            before, group.desired = group.desired, max(group.least, min(group.most, wanted))
            group.cause = (
                f"the scheduled action {name} executed. Setting desired capacity from {before} to {group.desired}. "
            )

    # --- instances as they are ---

    def _look(self, group: Group) -> None:
        for member in list(group.members):
            instance = self.instances.find(member.id)
            state = "terminated" if instance is None else instance.state
            if member.state == "Pending" and state == "running":
                member.state = "InService"
                self._end(group, member, "")
            elif member.state == "Pending" and state in ("terminated", "stopped"):
                assert instance is not None
                text = "Instance became unhealthy while waiting for instance to be in InService state. "
                self._end(group, member, f"{text}Termination Reason: {instance.code}: {instance.reason}")
                self._failed(group)
                group.members.remove(member)
            elif member.state.startswith("Terminating") and state in ("terminated", "stopped"):
                self._end(group, member, "")
                group.members.remove(member)

    def _replace(self, group: Group) -> None:
        """Take instances out of service that have ended by themselves, or fail their checks."""
        if group.is_suspended("HealthCheck") or group.is_suspended("ReplaceUnhealthy"):
            return
        for member in list(group.members):
            instance = self.instances.find(member.id)
            if member.state != "InService" or instance is None:
                continue
            if instance.state not in ("pending", "running"):
                self.take_out(group, member, _GONE)
            elif instance.impaired or not member.healthy:
                since = self._impaired.setdefault(member.id, self.clock.now())
                if self.clock.now() - since > _IMPAIRED_S or not member.healthy:
                    self.take_out(group, member, _IMPAIRED)

    def take_out(self, group: Group, member: Member, why: str) -> None:
        """Terminate an instance. why: the end of the sentence that DescribeScalingActivities shows."""
        activity = group.begin(f"Terminating EC2 instance: {member.id}", why, **{"Availability Zone": member.zone})
        activity["instance"] = member.id
        member.state, member.healthy = "Terminating", why not in (_GONE, _IMPAIRED)
        self.instances.end_one(member.id)

    # --- capacity ---

    def _keep(self, group: Group) -> None:
        """Launch or terminate, until there are as many instances as desired."""
        staying = [member for member in group.members if not member.state.startswith("Terminating")]
        wanted = 0 if group.deleting else group.desired
        leaving = [member for member in staying if wanted and self._rebalanced(group, member)]
        if len(staying) > wanted + len(leaving) and not group.is_suspended("Terminate"):
            for member in (leaving + staying)[: len(staying) - wanted]:
                self.take_out(group, member, self._shrinking(group, len(staying), wanted))
        elif len(leaving) and len(staying) > wanted and all(each.state == "InService" for each in staying):
            for member in leaving:  # those in their place are in service
                self.take_out(group, member, _REBALANCE)
        elif len(staying) < wanted + len(leaving) and self._may_launch(group):
            self._launch(group, len(staying), wanted)

    def _may_launch(self, group: Group) -> bool:
        return not group.is_suspended("Launch") and self.clock.now() >= group.next_at

    def _rebalanced(self, group: Group, member: Member) -> bool:
        return bool(group.request.get("CapacityRebalance")) and self.instances.recommended(member.id)

    def _shrinking(self, group: Group, now: int, wanted: int) -> str:
        cause, group.cause = group.cause or "a user request explicitly set group desired capacity. ", ""
        return (
            f"{cause}an instance was taken out of service in response to a difference between desired and actual "
            f"capacity, shrinking the capacity from {now} to {wanted}."
        )

    def _launch(self, group: Group, now: int, wanted: int) -> None:
        cause, group.cause = group.cause, ""
        why = (
            f"{cause}an instance was started in response to a difference between desired and actual capacity, "
            f"increasing the capacity from {now} to {wanted}."
        )
        activity = group.begin("Launching a new EC2 instance.", why)
        try:
            instance_id = self._launched(group)
        except Refused as refused:
            activity["description"] = f"Launching a new EC2 instance.  Status Reason: {refused.text}. {_FAILED}"
            group.end(activity, f"{refused.text} {_FAILED}")
            self._failed(group)
            return
        group.failures = 0
        activity["description"] = f"Launching a new EC2 instance: {instance_id}"
        activity["instance"] = instance_id

    def _launched(self, group: Group) -> str:
        """Launch an instance where it is cheapest and there is room. Raises the refusal of the last try."""
        identity, version, data = self.instances.templates.data(group.template)
        kinds, spot, faults = (
            group.overrides or [data.get("InstanceType", "m1.small")],
            group.spot(data),
            group.injected,
        )
        if group.short > 0:
            group.short -= 1
            faults = replace(faults, no_capacity_of=kinds)
        refusal: Refused | None = None
        for kind, subnet in self._places(group, kinds, spot=spot):
            try:
                instance = self.instances.launch(
                    {**data, "InstanceType": kind},
                    kind,
                    subnet,
                    faults,
                    spot=spot,
                    by=AUTOSCALING_ROLE,
                    tags=group.propagated(),
                    group=group.name,
                    template=(identity, version),
                    number=group.launched + 1,
                )
            except Refused as refused:
                if refusal is None or refused.code != "Unsupported":  # a zone without the type is the least reason
                    refusal = refused
                continue
            group.launched += 1
            name = self.instances.templates.find(group.template)["name"]
            template = {"LaunchTemplateId": identity, "LaunchTemplateName": name, "Version": str(version)}
            group.members.append(Member(instance.id, kind, instance.zone, template))
            return instance.id
        raise refusal or Refused("ValidationError", "The subnets of the group do not exist.")

    def _places(self, group: Group, kinds: list[str], *, spot: bool) -> list[tuple[str, str]]:
        """Return types and subnets as they are tried: offered ones first, spot ones by price, others by priority."""
        subnets = {each: self.instances.network.subnets[each]["AvailabilityZone"] for each in group.subnets
                   if each in self.instances.network.subnets}  # fmt: skip

        def order(place: tuple[str, str]) -> tuple[bool, float, float]:
            kind, zone = place[0], subnets[place[1]]
            if kind not in types() or (kind, zone) not in offerings():
                return True, 0.0, 0.0
            price = spot_usd(kind, zone, time.time()) if spot else usd(kind)
            return False, (price if spot else float(kinds.index(kind))), price

        return sorted(((kind, subnet) for kind in kinds for subnet in subnets), key=order)

    def _failed(self, group: Group) -> None:
        """Wait longer after each launch that fails."""
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**group.failures)
        group.failures += 1
        group.next_at = self.clock.now() + pause_s

    def _end(self, group: Group, member: Member, message: str) -> None:
        for activity in group.activities:
            if activity.get("instance") == member.id and activity["end"] is None:
                group.end(activity, message)
