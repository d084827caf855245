"""Download a remote run's results, or what it saved, into the run's folder on this machine."""

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from dogbreed.run_folder import lasting_files, write_json
from launchers.aws import s3, saved
from launchers.aws.errors import errors
from launchers.aws.layout import RunLocation
from launchers.aws.s3 import split_uri
from launchers.aws.saved import progress_there
from launchers.base import Cloud
from launchers.payload.photos import FEATURES
from launchers.runs.collect import complete, settle
from launchers.runs.launched import home_of, launched
from launchers.runs.progress import is_further, progress_here
from launchers.runs.released import release_trials
from launchers.runs.state import STATE_FILE, refuse_if_alive_here
from launchers.spec import LAUNCHED_FILE, TRIAL_FOLDERS, RunOutput, RunSpec
from launchers.status import Handle, LaunchError

# what describes how a run was made and its progress; checkpoints and models stay in S3
_LIGHT = ("spec.json", "config.yaml", "metrics.csv", "metrics.json", "fit.json", "environment.json", "skipped.csv")


def download_results(cloud: Cloud, handle: Handle, location: RunLocation, job: str, archive_uri: str) -> Path:
    """Return the folder of a run that has succeeded, complete, on this machine; what is there already is left alone.

    job: the name of the job that succeeded. archive_uri: the archive that it left.
    """
    spec = read_spec(cloud, location)
    folder = home_of(handle, spec)
    note = launched(folder) or {"handle": str(handle)}
    if note.get("home") == job and (folder / spec.output.result_file).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if not _unpack(cloud, archive_uri, folder):  # a job that was ended early has none
        match spec.output:
            case RunOutput():
                saved.download(cloud, location.checkpoints_uri, folder, _is_of_the_run)
        complete(folder, spec, archive_uri)
    settle(folder, spec)
    write_json(folder / LAUNCHED_FILE, {**note, "home": job})
    return folder


def download_to_resume(
    cloud: Cloud, handle: Handle, location: RunLocation, folder: Path | None, *, checkpoints: bool
) -> Path:
    """Make the run's folder on this machine ready to resume from: its settings and, with `checkpoints`, what it saved.

    folder: the run's folder on this machine; None if it has none. Raises LaunchError for a search.
    """
    spec, uri = read_spec(cloud, location), location.checkpoints_uri
    if spec.output.same_command_resumes:
        raise LaunchError(f"{handle} is a search.\nTry: the command that started it, which resumes it")
    folder = folder or home_of(handle, spec)
    refuse_if_alive_here(folder)
    folder.mkdir(parents=True, exist_ok=True)
    here, there = progress_here(spec.output, folder), progress_there(cloud, uri, spec.output)
    if not is_further(here, there, folder, uri):
        saved.download(cloud, uri, folder, lambda name: _is_of_the_run(name) if checkpoints else name in _LIGHT)
    settle(folder, spec)
    (folder / STATE_FILE).unlink(missing_ok=True)  # left by a machine that no longer exists
    # saved: there is a checkpoint, here or only there, that other settings would not go with
    write_json(folder / LAUNCHED_FILE, {"handle": str(handle), **(launched(folder) or {}), "saved": there is not None})
    return folder


def download_search(cloud: Cloud, handle: Handle, location: RunLocation, job: str) -> Path:
    """Download the study and the trials of a search whose job failed or was stopped; return the search's folder.

    job: the name of the job. If this machine has run more trials since, its own files stay.
    """
    spec, uri = read_spec(cloud, location), location.checkpoints_uri
    folder = home_of(handle, spec)
    folder.mkdir(parents=True, exist_ok=True)
    here, there = progress_here(spec.output, folder), progress_there(cloud, uri, spec.output)
    if there is None:
        raise LaunchError(f"{handle} has left no trial.\nTry: the command that started it")
    if not is_further(here, there, folder, uri):
        saved.download(cloud, uri, folder, _is_of_the_run)
        release_trials(folder)
    settle(folder, spec)
    write_json(folder / LAUNCHED_FILE, {"handle": str(handle), **(launched(folder) or {}), "home": job})
    return folder


def read_spec(cloud: Cloud, location: RunLocation) -> RunSpec:
    """Read the RunSpec that a run was started with. Raises LaunchError if it is missing or damaged."""
    content = s3.read(cloud, location.spec_uri)
    if content is None:
        raise LaunchError(f"{location.spec_uri} does not exist, so the settings of the run are unknown.")
    try:
        return _spec_in(content)
    except (ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"{location.spec_uri} is damaged: {error}") from error


def whole_spec(cloud: Cloud, location: RunLocation) -> RunSpec | None:
    """Return the RunSpec that a run was started with; None if it is missing or damaged.

    Raises LaunchError if AWS does not let it be read: what it says is then unknown.
    """
    content = s3.read(cloud, location.spec_uri)
    try:
        return None if content is None else _spec_in(content)
    except (ValueError, KeyError, TypeError):
        return None


def is_of_tuner(cloud: Cloud, location: RunLocation) -> bool:
    """Return whether settings in the bucket are of a search by SageMaker's tuner.

    False if they are missing or damaged. Raises LaunchError if AWS does not let them be read.
    """
    spec = whole_spec(cloud, location)
    return spec is not None and spec.tuning is not None


def is_of_another(cloud: Cloud, location: RunLocation, launcher: object) -> bool:
    """Return whether settings in the bucket are of another kind of launcher.

    False if they are missing or damaged. Raises LaunchError if AWS does not let them be read.
    """
    spec = whole_spec(cloud, location)
    try:
        target = "" if spec is None else str(spec.config["launcher"]["_target_"])
    except (KeyError, TypeError):
        return False
    return target != "" and target.rpartition(".")[2] != type(launcher).__name__


def _spec_in(content: bytes) -> RunSpec:
    return RunSpec.from_json(json.dumps(json.loads(content)["spec"]))


def _is_of_the_run(name: str) -> bool:
    """Return whether a saved file belongs in the run's folder; features are kept for other runs."""
    return not name.startswith(f"{FEATURES}/")


def _unpack(cloud: Cloud, uri: str, folder: Path) -> bool:
    """Unpack an archive into the folder. Return False if it does not exist."""
    bucket, key = split_uri(uri)
    with errors(f"downloading {uri}"):
        if s3.head(cloud, bucket, key) is None:
            return False
        with tempfile.TemporaryDirectory(dir=folder, prefix=".home-") as place:
            packed, unpacked = Path(place) / "output.tar.gz", Path(place) / "files"
            cloud.client("s3").download_file(bucket, key, str(packed))
            with tarfile.open(packed) as archive:
                archive.extractall(unpacked, filter="data")
            for path in lasting_files(unpacked):
                target = folder / _settled_name(path.relative_to(unpacked))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
    return True


def _settled_name(name: Path) -> Path:
    """Return the name of a file in the folder: a trial's folder that a later machine took up again has lost its suffix.

    If both folders have the file, the later one is moved last and wins.
    """
    first, *rest = name.parts
    trial = TRIAL_FOLDERS.fullmatch(first)
    return Path(trial[1], *rest) if rest and trial else name
