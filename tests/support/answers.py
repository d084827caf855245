"""The JSON that each command of `python -m launchers` prints, as types, and a check of an answer against its type."""

from types import NoneType, UnionType
from typing import Any, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

Metrics = dict[str, float]


class Shortage(TypedDict):
    text: str
    limit: int | None
    used: int | None
    wanted: int | None


class StatusOf(TypedDict):
    """Of status, cancel and rollback, and each item of list."""

    handle: str
    folder: NotRequired[str]  # absolute; absent if the run has none on this machine
    name: str  # what a person called it; empty if nothing
    phase: str
    cause: str
    detail: str
    attempt: int
    started_at: str  # ISO 8601; empty if it is not known
    log_tail: list[str]
    next_action: str
    usd: float | None
    on_demand_usd: float | None
    job: str
    shortage: Shortage | None


class Line(TypedDict):
    """Of logs: an object a line."""

    handle: str
    attempt: int
    node: int
    text: str
    at: str | None  # ISO 8601, UTC


class Result(TypedDict):
    """Of result and attach."""

    handle: str
    metrics: Metrics
    artifacts: dict[str, str]


class Download(TypedDict):
    handle: str
    folder: str
    files: dict[str, str]


class Trial(TypedDict):
    trial: int
    folder: str
    metrics: dict[str, Any]


class DownloadOfSearch(TypedDict):
    handle: str
    folder: str
    trials: list[Trial]


class Prediction(TypedDict):
    breed: str
    probability: float
    label: str
    index: int


class Answer(TypedDict):
    """Of one photo, as the server answers it."""

    predictions: list[Prediction]
    unlike_training_photos: bool | None
    probabilities: list[float]
    model: dict[str, Any]


class CleanedUp(TypedDict):
    name: str
    state: str
    detail: str
    usd_per_month: float | None


class Image(TypedDict):
    torch: str
    cpu: str
    gpu: str
    python: str | None
    ends: str | None  # the day from which AWS patches it no more
    not_in: list[str]  # regions


class MachineImage(TypedDict):
    name: str
    parameter: str
    system: str
    architecture: str
    torch: str
    ends: str
    plain: bool


class Images(TypedDict):
    sagemaker: list[Image]
    ec2: list[MachineImage]


class RehearsalCloud(TypedDict):
    running: bool
    state_dir: str
    url: str | None
    key: str | None


SCHEMAS: dict[str, Any] = {  # of one run, where a command takes several
    "list": list[StatusOf],
    "status": StatusOf,
    "cancel": StatusOf,
    "rollback": StatusOf,
    "logs": Line,
    "attach": Result,
    "result": Result,
    "download": Download | DownloadOfSearch,
    "invoke": dict[str, Answer],
    "cleanup": list[CleanedUp],
    "images": Images,
    "rehearsal": RehearsalCloud,
}


def problems(value: Any, kind: Any, at: str = "answer") -> list[str]:
    """List where a value read from JSON is not of a type. A key that the type does not have is one of them."""
    if kind is Any:
        return []
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return [f"{at} is {value!r}, not an object"]
        hints = get_type_hints(kind)
        wrong = [f"{at} lacks {key}" for key in sorted(kind.__required_keys__ - value.keys())]
        wrong += [f"{at} has an unknown key {key}" for key in sorted(value.keys() - hints.keys())]
        return wrong + [
            text for key in value.keys() & hints.keys() for text in problems(value[key], hints[key], f"{at}.{key}")
        ]
    match get_origin(kind):
        case origin if origin is list:
            if not isinstance(value, list):
                return [f"{at} is {value!r}, not an array"]
            return [
                text
                for number, each in enumerate(value)
                for text in problems(each, get_args(kind)[0], f"{at}[{number}]")
            ]
        case origin if origin is dict:
            if not isinstance(value, dict):
                return [f"{at} is {value!r}, not an object"]
            return [text for key, each in value.items() for text in problems(each, get_args(kind)[1], f"{at}.{key}")]
        case origin if origin in (UnionType, Union):
            tried = [problems(value, each, at) for each in get_args(kind)]
            return [] if any(not each for each in tried) else min(tried, key=len)
    wanted = {float: (int, float), NoneType: NoneType}.get(kind, kind)
    fits = isinstance(value, wanted) and not (isinstance(value, bool) and kind is not bool)
    return [] if fits else [f"{at} is {value!r}, not {kind.__name__}"]
