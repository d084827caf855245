"""Check settings that several launchers have: bucket, prefix, network, waiting for machines, and what is sent there.

Pure: no network.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import inf

from launchers.payload import secrets
from launchers.spec import RunSpec

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[\w./-]{1,200}")
_LOGGERS = {  # the variable that holds each one's key
    "WandbLogger": "WANDB_API_KEY",
    "CometLogger": "COMET_API_KEY",
    "NeptuneLogger": "NEPTUNE_API_TOKEN",
}


def bucket_findings(bucket: str | None, prefix: str) -> Iterator[str]:
    """Yield what is wrong with the settings launcher.bucket and launcher.prefix."""
    if bucket is None:
        yield "No bucket is configured.\nTry: launcher.bucket=<yours>; or rehearse first: aws=rehearsal"
    elif not _BUCKET.fullmatch(bucket):
        yield f"launcher.bucket={bucket!r} is not a valid bucket name.\nTry: the name alone, without s3://"
    if not _PREFIX.fullmatch(prefix) or prefix.strip("/") != prefix:
        yield f"launcher.prefix={prefix!r} is not a valid key prefix.\nTry: dogbreed, or team/dogbreed"


def network_findings(subnets: Sequence[str], security_groups: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the settings launcher.subnets and launcher.security_groups."""
    if bool(subnets) != bool(security_groups):
        yield (
            "A VPC needs both subnets and security groups; only one of them is set.\n"
            "Try: launcher.subnets=[subnet-...] launcher.security_groups=[sg-...]"
        )


def waiting_findings(hours: object) -> Iterator[str]:
    """Yield what is wrong with the setting launcher.wait_for_capacity_h."""
    if hours is not None and (isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 <= hours < inf):
        yield (
            f"launcher.wait_for_capacity_h must be a number of hours, at least 0, got {hours!r}.\n"
            "Try: launcher.wait_for_capacity_h=4"
        )


def logger_findings(spec: RunSpec, fetched: Mapping[str, str] | None) -> Iterator[str]:
    """Check that the logger will not ask for a key that the machine lacks. fetched: launcher.secrets."""
    logger = spec.config.get("logger") or {}
    name = str(logger.get("_target_", "")).rpartition(".")[2]
    key = _LOGGERS.get(name)
    if key is None or key in (fetched or {}) or logger.get("offline"):
        return
    offline = ";\nor +logger.offline=true, then `wandb sync` of what the run leaves" if name == "WandbLogger" else ""
    yield (
        f"{name} needs {key}, which the rented machine does not have.\n"
        f"Try: 'launcher.secrets={{{key}: ARN}}', the ARN of a secret that holds it{offline};\nor logger=tensorboard"
    )


def sent_findings(spec: RunSpec, allow_secrets: Sequence[str]) -> Iterator[str]:
    """Check for secrets, which must not be sent, and for the code, which must be."""
    if kinds := sorted({kind for _, kind in secrets.found_in(json.dumps([spec.config, spec.overrides]).encode())}):
        yield f"The settings contain what looks like {', '.join(kinds)}.\nTry: removing it, since settings are stored"
    if spec.code is None:
        yield "The run has no code to send.\nTry: launchers.prepare(...), which packs it"
    else:
        yield from spec.code.findings
        yield from secrets.findings(spec.code.secrets, allow_secrets, "launcher.allow_secrets")
        files = {name for name, _, _ in spec.code.files}
        for what in spec.sources.not_among(files, spec.code.config_dirs):
            yield f"{what}.\nTry: a file that .gitignore does not list, or a folder of YAML files with --config-dir"
