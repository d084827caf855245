"""Check a CreateHyperParameterTuningJob request against rules of SageMaker's that are not in its model."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Refused, invalid
from launchers.rehearsal.services import training_checks
from launchers.rehearsal.services.training_record import FINISHED, JobRecord
from launchers.rehearsal.services.tuning_record import TuningRecord

_RUNS = ("Bayesian", "Random")  # here
_MOST_PARAMETERS, _MOST_AT_ONCE, _MOST_JOBS = 30, 10, 100
_MOST_TRIALS = {"Random": 10_000}
_KINDS = ("IntegerParameterRanges", "ContinuousParameterRanges", "CategoricalParameterRanges")
_OTHERWISE = frozenset({"StaticHyperParameters", "RoleArn", "HyperParameterTuningResourceConfig", "OutputDataConfig"})


def check(
    record: TuningRecord,
    trial: JobRecord,
    find: Callable[[str], TuningRecord | None],
    running: int,
    jobs: Iterable[JobRecord],
    quotas: Mapping[str, int],
    store: ObjectStore,
) -> None:
    """Raise Refused if SageMaker would not accept the tuning job.

    trial: a training job as it will start them. find: another tuning job by name. running: how many run. jobs: all
    training jobs. quotas: instances at once, by type.
    """
    config, definition = record.config, record.request["TrainingJobDefinition"]
    limits, strategy = config["ResourceLimits"], config["Strategy"]
    trials, at_once = limits.get("MaxNumberOfTrainingJobs"), limits["MaxParallelTrainingJobs"]
    if "HyperParameterTuningResourceConfig" not in definition and "ResourceConfig" not in definition:
        raise invalid("TrainingJobDefinition must have a HyperParameterTuningResourceConfig or a ResourceConfig")
    _check_ranges(config, definition.get("StaticHyperParameters", {}))
    names = {each["Name"] for each in definition["AlgorithmSpecification"].get("MetricDefinitions", [])}
    if record.metric not in names:
        raise invalid(f"The objective metric {record.metric} is not one of the metric definitions")
    if trials is None:
        raise invalid("MaxNumberOfTrainingJobs is required for this strategy")
    if trials > (most := _MOST_TRIALS.get(strategy, 750)):
        raise _limit("Maximum number of training jobs per hyperparameter tuning job", most, 0, trials)
    if at_once > _MOST_AT_ONCE:
        raise _limit(
            "Maximum number of parallel training jobs per hyperparameter tuning job", _MOST_AT_ONCE, 0, at_once
        )
    if running >= _MOST_JOBS:
        raise _limit("Number of concurrent hyperparameter tuning jobs", _MOST_JOBS, running, 1)
    _check_strategy(config, trials)
    training_checks.check(trial, (), {}, store)
    _check_quota(trial, at_once, jobs, quotas)
    if "WarmStartConfig" in record.request:
        _check_parents(record, find)


def ranges(config: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the parameters by name: the kind of their range, and the range."""
    found = config.get("ParameterRanges", {})
    return {each["Name"]: (kind, each) for kind in _KINDS for each in found.get(kind, [])}


def _check_ranges(config: Mapping[str, Any], static: Mapping[str, str]) -> None:
    found = [each for kind in _KINDS for each in config.get("ParameterRanges", {}).get(kind, [])]
    names = [each["Name"] for each in found]
    if not found:
        raise invalid("At least one hyperparameter must have a range")
    if len(found) > _MOST_PARAMETERS:
        raise _limit("Maximum number of hyperparameters that can be searched", _MOST_PARAMETERS, 0, len(found))
    if len(set(names)) < len(names) or set(names) & static.keys():
        raise invalid(f"Hyperparameters must be named once, static or with a range, got {', '.join(sorted(names))}")
    for name, (kind, each) in ranges(config).items():
        if kind == "CategoricalParameterRanges":
            continue
        number = int if kind == "IntegerParameterRanges" else float
        try:
            low, high = number(each["MinValue"]), number(each["MaxValue"])
        except ValueError:
            raise invalid(f"The range of {name} must have numbers as its ends") from None
        if not low < high:
            raise invalid(f"MinValue of {name} must be less than MaxValue, got {low} and {high}")
        if each.get("ScalingType") == "Logarithmic" and low <= 0:
            raise invalid(f"Logarithmic scaling needs a MinValue above 0, got {low} for {name}")


def _check_strategy(config: Mapping[str, Any], trials: int) -> None:
    strategy, found = config["Strategy"], ranges(config)
    early = config.get("TrainingJobEarlyStoppingType", "Off")
    if strategy == "Grid":
        if any(kind != "CategoricalParameterRanges" for kind, _ in found.values()):
            raise invalid("Grid search supports categorical parameters only")
        if trials != (product := math.prod(len(each["Values"]) for _, each in found.values())):
            raise invalid(f"MaxNumberOfTrainingJobs must be {product}, the number of combinations, got {trials}")
    if strategy == "Hyperband":
        if early != "Off":
            raise invalid("TrainingJobEarlyStoppingType must be Off for Hyperband")
        if "MaxResource" not in config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {}):
            raise invalid("HyperbandStrategyConfig needs MaxResource")
    if strategy not in _RUNS:
        raise invalid(f"The rehearsal cloud runs {' and '.join(_RUNS)}, got {strategy}")


def _check_quota(trial: JobRecord, at_once: int, jobs: Iterable[JobRecord], quotas: Mapping[str, int]) -> None:
    kind, count = (trial.request["ResourceConfig"][name] for name in ("InstanceType", "InstanceCount"))
    if kind not in quotas:
        return
    others = (job.request["ResourceConfig"] for job in jobs if job.status not in FINISHED)
    used = sum(each["InstanceCount"] for each in others if each["InstanceType"] == kind)
    if used + at_once * count > quotas[kind]:
        name = f"{kind} for {'spot ' if trial.spot else ''}training job usage"
        raise _limit(name, quotas[kind], used, at_once * count, "Instances")


def _check_parents(record: TuningRecord, find: Callable[[str], TuningRecord | None]) -> None:
    warm = record.request["WarmStartConfig"]
    for each in warm["ParentHyperParameterTuningJobs"]:
        name = each["HyperParameterTuningJobName"]
        parent = find(name)
        if parent is None:
            raise invalid(f"The parent tuning job {name} does not exist")
        if not parent.finished:
            raise invalid(f"The parent tuning job {name} is in status {parent.status}")
        if (parent.metric, parent.maximizes) != (record.metric, record.maximizes):
            raise invalid(f"The objective of the parent tuning job {name} is another one")
        if _searched(parent) != _searched(record):
            raise invalid(f"The parent tuning job {name} has other hyperparameters")
        if warm["WarmStartType"] == "IdenticalDataAndAlgorithm":
            before, now = (_definition(each) for each in (parent, record))
            if differing := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
                raise invalid(f"TrainingJobDefinition differs from that of {name}: {', '.join(differing)}")


def _searched(record: TuningRecord) -> dict[str, bool]:
    """Return the names of all hyperparameters, and whether each is a choice."""
    static = record.request["TrainingJobDefinition"].get("StaticHyperParameters", {})
    found = {name: kind == "CategoricalParameterRanges" for name, (kind, _) in ranges(record.config).items()}
    return {**dict.fromkeys(static, False), **found}


def _definition(record: TuningRecord) -> dict[str, Any]:
    return {key: value for key, value in record.request["TrainingJobDefinition"].items() if key not in _OTHERWISE}


def _limit(name: str, limit: int, used: int, wanted: int, unit: str = "Jobs") -> Refused:
    return Refused(
        "ResourceLimitExceeded",
        f"The account-level service limit '{name}' is {limit} {unit}, with current utilization of {used} {unit} and a "
        f"request delta of {wanted} {unit}. Please use AWS Service Quotas to request an increase for this quota.",
    )
