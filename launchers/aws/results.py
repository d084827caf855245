"""A run that ran elsewhere, and its folder here: how it is found again, and how its files come home."""

import json
import logging
import re
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed.run_folder import RunFolder, write_json
from launchers.aws import s3, transfer
from launchers.aws.account import Cloud
from launchers.aws.errors import errors
from launchers.aws.s3 import split_uri
from launchers.base import LAUNCHED_FILE, SEARCH_FILE, TRIAL_FOLDERS, Handle, LaunchError, RunSpec
from launchers.payload.photos import FEATURES
from launchers.runs.collect import settle, write_metrics_so_far
from launchers.runs.launched import home_of, launched
from launchers.runs.state import refuse_if_alive_here

if TYPE_CHECKING:
    from launchers.sagemaker.training import SageMakerLauncher

log = logging.getLogger("dogbreed")

_LIGHT = ("spec.json", "config.yaml", "metrics.csv", "metrics.json", "fit.json", "environment.json", "skipped.csv")


def bring_home(cloud: Cloud, handle: Handle, job: Mapping[str, Any]) -> Path:
    """The run folder of a job that has succeeded, complete, on this machine. What is there already is left alone."""
    spec, root = _spec_of(cloud, job), root_of(job)
    folder = home_of(handle, spec)
    note = launched(folder) or {"handle": str(handle)}
    result = RunFolder(folder).metrics if spec.search is None else folder / SEARCH_FILE
    if note.get("home") == job["TrainingJobName"] and result.exists():
        return folder
    uri = f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job['TrainingJobName']}/output/output.tar.gz"
    folder.mkdir(parents=True, exist_ok=True)
    _share_features(cloud, job)
    if not _unpack(cloud, uri, folder):  # a job that was ended early has none
        if spec.search is not None:
            raise LaunchError(f"{uri} is gone, which held the search's results.")
        s3.download(cloud, f"{root}/checkpoints", folder, _of_the_run)
        write_metrics_so_far(folder)
    settle(folder, spec)
    write_json(folder / LAUNCHED_FILE, {**note, "home": job["TrainingJobName"]})
    return folder


def fetch(launcher: "SageMakerLauncher", handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
    """The folder of a run elsewhere, made ready to go on: what it is, and with `checkpoints` all it has saved.

    folder: where it is known here. Raises LaunchError for an unknown run, and, where it is to go on here, for one that
    is still going on there.
    """
    _, job = launcher.latest(handle.run_id)
    if job is None:
        raise LaunchError(launcher.status(handle).detail)
    if checkpoints and not launcher.status(handle).finished:
        raise LaunchError(
            f"Run {handle} is still going on there.\nTry: python -m launchers attach {handle}, or cancel it first"
        )
    spec, uri = _spec_of(launcher.cloud, job), f"{root_of(job)}/checkpoints"
    if spec.search is not None:
        raise LaunchError(f"{handle} is a search.\nTry: the command that began it, which goes on with it")
    folder = folder or home_of(handle, spec)
    refuse_if_alive_here(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "checkpoints" / "last.ckpt"
    bucket, prefix = split_uri(uri)
    with errors(f"looking into {uri}"):
        there = s3.head(launcher.cloud, bucket, f"{prefix}/checkpoints/last.ckpt")
    if not (last.exists() and there and last.stat().st_mtime > there["LastModified"].timestamp() + 1):
        s3.download(launcher.cloud, uri, folder, lambda name: _of_the_run(name) if checkpoints else name in _LIGHT)
    settle(folder, spec)
    (folder / "state.json").unlink(missing_ok=True)  # of a machine that is gone
    # saved: there is a checkpoint, here or only there, that other settings would not go with
    write_json(folder / LAUNCHED_FILE, {"handle": str(handle), **(launched(folder) or {}), "saved": bool(there)})
    return folder


def _of_the_run(name: str) -> bool:
    return not name.startswith(f"{FEATURES}/")


def _share_features(cloud: Cloud, job: Mapping[str, Any]) -> None:
    """What the job has computed of its photos, where the next run on them looks for it; the plan named the place."""
    channels = {channel["ChannelName"]: channel for channel in job.get("InputDataConfig", [])}
    if FEATURES not in channels:
        return
    place, key = channels[FEATURES]["DataSource"]["S3DataSource"]["S3Uri"], job["OutputDataConfig"].get("KmsKeyId")
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
    try:
        transfer.share_features(cloud, f"{root_of(job)}/checkpoints/{FEATURES}", place, encryption)
    except LaunchError as error:  # the next run computes them again: no reason to keep this one's results away
        log.warning("%s", error)


def root_of(job: Mapping[str, Any]) -> str:
    """s3://bucket/prefix/runs/<run id>: where everything of the job's run lies."""
    return str(job["CheckpointConfig"]["S3Uri"]).removesuffix("/checkpoints")


def _spec_of(cloud: Cloud, job: Mapping[str, Any]) -> RunSpec:
    content = s3.read(cloud, f"{root_of(job)}/spec.json")
    if content is None:
        raise LaunchError(f"{root_of(job)}/spec.json is gone, so it cannot be told what the run was.")
    try:
        return RunSpec.from_json(json.dumps(json.loads(content)["spec"]))
    except (ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"{root_of(job)}/spec.json is damaged: {error}") from error


def _unpack(cloud: Cloud, uri: str, folder: Path) -> bool:
    """False where there is no such object."""
    bucket, key = split_uri(uri)
    with errors(f"downloading {uri}"):
        if s3.head(cloud, bucket, key) is None:
            return False
        with tempfile.TemporaryDirectory(dir=folder, prefix=".home-") as place:
            packed = Path(place) / "output.tar.gz"
            cloud.client("s3").download_file(bucket, key, str(packed))
            with tarfile.open(packed) as archive:
                archive.extractall(Path(place) / "files", filter="data")
            for path in sorted((Path(place) / "files").rglob("*")):
                if path.is_file():
                    first, *rest = path.relative_to(Path(place) / "files").parts
                    if rest and (trial := re.fullmatch(TRIAL_FOLDERS, first)):
                        first = trial[1]
                    target = folder.joinpath(first, *rest)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(path, target)
    return True
