"""Describe what a person or a role may do, and write it as IAM policies. Pure: no network."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

VERSION = "2012-10-17"
INLINE_CHARACTERS = 10_240  # of all policies inside one role, white space not counted
MANAGED_CHARACTERS = 6_144  # of each policy beside it
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html"""

ROLE_PATH = "/dogbreed/"  # of the roles that we create, by which they are found again

Conditions = Mapping[str, Mapping[str, str | Sequence[str]]]


def role_name(identity: str) -> str:
    """Return the name of the role that we create for an identity, such as `training`."""
    return f"dogbreed-{identity}"


def role_in_arn(identity: str) -> str:
    """Return the path and name of that role, as its ARN ends."""
    return f"{ROLE_PATH[1:]}{role_name(identity)}"


def name_of_role(arn: str) -> str:
    """Return the name of the role that an ARN is of, or a session of; empty if it is of something else."""
    kind, _, rest = arn.rpartition(":")[2].partition("/")
    return {"role": rest.rpartition("/")[2], "assumed-role": rest.partition("/")[0]}.get(kind, "")


@dataclass(frozen=True)
class Grant:
    """Allows actions on resources.

    resources: ARNs, with * as a wildcard. everywhere: why the only resource is "*"; empty where there are ARNs.
    conditions: operator -> key -> values, as in a policy. only_if: when it is needed, where that is not known; empty if
    it always is.
    """

    actions: tuple[str, ...]
    resources: tuple[str, ...] = ("*",)
    conditions: Conditions = field(default_factory=dict)
    everywhere: str = ""
    only_if: str = ""

    def statement(self) -> dict[str, Any]:
        """Return the statement of a policy, in its shortest form."""
        found: dict[str, Any] = {
            "Effect": "Allow",
            "Action": _short(self.actions),
            "Resource": _short(self.resources),
        }
        if self.conditions:
            found["Condition"] = {
                operator: {
                    key: value if isinstance(value, str) else _short(value) for key, value in sorted(keys.items())
                }
                for operator, keys in sorted(self.conditions.items())
            }
        return found


@dataclass(frozen=True)
class Identity:
    """A person or a role, and what it needs.

    name: such as `training`. purpose: who it is, for people. service: the AWS service that takes the role, such as
    sagemaker.amazonaws.com; empty for the person who launches. setting: the one that names the role, such as aws.role;
    empty if there is none. trust: conditions on who may take it. note: why a role that people usually have may lack
    something; empty if nothing is known. subnets: where machines of EC2 run that take it; none for those of the default
    VPC.
    """

    name: str
    purpose: str
    grants: tuple[Grant, ...]
    service: str = ""
    setting: str = ""
    trust: Conditions = field(default_factory=dict)
    note: str = ""
    subnets: tuple[str, ...] = ()

    def policy(self) -> dict[str, Any]:
        """Return the policy: one statement for each set of resources and conditions, all sorted."""
        without_reasons = (replace(grant, everywhere="") for grant in self.grants)
        return document(grant.statement() for grant in merged(without_reasons))

    def policies(self) -> list[dict[str, Any]]:
        """Return the policy as IAM takes it: whole if it fits into a role, else in parts for managed policies."""
        whole = self.policy()
        if size(whole) <= INLINE_CHARACTERS:
            return [whole]
        parts: list[list[dict[str, Any]]] = [[]]
        for statement in whole["Statement"]:
            if parts[-1] and size(document([*parts[-1], statement])) > MANAGED_CHARACTERS:
                parts.append([])
            parts[-1].append(statement)
        return [document(part) for part in parts]

    def trust_policy(self, account: str, partition: str) -> dict[str, Any]:
        """Return who may take the role: its service; for a person, whoever the account lets assume roles."""
        principal = {"Service": self.service} if self.service else {"AWS": f"arn:{partition}:iam::{account}:root"}
        statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
        return document([{**statement, **({"Condition": self.trust} if self.trust else {})}])

    @property
    def everywhere(self) -> list[tuple[str, str]]:
        """Return action and reason of everything that is allowed on "*"."""
        return sorted(
            {(action, grant.everywhere) for grant in self.grants if grant.everywhere for action in grant.actions}
        )


def document(statements: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {"Version": VERSION, "Statement": [dict(statement) for statement in statements]}


def shown(policy: Mapping[str, Any]) -> str:
    """Return a policy as people read it: a statement has a line for each of its parts."""
    return json.dumps(policy, indent=2)


def size(policy: Mapping[str, Any]) -> int:
    """Return how many characters of a policy count against IAM's limits."""
    return len("".join(json.dumps(policy).split()))


def merged(grants: Iterable[Grant]) -> list[Grant]:
    """Join grants of the same actions, then those of the same resources; sort what is left."""
    by_actions = [
        replace(group[0], resources=_sorted(each.resources for each in group))
        for group in _grouped(grants, lambda grant: grant.actions)
    ]
    by_resources = [
        replace(group[0], actions=_sorted(each.actions for each in group))
        for group in _grouped(by_actions, lambda grant: grant.resources)
    ]
    return sorted(by_resources, key=lambda grant: (grant.resources == ("*",), grant.actions, grant.resources))


def union(identities: Iterable[Identity]) -> list[Identity]:
    """Join identities of the same name: one role may be used by several launchers."""
    found: dict[str, Identity] = {}
    for identity in identities:
        before = found.get(identity.name)
        found[identity.name] = replace(before, grants=before.grants + identity.grants) if before else identity
    return list(found.values())


def partition_of(region: str | None) -> str:
    """Return the partition of a region, with which all its ARNs begin."""
    name = region or ""
    return "aws-cn" if name.startswith("cn-") else "aws-us-gov" if name.startswith("us-gov-") else "aws"


def _grouped(grants: Iterable[Grant], same: Callable[[Grant], Iterable[str]]) -> list[list[Grant]]:
    """Return the grants with equal conditions and reasons that are the same in this respect, each as a group."""
    groups: dict[Any, list[Grant]] = defaultdict(list)
    for grant in grants:
        conditions = json.dumps(grant.conditions, sort_keys=True, default=list)
        groups[_sorted([same(grant)]), conditions, grant.everywhere].append(grant)
    return list(groups.values())


def _sorted(values: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({value for each in values for value in each}))


def _short(values: Sequence[str]) -> str | list[str]:
    found = sorted(set(values))
    return found[0] if len(found) == 1 else found
