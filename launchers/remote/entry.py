"""The first process on a rented machine: unpacks the code, adds what the image lacks, runs train.py, says why it ended.

The standard library alone until then. SageMaker runs it as the container's command, so that it hears of a stop or a
reclaim first, and passes that on. `SAGEMAKER_BASE_DIR` stands for /opt/ml.

train.py runs once for each GPU, on every machine of the job, or once on a machine without. The environment tells each
of them about all, in torchrun's words. It is not torchrun that starts them: that waits 30 s after SIGTERM, has no
place for a reason, and ends the log with a table of its own.
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
import time
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

_ML, _TMP = "/opt/ml", "/tmp/dogbreed"  # as the launcher writes them; `_here` says where they are
_TEMPORARY = re.compile(r"^\..+\.tmp-\d+$")  # what dogbreed.run_folder was about to write
_FEATURES = "features"  # below the checkpoints and as an input: kept for other runs, and no part of this run's folder
END = "The machine's part has ended"  # the last line: all that comes before it has been logged
_POLL_S = 0.05
_LAST_WORDS_S = 15.0  # for processes to notice that one of them has failed, and again until they are killed
_ROOT_CAUSE_S = 45.0  # that a machine which lost another waits: longer than the other takes to end with its reason
_PORTS = range(20000, 30000)  # below those that systems hand out by themselves


def main() -> int:
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", _ML))
    asked = _Signals()
    sent = json.loads((base / "input/data/spec/spec.json").read_bytes())
    crew = _crew(base, alone=bool(sent["spec"].get("search")))
    project, folder = base / "code", base / "checkpoints"
    try:
        _unpack(base / "input/data/code/bundle.tar.gz", project)
        _install(project, sent["extras"])
        if sent["unpacks"]:
            _unpack_photos(base / "input/data/photos", Path(_here(sent["unpacks"], base)))
        folder.mkdir(parents=True, exist_ok=True)
        attempt = _attempt(folder)
        if crew.first:  # SageMaker saves this folder of all machines to one place: one of them alone may write there
            _forget_lost_process(folder)
            for path in folder.rglob(".*.tmp-*"):  # half-written when the machine before was taken away
                path.unlink()
        begun = any((folder / name).exists() for name in ("config.yaml", "spec.json"))
        words = sent["again"] if sent["again"] and begun else sent["fresh"]
        argv = [sys.executable, "train.py", *words["typed"], *(_here(text, base) for text in words["own"])]
        common = {**os.environ, **_environment(base, crew)}
        ended = asked.run(argv, project, [common | more for more in crew.environments(base, attempt)])
    except _Failure as failure:
        return _end(base, 1, str(failure))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return _end(base, 1, f"[{'quota' if full else 'permission'}] {error}")
    if not any(status for _, status, _ in ended):
        if crew.first:
            _keep(folder, base / "output/data")
        return _end(base, 0, "")
    status, reason, consequence = _why(base, crew, ended)
    if consequence and crew.machines > 1:
        asked.wait(_ROOT_CAUSE_S)
    return _end(base, status, reason, say=crew.size > 1)  # one process alone has said it


class _Failure(Exception):  # noqa: N818 (of the machine)
    """Why the machine cannot do what it was asked to, as `[cause] words`."""


class _Signals:
    """SIGTERM and SIGINT go to each train.py; one that comes before they are there ends this process."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._asked: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heed)

    def run(self, argv: list[str], folder: Path, environments: list[dict[str, str]]) -> list[tuple[int, int, bool]]:
        """(local rank, exit status, whether it was ended from here) of each process, in the order of their ends."""
        if self._asked is not None:
            raise _Failure("[interrupted] stopped before training had begun")
        for environment in environments:
            self._children.append(subprocess.Popen(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL))
        if self._asked is not None:
            self._send(self._asked)
        ended: dict[int, int] = {}
        by_us: set[int] = set()
        failed_at, told = 0.0, 0
        while len(ended) < len(self._children):
            time.sleep(_POLL_S)
            for rank, child in enumerate(self._children):
                if rank not in ended and (status := child.poll()) is not None:
                    ended[rank] = 128 - status if status < 0 else status
                    if told:
                        by_us.add(rank)
            if not any(ended.values()) or self._asked is not None:
                continue  # who was asked to end saves first, in its own time
            failed_at = failed_at or time.monotonic()
            if time.monotonic() - failed_at > (told + 1) * _LAST_WORDS_S:
                self._send(signal.SIGTERM if told == 0 else signal.SIGKILL)
                told += 1
        return [(rank, status, rank in by_us) for rank, status in ended.items()]

    def wait(self, seconds: float) -> None:
        """Until a signal comes, at most that long."""
        until = time.monotonic() + seconds
        while self._asked is None and time.monotonic() < until:
            time.sleep(_POLL_S)

    def _send(self, number: int) -> None:
        for child in self._children:
            child.send_signal(number)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None and not self._children:
            sys.exit(128 + number)
        self._asked = number
        self._send(number)


@dataclass(frozen=True)
class _Crew:
    """The processes of a job: `here` of them on each machine, the machines in the order of their names."""

    hosts: list[str]
    current: str
    interface: str
    here: int

    @property
    def machine(self) -> int:
        return self.hosts.index(self.current)

    @property
    def machines(self) -> int:
        return len(self.hosts)

    @property
    def first(self) -> bool:
        return self.machine == 0

    @property
    def size(self) -> int:
        return self.machines * self.here

    def environments(self, base: Path, attempt: int) -> list[dict[str, str]]:
        """Of each process here. Where torch is not told of others, there are none."""
        reasons = [{"DOGBREED_REASON": str(_reason_file(base, rank))} for rank in range(self.here)]
        if self.size == 1:
            return reasons
        job = os.environ.get("TRAINING_JOB_NAME", "")
        drawn = int(hashlib.sha256(f"{job} {attempt}".encode()).hexdigest(), 16)
        common = {
            "MASTER_ADDR": self.hosts[0],
            "MASTER_PORT": str(_PORTS[drawn % len(_PORTS)]),  # two jobs on one machine must not meet
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.here),
            "GROUP_RANK": str(self.machine),
            "TORCHELASTIC_RUN_ID": job or "job",
            "GLOO_SOCKET_IFNAME": self.interface,
            "NCCL_SOCKET_IFNAME": self.interface,
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # where one is lost the others would log pages of addresses
        }
        ranks = [{"RANK": str(self.machine * self.here + n), "LOCAL_RANK": str(n)} for n in range(self.here)]
        return [{**common, **rank, **reason} for rank, reason in zip(ranks, reasons, strict=True)]


def _crew(base: Path, *, alone: bool) -> _Crew:
    """As SageMaker describes the job, and as many processes as the machine has GPUs; `alone` one, which shares them out
    among its trials.
    """
    try:
        about = json.loads((base / "input/config/resourceconfig.json").read_bytes())
    except FileNotFoundError:
        about = {"hosts": ["algo-1"], "current_host": "algo-1"}

    def number(host: str) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", host)]  # algo-10 comes after algo-9

    hosts = sorted(about["hosts"], key=number)
    return _Crew(
        hosts, about["current_host"], about.get("network_interface_name") or "eth0", 1 if alone else _gpus() or 1
    )


def _gpus() -> int:
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in said.splitlines())


def _attempt(folder: Path) -> int:
    """How often the run has been begun before; the same on all machines, which find the same folder."""
    try:
        return int(json.loads((folder / "state.json").read_bytes()).get("attempt", 0))
    except (OSError, ValueError):
        return 0


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


def _environment(base: Path, crew: _Crew) -> dict[str, str]:
    saved, sent = base / "checkpoints" / _FEATURES, base / "input/data" / _FEATURES
    if crew.first:  # saved as they grow, so that a reclaim repeats no pass; and those of earlier runs on these photos
        features = {"DOGBREED_FEATURES": str(saved), "DOGBREED_FEATURES_FROM": str(sent)}
    else:  # each machine has all of them, and one saves them
        features = {"DOGBREED_FEATURES_FROM": os.pathsep.join([str(sent), str(saved)])}
    return {
        **features,
        "PYTHONUNBUFFERED": "1",  # a line is in the log when it is said
        "DOGBREED_CACHE": _here(_TMP, base),
        "DOGBREED_SENT": str(base / "input/data/spec/spec.json"),
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


def _reason_file(base: Path, rank: int) -> Path:
    return base / f"reason-{rank}.json"


def _why(base: Path, crew: _Crew, ended: list[tuple[int, int, bool]]) -> tuple[int, str, bool]:
    """Exit status and reason of the process that failed first, and whether that only follows from another's end."""
    found = []
    for order, (rank, status, by_us) in enumerate(ended):
        if status:
            cause, detail, consequence = _reason(base, rank, status, several=crew.size > 1)
            of = f"process {crew.machine * crew.here + rank} (algo-{crew.machine + 1}): " if crew.size > 1 else ""
            found.append((consequence or by_us, order, status, f"[{cause}] {of}{detail}"))
    consequence, _, status, reason = min(found)
    return status, reason, consequence


def _reason(base: Path, rank: int, status: int, *, several: bool) -> tuple[str, str, bool]:
    """What train.py itself wrote down; else what its exit status says."""
    try:
        said: dict[str, Any] = json.loads(_reason_file(base, rank).read_bytes())
        return said["cause"], said["detail"], said["consequence"]
    except (OSError, ValueError, KeyError):
        pass
    if status == 128 + signal.SIGKILL:
        return "user_code", "train.py was killed, most likely because memory ran out", False
    if status == 128 + signal.SIGABRT and several:  # NCCL's watchdog, and C++ where another's connection breaks
        return "unknown", "train.py was aborted, as NCCL does where another process is lost (the log says why)", True
    return "unknown", f"train.py ended with exit status {status} (the log says why)", False


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
