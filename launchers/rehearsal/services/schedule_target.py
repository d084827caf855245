"""The target of a schedule: an operation of an AWS service, called under the schedule's role."""

import json
import re
from collections.abc import Mapping
from threading import Lock
from typing import Any

from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from launchers.rehearsal.names import REGION, Server
from launchers.rehearsal.principals import role_session
from launchers.rehearsal.service import Refused
from launchers.rehearsal.service_models import service_model, session

_CREATING = Lock()  # a session creates one client at a time
_ARN = re.compile(r"arn:aws:scheduler:::aws-sdk:([a-z0-9]+):([a-z][A-Za-z0-9]+)")
_SERVICES = {  # the SDK's identifier of a service, where botocore has another name
    "applicationautoscaling": "application-autoscaling",
    "cloudwatchlogs": "logs",
    "eventbridge": "events",
    "sfn": "stepfunctions",
}
_READS = (  # "EventBridge Scheduler does not support read-only API actions"
    "get", "describe", "list", "poll", "receive", "search", "scan", "query", "select", "read", "lookup", "discover",
    "validate", "batchGet", "batchDescribe", "batchRead", "transactGet", "adminGet", "adminList", "testMigration",
    "retrieve", "testConnection", "translateDocument", "isAuthorized", "invokeModel",
)  # fmt: skip


def check_target(target: Mapping[str, Any]) -> None:
    """Raise Refused for a target that EventBridge Scheduler does not accept, or that the rehearsal has not."""
    service, action = _parts(target["Arn"])
    if action.startswith(_READS):
        raise _invalid(f"{target['Arn']} is not a supported target: it only reads.")
    if _operation(service, action) is None:
        raise _invalid(f"{target['Arn']} is not a supported target: {service} has no operation {action}.")
    try:
        given = json.loads(target.get("Input", "{}"))
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _invalid("Invalid RequestJson provided. Reason: Input must be a JSON object.")


def call_target(target: Mapping[str, Any], schedule: str, server: Server) -> str:
    """Call the operation. Returns the reason if it fails, else an empty string."""
    service, action = _parts(target["Arn"])
    operation = _operation(service, action)
    assert operation is not None, action
    found = role_session(target["RoleArn"], f"schedule-{schedule}"[:64])
    with _CREATING:
        client = session().create_client(
            service,
            region_name=REGION,
            endpoint_url=server.url,
            aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=found["AWS_SESSION_TOKEN"],
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )
    try:
        given = json.loads(target.get("Input", "{}"))
        getattr(client, xform_name(operation))(**_as_in_model(given, service, operation))
    except (ClientError, BotoCoreError) as error:
        return str(error)
    return ""


def _parts(arn: str) -> tuple[str, str]:
    """Return botocore's name of the service, and the action in camel case. Raises Refused."""
    found = _ARN.fullmatch(arn)
    if found is None:
        raise _invalid(
            f"The rehearsal cloud has universal targets alone, as arn:aws:scheduler:::aws-sdk:..., got {arn}."
        )
    return _SERVICES.get(found[1], found[1]), found[2]


def _as_in_model(given: Mapping[str, Any], service: str, operation: str) -> dict[str, Any]:
    """Return parameters as the service's API names them: a schedule's begin with a capital, whatever the API does."""
    shape = service_model(service).operation_model(operation).input_shape
    members = shape.members if shape else {}
    small = {name[0].upper() + name[1:]: name for name in members}
    return {small.get(name, name): value for name, value in given.items()}


def _operation(service: str, action: str) -> str | None:
    """Return the name of an operation as AWS's model has it; None if there is none."""
    try:
        names = service_model(service).operation_names
    except BotoCoreError:
        return None
    return next((name for name in names if name.lower() == action.lower()), None)


def _invalid(text: str) -> Refused:
    return Refused("ValidationException", text, 400, Message=text)
