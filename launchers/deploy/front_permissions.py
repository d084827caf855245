"""Define what the function in front of an endpoint may do, and what the person who deploys it needs besides."""

from collections.abc import Iterator

from launchers.aws.actions import Where
from launchers.aws.policy import Grant
from launchers.deploy import names


def front(where: Where, deployment: str) -> Iterator[Grant]:
    """Yield what the front may do: ask the endpoint, and write its own log. deployment: its name; empty for any."""
    endpoint = names.Names(deployment or "*")
    yield Grant(("sagemaker:InvokeEndpoint",), (where.arn("sagemaker", f"endpoint/{endpoint.endpoint}"),))
    group = where.arn("logs", f"log-group:{endpoint.function_log_group}:*")
    yield Grant(("logs:CreateLogStream", "logs:PutLogEvents"), (group,))


def caller(where: Where) -> Iterator[Grant]:
    """Yield what the person who deploys needs besides what any function needs."""
    functions = where.arn("lambda", f"function:{names.PREFIX}*")
    yield Grant(
        (
            "lambda:DeleteProvisionedConcurrencyConfig",
            "lambda:GetProvisionedConcurrencyConfig",
            "lambda:InvokeFunctionUrl",
            "lambda:PutProvisionedConcurrencyConfig",
        ),
        (functions,),
    )
    yield Grant(("lambda:GetAccountSettings",), everywhere="AWS has no resource for this action")
