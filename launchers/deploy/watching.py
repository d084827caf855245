"""The alarms of a deployment: two roll an update back, the others only say that something is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import names
from launchers.deploy.settings import DeploySettings

_PERIOD_S = 60
_DAY_H = 24
_SLOW_MINUTES = 5
_SENT_TO = ", sent to "


def alarms(
    settings: DeploySettings, common: names.Names, tags: Sequence[Mapping[str, str]], function: str | None = None
) -> list[dict[str, Any]]:
    """Return the requests for all alarms. function: name of the Lambda function in front, if there is one.

    That of a day without requests comes last: it is on until the endpoint has had its first one.

    Invocation5XXErrors is 1 for an invocation that failed and 0 for any other, so its average is their share:
    https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
    """
    slow = {"DatapointsToAlarm": _SLOW_MINUTES, "EvaluationPeriods": _SLOW_MINUTES, "ExtendedStatistic": "p99"}
    idle = {  # nothing is published while nobody asks, and missing minutes are what it looks for
        "ComparisonOperator": "LessThanThreshold",
        "Period": 3600,
        "EvaluationPeriods": _DAY_H,
        "DatapointsToAlarm": _DAY_H,
        "TreatMissingData": "breaching",
        "Statistic": "Sum",
    }
    limit_us = settings.max_latency_ms * 1000  # ModelLatency is in microseconds
    about: dict[str, tuple[str, float, dict[str, Any]]] = {
        "errors": ("Invocation5XXErrors", settings.max_error_rate, {"Statistic": "Average"}),
        "latency": ("ModelLatency", limit_us, {"Statistic": "Average"}),
        "slow": ("ModelLatency", limit_us, slow),
    }
    made = {**common.alarms, **common.watching}
    topic = {} if settings.alarm_topic is None else {"AlarmActions": [settings.alarm_topic]}
    found = [
        _alarm(made[kind], metric, threshold, common, {**more, **topic}, tags)
        for kind, (metric, threshold, more) in about.items()
    ]
    if function is not None:
        throttled = {"Statistic": "Sum", "EvaluationPeriods": 1, "DatapointsToAlarm": 1, **topic}
        of_function = [{"Name": "FunctionName", "Value": function}]
        lambda_ = {"Namespace": "AWS/Lambda", "Dimensions": of_function}
        found.append(_alarm(made["throttled"], "Throttles", 0, common, {**throttled, **lambda_}, tags))
    if settings.ttl_hours is None or settings.ttl_hours > _DAY_H:
        found.append(_alarm(made["idle"], "Invocations", 1, common, {**idle, **topic}, tags))
    return found


def _alarm(
    name: str,
    metric: str,
    threshold: float,
    common: names.Names,
    more: Mapping[str, Any],
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    return {
        "AlarmName": name,
        "Namespace": "AWS/SageMaker",
        "MetricName": metric,
        "Dimensions": dimensions(common),
        "Period": _PERIOD_S,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": float(threshold),
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        **more,
        "Tags": list(tags),
    }


def dimensions(common: names.Names) -> list[dict[str, str]]:
    """Return the dimensions of the endpoint's metrics."""
    return [
        {"Name": "EndpointName", "Value": common.endpoint},
        {"Name": "VariantName", "Value": names.VARIANT},
    ]


def sentences(settings: DeploySettings, function: str | None = None) -> Iterator[str]:
    """Say what the alarms watch, and whom they tell."""
    share, ms = f"{100 * settings.max_error_rate:g} %", f"{settings.max_latency_ms:g} ms"
    watched = [f"over {share} errors", f"over {ms} on average", f"over {ms} for 1 of 100 requests"]
    if settings.ttl_hours is None or settings.ttl_hours > _DAY_H:
        watched.append("no request for 24 h")
    if function is not None:
        watched.append("refusals by Lambda")
    yield f"on {', '.join(watched[:-1])} or {watched[-1]}"
    topic = settings.alarm_topic
    yield f"sent to {topic}" if topic else "sent to nobody (launcher.alarm_topic=ARN of an SNS topic)"


# --- as they are in the account ---


def present(cloud: Cloud, common: names.Names) -> dict[str, str]:
    """Return the alarms of a deployment that there are, each in the words of `in_words`. Raises LaunchError."""
    with errors(f"asking for the alarms of {common.endpoint}"):
        wanted = sorted([*common.alarms.values(), *common.watching.values()])
        found = cloud.client("cloudwatch").describe_alarms(AlarmNames=wanted)["MetricAlarms"]
    return {alarm["AlarmName"]: in_words(alarm) for alarm in found}


def in_words(alarm: Mapping[str, Any]) -> str:
    """Say what an alarm watches and whom it tells, so that equal ones, and only these, read the same.

    alarm: as a request has it, or as CloudWatch describes it.
    """
    side = "above" if alarm["ComparisonOperator"] == "GreaterThanThreshold" else "below"
    statistic = alarm.get("Statistic") or alarm.get("ExtendedStatistic")
    periods = f"{alarm.get('DatapointsToAlarm')} of {alarm['EvaluationPeriods']} x {alarm['Period']} s"
    missing = alarm.get("TreatMissingData", "missing")
    rule = f"{side} {float(alarm['Threshold']):.12g} ({statistic} of {alarm['MetricName']}, {periods}, {missing})"
    return f"{rule}{_SENT_TO}{', '.join(alarm.get('AlarmActions') or ['nobody'])}"


def changes(common: names.Names, before: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[str]:
    """Say how alarms change: their limits, and whom they tell. before, wanted: by name, as `in_words` has them."""
    told: dict[str, None] = {}  # in order, each once
    for name in dict.fromkeys([*wanted, *before]):
        (old, to), (new, instead) = (_parts(each.get(name, "none")) for each in (before, wanted))
        if old != new:
            short = [text.partition(" (")[0] for text in (old, new)]
            old, new = (old, new) if short[0] == short[1] else short
            yield f"alarm {name.removeprefix(f'{common.endpoint}-')}: {old} -> {new}"
        if to != instead and name in before and name in wanted:
            told[f"{to} -> {instead}"] = None
    yield from (f"alarms sent to {text}" for text in told)


def _parts(words: str) -> tuple[str, str]:
    """Return the rule of an alarm, and whom it tells."""
    rule, _, topic = words.partition(_SENT_TO)
    return rule, topic
