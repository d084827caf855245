"""Decide what IAM policies allow, by AWS's rules. Pure: no network.

What is not allowed is denied, and one statement that denies outweighs all that allow
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html).
"""

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Any

Context = Mapping[str, Sequence[str]]  # condition key -> values; an absent key is one that the request does not have


class Decision(StrEnum):
    """As SimulatePrincipalPolicy calls them."""

    ALLOWED = "allowed"
    EXPLICIT_DENY = "explicitDeny"
    IMPLICIT_DENY = "implicitDeny"


def decide(
    policies: Iterable[Mapping[str, Any]],
    action: str,
    resource: str,
    context: Context,
    principal: Mapping[str, Sequence[str]] | None = None,
) -> Decision:
    """Return what the policies say of an action on a resource.

    principal: who asks, for policies of resources and trust policies: {"AWS": [its ARN, its account]} or {"Service":
    [its name]}.
    """
    statements = [statement for policy in policies for statement in _listed(policy.get("Statement", []))]
    lowered = {key.lower(): values for key, values in context.items()}
    matching = {
        statement["Effect"] for statement in statements if _applies(statement, action, resource, lowered, principal)
    }
    if "Deny" in matching:
        return Decision.EXPLICIT_DENY
    return Decision.ALLOWED if "Allow" in matching else Decision.IMPLICIT_DENY


def _applies(
    statement: Mapping[str, Any],
    action: str,
    resource: str,
    context: Context,
    principal: Mapping[str, Sequence[str]] | None,
) -> bool:
    if principal is not None and not _is_named(statement, principal):
        return False
    if "Action" in statement and not _any_like(action.lower(), _lower(statement["Action"])):
        return False
    if "NotAction" in statement and _any_like(action.lower(), _lower(statement["NotAction"])):
        return False
    if "Resource" in statement and not _any_like(resource, _resources(statement["Resource"], context)):
        return False
    if "NotResource" in statement and _any_like(resource, _resources(statement["NotResource"], context)):
        return False
    conditions = statement.get("Condition", {})
    return all(
        _holds(operator, _listed(wanted), context.get(key.lower()))
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def _is_named(statement: Mapping[str, Any], principal: Mapping[str, Sequence[str]]) -> bool:
    inverted = "NotPrincipal" in statement
    named = statement.get("NotPrincipal" if inverted else "Principal", {})
    if named == "*":
        return not inverted
    found = any(
        wanted == "*" or wanted in values or (kind == "AWS" and _account(wanted) in values)
        for kind, values in principal.items()
        for wanted in _listed(named.get(kind, []))
    )
    return found is not inverted


def _account(principal: str) -> str:
    """Return the account of `arn:aws:iam::123456789012:root`, which stands for all of its users and roles."""
    found = re.fullmatch(r"arn:[\w-]+:iam::(\d{12}):root", principal)
    return found[1] if found else "-"


# --- conditions ---


def _holds(operator: str, wanted: Sequence[Any], values: Sequence[str] | None) -> bool:
    """Return whether a condition holds. values: of its key; None if the request has none."""
    if operator == "Null":
        return any((values is None) is (str(each).lower() == "true") for each in wanted)
    quantifier, _, name = operator.rpartition(":")
    optional = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    negated = "Not" in name
    if values is None:
        return optional or quantifier == "ForAllValues" or (negated and not quantifier)
    test = _TESTS.get(name.replace("Not", ""))
    if test is None:  # an operator of the future: what it allows is not allowed
        return False

    def one(value: str) -> bool:
        return any(test(value, str(each)) for each in wanted) is not negated

    return all(map(one, values)) if quantifier == "ForAllValues" else any(map(one, values))


def _number(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    def test(value: str, wanted: str) -> bool:
        with suppress(ValueError):
            return compare(float(value), float(wanted))
        return False

    return test


def _date(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    def test(value: str, wanted: str) -> bool:
        with suppress(ValueError):
            return compare(_seconds(value), _seconds(wanted))
        return False

    return test


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else datetime.fromisoformat(text).timestamp()


def _address(value: str, wanted: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(value) in ipaddress.ip_network(wanted, strict=False)
    return False


def _arn_like(value: str, wanted: str) -> bool:
    parts, patterns = value.split(":", 5), wanted.split(":", 5)
    return len(parts) == len(patterns) == 6 and all(map(_like, parts, patterns))


def _like(value: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "Equals": lambda a, b: a == b,
    "LessThan": lambda a, b: a < b,
    "LessThanEquals": lambda a, b: a <= b,
    "GreaterThan": lambda a, b: a > b,
    "GreaterThanEquals": lambda a, b: a >= b,
}
_TESTS: Mapping[str, Callable[[str, str], bool]] = {  # a "Not" in an operator's name inverts the result
    "StringEquals": lambda value, wanted: value == wanted,
    "StringEqualsIgnoreCase": lambda value, wanted: value.lower() == wanted.lower(),
    "StringLike": _like,
    "ArnEquals": _arn_like,  # both accept wildcards
    "ArnLike": _arn_like,
    "Bool": lambda value, wanted: value.lower() == wanted.lower(),
    "IpAddress": _address,
    **{f"Numeric{name}": _number(compare) for name, compare in _COMPARISONS.items()},
    **{f"Date{name}": _date(compare) for name, compare in _COMPARISONS.items()},
}


# --- patterns ---


def _any_like(value: str, patterns: Iterable[str]) -> bool:
    return any(_like(value, pattern) for pattern in patterns)


def _lower(value: Any) -> list[str]:
    return [each.lower() for each in _listed(value)]


def _resources(value: Any, context: Context) -> list[str]:
    """Return the patterns, with policy variables such as ${aws:username} filled in."""

    def filled(found: re.Match[str]) -> str:
        if found[1] in ("*", "?", "$"):
            return found[1]
        return (context.get(found[1].lower()) or ["${}"])[0]

    return [re.sub(r"\$\{([^}]*)\}", filled, each) for each in _listed(value)]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
