"""What each service of the rehearsal cloud is made of."""

from collections.abc import Callable, Mapping
from typing import Any

Operation = Callable[..., "dict[str, Any] | None"]
_MOST_TAGS = 50


class Refused(Exception):  # noqa: N818 (what AWS does, not what went wrong here)
    """AWS's answer to a request that it does not accept."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text, self.status = code, text, status


def invalid(text: str) -> Refused:
    return Refused("ValidationException", text)


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def check_tags(tags: list[dict[str, str]], before: Mapping[str, str]) -> None:
    keys = [tag["Key"] for tag in tags]
    if len(set(keys)) < len(keys):
        raise invalid("Duplicate tag keys found. Please note that tag keys are case insensitive.")
    if len(keys) + len(before.keys() - set(keys)) > _MOST_TAGS:
        raise invalid(f"Too many tags: a resource has at most {_MOST_TAGS}")
    if reserved := [key for key in keys if key.lower().startswith("aws:")]:
        raise invalid(f"Tag keys must not begin with aws:, got {', '.join(reserved)}")
