"""Fetch the values of launcher.secrets on a rented machine, with the job's own role.

They go into the environment of train.py and nowhere else: neither into files nor into the log. Uses the standard
library and boto3, which the launcher has installed for a run with secrets; launchers/remote/entry.py loads this file
from the code that was sent.
"""

import importlib
import json
from collections.abc import Mapping
from typing import Any

PREFIX = "DOGBREED_SECRET_"  # of the variables of the job that name ARNs


def fetch(environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return the secrets that the job's environment names, by variable, and why the machine cannot be used, if so."""
    arns = {name.removeprefix(PREFIX): arn for name, arn in environment.items() if name.startswith(PREFIX)}
    if not arns:
        return {}, ""
    importlib.invalidate_caches()  # boto3 may have been installed by this very process
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5})
    values = {}
    for name, arn in sorted(arns.items()):
        service, region = arn.split(":")[2:4]
        try:
            client = boto3.client(service, region_name=region, config=config)
            text = _of_parameter(client, arn) if service == "ssm" else _of_secret(client, arn)
        except ClientError as error:
            return {}, _refused(name, arn, error.response.get("Error", {}))
        except BotoCoreError as error:
            return {}, (
                f"[bad_config] launcher.secrets.{name}: {service} cannot be reached in {region}: {error}. In a VPC a "
                "job needs a NAT gateway, or the service's interface endpoint"
            )
        value, wrong = _value(text, name)
        if wrong:
            return {}, f"[bad_config] launcher.secrets.{name}: {arn} {wrong}"
        values[name] = value
    print(f"Fetched the secrets {', '.join(values)}", flush=True)  # their names
    return values, ""


def _of_secret(client: Any, arn: str) -> str | None:
    """Return a secret's text; None if it is binary."""
    text: str | None = client.get_secret_value(SecretId=arn).get("SecretString")
    return text


def _of_parameter(client: Any, arn: str) -> str:
    return str(client.get_parameter(Name=arn, WithDecryption=True)["Parameter"]["Value"])


def _value(text: str | None, name: str) -> tuple[str, str]:
    """Return the value of a variable, and what is wrong with it. The console keeps keys and values as JSON."""
    if text is None:
        return "", "is binary, but a variable is text. Try: aws secretsmanager put-secret-value --secret-string"
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        value = found.get(name, next(iter(found.values())) if len(found) == 1 else None)
        if not isinstance(value, str):
            held = f"holds the keys {', '.join(sorted(found))}" if found else "holds no key"
            return "", f"{held}, and no text for {name}. Try: a key of that name, or the text alone"
        text = value
    text = text.strip()
    return (text, "") if text and "\0" not in text else ("", "is empty. Try: a value for it")


def _refused(name: str, arn: str, error: Mapping[str, str]) -> str:
    """Return the reason of the machine's end, from what AWS answered, which holds no value of a secret."""
    code, message = error.get("Code", ""), error.get("Message", "")
    if code in ("ResourceNotFoundException", "ParameterNotFound"):
        shown = "aws ssm describe-parameters" if ":ssm:" in arn else "aws secretsmanager list-secrets"
        return f"[bad_config] launcher.secrets.{name}: {arn} does not exist. Try: an ARN that `{shown}` shows"
    if code.startswith("AccessDenied"):
        return f"[permission] launcher.secrets.{name}: the job's role may not read {arn}: {message}"
    return f"[bad_config] launcher.secrets.{name}: {arn} cannot be read: {code}: {message}"
