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


class Opened(TypedDict):
    """Of open, before it serves."""

    handle: str
    address: str  # on this machine
    url: str  # of the function


class Machine(TypedDict):
    """Of prices. US dollars an hour; None where they are not known."""

    type: str
    usd: float
    vcpus: int
    memory_gb: float
    gpus: int
    gpu: str
    gpu_memory_gb: float
    gflops: float
    net_gbps: float
    as_of: str
    source: str
    withdrawn: bool
    hosting_usd: float | None
    ec2_usd: float | None


class StillCosts(TypedDict):
    """usd: at most; None if that is not known, or nothing limits it. least_usd: at least; None if it is not known."""

    name: str
    launcher: str
    state: str
    usd: float | None
    least_usd: float | None


class HasCost(StillCosts):
    hours: float


class Cost(TypedDict):
    still_costs: list[StillCosts]
    rows: list[HasCost]
    by_launcher: dict[str, float]
    by_state: dict[str, float]
    usd: float


class Role(TypedDict):
    role: str
    of: str
    trust: dict[str, Any]
    policy: dict[str, Any]
    everywhere: dict[str, str]  # by action: why it is allowed on every resource


class Roles(TypedDict):
    """Of iam."""

    account: str
    region: str | None
    roles: list[Role]


class RoleChanges(TypedDict):
    """Of iam --apply and --remove."""

    changes: list[str]


class RoleCheck(TypedDict):
    """Of iam --check."""

    identity: str
    who: str
    arn: str
    problems: list[str]
    note: str
    lacks: list[str] | None  # None if that is not known


class Check(TypedDict):
    check: str
    result: str


class Examined(TypedDict):
    """Of doctor."""

    checks: list[Check]
    findings: list[str]


class Loaded(TypedDict):
    """Of loadtest. Times are None where nothing was answered."""

    url: str
    loop: str
    clients: int | None
    rps: float | None
    seconds: float
    sent: int
    answered: int
    refused: float
    statuses: dict[str, int]
    answers_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    late_p99_ms: float | None
    generator_cpu: float
    kept_pace: bool
    service_from: str
    service_ms: list[float | None]
    latency_ms: list[float | None]
    sent_at_s: list[float]


class Explained(TypedDict):
    policies: list[dict[str, Any]]  # of what scales: its sentences, bounds and, for a policy, alarms and times


class Judged(TypedDict):
    """A setting of a deployment. Times are None where there are none."""

    setting: str
    refused: float
    late: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    usd_per_month: float
    binding_limit: str
    instance_hours: float
    overrides: list[str] | None  # of train.py, which deploy it; None if nothing does


class Capacity(Judged):
    late_ms: float
    evidence: str
    meets_objective: bool
    within_budget: bool
    requests: int
    hours: float
    mean_rps: float
    peak_rps: float
    cold_starts: int
    repeats: int
    usd_free_tier: float
    break_even_rps: float | None
    prices_as_of: str
    seed: int
    notes: list[str]
    recommended: NotRequired[Judged]
    pareto: NotRequired[list[Judged]]
    compared: NotRequired[list[Judged]]
    usual: NotRequired[Judged]  # with the policy's usual numbers


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
    "open": Opened,
    "prices": list[Machine],
    "cost": Cost,
    "iam": Roles | RoleChanges | list[RoleCheck],
    "doctor": Examined,
    "capacity": Capacity,
    "explain": Explained,
    "loadtest": Loaded,
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
