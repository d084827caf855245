"""One EC2 instance being run: boot, user data, interruptions, shutdown, termination."""

import shutil
import threading
import time
import traceback
from contextlib import suppress

from dogbreed.progress import Epoch, TrialEnd
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.faults import Progress
from launchers.rehearsal.marked import MACHINE, kill_marked
from launchers.rehearsal.names import Server
from launchers.rehearsal.services.ec2_catalog import IMAGE_OF
from launchers.rehearsal.services.ec2_imds import Metadata
from launchers.rehearsal.services.ec2_instance import Instance
from launchers.rehearsal.services.ec2_system import System

_POLL_S = 0.03
_BOOT_S = 0.2  # which takes half a minute there
NOTICE_S = 120.0  # from an interruption notice to the interruption
_OS_S = 100.0  # that an operating system has to shut down until it is cut off; AWS gives it some minutes
_OS_REAL_S = 60.0  # the least of it in real time: no clock makes its processes faster
_LAST_CKPT = "opt/*/ml/checkpoints/checkpoints/last.ckpt"
_USER, _SELF = "User initiated", "Instance initiated shutdown"
_REASONS = {
    "Client.UserInitiatedShutdown": _USER,
    "Client.InstanceInitiatedShutdown": _SELF,
    "Server.SpotInstanceTermination": "Spot instance termination",
    "Client.InternalError": "Client error on launch",
    "Server.InternalError": "Internal error on launch",
}


class InstanceRun(threading.Thread):
    """Runs one instance until it is terminated or stopped."""

    def __init__(self, instance: Instance, server: Server, clock: Clock) -> None:
        super().__init__(daemon=True, name=instance.id)
        self.instance, self.server, self.clock = instance, server, clock
        self.recommended = threading.Event()  # whether AWS has recommended to replace it
        self._terminate = threading.Event()
        self._abandoned = threading.Event()
        self._changing = threading.Lock()  # the instance's state, from this thread and by TerminateInstances
        self._system: System | None = None
        self._metadata: Metadata | None = None
        self._progress = Progress()
        self._last_ckpt: tuple[int, int] | None = None
        self._looked = 0.0

    def terminate(self) -> None:
        """TerminateInstances: the operating system is shut down."""
        with self._changing:
            if self.instance.state in ("pending", "running"):
                self.instance.to("shutting-down", time.time(), code="Client.UserInitiatedShutdown", reason=_USER)
            self._terminate.set()

    def abandon(self) -> None:
        """Kill all at once, because the server ends."""
        self._abandoned.set()

    @property
    def console(self) -> str:
        file = self.instance.folder / "console.txt"
        return file.read_text(errors="replace") if file.exists() else ""

    def run(self) -> None:
        try:
            code = self._run()
        except Exception:
            traceback.print_exc()
            code = "Server.InternalError"
        finally:
            with suppress(Exception):
                self._clear()
        self._finish(code)

    def _run(self) -> str:
        """Run it to its end, and return the code of the reason."""
        instance, faults = self.instance, self.instance.injected
        until = time.monotonic() + _BOOT_S
        while time.monotonic() < until and not self._ended():
            time.sleep(_POLL_S)
        if instance.kms_refused:
            return "Client.InternalError"
        with self._changing:
            if not self._ended():
                instance.began = self.clock.now()
                instance.impaired = instance.number <= faults.boot_failures  # no kernel: nothing runs or answers
                instance.to("running", time.time())
        if instance.impaired:
            while not self._ended():
                time.sleep(_POLL_S)
            return self._code("Client.UserInitiatedShutdown")
        if self._ended():
            return self._code("Client.UserInitiatedShutdown")
        skew_s = faults.clock_skew_s
        self._metadata = Metadata(instance, skew_s)
        environment = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self._metadata.url,
            "AWS_ENDPOINT_URL": self.server.url,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "NO_PROXY": "127.0.0.1",
            "DOGBREED_POLL_S": str(5.0 / max(self.clock.rate, 10.0)),  # seconds there are tenths here
        }
        torch = IMAGE_OF[instance.image].torch
        packages = instance.folder.parents[1] / "packages"
        self._system = System(
            instance.folder / "disk",
            environment,
            self.clock.now,
            torch=torch,
            packages=packages if packages.is_dir() else None,
            skew_s=skew_s,
            rate=lambda: self.clock.rate,
        )
        if instance.user_data:
            self._system.boot(instance.script)
        return self._watch(self._system, self._metadata)

    def _watch(self, system: System, metadata: Metadata) -> str:
        instance, faults = self.instance, self.instance.injected
        began = time.monotonic()
        interrupted_at: float | None = None  # on the cloud's clock
        while True:
            time.sleep(_POLL_S)
            system.tick()
            self._follow(system, time.monotonic() - began)
            if self._abandoned.is_set():
                return "Server.InternalError"
            if self._progress.reached(faults.crash_moment(instance.number)):
                return self._crashed(system)
            if instance.spot and interrupted_at is None:
                advised = instance.number == 1 and self._progress.reached(faults.rebalance_at)
                if advised and metadata.recommended_at is None:
                    metadata.recommended_at = time.time()
                    self.recommended.set()
                if self._progress.reached(faults.reclaim_moment(instance.number)):
                    if faults.hard:
                        return "Server.SpotInstanceTermination"
                    interrupted_at = self.clock.now() + NOTICE_S
                    metadata.recommended_at = metadata.recommended_at or time.time()
                    metadata.action_at = time.time() + NOTICE_S
            if interrupted_at is not None and self.clock.now() >= interrupted_at:
                return self._shut_down(system, "Server.SpotInstanceTermination")
            if self._terminate.is_set():
                return self._shut_down(system, "Client.UserInitiatedShutdown")
            if system.poweroff_at is not None and self.clock.now() >= system.poweroff_at:
                return self._shut_down(system, "Client.InstanceInitiatedShutdown")

    def _follow(self, system: System, seconds: float, *, last: bool = False) -> None:
        """Read the console, and update the progress."""
        self._progress.seconds = seconds
        lines = system.lines(last=last)
        self._read_progress(lines + system.logged())
        if lines:
            with (self.instance.folder / "console.txt").open("a") as file:
                file.writelines(f"{line}\n" for line in lines)
        if seconds - self._looked > 0.1:
            self._looked = seconds
            for saved in (system.folder / "root").glob(_LAST_CKPT):
                with suppress(FileNotFoundError):
                    stat = saved.stat()
                    if (stamp := (stat.st_ino, stat.st_mtime_ns)) != self._last_ckpt:
                        self._progress.checkpoints += 1
                        self._last_ckpt = stamp

    def _read_progress(self, lines: list[str]) -> None:
        for line in lines:
            if found := Epoch.find(line):
                self._progress.epoch = max(self._progress.epoch, found.epoch)
            if TrialEnd.find(line):
                self._progress.trials += 1
                self._progress.epoch = max(self._progress.epoch, 1)

    def _shut_down(self, system: System, code: str) -> str:
        """Shut the operating system down: what runs gets SIGTERM, and some time."""
        self.instance.left = self.clock.now()
        with self._changing:
            if self.instance.state == "running":
                stops = code == "Client.InstanceInitiatedShutdown" and self.instance.shutdown_behaviour == "stop"
                state = "stopping" if stops else "shutting-down"
                self.instance.to(state, time.time(), code=code, reason=_REASONS[code])
        system.stop()
        until, least = self.clock.now() + _OS_S, time.monotonic() + _OS_REAL_S
        while not system.idle and not self._abandoned.is_set():
            if self.clock.now() >= until and time.monotonic() >= least:
                break
            time.sleep(_POLL_S)
            system.tick()
            self._follow(system, self._progress.seconds)
        return code

    def _crashed(self, system: System) -> str:
        """The machine below it fails: it is `running` for EC2, whose checks see that it is not."""
        system.kill()
        self.instance.impaired = True
        self.instance.save()
        while not self._ended():
            time.sleep(_POLL_S)
        return self._code("Client.UserInitiatedShutdown")

    def _code(self, code: str) -> str:
        return "Server.InternalError" if self._abandoned.is_set() else code

    def _ended(self) -> bool:
        return self._terminate.is_set() or self._abandoned.is_set()

    def _clear(self) -> None:
        if self._system is not None:
            self._system.kill()
            self._follow(self._system, self._progress.seconds, last=True)
        if self._metadata is not None:
            self._metadata.close()
        shutil.rmtree(self.instance.folder / "disk", ignore_errors=True)

    def _finish(self, code: str) -> None:
        instance = self.instance
        stops = code == "Client.InstanceInitiatedShutdown" and instance.shutdown_behaviour == "stop"
        text = "the rehearsal cloud was stopped while the instance was running"
        reason = text if self._abandoned.is_set() else _REASONS[code]
        with self._changing:
            instance.ended = self.clock.now()
            state = "stopped" if stops and not self._abandoned.is_set() else "terminated"
            instance.to(state, time.time(), code=code, reason=reason)


def clear_left_over(instance: Instance) -> None:
    """Kill what a server that was killed has left running on an instance, and delete its disk."""
    kill_marked(MACHINE, str(instance.folder / "disk"))
    shutil.rmtree(instance.folder / "disk", ignore_errors=True)
