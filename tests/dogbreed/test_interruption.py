"""A signal stops the run even if a library swallows the exception that it raised."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dogbreed.errors import Interrupted
from dogbreed.interruption import Interruption, note, signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_came_before_training_and_was_swallowed_ends_it(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    note(signum)
    with pytest.raises(Interrupted) as raised, Interruption():
        pytest.fail("training has begun")
    assert raised.value.signum == signum
    assert signal.getsignal(signum) is before
    with Interruption():  # once
        pass


def test_a_signal_whose_exception_is_swallowed_in_training_ends_it_at_the_next_check() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), Interruption() as stop:  # noqa: PT012
        with suppress(Interrupted):  # as a library may
            os.kill(os.getpid(), signal.SIGTERM)
        stop.check()


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Restore what SIGHUP does in this process."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
def test_several_hang_ups_and_the_sigterm_that_comes_with_them_are_one_request_to_save() -> None:
    saved = False
    with pytest.raises(Interrupted) as raised, Interruption() as stop, stop.deferred():  # noqa: PT012
        for signum in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), signum)
        saved = True  # a step goes on to its end
        stop.stop("after step 1", signal.SIGHUP)
    assert saved
    assert raised.value.signum == signal.SIGHUP
    os.kill(os.getpid(), signal.SIGHUP)  # while the end is being recorded: it would end this process


@pytest.mark.usefixtures("hang_up")
def test_a_hang_up_that_is_ignored_at_the_start_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    assert signal.SIGHUP not in signals()
    with Interruption():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


_PRINTS_WHILE_SAVING = """
import os, signal, sys, time
from dogbreed.errors import Interrupted
from dogbreed.interruption import Interruption, outlive_terminal
outlive_terminal()
saved, lost = sys.argv[1:]
try:
    with Interruption() as stop, stop.deferred():
        print("begun", flush=True)
        while stop.signum is None:
            gone = not os.isatty(0)
            print("training", flush=True)
            print("a warning", file=sys.stderr)
            if gone:
                open(lost, "w").close()
            time.sleep(0.005)
        print("saving", flush=True)
        open(saved, "w").write("saved")
except Interrupted as stopped:
    print(stopped, file=sys.stderr, flush=True)
    sys.exit(128 + stopped.signum)
"""


@pytest.mark.ordinary_start
@pytest.mark.parametrize("prints_first", [False, True], ids=["signal first", "a line is printed first"])
def test_output_to_a_terminal_that_has_gone_does_not_disturb_saving(tmp_path: Path, *, prints_first: bool) -> None:
    ours, theirs = pty.openpty()
    saved, lost = tmp_path / "saved", tmp_path / "lost"
    command = [sys.executable, "-c", _PRINTS_WHILE_SAVING, str(saved), str(lost)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    assert b"begun" in os.read(ours, 100)
    os.close(ours)
    while prints_first and process.poll() is None and not lost.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGHUP)  # what a shell that ends sends
    assert process.wait(240) == 128 + signal.SIGHUP
    assert saved.read_text() == "saved"
