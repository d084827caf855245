"""`python -m launchers iam`: print, create, check and remove the roles and policies that launchers need."""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dogbreed import commands
from dogbreed.errors import ConfigError, raise_findings
from launchers.aws import bucket_setup, iam, roles
from launchers.aws.policy import (
    INLINE_CHARACTERS,
    ROLE_PATH,
    Identity,
    partition_of,
    role_name,
    shown,
    size,
    union,
)
from launchers.base import Cloud, Launcher
from launchers.cli.named import message
from launchers.overrides import override_key
from launchers.project import PROJECT
from launchers.registry import capabilities_of
from launchers.status import Cause, Failures, LaunchError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LAUNCH = role_name("launch")
_ACCOUNT, _BUCKET = "ACCOUNT", "BUCKET"  # in what is printed, for what is not known
_PARTS = ("launcher", "data", "aws", "hpo")  # of the settings: what permissions depend on
_HOW = {_ACCOUNT: "--account and its 12 digits", _BUCKET: "--bucket and its name"}


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for. Return the exit status."""
    printing = not (args.apply or args.check or args.remove)
    asked = _Asked.of(args)
    caller = None if printing else iam.caller(asked.cloud)
    account = caller.account if caller else args.account or _account(asked.cloud)
    if caller and args.account not in (None, caller.account):
        raise ConfigError(f"--account is {args.account}, but your credentials are of the account {caller.account}.")
    if args.remove:
        return _remove(asked.cloud, args.json)
    identities = asked.identities(account)
    if caller is None:
        partition = partition_of(asked.cloud.region)
        if args.json:
            facts = [_facts(identity, account, partition) for identity in identities]
            print(json.dumps({"account": account, "region": asked.cloud.region, "roles": facts}, indent=2))
        else:
            print("\n".join(_lines(identities, account, partition)))
        return 0
    if args.check:
        return _check(asked, identities, caller, args)
    bucket = list(bucket_setup.changes(asked.cloud, args.bucket, asked.prefix)) if args.bucket else []
    ours = [each for each in identities if asked.is_ours(each)]
    changes = [*bucket, *roles.changes(asked.cloud, ours, caller, args.bucket)]
    status = _apply(changes, "Nothing to change: the roles are as they should be.", args.json)
    if not args.json:
        print(_how_to_use(asked, identities, caller, args.bucket))
    return status


# --- what was asked for ---


@dataclass(frozen=True)
class _Asked:
    """The launchers that were chosen, with the settings that they were composed from."""

    cloud: Cloud
    found: tuple[tuple[Launcher, dict[str, Any]], ...]

    @classmethod
    def of(cls, args: argparse.Namespace) -> "_Asked":
        """Compose the settings. Raises ConfigError with everything that is missing or wrong."""
        common = [f"aws.bucket={args.bucket}"] if args.bucket else []
        if args.state_dir:
            common += ["aws=rehearsal", commands.override("aws.state_dir", args.state_dir)]
        found = tuple(each for chosen in args.settings or [[]] for each in _launchers([*common, *chosen], args.check))
        cloud: Cloud = found[0][0].cloud  # type: ignore[attr-defined]  # of a launcher that is not of this machine
        accounts = [{key: value for key, value in config["aws"].items() if key != "role"} for _, config in found]
        if len({json.dumps(account, sort_keys=True, default=str) for account in accounts}) > 1:
            raise ConfigError("Each --for must be of the same account and region.\nTry: one command for each of them")
        findings = list(cloud.findings())
        if args.account and not re.fullmatch(r"\d{12}", args.account):
            findings.append(f"--account must be 12 digits, got {args.account}.\nTry: aws sts get-caller-identity")
        no_bucket = any("bucket" in config["launcher"] and not config["launcher"]["bucket"] for _, config in found)
        if (args.apply or args.check) and no_bucket:
            findings.append("No bucket is configured.\nTry: --bucket NAME, or --for aws.bucket=NAME")
        raise_findings(ConfigError, findings)
        return cls(cloud, found)

    @property
    def prefix(self) -> str:
        """The folder in the bucket; of several launchers, that of the first which has one."""
        return next(str(config["launcher"]["prefix"]) for _, config in self.found if "prefix" in config["launcher"])

    def identities(self, account: str) -> list[Identity]:
        return union(each for launcher, config in self.found for each in _identities(launcher, config, account))

    def role_of(self, identity: Identity) -> str:
        """Return the name or ARN of the configured role; the name of the one that we create if none is configured."""
        for _, config in self.found:
            value: Any = config
            for key in identity.setting.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if value:
                return str(value)
        return role_name(identity.name)

    def is_ours(self, identity: Identity) -> bool:
        """Return whether the role is one that we create; one that is configured under another name is left alone."""
        return not identity.service or self.role_of(identity).rpartition("/")[2] == role_name(identity.name)


def _launchers(overrides: Sequence[str], checking: bool) -> Iterator[tuple[Launcher, dict[str, Any]]]:
    """Build the launcher that the overrides choose, or each one of conf/launcher that runs elsewhere.

    checking: whether the configured role counts; otherwise the role is the one that we create.
    """
    from omegaconf import OmegaConf

    typed = {override_key(text) for text in overrides}
    if "launcher" in typed:
        composed = [_composed(overrides)]
    else:
        options = sorted(path.stem for path in (PROJECT / "conf" / "launcher").glob("*.yaml"))
        chosen = [[f"launcher={option}"] for option in options]
        if "hpo" not in typed:
            chosen.append(["launcher=sagemaker_spot", "hpo=sagemaker_tuner"])
        composed = [cfg for words in chosen if _is_remote(cfg := _composed([*overrides, *words]))]
    if not all(map(_is_remote, composed)):
        raise ConfigError("This launcher runs on this machine: no permissions.\nTry: launcher=sagemaker_spot")
    if not checking:
        own = [_own_roles(cfg) for cfg in composed]
        shared = {key: name for each in own for key, name in each.items() if key.startswith("aws.")}
        for cfg, each in zip(composed, own, strict=True):
            for key, name in (each | shared).items():
                if key not in typed:
                    OmegaConf.update(cfg, key, name)
    yield from map(_built, composed)


def _own_roles(cfg: "DictConfig") -> dict[str, str]:
    """Return the settings that name a launcher's roles, with the names of the roles that we create."""
    launcher, config = _built(cfg)
    if launcher.cloud.findings():  # type: ignore[attr-defined]  # as in _Asked.of
        return {}
    identities = _identities(launcher, config, "*")
    return {identity.setting: role_name(identity.name) for identity in identities if identity.setting}


def _built(cfg: "DictConfig") -> tuple[Launcher, dict[str, Any]]:
    """Build the launcher of settings, and return it with them as plain data."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from launchers import hydra_errors

    try:
        config: dict[str, Any] = {
            name: OmegaConf.to_container(cfg[name], resolve=True, throw_on_missing=False)
            for name in _PARTS
            if name in cfg
        }
        config["name"] = cfg.get("name")  # of a deployment
    except OmegaConfBaseException as error:
        raise ConfigError(hydra_errors.message(error)) from error
    settings = {**config["launcher"]}
    if "bucket" in settings and not settings["bucket"]:
        settings["bucket"] = _BUCKET
    return instantiate(settings, _convert_="all"), config


def _identities(launcher: Launcher, config: dict[str, Any], account: str) -> Sequence[Identity]:
    return launcher.identities(config, datetime.now(UTC).isoformat(), account)


def _is_remote(cfg: "DictConfig") -> bool:
    return capabilities_of(cfg["launcher"]).remote


def _composed(overrides: Sequence[str]) -> "DictConfig":
    """Compose the settings; values that only a run needs may be missing."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    import launchers.resolvers  # noqa: F401 (registers the resolvers of conf/)
    from launchers import hydra_errors
    from launchers.resume import expand

    try:
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            return compose("config", expand(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(hydra_errors.message(error, overrides)) from error


def _account(cloud: Cloud) -> str:
    """Return the account of the credentials, or ACCOUNT if there are none."""
    try:
        return iam.caller(cloud).account
    except LaunchError as error:
        if error.cause is not Cause.PERMISSION:
            raise
        return _ACCOUNT


# --- print ---


def _facts(identity: Identity, account: str, partition: str) -> dict[str, Any]:
    return {
        "role": role_name(identity.name),
        "of": identity.purpose,
        "trust": identity.trust_policy(account, partition),
        "policy": identity.policy(),
        "everywhere": dict(identity.everywhere),
    }


def _lines(identities: Sequence[Identity], account: str, partition: str) -> Iterator[str]:
    printed = []
    for identity in identities:
        policy, trust = identity.policy(), identity.trust_policy(account, partition)["Statement"][0]
        printed += [shown(policy), shown(trust)]
        yield f"The role {role_name(identity.name)}, of {identity.purpose}. Its policy:"
        if len(parts := identity.policies()) > 1:
            yield textwrap.fill(
                f"(It has {size(policy):,} characters, more than the {INLINE_CHARACTERS:,} that fit into a role: "
                f"--apply makes {len(parts)} managed policies of it.)",
                80,
            )
        yield shown(policy)
        yield "Who may take it:"
        yield shown(trust)
        if identity.everywhere:
            yield "Why these are allowed on every resource:"
            for action, reason in identity.everywhere:
                yield textwrap.fill(f"  {action}: {reason}", 80, subsequent_indent="    ")
        yield ""
    for name, how in _HOW.items():
        if re.search(rf"\b{name}\b", "\n".join(printed)):
            yield f"{name} stands for what is not known here. Give {how}."
    yield "To create these roles: --apply. To see what a role lacks: --check."


# --- change ---


def _how_to_use(asked: _Asked, identities: Sequence[Identity], caller: iam.Caller, bucket: str | None) -> str:
    words = {"aws.bucket": bucket} if bucket else {}
    words |= {identity.setting: asked.role_of(identity) for identity in identities if identity.setting}
    settings = "Use them:\n  " + " ".join(f"{key}={value}" for key, value in words.items())
    if not asked.cloud.bills:
        return f"{settings} aws.launch_as={_LAUNCH}"
    return (
        f"{settings}\n"
        f"Launch as {_LAUNCH}. In ~/.aws/config:\n"
        "  [profile dogbreed]\n"
        f"  role_arn = arn:{caller.partition}:iam::{caller.account}:role{ROLE_PATH}{_LAUNCH}\n"
        "  source_profile = default\n"
        "Then: export AWS_PROFILE=dogbreed"
    )


def _apply(changes: Sequence[roles.Change], nothing: str, as_json: bool) -> int:
    """Show the changes, then make them."""
    for change in changes:
        if not as_json:
            print(f"  {change.text}", flush=True)
    for done, change in enumerate(changes):
        try:
            roles.make(change)
        except LaunchError as error:
            error.add_note(f"{done} of {len(changes)} changes were made. The same command makes the others.")
            raise
    if as_json:
        print(json.dumps({"changes": [change.text for change in changes]}, indent=2))
    else:
        print(f"{len(changes)} change{'s' if len(changes) > 1 else ''} made." if changes else nothing)
    return 0


def _remove(cloud: Cloud, as_json: bool) -> int:
    """Show what is to be removed, then remove it. Return 1 if something resists: what does not use it is removed."""
    failures, removed, found = Failures(), list[str](), list(roles.removals(cloud))
    for change in found:
        if not as_json:
            print(f"  {change.text}", flush=True)
    for change in found:
        with failures.noted():
            if not set(change.after) <= set(removed):
                raise LaunchError(f"Did not {change.text}: what uses it is still there.")
            roles.make(change)
            removed.append(change.text)
    if as_json:
        print(json.dumps({"changes": removed}, indent=2))
    elif found:
        of = f" of {len(found)}" if len(removed) < len(found) else ""
        print(f"{len(removed)}{of} change{'s' if len(found) > 1 else ''} made.", flush=True)
    else:
        print("Nothing to remove: no role was created here.")
    for error in failures.errors:
        print(message(error), file=sys.stderr)
    return 1 if failures.errors else 0


# --- check ---


def _check(asked: _Asked, identities: Sequence[Identity], caller: iam.Caller, args: argparse.Namespace) -> int:
    """Say what the person who asks and each configured role lack. Return 1 if something is missing or unknown."""
    results = [_checked(asked, identity, caller) for identity in identities]
    good = all(result["lacks"] == [] and not result["problems"] for result in results)
    if args.json:
        print(json.dumps(results, indent=2))
        return 0 if good else 1
    for result in results:
        print("\n".join(_check_lines(result)))
    if not good:
        print(f"Try: {_apply_command(args, identities)}")
        print("It creates roles that have every permission.")
    return 0 if good else 1


def _checked(asked: _Asked, identity: Identity, caller: iam.Caller) -> dict[str, Any]:
    """Return who was checked, what they lack (None if that is not known), and the problems of a role."""
    problems: tuple[str, ...]
    if not identity.service:
        arn, who, problems = roles.principal_arn(asked.cloud, caller.arn), f"You, {caller.arn},", ()
    else:
        found = iam.find_role(asked.cloud, asked.role_of(identity), identity.service, caller, identity.setting)
        arn, who, problems = found.arn, f"The role of {identity.purpose}, {found.arn},", found.findings
    lacks = roles.lacking(asked.cloud, arn, identity.grants) if arn and not problems else None
    return {
        "identity": identity.name,
        "who": who,
        "arn": arn,
        "problems": list(problems),
        "note": "" if lacks == [] or asked.is_ours(identity) else identity.note,
        "lacks": None if lacks is None else [str(lack) for lack in lacks],
    }


def _check_lines(result: dict[str, Any]) -> Iterator[str]:
    who, lacks = result["who"], result["lacks"]
    has, lack = ("have", "lack") if who.startswith("You") else ("has", "lacks")
    yield from result["problems"]
    if lacks is None and not result["problems"]:
        yield _filled(f"{who} may lack permissions: you are permitted neither to simulate nor to read policies.")
    elif lacks:
        yield _filled(f"{who} {lack} {len(lacks)} permission{'s' if len(lacks) > 1 else ''}:")
        yield from (f"  {each}" for each in lacks)
    elif lacks == []:
        yield _filled(f"{who} {has} every permission that is needed.")
    if result["note"] and not result["problems"]:
        yield _filled(result["note"])


def _filled(text: str) -> str:
    return textwrap.fill(text, 80, break_long_words=False, break_on_hyphens=False)


def _apply_command(args: argparse.Namespace, identities: Sequence[Identity]) -> str:
    """Return the command that creates what is lacking. Roles that are not ours are left out: ours take their place."""
    named = {identity.setting for identity in identities}
    chosen = [[text for text in each if override_key(text) not in named] for each in args.settings or []]
    place = ["--state-dir", args.state_dir] if args.state_dir else []
    bucket = ["--bucket", args.bucket] if args.bucket else []
    wanted = [word for each in chosen if each for word in ("--for", *each)]
    return commands.launchers("iam", "--apply", *place, *bucket, *wanted)
