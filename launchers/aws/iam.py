"""Check who submits, and the role that rented machines take."""

import json
import re

from launchers.aws.errors import code_of, errors, network_errors
from launchers.base import Cloud

_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}")
_ROLE_NAME = re.compile(r"[\w+=,.@-]{1,64}")


def is_role(text: str) -> bool:
    """Whether `text` has the form of a role's name or ARN."""
    return bool(_ROLE_ARN.fullmatch(text) or _ROLE_NAME.fullmatch(text))


def role_arn(role: str, account: str) -> str:
    """Return the ARN of a role that is given by its name or its ARN. account: the id, or a placeholder for it."""
    return role if role.startswith("arn:") else f"arn:aws:iam::{account}:role/{role}"


def account_id(cloud: Cloud) -> str:
    """Ask AWS whose credentials these are. Raises LaunchError if there are none."""
    with errors("asking AWS who you are"):
        return str(cloud.client("sts").get_caller_identity()["Account"])


def role_findings(cloud: Cloud, role: str, service: str) -> list[str]:
    """What is wrong with a role, as far as the account may be asked.

    role: name or ARN. service: whose machines take the role, such as `SageMaker`.
    """
    from botocore.exceptions import ClientError

    name = role.rpartition("/")[2]
    try:
        with network_errors(f"looking at the role {name}"):
            found = cloud.client("iam").get_role(RoleName=name)["Role"]
    except ClientError as error:
        match code_of(error):
            case "NoSuchEntity":
                return [f"There is no role {name}.\nTry: aws.role=<one of `aws iam list-roles`>"]
            case "AccessDenied" | "AccessDeniedException":
                return []  # who may pass a role may not always look at it: the service will tell
        with errors(f"looking at the role {name}"):
            raise
    if role.startswith("arn:") and found["Arn"] != role:
        return [f"{role} is not in this account, whose role of that name is {found['Arn']}."]
    principal = f"{service.lower()}.amazonaws.com"
    if principal not in json.dumps(found["AssumeRolePolicyDocument"]):
        return [
            f"{service} may not assume the role {name}: {principal} is not in its trust policy.\n"
            "Try: another role, or add it"
        ]
    return []
