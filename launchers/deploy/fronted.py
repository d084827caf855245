"""The Lambda function in front of an endpoint, as Lambda describes it; asking the endpoint through it."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import front, function_kinds, names
from launchers.deploy.function import ALIAS
from launchers.deploy.function_calls import cause_of, described
from launchers.deploy.kinds import refuse_foreign
from launchers.status import Cause, LaunchError

UNRESERVED = 100  # concurrent executions that an account must leave unreserved


@dataclass(frozen=True)
class Front:
    """A front. revision: empty if it is not complete. url: empty if it has none.

    reserved, provisioned: as function.Function has them.
    """

    name: str
    arn: str
    tags: Mapping[str, str]
    revision: str
    url: str
    reserved: int | None
    provisioned: int

    def __str__(self) -> str:
        return front.words(self.reserved, self.provisioned)

    def refuse_foreign(self, name: str) -> None:
        """Raise LaunchError if this function of our name was not made by this launcher."""
        refuse_foreign(f"a function {self.name}", self.tags, name)


def find(cloud: Cloud, name: str) -> Front | None:
    """Return the front of a deployment; None if there is none."""
    function = {"FunctionName": names.Names(name).endpoint}
    found = described(cloud, "get_function", **function)
    if found is None or found["Configuration"].get("Handler") != front.HANDLER:
        return None
    live = {**function, "Qualifier": ALIAS}
    version = described(cloud, "get_function_configuration", **live)
    url = described(cloud, "get_function_url_config", **live) if version is not None else None
    warm = described(cloud, "get_provisioned_concurrency_config", **live) if version is not None else None
    return Front(
        function["FunctionName"],
        str(found["Configuration"]["FunctionArn"]),
        found.get("Tags", {}),
        front.described(str((version or {}).get("Description", ""))) if url else "",
        str((url or {}).get("FunctionUrl", "")),
        (found.get("Concurrency") or {}).get("ReservedConcurrentExecutions"),
        int((warm or {}).get("RequestedProvisionedConcurrentExecutions", 0)),
    )


def reservable(cloud: Cloud, name: str) -> int:
    """Return how many concurrent executions the function of this name may reserve in the account."""
    found = described(cloud, "get_function", FunctionName=names.Names(name).endpoint) or {}
    with errors("asking for the account's concurrency"):
        limits = cloud.client("lambda").get_account_settings()["AccountLimit"]
    own = (found.get("Concurrency") or {}).get("ReservedConcurrentExecutions") or 0
    return max(int(limits["UnreservedConcurrentExecutions"]) + own - UNRESERVED, 0)


def ask(cloud: Cloud, name: str, picture: bytes, *, content_type: str = "") -> dict[str, Any]:
    """Return the answer to one picture, by a direct call of the front. Raises LaunchError for a refusal."""
    event = {
        "body": base64.b64encode(picture).decode(),
        "content_type": content_type,
        "accept": "application/json;verbose=true",
    }
    with errors(f"asking the front of {name}"):
        answer = cloud.client("lambda").invoke(
            FunctionName=names.Names(name).endpoint, Qualifier=ALIAS, Payload=json.dumps(event)
        )
        said = json.loads(answer["Payload"].read())
    if "FunctionError" in answer:
        words = said.get("errorMessage", said) if isinstance(said, dict) else said
        raise LaunchError(f"The front of {name} failed: {words}", Cause.USER_CODE)
    body: dict[str, Any] = json.loads(said["body"])
    if (status := int(said["statusCode"])) != 200:
        words = body.get("detail") or body.get("title") or said["body"]
        raise LaunchError(f"The front of {name} answers with {status}: {words}", cause_of(status))
    return body


KIND = function_kinds.functions("front", front.HANDLER)
