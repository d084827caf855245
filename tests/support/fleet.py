"""EC2 machines in a rehearsal cloud of the tests' own, made with plain boto3 clients."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import BUCKET
from tests.support.hurry import hurried
from tests.support.launcher_contract import until

PROFILE = "machines"
PARAMETER = "/aws/service/deeplearning/ami/x86_64/oss-nvidia-driver-gpu-pytorch-2.13-amazon-linux-2023/latest/ami-id"
PLAIN = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": f"arn:aws:s3:::{BUCKET}/*"},
        {"Effect": "Allow", "Action": "autoscaling:TerminateInstanceInAutoScalingGroup", "Resource": "*"},
    ],
}
# a program that calls AWS with what the machine has: its credentials, and its number from the metadata service
BOTO3 = """
import os, sys, urllib.request, boto3
place = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
def ask(path, method="GET", **headers):
    named = {"X-aws-ec2-metadata-" + key.replace("_", "-"): value for key, value in headers.items()}
    return urllib.request.urlopen(urllib.request.Request(place + path, headers=named, method=method)).read().decode()
token = ask("/latest/api/token", "PUT", token_ttl_seconds="21600")
def meta(path): return ask("/latest/meta-data/" + path, token=token)
me = meta("instance-id")
s3 = boto3.client("s3", region_name="us-east-1")
def put(name, text): s3.put_object(Bucket="dogbreed-rehearsal", Key=name, Body=text.encode())
groups = boto3.client("autoscaling", region_name="us-east-1")
def done(): groups.terminate_instance_in_auto_scaling_group(InstanceId=me, ShouldDecrementDesiredCapacity=True)
"""


def python(code: str) -> str:
    """Return a script that runs Python code with what BOTO3 has."""
    return f"#!/bin/bash\nset -eu\n/opt/pytorch/bin/python - <<'CODE'\n{BOTO3}{code}\nCODE\n"


@dataclass
class Fleet:
    """Makes and watches groups of machines. `ready` first makes a role and its profile."""

    cloud: Rehearsal

    def __post_init__(self) -> None:
        self.ec2, self.groups, self.s3 = (self.cloud.client(name) for name in ("ec2", "autoscaling", "s3"))

    def ready(self) -> "Fleet":
        iam = self.cloud.client("iam")
        iam.create_role(RoleName=PROFILE, AssumeRolePolicyDocument=json.dumps(TRUST))
        iam.put_role_policy(RoleName=PROFILE, PolicyName="all", PolicyDocument=json.dumps(POLICY))
        iam.create_instance_profile(InstanceProfileName=PROFILE)
        iam.add_role_to_instance_profile(InstanceProfileName=PROFILE, RoleName=PROFILE)
        return self

    def with_faults(self, **faults: Any) -> "Fleet":
        reclaims, rate = faults.pop("reclaims", 0), faults.pop("clock_rate", self.cloud.clock_rate)
        return Fleet(replace(self.cloud, faults=faults, reclaims=reclaims, clock_rate=rate, _clients={}))

    def hurried(self) -> "Fleet":
        return Fleet(hurried(self.cloud))

    def image(self, parameter: str = PARAMETER) -> str:
        return str(self.cloud.client("ssm").get_parameter(Name=parameter)["Parameter"]["Value"])

    def subnets(self, *zones: str) -> str:
        found = self.ec2.describe_subnets()["Subnets"]
        return ",".join(each["SubnetId"] for each in found if not zones or each["AvailabilityZone"] in zones)

    def data(self, script: str, **more: Any) -> dict[str, Any]:
        return {
            "ImageId": self.image(),
            "UserData": base64.b64encode(script.encode()).decode(),
            "IamInstanceProfile": {"Name": PROFILE},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            **more,
        }

    def group(
        self,
        name: str,
        script: str = "#!/bin/bash\nsleep 6000\n",
        *,
        kinds: tuple[str, ...] = ("m5.large",),
        zones: tuple[str, ...] = (),
        on_demand: bool = False,
        data: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> str:
        """Create a template and a group of at most one machine, which starts it; the group's name."""
        self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=self.data(script, **(data or {})))
        distribution = {
            "OnDemandBaseCapacity": 0,
            "OnDemandPercentageAboveBaseCapacity": 100 if on_demand else 0,
            "SpotAllocationStrategy": "price-capacity-optimized",
        }
        template = {
            "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "1"},
            "Overrides": [{"InstanceType": kind} for kind in kinds],
        }
        request = {
            "MinSize": 0,
            "MaxSize": 1,
            "DesiredCapacity": 1,
            "VPCZoneIdentifier": self.subnets(*zones),
            "CapacityRebalance": False,
            **more,
        }
        policy = {"LaunchTemplate": template, "InstancesDistribution": distribution}
        self.groups.create_auto_scaling_group(AutoScalingGroupName=name, MixedInstancesPolicy=policy, **request)
        return name

    def at(self, in_s: float) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=in_s)

    # --- what there is ---

    def described(self, name: str) -> dict[str, Any]:
        (found,) = self.groups.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
        return dict(found)

    def machines(self, name: str) -> list[dict[str, Any]]:
        """Return all instances that a group has had, the oldest first."""
        filters = [{"Name": "tag:aws:autoscaling:groupName", "Values": [name]}]
        found = self.ec2.describe_instances(Filters=filters)["Reservations"]
        return [instance for each in found for instance in each["Instances"]]

    def states(self, name: str) -> list[str]:
        return [each["State"]["Name"] for each in self.machines(name)]

    def wait(self, name: str, *states: str) -> list[dict[str, Any]]:
        """Wait until the states of a group's machines are these; return the machines."""
        until(lambda: self.states(name) == list(states))
        return self.machines(name)

    def console(self, machine: Mapping[str, Any]) -> str:
        return str(self.ec2.get_console_output(InstanceId=machine["InstanceId"])["Output"])

    def activities(self, name: str) -> list[dict[str, Any]]:
        found = self.groups.describe_scaling_activities(AutoScalingGroupName=name, IncludeDeletedGroups=True)
        return list(found["Activities"])

    def stored(self, key: str) -> str | None:
        try:
            return str(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode())
        except self.s3.exceptions.NoSuchKey:
            return None

    def end(self, name: str) -> None:
        self.groups.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)
        self.ec2.delete_launch_template(LaunchTemplateName=name)


def refusal(error: ClientError) -> tuple[str, str]:
    return str(error.response["Error"]["Code"]), str(error.response["Error"]["Message"])
