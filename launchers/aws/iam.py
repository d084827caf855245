"""Check who submits, and the role that rented machines take."""

import json
import re
from dataclasses import dataclass, replace

from dogbreed import commands
from launchers.aws.errors import Denial, code_of, denial, errors, network_errors, rehearsal_of
from launchers.base import Cloud

_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}")
_ARN_OF = "<the ARN of the role "
_ROLE_NAME = re.compile(r"[\w+=,.@-]{1,64}")


def is_role(text: str) -> bool:
    """Return whether `text` has the form of a role's name or ARN."""
    return bool(_ROLE_ARN.fullmatch(text) or _ROLE_NAME.fullmatch(text))


def arn_in_plan(role: str) -> str:
    """Return a role's ARN as far as it is known without a network: a role that is given by name may have a path."""
    return role if role.startswith("arn:") else f"{_ARN_OF}{role}>"


def role_in_plan(text: str) -> str:
    """Return the role, as ARN or name, that `arn_in_plan` has written."""
    return text.removeprefix(_ARN_OF).removesuffix(">")


@dataclass(frozen=True)
class Caller:
    """Whose credentials these are.

    arn: of the user, or of a session of a role. partition: aws, aws-cn or aws-us-gov.
    """

    account: str
    partition: str
    arn: str


def caller(cloud: Cloud) -> Caller:
    """Ask AWS which account the credentials belong to. Raises LaunchError if there are none."""
    with errors("asking AWS for the caller identity"):
        identity = cloud.client("sts").get_caller_identity()
    arn = str(identity["Arn"])
    return Caller(str(identity["Account"]), arn.split(":")[1], arn)


@dataclass(frozen=True)
class Role:
    """A role in the account. arn: empty if it could not be determined; a finding then says why."""

    arn: str
    findings: tuple[str, ...] = ()


def find_role(cloud: Cloud, role: str, service: str, caller: Caller, setting: str) -> Role:
    """Look up a role, and list its problems as far as the caller's permissions allow.

    role: name or ARN. service: the one that takes the role, such as sagemaker.amazonaws.com. setting: the one that
    names the role, such as aws.role, for what to try.
    """
    from botocore.exceptions import ClientError

    typed, name = role if role.startswith("arn:") else "", role.rpartition("/")[2]
    if typed and not typed.startswith(f"arn:{caller.partition}:iam::{caller.account}:"):
        return Role(typed, (f"{typed} is not in this account ({caller.account}, partition {caller.partition}).",))
    try:
        with network_errors(f"looking up the role {name}"):
            found = cloud.client("iam").get_role(RoleName=name)["Role"]
    except ClientError as error:
        match code_of(error):
            case "NoSuchEntity":
                return Role(typed, (f"The role {name} does not exist.\nTry: {setting}=<one of `aws iam list-roles`>",))
            case "AccessDenied" | "AccessDeniedException" if typed:
                return Role(typed)  # iam:PassRole does not imply iam:GetRole: the service will check it
            case "AccessDenied" | "AccessDeniedException":
                return Role("", (_unknown_arn(name, caller, error, setting),))
        with errors(f"looking up the role {name}"):
            raise
    arn = str(found["Arn"])
    if typed and arn != typed:
        problem = f"The role {typed} does not exist; the role of that name is {arn}."
        return Role(arn, (f"{problem}\nTry: {commands.setting(setting, arn)}",))
    if service not in json.dumps(found["AssumeRolePolicyDocument"]):
        finding = (
            f"{service} may not assume the role {name}: it is not in its trust policy.\n"
            "Try: another role, or add the principal to the policy"
        )
        return Role(arn, (finding,))
    return Role(arn)


def _unknown_arn(name: str, caller: Caller, error: Exception, setting: str) -> str:
    arn = f"arn:{caller.partition}:iam::{caller.account}:role/"
    denied = replace(denial(str(error)) or Denial("iam:GetRole"), who=caller.arn, resource=f"{arn}*{name}")
    return (
        f"The ARN of the role {name} cannot be looked up: {denied} is not permitted, and the role may have a path.\n"
        f"{denied.hint(rehearsal_of(error))}\n"
        f"Or the ARN that the IAM console shows: {commands.setting(setting, f'{arn}service-role/{name}')}"
    )
