"""`python -m launchers explain`: what a scaling policy will do, and when, in sentences."""

import argparse
import json
import textwrap
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from dogbreed.errors import ConfigError
from launchers.aws.alarms import Alarm
from launchers.aws.scaling import TargetTracking, reaction_s
from launchers.aws.scaling_documents import Documents, Scales, all_of, scales
from launchers.cli import named
from launchers.cost import prices, serving
from launchers.status import LaunchError, Phase

HELP = "Say in sentences what a scaling policy does, and when."
EPILOG = """\
A file is what `aws application-autoscaling describe-scaling-policies` prints,
or put-scaling-policy takes; for policies in steps name the one with their
alarms as well, and with describe-scalable-targets the limits are known too.

  python -m launchers explain dogs
  python -m launchers explain policy.json alarms.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="NAME|FILE", help="a deployment, or files with policies and alarms")
    parser.add_argument("--instance-type", metavar="TYPE", help="of the endpoint, for shares of its vCPUs")


def run(args: argparse.Namespace) -> int:
    files = [text for text in args.what if text.lower().endswith(".json") or Path(text).expanduser().is_file()]
    kind = args.instance_type
    if not files and len(args.what) == 1:
        documents, found = _of_deployment(args.what[0], args)
        kind = kind or found
        if not documents.policies:
            said = f"{args.what[0]} does not scale: nothing changes the number of its instances."
            print(json.dumps({"policies": []}) if args.json else "\n".join(textwrap.wrap(said, 80)))
            return 0
    elif len(files) < len(args.what):
        others = ", ".join(sorted(set(args.what) - set(files)))
        raise ConfigError(f"{others}: not a file.\nTry: files alone, or the name of one deployment")
    else:
        documents = all_of((text, _text(text)) for text in files)
    vcpus = _vcpus(kind)
    each = scales(documents)
    if args.json:
        print(json.dumps({"policies": [_facts(one, vcpus) for one in each]}, indent=2))
    else:
        print("\n\n".join(_shown(one, vcpus) for one in each))
        if len([one for one in each if one.policy is not None]) > 1:
            print("\nOf several policies the one that wants the most instances decides.")
    return 0


def _of_deployment(name: str, args: argparse.Namespace) -> tuple[Documents, str | None]:
    launcher, handle = named.deployment(name, args)
    from launchers.deploy import autoscaling

    status = launcher.status(handle)
    if status.phase is Phase.LOST:
        raise LaunchError(str(status), status.cause)
    cloud = launcher.cloud  # type: ignore[attr-defined]
    targets, policies, alarms = autoscaling.documents(cloud, handle.run_id)
    return Documents(policies, alarms, targets), autoscaling.instance_type(cloud, handle.run_id) if policies else None


def _text(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _vcpus(kind: str | None) -> int | None:
    if kind is None:
        return None
    row = prices.hosting(kind)
    if row is None and not prices.hosts(kind):
        near = ", ".join(prices.closest_hosting(kind)) or "ml.c7i.large"
        raise ConfigError(f"The vCPUs of {kind} are not known.\nTry: --instance-type, one of {near}")
    return serving.vcpus(kind) if row is None else row.vcpus


def _shown(one: Scales, vcpus: int | None) -> str:
    head = f"Policy {' and '.join(one.names)}" + (f", on {one.resource}" if one.resource else "")
    lines = textwrap.wrap(head, 80, break_on_hyphens=False)
    for text in one.sentences(vcpus):
        lines += textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _facts(one: Scales, vcpus: int | None) -> dict[str, Any]:
    policy = one.policy
    facts: dict[str, Any] = {
        "resource": one.resource or None,
        "policies": list(one.names),
        "metric": one.metric or None,
        "least": one.least,
        "most": one.most,
        "sentences": one.sentences(vcpus),
    }
    if policy is None:
        return facts
    more = isfinite(policy.high.threshold)
    return {
        **facts,
        "kind": "target tracking" if isinstance(policy, TargetTracking) else "steps",
        "reaction_s": list(reaction_s(policy)) if more else None,
        "out": {**_alarm(policy.high), "cooldown_s": policy.out_s} if more else None,
        "in": {**_alarm(policy.low), "cooldown_s": policy.in_s} if policy.low else None,
    }


def _alarm(alarm: Alarm) -> dict[str, Any]:
    return {**asdict(alarm), "threshold": float(f"{alarm.threshold:.10g}")}
