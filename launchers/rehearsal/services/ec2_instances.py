"""EC2's instances: launched by Auto Scaling groups or RunInstances, described, terminated; and what they cost."""

import base64
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launchers.rehearsal.clock import Clock
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.service import Answer, Call, Handler, Refused, wait_for_ends
from launchers.rehearsal.services.ec2_answers import (
    handlers,
    matching,
    moment,
    new_id,
    paged,
    tags_for,
)
from launchers.rehearsal.services.ec2_instance import Instance
from launchers.rehearsal.services.ec2_launch import check_launch, key_refused
from launchers.rehearsal.services.ec2_network import Network
from launchers.rehearsal.services.ec2_run import InstanceRun, clear_left_over
from launchers.rehearsal.services.ec2_templates import Templates, check, check_known, groups_of, role_of

_SHOWN_S = 3600.0  # for which a terminated instance is still described


class Instances:
    """All instances. folder: contains a folder for each of them, which outlives it as the record of its cost."""

    def __init__(self, folder: Path, network: Network, templates: Templates, clock: Clock) -> None:
        self.folder, self.network, self.templates, self.clock = folder, network, templates, clock
        self._server: Server | None = None
        self._instances: dict[str, Instance] = {}
        self._runs: dict[str, InstanceRun] = {}
        self._lock = threading.RLock()

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        return handlers(
            "ec2",
            {
                "RunInstances": self.run,
                "DescribeInstances": self.describe,
                "DescribeInstanceStatus": self.statuses,
                "DescribeVolumes": self.volumes,
                "DescribeSpotInstanceRequests": self.requests,
                "GetConsoleOutput": self.console,
                "TerminateInstances": self.terminate,
                "StopInstances": self.refuse_stop,
                "StartInstances": self.refuse_stop,
            },
        )

    @property
    def active(self) -> bool:
        return any(run.is_alive() for run in list(self._runs.values()))

    def begin(self, server: Server) -> None:
        self._server = server
        for instance in Instance.load_all(self.folder):
            clear_left_over(instance)
            if instance.alive:
                instance.ended = self.clock.now()
                text = "the rehearsal cloud was stopped while the instance was running"
                instance.to("terminated", time.time(), code="Server.InternalError", reason=text)
            self._instances[instance.id] = instance

    def end(self) -> None:
        for run in list(self._runs.values()):
            run.abandon()
        wait_for_ends(list(self._runs.values()))

    # --- for Auto Scaling ---

    def launch(
        self,
        data: Mapping[str, Any],
        kind: str,
        subnet: str,
        faults: Faults,
        *,
        spot: bool,
        by: str,
        tags: Mapping[str, str] | None = None,
        group: str | None = None,
        template: tuple[str, int] | None = None,
        number: int = 1,
    ) -> Instance:
        """Launch one instance of a type. Raises Refused if that fails. by: the ARN of who launches, for the key."""
        assert self._server is not None
        check(data)
        check_known(data, self.network)
        zone = self.network.subnet(subnet)["AvailabilityZone"]
        profile, role = role_of(data["IamInstanceProfile"]) if "IamInstanceProfile" in data else (None, None)
        with self._lock:
            check_launch(data, kind, zone, faults, self.alive(), spot=spot)
            identity, count = new_id("i"), len(self._instances)
            specifications = data.get("TagSpecifications", ())
            instance = Instance(
                self.folder / identity,
                identity,
                kind,
                zone,
                subnet,
                f"{self.network.subnet(subnet)['CidrBlock'].rpartition('.')[0]}.{4 + count % 250}",
                spot,
                dict(data),
                time.time(),
                tags={**tags_for(specifications, "instance"), **(tags or {})},
                volume_tags=tags_for(specifications, "volume"),
                group=group,
                template=template,
                profile=profile,
                role=role,
                number=number,
                faults=asdict(faults),
                groups=groups_of(data) or [self._default_group()],
                kms_refused=key_refused(data, by),
            )
            instance.set_price(time.time())
            instance.to("pending", time.time())
            self._instances[identity] = instance
            self._runs[identity] = InstanceRun(instance, self._server, self.clock)
            self._runs[identity].start()
        return instance

    def end_one(self, identity: str) -> None:
        """Terminate an instance, if it is not ended yet."""
        if identity in self._runs and self._instances[identity].alive:
            self._runs[identity].terminate()

    def find(self, identity: str) -> Instance | None:
        return self._instances.get(identity)

    def alive(self) -> list[Instance]:
        with self._lock:
            return [instance for instance in self._instances.values() if instance.alive]

    def recommended(self, identity: str) -> bool:
        """Return whether an instance has a rebalance recommendation."""
        return identity in self._runs and self._runs[identity].recommended.is_set()

    def used_groups(self) -> set[str]:
        """Return the security groups of instances that are not ended."""
        return {group for instance in self.alive() for group in instance.groups}

    def tags_of(self, identity: str) -> dict[str, str] | None:
        return self._instances[identity].tags if identity in self._instances else None

    # --- operations ---

    def run(self, call: Call) -> Answer:
        asked = dict(call.parameters)
        template = None
        if "LaunchTemplate" in asked:
            identity, version, data = self.templates.data(asked["LaunchTemplate"])
            template, asked = (identity, version), {**data, **asked}
        if int(asked["MaxCount"]) != 1:
            raise Refused("InvalidParameterValue", "The rehearsal cloud runs one instance with a request.")
        market = asked.get("InstanceMarketOptions", {}).get("MarketType")
        subnets = [asked["SubnetId"]] if "SubnetId" in asked else sorted(self.network.subnets)
        subnets = [each["SubnetId"] for each in asked.get("NetworkInterfaces", ()) if "SubnetId" in each] or subnets
        if not subnets:
            raise Refused("MissingInput", "No subnets found for the default VPC. Please specify a subnet.")
        kind = asked.get("InstanceType", "m1.small")
        faults = replace(call.faults, no_capacity=0)
        if call.session.among_first(call.faults.no_capacity, "jobs"):
            faults = replace(faults, no_capacity_of=[kind])
        instance = self.launch(
            asked, kind, subnets[0], faults, spot=market == "spot", by=call.caller, template=template
        )
        return {"ReservationId": new_id("r"), "OwnerId": ACCOUNT, "Groups": [], "Instances": [instance.describe()]}

    def describe(self, call: Call) -> Answer:
        asked = call.parameters
        found = matching([each.describe() for each in self._asked(asked)], asked, _FILTERS)
        shown = [
            {"ReservationId": f"r-{each['InstanceId'][2:]}", "OwnerId": ACCOUNT, "Groups": [], "Instances": [each]}
            for each in found
        ]
        return paged("Reservations", shown, asked)

    def statuses(self, call: Call) -> Answer:
        every = call.parameters.get("IncludeAllInstances", False)
        found = [each for each in self._asked(call.parameters) if every or each.state == "running"]
        rows = matching([each.describe_status() for each in found], call.parameters, {})
        return paged("InstanceStatuses", rows, call.parameters)

    def volumes(self, call: Call) -> Answer:
        """Describe the volumes of instances; those here are deleted with their instance."""
        rows = [each.describe_volume() for each in self.alive()]
        wanted = call.parameters.get("VolumeIds")
        rows = [row for row in rows if wanted is None or row["VolumeId"] in wanted]
        known = {"attachment.instance-id": lambda row: [each["InstanceId"] for each in row["Attachments"]]}
        return paged("Volumes", matching(rows, call.parameters, known), call.parameters)

    def requests(self, call: Call) -> Answer:
        rows = []
        for instance in self._asked({}):
            if instance.spot:
                state = "active" if instance.alive else "closed"
                code = {"Server.SpotInstanceTermination": "instance-terminated-no-capacity"}.get(
                    instance.code, "fulfilled" if instance.alive else "instance-terminated-by-user"
                )
                row = {"SpotInstanceRequestId": instance.describe()["SpotInstanceRequestId"], "State": state}
                row |= {"InstanceId": instance.id, "Type": "one-time", "Status": {"Code": code, "Message": code}}
                rows.append({**row, "CreateTime": moment(instance.launched)})
        wanted = call.parameters.get("SpotInstanceRequestIds")
        rows = [row for row in rows if wanted is None or row["SpotInstanceRequestId"] in wanted]
        known = {"instance-id": lambda row: [row["InstanceId"]], "state": lambda row: [row["State"]]}
        return paged("SpotInstanceRequests", matching(rows, call.parameters, known), call.parameters)

    def console(self, call: Call) -> Answer:
        """Return the console, whose last 64 KB are kept."""
        (instance,) = self._asked({"InstanceIds": [call.parameters["InstanceId"]]})
        run = self._runs.get(instance.id)
        text = (run or InstanceRun(instance, Server("", ""), self.clock)).console.encode()[-65536:]
        encoded = base64.b64encode(text).decode()
        return {"InstanceId": instance.id, "Output": encoded, "Timestamp": moment(time.time())}

    def terminate(self, call: Call) -> Answer:
        rows = []
        for instance in self._asked({"InstanceIds": call.parameters["InstanceIds"]}):
            before = instance.describe()["State"]
            self.end_one(instance.id)
            rows.append(
                {"InstanceId": instance.id, "PreviousState": before, "CurrentState": instance.describe()["State"]}
            )
        return {"TerminatingInstances": rows}

    def refuse_stop(self, call: Call) -> Answer:
        text = "You can't stop the Spot Instance because it is associated with a one-time Spot Instance request."
        raise Refused("UnsupportedOperation", f"{text} The rehearsal cloud starts and stops no instance.")

    def _asked(self, asked: Mapping[str, Any]) -> Sequence[Instance]:
        wanted = asked.get("InstanceIds")
        if missing := [each for each in wanted or () if each not in self._instances]:
            ids = f"ID '{missing[0]}' does" if len(missing) == 1 else f"IDs '{', '.join(missing)}' do"
            raise Refused("InvalidInstanceID.NotFound", f"The instance {ids} not exist")
        with self._lock:
            every = list(self._instances.values())
        recent = [each for each in every if each.alive or time.time() - each.changed < _SHOWN_S]
        return recent if wanted is None else [self._instances[each] for each in wanted]

    def _default_group(self) -> str:
        found = (name for name, group in self.network.groups.items() if group["GroupName"] == "default")
        return next(found, "")


_FILTERS = {
    "instance-id": lambda item: [item["InstanceId"]],
    "instance-type": lambda item: [item["InstanceType"]],
    "instance-state-name": lambda item: [item["State"]["Name"]],
    "instance-state-code": lambda item: [item["State"]["Code"]],
    "instance-lifecycle": lambda item: [item.get("InstanceLifecycle", "")],
    "availability-zone": lambda item: [item["Placement"]["AvailabilityZone"]],
    "image-id": lambda item: [item["ImageId"]],
    "vpc-id": lambda item: [item.get("VpcId", "")],
    "subnet-id": lambda item: [item.get("SubnetId", "")],
    "instance.group-id": lambda item: [each["GroupId"] for each in item.get("SecurityGroups", ())],
    "iam-instance-profile.arn": lambda item: [item.get("IamInstanceProfile", {}).get("Arn", "")],
}
