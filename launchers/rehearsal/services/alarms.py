"""CloudWatch's alarms: moto keeps them and their metrics; here they are evaluated, by the rules of aws/alarms.py."""

import json
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from moto.cloudwatch.models import Alarm as MotoAlarm
from moto.cloudwatch.models import MetricAggregatedDatum, MetricDatumBase, cloudwatch_backends
from moto.sns.exceptions import SNSException
from moto.sns.models import sns_backends

from dogbreed.run_folder import write_json
from launchers.aws import scaling_described as described
from launchers.aws.alarms import Alarm, State
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.images import as_list
from launchers.rehearsal.names import ACCOUNT, REGION

_SAVED = (
    "name", "namespace", "metric_name", "comparison_operator", "evaluation_periods", "datapoints_to_alarm", "period",
    "threshold", "statistic", "extended_statistic", "description", "alarm_actions", "ok_actions",
    "insufficient_data_actions", "unit", "actions_enabled", "treat_missing_data",
)  # fmt: skip
_STATE = ("state_value", "state_reason", "state_reason_data")


def alarm_states(names: Iterable[str]) -> dict[str, str]:
    """Return the states of those of these alarms that exist."""
    alarms = cloudwatch_backends[ACCOUNT][REGION].alarms
    return {name: alarms[name].state_value for name in names if name in alarms}


def rule_of(alarm: MotoAlarm) -> Alarm | None:
    """Return an alarm's rule; None for composite alarms and those on metric math, which are not evaluated."""
    if alarm.rule or alarm.metric_data_queries or alarm.comparison_operator not in described.OPERATORS:
        return None
    return described.alarm(
        {
            "ComparisonOperator": alarm.comparison_operator,
            "Threshold": alarm.threshold,
            "EvaluationPeriods": alarm.evaluation_periods,
            "DatapointsToAlarm": alarm.datapoints_to_alarm,
            "Period": alarm.period,
            "TreatMissingData": alarm.treat_missing_data,
        }
    )


class Alarms:
    """Evaluates all alarms, on the cloud's clock. file: keeps them over a restart."""

    def __init__(self, file: Path, clock: Clock) -> None:
        self.file, self.clock = file, clock
        self._evaluated: dict[str, tuple[MotoAlarm, int]] = {}  # by name: the alarm, and its latest time slot
        self._states: dict[str, str] = {}
        self._saving = threading.Lock()  # the thread that evaluates, and those of requests, save at the same time

    def load(self) -> None:
        backend = cloudwatch_backends[ACCOUNT][REGION]
        for saved in json.loads(self.file.read_bytes()) if self.file.exists() else ():
            made = backend.put_metric_alarm(
                **{key: saved[key] for key in _SAVED}, dimensions=saved["dimensions"], tags=saved["tags"]
            )
            for key in _STATE:
                setattr(made, key, saved[key])
            self._states[made.name] = made.state_value

    def save(self) -> None:
        """Save all alarms but composite ones and those on metric math."""
        with self._saving:
            self._save()

    def _save(self) -> None:
        backend = cloudwatch_backends[ACCOUNT][REGION]
        saved = []
        for alarm in list(backend.alarms.values()):
            if rule_of(alarm) is not None:
                dimensions = [{"Name": each.name, "Value": each.value} for each in alarm.dimensions]
                tags = as_list(backend.tagger.get_tag_dict_for_resource(alarm.alarm_arn))
                fields = {key: getattr(alarm, key) for key in (*_SAVED, *_STATE)}
                saved.append({**fields, "dimensions": dimensions, "tags": tags})
        write_json(self.file, saved)

    def evaluate(self) -> None:
        """Evaluate the alarms whose time it is."""
        backend = cloudwatch_backends[ACCOUNT][REGION]
        now, changed = self.clock.now(), False
        for name, alarm in list(backend.alarms.items()):
            seen = self._evaluated.get(name)
            if seen is None or seen[0] is not alarm:  # a new alarm has no data yet; a changed one keeps its state
                alarm.state_value = self._states.get(name, State.INSUFFICIENT_DATA)
            rule = rule_of(alarm)
            slot = int(now // rule.every_s) if rule else 0
            if seen is None or seen[0] is not alarm or seen[1] != slot:
                self._evaluated[name] = alarm, slot
                if rule is not None:
                    changed |= self._evaluate(alarm, rule, now)
            self._states[name] = alarm.state_value
        for name in self._states.keys() - backend.alarms.keys():
            self._states.pop(name)
            self._evaluated.pop(name, None)
        if changed:
            self.save()

    def _evaluate(self, alarm: MotoAlarm, rule: Alarm, now: float) -> bool:
        """Set an alarm's state. Return whether it has changed."""
        values = points_of(alarm, rule, now, self.clock)
        before = State(alarm.state_value)
        state = rule.state(values, before)
        if state is not before:
            known = [value for value in values if value is not None]
            reason = f"Threshold Crossed: {rule.points} of {rule.of} datapoints, the latest {known[-rule.of :]}"
            reason = reason if known else "Insufficient Data"
            alarm.update_state(
                reason, json.dumps({"recentDatapoints": known, "threshold": alarm.threshold}), str(state)
            )
            _tell(alarm, before)
        return state is not before


def _tell(alarm: MotoAlarm, before: State) -> None:
    """Send the new state to the SNS topics among the alarm's actions; those that are gone get nothing."""
    actions = {
        State.ALARM: alarm.alarm_actions,
        State.OK: alarm.ok_actions,
        State.INSUFFICIENT_DATA: alarm.insufficient_data_actions,
    }
    about = {
        "AlarmName": alarm.name,
        "OldStateValue": before,
        "NewStateValue": alarm.state_value,
        "NewStateReason": alarm.state_reason,
    }
    for arn in (actions[State(alarm.state_value)] or ()) if alarm.actions_enabled else ():
        if arn.startswith("arn:aws:sns:"):
            with suppress(SNSException):
                subject = f"{alarm.state_value}: {alarm.name}"
                sns_backends[ACCOUNT][REGION].publish(json.dumps(about), arn=arn, subject=subject[:100])


def points_of(alarm: MotoAlarm, rule: Alarm, now: float, clock: Clock) -> Sequence[float | None]:
    """Return the metric's values of the latest periods that are over, the oldest first; None where there is no data."""
    end = int(now // rule.period_s)
    found: Mapping[int, list[MetricDatumBase]] = {number: [] for number in range(end - rule.fetched, end)}
    dimensions = [(each.name, each.value) for each in alarm.dimensions]
    for datum in data_of(alarm.namespace, alarm.metric_name, dimensions):
        number = int(clock.at(seconds_of(datum)) // rule.period_s)
        if number in found:
            found[number].append(datum)
    kind = alarm.extended_statistic or alarm.statistic
    return [statistic(data, kind) if data else None for data in found.values()]


def statistic(data: Sequence[MetricDatumBase], kind: str) -> float:
    """Return a statistic of CloudWatch's over one period's data. kind: Sum, Average, ..., or p99 and the like."""
    sets = [each for each in data if isinstance(each, MetricAggregatedDatum)]
    values = [float(each.value) for each in data if not isinstance(each, MetricAggregatedDatum)]  # type: ignore[attr-defined]
    count = len(values) + sum(each.sample_count for each in sets)
    total = sum(values) + sum(each.sum for each in sets)
    if kind == "Average":
        return float(total / count)
    if kind in ("Sum", "SampleCount"):
        return float(total if kind == "Sum" else count)
    lowest = [*values, *(float(each.min) for each in sets)]
    highest = [*values, *(float(each.max) for each in sets)]
    if kind == "Minimum":
        return min(lowest)
    if kind == "Maximum":
        return max(highest)
    rank = float(kind.removeprefix("p")) / 100 * len(highest)
    return sorted(highest)[min(max(math.ceil(rank) - 1, 0), len(highest) - 1)]


def data_of(namespace: str, name: str, dimensions: Sequence[tuple[str | None, str | None]]) -> list[MetricDatumBase]:
    """Return the data of the metric with exactly these dimensions, which are names and values."""
    wanted = set(dimensions)
    return [
        datum
        for datum in list(cloudwatch_backends[ACCOUNT][REGION].metric_data)
        if (datum.namespace, datum.name) == (namespace, name)
        and {(each.name, each.value) for each in datum.dimensions} == wanted
    ]


def seconds_of(datum: MetricDatumBase) -> float:
    """Return a time stamp of moto's, which is UTC and may lack a time zone, as seconds since 1970."""
    moment: datetime = datum.timestamp
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()
