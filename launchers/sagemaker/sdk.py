"""Hand a training job to the SageMaker SDK: its `ModelTrainer` creates the job that a plan describes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dogbreed import commands
from launchers.aws.iam import role_in_plan
from launchers.plan import Plan
from launchers.status import Cause, LaunchError

if TYPE_CHECKING:
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.train import ModelTrainer

UPLOADS = "sdk"  # folder of the run in the bucket, for what the SDK uploads itself


def to_model_trainer(plan: Plan, sagemaker_session: "Session | None" = None) -> "ModelTrainer":
    """Return a `ModelTrainer` whose `train()` creates the training job of a plan.

    `launcher.send(plan)` uploads beforehand what the job reads. sagemaker_session: the SDK's; None for one in the
    region of the plan, which keeps the SDK's own uploads in the run's folder. If the plan has the role's name alone,
    the SDK looks up its ARN.

    Raises LaunchError if the plan is not of a training job, or the SDK is not installed.
    """
    job = _job(plan)
    try:
        from sagemaker.train import ModelTrainer, configs
    except ImportError as error:
        raise LaunchError(
            f"The SageMaker SDK is not installed ({error}).\nTry: pip install 'dogbreed[sagemaker]'"
        ) from error
    algorithm, resources = job["AlgorithmSpecification"], job["ResourceConfig"]
    # `exec`: the machine's program takes the place of the shell that the SDK starts, and gets its signals
    command = f"exec {commands.shell(*algorithm['ContainerEntrypoint'])}"
    trainer = ModelTrainer(
        sagemaker_session=sagemaker_session or _session(plan, job),
        role=role_in_plan(job["RoleArn"]),
        base_job_name=job["TrainingJobName"],
        input_s3_key_prefix=UPLOADS,
        training_image=algorithm["TrainingImage"],
        training_input_mode=algorithm["TrainingInputMode"],
        source_code=configs.SourceCode(command=command),
        compute=configs.Compute(**_snake(resources), enable_managed_spot_training=job["EnableManagedSpotTraining"]),
        networking=configs.Networking(
            **_snake(job.get("VpcConfig", {})),
            enable_network_isolation=job["EnableNetworkIsolation"],
            enable_inter_container_traffic_encryption=job["EnableInterContainerTrafficEncryption"],
        ),
        stopping_condition=configs.StoppingCondition(**_snake(job["StoppingCondition"])),
        input_data_config=[configs.Channel(**_snake(channel)) for channel in job["InputDataConfig"]],
        output_data_config=configs.OutputDataConfig(**_snake(job["OutputDataConfig"])),
        checkpoint_config=configs.CheckpointConfig(**_snake(job["CheckpointConfig"])),
        environment=dict(job["Environment"]),
        tags=[configs.Tag(**_snake(tag)) for tag in job["Tags"]],
    )
    trainer.with_retry_strategy(configs.RetryStrategy(**_snake(job["RetryStrategy"])))
    metrics = algorithm["MetricDefinitions"]
    return trainer.with_metric_definitions([configs.MetricDefinition(**_snake(each)) for each in metrics])


def _job(plan: Plan) -> Mapping[str, Any]:
    """Return the request for the job. Raises LaunchError if the plan has none."""
    last = plan.requests[-1] if plan.requests else None
    if last is None or last.operation != "CreateTrainingJob":
        what = "a search by SageMaker's tuner" if plan.spec.tuning is not None else f"launcher {plan.handle.launcher}"
        raise LaunchError(
            f"A ModelTrainer creates training jobs, and this plan is of {what}.\n"
            f"Try: {commands.setting('launcher', 'sagemaker_spot')}",
            Cause.BAD_CONFIG,
        )
    return last.parameters


def _session(plan: Plan, job: Mapping[str, Any]) -> "Session":
    """Return a session of the SDK that uploads below the run's folder, which the job's role may read."""
    import boto3
    from sagemaker.core.helper.session_helper import Session

    bucket, _, prefix = job["OutputDataConfig"]["S3OutputPath"].removeprefix("s3://").partition("/")
    return Session(
        boto_session=boto3.Session(region_name=plan.handle.scope),
        default_bucket=bucket,
        default_bucket_prefix=prefix.rpartition("/")[0],
    )


def _snake(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a request with the names that the SDK's classes have: S3Uri becomes s3_uri."""
    from botocore import xform_name

    return {xform_name(name): _snake(value) if isinstance(value, Mapping) else value for name, value in request.items()}
