"""The operating system of a rehearsed EC2 machine: it runs user data as cloud-init does, and a bit of systemd.

User data is a shell script with absolute paths. Those below the folders of _ROOTS are replaced in its text by places in
the machine's private folder; nothing is protected from it otherwise, as nothing is from a job. systemctl, shutdown and
the like are small programs that stand first on PATH and leave their requests in a folder; sleep follows the clock.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dogbreed import commands
from launchers.rehearsal.marked import MACHINE, kill_marked
from launchers.rehearsal.services.ec2_unit import Unit, UnitError

_ROOTS = ("opt", "etc/systemd/system", "var", "run", "root", "srv", "home", "mnt", "tmp")
_CALLS = ("systemctl", "shutdown", "poweroff", "halt", "reboot")
_REPLACED = re.compile(
    r"(?<![\w./$}~-])"
    rf"(?:/(?:usr/)?s?bin/(?P<call>{'|'.join(_CALLS)})|/(?P<root>{'|'.join(_ROOTS)}))(?![\w.-])"
)
_QUIET = ("dnf", "yum", "apt-get", "mount", "umount", "swapon", "mkfs.ext4", "mkfs.xfs", "chown", "useradd", "sync")
_LOGS = "opt/*/log.txt"  # where a program below /opt writes its log, apart from the console
_STEP_S = 0.05
_SHIM = """#!/bin/sh
call=$(mktemp -d {requests}/XXXXXXXX) || exit 1
printf '%s\\0' {name} "$@" > "$call/words" && mv "$call/words" "$call/request"
while [ ! -e "$call/status" ]; do [ -d {requests} ] || exit 1; /bin/sleep {step}; done
cat "$call/output"; read -r status < "$call/status"; rm -rf "$call"; exit "$status"
"""
# what it does not understand, `infinity` and `--help` among it, is left to the real one
_SLEEP = """#!/bin/sh
case "$*" in '' | *[!0-9.smhd\\ ]*) exec /bin/sleep "$@" ;; esac
read -r rate < {rate}
exec /bin/sleep "$(awk -v rate="$rate" 'BEGIN {{
  unit["m"] = 60; unit["h"] = 3600; unit["d"] = 86400
  for (n = 1; n < ARGC; n++) {{
    last = substr(ARGV[n], length(ARGV[n]))
    total += ARGV[n] * (last in unit ? unit[last] : 1)
  }}
  print total / rate
}}' "$@")"
"""
# PyTorch is installed in this project's own environment
_PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m pip" ]; then echo "Requirement already satisfied"; exit 0; fi
{packages}exec {python} "$@"
"""
_BARE = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  for last; do :; done
  mkdir -p "$last/bin" && cp {whole} "$last/bin/python" && ln -sf python "$last/bin/python3"
  printf '#!/bin/sh\\nexec %s -m pip "$@"\\n' "$last/bin/python" > "$last/bin/pip" && chmod +x "$last/bin/pip"
  exit 0
fi
exec {python} -I -S "$@"
"""


class System:
    """One machine's. folder: private. environment: of all its processes. torch: whether the image has PyTorch.

    packages: a folder of Python packages that come before those of this project's own environment.
    now: the cloud's clock, for `shutdown +5`. rate: how much faster than real time it runs, for `sleep 5`.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        now: Callable[[], float],
        *,
        torch: bool,
        packages: Path | None = None,
        skew_s: float = 0.0,
        rate: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.folder, self._now, self._rate = folder, now, rate
        self.poweroff_at: float | None = None  # by `now`; what it then does is `restarts`
        self.restarts = False
        self.console = folder / "console.log"
        self._read = 0  # bytes of the console
        self._logs: dict[Path, int] = {}  # bytes that were read of log files
        self._units: dict[str, Unit] = {}
        self._waiting: list[tuple[Path, Unit]] = []  # calls that wait until a unit has ended
        self._script: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._link = Path(tempfile.mkdtemp(prefix="dogbreed-"))  # its name is short and has no spaces
        (self._link / "m").symlink_to(folder / "root", target_is_directory=True)
        (self._link / "b").symlink_to(folder / "bin", target_is_directory=True)
        self._requests = self._link / "calls"
        self._requests.mkdir()
        self._slept = 0.0  # the rate that programs sleep by
        self._set_rate()
        self.root = self._link / "m"
        self._furnish(torch=torch, packages=packages, skew_s=skew_s)
        self.environment = {
            "PATH": f"{self._link / 'b'}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.root / "root"),
            "TMPDIR": str(self.root / "tmp"),
            "LANG": "C.UTF-8",
            **environment,
            MACHINE: str(folder),
        }

    def boot(self, user_data: bytes) -> None:
        """Start the user data; without an interpreter in its first line cloud-init does not run it."""
        if not user_data.startswith(b"#!"):
            self.say("cloud-init: user data is no script: it is ignored")
            return
        text = self.local(user_data.decode(errors="surrogateescape"))
        script = self.folder / "user-data"
        script.write_text(text, errors="surrogateescape")
        words = commands.words(text.partition("\n")[0][2:])
        self._script = self.spawn([*words, str(script)], self.root)

    def local(self, text: str) -> str:
        """Replace absolute paths by where they are here."""

        def here(found: re.Match[str]) -> str:
            return f"{self._link}/b/{found['call']}" if found["call"] else f"{self.root}/{found['root']}"

        return _REPLACED.sub(here, text)

    def spawn(self, argv: Sequence[str], place: Path, more: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a process. more: further variables."""
        with self.console.open("ab") as output:
            return subprocess.Popen(
                argv,
                cwd=place,
                env={**self.environment, **(more or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def say(self, line: str) -> None:
        with self.console.open("a") as output:
            output.write(f"{line}\n")

    @property
    def idle(self) -> bool:
        """Return whether neither the user data nor a unit runs."""
        return (self._script is None or self._script.poll() is not None) and not any(
            unit.active for unit in self._units.values()
        )

    # --- as time passes ---

    def tick(self) -> None:
        """Answer calls of programs, and follow the units."""
        self._set_rate()
        if self._script is not None and self._script.poll():
            self.say(f"cloud-init: user data ended with status {self._script.returncode}")
            self._script = None
        for request in sorted(self._requests.glob("*/request")):
            words = request.read_bytes().decode(errors="replace").split("\0")[:-1]
            request.unlink()
            self._answer(request.parent, words)
        for unit in self._units.values():
            unit.tick()
            if unit.powers_off:
                self.power_off("poweroff")
        for call, unit in list(self._waiting):
            if not unit.active:
                self._waiting.remove((call, unit))
                _reply(call, "", 0 if unit.result == "success" else 1)

    def _set_rate(self) -> None:
        if (rate := self._rate()) != self._slept:
            self._slept = rate
            written = self._link / "rate.new"
            written.write_text(f"{rate:g}\n")
            written.rename(self._link / "rate")

    def lines(self, *, last: bool = False) -> list[str]:
        """Return the lines of the console since the last call, with paths as on the machine."""
        if not self.console.exists():
            return []
        with self.console.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        whole = added if last else added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        return [line for line in re.split(r"[\r\n]+", self.shown(whole.decode(errors="replace"))) if line.strip()]

    def logged(self) -> list[str]:
        """Return the lines that were added to log files of what runs since the last call."""
        found: list[str] = []
        for file in sorted((self.folder / "root").glob(_LOGS)):
            with suppress(FileNotFoundError), file.open("rb") as content:
                content.seek(self._logs.get(file, 0))
                added = content.read()
                whole = added[: added.rfind(b"\n") + 1]
                self._logs[file] = self._logs.get(file, 0) + len(whole)
                found += whole.decode(errors="replace").splitlines()
        return found

    def shown(self, text: str) -> str:
        for path in (str(self.root), str((self.folder / "root").resolve()), str(self.folder / "root")):
            text = re.sub(rf"{re.escape(path)}(?=(/?))", lambda found: "" if found[1] else "/", text)
        return text

    # --- its end ---

    def stop(self) -> None:
        """Begin to shut down: units get SIGTERM, the user data as well."""
        for unit in self._units.values():
            unit.stop()
        if self._script is not None and self._script.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._script.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill all processes of the machine at once."""
        for process in (self._script, *(unit.process for unit in self._units.values())):
            if process is not None and process.poll() is None:  # a process that is just begun has no mark yet
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        kill_marked(MACHINE, str(self.folder))
        for process in (self._script, *(unit.process for unit in self._units.values())):
            if process is not None:
                process.wait()
        shutil.rmtree(self._link, ignore_errors=True)  # its links are not followed

    # --- the programs ---

    def power_off(self, program: str, in_s: float = 0.0) -> None:
        self.poweroff_at, self.restarts = self._now() + in_s, program == "reboot"

    def _answer(self, call: Path, words: Sequence[str]) -> None:
        program, *rest = words
        try:
            if program == "systemctl":
                output, status = self._systemctl(call, rest)
                if status is None:
                    return
            else:
                output, status = self._power(program, rest), 0
        except UnitError as error:
            output, status = f"{error}\n", 1
        _reply(call, output, status)

    def _power(self, program: str, words: Sequence[str]) -> str:
        options = [word for word in words if word.startswith("-")]
        given = [word for word in words if not word.startswith("-")]
        if "-c" in options:
            self.poweroff_at = None
            return ""
        restarts = program == "reboot" or "-r" in options
        if program != "shutdown":
            self.power_off("reboot" if restarts else "poweroff")
            return ""
        when = given[0] if given else "+1"
        if when != "now" and not re.fullmatch(r"\+\d+", when):
            raise UnitError(f"shutdown: the rehearsal has `now` and `+MINUTES`, got {when}")
        self.power_off("reboot" if restarts else "poweroff", 0.0 if when == "now" else 60.0 * int(when[1:]))
        return "" if when == "now" else f"Shutdown scheduled in {when[1:]} minutes, use 'shutdown -c' to cancel.\n"

    def _systemctl(self, call: Path, words: Sequence[str]) -> tuple[str, int | None]:
        """Return output and status; a status of None is answered once the unit has ended."""
        options = {word for word in words if word.startswith("-")}
        verb, *names = [word for word in words if not word.startswith("-")] or ["list-units"]
        if verb in ("poweroff", "halt", "reboot"):
            self.power_off(verb)
            return "", 0
        if verb in ("daemon-reload", "daemon-reexec", "reset-failed", "mask", "disable"):
            return "", 0
        if verb in ("enable", "start", "restart"):
            for name in names:
                unit = self._unit(name)
                if verb == "enable" and "--now" not in options:
                    continue
                if verb == "restart":
                    unit.stop()
                    unit.kill()
                unit.start()
                if unit.oneshot and "--no-block" not in options:
                    self._waiting.append((call, unit))
                    return "", None
            return "", 0
        if verb in ("stop", "kill"):
            for name in names:
                self._unit(name).stop()
            return "", 0
        if verb in ("is-active", "status", "is-failed"):
            states = [self._unit(name).state for name in names]
            wanted = "failed" if verb == "is-failed" else "active"
            return "".join(f"{state}\n" for state in states), 0 if wanted in states else 3
        raise UnitError(f"systemctl: the rehearsal has no {verb}")

    def _unit(self, name: str) -> Unit:
        name = name if "." in name else f"{name}.service"
        if name not in self._units:
            file = self.root / "etc/systemd/system" / name
            if not file.exists():
                raise UnitError(f"Unit {name} not found.")
            self._units[name] = Unit(name, file, self.spawn, self.say, self._now)
        return self._units[name]

    def _furnish(self, *, torch: bool, packages: Path | None, skew_s: float) -> None:
        root, bin_folder = self.folder / "root", self.folder / "bin"
        for name in _ROOTS:
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "var/log").mkdir(exist_ok=True)
        bin_folder.mkdir(exist_ok=True)
        for name in _CALLS:
            _program(bin_folder / name, _SHIM.format(requests=self._requests, name=name, step=_STEP_S))
        _program(bin_folder / "sleep", _SLEEP.format(rate=self._link / "rate"))
        for name in _QUIET:
            _program(bin_folder / name, "#!/bin/sh\nexit 0\n")
        _program(bin_folder / "nvidia-smi", "#!/bin/sh\necho 'no devices were found'; exit 6\n")
        if skew_s:
            _program(bin_folder / "date", f'#!/bin/sh\nexec /bin/date -d "now + {skew_s:.0f} seconds" "$@"\n')
        python = commands.shell(sys.executable)
        first = "" if packages is None else f"export PYTHONPATH={commands.shell(str(packages))}\n"
        whole_python = _PYTHON.format(python=python, packages=first)
        if torch:
            (root / "opt/pytorch/bin").mkdir(parents=True, exist_ok=True)
            _program(root / "opt/pytorch/bin/python", whole_python)
        whole = _program(self.folder / "python-of-a-venv", whole_python)
        bare = _BARE.format(python=python, whole=commands.shell(str(whole)))
        for name in ("python3", "python3.12", "python3.13"):  # the system's own, which has no packages
            _program(bin_folder / name, bare)


def _program(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o755)
    return file


def _reply(call: Path, output: str, status: int) -> None:
    with suppress(OSError):  # the program has been killed
        (call / "output").write_text(output)
        (call / "answered").write_text(f"{status}\n")
        (call / "answered").rename(call / "status")
