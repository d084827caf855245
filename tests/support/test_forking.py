"""A forked start is like an ordinary one to who starts it, to what is started, and to everybody else."""

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import forking
import handing_over
import psutil
import pytest

from tests.support.launcher_contract import until

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start this code as train.py."""
    started = ExitStack()

    def starting(code: str, *words: str, flags: Sequence[str] = (), **options: Any) -> "subprocess.Popen[str]":
        script = tmp_path / "train.py"
        if not script.exists() or script.read_text() != code:
            script.write_text(code)
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, *flags, str(script), *words], text=True, **{**streams, **options})
        started.enter_context(process)
        started.callback(process.kill)
        return process

    with started:
        yield starting


def forked(process: "subprocess.Popen[str]") -> bool:
    return isinstance(process, forking.Popen) and process._connection is not None


SURROUNDINGS = """
import json, logging, os, signal, sys, tempfile, threading, warnings
print(json.dumps({
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "folder": os.getcwd(), "name": __name__,
    "file": __file__, "main": sys.modules["__main__"].__dict__ is globals(), "environment": dict(os.environ),
    "handlers": {int(n): str(signal.getsignal(n)) for n in signal.valid_signals()},
    "ignored": [line for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn"))],
    "files": sorted(os.listdir("/proc/self/fd")), "threads": threading.active_count(), "group": os.getpgid(0),
    "session": os.getsid(0), "cpus": sorted(os.sched_getaffinity(0)), "temporary": tempfile.gettempdir(),
    "stdin": sys.stdin.read(), "umask": os.umask(0), "bytecode": sys.dont_write_bytecode,
}))
print("to stderr", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"env": {"PATH": "/nowhere", "PYTHONUNBUFFERED": "1", "NAMED": "ä=b", "TMPDIR": "/var/tmp"}},
        {"cwd": "/", "stderr": subprocess.STDOUT},
    ],
    ids=["plain", "environment", "folder"],
)
def test_a_program_finds_the_same_surroundings(start: Start, options: dict[str, Any]) -> None:
    found = []
    for ordinary in (False, True):
        if ordinary:
            with forking.ordinary_start():
                process = start(SURROUNDINGS, "some", "words", **options)
        else:
            process = start(SURROUNDINGS, "some", "words", **options)
        assert forked(process) is not ordinary
        out, err = process.communicate("typed", timeout=300)
        lines = out.splitlines()
        surroundings = json.loads(lines[0])
        environment = surroundings.pop("environment")
        # LC_CTYPE Python sets as it begins, LINES and COLUMNS the library readline, past os.environ
        for name in (forking.SERVER, "LC_CTYPE", "LINES", "COLUMNS"):
            environment.pop(name, None)
        found.append({**environment, **surroundings, "said": (lines[1:], err), "status": process.returncode})
    assert {name: value for name, value in found[0].items() if value != found[1][name]} == {}
    assert found[0].keys() == found[1].keys()


def test_torch_is_there_and_has_as_many_threads_as_it_is_told(start: Start) -> None:
    code = "import sys; assert 'torch' in sys.modules; import torch; print(torch.get_num_threads())"
    for told, threads in (
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({}, len(os.sched_getaffinity(0))),
    ):
        process = start(code, env={**os.environ, **told})
        assert process.communicate(timeout=300)[0] == f"{threads}\n"


@pytest.mark.parametrize(
    "code",
    [
        "",
        "raise SystemExit",
        "raise SystemExit(7)",
        "raise SystemExit('last words')",
        "1 / 0",
        "import os; os._exit(9)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import atexit; atexit.register(print, 'at exit')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()",
        "import sys; sys.stdout.write('no line')",
        "import subprocess; subprocess.run(['sh', '-c', 'echo $0 of another program'])",
    ],
)
def test_it_ends_in_the_same_way(start: Start, code: str) -> None:
    process = start(code)
    assert forked(process)
    said = process.communicate(timeout=300)
    with forking.ordinary_start():
        other = start(code)
    assert other.communicate(timeout=300) == said
    assert other.returncode == process.returncode


def test_the_first_process_sees_a_whole_popen(start: Start) -> None:
    process = start("import time; print('up', flush=True); time.sleep(600)")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == process.poll() == process.returncode == -signal.SIGTERM
    process.kill()  # as ever, once it has ended
    process.communicate()


def test_it_stops_goes_on_and_is_killed(start: Start) -> None:
    process = start("import time; print('up', flush=True); time.sleep(600)")
    assert process.stdout is not None
    process.stdout.readline()
    seen = psutil.Process(process.pid)
    process.send_signal(signal.SIGSTOP)
    until(lambda: seen.status() == psutil.STATUS_STOPPED)
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    until(lambda: seen.status() == psutil.STATUS_SLEEPING)
    process.kill()
    assert process.wait(300) == -signal.SIGKILL
    until(lambda: not psutil.pid_exists(process.pid))
    process.communicate()


def test_psutil_finds_it_by_its_words_and_its_environment(start: Start, tmp_path: Path) -> None:
    process = start("input()", "a", "b=c d", env={"FOUND": "by this", **os.environ}, cwd=tmp_path)
    seen = psutil.Process(process.pid)
    until(lambda: "FOUND" in seen.environ() and seen.cwd() == str(tmp_path))
    assert [word for word in seen.cmdline() if word] == [sys.executable, str(tmp_path / "train.py"), "a", "b=c d"]
    assert seen.environ() == {"FOUND": "by this", **os.environ}
    assert time.time() - seen.create_time() < 600
    process.communicate("\n", timeout=300)


@pytest.mark.parametrize(("variable", "flags"), [("1", []), ("", ["-u"]), ("", [])])
def test_lines_are_written_at_once_where_that_is_asked_for(start: Start, variable: str, flags: list[str]) -> None:
    code = "import sys; print('up'); sys.stdin.readline(); print('end')"
    process = start(code, flags=flags, env={**os.environ, "PYTHONUNBUFFERED": variable})
    assert forked(process)
    assert process.stdout is not None
    assert process.stdin is not None
    if variable or flags:
        assert process.stdout.readline() == "up\n"
    else:
        assert not select.select([process.stdout], [], [], 0.3)[0]
    assert process.communicate("\n", timeout=300)[0].splitlines()[-1] == "end"


def test_a_signal_handler_of_the_program_works(start: Start) -> None:
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'heard\\n'), sys.exit(3)))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.01)"
    )
    process = start(code)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.communicate(timeout=300)[0] == "heard\n"
    assert process.returncode == 3


def test_files_are_passed_on_by_their_numbers(start: Start) -> None:
    ours, theirs = os.pipe()
    process = start(f"import os; os.write({theirs}, b'through')", pass_fds=(theirs,))
    assert forked(process)
    os.close(theirs)
    assert os.read(ours, 100) == b"through"
    assert os.read(ours, 100) == b""  # nobody else holds the other end
    os.close(ours)
    process.communicate(timeout=300)


STARTS_ANOTHER = """
import os, signal, subprocess, sys
from pathlib import Path
child = subprocess.Popen([sys.executable, "train.py"], cwd=sys.argv[1], env={"FEW": "1"}, stdin=subprocess.DEVNULL)
status = child.wait()
print("ended", status, flush=True)
"""
SAYS = "import os, sys; print(os.getppid(), os.getsid(0), 'torch' in sys.modules, os.environ['FEW'])"


def test_in_a_session_of_its_own_it_forks_by_itself(start: Start, tmp_path: Path) -> None:
    """So that who kills the group of processes kills both, and each is waited for by its own parent."""
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "train.py").write_text(SAYS)
    process = start(STARTS_ANOTHER, str(folder), start_new_session=True)
    assert forked(process)
    out, err = process.communicate(timeout=300)
    assert out.splitlines() == [f"{process.pid} {process.pid} True 1", "ended 0"], err


def test_a_child_is_the_first_of_its_group_as_soon_as_it_is_known(start: Start) -> None:
    for _ in range(5):
        process = start("import time; time.sleep(600)", start_new_session=True)
        os.killpg(process.pid, signal.SIGKILL)
        assert forked(process)
        assert process.wait(300) == -signal.SIGKILL


def test_what_a_job_starts_reaches_nothing_outside_either(start: Start, tmp_path: Path) -> None:
    code = "import socket\ntry: socket.create_connection(('nobody.invalid', 80))\nexcept OSError as error: print(error)"
    for ordinary in (False, True):
        if ordinary:
            with forking.ordinary_start():
                process = start(code, env={})
        else:
            process = start(code, env={})
        assert "there is no network in tests" in process.communicate(timeout=300)[0]


STARTS_TRAINING = """
import subprocess, sys
subprocess.run([sys.executable, "train.py"], start_new_session=True)
"""


def test_what_the_script_of_a_rented_machine_starts_is_forked_too(tmp_path: Path) -> None:
    """Its environment is made from nothing, and Python is started by a shell."""
    (tmp_path / "first.py").write_text(STARTS_TRAINING)
    (tmp_path / "train.py").write_text("import sys; print('torch' in sys.modules)")
    script = f"exec {shlex.quote(sys.executable)} first.py"
    done = subprocess.run(
        ["/bin/bash", "-c", script], env={}, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("begins", [handing_over.ASKS, f"{handing_over.FETCHES}'s3', 'eu-west-1'); sys.exit("])
def test_what_a_shell_asks_of_torch_and_boto3_is_answered_by_a_forked_process(
    begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"{begins}7 if 'timm' in sys.modules else 3)"  # what the server has imported besides
    own = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    command = ["/bin/bash", "-c", f"{shlex.join([sys.executable, '-c', code])}; echo $?"]
    assert subprocess.run(command, env=own, capture_output=True, text=True, timeout=300).stdout == "7\n"
    monkeypatch.setenv(forking.SERVER, f"{os.getsid(0)}:/nobody/is/there")
    assert subprocess.run(command, env=own, capture_output=True, text=True, timeout=300).stdout == "3\n"


@pytest.mark.parametrize("verb", ["doctor", "list"])
def test_of_the_verbs_the_one_that_imports_torch_is_forked(verb: str) -> None:
    found = forking.program([sys.executable, "-m", "launchers", verb])
    assert (found is not None) is (verb == "doctor")


@pytest.mark.parametrize(
    "words",
    [
        ["-X", "importtime", "train.py"],
        ["-W", "error", "train.py"],
        ["-c", "pass"],
        ["-m", "http.server"],
        ["other.py"],
        ["-I", "train.py"],
    ],
    ids=" ".join,
)
def test_where_python_itself_matters_it_begins(words: Sequence[str]) -> None:
    assert forking.program([sys.executable, *words]) is None
    assert forking.program([sys.executable + "x", "train.py"]) is None


@pytest.mark.ordinary_start
def test_a_test_can_ask_for_an_ordinary_start(start: Start) -> None:
    process = start("import sys; print('torch' in sys.modules)")
    assert process.communicate(timeout=300)[0] == "False\n"
    assert not forked(process)


def test_many_at_once_are_kept_apart(start: Start) -> None:
    started = [start("import sys; print(sys.argv[1]); sys.exit(int(sys.argv[1]))", str(n)) for n in range(20)]
    for number, process in enumerate(started):
        assert process.communicate(timeout=300)[0] == f"{number}\n"
        assert process.returncode == number


def test_the_server_has_no_thread_whose_locks_a_child_would_inherit(start: Start) -> None:
    """ONNX Runtime begins one as it is imported, unless it is kept from reporting."""
    process = start("import os, psutil; print(psutil.Process(os.getppid()).num_threads())")
    assert process.communicate(timeout=300)[0] == "1\n"
    assert forked(process)


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 warns of what is done here
def test_a_server_ends_although_a_fork_of_the_tests_process_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(forking.SERVER, "")  # that of all tests is there again afterwards
    with forking.server(tmp_path / "address"):
        if (pid := os.fork()) == 0:
            signal.pause()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_clients_that_are_killed_or_stopped_before_sending_do_not_block_the_server(start: Start) -> None:
    address = os.environ[forking.SERVER].partition(":")[2]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
        killed.connect(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stopped:
        stopped.connect(address)
        process = start("print('here')")
        assert process.communicate(timeout=300)[0] == "here\n"
        assert forked(process)


def test_without_a_server_python_starts_as_usual(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(forking.SERVER, f"{os.getsid(0)}:{tmp_path / 'gone'}")
    process = start("print('here')")
    assert process.communicate(timeout=300)[0] == "here\n"
    assert not forked(process)


CANNOT_START = """
import forking, os, sys
program = forking.Program("file", "train.py", False, ["train.py"])
cpus = sorted(os.sched_getaffinity(0))
start = forking.Start(program, ["python", "train.py"], {}, sys.argv[1], [], os.getpgid(0), cpus)
pid = os.fork()
if pid == 0:
    if sys.argv[2] == "closed":
        sys.stderr.close()
    try:
        forking.become(start, [0, 1, 2])
    finally:
        os._exit(7)  # it would have continued as a copy of its parent
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("stderr", ["open", "closed"])
def test_a_child_that_cannot_start_its_program_exits(stderr: str, tmp_path: Path) -> None:
    """Here its folder is missing. It must not continue as a second server."""
    command = [sys.executable, "-c", CANNOT_START, str(tmp_path / "gone"), stderr]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == "1\n"
    assert ("FileNotFoundError" in done.stderr) is (stderr == "open")
