"""Who may do what in the rehearsal cloud: signatures, policies, conditions, trust and PassRole, as AWS decides."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from launchers.aws import errors, grants
from launchers.cli.verbs import main as launchers_command
from launchers.follow import wait
from launchers.rehearsal import names, process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.sagemaker import permissions
from launchers.sagemaker.job import TrainingJob, status_of
from launchers.sagemaker.settings import JobSettings
from launchers.status import Cause, LaunchError, Phase
from tests.support.launcher_contract import until
from tests.support.rehearsing import BUCKET, NO_PHOTOS, PHOTOS, job_of, prepared, rehearsal_cloud, states

pytestmark = pytest.mark.cloud

LAUNCH, TRAINING = (f"arn:aws:iam::{ACCOUNT}:role/dogbreed/dogbreed-{name}" for name in ("launch", "training"))
TINY = ("trainer.max_epochs=1", "aws.reclaims=0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cloud") / "state"


@pytest.fixture(scope="module")
def admin(place: Path, photos: Path) -> Iterator[Rehearsal]:
    with rehearsal_cloud(place, photos) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def person(admin: Rehearsal) -> Rehearsal:
    """Who has no more than the role dogbreed-launch."""
    return replace(admin, launch_as="dogbreed-launch", _clients={})


def denied(call: Any, **parameters: Any) -> str:
    """Return AWS's message; empty if the call was not denied. Other errors come after the decision."""
    try:
        call(**parameters)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        return str(error) if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403") else ""
    return ""


def test_what_the_policies_do_not_name_is_denied_and_what_they_name_is_not(person: Rehearsal) -> None:
    clients = {name: person.client(name) for name in ("s3", "iam", "sagemaker", "logs", "sts", "ec2", "lambda")}
    s3, jobs = clients["s3"], clients["sagemaker"]
    refused = []
    objects = [s3.get_object, s3.head_object, s3.delete_object, s3.put_object]
    places = [("other-bucket", "dogbreed/x"), (BUCKET, "x"), (BUCKET, "dogbreeds/x"), (BUCKET, "Dogbreed/x")]
    places += [(f"{BUCKET}-2", "dogbreed/x"), ("dogbreed", f"{BUCKET}/x"), (BUCKET, "photos/dogbreed/x")]
    keys_beside = ["DOGBREED/x", "dogbreed", "dogbree/x", "dogbreed.x", "photos/x", "runs/x", "x/dogbreed/x", "code/x"]
    places += [(BUCKET, key) for key in keys_beside]
    places += [(name, "dogbreed/x") for name in ("sagemaker-us-east-1", BUCKET[:-1], f"a{BUCKET}", "my-bucket")]
    refused += [denied(call, Bucket=bucket, Key=key) for call, (bucket, key) in product(objects, places)]
    source = {"Bucket": BUCKET, "Key": "photos/x"}
    refused += [denied(s3.copy_object, Bucket=BUCKET, Key=f"dogbreed/{n}", CopySource=source) for n in range(2)]
    keys = {"Objects": [{"Key": "dogbreed/fine"}, {"Key": "photos/not"}]}
    refused.append(denied(s3.delete_objects, Bucket=BUCKET, Delete=keys))
    buckets = ["other-bucket", f"{BUCKET}-2"]
    refused += [denied(call, Bucket=name) for call in (s3.head_bucket, s3.list_objects_v2) for name in buckets]
    of_bucket = [
        "delete_bucket", "delete_bucket_policy", "get_bucket_policy", "get_bucket_encryption", "get_bucket_tagging",
        "get_bucket_versioning", "get_public_access_block", "delete_public_access_block", "get_bucket_cors",
        "get_bucket_lifecycle_configuration", "delete_bucket_lifecycle", "get_bucket_logging", "get_bucket_website",
        "list_object_versions", "get_bucket_notification_configuration",
    ]  # fmt: skip
    refused += [denied(getattr(s3, name), Bucket=bucket) for name, bucket in product(of_bucket, [BUCKET, *buckets])]
    refused += [denied(s3.create_bucket, Bucket=name) for name in ("new-one", "new-two")]
    refused.append(denied(s3.list_buckets))
    roles = ["dogbreed-launch", "dogbreed-training", "DogBreedTraining", "other"]
    writes = ("delete_role", "list_role_policies", "list_attached_role_policies", "list_role_tags")
    refused += [denied(getattr(clients["iam"], name), RoleName=role) for name, role in product(writes, roles)]
    put = {"PolicyName": "more", "PolicyDocument": '{"Version": "2012-10-17", "Statement": []}'}
    refused += [denied(clients["iam"].put_role_policy, RoleName=role, **put) for role in roles]
    refused += [denied(clients["iam"].get_role, RoleName=role) for role in roles[2:]]
    refused += [denied(getattr(clients["iam"], name)) for name in ("list_roles", "list_users", "list_policies")]
    refused += [denied(clients["iam"].create_user, UserName=name) for name in ("a", "b")]
    names_of = ["mine", "any-job"]
    of_job = ["describe_model", "delete_model", "describe_endpoint", "delete_endpoint"]
    keys_of = {"model": "ModelName", "endpoint": "EndpointName"}
    for name, operation in product(names_of, of_job):
        refused.append(denied(getattr(jobs, operation), **{keys_of[operation.rpartition("_")[2]]: name}))
    refused += [denied(jobs.stop_training_job, TrainingJobName=name) for name in names_of]  # nobody has tagged them
    arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/any"
    refused += [denied(jobs.add_tags, ResourceArn=arn, Tags=[{"Key": "dogbreed:run-id", "Value": "any"}])]
    refused += [denied(jobs.delete_tags, ResourceArn=arn, TagKeys=["dogbreed:run-id"])]
    groups = ["/aws/sagemaker/Endpoints", "/aws/sagemaker/TrainingJobs-2", "/aws/lambda/x", "other"]
    logs = clients["logs"]
    refused += [denied(logs.describe_log_streams, logGroupName=name) for name in groups]
    refused += [denied(logs.get_log_events, logGroupName=name, logStreamName="x") for name in groups]
    refused += [denied(logs.delete_log_group, logGroupName=name) for name in ("/aws/sagemaker/TrainingJobs", *groups)]
    refused += [denied(logs.create_log_group, logGroupName=name) for name in groups]
    refused += [denied(clients["sts"].assume_role, RoleArn=role, RoleSessionName="any") for role in (LAUNCH, TRAINING)]
    lists = ["describe_instances", "describe_vpcs", "describe_volumes", "describe_addresses", "describe_key_pairs"]
    refused += [denied(getattr(clients["ec2"], name)) for name in lists]
    refused += [denied(clients["ec2"].terminate_instances, InstanceIds=["i-0123456789abcdef0"])]
    refused += [denied(clients["lambda"].invoke, FunctionName=name) for name in ("a", "b")]
    refused += [denied(clients["lambda"].list_layers), denied(jobs.list_domains), denied(jobs.list_transform_jobs)]
    assert [n for n, text in enumerate(refused) if not text] == []
    assert len(refused) >= 200, len(refused)

    allowed = [
        denied(s3.put_object, Bucket=BUCKET, Key="dogbreed/x", Body=b"x"),
        denied(s3.get_object, Bucket=BUCKET, Key="dogbreed/x"),
        denied(s3.head_object, Bucket=BUCKET, Key="dogbreed/none"),
        denied(s3.copy_object, Bucket=BUCKET, Key="dogbreed/y", CopySource={"Bucket": BUCKET, "Key": "dogbreed/x"}),
        denied(s3.delete_objects, Bucket=BUCKET, Delete={"Objects": [{"Key": "dogbreed/x"}, {"Key": "dogbreed/y"}]}),
        denied(s3.list_objects_v2, Bucket=BUCKET, Prefix="dogbreed/"),
        denied(clients["iam"].get_role, RoleName="dogbreed-training"),
        denied(jobs.describe_training_job, TrainingJobName="none"),
        denied(jobs.list_training_jobs),
        denied(logs.describe_log_streams, logGroupName="/aws/sagemaker/TrainingJobs"),
        denied(clients["sts"].get_caller_identity),
    ]
    assert allowed == [""] * len(allowed)


def test_a_denial_says_who_may_not_do_what_on_what_as_aws_does(person: Rehearsal) -> None:
    who = f"arn:aws:sts::{ACCOUNT}:assumed-role/dogbreed-launch/launcher"
    text = denied(person.client("s3").put_object, Bucket=BUCKET, Key="elsewhere", Body=b"")
    assert text.endswith(
        f'User: {who} is not authorized to perform: s3:PutObject on resource: "arn:aws:s3:::{BUCKET}/elsewhere" '
        "because no identity-based policy allows the s3:PutObject action"
    )
    text = denied(person.client("sagemaker").delete_endpoint, EndpointName="any")
    assert f"User: {who} is not authorized to perform: sagemaker:DeleteEndpoint on resource: " in text


def test_a_request_must_be_signed_by_whom_it_says_it_is_from(admin: Rehearsal, place: Path) -> None:
    server = process.running(place)
    assert server is not None

    def asked(key: str, secret: str, token: str | None = None, service: str = "sagemaker") -> str:
        client = boto3.client(
            service, REGION, endpoint_url=server.url, aws_access_key_id=key, aws_secret_access_key=secret,
            aws_session_token=token,
        )  # fmt: skip
        try:
            client.list_training_jobs() if service == "sagemaker" else client.list_buckets()
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return ""

    session = admin.client("sts").assume_role(RoleArn=LAUNCH, RoleSessionName="any")["Credentials"]
    key, secret, token = session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]
    assert asked(server.key, server.key) == asked(server.key, server.key, service="s3") == ""
    assert asked(key, secret, token) == ""
    assert asked(server.key, "wrong") == asked(key, "wrong", token) == "SignatureDoesNotMatch"
    assert asked(server.key, "wrong", service="s3") == "SignatureDoesNotMatch"
    assert asked("AKIAnobody", secret) == "UnrecognizedClientException"
    assert asked("AKIAnobody", secret, service="s3") == "InvalidAccessKeyId"
    assert asked(key, secret) == asked(key, secret, "other") == "InvalidClientTokenId"


def test_a_role_may_only_be_passed_to_the_service_that_takes_it(
    admin: Rehearsal, person: Rehearsal, tmp_path: Path
) -> None:
    _launcher, plan = prepared(Path(admin.state_dir), tmp_path / "run", *TINY)
    request = {**plan.requests[-1].parameters, "RoleArn": TRAINING, "TrainingJobName": "passed"}
    create = person.client("sagemaker").create_training_job
    for arn in (LAUNCH, f"arn:aws:iam::{ACCOUNT}:role/service-role/DogBreedTraining"):
        assert f"iam:PassRole on resource: {arn}" in denied(create, **{**request, "RoleArn": arn})
    untagged = {**request, "Tags": [tag for tag in request["Tags"] if tag["Key"] != "dogbreed:run-id"]}
    assert "sagemaker:CreateTrainingJob on resource" in denied(create, **untagged)
    machine = {**request["ResourceConfig"], "InstanceType": "ml.p4d.24xlarge"}
    assert "sagemaker:CreateTrainingJob on resource" in denied(create, **{**request, "ResourceConfig": machine})
    with pytest.raises(
        ClientError, match="Could not assume role"
    ):  # the administrator may pass it; SageMaker not take it
        admin.client("sagemaker").create_training_job(**{**request, "RoleArn": LAUNCH})
    assert admin.client("sagemaker").list_training_jobs(NameContains="passed")["TrainingJobSummaries"] == []


def test_a_job_has_no_more_than_its_role_and_says_what_is_missing(
    place: Path, admin: Rehearsal, tmp_path: Path
) -> None:
    admin.client("s3").put_object(Bucket=BUCKET, Key="elsewhere/x", Body=b"")
    launcher, plan = prepared(place, tmp_path / "run", *TINY, f"data.root=s3://{BUCKET}/elsewhere")
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.PERMISSION)
    assert f's3:GetObject on resource: "arn:aws:s3:::{BUCKET}/elsewhere/x"' in status.detail
    assert "python -m launchers iam --apply" in status.next_action


def test_what_the_job_s_role_lacks_is_said_before_the_job_is_created_and_where_it_fails(
    place: Path, admin: Rehearsal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    action = "s3:GetObject"
    launcher, plan = prepared(place, tmp_path / "run", *TINY, f"faults.denied_to_role=[{action}]")
    launcher.submit(plan)
    assert f"The role of the training job, {TRAINING}, lacks permissions" in caplog.text
    assert f"  {action} on arn:aws:" in caplog.text
    until(lambda: launcher.status(plan.handle).finished)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.PERMISSION)
    assert f"assumed-role/dogbreed-training/SageMaker is not authorized to perform: {action} on" in status.detail


OF_ROLE = permissions.job_role(JobSettings(Rehearsal()), {}, "2026-11-24")
SCRIPT = (
    "cd $SAGEMAKER_BASE_DIR/checkpoints; echo a line; echo 1 > first; echo 1 > last; echo 1 > ../model/x; "
    "is() { test -e $1.sagemaker-uploaded; }; "  # which the agent leaves beside what is in S3
    "until is first && is last; do sleep 0.1; done; rm first; while is first; do sleep 0.1; done"
)


def test_each_permission_of_the_job_s_role_that_is_taken_away_is_named_by_the_job_that_fails(
    admin: Rehearsal, place: Path, tmp_path: Path
) -> None:
    _launcher, plan = prepared(place, tmp_path / "run", *TINY)
    channel = {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{PHOTOS}/"}}, "ChannelName": "x"}
    request = {**plan.requests[-1].parameters, "RoleArn": TRAINING, "InputDataConfig": [channel]}
    shell = {"ContainerEntrypoint": ["sh", "-c"], "ContainerArguments": [SCRIPT]}
    request["AlgorithmSpecification"] = {**request["AlgorithmSpecification"], **shell}
    jobs = {}
    for action in ("", *grants.actions(OF_ROLE)):  # all at once
        name = f"without-{action.replace(':', '-') or 'nothing'}"
        faults = {"upload_lag_s": 0.1, **({"denied_to_role": [action]} if action else {})}
        client = replace(admin, faults=faults, _clients={}).client("sagemaker")
        config = {**request["CheckpointConfig"], "S3Uri": f"s3://{BUCKET}/dogbreed/runs/{name}/checkpoints"}
        client.create_training_job(**{**request, "TrainingJobName": name, "CheckpointConfig": config})
        jobs[action] = name
    client, logs = admin.client("sagemaker"), admin.client("logs")
    found = {}
    for action, name in jobs.items():
        until(lambda name=name: client.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] in ENDED)  # type: ignore[misc]
        found[action] = client.describe_training_job(TrainingJobName=name)
    lines = {
        action: logs.describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{name}/")
        for action, name in jobs.items()
    }
    for action, job in found.items():
        silent = not lines[action]["logStreams"]
        assert silent == action.startswith("logs:")
        if not action or silent or action == "cloudwatch:PutMetricData":  # which no job fails for
            assert job["TrainingJobStatus"] == "Completed", action
            continue
        status = status_of(TrainingJob.of(job), ended_early=False, now=time.time())
        assert (status.phase, status.cause) == (Phase.FAILED, Cause.PERMISSION), action
        who = f"assumed-role/dogbreed-training/SageMaker is not authorized to perform: {action} on resource: "
        assert who in status.detail


ENDED = ("Completed", "Failed", "Stopped")


@pytest.mark.parametrize("action", grants.actions(permissions.caller(JobSettings(Rehearsal()))))
def test_each_permission_that_is_taken_away_is_named_and_no_job_is_left(
    action: str, place: Path, admin: Rehearsal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launcher, plan = prepared(
        place, tmp_path / "run", *TINY, f"data.root={NO_PHOTOS}", f"faults.denied=[{action}]", "faults.no_capacity=1"
    )
    admin.client("s3").put_object(Bucket=BUCKET, Key=f"dogbreed/runs/left-{plan.spec.run_id}/spec.json", Body=b"")
    said: list[str] = []
    for use in _uses(launcher, plan, tmp_path):
        try:
            use()
        except LaunchError as error:
            said.append(str(error))
            break
    running = [
        job
        for job in admin.client("sagemaker").list_training_jobs(NameContains=plan.spec.run_id)["TrainingJobSummaries"]
        if job["TrainingJobStatus"] not in ("Completed", "Failed", "Stopped")
    ]
    assert running == []
    assert action in "\n".join([*said, caplog.text]), said


def _uses(launcher: Any, plan: Any, tmp_path: Path) -> Iterator[Any]:
    """What a person does with a run, in turn."""
    yield lambda: launcher.submit(plan)
    yield lambda: until(lambda: launcher.status(plan.handle).finished)
    yield lambda: list(launcher.logs(plan.handle))
    yield lambda: launcher.cancel(plan.handle)
    yield lambda: list(launcher.list(active_only=False))
    yield lambda: launcher.fetch(plan.handle, tmp_path / "fetched", checkpoints=False)
    yield lambda: launcher.cleanup(apply=True)


def test_what_ends_early_is_listed_and_cleaned_up_under_the_two_roles(
    place: Path, admin: Rehearsal, tmp_path: Path
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", *TINY)
    launcher.submit(plan)
    launcher._end_early(plan.handle)  # while it waits for a machine
    assert launcher.status(plan.handle).detail.startswith("stopped early")
    assert plan.handle in [handle for handle, _ in launcher.list(active_only=False)]
    lines = list(launcher.logs(plan.handle))
    assert lines == [] or "Training" in states(job_of(launcher, plan))
    s3, keys = admin.client("s3"), ["dogbreed/runs/never-a-job/spec.json", "dogbreed/data/broken"]
    s3.put_object(Bucket=BUCKET, Key=keys[0], Body=b"{}")
    s3.create_multipart_upload(Bucket=BUCKET, Key=keys[1])
    removed = launcher.cleanup(older_than=timedelta(seconds=-5), apply=True).removed
    assert [key for key in keys if not any(f"/{key}" in each for each in removed)] == []


def test_the_header_with_the_state_folder_has_one_name() -> None:
    assert names.STATE_HEADER.lower() == errors._STATE_HEADER


OURS = ("front", "hosting", "image-build", "lambda", "launch", "machine", "scheduler", "training")  # roles


def own_roles(cloud: Rehearsal) -> list[str]:
    """Those that AWS makes for its own services stay: others may use them."""
    found = cloud.client("iam").list_roles()["Roles"]
    return sorted(role["RoleName"] for role in found if not role["Path"].startswith("/aws-service-role/"))


def test_apply_a_run_and_remove_leave_nothing_and_twice_changes_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    with rehearsal_cloud(state, photos) as cloud:
        first = capsys.readouterr().out
        assert "create the role /dogbreed/dogbreed-launch" in first
        assert "aws.role=dogbreed-training" in first
        assert "aws.launch_as=dogbreed-launch" in first
        assert own_roles(cloud) == ["DogBreedTraining", *(f"dogbreed-{name}" for name in OURS)]
        words = ["iam", "--state-dir", str(state), "--for", "data=folder", f"data.root=s3://{BUCKET}/photos"]
        assert launchers_command([*words, "--apply"]) == 0
        assert "change the policy of dogbreed-training: other resources" in capsys.readouterr().out
        process.stop(state)  # roles survive that
        assert launchers_command([*words, "--apply"]) == 0
        assert "Nothing to change" in capsys.readouterr().out
        launcher, plan = prepared(state, tmp_path / "run", *TINY, launcher="sagemaker_gpu")
        launcher.submit(plan)
        result = wait(launcher, plan.handle)
        assert result.metrics["val/acc"] >= 0
        assert job_of(launcher, plan)["RoleArn"] == TRAINING
        assert (
            launchers_command(["iam", "--check", "--state-dir", str(state), "--for", "aws.role=dogbreed-training"]) == 0
        )
        assert "lacks" not in capsys.readouterr().out
        assert launchers_command(["iam", "--remove", "--state-dir", str(state)]) == 0
        out = capsys.readouterr().out
        assert "remove the instance profile /dogbreed/dogbreed-machine" in out
        assert "remove the security group dogbreed-machine" in out
        assert f"{len(OURS) + 2} changes made." in out
        with pytest.raises(LaunchError, match=r"The role dogbreed-launch of aws\.launch_as does not exist"):
            prepared(state, tmp_path / "other", *TINY)[0].cloud.client("s3")
        assert own_roles(Rehearsal(state_dir=str(state))) == ["DogBreedTraining"]
        assert launchers_command(["iam", "--remove", "--state-dir", str(state)]) == 0
        assert "Nothing to remove" in capsys.readouterr().out


def test_a_check_says_what_the_usual_role_lacks_for_a_bucket_of_another_name(
    place: Path, admin: Rehearsal, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["iam", "--check", "--state-dir", str(place), "--for", "aws.role=DogBreedTraining", "aws.bucket=my-bucket"]
    assert launchers_command(words) == 1
    out = capsys.readouterr().out
    for line in (
        "  s3:GetObject on arn:aws:s3:::my-bucket/dogbreed/*",
        "  s3:PutObject on arn:aws:s3:::my-bucket/dogbreed/runs/*",
    ):
        assert line in out.splitlines()
    assert "AmazonSageMakerFullAccess alone does not let a role use the bucket my-bucket," in out
    assert launchers_command([*words, "--json"]) == 1
    (training,) = [each for each in json.loads(capsys.readouterr().out) if each["identity"] == "training"]
    assert "s3:DeleteObject on arn:aws:s3:::my-bucket/dogbreed/runs/*" in training["lacks"]
    assert admin.client("sagemaker").list_training_jobs(NameContains="my-bucket")["TrainingJobSummaries"] == []


def test_a_bucket_is_set_up_private_encrypted_and_by_tls_only_and_stays_so_over_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: process.stop(tmp_path))
    words = ["iam", "--apply", "--state-dir", str(tmp_path), "--bucket", "new-dogs"]
    assert launchers_command([*words, "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert changes[0] == "create the bucket new-dogs in us-east-1"
    cloud = Rehearsal(state_dir=str(tmp_path))
    cloud.client("s3").put_bucket_acl(Bucket="new-dogs", ACL="public-read")
    key = user_of(cloud.client("iam"))
    before = settings_of(cloud.client("s3"))
    assert list(before["block"].values()) == [True] * 4
    assert before["encryption"]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    (statement,) = before["policy"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    cloud.client("s3").put_object(Bucket="new-dogs", Key="x", Body=b"x")  # loopback stands for TLS
    assert cloud.client("s3").get_object(Bucket="new-dogs", Key="x")["Body"].read() == b"x"
    cloud.client("s3").delete_object(Bucket="new-dogs", Key="x")
    rules = {rule["ID"]: rule for rule in before["lifecycle"]}
    assert rules["dogbreed-broken-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert rules["dogbreed-old-runs"]["Filter"] == {"Prefix": "dogbreed/runs/"}
    process.stop(tmp_path)
    assert launchers_command(words) == 0
    assert "Nothing to change" in capsys.readouterr().out
    again = Rehearsal(state_dir=str(tmp_path)).client("s3")
    assert settings_of(again) == before
    server = process.running(tmp_path)
    assert server is not None
    theirs = boto3.client("s3", REGION, endpoint_url=server.url, **key)
    assert theirs.list_objects_v2(Bucket="new-dogs")["KeyCount"] == 0
    theirs.put_bucket_tagging(Bucket="new-dogs", Tagging={"TagSet": []})
    assert f"User: arn:aws:iam::{ACCOUNT}:user/ann is not" in denied(theirs.get_object, Bucket="new-dogs", Key="x")
    again.delete_bucket_policy(Bucket="new-dogs")
    again.delete_bucket(Bucket="new-dogs")
    assert json.loads((tmp_path / "buckets.json").read_bytes()) == {}


def user_of(iam: Any) -> dict[str, str]:
    """Create a user who may tag buckets, of a group that may list them. Return the user's access key."""
    iam.create_user(UserName="ann", Tags=[{"Key": "team", "Value": "dogs"}])
    iam.create_group(GroupName="readers")
    for action, put, holder in (
        ("s3:ListBucket", iam.put_group_policy, {"GroupName": "readers"}),
        ("s3:PutBucketTagging", iam.put_user_policy, {"UserName": "ann"}),
    ):
        statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        put(**holder, PolicyName="any", PolicyDocument=document)
    iam.add_user_to_group(GroupName="readers", UserName="ann")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


def settings_of(s3: Any) -> dict[str, Any]:
    bucket = {"Bucket": "new-dogs"}
    (rule,) = s3.get_bucket_encryption(**bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    return {
        "block": s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"],
        "encryption": rule,
        "policy": json.loads(s3.get_bucket_policy(**bucket)["Policy"]),
        "lifecycle": s3.get_bucket_lifecycle_configuration(**bucket)["Rules"],
        "acl": s3.get_bucket_acl(**bucket)["Grants"],
    }
