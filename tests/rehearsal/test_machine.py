"""A rented machine of the rehearsal cloud: a command in a folder, which leaves nothing behind."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.rehearsal.machine import Machine, remove_left_over
from tests.support.launcher_contract import until
from tests.support.processes import alive


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "machine", {"/opt/ml": "ml", "/var/task": "task"})
    yield machine
    machine.kill()


def ended(machine: Machine) -> int | None:
    until(lambda: not machine.running)
    return machine.exit_code


def test_a_command_sees_the_machine_s_folders_and_its_output_names_them_as_on_the_machine(machine: Machine) -> None:
    task = machine.path("/var/task")
    task.mkdir(parents=True)
    (task / "say.py").write_text(
        "import os, sys, tempfile; print(sys.argv[1]); print(os.getcwd(), tempfile.gettempdir(), os.environ['HOME']); "
        "print(os.environ['MINE']); print(sys.argv[0]); sys.exit(3)"
    )
    machine.start(["python", "/var/task/say.py", "/opt/ml/model"], {"MINE": str(machine.path("/opt/ml/x"))})
    assert ended(machine) == 3
    assert machine.read_lines(last=True) == ["/opt/ml/model", "/tmp /tmp /tmp", "/opt/ml/x", "/var/task/say.py"]
    assert machine.path("/opt/ml/model") == machine.folder / "ml" / "model"
    with pytest.raises(ValueError, match="/opt/mlx is under none of /opt/ml, /var/task"):
        machine.path("/opt/mlx")


def test_only_whole_lines_are_read_until_the_last_time(machine: Machine) -> None:
    script = "import time; print('one\\n\\nhalf\\rtwo', flush=True); print('thr', end='', flush=True); time.sleep(600)"
    assert machine.read_lines() == []
    machine.start(["python", "-c", script], {})
    lines: list[str] = []
    until(lambda: bool(lines.extend(machine.read_lines()) or len(lines) == 3))
    assert lines == ["one", "half", "two"]
    assert machine.running
    assert machine.exit_code is None
    machine.kill()
    assert machine.read_lines(last=True) == ["thr"]
    assert machine.exit_code == -signal.SIGKILL


def test_nothing_that_a_command_has_started_outlives_it(machine: Machine) -> None:
    script = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True)"
    )
    machine.start(["python", "-c", script], {})
    assert ended(machine) == 0
    child = int(machine.read_lines(last=True)[0])
    assert alive(child)
    machine.remove()
    until(lambda: not alive(child))
    assert not machine.folder.exists()


def test_a_signal_reaches_the_command_and_none_is_sent_to_one_that_has_ended(machine: Machine) -> None:
    machine.signal(signal.SIGTERM)  # before it starts
    script = "import signal, time; signal.signal(15, lambda *_: exit(7)); print('up', flush=True); time.sleep(600)"
    machine.start(["python", "-c", script], {})
    until(lambda: machine.read_lines() == ["up"])
    machine.signal(signal.SIGTERM)
    assert ended(machine) == 7
    machine.signal(signal.SIGTERM)


def test_a_full_disk_is_an_error_of_the_write(machine: Machine) -> None:
    script = (
        "try:\n    open('big', 'wb').write(bytes(2_000_000))\n"
        "except OSError as error:\n    print(type(error).__name__, error.errno)"
    )
    machine.start(["python", "-c", script], {}, disk_mb=1)
    assert ended(machine) == 0
    assert machine.read_lines(last=True) == ["OSError 27"]  # EFBIG


def test_what_a_killed_server_left_running_is_ended_and_its_folder_deleted(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    machine.start(["python", "-c", "import time; time.sleep(600)"], {})
    (link,) = tmp_path.glob("dogbreed-*/tmp")
    assert link.resolve() == machine.folder / "work"
    remove_left_over(machine.folder)
    assert ended(machine) == -signal.SIGKILL
    assert not machine.folder.exists()
    assert not link.parent.exists()
    remove_left_over(machine.folder)  # again, where there is nothing


def test_what_a_killed_server_had_no_time_to_note_is_ended_as_well(machine: Machine) -> None:
    machine.start(["python", "-c", "import time; time.sleep(600)"], {})
    (note,) = machine.folder.glob("process.json")
    note.unlink()
    remove_left_over(machine.folder)
    assert machine.pid is not None
    assert not alive(machine.pid)
    assert not machine.folder.exists()


def test_a_process_that_only_has_the_number_of_an_old_one_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    machine.start(["python", "-c", "import time; time.sleep(600)"], {})
    (note,) = machine.folder.glob("process.json")
    old = tmp_path / "old"
    old.mkdir()
    noted = json.loads(note.read_text())
    (old / note.name).write_text(
        json.dumps({**noted, "started": noted["started"] - 1000, "tmp": str(tmp_path / "x/y")})
    )
    remove_left_over(old)
    assert machine.running
    os.kill(noted["pid"], 0)
    assert not old.exists()
