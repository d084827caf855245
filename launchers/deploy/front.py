"""The Lambda function in front of an endpoint: what it consists of, and the requests that make it so. Pure.

Its code is launchers/deploy/lambda_handler.py alone; boto3 comes with Lambda's runtime.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from launchers.aws import iam, tags
from launchers.cost import prices
from launchers.deploy import expiry, function, names
from launchers.deploy.settings import DeploySettings
from launchers.plan import Request
from launchers.spec import Deployed, RunSpec

HANDLER = "lambda_handler.handler"
RUNTIME = "python3.13"  # AWS supports it until June 2029
ARCHITECTURE = "arm64"  # a fifth cheaper, and the code is Python alone
TIMEOUT_S = 20  # more than the handler's own client takes
_CODE = Path(__file__).with_name("lambda_handler.py")
_DATE = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o644 << 16  # by the user that Lambda runs functions as
_DESCRIBED = re.compile(r"front ([0-9a-f]+)")


@lru_cache
def package() -> bytes:
    """Return the deployment package: one file, the same bytes for the same code."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo(_CODE.name, _DATE)
        member.external_attr, member.compress_type = _READABLE, zipfile.ZIP_DEFLATED
        archive.writestr(member, _CODE.read_bytes())
    return buffer.getvalue()


def code_in_plan() -> str:
    """Return what stands for the package in a plan."""
    digest = hashlib.sha256(_CODE.read_bytes()).hexdigest()[:16]
    return f"<{_CODE.name} in a ZIP, SHA-256 of the file {digest}>"


def revision(settings: DeploySettings, spec: RunSpec) -> str:
    """Return what identifies the front: a digest of its code and configuration; empty if there is none.

    How many requests it takes at once is no part of it: Lambda publishes no version for that alone.
    """
    if settings.front is None:
        return ""
    about = [_configuration(settings, spec), code_in_plan()]
    return names.shortened(hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest())


def described(description: str) -> str:
    """Return the revision in a published version's description; empty if it is none of a front."""
    found = _DESCRIBED.fullmatch(description)
    return found[1] if found else ""


def requests(
    settings: DeploySettings, spec: RunSpec, before: Deployed | None, ends: datetime | None
) -> tuple[list[Request], list[Request]]:
    """Return the calls that make the front what is asked for, and those that remove it; neither if it is that already.

    before: what is deployed now. ends: when the deployment does; None if it stays.
    """
    wanted, common = revision(settings, spec), names.Names(spec.run_id)
    if before is None or not before.front:
        return function.create(_function(settings, spec, ends)) if wanted else [], []
    if not wanted:
        return [], [
            Request("lambda", "DeleteFunction", {"FunctionName": common.endpoint}),
            Request("logs", "DeleteLogGroup", {"logGroupName": common.function_log_group}),
            *(Request("scheduler", "DeleteSchedule", {"Name": name}) for name in common.function_schedules.values()),
        ]
    made, limited = _function(settings, spec, ends), before.reserved is not None
    # as many as are warm must be reserved, both before and after: so those of before are given up first
    rewarms = before.warm != made.provisioned
    found = function.provision(replace(made, provisioned=0), before=before.warm) if rewarms else []
    if wanted != before.front:
        move = Request("lambda", "UpdateAlias", function.moved(made.name))
        found += [*function.change(made), move]
    if before.reserved != made.reserved:
        found += function.reserve(made, limited=limited)
    return [*found, *(function.provision(made, before=0) if rewarms else ())], []


def schedules(settings: DeploySettings, common: names.Names, at: datetime) -> list[dict[str, Any]]:
    """Return what deletes the front when the deployment's time is over; nothing if there is none."""
    if settings.front is None or settings.ttl_hours is None:
        return []
    assert settings.expiry_role is not None, "the checks refuse settings without a role"
    return expiry.of_function(common, at, settings.ttl_hours, iam.arn_in_plan(settings.expiry_role))


def words(reserved: int | None, provisioned: int) -> str:
    """Say how many requests pass at once."""
    limit = "as many requests at once as the account allows" if reserved is None else f"at most {reserved} at once"
    return f"Lambda, {limit}" + (f", {provisioned} kept warm" if provisioned else "")


def _function(settings: DeploySettings, spec: RunSpec, ends: datetime | None) -> function.Function:
    common = names.Names(spec.run_id)
    return function.Function(
        common.endpoint,
        common.function_log_group,
        _configuration(settings, spec),
        {"ZipFile": code_in_plan()},
        f"front {revision(settings, spec)}",
        tags.of_deployment(spec, settings.owner, ends),
        ARCHITECTURE,
        settings.reserved,
        settings.provisioned,
    )


def _configuration(settings: DeploySettings, spec: RunSpec) -> Mapping[str, Any]:
    assert settings.front_role is not None, "the checks refuse settings without a role"
    return {
        "Runtime": RUNTIME,
        "Role": iam.arn_in_plan(settings.front_role),
        "Handler": HANDLER,
        "Timeout": TIMEOUT_S,
        "MemorySize": prices.lambda_prices().front_mb,
        "Environment": {"Variables": {"ENDPOINT": names.Names(spec.run_id).endpoint}},
    }
