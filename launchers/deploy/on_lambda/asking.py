"""Ask a function with the model inside, by a direct call: whoever deploys may make one without a signed request."""

import json
from typing import Any

from dogbreed.serving import event
from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import names
from launchers.deploy.function import ALIAS
from launchers.deploy.function_calls import cause_of
from launchers.status import Cause, LaunchError


def ask(cloud: Cloud, name: str, picture: bytes, *, qualifier: str = ALIAS) -> dict[str, Any]:
    """Return a deployment's answer to one picture. qualifier: a version, or the alias.

    Raises LaunchError for a refusal, with the server's own words, and for a function that fails.
    """
    if len(picture) > event.BODY_BYTES:
        raise LaunchError(
            f"The file has {len(picture):,} bytes, and a function takes at most {event.BODY_BYTES:,}.\n"
            "Try: a smaller picture",
            Cause.BAD_CONFIG,
        )
    asked = event.event("POST", "/invocations", picture, {"content-type": "application/octet-stream"})
    with errors(f"asking the deployment {name}"):
        answer = cloud.client("lambda").invoke(
            FunctionName=names.Names(name).endpoint, Qualifier=qualifier, Payload=json.dumps(asked)
        )
        said = json.loads(answer["Payload"].read())
    if "FunctionError" in answer:
        words = said.get("errorMessage", said) if isinstance(said, dict) else said
        raise LaunchError(f"The function of the deployment {name} failed: {words}", Cause.USER_CODE)
    body: dict[str, Any] = json.loads(event.content(said))
    if (status := int(said["statusCode"])) != 200:
        does = "refused the picture" if status < 500 else f"answers with {status}"
        raise LaunchError(f"The deployment {name} {does}: {body.get('detail', body)}", cause_of(status))
    return body
