"""EC2's and Auto Scaling's interfaces in the rehearsal cloud: what they say, and what they refuse as AWS does."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.marked import MACHINE, marked
from launchers.rehearsal.names import ACCOUNT, SERVER_FILE
from tests.support.fleet import PARAMETER, PLAIN, PROFILE, Fleet, refusal
from tests.support.launcher_contract import until

pytestmark = pytest.mark.cloud
LAUNCHING = "autoscaling:EC2_INSTANCE_LAUNCHING"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    place = tmp_path_factory.mktemp("fleet") / "state"
    try:
        yield Fleet(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
    finally:
        process.stop(place)


@pytest.fixture(scope="module")
def idle(fleet: Fleet) -> str:
    """A group that wants no machine."""
    return fleet.group("idle", DesiredCapacity=0)


def refused(call: Callable[..., Any], **parameters: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as error:
        call(**parameters)
    return refusal(error.value)


# --- what is offered ---


def test_images_are_found_through_their_public_parameters(fleet: Fleet) -> None:
    found = fleet.ec2.describe_images(ImageIds=[fleet.image(PARAMETER), fleet.image(PLAIN)])["Images"]
    about = {(each["RootDeviceName"], each["Architecture"], each["Name"][:13]) for each in found}
    assert about == {("/dev/xvda", "x86_64", "Deep Learning"), ("/dev/xvda", "x86_64", "al2023-ami-20")}
    ssm = fleet.cloud.client("ssm")
    missing = "/aws/service/deeplearning/ami/x86_64/oss-nvidia-driver-gpu-pytorch-1.4-ubuntu-18.04/latest/ami-id"
    assert refused(ssm.get_parameter, Name=missing)[0] == "ParameterNotFound"
    assert refused(fleet.ec2.describe_images, ImageIds=["ami-0123456789abcdef0"])[0] == "InvalidAMIID.NotFound"


def test_types_have_processors_and_zones_as_on_aws(fleet: Fleet) -> None:
    found = fleet.ec2.describe_instance_types(InstanceTypes=["m7g.large", "g4dn.xlarge"])["InstanceTypes"]
    about = {each["InstanceType"]: each for each in found}
    assert about["m7g.large"]["ProcessorInfo"]["SupportedArchitectures"] == ["arm64"]
    assert about["g4dn.xlarge"]["GpuInfo"]["Gpus"][0]["Count"] == 1
    asked = [{"Name": "instance-type", "Values": ["m5.large"]}]
    rows = fleet.ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=asked)
    zones = {row["Location"] for row in rows["InstanceTypeOfferings"]}
    assert "us-east-1a" in zones
    assert "us-east-1e" not in zones
    assert refused(fleet.ec2.describe_instance_types, InstanceTypes=["m5.tiny"])[0] == "InvalidInstanceType"


def test_spot_prices_are_of_today_and_below_those_on_demand(fleet: Fleet) -> None:
    asked = {"InstanceTypes": ["m5.large", "g6.2xlarge"], "ProductDescriptions": ["Linux/UNIX"]}
    day = {"StartTime": datetime.now(UTC) - timedelta(days=1), "EndTime": datetime.now(UTC)}
    rows = fleet.ec2.describe_spot_price_history(**asked, **day)["SpotPriceHistory"]
    shares = {"m5.large": 0.096, "g6.2xlarge": 0.9776}
    by_type = {kind: [float(row["SpotPrice"]) / usd for row in rows if row["InstanceType"] == kind]
               for kind, usd in shares.items()}  # fmt: skip
    assert 0.25 < min(by_type["m5.large"]) <= max(by_type["m5.large"]) < 0.6
    assert 0.85 < min(by_type["g6.2xlarge"]) <= max(by_type["g6.2xlarge"]) <= 1
    newest: dict[tuple[str, str], datetime] = {}
    for row in rows:
        newest.setdefault((row["InstanceType"], row["AvailabilityZone"]), row["Timestamp"])
    assert all(datetime.now(UTC) - at < timedelta(hours=6) for at in newest.values())
    assert rows == fleet.ec2.describe_spot_price_history(**asked, **day)["SpotPriceHistory"]


def test_quotas_are_those_of_ec2_and_a_fault_lowers_them(fleet: Fleet) -> None:
    none = fleet.with_faults(quotas={"L-34B43A08": 0})
    quotas = none.cloud.client("service-quotas")
    assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-34B43A08")["Quota"]["Value"] == 0
    assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-1216C47A")["Quota"]["Value"] > 0
    assert refused(quotas.get_service_quota, ServiceCode="ec2", QuotaCode="L-0")[0] == "NoSuchResourceException"


# --- templates ---


def test_templates_are_checked_when_they_are_made(fleet: Fleet) -> None:
    make, data = fleet.ec2.create_launch_template, fleet.data("#!/bin/sh\n")
    large = fleet.data("#" * 16385)
    assert refused(make, LaunchTemplateName="big", LaunchTemplateData=large) == (
        "InvalidParameterValue",
        "User data is limited to 16384 bytes",
    )
    make(LaunchTemplateName="taken", LaunchTemplateData=data, ClientToken="one")
    again = refused(make, LaunchTemplateName="taken", LaunchTemplateData=data)
    assert again[0] == "InvalidLaunchTemplateName.AlreadyExistsException"
    make(LaunchTemplateName="taken", LaunchTemplateData=data, ClientToken="one")  # sent twice, made once
    versions = fleet.ec2.describe_launch_template_versions(LaunchTemplateName="taken")["LaunchTemplateVersions"]
    assert [each["LaunchTemplateData"]["UserData"] for each in versions] == [data["UserData"]]
    assert refused(make, LaunchTemplateName="dry", LaunchTemplateData=data, DryRun=True)[0] == "DryRunOperation"
    fleet.ec2.delete_launch_template(LaunchTemplateName="taken")
    gone = refused(fleet.ec2.delete_launch_template, LaunchTemplateName="taken")
    assert gone[0] == "InvalidLaunchTemplateName.NotFoundException"


@pytest.mark.parametrize(
    ("data", "more", "text"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, {}, "The image id '[ami-0123456789abcdef0]' does not exist"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, {}, "Invalid IAM Instance Profile name"),
        ({"SecurityGroupIds": ["sg-0123"]}, {}, "The security group 'sg-0123' does not exist"),
        ({}, {"kinds": ("m5.tiny",)}, "instance types do not exist: [m5.tiny]"),
        ({}, {"VPCZoneIdentifier": "subnet-0123"}, "The subnet ID 'subnet-0123' does not exist"),
        ({}, {"DesiredCapacity": 2}, "Desired capacity:2 must be between the specified min size:0 and max size:1"),
    ],
)
def test_groups_are_checked_when_they_are_made(
    fleet: Fleet, data: dict[str, Any], more: dict[str, Any], text: str
) -> None:
    code, found = refused(fleet.group, name="never", data=data, **more)
    fleet.ec2.delete_launch_template(LaunchTemplateName="never")
    assert code == "ValidationError"
    assert text in found


# --- groups ---


def test_capacity_stays_between_its_bounds(fleet: Fleet, idle: str) -> None:
    above = refused(fleet.groups.set_desired_capacity, AutoScalingGroupName=idle, DesiredCapacity=2)
    assert above == (
        "ValidationError",
        "New SetDesiredCapacity value 2 is above max value 1 for the AutoScalingGroup.",
    )
    none = refused(fleet.groups.set_desired_capacity, AutoScalingGroupName="none", DesiredCapacity=1)
    assert none[1] == "AutoScalingGroup name not found - AutoScalingGroup 'none' not found"


def test_scheduled_actions_begin_in_the_future(fleet: Fleet, idle: str) -> None:
    put = fleet.groups.put_scheduled_update_group_action
    named = {"AutoScalingGroupName": idle, "ScheduledActionName": "deadline"}
    past = refused(put, **named, StartTime=fleet.at(-5), DesiredCapacity=0)
    assert past == ("ValidationError", "Given start time is in the past")
    when = fleet.at(3600)
    put(**named, StartTime=when, MinSize=0, MaxSize=0, DesiredCapacity=0)
    (found,) = fleet.groups.describe_scheduled_actions(AutoScalingGroupName=idle)["ScheduledUpdateGroupActions"]
    assert abs((found["StartTime"] - when).total_seconds()) < 1
    assert found["MaxSize"] == 0
    fleet.groups.delete_scheduled_action(**named)


def test_a_machine_outside_of_groups_cannot_be_ended_in_one(fleet: Fleet) -> None:
    end = fleet.groups.terminate_instance_in_auto_scaling_group
    code, text = refused(end, InstanceId="i-0123456789abcdef0", ShouldDecrementDesiredCapacity=True)
    assert (code, "No managed instance found" in text) == ("ValidationError", True)


def test_a_group_does_not_shrink_below_its_minimum(fleet: Fleet) -> None:
    name = fleet.group("least", MinSize=1)
    (machine,) = fleet.wait(name, "running")
    end = fleet.groups.terminate_instance_in_auto_scaling_group
    code, text = refused(end, InstanceId=machine["InstanceId"], ShouldDecrementDesiredCapacity=True)
    assert (code, text[:43]) == ("ValidationError", "Currently, desiredSize equals minSize (1). ")
    assert refused(fleet.groups.delete_auto_scaling_group, AutoScalingGroupName=name)[0] == "ResourceInUse"
    fleet.end(name)
    code, text = refused(fleet.groups.update_auto_scaling_group, AutoScalingGroupName=name, DesiredCapacity=0)
    assert code == "ValidationError"  # it is being deleted, or is gone
    fleet.wait(name, "terminated")


def test_a_suspended_group_launches_nothing_until_it_is_resumed(fleet: Fleet, idle: str) -> None:
    fleet.groups.suspend_processes(AutoScalingGroupName=idle, ScalingProcesses=["Launch"])
    fleet.groups.set_desired_capacity(AutoScalingGroupName=idle, DesiredCapacity=1)
    suspended = fleet.described(idle)["SuspendedProcesses"]
    assert [each["ProcessName"] for each in suspended] == ["Launch"]
    assert fleet.machines(idle) == []
    fleet.groups.set_desired_capacity(AutoScalingGroupName=idle, DesiredCapacity=0)
    fleet.groups.resume_processes(AutoScalingGroupName=idle)
    assert fleet.described(idle)["SuspendedProcesses"] == []


@pytest.mark.parametrize(
    ("kind", "zones", "faults", "text"),
    [
        ("m7g.large", (), {}, "does not match the architecture 'x86_64' of the specified AMI."),
        ("m5.large", ("us-east-1e",), {}, "is not supported in your requested Availability Zone (us-east-1e)"),
        ("m5.large", (), {"quotas": {"L-34B43A08": 0}}, "Max spot instance count exceeded"),
        ("m5.large", (), {"no_capacity_of": ["m5.large"]}, "There is no Spot capacity available"),
    ],
)
def test_what_cannot_be_launched_is_an_activity_that_failed(
    fleet: Fleet, kind: str, zones: tuple[str, ...], faults: dict[str, Any], text: str
) -> None:
    faulty = fleet.with_faults(**faults)
    name = faulty.group(f"fails-{kind}-{len(zones)}-{len(text)}", kinds=(kind,), zones=zones)
    until(lambda: any(each["StatusCode"] == "Failed" for each in faulty.activities(name)))
    failed = next(each for each in faulty.activities(name) if each["StatusCode"] == "Failed")
    assert text in failed["StatusMessage"]
    assert failed["StatusMessage"].endswith("Launching EC2 instance failed.")
    assert faulty.machines(name) == []
    faulty.end(name)


def test_a_key_that_auto_scaling_may_not_use_ends_each_machine_at_once(fleet: Fleet) -> None:
    kms = fleet.cloud.client("kms")
    key = kms.create_key()["KeyMetadata"]
    volume = {"VolumeSize": 80, "VolumeType": "gp3", "Encrypted": True, "KmsKeyId": key["Arn"]}
    device = {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": volume}]}
    name = fleet.group("locked", data=device)
    until(lambda: any(each["StatusCode"] == "Failed" for each in fleet.activities(name)))
    assert "Client.InternalError: Client error on launch" in fleet.activities(name)[-1]["StatusMessage"]
    role = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
    kms.create_grant(KeyId=key["KeyId"], GranteePrincipal=role, Operations=["Decrypt", "CreateGrant"])
    until(lambda: "running" in fleet.states(name))
    fleet.end(name)


# --- who may ---


def test_only_who_may_launch_machines_may_make_a_group_of_them(fleet: Fleet, idle: str) -> None:
    iam = fleet.cloud.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    trusting = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="half", AssumeRolePolicyDocument=trusting)

    def permit(*actions: str) -> None:
        allowed = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_role_policy(RoleName="half", PolicyName="all", PolicyDocument=document)

    enough = ["autoscaling:*", "ec2:Describe*", "ec2:CreateLaunchTemplate", "ec2:DeleteLaunchTemplate", "ssm:*"]
    permit(*enough)
    half = Fleet(Rehearsal(state_dir=fleet.cloud.state_dir, reclaims=0, launch_as="half"))
    for missing in ("ec2:RunInstances", "iam:PassRole"):
        code, text = refused(half.group, name="mine", DesiredCapacity=0)
        assert (code, missing in text) == ("AccessDenied", True)
        half.ec2.delete_launch_template(LaunchTemplateName="mine")
        permit(*(enough := [*enough, missing]))
    half.group("mine", DesiredCapacity=0)
    half.end("mine")
    assert refused(half.ec2.terminate_instances, InstanceIds=["i-0"])[0] == "UnauthorizedOperation"


def test_the_first_group_needs_the_service_linked_role(tmp_path: Path) -> None:
    place = tmp_path / "state"
    try:
        new = Fleet(
            Rehearsal(state_dir=str(place), reclaims=0, faults={"denied": ["iam:CreateServiceLinkedRole"]})
        ).ready()
        code, text = refused(new.group, name="first", DesiredCapacity=0)
        assert code == "ValidationError"
        assert text.startswith("The default Service-Linked Role for Auto Scaling could not be created.")
        iam = new.cloud.client("iam")
        Fleet(Rehearsal(state_dir=str(place), reclaims=0)).group("second", DesiredCapacity=0)
        assert iam.get_role(RoleName="AWSServiceRoleForAutoScaling")["Role"]["Path"].startswith("/aws-service-role/")
        process.stop(place)  # what there is outlives the server
        again = Fleet(Rehearsal(state_dir=str(place), reclaims=0))
        assert again.described("second")["DesiredCapacity"] == 0
        profile = again.cloud.client("iam").get_instance_profile(InstanceProfileName=PROFILE)["InstanceProfile"]
        assert [role["RoleName"] for role in profile["Roles"]] == [PROFILE]
        assert {each["LaunchTemplateName"] for each in again.ec2.describe_launch_templates()["LaunchTemplates"]} == {
            "first",
            "second",
        }
    finally:
        process.stop(place)


def test_what_the_rehearsal_has_not_is_refused_and_not_pretended(fleet: Fleet, idle: str) -> None:
    hook = {"AutoScalingGroupName": idle, "LifecycleHookName": "x", "LifecycleTransition": LAUNCHING}
    assert refused(fleet.groups.put_lifecycle_hook, **hook) == (
        "UnsupportedOperation",
        "The rehearsal cloud has no PutLifecycleHook of autoscaling.",
    )
    spot = {"LaunchSpecification": {"ImageId": fleet.image(), "InstanceType": "m5.large"}}
    assert refused(fleet.ec2.request_spot_instances, **spot)[0] == "UnsupportedOperation"


# --- networks ---


def test_security_groups_begin_without_inbound_rules_and_last_while_they_are_used(fleet: Fleet) -> None:
    (vpc,) = fleet.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "of", "Value": "tests"}]}]
    make = {"GroupName": "machines", "Description": "of tests", "VpcId": vpc["VpcId"], "TagSpecifications": tags}
    identity = fleet.ec2.create_security_group(**make)["GroupId"]
    assert refused(fleet.ec2.create_security_group, **make)[0] == "InvalidGroup.Duplicate"
    asked = [{"Name": "group-name", "Values": ["machines"]}, {"Name": "tag:of", "Values": ["tests"]}]
    (found,) = fleet.ec2.describe_security_groups(Filters=asked)["SecurityGroups"]
    assert found["IpPermissions"] == []
    network = {"DeviceIndex": 0, "AssociatePublicIpAddress": True, "Groups": [identity]}
    name = fleet.group("grouped", data={"NetworkInterfaces": [network]})
    (machine,) = fleet.wait(name, "running")
    assert [each["GroupId"] for each in machine["SecurityGroups"]] == [identity]
    assert refused(fleet.ec2.delete_security_group, GroupId=identity)[0] == "DependencyViolation"
    fleet.end(name)
    fleet.wait(name, "terminated")
    fleet.ec2.delete_security_group(GroupId=identity)


def test_an_account_may_be_without_a_default_network(tmp_path: Path) -> None:
    place = tmp_path / "state"
    try:
        ec2 = Rehearsal(state_dir=str(place), reclaims=0).client("ec2")
        for subnet in ec2.describe_subnets()["Subnets"]:
            ec2.delete_subnet(SubnetId=subnet["SubnetId"])
        (vpc,) = ec2.describe_vpcs()["Vpcs"]
        ec2.delete_vpc(VpcId=vpc["VpcId"])
        assert ec2.describe_subnets()["Subnets"] == ec2.describe_vpcs()["Vpcs"] == []
        make = {"GroupName": "x", "Description": "x"}
        assert refused(ec2.create_security_group, **make)[0] == "VPCIdNotSpecified"
    finally:
        process.stop(place)


def test_a_cloud_that_was_killed_leaves_no_process_and_its_group_starts_another_machine(tmp_path: Path) -> None:
    place = tmp_path / "state"
    script = "#!/bin/bash\n(setsid sleep 6030 &)\necho up\nsleep 6040\n"
    try:
        first = Fleet(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
        name = first.group("outlives", script)
        (machine,) = first.wait(name, "running")
        until(lambda: "up" in first.console(machine))
        disk = str(place / "ec2" / "instances" / machine["InstanceId"] / "disk")
        assert marked(MACHINE, disk) != []
        psutil.Process(json.loads((place / SERVER_FILE).read_bytes())["pid"]).kill()
        until(lambda: process.running(place) is None)
        again = Fleet(Rehearsal(state_dir=str(place), reclaims=0))
        again.wait(name, "terminated", "running")
        assert marked(MACHINE, disk) == []
        assert again.machines(name)[0]["StateReason"]["Code"] == "Server.InternalError"
        again.end(name)
        again.wait(name, "terminated", "terminated")
    finally:
        process.stop(place)
