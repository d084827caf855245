"""The first process on a rented machine: unpacks the code, installs what the image lacks, runs train.py and reports why
it ended.

It is sent as a single file and uses the standard library alone. SageMaker runs it as the container's command, so that
signals of a stop or a spot interruption come here first, and are passed on. Only SageMaker's tuner knows no command:
the image's own toolkit starts this file, and passes no signal on. `SAGEMAKER_BASE_DIR` replaces /opt/ml.

train.py runs once for each GPU on every machine of the job; once on a machine without GPU. The environment tells each
process about all of them, with torchrun's variables. torchrun itself does not fit: it waits 30 s after SIGTERM, cannot
pass on a reason, and ends the log with a table of its own.
"""

import errno
import hashlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

END = "The machine's part has ended"  # the last line: everything before it has been logged

_ML, _TMP = "/opt/ml", "/tmp/dogbreed"  # as the launcher writes them; `_local` replaces them
# suffixes of temporary files in the run's folder, as in dogbreed.run_folder
_HALF_WRITTEN = ".sagemaker-ignore"
_PASSING = (_HALF_WRITTEN, ".sagemaker-uploading", ".sagemaker-uploaded")
_FEATURES = "features"  # below the checkpoints and as an input: kept for other runs, not part of this run's folder
_POLL_S = 0.05
_LAST_WORDS_S = 15.0  # for processes to notice that one of them has failed, and again until they are killed
_ROOT_CAUSE_S = 45.0  # that a machine which lost another waits: longer than the other takes to end with its reason
_PORTS = range(20000, 30000)  # below those that systems hand out by themselves


def main() -> int:
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", _ML))
    training = _Training()
    sent = json.loads((base / "input/data/spec/spec.json").read_bytes())
    tuned = bool(sent["spec"].get("tuning"))
    group = _process_group(base, search=bool(sent["spec"].get("search")) and not tuned)
    try:
        _unpack(base / "input/data/code/bundle.tar.gz", base / "code")
        trial = _module(base / "code", "tuned") if tuned else None
        folder = trial["folder"](base) if trial else base / "checkpoints"
        argv, attempt = _prepare(base, folder, group, sent, trial["overrides"](base) if trial else [])
        came = _module(base / "code", "uploads")["stamps"](folder)
        secrets = _secrets(base / "code")
        common = {**os.environ, **secrets, **_environment(base, folder, group), **_gpu_variables(base / "code", group)}
        objective = trial["Objective"](folder, sent["spec"]["config"]) if trial and group.first else None
        if objective is not None:
            training.look = objective.look
        exits = training.run(argv, base / "code", [common | more for more in group.environments(base, attempt)])
    except _Failure as failure:
        return _end(base, 1, str(failure), tuned=tuned)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return _end(base, 1, f"[{'quota' if full else 'permission'}] {error}", tuned=tuned)
    failed = any(each.status for each in exits)
    if group.first and not failed:
        if objective is not None:
            objective.end()
        _copy_run_folder(folder, base / "output/data")
        _unpack_model(folder / "model.tar.gz", base / "model")
    if group.first:
        _wait_for_uploads(base, folder, came, training.signalled_at, failed=failed, tuned=tuned)
    if not failed:
        return _end(base, 0, "")
    status, reason, consequence = _root_cause(base, group, exits)
    if consequence and group.machines > 1:
        training.wait(_ROOT_CAUSE_S)
    return _end(base, status, reason, announce=group.size > 1, tuned=tuned)  # one process alone has logged it itself


def _prepare(
    base: Path, folder: Path, group: "_ProcessGroup", sent: dict[str, Any], further: list[str]
) -> tuple[list[str], int]:
    """Install what the run needs. Return the command of train.py and the number of earlier attempts.

    further: overrides that only this machine knows.
    """
    project = base / "code"
    _install(project, sent)
    if sent["unpacks"]:
        unpack = _module(project, "sent_photos")["unpack"]
        if why_not := unpack(base / "input/data/photos", Path(_local(sent["unpacks"], base))):
            raise _Failure(why_not)
    folder.mkdir(parents=True, exist_ok=True)
    attempt = _attempt(folder)
    if group.first:  # SageMaker saves this folder of all machines to one place: one of them alone may write there
        _mark_interrupted(folder)
        for path in folder.rglob(f".*{_HALF_WRITTEN}"):  # when the machine before was interrupted
            path.unlink(missing_ok=True)
    begun = any((folder / name).exists() for name in ("config.yaml", "spec.json"))
    words = sent["again"] if sent["again"] and begun else sent["fresh"]
    own = [_local(text, base) for text in words["own"]]
    return [sys.executable, "train.py", *words["typed"], *own, *further], attempt


class _Failure(Exception):  # noqa: N818 (of the machine)
    """The reason why the machine cannot run the command, as `[cause] message`."""


@dataclass(frozen=True)
class _Exit:
    """How a process ended. rank: on this machine. by_us: it was signalled because another one had failed."""

    rank: int
    status: int
    by_us: bool


class _Training:
    """The processes of train.py. SIGTERM and SIGINT are passed on to each; without any, they end this process."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._received: int | None = None
        self.signalled_at: float | None = None  # by time.monotonic()
        self.look: Callable[[], None] = lambda: None  # called every _POLL_S while they run
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def run(self, argv: list[str], folder: Path, environments: list[dict[str, str]]) -> list[_Exit]:
        """Start a process for each environment, and return how they ended, in that order.

        If one fails by itself, the others receive SIGTERM, then SIGKILL.
        """
        if self._received is not None:
            raise _Failure("[interrupted] stopped before training had begun")
        for environment in environments:
            self._children.append(subprocess.Popen(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL))
        if self._received is not None:
            self._send(self._received)
        exits: dict[int, _Exit] = {}
        escalation = iter((signal.SIGTERM, signal.SIGKILL))
        next_at, by_us = 0.0, False
        while len(exits) < len(self._children):
            time.sleep(_POLL_S)
            self.look()
            for rank, child in enumerate(self._children):
                if rank not in exits and (status := child.poll()) is not None:
                    exits[rank] = _Exit(rank, 128 - status if status < 0 else status, by_us)
            failed = any(each.status for each in exits.values())
            if not failed or self._received is not None:
                continue  # processes that were asked to end save first, in their own time
            next_at = next_at or time.monotonic() + _LAST_WORDS_S
            if time.monotonic() > next_at and (number := next(escalation, None)) is not None:
                self._send(number)
                next_at, by_us = next_at + _LAST_WORDS_S, True
        return list(exits.values())

    def wait(self, seconds: float) -> None:
        """Wait until a signal comes, at most that long."""
        until = time.monotonic() + seconds
        while self._received is None and time.monotonic() < until:
            time.sleep(_POLL_S)

    def _send(self, number: int) -> None:
        for child in self._children:
            child.send_signal(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and not self._children:
            sys.exit(128 + number)
        self._received, self.signalled_at = number, self.signalled_at or time.monotonic()
        self._send(number)


@dataclass(frozen=True)
class _ProcessGroup:
    """The processes of a job: `local_size` of them on each machine, the machines in the order of their names."""

    hosts: list[str]
    current: str
    interface: str
    local_size: int
    gpus: int  # of this machine

    @property
    def machine(self) -> int:
        return self.hosts.index(self.current)

    @property
    def machines(self) -> int:
        return len(self.hosts)

    @property
    def first(self) -> bool:
        """Return whether this is the first machine."""
        return self.machine == 0

    @property
    def size(self) -> int:
        return self.machines * self.local_size

    def rank(self, local_rank: int) -> int:
        return self.machine * self.local_size + local_rank

    def environments(self, base: Path, attempt: int) -> list[dict[str, str]]:
        """Return the variables of each process on this machine. A single process gets no rendezvous variables."""
        reasons = [{"DOGBREED_REASON": str(_reason_file(base, rank))} for rank in range(self.local_size)]
        if self.size == 1:
            return reasons
        job = os.environ.get("TRAINING_JOB_NAME", "")
        drawn = int(hashlib.sha256(f"{job} {attempt}".encode()).hexdigest(), 16)
        common = {
            "MASTER_ADDR": self.hosts[0],
            "MASTER_PORT": str(_PORTS[drawn % len(_PORTS)]),  # two jobs on one machine must not share a port
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "GROUP_RANK": str(self.machine),
            "TORCHELASTIC_RUN_ID": job or "job",
            "GLOO_SOCKET_IFNAME": self.interface,
            "NCCL_SOCKET_IFNAME": self.interface,
            "NCCL_DEBUG": "WARN",  # /etc/nccl.conf of AWS's images would have pages logged
            "DOGBREED_MEETING_S": "900",  # machines of a job are there minutes after one another
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # where one is lost the others would log pages of addresses
        }
        ranks = [{"RANK": str(self.rank(n)), "LOCAL_RANK": str(n)} for n in range(self.local_size)]
        return [{**common, **rank, **reason} for rank, reason in zip(ranks, reasons, strict=True)]


def _process_group(base: Path, *, search: bool) -> _ProcessGroup:
    """Return the processes of the job that SageMaker describes: one for each GPU of a machine.

    search: a whole search is one process, which shares the GPUs out among its trials.
    """
    try:
        about = json.loads((base / "input/config/resourceconfig.json").read_bytes())
    except FileNotFoundError:
        about = {"hosts": ["algo-1"], "current_host": "algo-1"}

    def number(host: str) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", host)]  # algo-10 comes after algo-9

    hosts = sorted(about["hosts"], key=number)
    interface = about.get("network_interface_name") or "eth0"
    gpus = _gpus()
    return _ProcessGroup(hosts, about["current_host"], interface, 1 if search else gpus or 1, gpus)


def _gpus() -> int:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _attempt(folder: Path) -> int:
    """Return the number of earlier attempts; the same on all machines, which have the same folder."""
    try:
        return int(json.loads((folder / "state.json").read_bytes()).get("attempt", 0))
    except (OSError, ValueError):
        return 0


def _unpack(bundle: Path, project: Path) -> None:
    project.mkdir(parents=True, exist_ok=True)
    with tarfile.open(bundle) as archive:
        archive.extractall(project, filter="data")
    if not (project / "train.py").is_file():
        raise _Failure("[bad_config] the code bundle contains no train.py")


def _module(project: Path, name: str) -> dict[str, Any]:
    """Load launchers/remote/<name>.py of the code that was sent."""
    return runpy.run_path(str(project / "launchers" / "remote" / f"{name}.py"))


def _install(project: Path, sent: dict[str, Any]) -> None:
    if why_not := _module(project, "install")["install"](project, sent["extras"], sent["versions"]):
        raise _Failure(why_not)


def _secrets(project: Path) -> dict[str, str]:
    """Return the variables of launcher.secrets, which train.py alone gets."""
    values, why_not = _module(project, "secret_values")["fetch"](os.environ)
    if why_not:
        raise _Failure(why_not)
    return dict(values)


def _gpu_variables(project: Path, group: _ProcessGroup) -> dict[str, str]:
    """Return what CUDA needs to use the GPUs that the machine has, if any."""
    if not group.gpus:
        return {}
    variables, why_not = _module(project, "gpu")["make_usable"]()
    if why_not:
        raise _Failure(why_not)
    return dict(variables)


def _environment(base: Path, folder: Path, group: _ProcessGroup) -> dict[str, str]:
    """Return the variables that all processes of this machine share."""
    saved, sent = folder / _FEATURES, base / "input/data" / _FEATURES
    if group.first:  # saved as they grow, so that an interruption repeats no pass; and those of earlier runs
        features = {"DOGBREED_FEATURES": str(saved), "DOGBREED_FEATURES_FROM": str(sent)}
    else:  # each machine has all of them, and one saves them
        features = {"DOGBREED_FEATURES_FROM": os.pathsep.join([str(sent), str(saved)])}
    return {
        **features,
        "PYTHONUNBUFFERED": "1",  # a line is in the log when it is printed
        "ORT_DISABLE_TELEMETRY": os.environ.get(
            "ORT_DISABLE_TELEMETRY", "1"
        ),  # no reports of ONNX Runtime to Microsoft
        **_bytecode(base),
        "DOGBREED_CACHE": _local(_TMP, base),
        "DOGBREED_SENT": str(base / "input/data/spec/spec.json"),
    }


def _bytecode(base: Path) -> dict[str, str]:
    """AWS's images neither have bytecode nor let it be written: without this each process would compile torch anew."""
    if not os.environ.get("PYTHONDONTWRITEBYTECODE"):
        return {}
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": _local(f"{_TMP}/pycache", base)}


def _local(text: str, base: Path) -> str:
    """Replace the launcher's paths by where they are on this machine."""
    places = {_ML: str(base), _TMP: str(Path(tempfile.gettempdir()) / "dogbreed")}
    return re.sub(rf"(?:{_ML}|{_TMP})(?=/|$)", lambda found: places[found[0]], text)


def _mark_interrupted(folder: Path) -> None:
    """Correct the state of a run, or of a search's trials, whose machine was interrupted."""
    for file in (folder / "state.json", *folder.glob("*/state.json")):
        try:
            state = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue
        if state.get("phase") == "running":
            lost = {**state, "phase": "failed", "cause": "interrupted", "detail": "the machine was interrupted"}
            file.write_text(json.dumps(lost, indent=2) + "\n")


def _copy_run_folder(folder: Path, output: Path) -> None:
    """Make the run folder output data, which is uploaded before the job counts as completed."""
    for path in sorted(folder.rglob("*")):
        within = path.relative_to(folder)
        if path.is_file() and not path.name.endswith(_PASSING) and within.parts[0] != _FEATURES:
            target = output / within
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # it has been deleted meanwhile
                try:
                    os.link(path, target)
                except OSError:  # another file system
                    shutil.copy2(path, target)


def _unpack_model(archive: Path, target: Path) -> None:
    """Make the served model the job's own artifact: SageMaker packs the contents of this folder."""
    if archive.is_file():
        with tarfile.open(archive) as packed:
            packed.extractall(target, filter="data")


def _wait_for_uploads(
    base: Path, folder: Path, before: dict[Path, Any], signalled_at: float | None, *, failed: bool, tuned: bool
) -> None:
    """Wait until SageMaker has saved the files of this machine that other machines need, or the client.

    before: the stamps at the start. signalled_at: None if the machine received no signal. tuned: as `needed` takes it.
    """
    uploads = _module(base / "code", "uploads")
    longest_s: float = uploads["longest_s"]()
    if not longest_s:  # the process that has started this one saves the files
        return
    if failed and signalled_at is None:
        longest_s /= 5  # other machines wait for this one's reason
    until = (signalled_at or time.monotonic()) + longest_s
    if not uploads["wait_for"](uploads["needed"](folder, before, failed=failed, tuned=tuned), folder, until=until):
        print("SageMaker has not marked all saved files as uploaded: some of them may be missing in S3", flush=True)


def _reason_file(base: Path, rank: int) -> Path:
    return base / f"reason-{rank}.json"


def _root_cause(base: Path, group: _ProcessGroup, exits: list[_Exit]) -> tuple[int, str, bool]:
    """Return status and reason of the process that failed first, and whether another's end caused it."""
    found = []
    for order, each in enumerate(exits):
        if each.status:
            cause, detail, consequence = _reason(base, each, several=group.size > 1)
            of = f"process {group.rank(each.rank)} (algo-{group.machine + 1}): " if group.size > 1 else ""
            found.append((consequence or each.by_us, order, each.status, f"[{cause}] {of}{detail}"))
    consequence, _, status, reason = min(found)
    return status, reason, consequence


def _reason(base: Path, ended: _Exit, *, several: bool) -> tuple[str, str, bool]:
    """Return cause, detail and whether it is a consequence of another process's end.

    Reads the reason that train.py wrote, else derives one from its exit status.
    """
    try:
        written: dict[str, Any] = json.loads(_reason_file(base, ended.rank).read_bytes())
        return written["cause"], written["detail"], written["consequence"]
    except (OSError, ValueError, KeyError):
        pass
    if ended.status == 128 + signal.SIGKILL:
        return "user_code", "train.py was killed, most likely because memory ran out", False
    if ended.status == 128 + signal.SIGABRT and several:  # NCCL's watchdog, and C++ where another's connection breaks
        return "unknown", "train.py was aborted, as NCCL does when another process is lost (see the log)", True
    return "unknown", f"train.py ended with exit status {ended.status} (see the log)", False


def _end(base: Path, status: int, reason: str, *, announce: bool = True, tuned: bool = False) -> int:
    """Report why the machine's part has ended, to SageMaker and with `announce` in the log, and return the status.

    tuned: whether the image's toolkit writes the report instead, from the first line that names an error of Python's.
    """
    if reason:
        (base / "output").mkdir(parents=True, exist_ok=True)
        (base / "output/failure").write_text(reason[:900])  # of 1,024 characters that SageMaker shows
        if announce or tuned:
            print(f"RuntimeError: {reason[:600]}" if tuned else reason, flush=True)
    print(END, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
