"""What `train.py` does around its one sentence: resume, signals, messages and exit statuses."""

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import launchers.cli.sweeper
import launchers.resolvers  # noqa: F401 (registers the resolvers of conf/)
from dogbreed.distributed import ranks
from dogbreed.errors import DogBreedError, Interrupted
from dogbreed.interruption import note
from dogbreed.run_folder import storage_error, write_json
from launchers.cli.help import print_help
from launchers.project import PROJECT
from launchers.remote.context import REASON
from launchers.resume import expand
from launchers.runs.state import outcome


class RunEnded(BaseException):
    """Carries a run's error past Hydra, which would print more than that, or go on with the next run of a sweep."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class EndOfRun(Callback):
    """Hydra calls this after each run. An error leaves Hydra here; in a sweep only Ctrl-C or SIGTERM does."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        with suppress(OSError):
            Path(config.hydra.runtime.output_dir).rmdir()  # still empty after a dry run or a refusal
        error = job_return._return_value if job_return.status is JobStatus.FAILED else None
        if error and (config.hydra.mode != RunMode.MULTIRUN or isinstance(error, Interrupted)):
            raise RunEnded(error)


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Looks sys.stdout up for each line: a progress bar replaces it while it is shown, to keep lines above the bar."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


@contextmanager
def command_line() -> Iterator[None]:
    """Run Hydra's main in here. Exits with 1 after an error, 130 after Ctrl-C and 143 after SIGTERM.

    An error is its message on stderr; debug=true shows the traceback as well.
    """
    debug = any(text.lower() in ("debug=true", "debug=1", "debug=yes", "debug=on") for text in sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors pass: Hydra's own way is a long traceback
    logging.captureWarnings(True)
    logging.raiseExceptions = debug  # else a full disk prints a traceback for each line of the log
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold bytes that are not UTF-8
    signal.signal(signal.SIGTERM, _leave)
    ranks.last_words = _end_of_waiting
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as after nohup
        signal.signal(signal.SIGINT, _interrupt)
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print_help(PROJECT / "conf", [text for text in sys.argv[1:] if not text.startswith("-")])
            sys.exit(0)
        sys.argv[1:] = expand(sys.argv[1:])
        yield
    except KeyboardInterrupt as error:
        _write_reason(error)
        _say("Stopped.", error)
        sys.exit(128 + signal.SIGINT)
    except SystemExit as error:
        if error.code == 128 + signal.SIGTERM:
            _write_reason(error)
            _say("Stopped by SIGTERM.", error)
        raise
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _leave_with(error, debug)
    except RunEnded as ended:
        _leave_with(ended.error, debug)


def _write_reason(error: BaseException) -> None:
    """For launchers/remote/entry.py, which tells SageMaker. consequence: that another process's end came first."""
    if path := os.environ.get(REASON):
        _, cause, detail = outcome(error, cancelled=False)
        lost = isinstance(error, ranks.PeerLost) and error.consequence
        write_json(Path(path), {"cause": str(cause), "detail": detail, "consequence": lost})


def _leave_with(error: BaseException, debug: bool) -> None:
    _write_reason(error)
    if isinstance(error, Interrupted):
        _say(str(error), error)
        sys.exit(128 + error.signum)
    if debug:
        raise error
    _say(f"{_label()} {_message(error)}", error)
    sys.exit(1)


def _end_of_waiting(lost: ranks.PeerLost) -> None:
    """From a thread, while the main one waits where no exception reaches it; the process ends after this."""
    _write_reason(lost)
    _say(f"{_label()} {lost}", lost)
    sys.stderr.flush()


def _message(error: BaseException) -> str:
    if isinstance(error, DogBreedError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        typed = f"{error.override}: " if isinstance(error, OverrideParseException) else ""
        causes = [f"{typed}{error}"]
        if isinstance(error.__cause__, OmegaConfBaseException | DogBreedError):
            causes.append(str(error.__cause__))
        return "\n".join(causes)
    if isinstance(error, OSError) and error.filename and not getattr(error, "__notes__", None):
        return str(storage_error(Path(error.filename), error))  # Hydra makes the run folder before the run begins
    hint = "" if getattr(error, "__notes__", None) else "\nTry: debug=true shows where"
    return f"{type(error).__name__}: {error}{hint}"


def _say(text: str, error: BaseException) -> None:
    """The message, and the next action that the launcher noted on the error."""
    print("\n".join([text, *getattr(error, "__notes__", [])]), file=sys.stderr)


def _label() -> str:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return "\x1b[1;31merror:\x1b[0m" if coloured else "error:"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Ctrl-C before training listens itself, or after it: as Python has it, but not to be lost."""
    note(signum)
    raise KeyboardInterrupt


def _leave(signum: int, frame: FrameType | None) -> None:
    """SIGTERM before training listens itself, or after it. A second one does not wait for anything."""
    note(signum)
    signal.signal(signum, lambda number, _: os._exit(128 + number))
    sys.exit(128 + signum)  # no Exception: a library that is being imported might swallow one
