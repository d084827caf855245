"""Map calls of AWS's interfaces to the IAM actions that they need, and to the resources. Pure: no network.

Most operations need the action of their own name. The exceptions are the table `_EXCEPTIONS`: AWS states them in the
Service Authorization Reference (https://docs.aws.amazon.com/service-authorization/latest/reference/), for S3 under
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launchers.aws import lambda_actions
from launchers.aws.machine_actions import CALLS as MACHINE_CALLS
from launchers.aws.machine_actions import MachineCall
from launchers.aws.policy import partition_of
from launchers.aws.scaling_actions import CALLS as SCALING_CALLS

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Where:
    """An account and a region, from which ARNs are built. account: "*" where it is not known."""

    region: str
    account: str = "*"

    @property
    def partition(self) -> str:
        return partition_of(self.region)

    def arn(self, service: str, resource: str) -> str:
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def role(self, name: str) -> str:
        """Return the ARN of a role given by name or ARN; name may be a pattern."""
        return name if name.startswith("arn:") else f"arn:{self.partition}:iam::{self.account}:role/{name}"

    def profile(self, name: str) -> str:
        """Return the ARN of an instance profile; name may be a pattern."""
        return f"arn:{self.partition}:iam::{self.account}:instance-profile/{name}"

    def bucket(self, name: str, key: str = "") -> str:
        return f"arn:{self.partition}:s3:::{name}" + (f"/{key}" if key else "")


@dataclass(frozen=True)
class Need:
    """One action on one resource. context: the values of condition keys that the request has."""

    action: str
    resource: str = "*"
    context: Mapping[str, Sequence[str]] = field(default_factory=dict)


def needs(service: str, operation: str, parameters: Parameters, where: Where) -> list[Need]:
    """Return what a call needs. service: as in IAM's actions or as boto3 names it. operation: as in AWS's model."""
    service = _OF_CLIENTS.get(service, service)
    exception = _EXCEPTIONS.get((service, operation))
    if exception is not None:
        return list(exception(parameters, where))
    return [Need(f"{service}:{operation}", _resource(service, parameters, where), _tags(parameters))]


_OF_CLIENTS = {
    "sagemaker-runtime": "sagemaker",
    "service-quotas": "servicequotas",
}  # name of a client -> service in IAM's actions, where they differ


def actions_of(service: str, operation: str) -> list[str]:
    """Return the actions that a call needs, whatever its parameters are."""
    return [need.action for need in needs(service, operation, _Anything(), Where("*"))]


class _Anything(dict[str, Any]):
    """Parameters of which nothing is known."""

    def __missing__(self, key: str) -> str:
        return "*"


def _resource(service: str, parameters: Parameters, where: Where) -> str:
    """Return the resource that a parameter names, or "*" if none does."""
    if service == "iam" and "RoleName" in parameters:
        return where.role(str(parameters["RoleName"]))
    if service == "s3" and "Bucket" in parameters:
        return where.bucket(str(parameters["Bucket"]), str(parameters.get("Key", "")))
    for name, kind in _KINDS.get(service, {}).items():
        if name in parameters:
            value = str(parameters[name])
            name = value.lstrip("/") if service == "ssm" else value  # a parameter's name may begin with a slash
            return value if value.startswith("arn:") else where.arn(service, f"{kind}{name}")
    return "*"


_KINDS: Mapping[str, Mapping[str, str]] = {  # service -> parameter -> what stands before its value in an ARN
    "sagemaker": {
        "TrainingJobName": "training-job/",
        "HyperParameterTuningJobName": "hyper-parameter-tuning-job/",
        "EndpointName": "endpoint/",
        "EndpointConfigName": "endpoint-config/",
        "ModelName": "model/",
        "ResourceArn": "",
    },
    "cloudwatch": {"AlarmName": "alarm:"},
    "ecr": {"repositoryName": "repository/"},
    "secretsmanager": {"SecretId": "secret:"},
    "ssm": {"Name": "parameter/"},
    "iam": {"PolicySourceArn": "", "PolicyArn": "", "RoleArn": ""},
    "lambda": {"Resource": ""},
    "sts": {"RoleArn": ""},
}


def _tags(parameters: Parameters) -> dict[str, list[str]]:
    tags = parameters.get("Tags")
    if not isinstance(tags, Sequence) or isinstance(tags, str):
        return {}
    found = {f"aws:RequestTag/{tag['Key']}": [str(tag["Value"])] for tag in tags}
    return {**found, "aws:TagKeys": [str(tag["Key"]) for tag in tags]} if found else {}


# --- operations that need other actions than that of their name ---

_Exception = Callable[[Parameters, Where], Iterator[Need]]


def _on_object(*actions: str) -> _Exception:
    def found(parameters: Parameters, where: Where) -> Iterator[Need]:
        for action in actions:
            yield Need(action, where.bucket(str(parameters["Bucket"]), str(parameters["Key"])))

    return found


def _on_bucket(*actions: str) -> _Exception:
    def found(parameters: Parameters, where: Where) -> Iterator[Need]:
        prefix = parameters.get("Prefix")
        for action in actions:
            listed = {"s3:prefix": [str(prefix)]} if prefix is not None else {}
            yield Need(action, where.bucket(str(parameters["Bucket"])), listed)

    return found


def _copy_object(parameters: Parameters, where: Where) -> Iterator[Need]:
    source = parameters["CopySource"]
    bucket, _, key = (
        str(source).lstrip("/").partition("/") if isinstance(source, str) else (source["Bucket"], "/", source["Key"])
    )
    yield Need("s3:GetObject", where.bucket(bucket, key))
    yield from _on_object("s3:PutObject")(parameters, where)


def _delete_objects(parameters: Parameters, where: Where) -> Iterator[Need]:
    delete = parameters["Delete"]
    keys = [item["Key"] for item in delete["Objects"]] if isinstance(delete, Mapping) else ["*"]
    for key in keys:
        yield Need("s3:DeleteObject", where.bucket(str(parameters["Bucket"]), str(key)))


def _create_training_job(parameters: Parameters, where: Where) -> Iterator[Need]:
    job = where.arn("sagemaker", f"training-job/{parameters['TrainingJobName']}")
    tags = _tags(parameters)
    yield Need("sagemaker:CreateTrainingJob", job, {**tags, **_job_context(parameters)})
    if tags or isinstance(parameters, _Anything):
        yield Need("sagemaker:AddTags", job, {**tags, "sagemaker:TaggingAction": ["CreateTrainingJob"]})
    yield Need("iam:PassRole", where.role(str(parameters["RoleArn"])), {"iam:PassedToService": [SAGEMAKER]})


def _create_tuning_job(parameters: Parameters, where: Where) -> Iterator[Need]:
    job = where.arn("sagemaker", f"hyper-parameter-tuning-job/{parameters['HyperParameterTuningJobName']}")
    trial = parameters.get("TrainingJobDefinition") or {}
    yield from _created(parameters, where, "CreateHyperParameterTuningJob", job, _job_context(trial))
    yield Need("iam:PassRole", where.role(str(trial.get("RoleArn", "*"))), {"iam:PassedToService": [SAGEMAKER]})


def _job_context(job: Parameters) -> dict[str, list[str]]:
    """Return what conditions ask of a training job, or of those of a tuning job: its machines and their network."""
    resources = job.get("ResourceConfig") or job.get("HyperParameterTuningResourceConfig") or {}
    network = job.get("VpcConfig") or {}
    return {
        "sagemaker:NetworkIsolation": [str(bool(job.get("EnableNetworkIsolation"))).lower()],
        **({"sagemaker:InstanceTypes": [resources["InstanceType"]]} if "InstanceType" in resources else {}),
        **({"sagemaker:VpcSubnets": list(network["Subnets"])} if "Subnets" in network else {}),
        **({"sagemaker:VpcSecurityGroupIds": list(network["SecurityGroupIds"])} if "Subnets" in network else {}),
    }


def _create_model(parameters: Parameters, where: Where) -> Iterator[Need]:
    model = where.arn("sagemaker", f"model/{parameters['ModelName']}")
    isolated = str(bool(parameters.get("EnableNetworkIsolation"))).lower()
    yield from _created(parameters, where, "CreateModel", model, {"sagemaker:NetworkIsolation": [isolated]})
    yield Need("iam:PassRole", where.role(str(parameters["ExecutionRoleArn"])), {"iam:PassedToService": [SAGEMAKER]})


def _create_endpoint_config(parameters: Parameters, where: Where) -> Iterator[Need]:
    config = where.arn("sagemaker", f"endpoint-config/{parameters['EndpointConfigName']}")
    kinds = []
    for variant in parameters.get("ProductionVariants") or ():
        kinds += [
            each["InstanceType"] for each in (variant, *variant.get("InstancePools", ())) if "InstanceType" in each
        ]
    context = {"sagemaker:InstanceTypes": kinds} if kinds else {}
    if "KmsKeyId" in parameters:
        context["sagemaker:VolumeKmsKey"] = [str(parameters["KmsKeyId"])]
    yield from _created(parameters, where, "CreateEndpointConfig", config, context)


def _deploy_endpoint(operation: str) -> _Exception:
    """An action on an endpoint and on its configuration, both of which must be allowed."""

    def found(parameters: Parameters, where: Where) -> Iterator[Need]:
        yield from _created(
            parameters, where, operation, where.arn("sagemaker", f"endpoint/{parameters['EndpointName']}")
        )
        config = where.arn("sagemaker", f"endpoint-config/{parameters['EndpointConfigName']}")
        yield Need(f"sagemaker:{operation}", config, _tags(parameters))

    return found


def _created(
    parameters: Parameters, where: Where, operation: str, arn: str, context: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Need]:
    """An operation of SageMaker's that creates a resource, whose tags need a permission of their own."""
    tags = _tags(parameters)
    yield Need(f"sagemaker:{operation}", arn, {**tags, **(context or {})})
    if tags:
        yield Need("sagemaker:AddTags", arn, {**tags, "sagemaker:TaggingAction": [operation]})


def _on_alarms(action: str) -> _Exception:
    """An action on alarms by name; without names on all of them, or on those that begin with AlarmNamePrefix."""

    def found(parameters: Parameters, where: Where) -> Iterator[Need]:
        for name in parameters.get("AlarmNames") or [f"{parameters.get('AlarmNamePrefix', '')}*"]:
            yield Need(action, where.arn("cloudwatch", f"alarm:{name}"))

    return found


def _put_metric_data(parameters: Parameters, where: Where) -> Iterator[Need]:
    yield Need("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": [str(parameters["Namespace"])]})


def _describe_repositories(parameters: Parameters, where: Where) -> Iterator[Need]:
    for name in parameters.get("repositoryNames") or ["*"]:
        yield Need("ecr:DescribeRepositories", where.arn("ecr", f"repository/{name}"))


def _schedule(action: str) -> _Exception:
    def found(parameters: Parameters, where: Where) -> Iterator[Need]:
        group = parameters.get("GroupName") or parameters.get("groupName") or "default"
        yield Need(f"scheduler:{action}", where.arn("scheduler", f"schedule/{group}/{parameters['Name']}"))
        target = parameters.get("Target")
        if isinstance(target, Mapping):
            yield Need("iam:PassRole", where.role(str(target["RoleArn"])), {"iam:PassedToService": [SCHEDULER]})

    return found


def _on_project(action: str) -> _Exception:
    """An action of CodeBuild on a project, also where the call names builds of it."""

    def found(parameters: Parameters, where: Where) -> Iterator[Need]:
        given = next(
            (parameters[key] for key in ("name", "projectName", "id", "names", "ids") if key in parameters), "*"
        )
        names = {str(each).partition(":")[0] for each in ([given] if isinstance(given, str) else given)}
        for name in sorted(names):
            yield Need(f"codebuild:{action}", where.arn("codebuild", f"project/{name}"))
        for key in parameters.keys() & {"serviceRole", "serviceRoleOverride"}:
            yield Need("iam:PassRole", where.role(str(parameters[key])), {"iam:PassedToService": [CODEBUILD]})

    return found


_PROJECT_ACTIONS = (
    "CreateProject", "UpdateProject", "DeleteProject", "BatchGetProjects", "StartBuild", "StopBuild", "BatchGetBuilds",
    "ListBuildsForProject",
)  # fmt: skip


def _log_group(action: str) -> _Exception:
    """An action on a log group; its ARN ends with the empty name of a stream, as AWS's own error messages show it."""

    def found(parameters: Parameters, where: Where) -> Iterator[Need]:
        stream = parameters.get("logStreamName", "")
        yield Need(action, where.arn("logs", f"log-group:{parameters['logGroupName']}:log-stream:{stream}"))

    return found


def _of_lambda(needed: lambda_actions.Needed) -> _Exception:
    def found(parameters: Parameters, where: Where) -> Iterator[Need]:
        for action, resource, context in needed(parameters, where):
            yield Need(action, resource, context)

    return found


def _nothing(parameters: Parameters, where: Where) -> Iterator[Need]:
    return iter(())


def _needed(found: MachineCall) -> _Exception:
    """An exception of machine_actions.py or scaling_actions.py."""
    return lambda parameters, where: (Need(*each) for each in found(parameters, where))


EC2 = "ec2.amazonaws.com"
SAGEMAKER, SCHEDULER = "sagemaker.amazonaws.com", "scheduler.amazonaws.com"
CODEBUILD = "codebuild.amazonaws.com"
LAMBDA = lambda_actions.LAMBDA
_EXCEPTIONS: Mapping[tuple[str, str], _Exception] = {
    ("s3", "HeadBucket"): _on_bucket("s3:ListBucket"),
    ("s3", "ListObjects"): _on_bucket("s3:ListBucket"),
    ("s3", "ListObjectsV2"): _on_bucket("s3:ListBucket"),
    ("s3", "ListMultipartUploads"): _on_bucket("s3:ListBucketMultipartUploads"),
    ("s3", "PutBucketEncryption"): _on_bucket("s3:PutEncryptionConfiguration"),
    ("s3", "GetBucketEncryption"): _on_bucket("s3:GetEncryptionConfiguration"),
    ("s3", "PutBucketLifecycleConfiguration"): _on_bucket("s3:PutLifecycleConfiguration"),
    ("s3", "GetBucketLifecycleConfiguration"): _on_bucket("s3:GetLifecycleConfiguration"),
    ("s3", "PutPublicAccessBlock"): _on_bucket("s3:PutBucketPublicAccessBlock"),
    ("s3", "GetPublicAccessBlock"): _on_bucket("s3:GetBucketPublicAccessBlock"),
    ("s3", "HeadObject"): _on_object("s3:GetObject"),
    ("s3", "CreateMultipartUpload"): _on_object("s3:PutObject"),
    ("s3", "UploadPart"): _on_object("s3:PutObject"),
    ("s3", "CompleteMultipartUpload"): _on_object("s3:PutObject"),
    ("s3", "ListParts"): _on_object("s3:ListMultipartUploadParts"),
    ("s3", "CopyObject"): _copy_object,
    ("s3", "DeleteObjects"): _delete_objects,
    ("s3", "ListBuckets"): lambda parameters, where: iter((Need("s3:ListAllMyBuckets"),)),
    ("sagemaker", "CreateTrainingJob"): _create_training_job,
    ("sagemaker", "ListTrainingJobs"): lambda parameters, where: iter((Need("sagemaker:ListTrainingJobs"),)),
    ("sagemaker", "CreateHyperParameterTuningJob"): _create_tuning_job,
    ("sagemaker", "CreateModel"): _create_model,
    ("sagemaker", "CreateEndpointConfig"): _create_endpoint_config,
    ("sagemaker", "CreateEndpoint"): _deploy_endpoint("CreateEndpoint"),
    ("sagemaker", "UpdateEndpoint"): _deploy_endpoint("UpdateEndpoint"),
    ("cloudwatch", "DescribeAlarms"): _on_alarms("cloudwatch:DescribeAlarms"),
    ("cloudwatch", "DeleteAlarms"): _on_alarms("cloudwatch:DeleteAlarms"),
    ("cloudwatch", "PutMetricData"): _put_metric_data,
    ("ecr", "DescribeRepositories"): _describe_repositories,
    **{
        ("scheduler", f"{verb}Schedule"): _schedule(f"{verb}Schedule") for verb in ("Create", "Get", "Update", "Delete")
    },
    **{("codebuild", action): _on_project(action) for action in _PROJECT_ACTIONS},
    **{call: _needed(found) for call, found in {**MACHINE_CALLS, **SCALING_CALLS}.items()},
    # a list of groups is on none of them, as AWS's own error messages show it
    ("logs", "DescribeLogGroups"): lambda parameters, where: iter(
        (Need("logs:DescribeLogGroups", where.arn("logs", "log-group::log-stream:")),)
    ),
    ("logs", "CreateLogGroup"): _log_group("logs:CreateLogGroup"),
    ("logs", "DeleteLogGroup"): _log_group("logs:DeleteLogGroup"),
    ("logs", "FilterLogEvents"): _log_group("logs:FilterLogEvents"),
    ("logs", "CreateLogStream"): _log_group("logs:CreateLogStream"),
    ("logs", "DescribeLogStreams"): _log_group("logs:DescribeLogStreams"),
    ("logs", "PutLogEvents"): _log_group("logs:PutLogEvents"),
    ("logs", "GetLogEvents"): _log_group("logs:GetLogEvents"),
    ("logs", "PutRetentionPolicy"): _log_group("logs:PutRetentionPolicy"),
    **{("lambda", name): _of_lambda(needed) for name, needed in lambda_actions.NEEDED.items()},
    # "No permissions are required": https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
    ("sts", "GetCallerIdentity"): _nothing,
}
