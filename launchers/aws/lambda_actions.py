"""What calls of Lambda need: actions, the ARNs that they are on, and the values of condition keys. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launchers.aws.actions import Where

LAMBDA = "lambda.amazonaws.com"
Wanted = tuple[str, str, dict[str, list[str]]]  # action, resource, values of condition keys
Needed = Callable[[Mapping[str, Any], "Where"], Iterator[Wanted]]


def _on_function(action: str, *, qualified: bool = False) -> Needed:
    """An action on a function. qualified: on the version or alias that the call names."""

    def found(parameters: Mapping[str, Any], where: "Where") -> Iterator[Wanted]:
        given = str(parameters["FunctionName"])
        name, _, of_name = given.rpartition(":function:")[2].partition(":")
        qualifier = str(parameters.get("Qualifier") or of_name) if qualified else ""
        context: dict[str, list[str]] = {}
        for key in ("FunctionUrlAuthType", "Principal"):
            if key in parameters:
                context[f"lambda:{key}"] = [str(parameters[key])]
        if "AuthType" in parameters:
            context["lambda:FunctionUrlAuthType"] = [str(parameters["AuthType"])]
        yield action, where.arn("lambda", f"function:{name}" + (f":{qualifier}" if qualifier else "")), context

    return found


def _write_function(action: str) -> Needed:
    """An action that makes or changes a function: its role is passed on, and its package may be read from S3."""

    def found(parameters: Mapping[str, Any], where: "Where") -> Iterator[Wanted]:
        arn, nothing_is_known = where.arn("lambda", f"function:{parameters['FunctionName']}"), not parameters
        given = parameters.get("Tags") or {}
        tags = {f"aws:RequestTag/{key}": [str(value)] for key, value in given.items()}
        context = {**tags, "aws:TagKeys": list(given)} if given else {}
        yield action, arn, context
        if given or nothing_is_known:
            yield "lambda:TagResource", arn, context
        if "Role" in parameters or (nothing_is_known and action != "lambda:UpdateFunctionCode"):
            yield "iam:PassRole", where.role(str(parameters["Role"])), {"iam:PassedToService": [LAMBDA]}
        code = parameters.get("Code", parameters)
        if isinstance(code, Mapping) and "S3Bucket" in code:
            yield "s3:GetObject", where.bucket(str(code["S3Bucket"]), str(code["S3Key"])), {}

    return found


_PLAIN = (
    "DeleteFunction", "GetFunction", "GetFunctionConfiguration", "PublishVersion", "ListVersionsByFunction",
    "CreateAlias", "UpdateAlias", "GetAlias", "DeleteAlias", "ListAliases", "CreateFunctionUrlConfig",
    "UpdateFunctionUrlConfig", "GetFunctionUrlConfig", "DeleteFunctionUrlConfig", "ListFunctionUrlConfigs",
    "AddPermission", "RemovePermission", "GetPolicy", "PutFunctionConcurrency", "GetFunctionConcurrency",
    "DeleteFunctionConcurrency", "ListProvisionedConcurrencyConfigs",
)  # fmt: skip
NEEDED: Mapping[str, Needed] = {  # by operation
    **{name: _on_function(f"lambda:{name}") for name in _PLAIN},
    **{
        name: _on_function(f"lambda:{name}", qualified=True)
        for name in (f"{verb}ProvisionedConcurrencyConfig" for verb in ("Put", "Get", "Delete"))
    },
    "Invoke": _on_function("lambda:InvokeFunction", qualified=True),
    **{
        name: _write_function(f"lambda:{name}")
        for name in ("CreateFunction", "UpdateFunctionCode", "UpdateFunctionConfiguration")
    },
}
