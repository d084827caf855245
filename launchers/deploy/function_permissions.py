"""Define what a function with the model inside may do, and what the person who deploys it needs besides."""

from collections.abc import Iterator

from launchers.aws.actions import Where
from launchers.aws.policy import Grant
from launchers.deploy import names
from launchers.payload.model import MODEL_FILE

_ALL = f"{names.PREFIX}*"


def functions_role(bucket: str, prefix: str, where: Where, deployment: str) -> Iterator[Grant]:
    """Yield what the function itself may do: write its log, and read a model that is not in its package.

    deployment: the name of the only one whose models it may read, each under its digest; empty for any.
    """
    group = where.arn("logs", f"log-group:{names.Names(deployment or '*').function_log_group}:*")
    models = where.bucket(bucket, f"{prefix}/models/{deployment or '*'}/*/{MODEL_FILE}")
    yield Grant(("logs:CreateLogStream", "logs:PutLogEvents"), (group,))
    yield Grant(("s3:GetObject",), (models,))


def caller(where: Where) -> Iterator[Grant]:
    """Yield what the person who deploys needs."""
    functions = where.arn("lambda", f"function:{_ALL}")
    yield Grant(
        ("lambda:CreateFunctionUrlConfig",),
        (functions,),
        {"StringEquals": {"lambda:FunctionUrlAuthType": "AWS_IAM"}},
    )
    yield Grant(
        (
            "lambda:CreateAlias",
            "lambda:CreateFunction",
            "lambda:DeleteFunction",
            "lambda:DeleteFunctionConcurrency",
            "lambda:GetAlias",
            "lambda:GetFunction",
            "lambda:GetFunctionConfiguration",
            "lambda:GetFunctionUrlConfig",
            "lambda:InvokeFunction",
            "lambda:ListTags",  # without which GetFunction leaves them out
            "lambda:ListVersionsByFunction",
            "lambda:PublishVersion",
            "lambda:PutFunctionConcurrency",
            "lambda:TagResource",
            "lambda:UntagResource",
            "lambda:UpdateAlias",
            "lambda:UpdateFunctionCode",
            "lambda:UpdateFunctionConfiguration",
        ),
        (functions,),
    )
    yield Grant(("lambda:ListFunctions",), everywhere="AWS has no resource for this action")
    yield Grant(
        (
            "logs:CreateLogGroup",
            "logs:DeleteLogGroup",
            "logs:DescribeLogStreams",
            "logs:GetLogEvents",
            "logs:PutRetentionPolicy",
            "logs:TagResource",
        ),
        (_logs(where),),
    )


def scheduler(where: Where) -> Iterator[Grant]:
    """Yield what the role of the schedules needs, which end a deployment."""
    yield Grant(("lambda:DeleteFunction",), (where.arn("lambda", f"function:{_ALL}"),))
    yield Grant(("logs:DeleteLogGroup",), (_logs(where),))


def _logs(where: Where) -> str:
    return where.arn("logs", f"log-group:/aws/lambda/{_ALL}")
