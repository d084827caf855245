"""One training job being run: machines that come and go, a process for each, what it says and what it leaves."""

import io
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed.progress import Epoch, TrialEnd
from dogbreed.run_folder import write_json
from launchers.aws.s3 import split_uri
from launchers.cost.prices import spot_share
from launchers.rehearsal.faults import Progress, Trouble
from launchers.rehearsal.logs import put_log
from launchers.rehearsal.machine import PROCESSES, Machine, identity
from launchers.rehearsal.names import REGION
from launchers.rehearsal.services.training_record import JobRecord, now

if TYPE_CHECKING:
    from launchers.rehearsal.services.training import TrainingJobs

_POLL_S = 0.01  # so that a step can be hit
_SYNC_S = 1.0  # between two looks at the checkpoint folder
_GRACE_S = 120.0  # from SIGTERM to SIGKILL, as documented for StopTrainingJob
_FAILED_GRACE_S = 20.0  # the same once a machine of several has failed
_STEP_S = 0.1  # that phases take here which take minutes there
_CAPACITY_S = 0.5  # until a machine is found again, or none is
_FAILURE_MOST = 1024  # characters of a FailureReason
_OPT_ML = "/opt/ml"


class JobRun(threading.Thread):
    def __init__(self, jobs: "TrainingJobs", record: JobRecord, trouble: Trouble) -> None:
        super().__init__(daemon=True, name=record.name)
        self.jobs, self.record, self.trouble = jobs, record, trouble
        self.place, self.shelf = jobs.place(record), jobs.shelf
        self.request = record.request
        self._stop_asked = threading.Event()
        self._abandoned = threading.Event()
        self._values: dict[str, float] = {}  # of the metric definitions, the latest
        self._events: dict[str, list[dict[str, Any]]] = {}
        self._uploaded: dict[str, tuple[int, int]] = {}  # checkpoint file -> (time, size)
        self._random = random.Random(record.name)
        self._failed: list[Machine] = []  # that ended before the others

    def stop(self) -> None:
        """StopTrainingJob: SIGTERM, two minutes, SIGKILL."""
        if not self._stop_asked.is_set():
            self._to("Stopping", "Stopping the training job", status=None)
            self.record.status = "Stopping"
            self._stop_asked.set()

    def abandon(self) -> None:
        """The server is going away."""
        self._abandoned.set()

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            traceback.print_exc()
            self._end("Failed", f"InternalServerError: {error!r}")
        finally:
            shutil.rmtree(self.place / "machines", ignore_errors=True)

    def _run(self) -> None:
        attempt = 0
        while True:
            attempt += 1
            if self._pause(_STEP_S):
                return self._end_unstarted()
            self._to("Starting" if attempt > 1 else "Pending", "Preparing the instances for training")
            if attempt == 1 and self.trouble.no_capacity:
                if self._pause(_CAPACITY_S):
                    return self._end_unstarted()
                kind = self.request["ResourceConfig"]["InstanceType"]
                return self._end(
                    "Failed",
                    f"CapacityError: Unable to provision requested ML compute capacity of {kind}. "
                    "Please retry using a different ML instance type or after some time.",
                )
            self._to("Downloading", "Downloading input data")
            machines = self._machines(attempt)
            for machine in machines:
                if missing := self._furnish(machine, machines):
                    return self._end("Failed", missing)
            self._to("Training", "Training image download completed. Training in progress.")
            outcome = self._attempt(attempt, machines)
            if self._abandoned.is_set():
                return None
            if outcome != "Interrupted":
                return self._finish(outcome, machines)
            self._to("Interrupted", "The training job was interrupted because the spot instance was reclaimed")
            shutil.rmtree(self.place / "machines" / str(attempt), ignore_errors=True)
            if self._pause(_CAPACITY_S):
                return self._end_unstarted()

    # --- machines ---

    def _machines(self, attempt: int) -> list[Machine]:
        count = self.request["ResourceConfig"]["InstanceCount"]
        second = max([int(time.time()), *(int(name.rpartition("-")[2]) + 1 for name in self._events)])
        machines = []
        for n in range(1, count + 1):
            folder = self.place / "machines" / str(attempt) / f"algo-{n}"
            stream = f"{self.record.name}/algo-{n}-{second}"
            self._events[stream] = []
            put_log(stream, [])
            machines.append(Machine(folder, f"algo-{n}", f"127.0.0.{n}" if count > 1 else "127.0.0.1", stream))
        return machines

    def _furnish(self, machine: Machine, machines: list[Machine]) -> str:
        """What a container finds under /opt/ml. Returns why the job fails, if it does."""
        ml, request = machine.ml, self.request
        for name in ("input/config", "input/data", "model", "output/data", "code"):
            (ml / name).mkdir(parents=True, exist_ok=True)
        channels = request.get("InputDataConfig", [])
        config = ml / "input" / "config"
        write_json(config / "hyperparameters.json", request.get("HyperParameters", {}))
        write_json(
            config / "inputdataconfig.json",
            {
                channel["ChannelName"]: {
                    "TrainingInputMode": channel.get("InputMode", "File"),
                    "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                        "S3DataDistributionType", "FullyReplicated"
                    ),
                    "RecordWrapperType": "None",
                }
                for channel in channels
            },
        )
        hosts = [each.address for each in machines] if len(machines) > 1 else [machine.name]
        kind = request["ResourceConfig"]["InstanceType"]
        write_json(
            config / "resourceconfig.json",
            {
                "current_host": machine.address if len(machines) > 1 else machine.name,
                "current_instance_type": kind,
                "current_group_name": "homogeneousCluster",
                "hosts": hosts,
                "instance_groups": [
                    {"instance_group_name": "homogeneousCluster", "instance_type": kind, "hosts": hosts}
                ],
                "network_interface_name": "lo",
            },
        )
        for channel in channels:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            if not self._download(uri, ml / "input" / "data" / channel["ChannelName"]):
                return (
                    f'ClientError: Data download failed: No S3 objects found under S3 URL "{uri}" given in input data '
                    f"source. Please ensure that the bucket exists in the selected region ({REGION}), that objects "
                    "exist under that S3 prefix, and that the role has s3:ListBucket permissions"
                )
        if checkpoints := self._checkpoints(machine):
            checkpoints.mkdir(parents=True, exist_ok=True)
            self._download(request["CheckpointConfig"]["S3Uri"], checkpoints)
            if machine is machines[0]:
                self._uploaded = {name: _seen(path) for name, path in _files(checkpoints)}
        return ""

    def _checkpoints(self, machine: Machine) -> Path | None:
        config = self.request.get("CheckpointConfig")
        if config is None:
            return None
        return machine.ml / Path(config.get("LocalPath", f"{_OPT_ML}/checkpoints")).relative_to(_OPT_ML)

    def _download(self, uri: str, folder: Path) -> int:
        """Objects under a prefix, as S3DataType=S3Prefix has it; how many."""
        bucket, prefix = split_uri(uri)
        keys = self.shelf.keys(bucket, prefix)
        base = prefix if prefix.endswith("/") else prefix.rpartition("/")[0] + "/"
        if not prefix.endswith("/") and any(key.startswith(f"{prefix}/") for key in keys):
            base = f"{prefix}/"
        base = base.lstrip("/")
        for key in keys:
            relative = key[len(base) :] if key.startswith(base) else key.rpartition("/")[2]
            path = folder / relative
            if relative.endswith("/") or not path.resolve().is_relative_to(folder.resolve()):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.shelf.get(bucket, key) or b"")
        return len(keys)

    def _start(self, machine: Machine) -> None:
        algorithm = self.request["AlgorithmSpecification"]
        words = [*algorithm.get("ContainerEntrypoint", ["train"]), *algorithm.get("ContainerArguments", [])]
        argv = [word.replace(_OPT_ML, str(machine.ml)) for word in words]
        if argv[0] == "python":
            argv[0] = sys.executable
        work = machine.work
        work.mkdir(parents=True, exist_ok=True)
        # sockets of processes that decode photos are made there, and the name of one has 107 characters at most
        machine.tmp = Path(tempfile.mkdtemp(prefix="dogbreed-")) / "tmp"
        machine.tmp.symlink_to(work)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(work),
            "TMPDIR": str(machine.tmp),
            "LANG": "C.UTF-8",
            "SAGEMAKER_BASE_DIR": str(machine.ml),
            "SAGEMAKER_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "TRAINING_JOB_NAME": self.record.name,
            "TRAINING_JOB_ARN": self.record.arn,
            "GLOO_SOCKET_IFNAME": "lo",
            **self.request.get("Environment", {}),
        }
        if self.request.get("EnableNetworkIsolation"):
            environment["PIP_NO_INDEX"] = "1"
        else:
            environment |= {
                "AWS_ENDPOINT_URL": self.jobs.url,
                "AWS_ACCESS_KEY_ID": self.jobs.key,
                "AWS_SECRET_ACCESS_KEY": self.jobs.key,
            }
        with machine.output.open("wb") as output:
            machine.process = subprocess.Popen(
                argv,
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=self._limit_disk if self.trouble.disk_mb is not None else None,
            )

    def _limit_disk(self) -> None:
        assert self.trouble.disk_mb is not None
        most = int(self.trouble.disk_mb * 1e6)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of the write, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    # --- one attempt ---

    def _attempt(self, attempt: int, machines: list[Machine]) -> str:
        """Run the command on all machines. Returns how it ended: Completed, Failed, Stopped, Interrupted..."""
        for machine in machines:
            self._start(machine)
        write_json(self.place / PROCESSES, [identity(machine.process) for machine in machines if machine.process])
        self.record.started = self.record.started or now()
        self.jobs.save(self.record)
        began, synced, outcome, told_at = time.monotonic(), 0.0, "", 0.0
        progress = Progress()
        saw = {"last": (0, 0)}
        moment = self.trouble.reclaim_moment(attempt) if self.record.spot else None
        crash = self.trouble.crash_at if attempt == 1 else None
        limit = self.request["StoppingCondition"].get("MaxRuntimeInSeconds", 86400) - self.record.training_s
        wait = self.request["StoppingCondition"].get("MaxWaitTimeInSeconds")
        while any(machine.process and machine.process.poll() is None for machine in machines):
            time.sleep(_POLL_S)
            self._pump(machines, progress)
            self._watch(machines[0], progress, saw)
            progress.seconds = time.monotonic() - began
            if not outcome and progress.seconds - synced >= _SYNC_S:
                self._sync(machines[0])
                synced = progress.seconds
            if outcome:
                if progress.seconds - told_at > (_FAILED_GRACE_S if outcome == "Failed" else _GRACE_S):
                    break
                continue
            if self._abandoned.is_set():
                for machine in machines:
                    machine.kill()
                return "Abandoned"
            if progress.reached(crash):
                for machine in machines:
                    machine.kill()
                outcome = "Crashed"
                break
            if progress.reached(moment):
                outcome = "Interrupted"
                if self.trouble.hard:
                    break
            elif self._stop_asked.is_set():
                outcome = "Stopped"
            elif progress.seconds > limit:
                outcome = "MaxRuntimeExceeded"
            elif wait is not None and now() - self.record.created > wait:
                outcome = "MaxWaitTimeExceeded"
            elif failed := [machine for machine in machines if machine.process and machine.process.poll()]:
                outcome, self._failed = "Failed", failed
            if outcome:
                told_at = progress.seconds
                for machine in machines:
                    machine.signal(signal.SIGTERM)
        codes = [machine.process.poll() for machine in machines if machine.process]
        for machine in machines:
            machine.kill()  # what outlived its first process
        if not (outcome == "Interrupted" and self.trouble.hard):
            self._sync(machines[0])
        self._pump(machines, progress, last=True)
        spent = time.monotonic() - began
        self.record.training_s += spent
        self.record.billable_s += spent * (spot_share() if self.record.spot else 1.0)
        if outcome:
            return outcome
        return "Failed" if any(codes) else "Completed"

    def _pump(self, machines: list[Machine], progress: Progress, *, last: bool = False) -> None:
        """Move whole lines of output to CloudWatch."""
        moment = int(time.time() * 1000)
        for machine in machines:
            with suppress(FileNotFoundError), machine.output.open("rb") as file:
                file.seek(machine.read)
                added = file.read()
                whole = added if last else added[: added.rfind(b"\n") + 1]
                machine.read += len(whole)
                # a progress bar's carriage returns are lines of their own there
                text = whole.decode(errors="replace").replace(str(machine.ml), _OPT_ML)
                for place in (machine.work, machine.tmp or machine.work):
                    text = text.replace(str(place), "/tmp")
                lines = re.split(r"[\r\n]+", text)
                events: list[dict[str, Any]] = [
                    {"timestamp": moment, "message": line} for line in lines if line.strip()
                ]
                machine.held_back += events
                for event in events:
                    self._read(event["message"], progress)
            due = moment - self.trouble.log_delay_s * 1000
            ready = [event for event in machine.held_back if event["timestamp"] <= due]
            if ready:
                machine.held_back = machine.held_back[len(ready) :]
                self._log(machine.stream, ready)
            if last and machine.held_back:
                late, machine.held_back = machine.held_back, []
                timer = threading.Timer(self.trouble.log_delay_s, self._log, (machine.stream, late))
                timer.daemon = True
                timer.start()

    def _log(self, stream: str, events: list[dict[str, Any]]) -> None:
        self._events[stream] += events
        put_log(stream, events)
        if self.record.ended is not None:
            self.record.logs = self._events
            self.jobs.save(self.record)

    def _read(self, line: str, progress: Progress) -> None:
        if found := Epoch.find(line):
            progress.epoch = max(progress.epoch, found.epoch)
        if TrialEnd.find(line):
            progress.trials += 1
            progress.epoch = max(progress.epoch, 1)
        for definition in self.request["AlgorithmSpecification"].get("MetricDefinitions", []):
            with suppress(ValueError, IndexError):
                if matched := re.search(definition["Regex"], line):
                    self._values[definition["Name"]] = float(matched[1])

    def _watch(self, machine: Machine, progress: Progress, saw: dict[str, tuple[int, int]]) -> None:
        """Count how often last.ckpt has been written."""
        folder = self._checkpoints(machine)
        if folder is not None:
            with suppress(FileNotFoundError):
                stat = (folder / "checkpoints" / "last.ckpt").stat()
                if saw["last"] != (stat.st_ino, stat.st_mtime_ns):
                    progress.checkpoints += saw["last"] != (0, 0) or progress.seconds > 0.5
                    saw["last"] = (stat.st_ino, stat.st_mtime_ns)

    def _sync(self, machine: Machine) -> None:
        """Upload what has changed in the checkpoint folder, in no order that one could rely on."""
        folder = self._checkpoints(machine)
        if folder is None:
            return
        bucket, prefix = split_uri(self.request["CheckpointConfig"]["S3Uri"])
        found = list(_files(folder))
        self._random.shuffle(found)
        for name, path in found:
            with suppress(FileNotFoundError):
                seen = _seen(path)
                if self._uploaded.get(name) != seen:
                    self.shelf.put(bucket, f"{prefix.rstrip('/')}/{name}", path.read_bytes())
                    self._uploaded[name] = seen

    # --- how it ends ---

    def _finish(self, outcome: str, machines: list[Machine]) -> None:
        first = machines[0]
        codes = [machine.process.returncode for machine in machines if machine.process]
        output = split_uri(f"{self.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self.record.name}/output")
        if outcome != "Crashed":
            self._to("Uploading", "Uploading generated training model")
            if any((first.ml / "output" / "data").iterdir()):
                self.shelf.put(output[0], f"{output[1]}/output.tar.gz", _tar(first.ml / "output" / "data"))
            if outcome != "Failed":
                self.shelf.put(output[0], f"{output[1]}/model.tar.gz", _tar(first.ml / "model"))
                self.record.artifacts = f"s3://{output[0]}/{output[1]}/model.tar.gz"
        moment = now()
        self.record.metrics = [
            {"MetricName": name, "Value": value, "Timestamp": moment} for name, value in self._values.items()
        ]
        match outcome:
            case "Completed":
                self._end("Completed", "Training job completed")
            case "Stopped":
                self._end("Stopped", "Training job stopped")
            case "MaxRuntimeExceeded" | "MaxWaitTimeExceeded":
                words = "runtime" if outcome == "MaxRuntimeExceeded" else "wait time"
                self._to(
                    outcome,
                    f"Training job {words} exceeded MaxRuntimeInSeconds provided"
                    if words == "runtime"
                    else "Training job exceeded MaxWaitTimeInSeconds provided",
                )
                self._end("Stopped", "Training job stopped", secondary=outcome)
            case "Crashed":
                self._end("Failed", "InternalServerError: We encountered an internal error. Please try again.")
            case _:
                files = [machine.ml / "output" / "failure" for machine in [*self._failed, *machines]]
                failure = next((file for file in files if file.exists()), None)  # of the machine that failed first
                text = failure.read_text(errors="replace")[:_FAILURE_MOST] if failure else "ExecuteUserScriptError:"
                code = next((code for code in codes if code), 1)
                self._end(
                    "Failed", f"AlgorithmError: {text}, exit code: {code if code > 0 else 128 - code}"[:_FAILURE_MOST]
                )

    def _end(self, status: str, message: str, *, secondary: str | None = None) -> None:
        if status == "Failed":
            self.record.failure = message
        if secondary is None:
            self.record.to(status, message, status=status)
        else:  # SageMaker keeps the reason as the last secondary status
            self.record.status, self.record.ended = status, now()
        self.record.logs = self._events
        with suppress(FileNotFoundError):
            (self.place / PROCESSES).unlink()
        self.jobs.save(self.record)

    def _end_unstarted(self) -> None:
        if not self._abandoned.is_set():
            self._end("Stopped", "Training job stopped")

    def _pause(self, seconds: float) -> bool:
        """Wait. True where the job is not wanted any more."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._abandoned.is_set() or self._stop_asked.is_set():
                return True
            time.sleep(_POLL_S)
        return self._abandoned.is_set() or self._stop_asked.is_set()

    def _to(self, secondary: str, message: str, status: str | None = None) -> None:
        self.record.to(secondary, message, status=status)
        self.jobs.save(self.record)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _seen(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _tar(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name)
    return buffer.getvalue()
