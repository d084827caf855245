"""A systemd service of a rehearsed EC2 machine: its unit file, its process, its end."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dogbreed import commands
from launchers.rehearsal.marked import UNIT, kill_marked, signal_marked

_SECTIONS = ("Unit", "Service", "Install")
_KNOWN = {  # those that change nothing here are in _WITHOUT_EFFECT
    "Type", "ExecStart", "ExecStartPre", "ExecStopPost", "Environment", "EnvironmentFile", "WorkingDirectory",
    "Restart", "RestartSec", "RuntimeMaxSec", "TimeoutStopSec", "KillSignal", "KillMode", "SuccessAction",
    "FailureAction",
}  # fmt: skip
_WITHOUT_EFFECT = {
    "StandardOutput", "StandardError", "SyslogIdentifier", "User", "Group", "TimeoutStartSec", "OOMScoreAdjust",
    "OOMPolicy", "Nice", "LimitNOFILE", "SendSIGKILL", "Description", "Documentation", "After", "Before", "Wants",
    "Requires", "WantedBy", "Conflicts", "DefaultDependencies", "RemainAfterExit", "StandardInput", "UMask",
    "StartLimitIntervalSec", "StartLimitBurst",
}  # fmt: skip
_UNITS_S = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "d": 86400.0,
}
_DEFAULT_STOP_S = 90.0
_STOP_REAL_S = 45.0  # the least that a unit has to end, in real time: no clock makes its processes faster


class UnitError(Exception):
    """What systemd says of a unit that it cannot start, or the rehearsal of one that it has not."""


class Spawn(Protocol):
    def __call__(
        self, argv: list[str], place: Path, more: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]": ...


class Unit:
    """One service. spawn: starts a process on the machine. say: writes to its console. now: the cloud's clock."""

    def __init__(
        self, name: str, file: Path, spawn: Spawn, say: Callable[[str], None], now: Callable[[], float]
    ) -> None:
        self.name, self._file, self._spawn, self._say, self._now = name, file, spawn, say, now
        self.settings = read_unit(file.read_text())
        self.process: subprocess.Popen[bytes] | None = None
        self.result = "success"
        self._commands: list[str] = []  # that are still to be run, one after the other
        self._phase = "inactive"  # inactive | start-pre | running | stop-post | waiting
        self._started = self._stop_until = self._stop_real = self._again_at = 0.0
        self._stopping = False
        self.powers_off = False
        self._exit: dict[str, str] = {}

    @property
    def oneshot(self) -> bool:
        return self._one("Type", "simple") == "oneshot"

    @property
    def active(self) -> bool:
        return self._phase != "inactive"

    @property
    def state(self) -> str:
        if self.active:
            return "deactivating" if self._stopping or self._phase == "stop-post" else "active"
        return "inactive" if self.result == "success" else "failed"

    def start(self) -> None:
        if self.active:
            return
        self.settings = read_unit(self._file.read_text())
        if "ExecStart" not in self.settings:
            raise UnitError(f"{self.name}: Service has no ExecStart= setting. Refusing.")
        self.result, self._stopping = "success", False
        self._phase, self._commands = "start-pre", list(self.settings.get("ExecStartPre", []))
        self._next()

    def stop(self) -> None:
        """Send the unit's signal to its main process; `tick` kills what is left once its time is over."""
        if not self.active or self._stopping:
            return
        self._stopping = True
        longest = seconds(self._one("TimeoutStopSec", str(_DEFAULT_STOP_S)))
        self._stop_until, self._stop_real = self._now() + longest, time.monotonic() + min(longest, _STOP_REAL_S)
        if self._phase == "waiting":
            self._phase = "inactive"
        elif self._phase != "stop-post" and self.process is not None:
            number = signal.Signals[self._one("KillSignal", "SIGTERM")]
            if self._one("KillMode", "control-group") == "control-group":
                self._signal_all(number)
            else:
                with suppress(ProcessLookupError):
                    self.process.send_signal(number)

    def kill(self) -> None:
        self._signal_all(signal.SIGKILL)

    def tick(self) -> None:
        if self._phase == "waiting" and self._now() >= self._again_at:
            self._phase = "inactive"
            self.start()
        if self.process is None:
            return
        if self.process.poll() is None:
            longest = self._one("RuntimeMaxSec", "infinity")
            if longest != "infinity" and self._phase == "running" and self._now() > self._started + seconds(longest):
                if not self._stopping:
                    self.result = "timeout"
                self.stop()
            if self._stopping and self._now() > self._stop_until and time.monotonic() > self._stop_real:
                self.result = "timeout"
                self.kill()
            return
        self._ended(self.process.returncode)

    def _ended(self, code: int) -> None:
        self._signal_all(signal.SIGKILL)  # what the main process has left behind
        self.process = None
        if self._phase == "stop-post":
            self._next()
            return
        if self.result == "success" and code and not (self._stopping and code == -signal.SIGTERM):
            self.result = "exit-code" if code > 0 else "signal"
        if self._phase == "start-pre" and self.result == "success":
            self._next()
            return
        code_text = f"code={'exited' if code >= 0 else 'killed'}, status={abs(code)}"
        self._say(f"systemd: {self.name}: Main process exited, {code_text}, result {self.result}")
        self._exit = {
            "SERVICE_RESULT": self.result,
            "EXIT_CODE": "exited" if code >= 0 else "killed",
            "EXIT_STATUS": str(code) if code >= 0 else signal.Signals(-code).name.removeprefix("SIG"),
        }
        self._phase, self._commands = "stop-post", list(self.settings.get("ExecStopPost", []))
        self._next()

    def _next(self) -> None:
        """Run the next command of this phase, or begin the next phase."""
        if self._commands:
            self._run(self._commands.pop(0), self._exit if self._phase == "stop-post" else {})
        elif self._phase == "start-pre":
            self._phase, self._started = "running", self._now()
            self._run(self.settings["ExecStart"][-1], {})
        else:
            self._over()

    def _over(self) -> None:
        self._phase = "inactive"
        policy, failed = self._one("Restart", "no"), self.result != "success"
        if not self._stopping and (policy == "always" or (policy == "on-failure" and failed)):
            self._phase, self._again_at = "waiting", self._now() + seconds(self._one("RestartSec", "100ms"))
            return
        action = self._one("FailureAction" if failed else "SuccessAction", "none")
        self.powers_off = action.startswith(("poweroff", "reboot", "halt"))

    def _run(self, command: str, more: Mapping[str, str]) -> None:
        words = commands.words(command.lstrip("-@:+!"))
        variables = {**self._environment(), **more, UNIT: str(self._file)}
        place = Path(self._one("WorkingDirectory", "") or self._file.parents[3])
        argv = [re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], ""), word) for word in words]
        try:
            self.process = self._spawn(argv, place, variables)
        except OSError as error:
            self._say(f"systemd: {self.name}: Failed to execute {argv[0]}: {error.strerror}")
            self.process = self._spawn(["/bin/sh", "-c", "exit 203"], place.parent if place.exists() else Path("/"))

    def _environment(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in self.settings.get("Environment", []):
            found |= dict(word.partition("=")[::2] for word in commands.words(line))
        for line in self.settings.get("EnvironmentFile", []):
            file = Path(line.lstrip("-"))
            if file.exists() or not line.startswith("-"):
                rows = [row.strip() for row in file.read_text().splitlines()]
                rows = [row for row in rows if row and not row.startswith(("#", ";"))]
                found |= {row.partition("=")[0]: "".join(commands.words(row.partition("=")[2])) for row in rows}
        return {key: value for key, value in found.items() if key != "PATH"}  # the rehearsal's programs come first

    def _one(self, name: str, default: str) -> str:
        return self.settings.get(name, [default])[-1]

    def _signal_all(self, number: int) -> None:
        if number == signal.SIGKILL:
            kill_marked(UNIT, str(self._file))
        else:
            signal_marked(UNIT, str(self._file), number)


def read_unit(text: str) -> dict[str, list[str]]:
    """Return the settings of a unit file, with all values of each. Raises UnitError for what the rehearsal has not."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            if section not in _SECTIONS:
                raise UnitError(f"The rehearsal has no units with a section [{section}]")
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals or name not in _KNOWN | _WITHOUT_EFFECT:
            raise UnitError(f"The rehearsal does not know the setting {name} of a unit")
        found.setdefault(name, []).append(value.strip())
    return found


def seconds(text: str) -> float:
    """Return a span of time as systemd writes it: `90`, `1min 30s`."""
    if text == "infinity":
        return float("inf")
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text)
    if not parts:
        raise UnitError(f"{text!r} is no span of time")
    return sum(float(number) * _UNITS_S.get(unit or "s", 1.0) for number, unit in parts)
