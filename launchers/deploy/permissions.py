"""Define what the person who deploys needs to be permitted, and the roles that a deployment uses."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from launchers.aws import lacking, policy, tags
from launchers.aws.actions import CODEBUILD, LAMBDA, SAGEMAKER, SCHEDULER, Where, needs
from launchers.aws.iam import Caller
from launchers.aws.policy import Conditions, Grant, Identity
from launchers.aws.scaling_actions import SCALING, SCALING_ROLE
from launchers.deploy import autoscaling, front_permissions, function_permissions, images, names, request
from launchers.deploy.settings import DeploySettings
from launchers.plan import Request
from launchers.spec import RunSpec

_NO_RESOURCE = "AWS has no resource for this action"
_OURS = {"Null": {f"aws:ResourceTag/{tags.RUN_ID}": "false"}}  # only what a launcher has tagged
_ALL = f"{names.PREFIX}*"


def identities(settings: DeploySettings, account: str = "*", deployment: str = "") -> list[Identity]:
    """Return the person who deploys, and the roles of endpoint, functions, schedules and image build.

    deployment: the name of the only one that the functions' roles are for; empty for all of them.
    """
    where = Where(settings.cloud.region or "*", account)
    trust: Conditions = {} if account == "*" else {"StringEquals": {"aws:SourceAccount": account}}
    return [
        caller(settings, account),
        Identity("hosting", "the endpoint", tuple(_hosting(settings, where)), SAGEMAKER, "launcher.role", trust),
        Identity(
            "scheduler",
            "the schedules that end a deployment",
            tuple(_scheduler(where)),
            SCHEDULER,
            "launcher.expiry_role",
            trust,
        ),
        Identity(
            "image-build",
            "the build of the endpoint's image",
            tuple(_build(settings, where)),
            CODEBUILD,
            "launcher.build_role",
            trust,
        ),
        Identity(
            "front",
            "the function in front of an endpoint",
            tuple(front_permissions.front(where, deployment)),
            LAMBDA,
            "launcher.front_role",
        ),
        Identity(
            "lambda",
            "a function with the model inside",
            (
                *function_permissions.functions_role(settings.bucket or "*", settings.prefix, where, deployment),
                *_kms(settings, where),
            ),
            LAMBDA,
            "launcher.lambda_role",
        ),
    ]


def actions(identity: Identity) -> tuple[str, ...]:
    """Return the IAM actions that a person or role needs."""
    return tuple(sorted({action for grant in identity.grants for action in grant.actions}))


def caller(settings: DeploySettings, account: str = "*") -> Identity:
    """Return what the person who deploys needs."""
    where = Where(settings.cloud.region or "*", account)
    bucket, prefix = settings.bucket or "*", settings.prefix
    models, images_ = where.bucket(bucket, f"{prefix}/models/*"), where.bucket(bucket, f"{prefix}/images/*")
    endpoints = where.arn("sagemaker", f"endpoint/{_ALL}")
    configs, model = where.arn("sagemaker", f"endpoint-config/{_ALL}"), where.arn("sagemaker", f"model/{_ALL}")
    hosting, expiry = _role(settings.role, "hosting", where), _role(settings.expiry_role, "scheduler", where)
    build = _role(settings.build_role, "image-build", where)
    functions = (*_role(settings.lambda_role, "lambda", where), *_role(settings.front_role, "front", where))
    types = sorted(request.types_of(settings))
    return Identity(
        "launch",
        "the person who launches",
        (
            Grant(("s3:ListBucket", "s3:GetBucketAcl", "s3:GetBucketPolicyStatus"), (where.bucket(bucket),)),
            Grant(("s3:GetObject",), (models,)),
            Grant(("s3:PutObject", "s3:AbortMultipartUpload"), (models, images_)),
            # what one lacks oneself, and what the roles lack, is said before anything is made
            Grant(("iam:SimulatePrincipalPolicy",), (*hosting, *expiry, *functions, _launch(where))),
            Grant(("iam:GetRole",), (*hosting, *expiry, *build, *functions, _launch(where))),
            Grant(("iam:PassRole",), hosting, {"StringEquals": {"iam:PassedToService": SAGEMAKER}}),
            Grant(("iam:PassRole",), expiry, {"StringEquals": {"iam:PassedToService": SCHEDULER}}),
            Grant(("iam:PassRole",), build, {"StringEquals": {"iam:PassedToService": CODEBUILD}}),
            Grant(("iam:PassRole",), functions, {"StringEquals": {"iam:PassedToService": LAMBDA}}),
            Grant(("sagemaker:CreateModel",), (model,), {"Bool": {"sagemaker:NetworkIsolation": "true"}}),
            Grant(
                ("sagemaker:CreateEndpointConfig",),
                (configs,),
                {"ForAllValues:StringEquals": {"sagemaker:InstanceTypes": types}},
            ),
            Grant(("sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint"), (endpoints, configs)),
            Grant(("sagemaker:AddTags",), (endpoints, configs, model)),
            Grant(
                (
                    "sagemaker:DeleteEndpoint",
                    "sagemaker:DeleteTags",
                    "sagemaker:DescribeEndpoint",
                    "sagemaker:InvokeEndpoint",
                    "sagemaker:ListTags",
                ),
                (endpoints,),
            ),
            Grant(("sagemaker:DeleteEndpointConfig", "sagemaker:DescribeEndpointConfig"), (configs,)),
            Grant(("sagemaker:DeleteModel", "sagemaker:DescribeModel"), (model,)),
            Grant(
                ("sagemaker:ListEndpointConfigs", "sagemaker:ListEndpoints", "sagemaker:ListModels"),
                everywhere=_NO_RESOURCE,
            ),
            Grant(
                ("cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm", "cloudwatch:TagResource"),
                (where.arn("cloudwatch", f"alarm:{_ALL}"),),
            ),
            # a list of alarms names none of them
            Grant(("cloudwatch:DescribeAlarms",), (where.arn("cloudwatch", "alarm:*"),)),
            Grant(
                (
                    "scheduler:CreateSchedule",
                    "scheduler:DeleteSchedule",
                    "scheduler:GetSchedule",
                    "scheduler:UpdateSchedule",
                ),
                (where.arn("scheduler", f"schedule/default/{_ALL}"),),
            ),
            Grant(("scheduler:ListSchedules",), everywhere="a list of schedules names none of them"),
            Grant(("servicequotas:ListServiceQuotas",), everywhere=_NO_RESOURCE),
            Grant(
                ("logs:DeleteLogGroup", "logs:DescribeLogStreams", "logs:GetLogEvents"),
                (where.arn("logs", f"log-group:/aws/sagemaker/Endpoints/{_ALL}"),),
            ),
            Grant(("logs:DescribeLogGroups",), (where.arn("logs", "log-group:*"),)),
            *_images(where),
            *function_permissions.caller(where),
            *front_permissions.caller(where),
            *_scaling(where),
            *_kms(settings, where),
        ),
    )


def warning(
    settings: DeploySettings, spec: RunSpec, who: Caller, requests: Iterable[Request], taken: Mapping[str, str]
) -> str:
    """Return a warning of what the caller lacks for a plan's calls, and of what its roles lack; empty if nothing.

    taken: the ARNs of the roles, by the settings that name them.
    """
    where = Where(settings.cloud.region or "*", who.account)
    calls = {need.action for each in requests for need in needs(each.service, each.operation, each.parameters, where)}
    launch, *others = identities(settings, who.account, spec.run_id)
    used = [(taken[each.setting], each) for each in others if each.setting in taken]
    services = {each.service for _, each in used}
    grants = [replace(each, actions=tuple(name for name in each.actions if name in calls)) for each in launch.grants]
    wanted = [each for each in grants if each.actions and _passed_to(each) in ("", *services)]
    launch = replace(launch, grants=tuple(wanted))
    return lacking.warning(settings.cloud, who, launch, used, spec.overrides, what="deployment")


def _passed_to(grant: Grant) -> str:
    """Return the service that a role may be passed to; empty for any other grant."""
    return str(grant.conditions.get("StringEquals", {}).get("iam:PassedToService", ""))


def _launch(where: Where) -> str:
    return where.role(policy.role_in_arn("launch"))


def _scaling(where: Where) -> Iterator[Grant]:
    """Yield what Application Auto Scaling needs of whoever registers an endpoint: it asks under that person's name.

    "Permissions for API calls on target services and CloudWatch" in its user guide says so.
    """
    targets = where.arn("application-autoscaling", "scalable-target/*")  # whose ids are AWS's own
    actions = ("DeregisterScalableTarget", "PutScalingPolicy", "RegisterScalableTarget")
    yield Grant(tuple(f"application-autoscaling:{name}" for name in actions), (targets,), _VARIANTS)
    yield Grant(("application-autoscaling:TagResource",), (targets,), _TAGGED)
    yield Grant(
        ("application-autoscaling:DescribeScalableTargets", "application-autoscaling:DescribeScalingPolicies"),
        everywhere=_NO_RESOURCE,
    )
    yield Grant(("sagemaker:UpdateEndpointWeightsAndCapacities",), (where.arn("sagemaker", f"endpoint/{_ALL}"),))
    yield Grant(("cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm"), (_tracking(where),))
    # of the first endpoint in an account that scales: the role as which AWS changes their numbers
    yield Grant(
        ("iam:CreateServiceLinkedRole",),
        (where.role(f"aws-service-role/{SCALING}/{SCALING_ROLE}"),),
        {"StringEquals": {"iam:AWSServiceName": SCALING}},
    )


_VARIANTS: Conditions = {
    "StringEquals": {
        "application-autoscaling:scalable-dimension": autoscaling.DIMENSION,
        "application-autoscaling:service-namespace": autoscaling.NAMESPACE,
    }
}
_TAGGED: Conditions = {"Null": {f"aws:RequestTag/{tags.RUN_ID}": "false"}}


def _tracking(where: Where) -> str:
    """Return the alarms that AWS makes for target tracking."""
    return where.arn("cloudwatch", f"alarm:TargetTracking-endpoint/{_ALL}")


def _images(where: Where) -> Iterator[Grant]:
    repository = where.arn("ecr", f"repository/{request.REPOSITORY}")
    yield Grant(("ecr:CreateRepository", "ecr:DescribeImages"), (repository,))
    yield Grant(_PUSH, (repository,))
    yield Grant(("ecr:GetAuthorizationToken",), everywhere=_NO_RESOURCE)
    project = where.arn("codebuild", f"project/{images.BUILDER}")
    yield Grant(("codebuild:BatchGetBuilds", "codebuild:CreateProject", "codebuild:StartBuild"), (project,))
    yield Grant(("logs:GetLogEvents",), (where.arn("logs", f"log-group:/aws/codebuild/{images.BUILDER}:*"),))


_PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
_PUSH = ("ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart", *_PULL[:1])
_WRITE_LOGS = ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents")


def _hosting(settings: DeploySettings, where: Where) -> Iterator[Grant]:
    """Yield what SageMaker calls in the name of the endpoint's role.

    It says so under "CreateModel API: Execution Role Permissions" of
    https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html.
    """
    bucket = settings.bucket or "*"
    yield Grant(("s3:GetObject",), (where.bucket(bucket, f"{settings.prefix}/models/*"),))
    yield Grant(("s3:ListBucket",), (where.bucket(bucket),))
    yield Grant(_PULL, (where.arn("ecr", f"repository/{request.REPOSITORY}"),))
    yield Grant(("ecr:GetAuthorizationToken",), everywhere=_NO_RESOURCE)
    yield Grant(_WRITE_LOGS, (where.arn("logs", f"log-group:/aws/sagemaker/Endpoints/{_ALL}"),))
    yield Grant(
        ("cloudwatch:PutMetricData",),
        conditions={"StringLike": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/*"]}},
        everywhere="metrics have no ARN; the condition limits them to the namespaces of endpoints",
    )
    yield Grant(("cloudwatch:DescribeAlarms",), (where.arn("cloudwatch", f"alarm:{_ALL}"),))
    yield from _kms(settings, where)


def _scheduler(where: Where) -> Iterator[Grant]:
    yield Grant(("sagemaker:DeleteEndpoint",), (where.arn("sagemaker", f"endpoint/{_ALL}"),))
    yield Grant(("sagemaker:DeleteEndpointConfig",), (where.arn("sagemaker", f"endpoint-config/{_ALL}"),))
    yield Grant(("sagemaker:DeleteModel",), (where.arn("sagemaker", f"model/{_ALL}"),))
    yield Grant(("cloudwatch:DeleteAlarms",), (where.arn("cloudwatch", f"alarm:{_ALL}"), _tracking(where)))
    # with the scaling of an endpoint, which AWS also asks for of whoever deletes one that scales
    targets = where.arn("application-autoscaling", "scalable-target/*")
    yield Grant(("application-autoscaling:DeregisterScalableTarget",), (targets,), _VARIANTS)
    yield Grant(("logs:DeleteLogGroup",), (where.arn("logs", f"log-group:/aws/sagemaker/Endpoints/{_ALL}"),))
    yield from function_permissions.scheduler(where)


def _build(settings: DeploySettings, where: Where) -> Iterator[Grant]:
    yield Grant(("s3:GetObject",), (where.bucket(settings.bucket or "*", f"{settings.prefix}/images/*"),))
    yield Grant(_PUSH, (where.arn("ecr", f"repository/{request.REPOSITORY}"),))
    yield Grant(("ecr:GetAuthorizationToken",), everywhere=_NO_RESOURCE)
    group = where.arn("logs", f"log-group:/aws/codebuild/{images.BUILDER}*")
    yield Grant(("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"), (group,))
    yield from _kms(settings, where)


def _role(role: str | None, identity: str, where: Where) -> tuple[str, ...]:
    """Return the ARN of a role; of one that is given by name and is not ours, with and without a path."""
    if role is None or role == policy.role_name(identity):
        return (where.role(policy.role_in_arn(identity)),)
    return (role,) if role.startswith("arn:") else (where.role(role), where.role(f"*/{role}"))


def _kms(settings: DeploySettings, where: Where) -> Iterator[Grant]:
    key = settings.kms_key
    if key:
        resource = key if key.startswith("arn:") else where.arn("kms", f"key/{key}")
        yield Grant(("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"), (resource,))
        yield Grant(("kms:CreateGrant",), (resource,), {"Bool": {"kms:GrantIsForAWSResource": "true"}})
