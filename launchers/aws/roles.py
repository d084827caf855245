"""Create, compare and remove the roles that launchers need, in an account."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dogbreed import commands
from dogbreed.errors import raise_findings
from launchers.aws import profiles, role_policies, tags
from launchers.aws.access import Decision, decide
from launchers.aws.actions import EC2
from launchers.aws.errors import code_of, errors, network_errors
from launchers.aws.iam import Caller
from launchers.aws.policy import ROLE_PATH, Conditions, Grant, Identity, role_name
from launchers.base import Cloud
from launchers.status import LaunchError

_DENIED = ("AccessDenied", "AccessDeniedException")
_UNFIT = "InvalidInput"  # of a simulation: its actions take resources of kinds that AWS does not simulate at once
_MOST_RESULTS = 1000  # that AWS returns at once


# --- create and remove ---


@dataclass(frozen=True)
class Change:
    """One change in the account, and how it is made. after: the texts of those without which it must not be made."""

    text: str
    make: Callable[[], None]
    after: tuple[str, ...] = ()


def changes(
    cloud: Cloud, identities: Sequence[Identity], caller: Caller, bucket: str | None = None
) -> Iterator[Change]:
    """Yield what must change so that each identity has its role. Nothing, where all is as it should be.

    bucket: noted for machines of EC2; None if it is not known. Raises LaunchError for roles of these names which are
    not ours.
    """
    names = [role_name(identity.name) for identity in identities]
    found = {name: role for name in names if (role := _role(cloud, name)) is not None}
    raise_findings(LaunchError, [_foreign(role) for role in found.values() if role["Path"] != ROLE_PATH])
    for identity, name in zip(identities, names, strict=True):
        yield from _changes_of(cloud, identity, found.get(name), caller)
        if identity.service == EC2:
            yield from (Change(*step) for step in profiles.changes(cloud, identity, bucket))


def exists(cloud: Cloud, identity: Identity) -> bool:
    """Return whether the role of an identity has been created, by whomever and with whatever policy."""
    return _role(cloud, role_name(identity.name)) is not None


def _changes_of(cloud: Cloud, identity: Identity, found: Mapping[str, Any] | None, caller: Caller) -> Iterator[Change]:
    client, name = cloud.client("iam"), role_name(identity.name)
    wanted, trust = identity.policies(), identity.trust_policy(caller.account, caller.partition)
    put = _call(role_policies.put, cloud=cloud, identity=identity)
    if found is None:
        create = _call(
            client.create_role,
            RoleName=name,
            Path=ROLE_PATH,
            AssumeRolePolicyDocument=json.dumps(trust),
            Description=f"dogbreed: {identity.purpose}",
            Tags=tags.to_aws({tags.PURPOSE: identity.name}),
        )
        yield Change(f"create the role {ROLE_PATH}{name}", create)
        parts = f", in {len(wanted)} parts" if len(wanted) > 1 else ""
        yield Change(f"give {name} its policy ({len(_actions(wanted))} actions{parts})", put)
        return
    if role_policies.parsed(found["AssumeRolePolicyDocument"]) != trust:
        update = _call(client.update_assume_role_policy, RoleName=name, PolicyDocument=json.dumps(trust))
        yield Change(f"change who may take the role {name}", update)
    before = role_policies.documents(cloud, name)
    if before != wanted:
        yield Change(f"change the policy of {name}: {_difference(before, wanted)}", put)


def removals(cloud: Cloud) -> Iterator[Change]:
    """Yield the removal of each role that we have created in the account, and of what machines of EC2 share.

    A machine that is running keeps its role: the security group that it is in cannot go.
    """
    of_machines: tuple[str, ...] = ()
    for text, make in profiles.removals(cloud):
        yield Change(text, make, of_machines)
        of_machines += (text,)
    client = cloud.client("iam")
    with errors("listing roles"):
        pages = client.get_paginator("list_roles").paginate(PathPrefix=ROLE_PATH)
        found = [role for page in pages for role in page["Roles"]]
    for role in found:
        name = role["RoleName"]
        after = of_machines if name == role_name("machine") else ()
        yield Change(f"remove the role {ROLE_PATH}{name}", _call(_remove, client=client, name=name), after)
    for arn in role_policies.unused(cloud):
        yield Change(f"remove the policy {arn}", _call(role_policies.remove, client=client, arn=arn))


def _remove(client: Any, name: str) -> None:
    for policy in client.list_role_policies(RoleName=name)["PolicyNames"]:
        client.delete_role_policy(RoleName=name, PolicyName=policy)
    for policy in client.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        client.detach_role_policy(RoleName=name, PolicyArn=policy["PolicyArn"])
        if role_policies.is_ours(policy["PolicyArn"]):
            role_policies.remove(client, policy["PolicyArn"])
    client.delete_role(RoleName=name)


def make(change: Change) -> None:
    """Make a change. Raises LaunchError if the caller may not."""
    with errors(f"trying to {change.text}"):
        change.make()


def _call(method: Callable[..., Any], **arguments: Any) -> Callable[[], None]:
    def made() -> None:
        method(**arguments)

    return made


def _role(cloud: Cloud, name: str) -> dict[str, Any] | None:
    from botocore.exceptions import ClientError

    with errors(f"looking up the role {name}"):
        try:
            found: dict[str, Any] = cloud.client("iam").get_role(RoleName=name)["Role"]
        except ClientError as error:
            if code_of(error) == "NoSuchEntity":
                return None
            raise
    return found


def _foreign(role: Mapping[str, Any]) -> str:
    delete = commands.shell("aws", "iam", "delete-role", "--role-name", role["RoleName"])
    return (
        f"The role {role['RoleName']} was not created by this command: its path is {role['Path']}, not {ROLE_PATH}.\n"
        f"If nothing uses it, try: {delete}"
    )


def _difference(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    old, new = _actions(before), _actions(after)
    parts = [f"+{action}" for action in sorted(new - old)] + [f"-{action}" for action in sorted(old - new)]
    return ", ".join(parts) or "other resources or conditions"


def _actions(policies: Iterable[Mapping[str, Any]]) -> set[str]:
    found: set[str] = set()
    for statement in (statement for policy in policies for statement in policy["Statement"]):
        actions = statement.get("Action", [])
        found.update([actions] if isinstance(actions, str) else actions)
    return found


# --- compare ---


@dataclass(frozen=True)
class Lack:
    """An action that is not allowed, and on which resource."""

    action: str
    resource: str
    denied: bool = False  # by a statement that denies, which no further permission outweighs
    when: str = ""  # what the request is like, where a condition of a policy may depend on it

    def __str__(self) -> str:
        notes = [*([f"for {self.when}"] if self.when else []), *(["denied by a policy"] if self.denied else [])]
        return f"{self.action} on {self.resource}" + (f" ({', '.join(notes)})" if notes else "")


def lacking(cloud: Cloud, principal_arn: str, grants: Sequence[Grant]) -> list[Lack] | None:
    """Return what a role or a user may not do of `grants`, by its own policies.

    Asks AWS to simulate it; where that is not permitted, or AWS cannot simulate it, reads the policies. Returns None if
    neither is permitted.
    What the policy of a resource permits is not checked.
    """
    from botocore.exceptions import ClientError

    if principal_arn.endswith(":root"):  # of the account: it may do everything
        return []
    grants = [grant for grant in grants if not grant.only_if]
    if not re.search(r":iam::\d+:(role|user)/", principal_arn):
        return None
    try:
        with network_errors("checking permissions"):
            found = [lack for group in _at_once(grants) for lack in _simulated(cloud, principal_arn, group)]
    except ClientError as error:
        if code_of(error) not in (*_DENIED, _UNFIT):
            with errors("checking permissions"):
                raise
        policies = _policies(cloud, principal_arn)
        if policies is None:
            return None
        found = [lack for grant in grants for lack in _decided(policies, grant)]
    return list(dict.fromkeys(found))


def _at_once(grants: Sequence[Grant]) -> list[list[Grant]]:
    """Group grants so that one request can ask for each group.

    A request has one value for each condition key, and AWS refuses actions that have no resource beside others.
    """
    groups: list[list[Grant]] = []
    for grant in grants:
        fitting = next((group for group in groups if all(_fit(grant, other) for other in group)), None)
        if fitting is None:
            groups.append([grant])
        else:
            fitting.append(grant)
    return groups


def _fit(one: Grant, other: Grant) -> bool:
    if ("*" in one.resources) != ("*" in other.resources):
        return False
    first, second = _context(one.conditions), _context(other.conditions)
    if set(one.actions) & set(other.actions):  # the conditions of the one must not help the other
        return first == second
    return all(first[key] == second[key] for key in first.keys() & second.keys())


def _simulated(cloud: Cloud, principal_arn: str, grants: Sequence[Grant]) -> list[Lack]:
    """Ask AWS about all actions on all resources, in one request if it takes them, and return what is not allowed."""
    from botocore.exceptions import ClientError

    actions = sorted({action for grant in grants for action in grant.actions})
    try:
        return _simulated_at_once(cloud, principal_arn, grants)
    except ClientError as error:
        if code_of(error) != _UNFIT or len(actions) == 1:
            raise
    own = ([replace(each, actions=(action,)) for each in grants if action in each.actions] for action in actions)
    return [lack for group in own for lack in _simulated_at_once(cloud, principal_arn, group)]


def _simulated_at_once(cloud: Cloud, principal_arn: str, grants: Sequence[Grant]) -> list[Lack]:
    wanted = {(action, resource): grant for grant in grants for action in grant.actions for resource in grant.resources}
    context = {key: values for grant in grants for key, values in _context(grant.conditions).items()}
    operators = [(operator, keys) for grant in grants for operator, keys in grant.conditions.items()]
    several = {key for operator, keys in operators if operator.startswith("For") for key in keys}
    pages = (
        cloud.client("iam")
        .get_paginator("simulate_principal_policy")
        .paginate(
            PolicySourceArn=principal_arn,
            ActionNames=sorted({action for action, _ in wanted}),
            ResourceArns=sorted({resource for _, resource in wanted}),
            ContextEntries=[
                {
                    "ContextKeyName": key,
                    "ContextKeyValues": values,
                    "ContextKeyType": "stringList" if key in several else "string",
                }
                for key, values in sorted(context.items())
            ],
            PaginationConfig={"PageSize": _MOST_RESULTS},
        )
    )
    return [
        Lack(action, resource, decision == Decision.EXPLICIT_DENY, _when(wanted[action, resource].conditions))
        for action, resource, decision in _results(pages)
        if (action, resource) in wanted and decision != Decision.ALLOWED
    ]


def _results(pages: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield action, resource and decision. Those on several resources may be parts of one result."""
    for result in (result for page in pages for result in page["EvaluationResults"]):
        parts = result.get("ResourceSpecificResults") or []
        for part in parts:
            yield result["EvalActionName"], part["EvalResourceName"], part["EvalResourceDecision"]
        if not parts:
            yield result["EvalActionName"], result["EvalResourceName"], result["EvalDecision"]


def _decided(policies: Sequence[Mapping[str, Any]], grant: Grant) -> list[Lack]:
    context = _context(grant.conditions)
    found = (
        (action, resource, decide(policies, action, resource, context))
        for action in grant.actions
        for resource in grant.resources
    )
    return [
        Lack(action, resource, decision is Decision.EXPLICIT_DENY, _when(grant.conditions))
        for action, resource, decision in found
        if decision is not Decision.ALLOWED
    ]


def _context(conditions: Conditions) -> dict[str, list[str]]:
    """Return values with which the conditions of a grant hold, as the requests have them."""
    found: dict[str, list[str]] = {}
    for operator, keys in conditions.items():
        for key, values in keys.items():
            listed = [values] if isinstance(values, str) else list(values)
            if operator == "Null":  # another condition on the key may tell its values
                found.setdefault(key, ["any"])
            else:
                found[key] = [value.replace("*", "any") for value in listed]
    return found


def _when(conditions: Conditions) -> str:
    """Return the values of a request that a policy may be particular about: its machines, and who takes the role."""
    context = _context(conditions)
    return ", ".join(f"{key}={','.join(values)}" for key, values in sorted(context.items()) if values != ["any"])


def _policies(cloud: Cloud, principal_arn: str) -> list[dict[str, Any]] | None:
    """Return the policies of a role or user, without those of groups; None if they may not be read."""
    from botocore.exceptions import ClientError

    kind, _, rest = principal_arn.rpartition(":")[2].partition("/")
    name, of = rest.rpartition("/")[2], {"role": "RoleName", "user": "UserName"}[kind]
    client = cloud.client("iam")
    try:
        with network_errors("reading policies"):
            inline = getattr(client, f"list_{kind}_policies")(**{of: name})["PolicyNames"]
            found = [
                role_policies.parsed(
                    getattr(client, f"get_{kind}_policy")(**{of: name}, PolicyName=each)["PolicyDocument"]
                )
                for each in inline
            ]
            attached = getattr(client, f"list_attached_{kind}_policies")(**{of: name})["AttachedPolicies"]
            for each in attached:
                version = client.get_policy(PolicyArn=each["PolicyArn"])["Policy"]["DefaultVersionId"]
                policy = client.get_policy_version(PolicyArn=each["PolicyArn"], VersionId=version)
                found.append(role_policies.parsed(policy["PolicyVersion"]["Document"]))
    except ClientError as error:
        if code_of(error) in _DENIED:
            return None
        with errors("reading policies"):
            raise
    return found


def principal_arn(cloud: Cloud, caller_arn: str) -> str:
    """Return the user or role that a caller is, by the ARN that STS reports: a session of a role is that role.

    Returns the ARN unchanged if the role may not be looked up: its path is not known then.
    """
    from botocore.exceptions import ClientError

    kind, _, rest = caller_arn.rpartition(":")[2].partition("/")
    if kind != "assumed-role":
        return caller_arn
    try:
        with network_errors("looking up your role"):
            return str(cloud.client("iam").get_role(RoleName=rest.partition("/")[0])["Role"]["Arn"])
    except ClientError:
        return caller_arn
