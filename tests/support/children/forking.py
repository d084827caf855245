"""Starts train.py and its like by forking a process that has imported torch, not by importing it once more.

`install` replaces subprocess.Popen by a class that does so for the programs below and is itself in all else. The child
has the arguments, environment, folder, files, session and signal handlers that an ordinary start would give it, and
is a process of its own: what kills, stops or waits for it need not know. Where it matters that Python itself begins
(times of starting, what is imported, flags of the interpreter), `ordinary_start` has all processes begin as ever.

Who forks: the fork server of the tests (fork_server.py); who may ask it is told of it by an environment
variable. A process that came from it forks by itself where the child must be of its own session, in which the server
is not.
"""

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

import aws_calls
import quick_runs

SERVER = "DOGBREED_TESTS_FORK_SERVER"  # where it listens, and the session that it is in: 1234:/tmp/there
HANDED_ON = (SERVER, "REACHED_OUT", aws_calls.CALLS, quick_runs.EXPORTS, quick_runs.ONNX, quick_runs.PLOTS)
# toolkit.py starts remote.py
_SCRIPTS = ("train.py", "remote.py", "entry.py", "scenario_client.py", "toolkit.py")
_MODULES = (
    "dogbreed.benchmark",
    "dogbreed.export",
    "dogbreed.predict",
    "dogbreed.report",
    "launchers.rehearsal.server",  # it imports moto, and not torch
)
_CODE = (  # of what imports torch or boto3
    "launchers.sweep.worker",
    "from dogbreed import training",
    "from dogbreed.benchmark import",
    "from dogbreed.data import",
    "from dogbreed.distributed import",
    "from dogbreed.features import engine",
    "from tests.dogbreed.",
    "import sys, torch; sys.exit(",
    "import sys, boto3; boto3.client(",
)
_ROOM_BYTES = 16_384
MESSAGE_BYTES = 1 << 20
_ARE_OURS = (sys.executable, "/bin/bash")  # the latter for scripts of rehearsed machines, which start Python
_HEEDED = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")  # of Python's own variables

# what subprocess.Popen hands to the method that starts a child, which has other arguments in other versions of Python
_GIVEN = list(signature(subprocess.Popen._execute_child).parameters)[1:]  # type: ignore[attr-defined]

came_from_server = False  # this process: what it would import is there, and nothing has been computed


@dataclass(frozen=True)
class Program:
    """What Python runs: kind is "file", "-m" or "-c"; safe_path and unbuffered: whether -P and -u were there; argv: as
    Python shows it.
    """

    kind: str
    name: str
    safe_path: bool
    argv: list[str]
    unbuffered: bool = False


@dataclass(frozen=True)
class Start:
    """All that a child begins with, but for its files. numbers: of those that are passed on beyond the first three.
    group: of processes, to join; None for a session of its own.
    """

    program: Program
    command: list[str]
    environment: dict[str, str]
    folder: str
    numbers: list[int]
    group: int | None
    cpus: list[int]


def program(command: Any) -> Program | None:
    """What this command has Python run; None for another program, or one that begins as ever."""
    if isinstance(command, str | bytes | os.PathLike):
        return None
    words = [os.fsdecode(word) for word in command]
    if len(words) < 2 or words[0] != sys.executable:
        return None
    safe_path, unbuffered = words[1] == "-P", words[1] == "-u"  # torchrun's flag
    rest = words[2:] if safe_path or unbuffered else words[1:]
    if not rest[0].startswith("-"):
        found = Program("file", rest[0], safe_path, rest, unbuffered)
        return found if Path(rest[0]).name in _SCRIPTS else None
    if rest[0] == "-m" and (rest[1] in _MODULES or rest[1:3] == ["launchers", "doctor"]):  # other verbs need no torch
        return Program("-m", rest[1], safe_path, rest[1:], unbuffered)
    if rest[0] == "-c" and (rest[1] == "import boto3" or any(part in rest[1] for part in _CODE)):
        return Program("-c", rest[1], safe_path, ["-c", *rest[2:]], unbuffered)
    return None


# --- who asks for a child ---


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """As subprocess.Popen, but for how the child begins and how its end is known."""

    _connection: socket.socket | None = None  # to the server, which sends the child's status when it has ended

    def _execute_child(self, *values: Any) -> None:
        given = dict(zip(_GIVEN, values, strict=True))
        if given["env"] is not None and _first_word(given["args"]) in _ARE_OURS:
            given["env"] = _with_ours(given["env"])
        start = _start(given)
        if start is not None and (self._ask_server(start, given) or self._fork_here(start, given)):
            return
        super()._execute_child(*given.values())  # type: ignore[misc]

    def _ask_server(self, start: Start, given: Mapping[str, Any]) -> bool:
        """Have the server fork the child. Return False if there is no server for it, or if it could not."""
        session, address = _server()
        if not address or (session != os.getsid(0) and start.group is not None):
            return False
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
            connection.connect(address)
            socket.send_fds(connection, [json.dumps(asdict(start)).encode()], _files(given))
            answer = connection.recv(4)
        except OSError:
            answer = b""
        if not answer:
            connection.close()
            return False
        (self.pid,) = struct.unpack("i", answer)
        self._connection = connection
        self._begun(given)
        return True

    def _fork_here(self, start: Start, given: Mapping[str, Any]) -> bool:
        """Fork the child from this process. Return False if it was not forked by the server itself, or has threads."""
        if start.group is None or not came_from_server or threading.active_count() > 1:
            return False
        sys.stdout.flush()
        sys.stderr.flush()
        files = _files(given)
        self.pid = os.fork()
        if self.pid == 0:
            become(start, files)
        self._begun(given)
        return True

    def _begun(self, given: Mapping[str, Any]) -> None:
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in ends))  # type: ignore[attr-defined]

    def _internal_poll(self, *args: Any, **options: Any) -> int | None:
        if self._connection is None:
            found: int | None = super()._internal_poll(*args, **options)  # type: ignore[misc]
            return found
        if self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                self._receive(0)
            except BlockingIOError:
                pass
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self._connection is None:
            ended: int = super()._wait(timeout)  # type: ignore[misc]
            return ended
        with self._waitpid_lock:  # type: ignore[attr-defined]
            try:
                self._receive(None if timeout is None else max(0.0, timeout))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
        return self.returncode

    def _receive(self, timeout: float | None) -> None:
        if self.returncode is None:
            assert self._connection is not None
            self._connection.settimeout(timeout)
            answer = self._connection.recv(4)
            # an empty one: the server was killed, and nobody knows how the child ends
            self.returncode = os.waitstatus_to_exitcode(struct.unpack("i", answer)[0]) if answer else -signal.SIGKILL
            self._connection.close()


def install() -> None:
    if sys.platform == "linux":
        subprocess.Popen = Popen  # type: ignore[misc]


@contextmanager
def server(address: Path) -> Iterator[None]:
    """Have one for this process and what it starts; it imports nothing until it is asked for a child."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(address))
        listener.listen(64)
        listening, room = listener.fileno(), " " * _ROOM_BYTES
        ours, theirs = os.pipe()
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(listening), str(ours), room],
            env={**os.environ, "ROOM": room, "PYTHONUNBUFFERED": ""},  # which the children decide for themselves
            # pipes: Python's objects for them, which the children inherit, then never seek in what they write to
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=(listening, ours),
        )
        os.close(ours)
    os.environ[SERVER] = f"{os.getsid(0)}:{address}"
    try:
        yield
    finally:
        del os.environ[SERVER]
        with suppress(BrokenPipeError):  # it has ended already
            os.write(theirs, b"!")  # closing alone does not tell it: what this process has forked may hold it open
        os.close(theirs)
        output = process.communicate()[0]
        print(output, end="", file=sys.stderr)
        if process.returncode != 0:
            raise RuntimeError(f"The fork server ended with exit code {process.returncode}:\n{output}")


@contextmanager
def ordinary_start() -> Iterator[None]:
    """Python itself begins, in what this process starts meanwhile and in what that starts."""
    address = os.environ.pop(SERVER, None)
    try:
        yield
    finally:
        if address is not None:
            os.environ[SERVER] = address


def _first_word(command: Any) -> str:
    return "" if isinstance(command, str | bytes | os.PathLike) else os.fsdecode(next(iter(command)))


def _with_ours(environment: Mapping[Any, Any]) -> dict[str, str]:
    """Also where an environment is made from nothing, as that of a job, the child is one of the tests' processes."""
    given = {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}
    here = str(Path(__file__).parent)
    if here not in (path := given.get("PYTHONPATH", "").split(os.pathsep)):
        given["PYTHONPATH"] = os.pathsep.join(filter(None, [here, *path]))
    return {**{name: os.environ[name] for name in HANDED_ON if name in os.environ}, **given}


def _server() -> tuple[int, str]:
    """Its session and its address; 0 and an empty one where there is none, or none is to be used."""
    session, _, address = os.environ.get(SERVER, "0:").partition(":")
    return int(session), address


def _start(given: Mapping[str, Any]) -> Start | None:
    """What the child begins with; None where it begins as ever."""
    found = program(given["args"])
    environment = {os.fsdecode(name): os.fsdecode(value) for name, value in (given["env"] or os.environ).items()}
    folder = os.fsdecode(given["cwd"] or Path.cwd())
    unusual = (
        given["executable"] not in (None, sys.executable)
        or given["preexec_fn"] is not None
        or given["shell"]
        or (given["uid"], given["gid"], given["gids"], given["umask"]) != (None, None, None, -1)
        or given.get("process_group", -1) not in (None, -1)
        or any(name.startswith("PYTHON") and name not in _HEEDED for name in environment)
    )
    if found is None or unusual or not Path(folder).is_dir():
        return None
    command = [os.fsdecode(word) for word in given["args"]]
    group = None if given["start_new_session"] else os.getpgid(0)
    cpus = sorted(os.sched_getaffinity(0))
    return Start(found, command, environment, folder, list(given["pass_fds"]), group, cpus)


def _files(given: Mapping[str, Any]) -> list[int]:
    """Standard input, output and error, and those that are passed on."""
    ours = (given["p2cread"], given["c2pwrite"], given["errwrite"])
    return [*(number if given_ == -1 else given_ for number, given_ in enumerate(ours)), *given["pass_fds"]]


# --- the child ---


def become(start: Start, files: Sequence[int], ready: int | None = None) -> NoReturn:
    """Run the program in this process, which has just been forked, and end as Python would.

    files: as in `_files`. ready: closed once signals to the process, and to its group, reach it as they should.
    """
    status = 1
    try:
        _take_over(start, files, ready)
        status = _run_to_its_end(start.program)
    except BaseException:
        traceback.print_exc()
    finally:  # also if standard error is closed: the child must never continue as a copy of its parent
        os._exit(status)


def _take_over(start: Start, files: Sequence[int], ready: int | None) -> None:
    global came_from_server
    came_from_server = True
    if start.group is None:
        os.setsid()
    else:
        with suppress(OSError):  # one whose leader has ended
            os.setpgid(0, start.group)
    _show_in_lists_of_processes(start)  # first: who kills a machine finds its processes by their environment
    _forget_signals()
    if ready is not None:
        os.close(ready)
    _take(files, [0, 1, 2, *start.numbers])
    os.sched_setaffinity(0, start.cpus)
    os.environ.clear()
    os.environ.update(start.environment)
    os.chdir(start.folder)
    _forget_environment(start.environment, unbuffered=start.program.unbuffered)
    sys.argv, sys.orig_argv = list(start.program.argv), list(start.command)


def _take(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Give the files these numbers, and close all others."""
    import fcntl

    above = max(*numbers, *files) + 1
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, above) for file in files]
    for file, number in zip(high, numbers, strict=True):
        os.dup2(file, number)
    most = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 (numbers, not paths)
    for number in range(most + 1):
        if number not in numbers:
            with suppress(OSError):
                os.close(number)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    by_python = {signal.SIGPIPE: signal.SIG_IGN, signal.SIGXFSZ: signal.SIG_IGN}
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(number, by_python.get(signal.Signals(number), signal.SIG_DFL))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _forget_environment(environment: Mapping[str, str], *, unbuffered: bool) -> None:
    """What modules read as they are imported, or draw, which in this process was before."""
    import tempfile

    tempfile.tempdir = None
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    random.seed()
    unbuffered = unbuffered or bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=unbuffered or sys.stdout.isatty())  # type: ignore[union-attr]
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    if rank_zero := sys.modules.get("lightning.fabric.utilities.rank_zero"):
        rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0


def _show_in_lists_of_processes(start: Start) -> None:
    """Write the command and the environment where /proc, and with it ps and psutil, look for them.

    That is the memory in which they came when Python itself began; the server asked for enough of it.
    """
    with suppress(OSError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begin_command, end_command, begin_environment, end_environment = map(int, fields[45:49])
        environment = [f"{name}={value}" for name, value in start.environment.items()]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 (Path.open has no r+b without a buffer)
            for words, begin, end in (
                (start.command, begin_command, end_command),
                (environment, begin_environment, end_environment),
            ):
                memory.seek(begin)
                memory.write(
                    "".join(f"{word}\0" for word in words).encode()[: end - begin - 1].ljust(end - begin, b"\0")
                )


def _run_to_its_end(program: Program) -> int:
    """Returns the exit status. Ends by SIGINT where Python would."""
    import atexit

    status = 0
    try:
        _run(program)
    except SystemExit as ending:
        status = _status(ending.code)
    except BaseException as error:
        shown = error.__traceback__
        while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
            shown = shown.tb_next
        sys.excepthook(type(error), error.with_traceback(shown), shown)
        status = 1 if not isinstance(error, KeyboardInterrupt) else -signal.SIGINT
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for output in (sys.stdout, sys.stderr):
        try:
            output.flush()
        except (OSError, ValueError):
            status = 120
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return status


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _run(program: Program) -> None:
    import runpy
    from types import ModuleType

    first = {"file": str(Path(program.name).resolve().parent), "-m": str(Path.cwd()), "-c": ""}[program.kind]
    told = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*([] if program.safe_path else [first]), *told, *_found_by_python]
    if program.kind == "-m":
        runpy._run_module_as_main(program.name)  # type: ignore[attr-defined]
        return
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if program.kind == "-c":
        exec(compile(program.name, "<string>", "exec"), main.__dict__)
        return
    main.__file__ = str(Path(program.name).absolute())
    main.__dict__["__cached__"] = None
    exec(compile(Path(program.name).read_bytes(), main.__file__, "exec"), main.__dict__)


_began_with = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
_found_by_python = [path for path in sys.path if path not in _began_with]  # of the standard library and packages
