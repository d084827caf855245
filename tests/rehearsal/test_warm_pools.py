"""Machines that SageMaker keeps after a job: reused by the next one like it, billed, and given back."""

import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from launchers.rehearsal.cloud import Rehearsal
from tests.support.jobs import ended, request

pytestmark = pytest.mark.cloud


def kept(name: str, seconds: int = 600, **changes: Any) -> dict[str, Any]:
    whole = request(name, **changes)
    return {**whole, "ResourceConfig": {**whole["ResourceConfig"], "KeepAlivePeriodInSeconds": seconds}}


def pool_of(cloud: Rehearsal, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.client("sagemaker").describe_training_job(TrainingJobName=name)["WarmPoolStatus"]
    return found


def test_the_next_job_like_it_gets_the_machines_and_the_time_between_is_billed(cloud: Rehearsal) -> None:
    sagemaker = cloud.client("sagemaker")
    sagemaker.create_training_job(**kept("first"))
    ended(cloud, "first")
    assert pool_of(cloud, "first") == {"Status": "Available"}
    sagemaker.create_training_job(**request("other", EnableNetworkIsolation=True))  # not like it
    ended(cloud, "other")
    assert pool_of(cloud, "first") == {"Status": "Available"}
    time.sleep(1.0)
    sagemaker.create_training_job(**kept("second"))
    reused = pool_of(cloud, "first")
    assert (reused["Status"], reused["ReusedByJob"]) == ("Reused", "second")
    assert reused["ResourceRetainedBillableTimeInSeconds"] >= 1
    first_step = ended(cloud, "second")["SecondaryStatusTransitions"][0]
    assert first_step["StatusMessage"] == "Reusing the machines of a warm pool"
    sagemaker.update_training_job(TrainingJobName="second", ResourceConfig={"KeepAlivePeriodInSeconds": 0})
    assert pool_of(cloud, "second")["Status"] == "Terminated"
    with pytest.raises(ClientError, match="warm pool of second is not available"):
        sagemaker.update_training_job(TrainingJobName="second", ResourceConfig={"KeepAlivePeriodInSeconds": 60})


def test_a_pool_ends_with_its_time_and_a_quota_of_0_keeps_nothing(cloud: Rehearsal) -> None:
    cloud.client("sagemaker").create_training_job(**kept("short", 1))
    ended(cloud, "short")
    time.sleep(1.1)
    assert pool_of(cloud, "short") == {"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": 1}
    none = {"ml.m5.large for training warm pool usage": 0}
    strict = Rehearsal(state_dir=str(cloud.state_folder), faults={"quotas": none})
    strict.client("sagemaker").create_training_job(**kept("ignored"))
    assert "WarmPoolStatus" not in ended(cloud, "ignored")


def test_spot_machines_cannot_be_kept(cloud: Rehearsal) -> None:
    times = {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60}
    with pytest.raises(ClientError, match="cannot be combined with managed spot training"):
        cloud.client("sagemaker").create_training_job(
            **kept("spot", EnableManagedSpotTraining=True, StoppingCondition=times)
        )
