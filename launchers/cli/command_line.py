"""What `train.py` needs around its main function: resume, signals, messages and exit statuses."""

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, TextIO

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import launchers.cli.sweeper
import launchers.resolvers  # noqa: F401 (registers the resolvers of conf/)
from dogbreed.distributed import ranks
from dogbreed.errors import DogBreedError, Interrupted
from dogbreed.interruption import HANG_UP, let_go_of_terminal, note, outlive_terminal, signal_of_exit, signals
from dogbreed.run_folder import storage_error, write_json
from launchers import flags, hydra_errors
from launchers.cli.help import print_help
from launchers.project import PROJECT
from launchers.remote.context import REASON
from launchers.resume import expand
from launchers.runs.state import outcome


class RunEnded(BaseException):
    """Carries a run's error past Hydra, which would print a traceback, or continue with the next run of a sweep."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class EndOfRun(Callback):
    """Ends the command after a failed run, but a sweep only after Ctrl-C or SIGTERM. Hydra calls it after each run."""

    sweeps: ClassVar[set[Path]] = set()  # folders of this process's sweeps

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.sweeps.add(Path(config.hydra.sweep.dir))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        with suppress(OSError):
            Path(config.hydra.runtime.output_dir).rmdir()  # it is empty after a dry run or a refused command
        error = job_return._return_value if job_return.status is JobStatus.FAILED else None
        if error and (config.hydra.mode != RunMode.MULTIRUN or isinstance(error, Interrupted)):
            raise RunEnded(error)


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to the current sys.stdout, looked up for each line: a visible progress bar replaces it temporarily."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


@contextmanager
def command_line() -> Iterator[None]:
    """Run Hydra's main inside this context. Exits with 1 after an error, and with 128 + its number after a signal.

    Prints an error's message on stderr; debug=true prints the traceback as well.
    """
    debug = any(text.lower() in ("debug=true", "debug=1", "debug=yes", "debug=on") for text in sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing a long traceback itself
    logging.captureWarnings(True)
    logging.raiseExceptions = debug  # otherwise a full disk prints a traceback for each line of the log
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold bytes that are not UTF-8
    outlive_terminal()
    if cache := os.environ.get("DOGBREED_CACHE"):  # hydra.job.chdir=true leaves the folder that it is relative to
        os.environ["DOGBREED_CACHE"] = str(Path(cache).expanduser().absolute())
    for number in signals():
        if number != signal.SIGINT:
            signal.signal(number, _leave)
    ranks.last_words = _end_of_waiting
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise it is ignored, as after nohup
        signal.signal(signal.SIGINT, _interrupt)
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print_help(PROJECT / "conf", [text for text in sys.argv[1:] if not text.startswith("-")])
            sys.exit(0)
        sys.argv[1:] = ["launcher.live=true" if text == "--live" else text for text in sys.argv[1:]]
        flags.refuse_unknown(sys.argv[1:])
        sys.argv[1:] = expand(sys.argv[1:])
        yield
    except KeyboardInterrupt as error:
        _write_reason(error)
        _say("Stopped.", error)
        sys.exit(128 + signal.SIGINT)
    except SystemExit as error:
        if (signum := signal_of_exit(error)) is not None:
            _write_reason(error)
            _say(f"Stopped by {signum.name}.", error)
        raise
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _leave_with(error, debug)
    except RunEnded as ended:
        _leave_with(ended.error, debug)


def _write_reason(error: BaseException) -> None:
    """Write why the run ended, for launchers/remote/entry.py, which reports it to SageMaker.

    The field `consequence` says that another process ended first and caused this one to end.
    """
    if path := os.environ.get(REASON):
        _, cause, detail = outcome(error, cancelled=False)
        lost = isinstance(error, ranks.PeerLost) and error.consequence
        write_json(Path(path), {"cause": str(cause), "detail": detail, "consequence": lost})


def _leave_with(error: BaseException, debug: bool) -> None:
    _write_reason(error)
    for folder in EndOfRun.sweeps:
        _remove_if_empty(folder)
    if isinstance(error, Interrupted):
        _say(str(error), error)
        sys.exit(128 + error.signum)
    if debug:
        raise error
    _say(f"{_label()} {_message(error)}", error)
    sys.exit(1)


def _remove_if_empty(sweep: Path) -> None:
    """Remove a sweep's folder if it holds only what Hydra writes at its start: all runs were refused."""
    with suppress(OSError):
        if [path.name for path in sweep.iterdir()] == ["multirun.yaml"]:
            (sweep / "multirun.yaml").unlink()
            sweep.rmdir()


def _end_of_waiting(lost: ranks.PeerLost) -> None:
    """Report a lost process from a thread, while the main one blocks in a collective; the process ends after this."""
    _write_reason(lost)
    _say(f"{_label()} {lost}", lost)
    sys.stderr.flush()


def _message(error: BaseException) -> str:
    if isinstance(error, DogBreedError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return hydra_errors.message(error)
    if isinstance(error, OSError) and error.filename and not getattr(error, "__notes__", None):
        return str(storage_error(Path(error.filename), error))  # Hydra creates the run folder before the run starts
    hint = "" if getattr(error, "__notes__", None) else "\nTry: debug=true, which shows the traceback"
    return f"{type(error).__name__}: {error}{hint}"


def _say(text: str, error: BaseException) -> None:
    """Print the message, and the next action that the launcher noted on the error."""
    print("\n".join([text, *getattr(error, "__notes__", [])]), file=sys.stderr)


def _label() -> str:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return "\x1b[1;31merror:\x1b[0m" if coloured else "error:"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C outside training: record it, so that it is not lost, and raise KeyboardInterrupt as Python does."""
    note(signum)
    raise KeyboardInterrupt


def _leave(signum: int, frame: FrameType | None) -> None:
    """Handle SIGTERM and SIGHUP outside training: record it and exit. A second SIGTERM ends the process at once."""
    note(signum)
    if signum == HANG_UP:
        let_go_of_terminal()
        signal.signal(signum, signal.SIG_IGN)  # a terminal that closes sends several
    else:
        signal.signal(signum, lambda number, _: os._exit(128 + number))
    sys.exit(128 + signum)  # SystemExit, because a library that is being imported might swallow an Exception
