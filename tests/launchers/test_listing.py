"""Runs are found among thousands of jobs of others, with few requests, even if AWS throttles them."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launchers.cli.verbs import main
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.services.training_record import JobRecord
from launchers.sagemaker.training import SageMakerLauncher
from launchers.status import Phase

pytestmark = pytest.mark.cloud

FOREIGN = 3000


def request_of(name: str, *, run_id: str | None = None) -> dict[str, Any]:
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-sagemaker"
    sleep = ["python", "-c", "import time; time.sleep(3600)"]
    return {
        "TrainingJobName": name,
        "RoleArn": "arn:aws:iam::123456789012:role/service-role/DogBreedTraining",
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": sleep,
        },
        "OutputDataConfig": {"S3OutputPath": "s3://dogbreed-rehearsal/x"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "Tags": [{"Key": "dogbreed:run-id", "Value": run_id}] if run_id else [],
    }


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cloud with 3,000 jobs of others that have ended, of which the newer ones hide two of ours; one of ours runs."""
    place = tmp_path_factory.mktemp("cloud") / "state"
    for number in range(FOREIGN):
        ours = "old-run" if number in (0, 1500) else None
        name = f"old-run--{number}" if ours else f"colleague-{number}"
        record = JobRecord(place / "jobs" / name, request_of(name), 1_700_000_000 + number, status="Completed")
        record.tags = {"dogbreed:run-id": ours} if ours else {"team": "cats"}
        record.folder.mkdir(parents=True)
        saved = asdict(record)
        del saved["folder"]
        (record.folder / "job.json").write_text(json.dumps(saved))
    client = Rehearsal(state_dir=str(place)).client("sagemaker")
    role = Rehearsal(state_dir=str(place)).client("iam").get_role(RoleName="DogBreedTraining")["Role"]["Arn"]
    for name, run_id in (("mine", "mine"), ("mine--2", "mine"), ("hers", None)):
        client.create_training_job(**{**request_of(name, run_id=run_id), "RoleArn": role})
    try:
        yield place
    finally:
        process.stop(place)


def asked(cloud: Rehearsal) -> Counter[str]:
    """Count the requests to SageMaker, by operation, from now on."""
    counts: Counter[str] = Counter()
    cloud.client("sagemaker").meta.events.register(
        "before-call", lambda model, **_: counts.update([model.name]) if model else None
    )
    return counts


def test_a_run_in_progress_is_found_behind_thousands_of_other_jobs(account: Path) -> None:
    cloud = Rehearsal(state_dir=str(account))
    counts = asked(cloud)
    ((handle, status),) = SageMakerLauncher.at(cloud).list()
    assert handle.run_id == "mine"
    assert status.phase in (Phase.PROVISIONING, Phase.RUNNING)
    assert counts["ListTrainingJobs"] == 2  # by status
    assert counts["ListTags"] == 3  # of the jobs in progress


def test_runs_that_have_ended_are_found_by_a_part_of_their_name_on_any_page_and_each_once(account: Path) -> None:
    cloud = Rehearsal(state_dir=str(account))
    counts = asked(cloud)
    found = [handle.run_id for handle, _ in SageMakerLauncher.at(cloud).list(active_only=False, name="old-run")]
    assert found == ["old-run"]
    assert counts["ListTags"] == 2
    counts.clear()
    assert set(SageMakerLauncher.at(cloud).jobs.run_ids(active_only=False, name="colleague-29")) == set()
    assert counts["ListTrainingJobs"] == 2  # pages, of 111 jobs


def test_all_pages_are_read_and_a_throttled_request_is_repeated(
    account: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []  # up to half a minute each time, which boto3 would wait
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=pauses.append))
    cloud = Rehearsal(state_dir=str(account), faults={"throttled": 5})
    summaries = list(SageMakerLauncher.at(cloud).jobs._summaries())
    assert len({summary["TrainingJobName"] for summary in summaries}) == FOREIGN + 3
    assert len(pauses) == 5
    cloud = Rehearsal(state_dir=str(account), faults={"throttled": 5})
    assert [handle.run_id for handle, _ in SageMakerLauncher.at(cloud).list()] == ["mine"]
    assert len(pauses) == 10
    assert main(["list", "sagemaker://rehearsal", "--state-dir", str(account), "--name", "min"]) == 0
    assert "sagemaker://rehearsal/mine" in capsys.readouterr().out
