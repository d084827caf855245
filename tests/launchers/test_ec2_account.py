"""What an account lacks is found before anything is created there, all at once, and each with a next action."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launchers.aws import iam, profiles
from launchers.ec2 import account, groups
from launchers.ec2.fleet import Found
from launchers.ec2.spot import Ec2Launcher
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import BUCKET
from launchers.status import Cause, LaunchError
from tests.support.ec2_plans import launched, planned

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """An account of its own, set up as `launchers iam --apply` does."""
    place = tmp_path_factory.mktemp("account") / "state"
    try:
        cloud = Rehearsal(bucket=BUCKET, state_dir=str(place))
        account.set_up(launcher_in(cloud), planned("ec2").spec, iam.caller(cloud))
        yield cloud
    finally:
        process.stop(place)


def launcher_in(cloud: Rehearsal, **settings: Any) -> Ec2Launcher:
    return replace(launched("ec2"), cloud=cloud, bucket=BUCKET, **settings)


def look_up(cloud: Rehearsal, **settings: Any) -> Found:
    return account.look_up(launcher_in(cloud, **settings), planned("ec2").spec, iam.caller(cloud))


def refusal(cloud: Rehearsal, **settings: Any) -> LaunchError:
    with pytest.raises(LaunchError) as refused:
        look_up(cloud, **settings)
    assert "Try: " in str(refused.value)
    assert not groups.find(cloud)
    assert not list(groups.templates(cloud))
    return refused.value


def test_an_account_that_is_set_up_gives_an_image_its_root_device_and_a_subnet_in_each_zone(cloud: Rehearsal) -> None:
    found = look_up(cloud)
    assert found.image.startswith("ami-")
    assert found.root_device == "/dev/xvda"
    assert len(found.subnets) > 1
    (group,) = cloud.client("ec2").describe_security_groups(GroupIds=list(found.security_groups))["SecurityGroups"]
    assert group["IpPermissions"] == []
    ubuntu = look_up(cloud, image="pytorch-2.13-ubuntu-26.04")
    assert ubuntu.root_device == "/dev/sda1"
    assert account.bucket_of_profile(cloud, "dogbreed-machine") == BUCKET


def test_a_new_account_is_told_all_that_it_lacks_at_once(tmp_path: Path) -> None:
    cloud = Rehearsal(bucket=BUCKET, state_dir=str(tmp_path))
    try:
        text = str(refusal(cloud))
        assert "4 problems found" in text
        for part in ("no security group dogbreed-machine", "The instance profile dogbreed-machine does not exist"):
            assert part in text
        for role, _ in (profiles.GROUPS_ROLE, profiles.SPOT_ROLE):
            assert f"lacks the service-linked role {role}" in text
        assert profiles.SPOT_ROLE[0] not in str(refusal(cloud, on_demand=True))
        client = cloud.client("ec2")
        for subnet in client.describe_subnets()["Subnets"]:
            client.delete_subnet(SubnetId=subnet["SubnetId"])
        text = str(refusal(cloud))
        assert "The account has no default subnet in us-east-1.\n   Try: aws ec2 create-default-vpc" in text
    finally:
        process.stop(tmp_path)


def test_a_quota_of_none_is_a_shortage_that_waiting_does_not_end(cloud: Rehearsal) -> None:
    none = replace(cloud, faults={"quotas": {"L-34B43A08": 0}}, _clients={})
    error = refusal(none)
    assert error.cause is Cause.QUOTA
    assert error.shortage is not None
    assert error.shortage.lasting
    assert "--quota-code L-34B43A08" in str(error)
    assert "launcher.on_demand=true" in str(error)
    look_up(none, on_demand=True)  # has a quota of its own


def test_a_key_of_one_s_own_needs_a_grant_to_auto_scaling(cloud: Rehearsal) -> None:
    key = cloud.client("kms").create_key()["KeyMetadata"]["KeyId"]
    text = str(refusal(cloud, kms_key=key))
    assert "Auto Scaling may not use the key" in text
    assert "aws kms create-grant --key-id" in text
    role, service = profiles.GROUPS_ROLE
    arn = f"arn:aws:iam::{iam.caller(cloud).account}:role/aws-service-role/{service}/{role}"
    cloud.client("kms").create_grant(KeyId=key, GranteePrincipal=arn, Operations=["Decrypt", "CreateGrant"])
    look_up(cloud, kms_key=key)


def test_a_zone_that_lacks_the_type_is_left_out_and_one_subnet_there_is_refused(cloud: Rehearsal) -> None:
    kind = "g5.xlarge"
    client = cloud.client("ec2")
    chosen = [{"Name": "instance-type", "Values": [kind]}]
    answer = client.describe_instance_type_offerings(LocationType="availability-zone", Filters=chosen)
    zones = {each["Location"] for each in answer["InstanceTypeOfferings"]}
    subnets = {each["AvailabilityZone"]: each["SubnetId"] for each in client.describe_subnets()["Subnets"]}
    lacking = sorted(subnets.keys() - zones)
    assert lacking
    assert zones
    found = look_up(cloud, instance_type=kind)
    assert set(found.subnets) == {subnets[zone] for zone in zones}
    text = str(refusal(cloud, instance_type=kind, subnets=[subnets[lacking[0]]]))
    assert f"AWS offers {kind} in none of the zones {lacking[0]}, but in {', '.join(sorted(zones))}" in text


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"image": "/aws/service/no/such/parameter"}, "AWS has no parameter /aws/service/no/such/parameter"),
        ({"image": "ami-0123456789abcdef0"}, "The image ami-0123456789abcdef0 does not exist"),
        ({"volume_gb": 20}, "needs a disk of at least 75 GB"),
        ({"instance_type": "m5.nonsense"}, "EC2 has no instance type m5.nonsense"),
        ({"subnets": ["subnet-0123456789abcdef0"]}, "subnet-0123456789abcdef0"),
        ({"machine_role": "nobody"}, "The instance profile nobody does not exist"),
    ],
)
def test_each_mistake_is_found(settings: dict[str, Any], text: str, cloud: Rehearsal) -> None:
    assert text in str(refusal(cloud, **settings))


def test_an_image_for_another_processor_is_found_by_what_the_image_says(cloud: Rehearsal) -> None:
    arm = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
    image = cloud.client("ssm").get_parameter(Name=arm)["Parameter"]["Value"]
    assert f"The image {image} is for arm64, and m5.large has an x86_64 processor" in str(refusal(cloud, image=image))
