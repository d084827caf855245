"""Build the request of a tuning job, SageMaker's own search, and check what the service can express. Pure: no network.

Limits: https://docs.aws.amazon.com/sagemaker/latest/dg/automatic-model-tuning-limits.html
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from dogbreed.best_epoch import MONITORS
from dogbreed.progress import METRIC_PATTERNS
from launchers.aws import iam, sent, tags
from launchers.aws.sent import ML
from launchers.payload.code import ENTRY_FILE, TOOLKIT_FILE
from launchers.plan import Request
from launchers.sagemaker import request
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunSpec, SearchOutput, TunedParameter, Tuning

STRATEGIES = ("Bayesian", "Random", "Hyperband", "Grid")
OBJECTIVE = "objective"  # the metric that the tuner reads; launchers/remote/tuned.py prints it
MOST_NAME = 32  # characters of a tuning job's name
RUN_S = (120, 30 * 86400)  # the least and the most that a tuning job may be given
_PATTERNS = {**METRIC_PATTERNS, OBJECTIVE: r"objective ([-+.0-9e]+)"}
_MOST_PARAMETERS, _MOST_VALUES, _MOST_CHARACTERS = 30, 30, 256
_MOST_AT_ONCE, _MOST_PARENTS = 10, 5
_MOST_TRIALS = {"Random": 10_000}
_USUAL_TRIALS = 750


# --- the request ---


def requests(settings: JobSettings, spec: RunSpec) -> tuple[Request, ...]:
    """Return the calls that submit a search, in order: its objects, then the tuning job."""
    create = Request("sagemaker", "CreateHyperParameterTuningJob", tuning_job(settings, spec))
    return (*sent.requests(settings.layout, spec, settings.encryption), create)


def tuning_job(settings: JobSettings, spec: RunSpec) -> dict[str, Any]:
    """Return the request of a search that begins. One that goes on has fewer trials, and its own jobs as parents."""
    assert spec.tuning is not None
    body = {
        "HyperParameterTuningJobName": spec.run_id,
        "HyperParameterTuningJobConfig": _search(spec.tuning, spec),
        "TrainingJobDefinition": _trial(settings, spec),
        **warm_start(spec.tuning.parents),
    }
    plan = request.digest(body, spec)
    return {**body, "Tags": tags.to_aws({**tags.of_run(spec, settings.owner), tags.PLAN: plan})}


def warm_start(parents: tuple[str, ...]) -> dict[str, Any]:
    """Return how a job learns from the last jobs of those named.

    TransferLearning, because IdenticalDataAndAlgorithm refuses a parent whose code has another digest. A parent hands
    on its own trials only, not those of its parents.
    """
    if not parents:
        return {}
    named = [{"HyperParameterTuningJobName": name} for name in parents[-_MOST_PARENTS:]]
    return {"WarmStartConfig": {"ParentHyperParameterTuningJobs": named, "WarmStartType": "TransferLearning"}}


def seed_after(earlier: Sequence[int], seed: int) -> int:
    """Return the seed of a job. earlier: those of the earlier jobs of its search and of the jobs that it learns from.

    The seed of an earlier one again would draw its values again.
    """
    return zlib.crc32(" ".join(map(str, [seed, *earlier])).encode()) >> 1 if earlier else seed


def trials_of(spec: RunSpec) -> int:
    assert isinstance(spec.output, SearchOutput)
    return spec.output.trials


def _search(tuning: Tuning, spec: RunSpec) -> dict[str, Any]:
    ends = {
        **({} if tuning.target is None else {"TargetObjectiveMetricValue": float(tuning.target)}),
        **(
            {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": tuning.patience}}
            if tuning.patience is not None
            else {}
        ),
        **({"ConvergenceDetected": {"CompleteOnConvergence": "Enabled"}} if tuning.converges else {}),
    }
    epochs = {"MinResource": tuning.min_epochs, "MaxResource": int(spec.config["trainer"]["max_epochs"])}
    hyperband = {"StrategyConfig": {"HyperbandStrategyConfig": epochs}} if tuning.strategy == "Hyperband" else {}
    return {
        "Strategy": tuning.strategy,
        **hyperband,
        "HyperParameterTuningJobObjective": {
            "Type": "Maximize" if tuning.mode == "max" else "Minimize",
            "MetricName": OBJECTIVE,
        },
        "ResourceLimits": {
            "MaxNumberOfTrainingJobs": trials_of(spec),
            "MaxParallelTrainingJobs": tuning.parallel,
            **({} if tuning.max_run_s is None else {"MaxRuntimeInSeconds": tuning.max_run_s}),
        },
        "ParameterRanges": _ranges(tuning.parameters),
        "TrainingJobEarlyStoppingType": "Auto" if tuning.early_stopping else "Off",
        **({"TuningJobCompletionCriteria": ends} if ends else {}),
        "RandomSeed": tuning.seed,
    }


def _ranges(parameters: tuple[TunedParameter, ...]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {
        "IntegerParameterRanges": [], "ContinuousParameterRanges": [], "CategoricalParameterRanges": []
    }  # fmt: skip
    for each in parameters:
        if each.texts:
            found["CategoricalParameterRanges"].append({"Name": each.key, "Values": list(each.texts)})
            continue
        low, high = (repr(int(end) if each.whole else float(end)) for end in (each.low, each.high))
        scale = "Logarithmic" if each.log else "Linear"
        kind = "IntegerParameterRanges" if each.whole else "ContinuousParameterRanges"
        found[kind].append({"Name": each.key, "MinValue": low, "MaxValue": high, "ScalingType": scale})
    return {kind: ranges for kind, ranges in found.items() if ranges}


def _trial(settings: JobSettings, spec: RunSpec) -> dict[str, Any]:
    """Return what all training jobs of the search share. It has no entry point: the image's toolkit starts the trial,
    from a file that is an input, so that it needs no network for that.
    """
    assert settings.role is not None
    location = settings.layout.run(spec.run_id)
    return {
        "StaticHyperParameters": {
            "sagemaker_program": ENTRY_FILE,
            "sagemaker_submit_directory": f"{ML}/input/data/code/{TOOLKIT_FILE}",
        },
        "AlgorithmSpecification": {
            "TrainingImage": settings.image_uri(spec.created_at),
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in _PATTERNS.items()],
        },
        "RoleArn": iam.arn_in_plan(settings.role),
        "InputDataConfig": request.channels(settings, spec),
        **request.network(settings),
        "OutputDataConfig": request.output(settings, location),
        "HyperParameterTuningResourceConfig": request.resources(settings),
        "StoppingCondition": request.limits(settings),
        "EnableNetworkIsolation": settings.network_isolation,
        "EnableInterContainerTrafficEncryption": settings.instances > 1,
        "EnableManagedSpotTraining": settings.spot,
        "CheckpointConfig": {"S3Uri": location.checkpoints_uri, "LocalPath": f"{ML}/checkpoints"},
        "RetryStrategy": {"MaximumRetryAttempts": request.RETRIES},
        "Environment": request.environment(settings, spec),
    }


# --- what the service cannot do ---


def findings(tuning: Tuning, trials: int, max_epochs: Any) -> Iterator[str]:
    """Yield what is wrong with a search, besides its trials. trials: how many. max_epochs: of a trial."""
    if tuning.strategy not in STRATEGIES:
        yield f"hpo.strategy={tuning.strategy} is unknown.\nTry: one of {', '.join(STRATEGIES)}"
    if tuning.monitor not in MONITORS:
        yield (
            f"The objective monitor={tuning.monitor} is never logged after an epoch.\nTry: one of {', '.join(MONITORS)}"
        )
    yield from _parameter_findings(tuning)
    yield from _number_findings(tuning, trials)
    yield from _strategy_findings(tuning, max_epochs)


def _parameter_findings(tuning: Tuning) -> Iterator[str]:
    if len(tuning.parameters) > _MOST_PARAMETERS:
        yield (
            f"SageMaker's tuner searches at most {_MOST_PARAMETERS} parameters, got {len(tuning.parameters)}.\n"
            "Try: fewer, or hpo=optuna"
        )
    for each in tuning.parameters:
        if len(each.texts) > _MOST_VALUES:
            yield (
                f"SageMaker's tuner takes at most {_MOST_VALUES} values of a choice, got {len(each.texts)} of "
                f"{each.key}.\nTry: fewer values, a range, or hpo=optuna"
            )
        if too_long := next((text for text in (each.key, *each.texts) if len(text) > _MOST_CHARACTERS), None):
            yield (
                f"SageMaker's tuner takes at most {_MOST_CHARACTERS} characters, but {each.key} has {len(too_long)}: "
                f"{too_long[:40]}...\nTry: a config of its own for each value, or hpo=optuna"
            )
        if each.step is not None:
            yield _step_finding(each)


def _step_finding(each: TunedParameter) -> str:
    assert each.step is not None
    number = repr(int(each.step)) if each.whole else f"{each.step:g}"
    found = f"SageMaker's tuner knows no step, but {each.key} has a range in steps of {number}.\n"
    count = math.floor((each.high - each.low) / each.step + 1e-9) + 1
    if count <= _MOST_VALUES:
        values = [each.low + n * each.step for n in range(count)]
        listed = ",".join(repr(int(value)) if each.whole else f"{value:.10g}" for value in values)
        return f"{found}Try: '{each.key}=choice({listed})'"
    ends = f"interval({each.low:g},{each.high:g})"
    return f"{found}Try: '{each.key}={f'int({ends})' if each.whole else ends}', or hpo=optuna"


def _number_findings(tuning: Tuning, trials: int) -> Iterator[str]:
    most = _MOST_TRIALS.get(tuning.strategy, _USUAL_TRIALS)
    if trials > most:
        random = f", hpo.strategy=Random, which takes {_MOST_TRIALS['Random']:,}" if most == _USUAL_TRIALS else ""
        instead = f"hpo.n_trials={most}{random}, or hpo=optuna"
        values = "The search is to have"
        if tuning.strategy == "Grid":  # which has as many trials as combinations
            instead, values = f"fewer values, or hpo=optuna hpo/sampler=grid hpo.n_trials={trials}", "The grid has"
        yield (
            f"{values} {trials:,} trials, but {tuning.strategy} takes at most {most:,} in SageMaker's tuner.\n"
            f"Try: {instead}"
        )
    if tuning.parallel > _MOST_AT_ONCE:
        yield (
            f"SageMaker's tuner runs at most {_MOST_AT_ONCE} trials at once, got hpo.parallel={tuning.parallel}.\n"
            f"Try: hpo.parallel={_MOST_AT_ONCE}, or hpo=optuna hpo.one_job=false"
        )
    if tuning.max_run_s is not None and not RUN_S[0] <= tuning.max_run_s <= RUN_S[1]:
        yield (
            f"hpo.max_run_s must be from {RUN_S[0]} to {RUN_S[1]} seconds, got {tuning.max_run_s}.\n"
            "Try: hpo.max_run_s=14400, or null for no limit"
        )
    if tuning.patience is not None and tuning.patience < 3:
        yield f"hpo.patience must be at least 3, got {tuning.patience}.\nTry: hpo.patience=10, or null"
    if len(tuning.parents) > _MOST_PARENTS:
        yield (
            f"A search learns from at most {_MOST_PARENTS} earlier ones, got {len(tuning.parents)} in hpo.warm_start.\n"
            "Try: the latest of them"
        )


def _strategy_findings(tuning: Tuning, max_epochs: Any) -> Iterator[str]:
    if tuning.strategy == "Grid" and (numbers := [each.key for each in tuning.parameters if not each.texts]):
        yield (
            f"hpo.strategy=Grid takes choices alone, but {', '.join(numbers)} "
            f"{'are ranges' if len(numbers) > 1 else 'is a range'} of numbers.\n"
            f"Try: '{numbers[0]}=choice(...)', or hpo.strategy=Bayesian"
        )
    if tuning.strategy == "Hyperband":
        if tuning.early_stopping:
            yield "hpo.strategy=Hyperband stops trials by its own rule alone.\nTry: hpo.early_stopping=false"
        if isinstance(max_epochs, int) and not 1 <= tuning.min_epochs < max_epochs:
            yield (
                f"hpo.min_epochs must be at least 1 and less than trainer.max_epochs={max_epochs}, got "
                f"{tuning.min_epochs}.\nTry: hpo.min_epochs=1"
            )
