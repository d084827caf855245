"""The first process on a rented machine: unpacks the code, adds what the image lacks, runs train.py, says why it ended.

The standard library alone until then. SageMaker runs it as the container's command, so that it hears of a stop or a
reclaim first, and passes that on. `SAGEMAKER_BASE_DIR` stands for /opt/ml.
"""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from types import FrameType

_ML, _TMP = "/opt/ml", "/tmp/dogbreed"  # as the launcher writes them; `_here` says where they are
_TEMPORARY = re.compile(r"^\..+\.tmp-\d+$")  # what dogbreed.run_folder was about to write
_FEATURES = "features"  # below the checkpoints and as an input: kept for other runs, and no part of this run's folder
END = "The machine's part has ended"  # the last line: all that comes before it has been logged


def main() -> int:
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", _ML))
    asked = _Signals()
    sent = json.loads((base / "input/data/spec/spec.json").read_bytes())
    project, folder = base / "code", base / "checkpoints"
    try:
        _unpack(base / "input/data/code/bundle.tar.gz", project)
        _install(project, sent["extras"])
        if sent["unpacks"]:
            _unpack_photos(base / "input/data/photos", Path(_here(sent["unpacks"], base)))
        _forget_lost_process(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.rglob(".*.tmp-*"):  # half-written when the machine before was taken away
            path.unlink()
        begun = any((folder / name).exists() for name in ("config.yaml", "spec.json"))
        words = sent["again"] if sent["again"] and begun else sent["fresh"]
        argv = [sys.executable, "train.py", *words["typed"], *(_here(text, base) for text in words["own"])]
        status = asked.run(argv, project, {**os.environ, **_environment(base)})
    except _Failure as failure:
        return _end(base, 1, str(failure))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return _end(base, 1, f"[{'quota' if full else 'permission'}] {error}")
    if status == 0:
        _keep(folder, base / "output/data")
        return _end(base, 0, "")
    return _end(base, status, _reason(folder, status), say=False)  # train.py has said it


class _Failure(Exception):  # noqa: N818 (of the machine)
    """Why the machine cannot do what it was asked to, as `[cause] words`."""


class _Signals:
    """SIGTERM and SIGINT go to train.py; one that comes before it is there ends this process."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heed)

    def run(self, argv: list[str], folder: Path, environment: dict[str, str]) -> int:
        if self._early is not None:
            raise _Failure("[interrupted] stopped before training had begun")
        self._child = subprocess.Popen(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL)
        if self._early is not None:
            self._child.send_signal(self._early)
        status = self._child.wait()
        return 128 - status if status < 0 else status

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self._child is not None:
            self._child.send_signal(number)
        elif self._early is None:
            self._early = number
        else:
            sys.exit(128 + number)


def _unpack(bundle: Path, project: Path) -> None:
    project.mkdir(parents=True, exist_ok=True)
    with tarfile.open(bundle) as archive:
        archive.extractall(project, filter="data")
    if not (project / "train.py").is_file():
        raise _Failure("[bad_config] the code holds no train.py")


def _unpack_photos(channel: Path, root: Path) -> None:
    """Shards in the manifest's order; the channel is streamed, so that later ones arrive meanwhile."""
    try:
        shards = json.loads((channel / "manifest.json").read_bytes())["shards"]
    except FileNotFoundError:
        raise _Failure("[bad_config] the photos' manifest.json is missing in S3: submit the run again") from None
    root.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        try:
            content = (channel / shard["name"]).read_bytes()
        except FileNotFoundError:
            raise _Failure(
                f"[bad_config] {shard['name']} of the photos is missing in S3: submit the run again"
            ) from None
        if hashlib.sha256(content).hexdigest() != shard["sha256"]:
            raise _Failure(f"[bad_config] {shard['name']} of the photos is damaged in S3: remove it, submit again")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(root, filter="data")


def _install(project: Path, extras: list[str]) -> None:
    """What the image lacks of the project's requirements. Never another torch than the image's own."""
    with (project / "pyproject.toml").open("rb") as file:
        about = tomllib.load(file)["project"]
    wanted = [*about["dependencies"], *(text for extra in extras for text in about["optional-dependencies"][extra])]
    lacking = [text for text in wanted if not _there(text)]
    if not lacking:
        return
    if os.environ.get("DOGBREED_INSTALL") == "no":
        raise _Failure(
            f"[bad_config] without a network nothing can be installed, and the image lacks: {', '.join(lacking)}"
        )
    print("Installing what the image lacks:", ", ".join(lacking), flush=True)
    present = ((name, _version(name)) for name in ("torch", "torchvision"))
    pins = "".join(f"{name}=={version}\n" for name, version in present if version)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(pins)
        constraints.flush()
        words = ["install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
        command = [sys.executable, "-m", "pip", *words, "-c", constraints.name, *lacking]
        status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if status:
        raise _Failure(f"[bad_config] pip could not install {', '.join(lacking)} (the log says why)")


def _there(text: str) -> bool:
    from pip._vendor.packaging.requirements import Requirement  # the parser that pip itself uses

    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _environment(base: Path) -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",  # a line is in the log when it is said
        "DOGBREED_CACHE": _here(_TMP, base),
        "DOGBREED_SENT": str(base / "input/data/spec/spec.json"),
        "DOGBREED_FEATURES": str(base / "checkpoints" / _FEATURES),  # saved as it grows: a reclaim repeats no pass
        "DOGBREED_FEATURES_FROM": str(base / "input/data" / _FEATURES),  # of earlier runs on the same photos
    }


def _here(text: str, base: Path) -> str:
    places = {_ML: str(base), _TMP: str(Path(tempfile.gettempdir()) / "dogbreed")}
    return re.sub(rf"(?:{_ML}|{_TMP})(?=/|$)", lambda found: places[found[0]], text)


def _forget_lost_process(folder: Path) -> None:
    """The folder came from a machine that was taken away: what ran there, or the trials of a search, run no more."""
    for file in (folder / "state.json", *folder.glob("*/state.json")):
        try:
            state = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue
        if state.get("phase") == "running":
            lost = {**state, "phase": "failed", "cause": "interrupted", "detail": "the machine was taken away"}
            file.write_text(json.dumps(lost, indent=2) + "\n")


def _keep(folder: Path, output: Path) -> None:
    """The run folder as output data: that is uploaded before the job counts as completed."""
    for path in sorted(folder.rglob("*")):
        within = path.relative_to(folder)
        if path.is_file() and not _TEMPORARY.match(path.name) and within.parts[0] != _FEATURES:
            target = output / within
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # another file system
                shutil.copy2(path, target)


def _reason(folder: Path, status: int) -> str:
    """What the run itself wrote down; else what its exit status says."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        state = {}
    if state.get("phase") in ("failed", "cancelled") and state.get("cause"):
        return f"[{state['cause']}] {state.get('detail', '')}"
    if status == 128 + signal.SIGKILL:
        return "[user_code] train.py was killed, most likely because memory ran out"
    return f"[unknown] train.py ended with exit status {status} (the log says why)"


def _end(base: Path, status: int, reason: str, *, say: bool = True) -> int:
    if reason:
        (base / "output").mkdir(parents=True, exist_ok=True)
        (base / "output/failure").write_text(reason[:900])  # of 1,024 characters that SageMaker shows
        if say:
            print(reason, flush=True)
    print(END, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
