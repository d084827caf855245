"""Tags of SageMaker's resources, which are found by ARN: each service answers for its own alone."""

from collections.abc import Callable, Mapping
from typing import Protocol

from launchers.rehearsal.service import Answer, Call, Handler, invalid

_MOST_TAGS = 50


class Tagged(Protocol):
    """A resource that has tags."""

    tags: dict[str, str]

    def save(self) -> None: ...


def tag_operations(of_arn: Callable[[str], Tagged | None]) -> dict[tuple[str, str], Handler]:
    """Return the operations on tags, for the resources of one service.

    of_arn: finds the resource. It returns None if the ARN is not of a kind that the service manages, and raises Refused
    if the resource does not exist.
    """

    def list_tags(call: Call) -> Answer | None:
        found = of_arn(call.parameters["ResourceArn"])
        return None if found is None else {"Tags": _as_list(found.tags)}

    def add_tags(call: Call) -> Answer | None:
        found = of_arn(call.parameters["ResourceArn"])
        if found is None:
            return None
        check_tags(call.parameters["Tags"], found.tags)
        found.tags |= from_list(call.parameters["Tags"])
        found.save()
        return {"Tags": _as_list(found.tags)}

    def delete_tags(call: Call) -> Answer | None:
        found = of_arn(call.parameters["ResourceArn"])
        if found is None:
            return None
        for key in call.parameters["TagKeys"]:
            found.tags.pop(key, None)
        found.save()
        return {}

    handlers = {"ListTags": list_tags, "AddTags": add_tags, "DeleteTags": delete_tags}
    return {("sagemaker", name): handler for name, handler in handlers.items()}


def kind_and_name(arn: str) -> tuple[str, str]:
    """Split an ARN's last part: `arn:aws:sagemaker:us-east-1:123456789012:training-job/mine` is training-job, mine."""
    kind, _, name = arn.rpartition(":")[2].partition("/")
    return kind, name


def check_tags(tags: list[dict[str, str]], before: Mapping[str, str]) -> None:
    """Raise Refused for tags that SageMaker does not accept. before: the tags that the resource has."""
    keys = [tag["Key"] for tag in tags]
    if len(set(keys)) < len(keys):
        raise invalid("Duplicate tag keys found. Please note that tag keys are case insensitive.")
    if len(keys) + len(before.keys() - set(keys)) > _MOST_TAGS:
        raise invalid(f"Too many tags: a resource has at most {_MOST_TAGS}")
    if reserved := [key for key in keys if key.lower().startswith("aws:")]:
        raise invalid(f"Tag keys must not begin with aws:, got {', '.join(reserved)}")


def from_list(tags: list[dict[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def _as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
