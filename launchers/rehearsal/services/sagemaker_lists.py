"""The lists of SageMaker's resources: filters, order and pages, which all List operations share."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_FILTERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "NameContains": lambda each, value: value in each.name,
    "StatusEquals": lambda each, value: each.status == value,
    "CreationTimeAfter": lambda each, value: each.created > value,
    "CreationTimeBefore": lambda each, value: each.created < value,
    "LastModifiedTimeAfter": lambda each, value: each.modified > value,
    "LastModifiedTimeBefore": lambda each, value: each.modified < value,
    "WarmPoolStatusEquals": lambda each, value: each.pool == value,  # of training jobs
}
_ORDERS: Mapping[str, Callable[[Any], Any]] = {
    "Name": lambda each: each.name,
    "Status": lambda each: each.status,
    "CreationTime": lambda each: each.created,
    "FinalObjectiveMetricValue": lambda each: each.objective,
}


def page(
    asked: Mapping[str, Any], key: str, resources: Iterable[T], summary: Callable[[T], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return one page of a list as AWS answers it.

    asked: the parameters of the call. key: the name of the list in the answer. resources: have name, created (seconds
    since 1970) and, as far as the operation filters by them, modified and status.
    """
    found = list(resources)
    for name, keep in _FILTERS.items():
        if name in asked:
            found = [each for each in found if keep(each, asked[name])]
    order = _ORDERS[asked.get("SortBy", "CreationTime")]
    found.sort(key=order, reverse=asked.get("SortOrder", "Descending") == "Descending")
    first, most = int(asked.get("NextToken", 0)), asked.get("MaxResults", 10)
    rest = {"NextToken": str(first + most)} if len(found) > first + most else {}
    return {key: [summary(each) for each in found[first : first + most]], **rest}
