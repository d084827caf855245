"""Make the calls of a plan, with what only the account knows filled in. What is done already is no error."""

from collections.abc import Callable, Mapping
from typing import Any

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.deploy import autoscaling, names
from launchers.deploy.scaling import Scaled
from launchers.plan import Request


def send(cloud: Cloud, each: Request, filled: dict[str, str], then: str = "") -> None:
    """Make one call. What exists already, because an earlier attempt made it, is no error.

    filled: what only the account knows, by what stands for it in the plan; the ARN of a scaling policy is added to it.
    then: what to say after an error. Raises LaunchError.
    """
    from botocore import xform_name
    from botocore.exceptions import ClientError

    parameters, client = fill(each.parameters, filled), cloud.client(each.service)
    with errors(f"calling {each.operation}", then=then):
        try:
            answer = getattr(client, xform_name(each.operation))(**parameters)
        except ClientError as error:
            if other := _INSTEAD.get((each.operation, code_of(error))):
                other(client, parameters)
            elif each.operation == "RegisterScalableTarget" and "already exists" in str(error):
                _register_again(client, parameters)
            elif not (each.operation in ("CreateModel", "CreateEndpointConfig") and _exists(error)):
                raise
        else:
            if each.operation == "PutScalingPolicy":
                filled[autoscaling.policy_in_plan(parameters["PolicyName"])] = answer["PolicyARN"]


def scale(cloud: Cloud, name: str, scaled: Scaled, arn: str) -> None:
    """Let a deployment scale that does not. arn: of its endpoint, whose tags are also those of its scaling."""
    filled = dict[str, str]()
    own = {key: value for key, value in tags.read(cloud, arn).items() if key not in (tags.SERVED, tags.SCALED)}
    for each in autoscaling.register(scaled, names.Names(name), tags.to_aws(own)):
        send(cloud, each, filled)


def fill(value: Any, filled: Mapping[str, str]) -> Any:
    """Return parameters with what only the account knows in place of what stands for it in the plan."""
    if isinstance(value, Mapping):
        return {fill(key, filled): fill(each, filled) for key, each in value.items()}
    if isinstance(value, list):
        return [fill(each, filled) for each in value]
    if isinstance(value, str):
        for placeholder, known in filled.items():
            value = value.replace(placeholder, known)
    return value


# --- calls that stand for another one ---


def _update_schedule(client: Any, parameters: Mapping[str, Any]) -> None:
    client.update_schedule(**parameters)


def _create_schedule(client: Any, parameters: Mapping[str, Any]) -> None:
    client.create_schedule(**parameters)


def _register_again(client: Any, parameters: Mapping[str, Any]) -> None:
    """Register a target that exists already: AWS then takes no tags."""
    client.register_scalable_target(**{key: value for key, value in parameters.items() if key != "Tags"})


def _nothing(client: Any, parameters: Mapping[str, Any]) -> None:
    """Leave it: what was to be deleted is gone, or what was to be created is there."""


_INSTEAD: Mapping[tuple[str, str], Callable[[Any, Mapping[str, Any]], None]] = {
    ("CreateSchedule", "ConflictException"): _update_schedule,
    ("UpdateSchedule", "ResourceNotFoundException"): _create_schedule,
    ("DeleteSchedule", "ResourceNotFoundException"): _nothing,
    ("CreateLogGroup", "ResourceAlreadyExistsException"): _nothing,
    ("DeregisterScalableTarget", "ObjectNotFoundException"): _nothing,
    ("DeleteAlarms", "ResourceNotFound"): _nothing,
    **{(f"Delete{what}", "ResourceNotFoundException"): _nothing for what in ("Function", "LogGroup")},
}


def _exists(error: Exception) -> bool:
    return code_of(error) == "ValidationException" and "already exist" in str(error)
