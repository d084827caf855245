"""Keys that the rented machine fetches: named by ARN, read with the job's role, and kept nowhere."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers import prepare
from launchers.aws import lacking, sent
from launchers.aws.access import Decision, decide
from launchers.aws.policy import document
from launchers.aws.secret_arns import SecretArn, findings, grants
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.sagemaker import permissions
from launchers.sagemaker.training import SageMakerLauncher
from launchers.status import Cause, Phase
from tests.support.launcher_contract import until
from tests.support.machines import Machine
from tests.support.rehearsing import BUCKET, prepared

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:team/wandb-AbCdEf"
PARAMETER = "arn:aws:ssm:eu-west-1:123456789012:parameter/team/wandb"
JOB = ["launcher=sagemaker_gpu", "aws.region=eu-west-1", "aws.bucket=b-sagemaker", "aws.role=MyRole", "data=drawn"]
VALUE = "0123456789abcdef0123456789abcdef01234567"


def plan_of(tmp_path: Path, *words: str) -> tuple[SageMakerLauncher, Any]:
    launcher, plan = prepare([*JOB, f"hydra.run.dir={tmp_path}/run", *words])
    assert isinstance(launcher, SageMakerLauncher)
    return launcher, plan


def refused(tmp_path: Path, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_of(tmp_path, *words)
    return str(caught.value)


# --- what is named ---


@pytest.mark.parametrize(
    ("arn", "service"),
    [
        (SECRET, "secretsmanager"),
        ("arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:a+b=c.d@e", "secretsmanager"),
        (PARAMETER, "ssm"),
        ("arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/plain", "ssm"),
        ("wandb", None),
        (VALUE, None),
        (SECRET.replace("secretsmanager", "ssm"), None),
        (PARAMETER.replace("ssm", "secretsmanager"), None),
        (f"{SECRET}:WANDB_API_KEY::", None),  # as ECS names a key in it
        (SECRET.replace("123456789012", "12345"), None),
        ("arn:aws:iam::123456789012:role/wandb", None),
        (f"{SECRET}\n", None),
        ("", None),
    ],
)
def test_only_arns_of_secrets_and_parameters_are_taken(arn: str, service: str | None) -> None:
    found = SecretArn.parse(arn)
    assert (None if found is None else found.service) == service
    assert bool(list(findings({"KEY": arn}, None))) == (service is None)


@given(st.text(min_size=12), st.sampled_from(["eu-west-1", None]))
def test_a_value_that_may_be_the_secret_itself_is_never_shown(value: str, region: str | None) -> None:
    said = "\n".join(findings({"WANDB_API_KEY": value}, region))
    assert said
    assert value not in said
    assert "12345678901" not in "\n".join(findings("12345678901", region))


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ("{WANDB_API_KEY: " + VALUE + "}", "launcher.secrets.WANDB_API_KEY is not the ARN of a secret"),
        ("{K: " + SECRET.replace("eu-west-1", "us-east-1") + "}", "is in the region us-east-1, but the job runs in eu"),
        ("{K: " + SECRET.replace("arn:aws:", "arn:aws-cn:") + "}", "is in the partition aws-cn"),
        ("{PATH: " + SECRET + "}", "PATH is set by the machine itself"),
        ("{DOGBREED_SENT: " + SECRET + "}", "DOGBREED_SENT is set by the machine itself"),
        ("{a-b: " + SECRET + "}", "a-b cannot be an environment variable"),
        ("[a]", "launcher.secrets must name environment variables and ARNs"),
    ],
)
def test_what_is_wrong_is_named_in_the_plan(secrets: str, message: str, tmp_path: Path) -> None:
    said = refused(tmp_path, f"launcher.secrets={secrets}")
    assert message in said
    assert "Try: " in said
    assert VALUE not in said


def test_a_machine_without_a_network_cannot_fetch_any(tmp_path: Path) -> None:
    isolated = ["launcher.network_isolation=true", "launcher.image=123456789012.dkr.ecr.eu-west-1.amazonaws.com/a:1"]
    assert "Without a network launcher.secrets" in refused(tmp_path, f"launcher.secrets={{K: {SECRET}}}", *isolated)


@pytest.mark.parametrize(
    ("logger", "key"),
    [
        (["logger=wandb"], "WANDB_API_KEY"),
        (["logger=csv", "logger._target_=lightning.pytorch.loggers.CometLogger"], "COMET_API_KEY"),
        (["logger=csv", "logger._target_=lightning.pytorch.loggers.NeptuneLogger"], "NEPTUNE_API_TOKEN"),
    ],
)
def test_a_logger_that_lacks_its_key_is_found_and_one_that_has_it_is_not(
    logger: list[str], key: str, tmp_path: Path
) -> None:
    said = refused(tmp_path, *logger)
    assert f"needs {key}" in said
    assert f"launcher.secrets={{{key}: ARN}}" in said
    assert f"needs {key}" in refused(tmp_path, *logger, f"launcher.secrets={{ANOTHER: {SECRET}}}")
    plan_of(tmp_path, *logger, f"launcher.secrets={{{key}: {SECRET}}}")


# --- what is planned, and permitted ---


def test_a_plan_names_the_secret_its_permission_and_what_fetches_it(tmp_path: Path) -> None:
    launcher, plan = plan_of(tmp_path, f"launcher.secrets={{WANDB_API_KEY: {SECRET}, OTHER: {PARAMETER}}}")
    rows = dict(plan.rows)
    assert rows["secrets"].splitlines()[:2] == ["WANDB_API_KEY from", SECRET]
    assert {"secretsmanager:GetSecretValue", "ssm:GetParameter", "kms:Decrypt"} <= set(
        re.split(r",\s+", rows["job's role"])
    )
    assert "secretsmanager" not in rows["permissions"]  # the person who launches need not read them
    assert plan.requests[-1].parameters["Environment"]["DOGBREED_SECRET_OTHER"] == PARAMETER
    assert "aws" in sent.extras(plan.spec, launcher.secrets)  # boto3, which the image may lack
    words = lacking.grant_command(plan.spec.overrides)
    assert "launcher.secrets=" in words


def test_a_role_may_read_these_secrets_and_no_other_and_only_for_them_decrypt(tmp_path: Path) -> None:
    launcher, plan = plan_of(tmp_path, f"launcher.secrets={{A: {SECRET}, B: {PARAMETER}}}")
    policy = permissions.job_role(launcher, plan.spec.config, "2026-11-24", "123456789012").policy()

    def may(action: str, resource: str, **context: str) -> bool:
        seen = {key.replace("__", ":"): [value] for key, value in context.items()}
        return decide([policy], action, resource, seen) is Decision.ALLOWED

    key = "arn:aws:kms:eu-west-1:123456789012:key/of-the-team"
    assert may("secretsmanager:GetSecretValue", SECRET)
    assert may("ssm:GetParameter", PARAMETER)
    assert not may("secretsmanager:GetSecretValue", SECRET.replace("wandb", "other"))
    assert not may("ssm:GetParameter", f"{PARAMETER}/below")
    assert not may("secretsmanager:PutSecretValue", SECRET)
    through = {"kms__ViaService": "secretsmanager.eu-west-1.amazonaws.com"}
    assert may("kms:Decrypt", key, **through, **{"kms__EncryptionContext:SecretARN": SECRET})
    assert not may("kms:Decrypt", key, **through, **{"kms__EncryptionContext:SecretARN": PARAMETER})
    assert not may("kms:Decrypt", key)


def test_an_arn_without_its_suffix_is_permitted_as_aws_completes_it() -> None:
    found = SecretArn.parse(SECRET.removesuffix("-AbCdEf"))
    assert found is not None
    policy = {"Version": "2012-10-17", "Statement": [grant.statement() for grant in found.grants()]}
    assert decide([policy], "secretsmanager:GetSecretValue", SECRET, {}) is Decision.ALLOWED
    other = SECRET.replace("wandb-", "wandb-of-others-")
    assert decide([policy], "secretsmanager:GetSecretValue", other, {}) is not Decision.ALLOWED


# --- on the machine ---

HASHES = """
import hashlib, json, os
print(json.dumps({name: hashlib.sha256(os.environ[name].encode()).hexdigest() for name in ("ONE", "TWO", "THREE")}))
"""


def kept(cloud: Rehearsal, name: str, text: str) -> str:
    return str(cloud.client("secretsmanager").create_secret(Name=name, SecretString=text)["ARN"])


def of_the_machine(place: Path, **arns: str) -> dict[str, str]:
    server = process.running(place)
    assert server is not None
    aws = {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": server.key, "AWS_SECRET_ACCESS_KEY": server.key}
    return {**aws, **{f"DOGBREED_SECRET_{name}": arn for name, arn in arns.items()}}


def test_train_py_gets_the_values_and_nothing_else_of_the_machine_does(
    cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    values = {"ONE": f"one-{tmp_path.name}", "TWO": f"two-{tmp_path.name}", "THREE": f"three-{tmp_path.name}"}
    made = cloud.client("ssm").put_parameter
    made(Name=f"/{tmp_path.name}/three", Value=values["THREE"], Type="SecureString")
    three = cloud.client("ssm").get_parameter(Name=f"/{tmp_path.name}/three")["Parameter"]["ARN"]
    arns = {
        "ONE": kept(cloud, f"{tmp_path.name}/one", f"{values['ONE']}\n"),
        "TWO": kept(cloud, f"{tmp_path.name}/two", json.dumps({"TWO": values["TWO"], "note": "as in the console"})),
        "THREE": three,
    }
    machine = Machine(tmp_path / "ml", HASHES)
    status, lines = machine.run(**of_the_machine(place, **arns))
    assert status == 0, lines
    expected = {name: hashlib.sha256(value.encode()).hexdigest() for name, value in values.items()}
    assert json.loads(next(line for line in lines if line.startswith("{"))) == expected
    assert "Fetched the secrets ONE, THREE, TWO" in lines
    seen = ["\n".join(lines), *(p.read_text(errors="replace") for p in machine.base.rglob("*") if p.is_file())]
    assert not [text for text in seen for value in values.values() if value in text]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "does not exist. Try: an ARN that `aws secretsmanager list-secrets` shows"),
        ('{"A": "x", "B": "y"}', "holds the keys A, B, and no text for KEY"),
        ('{"KEY": 7}', "no text for KEY"),
        ("  \n", "is empty"),
        (b"\x00\x01", "is binary"),
    ],
)
def test_a_secret_that_cannot_be_used_ends_the_machine_before_training(
    text: str | bytes | None, reason: str, cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:none-AbCdEf"
    client = cloud.client("secretsmanager")
    if isinstance(text, bytes):
        arn = client.create_secret(Name=f"{tmp_path.name}", SecretBinary=text)["ARN"]
    elif text is not None:
        arn = kept(cloud, tmp_path.name, text)
    machine = Machine(tmp_path / "ml", "print('trained')")
    status, lines = machine.run(**of_the_machine(place, KEY=arn))
    assert status == 1
    assert "trained" not in lines
    assert machine.failure.startswith(f"[bad_config] launcher.secrets.KEY: {arn} ")
    assert reason in machine.failure


# --- a whole job ---


@pytest.mark.cloud
def test_a_job_reads_a_secret_if_its_role_may_and_the_value_is_nowhere(
    cloud: Rehearsal, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value = f"value-of-{tmp_path.name}"
    arn = kept(cloud, f"{tmp_path.name}/key", value)
    words = (f"launcher.secrets={{MY_KEY: {arn}}}", "trainer.max_epochs=1", "aws.reclaims=0")
    launcher, plan = prepared(place, tmp_path / "run", *words)
    launcher.submit(plan)
    assert f"secretsmanager:GetSecretValue on {arn}" in caplog.text  # warned of, before anything costs money
    assert "kms:Decrypt" not in caplog.text  # not known to be needed
    until(lambda: launcher.status(plan.handle).finished)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.PERMISSION), status
    assert f"launcher.secrets.MY_KEY: the job's role may not read {arn}" in status.detail
    granted = status.next_action.splitlines()[0].partition("with: ")[2]
    assert "iam --apply" in granted
    assert "launcher.secrets=" in granted

    needed = [grant.statement() for grant in grants({"MY_KEY": arn})]  # beside what others use the role for
    role = {"RoleName": "dogbreed-training", "PolicyName": "secrets"}
    cloud.client("iam").put_role_policy(**role, PolicyDocument=json.dumps(document(needed)))
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished)
    cloud.client("iam").delete_role_policy(**role)
    assert launcher.status(plan.handle).phase is Phase.SUCCEEDED, launcher.status(plan.handle)
    launcher.result(plan.handle)
    log = [line.text for line in launcher.logs(plan.handle)]
    assert "Fetched the secrets MY_KEY" in log
    s3 = cloud.client("s3")
    objects = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"dogbreed/runs/{plan.spec.run_id}/")["Contents"]
    bodies = [s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read() for item in objects]
    files = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    records = [path.read_bytes() for path in (place / "jobs" / plan.spec.run_id).rglob("*") if path.is_file()]
    texts = [*bodies, *files, *records, "\n".join(log).encode(), str(plan).encode(), plan.spec.to_json().encode()]
    assert not [text for text in texts if value.encode() in text]
