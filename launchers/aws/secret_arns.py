"""Secrets that a rented machine fetches, by ARN: of Secrets Manager, or of a parameter of SSM. Pure: no network.

Only names and ARNs are handled here. The values are read on the machine, by launchers/remote/secret_values.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from launchers.aws.policy import Grant, partition_of

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):(?P<service>secretsmanager|ssm):(?P<region>[a-z0-9-]+):(?P<account>\d{12}):"
    r"(?P<kind>secret:|parameter/)(?P<name>[\w/+=.@-]{1,400})",
    re.ASCII,
)
_KINDS = {"secretsmanager": "secret:", "ssm": "parameter/"}
_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}")  # which Secrets Manager adds to a name
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OF_THE_MACHINE = re.compile(r"PATH|HOME|PYTHON.*|(?:LD|DOGBREED|SAGEMAKER|SM)_.*|AWS_(?:DEFAULT_)?REGION")
_FORMS = (
    "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-SUFFIX\n"
    "or arn:aws:ssm:REGION:ACCOUNT:parameter/NAME, as `aws secretsmanager list-secrets` and\n"
    "`aws ssm describe-parameters` show them"
)


@dataclass(frozen=True)
class SecretArn:
    """The ARN of a secret. service: secretsmanager or ssm."""

    arn: str
    partition: str
    service: str
    region: str
    account: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the parts of an ARN, or None if it is not the ARN of a secret or parameter."""
        found = _ARN.fullmatch(text)
        if found is None or found["kind"] != _KINDS[found["service"]]:
            return None
        return cls(text, found["partition"], found["service"], found["region"], found["account"])

    def grants(self) -> Iterator[Grant]:
        """Yield what reading it needs. Its key is not known here, so that permission is limited to this secret."""
        whole = self.service == "ssm" or _SUFFIX.search(self.arn[-7:])
        resource = self.arn if whole else f"{self.arn}-??????"
        action = {"secretsmanager": "secretsmanager:GetSecretValue", "ssm": "ssm:GetParameter"}[self.service]
        yield Grant((action,), (resource,))
        context = {"secretsmanager": "SecretARN", "ssm": "PARAMETER_ARN"}[self.service]
        suffix = "amazonaws.com.cn" if self.partition == "aws-cn" else "amazonaws.com"
        yield Grant(
            ("kms:Decrypt",),
            (f"arn:{self.partition}:kms:{self.region}:{self.account}:key/*",),
            {
                "StringEquals": {"kms:ViaService": f"{self.service}.{self.region}.{suffix}"},
                "StringLike": {f"kms:EncryptionContext:{context}": resource},
            },
            only_if="the secret is encrypted with a key of your own",
        )


def findings(secrets: Any, region: str | None) -> Iterator[str]:
    """Yield what is wrong with the setting launcher.secrets. A value is never shown: it may be the secret itself.

    region: of the job.
    """
    example = "launcher.secrets={WANDB_API_KEY: ARN}"
    if secrets is None:
        return
    if secrets is None:
        return
    if not isinstance(secrets, Mapping):
        yield f"launcher.secrets must name environment variables and ARNs.\nTry: '{example}'"
        return
    for name, value in secrets.items():
        if not _VARIABLE.fullmatch(str(name)):
            yield f"launcher.secrets: {name} cannot be an environment variable.\nTry: '{example}'"
        elif _OF_THE_MACHINE.fullmatch(str(name)):
            yield f"launcher.secrets: {name} is set by the machine itself.\nTry: another name"
        arn = SecretArn.parse(str(value))
        if arn is None:
            yield (
                f"launcher.secrets.{name} is not the ARN of a secret. Its value is not shown, because it may be the "
                f"secret itself;\nif it is, replace the key, since commands are kept by shells.\nTry: {_FORMS}"
            )
        elif region is not None and arn.region != region:
            yield (
                f"launcher.secrets.{name} is in the region {arn.region}, but the job runs in {region}.\n"
                f"Try: aws.region={arn.region}, or a copy of the secret in {region}"
            )
        elif region is not None and arn.partition != partition_of(region):
            yield (
                f"launcher.secrets.{name} is in the partition {arn.partition}, but {region} is in "
                f"{partition_of(region)}.\nTry: arn:{partition_of(region)}:..."
            )


def grants(secrets: Mapping[str, str] | None) -> Iterator[Grant]:
    """Yield what the job's role needs to read the secrets."""
    for arn in sorted(set((secrets or {}).values())):
        if (found := SecretArn.parse(arn)) is not None:
            yield from found.grants()
