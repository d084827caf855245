"""One tuning job being run: values are chosen with Optuna, and training jobs really run with them."""

import statistics
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from launchers.rehearsal.service import Call, Refused
from launchers.rehearsal.services.training import TrainingJobs
from launchers.rehearsal.services.training_record import FINISHED, JobRecord, now
from launchers.rehearsal.services.tuning_checks import ranges
from launchers.rehearsal.services.tuning_record import TuningRecord

if TYPE_CHECKING:
    import optuna

_POLL_S = 0.1
_FEWEST = 3  # completed trials before others are compared with them
_ALL_FAILED = 5  # trials, after which the job fails if none has an objective

Prior = tuple[Mapping[str, str], float]  # values and objective of a trial of a parent


def training_request(record: TuningRecord, name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the request of one training job of a tuning job."""
    definition = dict(record.request["TrainingJobDefinition"])
    static = definition.pop("StaticHyperParameters", {})
    resources = definition.pop("HyperParameterTuningResourceConfig", None) or definition.pop("ResourceConfig")
    definition.pop("DefinitionName", None)
    return {
        **definition,
        "TrainingJobName": name,
        "HyperParameters": {**static, **values, "_tuning_objective_metric": record.metric},
        "ResourceConfig": resources,
        "Tags": record.request.get("Tags", []),
    }


class TuningRun(threading.Thread):
    """Runs one tuning job, until it has had its trials or is stopped. call: the one that created it.

    prior: trials of parents, to learn from.
    """

    def __init__(self, record: TuningRecord, jobs: TrainingJobs, call: Call, prior: Sequence[Prior]) -> None:
        super().__init__(daemon=True, name=record.name)
        self.record, self.jobs, self.call, self.prior = record, jobs, call, prior
        self._stop_asked, self._abandoned = threading.Event(), threading.Event()
        self._told: set[str] = set()  # names of trials whose outcome the chooser knows

    def stop(self) -> None:
        """StopHyperParameterTuningJob: the training jobs that run are stopped as well."""
        self._stop_asked.set()

    def abandon(self) -> None:
        self._abandoned.set()

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            traceback.print_exc()
            self._stop_trials()
            self.record.to("Failed", f"InternalServerError: {error!r}")

    def _run(self) -> None:
        chooser = _Chooser(self.record, self.prior)
        while not self._abandoned.wait(_POLL_S):
            trials = self.trials()
            for trial in trials:
                if trial.status in FINISHED and trial.name not in self._told:
                    chooser.tell(trial.name, self.record.objective_of(trial))
                    self._told.add(trial.name)
            running = [trial for trial in trials if trial.status not in FINISHED]
            ending = self._ending(trials)
            if ending is not None:
                self._stop_trials()
                if not running:
                    self.record.to(*ending)
                    return
                continue
            self._stop_those_behind(trials, running)
            self._fill(chooser, trials, running)

    def trials(self) -> list[JobRecord]:
        """Return its training jobs, in the order in which they were created."""
        found = (self.jobs.record(name) for name in self.record.chosen)
        return [job for job in found if job is not None]

    def _ending(self, trials: Sequence[JobRecord]) -> tuple[str, str | None] | None:
        """Return the final status and why the job has failed; None while it goes on."""
        record, config = self.record, self.record.config
        if self._stop_asked.is_set():
            return "Stopped", None
        limits, criteria = config["ResourceLimits"], config.get("TuningJobCompletionCriteria", {})
        ended = [trial for trial in trials if trial.status in FINISHED]
        values = [record.objective_of(trial) for trial in ended if trial.status == "Completed"]
        known = [value for value in values if value is not None]
        if len(ended) >= _ALL_FAILED and not known:
            if any(trial.status == "Completed" for trial in ended):
                return "Failed", (
                    f"No objective metrics found after running {len(ended)} training jobs. Please ensure that the "
                    "custom algorithm is emitting the objective metric as defined by the regular expression provided."
                )
            return "Failed", (
                f"No training job succeeded after {len(ended)} attempts. Please take a look at the training job "
                "failures to get more details."
            )
        if len(ended) >= limits["MaxNumberOfTrainingJobs"]:
            return ("Completed", None) if known else ("Failed", "No training job succeeded.")
        if now() - record.created > limits.get("MaxRuntimeInSeconds", float("inf")):
            return "Completed", None
        target = criteria.get("TargetObjectiveMetricValue")
        if target is not None and any(value >= target if record.maximizes else value <= target for value in known):
            return "Completed", None
        most = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        if most is not None and known:
            best = known.index(max(known) if record.maximizes else min(known))
            if len(known) - 1 - best >= most:
                return "Completed", None
        return None

    def _fill(self, chooser: "_Chooser", trials: Sequence[JobRecord], running: Sequence[JobRecord]) -> None:
        limits = self.record.config["ResourceLimits"]
        if len(running) >= limits["MaxParallelTrainingJobs"] or len(trials) >= limits["MaxNumberOfTrainingJobs"]:
            return
        name = f"{self.record.name}-{len(trials) + 1:03d}-{uuid.uuid4().hex[:8]}"
        values = chooser.ask(name)
        request = training_request(self.record, name, values)
        while not (self._abandoned.is_set() or self._stop_asked.is_set()):
            before = self.record.chosen  # never changed in its place: threads of requests look at it
            self.record.chosen = {**before, name: values}
            try:
                self.jobs.create(Call(request, self.call.faults, self.call.session, self.call.caller))
                self.record.save()
                return
            except Refused as refused:
                self.record.chosen = before
                if refused.code != "ResourceLimitExceeded":
                    raise
                time.sleep(_POLL_S)  # others fill the quota

    def _stop_those_behind(self, trials: Sequence[JobRecord], running: Sequence[JobRecord]) -> None:
        """Stop trials whose objective is worse than the median of the others' running averages at the same epoch.

        https://docs.aws.amazon.com/sagemaker/latest/dg/automatic-model-tuning-early-stopping.html
        """
        if self.record.config.get("TrainingJobEarlyStoppingType", "Off") != "Auto":
            return
        histories = [self.jobs.seen(trial.name, self.record.metric) for trial in trials if trial.status == "Completed"]
        for trial in running:
            own = self.jobs.seen(trial.name, self.record.metric)
            others = [statistics.mean(each[: len(own)]) for each in histories if len(each) >= len(own) > 0]
            if len(others) < _FEWEST:
                continue
            median = statistics.median(others)
            if own[-1] < median if self.record.maximizes else own[-1] > median:
                self._end_trial(trial)

    def _stop_trials(self) -> None:
        for trial in self.trials():
            self._end_trial(trial)

    def _end_trial(self, trial: JobRecord) -> None:
        with suppress(Refused):  # it has ended
            self.jobs.stop(Call({"TrainingJobName": trial.name}, self.call.faults, self.call.session))


class _Chooser:
    """Chooses the values of the next trial, as the strategy says. prior: earlier trials that it knows."""

    def __init__(self, record: TuningRecord, prior: Sequence[Prior]) -> None:
        import optuna
        from optuna.trial import create_trial

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        config = record.config
        seed = config.get("RandomSeed", 0)
        sampler: optuna.samplers.BaseSampler = (
            optuna.samplers.RandomSampler(seed)
            if config["Strategy"] == "Random"
            else optuna.samplers.TPESampler(seed=seed)
        )
        self._study = optuna.create_study(direction="maximize" if record.maximizes else "minimize", sampler=sampler)
        self._ranges = ranges(config)
        self._distributions = {name: _distribution(kind, each) for name, (kind, each) in self._ranges.items()}
        self._asked: dict[str, optuna.Trial] = {}
        for values, objective in prior:
            parsed = {name: _parsed(kind, values[name]) for name, (kind, _) in self._ranges.items()}
            if all(self._distributions[name]._contains(self._internal(name, each)) for name, each in parsed.items()):
                made = create_trial(value=objective, params=parsed, distributions=self._distributions)
                self._study.add_trial(made)

    def _internal(self, name: str, value: Any) -> float:
        try:
            return self._distributions[name].to_internal_repr(value)
        except ValueError:  # no value of the choice any more
            return -1.0

    def ask(self, name: str) -> dict[str, str]:
        self._asked[name] = asked = self._study.ask(self._distributions)
        return {
            key: str(value) if self._ranges[key][0] == "CategoricalParameterRanges" else repr(value)
            for key, value in asked.params.items()
        }

    def tell(self, name: str, objective: float | None) -> None:
        from optuna.trial import TrialState

        asked = self._asked.pop(name, None)
        if asked is not None:
            state = TrialState.FAIL if objective is None else TrialState.COMPLETE
            self._study.tell(asked, objective, state)


def _distribution(kind: str, each: Mapping[str, Any]) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    log = each.get("ScalingType") == "Logarithmic"
    if kind == "CategoricalParameterRanges":
        return CategoricalDistribution(each["Values"])
    if kind == "IntegerParameterRanges":
        return IntDistribution(int(each["MinValue"]), int(each["MaxValue"]), log=log)
    return FloatDistribution(float(each["MinValue"]), float(each["MaxValue"]), log=log)


def _parsed(kind: str, text: str) -> Any:
    parse: Callable[[str], Any] = {"IntegerParameterRanges": int, "ContinuousParameterRanges": float}.get(kind, str)
    return parse(text)
