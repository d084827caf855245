"""Read scaling policies and alarms as AWS's interfaces describe them, and as they are put there."""

import math
from collections.abc import Mapping
from typing import Any

from launchers.aws.alarms import Alarm, Missing
from launchers.aws.scaling import Metric, Step, TargetTracking

PREDEFINED: Mapping[str, tuple[Metric, int]] = {  # of a variant of an endpoint -> what it measures, and its period
    "SageMakerVariantInvocationsPerInstance": ("invocations", 60),
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": ("concurrency", 10),
}
OPERATORS: Mapping[str, tuple[bool, bool]] = {  # whether values above breach, and equal ones as well
    "GreaterThanThreshold": (True, False),
    "GreaterThanOrEqualToThreshold": (True, True),
    "LessThanThreshold": (False, False),
    "LessThanOrEqualToThreshold": (False, True),
}
DEFAULT_WAIT_S = 300.0  # cool-down of a variant's policies


def alarm(about: Mapping[str, Any]) -> Alarm:
    """Return the rule of an alarm. about: as DescribeAlarms shows it, or PutMetricAlarm takes it.

    Raises KeyError for composite alarms, and those on metric math or anomaly detection.
    """
    above, equal = OPERATORS[about["ComparisonOperator"]]
    threshold, of = float(about["Threshold"]), int(about["EvaluationPeriods"])
    if equal:  # the rules know no equality: the next number is the threshold
        threshold = math.nextafter(threshold, -math.inf if above else math.inf)
    points = int(about.get("DatapointsToAlarm") or of)
    missing: Missing = about.get("TreatMissingData") or "missing"
    return Alarm(threshold, above, int(about["Period"]), points, of, missing)


def tracking(config: Mapping[str, Any]) -> TargetTracking:
    """Return the rule of a TargetTrackingScalingPolicyConfiguration."""
    kind = (config.get("PredefinedMetricSpecification") or {}).get("PredefinedMetricType", "")
    _, period_s = PREDEFINED.get(kind, ("", 60))  # a metric of one's own has periods of a minute
    out_s, in_s = (float(config.get(key, DEFAULT_WAIT_S)) for key in ("ScaleOutCooldown", "ScaleInCooldown"))
    return TargetTracking(float(config["TargetValue"]), period_s, out_s, in_s, not config.get("DisableScaleIn"))


def steps(config: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the steps of a StepScalingPolicyConfiguration that changes capacity by numbers of instances."""
    return tuple(
        Step(
            int(each["ScalingAdjustment"]),
            float(each.get("MetricIntervalLowerBound", -math.inf)),
            float(each.get("MetricIntervalUpperBound", math.inf)),
        )
        for each in config["StepAdjustments"]
    )


def cooldown_s(config: Mapping[str, Any]) -> float:
    """Return the seconds that a policy in steps waits after a change."""
    return float(config.get("Cooldown", DEFAULT_WAIT_S))
