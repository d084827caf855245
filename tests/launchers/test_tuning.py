"""Searches by SageMaker's tuner: what is sent, what is refused, and what its answers mean. No cloud.

`DOGBREED_RECORD=1 python -m pytest tests/launchers/test_tuning.py` records the plans anew; look at the difference
before committing it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dogbreed.errors import ConfigError
from dogbreed.progress import METRIC_PATTERNS
from launchers.api import prepare
from launchers.aws import sent
from launchers.aws.actions import needs
from launchers.plan import Plan
from launchers.rehearsal.access import HERE
from launchers.rehearsal.validation import findings
from launchers.remote import tuned
from launchers.sagemaker import tuning, tuning_limits
from launchers.sagemaker.tuning_job import TunedTrial, TuningJob, best_of, counted, status_of
from launchers.spec import RunSpec, TunedParameter, Tuning
from launchers.status import Cause, LaunchError, Phase, Status
from launchers.sweep.imported import shown_trial, space_of
from launchers.sweep.space import read
from launchers.sweep.tuner import _other_space, _parameter
from tests.support.configs import CONF
from tests.support.plans import REAL
from tests.support.tuned import CHOICES, SPOT, STRATEGIES, asked, asked_of_optuna, planned

RECORD = "DOGBREED_RECORD=1 python -m pytest tests/launchers/test_tuning.py"
PLANS = Path(__file__).parent / "plans"
ROLE = "arn:aws:iam::123456789012:role/service-role/MyRole"


# --- the plan ---


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_plan_equals_the_recorded_one_and_sagemaker_accepts_the_request(name: str) -> None:
    plan, file = planned(STRATEGIES[name]), PLANS / f"tuner_{name}.txt"
    if os.environ.get("DOGBREED_RECORD"):
        file.write_text(f"{plan}\n")
    assert f"{plan}\n" == file.read_text(), f"To accept this change: {RECORD}"
    request = dict(plan.requests[-1].parameters)
    request["TrainingJobDefinition"] = {**request["TrainingJobDefinition"], "RoleArn": ROLE}
    model = botocore.session.get_session().get_service_model("sagemaker")
    assert not list(findings(model.operation_model("CreateHyperParameterTuningJob").input_shape, request))
    definition = request["TrainingJobDefinition"]
    assert definition["EnableManagedSpotTraining"] is True
    assert "ContainerEntrypoint" not in definition["AlgorithmSpecification"]
    assert len(definition["AlgorithmSpecification"]["MetricDefinitions"]) <= 20
    assert not {"secret", "access_key"} & set(json.dumps(request).lower().split('"'))
    assert {tag["Key"] for tag in request["Tags"]} >= {"dogbreed:run-id", "dogbreed:expires-at", "dogbreed:plan"}


def test_a_plan_lists_the_actions_that_its_calls_need() -> None:
    plan = planned(STRATEGIES["bayesian"])
    wanted = {
        need.action
        for request in plan.requests
        for need in needs(request.service, request.operation, request.parameters, HERE)
    }
    assert wanted <= set(plan.actions)
    assert "sagemaker:CreateHyperParameterTuningJob" in wanted


def test_a_search_of_heads_is_told_what_the_search_in_one_job_costs() -> None:
    rows = dict(planned(STRATEGIES["random"]).rows)
    about = r"hpo=optuna searches them in one job: about \d+ min and \$0\.\d+ to \$0\.\d+ for 20 trials"
    assert re.search(about, rows["instead"])
    assert "instead" not in dict(planned(STRATEGIES["bayesian"]).rows)


def usd(plan: Plan) -> float:
    """Of the worst case."""
    found = re.search(r"\$([\d.]+) at worst", dict(plan.rows)["cost"])
    assert found
    return float(found[1])


def test_the_worst_cost_is_that_of_all_trials_or_of_the_limit_of_the_search() -> None:
    hours, ending = 14400 / 3600, 180 / 3600
    assert usd(planned(STRATEGIES["bayesian"])) == pytest.approx(20 * (hours + ending) * 0.115, abs=0.01)
    shorter = planned([*STRATEGIES["bayesian"], "hpo.max_run_s=7200"])
    assert usd(shorter) == pytest.approx(4 * (2 + ending) * 0.115, abs=0.01)


@pytest.mark.parametrize("most", [0.06, 1.0, 7.5])
def test_a_limit_of_dollars_is_held_by_the_time_of_the_tuning_job(most: float) -> None:
    plan = planned([*STRATEGIES["bayesian"], f"limits.max_usd={most}"])
    resources = plan.requests[-1].parameters["HyperParameterTuningJobConfig"]["ResourceLimits"]
    assert usd(plan) <= most
    assert 4 * (resources["MaxRuntimeInSeconds"] + 180) / 3600 * 0.115 <= most
    assert f"limits.max_usd={most:g}" in dict(plan.rows)["time"]
    assert plan.spec.tuning is not None
    assert not [text for text in plan.spec.tuning.overrides if text.startswith("limits")]
    spent = tuning_limits.less_spent(plan.requests[-1].parameters, resources, plan.spec.config, most / 4)
    assert 4 * (spent["MaxRuntimeInSeconds"] + 180) / 3600 * 0.115 <= most * 3 / 4


def test_what_is_left_of_a_limit_must_buy_something() -> None:
    plan = planned([*STRATEGIES["bayesian"], "limits.max_usd=1"])
    resources = plan.requests[-1].parameters["HyperParameterTuningJobConfig"]["ResourceLimits"]
    with pytest.raises(LaunchError, match=r"4 trials at once on ml\.m5\.large\. Earlier jobs of the run have cost"):
        tuning_limits.less_spent(plan.requests[-1].parameters, resources, plan.spec.config, 0.99)


def test_the_default_space_is_that_of_optuna() -> None:
    nodes: list[Any] = [OmegaConf.load(CONF / "hpo" / f"{name}.yaml") for name in ("optuna", "sagemaker_tuner")]
    assert nodes[0].hpo.space == nodes[1].hpo.space


@pytest.mark.parametrize("study", ["a", "x" * 41, "a-b-" * 10 + "c"])
def test_the_names_of_jobs_fit_whatever_the_study_is_called(study: str) -> None:
    run_id = asked(*STRATEGIES["grid"], f"hpo.study={study}").plan.spec.run_id
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,31}", f"{run_id}--99")
    assert len(f"{run_id}--99-001-0123abcd") <= 63


def test_a_spec_survives_as_json() -> None:
    spec = planned(STRATEGIES["random"]).spec
    assert RunSpec.from_json(spec.to_json()) == spec


MANY = [f"+x{n}=interval(0,1)" for n in range(31)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["data.batch_size=range(16,65,16)"], "knows no step.*\nTry: 'data.batch_size=choice\\(16,32,48,64\\)'"),
        (["seed=range(0,100,3)"], "knows no step.*\nTry: 'seed=int\\(interval\\(0,99\\)\\)', or hpo=optuna"),
        ([f"seed=choice({','.join(map(str, range(31)))})"], "at most 30 values of a choice, got 31 of seed"),
        ([f"model.optimizer=choice(sgd,{'x' * 300})"], "at most 256 characters, but model.optimizer has 300"),
        (["hpo.n_trials=751"], "Bayesian takes at most 750.*\nTry: hpo.n_trials=750, hpo.strategy=Random"),
        (["hpo.strategy=Random", "hpo.n_trials=10001"], "Random takes at most 10,000"),
        (["hpo.parallel=11", "hpo.n_trials=20"], "at most 10 trials at once, got hpo.parallel=11"),
        (["hpo.strategy=Grid"], "Grid takes choices alone, but model.lr, model.weight_decay, .* are ranges"),
        (["hpo.strategy=grid"], "hpo.strategy=grid is unknown.\nTry: one of Bayesian"),
        (["hpo.strategy=Hyperband"], "Try: hpo.early_stopping=false"),
        (["hpo.strategy=Hyperband", "hpo.early_stopping=false", "hpo.min_epochs=99"], "less than trainer.max_epochs"),
        (["monitor=test/acc"], "monitor=test/acc is never logged after an epoch.\nTry: one of val/acc"),
        (["limits.max_usd=0.01"], "limits.max_usd=0.01 is not enough for 2 trials at once on ml.m5.large"),
        (["launcher.keep_alive_s=60", "launcher=sagemaker_gpu"], "Tuning jobs keep no machines"),
        (["hpo.max_run_s=60"], "hpo.max_run_s must be from 120 to 2592000"),
        (["hpo.patience=2"], "hpo.patience must be at least 3"),
        (["launcher=local"], "the launcher is another one.\nTry: launcher=sagemaker_spot"),
        (["launcher.max_wait_s=null"], "launcher.max_wait_s=null must be at least launcher.max_run_s"),
        (["hpo.n_trials=0"], "hpo.n_trials must be a whole number"),
        (["hpo.target=high"], "hpo.target must be a number, got high"),
        (["+hpo.sampler=x"], "hpo.sampler is a setting of hpo=optuna"),
        (["hpo.warm_start=[nowhere]"], "hpo.warm_start=nowhere: There is no run folder nowhere"),
        (["hpo.warm_start=nowhere"], "must be a list of folders or handles"),
        (["resume=runs/x"], "resume= is for runs"),
        (["hpo.study=a b"], "not a valid study name"),
    ],
)
def test_what_the_service_cannot_do_is_said_in_the_plan(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = [word for word in SPOT if not ("launcher=local" in words and word.startswith("launcher"))]
    with pytest.raises(ConfigError) as caught:
        asked(*usual, "experiment=finetune", *words)
    assert re.search(text, str(caught.value), re.S), caught.value
    assert "Try: " in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_all_findings_are_said_at_once_those_of_the_trials_as_well() -> None:
    with pytest.raises(ConfigError) as caught:
        asked(*SPOT, "experiment=finetune", "hpo.n_trials=800", "hpo.parallel=20", "launcher.max_run_s=0")
    for text in ("at most 750", "hpo.parallel=20", "launcher.max_run_s must be"):
        assert text in str(caught.value)


def test_more_than_30_parameters_are_refused() -> None:
    parameters = tuple(TunedParameter(f"x{n}", 0, 1) for n in range(31))
    own = Tuning((), "", parameters, "val/acc", "max", 1, "Bayesian")
    (finding,) = tuning.findings(own, 20, 5)
    assert "at most 30 parameters, got 31" in finding


def test_a_parent_of_another_space_is_named_with_what_differs() -> None:
    before, now = (planned(STRATEGIES[name]).spec.tuning for name in ("bayesian", "random"))
    assert before is not None
    assert now is not None
    (finding,) = _other_space("sweeps/x", before, now)
    assert "data.batch_size: choice there, whole numbers here" in finding
    assert "model.dropout: numbers there, not searched here" in finding
    assert "objective: val/acc there, val/loss here" in finding
    assert not list(_other_space("sweeps/x", now, now))


def test_a_grid_has_as_many_trials_as_combinations() -> None:
    config = planned(STRATEGIES["grid"]).requests[-1].parameters["HyperParameterTuningJobConfig"]
    assert config["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 6, "MaxParallelTrainingJobs": 2}


@given(st.integers(0, 2**31 - 1))
def test_a_job_that_goes_on_has_another_seed_than_those_before_it(seed: int) -> None:
    seeds = [tuning.seed_after([], seed)]
    assert seeds == [seed]
    for _ in range(5):
        seeds.append(tuning.seed_after(seeds, seed))
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= each < 2**31 for each in seeds)
    assert tuning.seed_after(seeds[1:2], seed) not in seeds[:2]  # one that learns from what has learned from another


# --- values, there and back ---

SPACE, _ = read(
    [],
    {
        "model.lr": "tag(log, interval(1e-4, 1e-1))",
        "data.batch_size": "tag(log, int(interval(8, 64)))",
        "model.optimizer": "choice(adamw, sgd, 3, 1e-3, true, 'a b', [1,2])",
    },
)


@given(st.floats(1e-4, 1e-1), st.integers(8, 64), st.sampled_from(SPACE.parameters["model.optimizer"].texts))  # type: ignore[union-attr]
def test_a_value_that_the_tuner_chose_is_the_same_in_the_study(lr: float, batch: int, text: str) -> None:
    own = Tuning((), "", tuple(_parameter(key, each) for key, each in SPACE.parameters.items()), "", "", 1, "")
    assert space_of(own) == SPACE
    values = {"model.lr": repr(lr), "data.batch_size": str(batch), "model.optimizer": text}
    chosen = shown_trial(trial(values=values), SPACE, 0.0).values
    assert (chosen["model.lr"], chosen["data.batch_size"]) == (lr, batch)
    distributions = SPACE.distributions()
    for key, value in chosen.items():
        assert distributions[key]._contains(distributions[key].to_internal_repr(value))
    assert f"model.optimizer={text}" in SPACE.overrides(chosen)
    quoted = shown_trial(trial(values={**values, "model.optimizer": json.dumps(text)}), SPACE, 0.0).values
    assert quoted == chosen


def trial(number: int = 0, state: Any = "complete", objective: float | None = 0.5, **more: Any) -> TunedTrial:
    values = {"values": {}, "reason": "", "created": 0.0, "started": 1.0, "ended": 2.0, **more}
    return TunedTrial(number, f"mine-{number}", "arn", state, objective=objective, **values)


# --- a trial's machine ---


def test_a_trial_gets_its_values_its_id_and_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINING_JOB_NAME", "mine-001-abcd")
    (tmp_path / "input/config").mkdir(parents=True)
    given = {"model.lr": "0.01", "sagemaker_program": "remote.py", "_tuning_objective_metric": "objective"}
    (tmp_path / "input/config/hyperparameters.json").write_text(json.dumps(given))
    folder = tmp_path / "checkpoints/mine-001-abcd"
    assert tuned.overrides(tmp_path) == ["model.lr=0.01", "run_id=mine-001-abcd", f"hydra.run.dir={folder}"]


@pytest.mark.parametrize(
    ("mode", "values", "result", "printed"),
    [
        ("max", ["0.5", "0.25", "", "nan", "0.75"], 0.75, [0.5, 0.5, 0.5, 0.5, 0.75, 0.75]),
        ("min", ["0.5", "0.25", "0.3"], 0.2501, [0.5, 0.25, 0.25, 0.2501]),
    ],
)
def test_the_objective_is_printed_after_each_epoch_and_found_in_the_log(
    mode: str,
    values: list[str],
    result: float,
    printed: list[float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    objective = tuned.Objective(tmp_path, {"monitor": "val/acc", "mode": mode})
    objective.look()
    for count in range(1, len(values) + 1):
        rows = [f"{n},{value}" for n, value in enumerate(values[:count], 1)]
        (tmp_path / "metrics.csv").write_text("\n".join(["epoch,val/acc", *rows]) + "\n")
        objective.look()
        objective.look()
    (tmp_path / "metrics.json").write_text(json.dumps({"val/acc": result}))
    objective.end()
    lines = capsys.readouterr().out.splitlines()
    found = [re.search(tuning._PATTERNS[tuning.OBJECTIVE], line) for line in lines]
    assert [float(each[1]) for each in found if each] == printed
    assert not any(re.search(pattern, line) for line in lines for pattern in METRIC_PATTERNS.values())


def test_a_trial_is_composed_as_the_same_values_are_under_optuna(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    about = ["experiment=finetune", "seed=3", "model.optimizer=choice(adamw,sgd)"]
    point = {"model.lr": 0.01, "model.weight_decay": 1e-5, "data.batch_size": 32, "model.label_smoothing": 0.1}
    point |= {"model.optimizer": "sgd", "model.dropout": 0.25}
    # on the rented machine, as launchers/remote/entry.py starts train.py
    found = asked(*SPOT, *about)
    given = {key: value if isinstance(value, str) else repr(value) for key, value in point.items()}
    (tmp_path / "input/config").mkdir(parents=True)
    (tmp_path / "input/config/hyperparameters.json").write_text(json.dumps(given))
    monkeypatch.setenv("TRAINING_JOB_NAME", "mine-001-abcd")
    command = sent.command(found.plan.spec, resumes=False)
    _, there = prepare([*command.typed, *command.own, *tuned.overrides(tmp_path)])
    # here, as a sweeper starts a trial
    space, overrides = asked_of_optuna("hpo=optuna", *about)
    _, here = prepare([*overrides, *space.overrides(point)])
    assert there.spec.config["model"]["lr"] == 0.01
    configs = [dict(each.spec.config) for each in (there, here)]
    for config in configs:
        del config["run_id"], config["test"]  # a tuner's trials are tested at once
        config["data"] = {**config["data"], "root": "on that machine"}
    assert configs[0] == configs[1]


# --- what SageMaker answers ---

CREATED = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)
TOOLKIT = (
    'AlgorithmError: ExecuteUserScriptError:\nExitCode 1\nErrorMessage "RuntimeError: [bad_config] data.batch_size '
    "must be at least 1, got -1.\n Try: 1\n The machine's part has ended\"\n"
    'Command "/usr/bin/python remote.py --data.batch_size -1", exit code: 1'
)


def job(status: str = "Completed", *, ended: int | None = 60, **more: Any) -> TuningJob:
    end = {} if ended is None else {"HyperParameterTuningEndTime": CREATED + timedelta(minutes=ended)}
    resources = {"InstanceType": "ml.g4dn.xlarge", "InstanceCount": 1}
    return TuningJob.of(
        {
            "HyperParameterTuningJobName": "mine",
            "HyperParameterTuningJobArn": "arn:aws:sagemaker:eu-west-1:123456789012:hyper-parameter-tuning-job/mine",
            "HyperParameterTuningJobStatus": status,
            "HyperParameterTuningJobConfig": {"ResourceLimits": {"MaxNumberOfTrainingJobs": 8}},
            "CreationTime": CREATED,
            "TrainingJobDefinition": {
                "HyperParameterTuningResourceConfig": resources,
                "EnableManagedSpotTraining": True,
                "CheckpointConfig": {"S3Uri": "s3://b/dogbreed/runs/mine/checkpoints"},
            },
            **end,
            **more,
        }
    )


def listed(status: str, *, objective: float | None = None, ended: float = 30, **more: Any) -> dict[str, Any]:
    metric = {"Type": "Maximize", "MetricName": "objective", "Value": objective}
    found = {} if objective is None else {"FinalHyperParameterTuningJobObjectiveMetric": metric}
    times = {"TrainingStartTime": CREATED, "TrainingEndTime": CREATED + timedelta(minutes=ended)}
    return {
        "TrainingJobName": "mine-001-abcd",
        "TrainingJobArn": "arn:aws:sagemaker:eu-west-1:123456789012:training-job/mine-001-abcd",
        "CreationTime": CREATED,
        "TrainingJobStatus": status,
        "TunedHyperParameters": {"model.lr": "0.01"},
        **times,
        **found,
        **more,
    }


@pytest.mark.parametrize(
    ("summary", "of", "state"),
    [
        (listed("Completed", objective=0.5), job(), "complete"),
        (listed("Completed"), job(), "failed"),
        (listed("Stopped", objective=0.5), job("InProgress", ended=None), "pruned"),
        (listed("Stopped", objective=0.5), job(), "pruned"),
        (listed("Stopped", objective=0.5, ended=30), job("Stopped"), "pruned"),
        (listed("Stopped", objective=0.5, ended=59), job("Stopped"), "cut off"),
        (listed("Stopped"), job("InProgress", ended=None), "failed"),
        (listed("Failed", FailureReason=TOOLKIT), job(), "failed"),
        (listed("InProgress"), job("InProgress", ended=None), "running"),
        (listed("Stopping"), job("InProgress", ended=None), "running"),
    ],
)
def test_the_state_of_a_trial(summary: Mapping[str, Any], of: TuningJob, state: str) -> None:
    assert TunedTrial.of(0, summary, of).state == state


def test_why_a_trial_failed_is_read_out_of_the_toolkit_s_words() -> None:
    found = TunedTrial.of(0, listed("Failed", FailureReason=TOOLKIT), job())
    assert found.cause == "data.batch_size must be at least 1, got -1.\n Try: 1"
    assert TunedTrial.of(0, listed("Failed", FailureReason="CapacityError: none"), job()).cause == "CapacityError: none"
    assert TunedTrial.of(0, listed("Completed"), job()).cause == "it printed no value of the objective"


def of_search(of: TuningJob, *trials: TunedTrial) -> Status:
    return status_of([(of, trials)], wanted=8, mode="max", now=CREATED.timestamp() + 3600, again="again")


@pytest.mark.parametrize(
    ("of", "phase", "cause"),
    [
        (job("InProgress", ended=None), Phase.RUNNING, Cause.NONE),
        (job("Stopping", ended=None), Phase.STOPPING, Cause.BY_USER),
        (job("Stopped"), Phase.CANCELLED, Cause.BY_USER),
        (job("Completed"), Phase.SUCCEEDED, Cause.NONE),
        (job("Failed", FailureReason="No training job succeeded."), Phase.FAILED, Cause.USER_CODE),
    ],
)
def test_the_phase_of_a_search(of: TuningJob, phase: Phase, cause: Cause) -> None:
    status = of_search(of, trial(0), trial(1, objective=0.75), trial(2, "failed", None, reason="x"))
    assert (status.phase, status.cause) == (phase, cause)
    assert "3 of 8 trials have ended, 1 failed; best 0.7500 (trial 1)" in status.detail
    assert ("again" in status.next_action) == (phase in (Phase.CANCELLED, Phase.FAILED))


DENIED = "ClientError: Data download failed: AccessDenied: User: x is not authorized to perform: s3:ListBucket"


@pytest.mark.parametrize(
    ("reason", "of_trials", "cause"),
    [
        ("No training job succeeded.", [DENIED, DENIED], Cause.PERMISSION),
        ("No training job succeeded.", [DENIED, TOOLKIT], Cause.USER_CODE),  # there is more than one
        ("No training job succeeded.", [TOOLKIT], Cause.BAD_CONFIG),
        ("No training job succeeded.", [""], Cause.USER_CODE),
        ("InternalServerError: please try again", [], Cause.INTERRUPTED),
        ("InternalServerError: please try again", [TOOLKIT], Cause.INTERRUPTED),
    ],
)
def test_why_a_search_failed(reason: str, of_trials: list[str], cause: Cause) -> None:
    trials = [trial(number, "failed", None, reason=text) for number, text in enumerate(of_trials)]
    assert of_search(job("Failed", FailureReason=reason), *trials).cause is cause


def test_what_failed_when_nothing_succeeded_is_run_again_and_what_failed_besides_is_a_trial() -> None:
    trials = [trial(0, "failed", None, reason=DENIED), trial(1, "failed", None, reason=DENIED)]
    assert counted(job("Failed", FailureReason="No training job succeeded."), trials) == 0
    assert counted(job("Completed"), [*trials, trial(2)]) == 3
    no_machine = trial(3, "failed", None, reason="CapacityError: Unable to provision requested ML compute capacity.")
    assert counted(job("Stopped"), [*trials, trial(2), no_machine]) == 3
    jobs, its = [job("Failed"), job("Completed")], [trials, [trial(2), trial(3)]]
    status = status_of(
        list(zip(jobs, its, strict=True)), wanted=2, mode="max", now=CREATED.timestamp() + 3600, again="again"
    )
    assert status.detail.startswith("4 of 4 trials have ended, 2 failed")


def test_a_search_costs_what_its_trials_have_run() -> None:
    hour = trial(started=CREATED.timestamp(), ended=None)
    status = of_search(job("InProgress", ended=None), hour, trial(started=None, ended=None))
    assert status.usd == pytest.approx(0.7364)


@given(st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1), st.sampled_from(["max", "min"]))
def test_the_best_trial_is_the_first_of_the_best(values: list[float], mode: str) -> None:
    found = best_of([trial(n, objective=value) for n, value in enumerate(values)], mode)
    assert found is not None
    assert found.number == values.index(max(values) if mode == "max" else min(values))
    assert asdict(found)["objective"] == values[found.number]


def test_choices_and_settings_here_are_those_of_the_command() -> None:
    assert planned([*SPOT, "experiment=finetune", "hpo.strategy=Grid", *CHOICES]).spec.tuning is not None
    assert set(REAL) <= set(SPOT)


def test_a_grid_that_is_too_large_is_told_what_makes_it_smaller() -> None:
    own = Tuning((), "", (TunedParameter("seed", texts=("1", "2")),), "val/acc", "max", 1, "Grid")
    (finding,) = tuning.findings(own, 800, 5)
    assert finding.endswith("Try: fewer values, or hpo=optuna hpo/sampler=grid hpo.n_trials=800")


def test_a_tuning_job_is_never_asked_for_more_time_than_it_may_have() -> None:
    many = [*SPOT, "experiment=finetune", "hpo.n_trials=750", "hpo.parallel=1"]
    plan = planned([*many, "limits.max_usd=200"])  # buys 72 days, and all trials could take 127
    resources = plan.requests[-1].parameters["HyperParameterTuningJobConfig"]["ResourceLimits"]
    assert resources["MaxRuntimeInSeconds"] == 30 * 86400
    assert dict(plan.rows)["time"].endswith("720 h for all")
    unlimited = {key: value for key, value in resources.items() if key != "MaxRuntimeInSeconds"}
    body = plan.requests[-1].parameters
    assert tuning_limits.less_spent(body, unlimited, {"limits": {"max_usd": 5000}}, 1.0) == {}
    assert tuning_limits.less_spent(body, unlimited, {"limits": {"max_usd": 2}}, 1.0)["MaxRuntimeInSeconds"] < 40_000
