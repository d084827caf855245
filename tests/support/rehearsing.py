"""A rehearsal cloud of the tests' own, and runs in it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from awaited import HOLD

from dogbreed.run_folder import write_text
from launchers import prepare
from launchers.cli.verbs import main as launchers_command
from launchers.plan import Plan
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.sagemaker.training import SageMakerLauncher
from tests.support.photos import make_photos, tiny_settings

BUCKET = "dogbreed-rehearsal"
PHOTOS, NO_PHOTOS = f"s3://{BUCKET}/photos", f"s3://{BUCKET}/no-photos"
ROOTS = (PHOTOS, NO_PHOTOS, f"s3://{BUCKET}/many-photos")  # what the job's role may read besides what is sent
ROLES = ("aws.role=dogbreed-training", "aws.launch_as=dogbreed-launch")


@contextlib.contextmanager
def rehearsal_cloud(place: Path, photos: Path | None = None) -> Iterator[Rehearsal]:
    """With photos in its bucket, and the roles that launchers need. Its process is ended at the end."""
    cloud = Rehearsal(bucket=BUCKET, state_dir=str(place), reclaims=0)
    try:
        send_photos(cloud, photos or make_photos(place.parent / "photos-of-the-cloud"), "photos")
        roots = [word for root in ROOTS for word in ("--for", "data=folder", f"data.root={root}")]
        assert launchers_command(["iam", "--apply", "--state-dir", str(place), *roots]) == 0
        yield cloud
    finally:
        process.stop(place)


@contextlib.contextmanager
def held(place: Path, jobs: str = "") -> Iterator[None]:
    """Let no training of the cloud at `place` go further than the end of its next epoch, and no search than that of its
    next trial, so that it goes on for sure until this ends. jobs: a regular expression for the names of those meant.
    """
    write_text(place / HOLD, jobs)
    try:
        yield
    finally:
        (place / HOLD).unlink()


def send_photos(cloud: Rehearsal, photos: Path, prefix: str) -> None:
    """Put a folder of photos into the cloud's bucket."""
    s3 = cloud.client("s3")
    for path in sorted(photos.rglob("*.jpg")):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{path.relative_to(photos).as_posix()}", Body=path.read_bytes())


def settings(place: Path, *overrides: str, launcher: str = "sagemaker_spot") -> list[str]:
    """Of a run of seconds in that cloud, under the roles that launchers print; `faults.x=y` is aws.faults.x."""
    spelled = [text.replace("faults.", "+aws.faults.", 1) if text.startswith("faults.") else text for text in overrides]
    tiny = [text for text in tiny_settings(Path(PHOTOS)) if not text.startswith("data.root=")]
    where = ["aws=rehearsal", f"aws.state_dir={place}", *ROLES]
    return [*tiny, f"data.root={PHOTOS}", f"launcher={launcher}", *where, *spelled]


def prepared(
    place: Path, home: Path, *overrides: str, launcher: str = "sagemaker_spot"
) -> tuple[SageMakerLauncher, Plan]:
    """home: of the run's folder."""
    made, plan = prepare([*settings(place, *overrides, launcher=launcher), f"hydra.run.dir={home}"])
    assert isinstance(made, SageMakerLauncher)
    return made, plan


def job_of(launcher: SageMakerLauncher, plan: Plan) -> dict[str, Any]:
    """Of the run's latest job, as DescribeTrainingJob shows it."""
    found = launcher.jobs.latest(plan.spec.run_id)
    assert found is not None
    return dict(launcher.cloud.client("sagemaker").describe_training_job(TrainingJobName=found.name))


def states(job: dict[str, Any]) -> list[str]:
    return [step["Status"] for step in job["SecondaryStatusTransitions"]]
