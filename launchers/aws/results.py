"""Download a remote run's results, or what it saved, into the run's folder on this machine."""

import json
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from dogbreed.run_folder import write_json
from launchers.aws import s3
from launchers.aws.errors import errors
from launchers.aws.s3 import split_uri
from launchers.base import LAUNCHED_FILE, SPEC_FILE, TRIAL_FOLDERS, Cloud, Handle, LaunchError, RunOutput, RunSpec
from launchers.payload.photos import FEATURES
from launchers.runs.collect import complete, settle
from launchers.runs.launched import home_of, launched
from launchers.runs.state import STATE_FILE, refuse_if_alive_here

_LIGHT = ("spec.json", "config.yaml", "metrics.csv", "metrics.json", "fit.json", "environment.json", "skipped.csv")


def download_results(cloud: Cloud, handle: Handle, root_uri: str, job: str, output_uri: str) -> Path:
    """Return the folder of a run that has succeeded, complete, on this machine; what is there already is left alone.

    root_uri: of everything of the run, without a slash at its end. job: the name of the job that succeeded. output_uri:
    the archive that it left.
    """
    spec = read_spec(cloud, root_uri)
    folder = home_of(handle, spec)
    note = launched(folder) or {"handle": str(handle)}
    if note.get("home") == job and (folder / spec.output.result_file).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if not _unpack(cloud, output_uri, folder):  # a job that was ended early has none
        if isinstance(spec.output, RunOutput):
            s3.download(cloud, f"{root_uri}/checkpoints", folder, _is_of_the_run)
        complete(folder, spec, output_uri)
    settle(folder, spec)
    write_json(folder / LAUNCHED_FILE, {**note, "home": job})
    return folder


def download_to_resume(cloud: Cloud, handle: Handle, root_uri: str, folder: Path | None, *, checkpoints: bool) -> Path:
    """Make the run's folder on this machine ready to resume from: its settings and, with `checkpoints`, what it saved.

    root_uri: as for `download_results`. folder: where it is known on this machine; None if it is not.
    """
    spec, uri = read_spec(cloud, root_uri), f"{root_uri}/checkpoints"
    if not isinstance(spec.output, RunOutput):
        raise LaunchError(f"{handle} is a search.\nTry: the command that began it, which goes on with it")
    folder = folder or home_of(handle, spec)
    refuse_if_alive_here(folder)
    folder.mkdir(parents=True, exist_ok=True)
    newest = folder / spec.output.resume_point
    bucket, prefix = split_uri(uri)
    with errors(f"looking into {uri}"):
        there = s3.head(cloud, bucket, f"{prefix}/{spec.output.resume_point}")
    if not (newest.exists() and there and newest.stat().st_mtime > there["LastModified"].timestamp() + 1):
        s3.download(cloud, uri, folder, lambda name: _is_of_the_run(name) if checkpoints else name in _LIGHT)
    settle(folder, spec)
    (folder / STATE_FILE).unlink(missing_ok=True)  # of a machine that is gone
    # saved: there is a checkpoint, here or only there, that other settings would not go with
    write_json(folder / LAUNCHED_FILE, {"handle": str(handle), **(launched(folder) or {}), "saved": bool(there)})
    return folder


def read_spec(cloud: Cloud, root_uri: str) -> RunSpec:
    """Read what a run was started as. Raises LaunchError if that is gone or damaged."""
    content = s3.read(cloud, f"{root_uri}/{SPEC_FILE}")
    if content is None:
        raise LaunchError(f"{root_uri}/{SPEC_FILE} is gone, so it cannot be told what the run was.")
    try:
        return RunSpec.from_json(json.dumps(json.loads(content)["spec"]))
    except (ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"{root_uri}/{SPEC_FILE} is damaged: {error}") from error


def _is_of_the_run(name: str) -> bool:
    return not name.startswith(f"{FEATURES}/")


def _unpack(cloud: Cloud, uri: str, folder: Path) -> bool:
    """Unpack an archive into the folder. Returns False if there is no such object."""
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
