"""Training jobs of the rehearsal cloud that run a line of Python."""

from typing import Any

from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import ACCOUNT, BUCKET
from tests.support.launcher_contract import until

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-sagemaker"


def request(name: str, script: str = "print('hello')", **changes: Any) -> dict[str, Any]:
    """A job that runs a line of Python."""
    whole: dict[str, Any] = {
        "TrainingJobName": name,
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/service-role/DogBreedTraining",
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python", "-c", script],
            "MetricDefinitions": [{"Name": "loss", "Regex": "loss=([0-9.]+)"}],
        },
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }
    return {**whole, **changes}


def ended(cloud: Rehearsal, name: str) -> dict[str, Any]:
    sagemaker = cloud.client("sagemaker")

    def finished() -> bool:
        return sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] in (
            "Completed",
            "Failed",
            "Stopped",
        )

    until(finished)
    job: dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=name)
    return job
