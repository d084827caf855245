"""Tuning jobs in the rehearsal cloud: programs really run with the values that it chooses; here they only print."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.faults import Faults, Progress
from launchers.rehearsal.names import Server
from launchers.rehearsal.services import training_run
from launchers.rehearsal.services.training_ending import STOPPED
from launchers.rehearsal.services.training_record import JobRecord
from launchers.rehearsal.services.tuning_record import TuningRecord
from launchers.rehearsal.services.tuning_run import training_request
from tests.support import deployed
from tests.support.deployed import BUCKET, ROLE
from tests.support.launcher_contract import until

pytestmark = pytest.mark.cloud
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-sagemaker"
PROGRAM = """
import json, os, sys, time
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
x = float(given["-x"])
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "hps": json.loads(os.environ["SM_HPS"])}), flush=True)
if given["--kind"] == "bad":
    print("RuntimeError: [bad_config] x is bad", flush=True)
    sys.exit(1)
for epoch in range(int(given.get("--epochs", 1))):
    if given["--kind"] != "silent":
        print(f"objective {x if given['--kind'] == 'good' else x - 100}", flush=True)
    time.sleep(float(given.get("--seconds", 0)))
while given["--kind"] == "poor":  # until it is stopped
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    place = tmp_path_factory.mktemp("tuning") / "state"
    made = Rehearsal(state_dir=str(place), reclaims=0)
    try:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            entry = tarfile.TarInfo("program.py")
            entry.size = len(PROGRAM)
            archive.addfile(entry, io.BytesIO(PROGRAM.encode()))
        made.client("s3").put_object(Bucket=BUCKET, Key="code/sourcedir.tar.gz", Body=buffer.getvalue())
        yield made
    finally:
        process.stop(place)


def request(name: str, *, trials: int = 4, parallel: int = 2, kinds: tuple[str, ...] = ("good",), **more: Any) -> Any:
    """more: keys of the job's config; `static`, `definition` and `warm` go elsewhere."""
    static, definition, warm = (more.pop(key, {}) for key in ("static", "definition", "warm"))
    numbers = {"Name": "x", "MinValue": "0.0", "MaxValue": "1.0", "ScalingType": "Linear"}
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/code/", "S3DataDistributionType": "FullyReplicated"}
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "objective"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": trials, "MaxParallelTrainingJobs": parallel},
            "ParameterRanges": {
                "ContinuousParameterRanges": [numbers],
                "CategoricalParameterRanges": [{"Name": "kind", "Values": list(kinds)}],
            },
            "TrainingJobEarlyStoppingType": "Off",
            **more,
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {
                "sagemaker_program": "program.py",
                "sagemaker_submit_directory": "/opt/ml/input/data/code/sourcedir.tar.gz",
                **static,
            },
            "AlgorithmSpecification": {
                "TrainingImage": IMAGE,
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": "objective", "Regex": "objective ([-0-9.]+)"}],
            },
            "RoleArn": ROLE,
            "InputDataConfig": [{"ChannelName": "code", "DataSource": {"S3DataSource": source}}],
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
            "HyperParameterTuningResourceConfig": {
                "InstanceType": "ml.m5.large",
                "InstanceCount": 1,
                "VolumeSizeInGB": 10,
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
            **definition,
        },
        **({"WarmStartConfig": warm} if warm else {}),
    }


def refusal(call: Any) -> str:
    return deployed.refusal(call)[1]


def described(cloud: Rehearsal, name: str) -> dict[str, Any]:
    client = cloud.client("sagemaker")
    return dict(client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name))


def trials(cloud: Rehearsal, name: str, **more: Any) -> list[dict[str, Any]]:
    client = cloud.client("sagemaker")
    found = client.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name,
        **{"SortBy": "CreationTime", "SortOrder": "Ascending", "MaxResults": 100, **more},
    )
    return list(found["TrainingJobSummaries"])


def ended(cloud: Rehearsal, name: str) -> bool:
    return described(cloud, name)["HyperParameterTuningJobStatus"] in ("Completed", "Failed", "Stopped")


def run(cloud: Rehearsal, name: str, **how: Any) -> dict[str, Any]:
    """Return what is known of a tuning job once it has ended."""
    cloud.client("sagemaker").create_hyper_parameter_tuning_job(**request(name, **how))
    until(partial(ended, cloud, name))
    return described(cloud, name)


def log_of(cloud: Rehearsal, job: str) -> list[str]:
    client = cloud.client("logs")
    group = "/aws/sagemaker/TrainingJobs"
    streams = client.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")["logStreams"]
    events = client.get_log_events(logGroupName=group, logStreamName=streams[0]["logStreamName"], startFromHead=True)
    return [event["message"] for event in events["events"]]


def test_trials_run_with_the_chosen_values_and_the_best_is_named(cloud: Rehearsal) -> None:
    job = run(cloud, "whole", static={"epochs": "2", "l": "[1, 2]"})
    found = trials(cloud, "whole")
    assert [each["TrainingJobStatus"] for each in found] == ["Completed"] * 4
    assert job["TrainingJobStatusCounters"]["Completed"] == job["ObjectiveStatusCounters"]["Succeeded"] == 4
    values = [each["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for each in found]
    assert values == pytest.approx([float(each["TunedHyperParameters"]["x"]) for each in found])
    best = found[values.index(max(values))]
    assert job["BestTrainingJob"]["TrainingJobName"] == best["TrainingJobName"]
    assert all(each["TrainingJobName"].startswith(f"whole-{n:03d}-") for n, each in enumerate(found, 1))
    by_value = trials(cloud, "whole", SortBy="FinalObjectiveMetricValue", SortOrder="Descending", MaxResults=1)
    assert by_value[0]["TrainingJobName"] == best["TrainingJobName"]
    said = json.loads(log_of(cloud, best["TrainingJobName"])[0])  # as the toolkit starts it
    assert said["cwd"] == "/opt/ml/code"
    assert said["argv"] == ["--epochs", "2", "--kind", "good", "-l", "[1, 2]", "-x", best["TunedHyperParameters"]["x"]]
    assert said["hps"].keys() == {"epochs", "kind", "l", "x"}


def test_trials_that_fail_are_counted_with_the_toolkit_s_words_and_the_search_goes_on(cloud: Rehearsal) -> None:
    job = run(cloud, "some-fail", trials=5, kinds=("good", "bad"), Strategy="Random", RandomSeed=1)
    states = [each["TrainingJobStatus"] for each in trials(cloud, "some-fail")]
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert sorted(set(states)) == ["Completed", "Failed"]
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == states.count("Failed")
    reason = next(each["FailureReason"] for each in trials(cloud, "some-fail") if "FailureReason" in each)
    assert reason.startswith("AlgorithmError: ExecuteUserScriptError:\nExitCode 1\nErrorMessage")
    assert "RuntimeError: [bad_config] x is bad" in reason


@pytest.mark.parametrize(
    ("kind", "text"), [("bad", "No training job succeeded after"), ("silent", "No objective metrics found after")]
)
def test_a_search_in_which_no_trial_has_a_value_fails(kind: str, text: str, cloud: Rehearsal) -> None:
    job = run(cloud, f"all-{kind}", trials=8, parallel=5, kinds=(kind,))
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert text in job["FailureReason"]
    assert "BestTrainingJob" not in job


def test_a_stopped_search_leaves_nothing_running(cloud: Rehearsal) -> None:
    client = cloud.client("sagemaker")
    client.create_hyper_parameter_tuning_job(**request("stopped", trials=9, static={"seconds": "600"}))
    until(lambda: len([each for each in trials(cloud, "stopped") if "TrainingStartTime" in each]) == 2)
    delete = partial(client.delete_hyper_parameter_tuning_job, HyperParameterTuningJobName="stopped")
    assert "in status InProgress" in refusal(delete)
    client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="stopped")
    until(partial(ended, cloud, "stopped"))
    assert described(cloud, "stopped")["HyperParameterTuningJobStatus"] == "Stopped"
    assert [each["TrainingJobStatus"] for each in trials(cloud, "stopped")] == ["Stopped", "Stopped"]
    again = refusal(partial(client.stop_hyper_parameter_tuning_job, HyperParameterTuningJobName="stopped"))
    assert "in status Stopped" in again
    delete()
    assert "can't find a tuning job with name stopped" in refusal(partial(described, cloud, "stopped"))
    assert len(client.list_training_jobs(NameContains="stopped")["TrainingJobSummaries"]) == 2


def test_trials_that_fall_behind_are_stopped(cloud: Rehearsal) -> None:
    how = {"trials": 9, "parallel": 3, "kinds": ("good", "poor"), "static": {"epochs": "12", "seconds": "0.1"}}
    job = run(cloud, "early", **how, Strategy="Random", RandomSeed=2, TrainingJobEarlyStoppingType="Auto")
    found = trials(cloud, "early")
    states = {each["TrainingJobStatus"]: each["TunedHyperParameters"]["kind"] for each in found}
    assert states.keys() == {"Completed", "Stopped"}
    assert "FinalHyperParameterTuningJobObjectiveMetric" in next(
        each for each in found if each["TrainingJobStatus"] == "Stopped"
    )
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert len(found) == 9


def test_a_trial_that_is_stopped_while_it_waits_for_another_machine_keeps_its_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "may_log", lambda *args: True)
    search = TuningRecord(tmp_path, request("x"), 0.0)
    trial = JobRecord(tmp_path / "x", training_request(search, "x-001", {"x": "0.5", "kind": "good"}), 0.0)
    store: Any = SimpleNamespace(role=None)
    run = training_run.JobRun(trial, store, Server("", ""), Faults(), no_capacity=False)
    run._read("objective 0.25", Progress())
    run._end(STOPPED)
    assert trial.status == "Stopped"
    assert search.objective_of(trial) == 0.25


def test_a_search_ends_at_its_target_or_without_progress(cloud: Rehearsal) -> None:
    reached = run(cloud, "reached", trials=9, TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 0.0})
    assert reached["HyperParameterTuningJobStatus"] == "Completed"
    assert len(trials(cloud, "reached")) < 9
    patience = {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}
    minimize = {"Type": "Minimize", "MetricName": "objective"}
    run(
        cloud,
        "patience",
        trials=30,
        parallel=1,
        Strategy="Random",
        TuningJobCompletionCriteria=patience,
        HyperParameterTuningJobObjective=minimize,
    )
    values = [
        each["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
        for each in trials(cloud, "patience")
        if each["TrainingJobStatus"] == "Completed"
    ]
    assert values.index(min(values)) == len(values) - 4


def test_a_search_learns_from_its_parents_alone(cloud: Rehearsal) -> None:
    parent = {"ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "parent"}]}
    run(cloud, "parent", trials=6, parallel=6, Strategy="Random")
    warm = {**parent, "WarmStartType": "TransferLearning"}
    job = run(cloud, "child", trials=2, warm=warm)
    assert job["WarmStartConfig"] == warm
    client = cloud.client("sagemaker")

    def refused(**how: Any) -> str:
        return refusal(partial(client.create_hyper_parameter_tuning_job, **request("grandchild", **how)))

    unknown = {"ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "nobody"}]}
    assert "nobody does not exist" in refused(warm={**unknown, "WarmStartType": "TransferLearning"})
    assert "has other hyperparameters" in refused(warm=warm, static={"further": "1"})
    identical = {**parent, "WarmStartType": "IdenticalDataAndAlgorithm"}
    other = {"InputDataConfig": request("x")["TrainingJobDefinition"]["InputDataConfig"], "Environment": {"A": "1"}}
    assert "TrainingJobDefinition differs from that of parent: Environment" in refused(warm=identical, definition=other)


def changed(name: str, key: str, value: Any) -> Any:
    made = request(name)
    made["HyperParameterTuningJobConfig"][key] = value
    return made


CONTINUOUS = {"Name": "x", "MinValue": "1", "MaxValue": "1"}
LOG = {"Name": "x", "MinValue": "0", "MaxValue": "1", "ScalingType": "Logarithmic"}


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (request("whole-1", trials=751), "'Maximum number of training jobs per hyperparameter tuning job' is 750"),
        (request("whole-1", parallel=11), "'Maximum number of parallel training jobs"),
        (request("whole-1", Strategy="Grid"), "Grid search supports categorical parameters only"),
        (request("whole-1", Strategy="Hyperband"), "HyperbandStrategyConfig needs MaxResource"),
        (changed("whole-1", "ParameterRanges", {"ContinuousParameterRanges": [CONTINUOUS]}), "must be less than"),
        (changed("whole-1", "ParameterRanges", {"ContinuousParameterRanges": [LOG]}), "Logarithmic scaling needs"),
        (changed("whole-1", "ParameterRanges", {}), "At least one hyperparameter"),
        (request("whole-1", static={"x": "1"}), "Hyperparameters must be named once"),
        (
            changed("whole-1", "HyperParameterTuningJobObjective", {"Type": "Maximize", "MetricName": "other"}),
            "The objective metric other is not one of the metric definitions",
        ),
        (request("whole-1", definition={"EnableManagedSpotTraining": True}), "MaxWaitTimeInSeconds must be provided"),
        (request("a" * 33), "length 33 is more than 32"),
    ],
)
def test_what_sagemaker_does_not_accept_is_refused(asked: Mapping[str, Any], text: str, cloud: Rehearsal) -> None:
    client = cloud.client("sagemaker")
    assert text in refusal(partial(client.create_hyper_parameter_tuning_job, **asked))


def test_a_quota_that_is_less_than_all_trials_at_once_need_refuses_the_search(cloud: Rehearsal) -> None:
    few = replace(cloud, faults={"quotas": {"ml.m5.large": 1}}, _clients={})
    text = refusal(partial(few.client("sagemaker").create_hyper_parameter_tuning_job, **request("quota")))
    assert "'ml.m5.large for training job usage' is 1 Instances" in text
    assert "a request delta of 2 Instances" in text


def test_a_search_is_listed_and_survives_a_restart_of_the_cloud(tmp_path: Path, cloud: Rehearsal) -> None:
    client = cloud.client("sagemaker")
    client.create_hyper_parameter_tuning_job(**request("restarted", trials=9, static={"seconds": "600"}))
    found = client.list_hyper_parameter_tuning_jobs(NameContains="restart", StatusEquals="InProgress")
    (summary,) = found["HyperParameterTuningJobSummaries"]
    assert (summary["HyperParameterTuningJobName"], summary["Strategy"]) == ("restarted", "Bayesian")
    exists = refusal(partial(client.create_hyper_parameter_tuning_job, **request("restarted")))
    assert "exists already" in exists
    process.stop(cloud.state_folder)
    cloud._clients.clear()  # of other tests, too: it is at another port now
    job = described(cloud, "restarted")
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert "was stopped while the job was running" in job["FailureReason"]
    assert {each["TrainingJobStatus"] for each in trials(cloud, "restarted")} <= {"Failed"}
