"""Forms that the answers of EC2 and Auto Scaling share: identifiers, times, tags, filters, pages."""

import fnmatch
import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from launchers.rehearsal.service import Answer, Call, Handler, Refused

Described = Mapping[str, Any]
Filters = Mapping[str, Callable[[Described], Iterable[Any]]]  # the name of a filter -> the values that it looks at
_PAGE = 1000


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(9)[:17]}"


def fixed_id(kind: str, seed: str) -> str:
    """Return an identifier that is always the same for the same seed."""
    return f"{kind}-{hashlib.sha256(seed.encode()).hexdigest()[:17]}"


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def iso(seconds: float) -> str:
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(value: datetime | float | str) -> float:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def tags_for(specifications: Iterable[Mapping[str, Any]], kind: str) -> dict[str, str]:
    """Return the tags that a request's TagSpecifications have for resources of a kind, such as `instance`."""
    found = [each.get("Tags", []) for each in specifications if each.get("ResourceType") == kind]
    return {tag["Key"]: tag.get("Value", "") for tags in found for tag in tags}


def matching(found: Iterable[Described], asked: Mapping[str, Any], known: Filters) -> list[Described]:
    """Return what fits all filters of a request. Besides those of `known`, tag:KEY, tag-key and tag-value exist."""
    kept = list(found)
    for each in asked.get("Filters", ()):
        name, wanted = str(each["Name"]), [str(value) for value in each.get("Values", ())]
        values = _tag_filter(name) or known.get(name)
        if values is None:
            raise Refused("InvalidParameterValue", f"The filter '{name}' is invalid")
        kept = [item for item in kept if _any(values(item), wanted)]
    return kept


def _any(values: Iterable[Any], wanted: Sequence[str]) -> bool:
    shown = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    return any(fnmatch.fnmatchcase(value, pattern) for value in shown for pattern in wanted)


def _tag_filter(name: str) -> Callable[[Described], Iterable[Any]] | None:
    kind, _, key = name.partition(":")
    if kind == "tag" and key:
        return lambda item: [tag["Value"] for tag in item.get("Tags", ()) if tag["Key"] == key]
    if name in ("tag-key", "tag-value"):
        part = name.removeprefix("tag-").capitalize()
        return lambda item: [tag[part] for tag in item.get("Tags", ())]
    return None


def paged(key: str, found: Sequence[Any], asked: Mapping[str, Any], most: str = "MaxResults") -> Answer:
    """Return a page of a list. most: the parameter that limits a page."""
    first, count = int(asked.get("NextToken") or 0), int(asked.get(most) or _PAGE)
    rest = {"NextToken": str(first + count)} if len(found) > first + count else {}
    return {key: list(found[first : first + count]), **rest}


def handlers(service: str, functions: Mapping[str, Handler]) -> dict[tuple[str, str], Handler]:
    """Return the handlers of operations. Those of EC2 honour DryRun, which checks all but does nothing."""
    return {(service, name): _honours_dry_run(each) if service == "ec2" else each for name, each in functions.items()}


def _honours_dry_run(handler: Handler) -> Handler:
    def handle(call: Call) -> Answer | None:
        if call.parameters.get("DryRun"):
            raise Refused("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        return handler(call)

    return handle
