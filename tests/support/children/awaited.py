"""Training waits for the signal that it is to be ended by, and for a test that holds it.

Training of seconds may be over before a test sends the signal, before the cloud has seen the moment at which it takes
the machine away, or before the machine has been told: how fast each of them gets on is chance. Here training comes to
that moment and no further until the signal comes, or the end. `held` of tests/support/rehearsing.py holds jobs in the
same way for as long as it lasts. Variables of the environment tell of all this: the cloud's process sets those of its
machines, a test AFTER for a run on this machine.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import on_import

AFTER = "DOGBREED_TESTS_HOLD_AFTER"  # the epoch, from 1; one that ends later holds as well
MOMENTS, ADVICE, HELD = (f"DOGBREED_TESTS_{name}" for name in ("MOMENTS", "ADVICE", "HELD"))
HOLD = "held"  # in the cloud's state folder: a regular expression for the names of jobs
_LONGEST_S = 250.0  # then training goes on, and the test says what it misses
_LOOK_S = 0.01
_AGAIN_S = 0.3


def install() -> None:
    on_import.change("launchers.rehearsal.services.training_container", _tell_jobs)
    on_import.change("launchers.rehearsal.services.ec2_system", _tell_machines)
    on_import.change("dogbreed.training.history", _wait_after_epochs)
    on_import.change("dogbreed.checkpoints", _wait_after_checkpoints)
    on_import.change("launchers.sweep.running", _wait_after_trials)
    on_import.change("launchers.sweep.worker", _let_trials_go_on)


# --- in the cloud's process ---


def _tell_jobs(container: Any) -> None:
    environment = container.environment

    def told(host: Any, job: Any, server: Any, faults: Any) -> dict[str, str]:
        attempt = int(host.machine.folder.parent.name)
        limit_s = job.request["StoppingCondition"].get("MaxRuntimeInSeconds", _LONGEST_S)
        more = [f"{limit_s}s"] if limit_s < 10 else []  # so short that it is to end the job
        variables = _moments(faults, attempt, more, spot=job.spot)
        held = str(job.folder.parents[1] / HOLD)
        return {**environment(host, job, server, faults), **variables, HELD: held}

    container.environment = told


def _tell_machines(system: Any) -> None:
    begin = system.System.__init__

    def told(self: Any, folder: Path, environment: Mapping[str, str], now: Any, **more: Any) -> None:
        variables: dict[str, str] = {}
        with suppress(FileNotFoundError):  # a system without an instance
            about = json.loads((folder.parent / "instance.json").read_bytes())
            from launchers.rehearsal.faults import Faults

            faults = Faults(**about["faults"])
            variables = _moments(faults, about["number"], [], spot=about["spot"])
            variables[HELD] = str(folder.parents[3] / HOLD)
            if about["spot"] and about["number"] == 1 and faults.rebalance_at:
                variables[ADVICE] = "1"
        begin(self, folder, {**environment, **variables}, now, **more)

    system.System.__init__ = told


def _moments(faults: Any, attempt: int, more: Sequence[str], *, spot: bool) -> dict[str, str]:
    found = [faults.crash_moment(attempt), faults.reclaim_moment(attempt) if spot else None, *more]
    moments = [moment for moment in found if moment is not None]
    return {MOMENTS: json.dumps(moments)} if moments else {}


# --- in training ---


def _wait_after_epochs(history: Any) -> None:
    end = history.History.on_validation_end

    def ended(self: Any, trainer: Any, pl_module: Any) -> None:
        end(self, trainer, pl_module)
        epoch = trainer.current_epoch + 1
        if AFTER in os.environ and epoch >= int(os.environ[AFTER]):
            _wait(_is_signalled)
        if not _is_told():
            return
        last = epoch == trainer.max_epochs
        if _has_come("epoch", epoch) or (last and _is_timed()):
            _wait(_is_signalled)
        elif last and ADVICE in os.environ:
            advised = Path(os.environ["DOGBREED_SAVE_NOW"])
            _wait(lambda: advised.exists() or _is_signalled())
        _wait(lambda: not _is_held() or _is_signalled())

    history.History.on_validation_end = ended


def _wait_after_checkpoints(checkpoints: Any) -> None:
    save, count = checkpoints.ResumePoint._save, 0

    def saved(self: Any, trainer: Any) -> None:
        nonlocal count
        save(self, trainer)
        count += 1
        if _is_told() and _has_come("checkpoint", count):
            # the cloud counts what it sees, which may be one of two that were written at once
            _wait(_is_signalled, meanwhile=self.folder.last.touch)

    checkpoints.ResumePoint._save = saved


def _is_told() -> bool:
    """Return whether this process is on a rehearsed machine, and is that whose progress counts."""
    return HELD in os.environ and os.environ.get("RANK", "0") == "0"


def _all() -> list[str]:
    found: list[str] = json.loads(os.environ.get(MOMENTS, "[]"))
    return found


def _has_come(what: str, number: int) -> bool:
    parts = [moment.partition(" ") for moment in _all()]
    return any(number >= int(wanted) for kind, _, wanted in parts if kind == what)


def _is_timed() -> bool:
    """Return whether a moment is one of the clock, which may be at any point of the training; others are counted."""
    return any(moment == "start" or moment.endswith("s") for moment in _all())


def _is_signalled() -> bool:
    from dogbreed import interruption

    return interruption.pending() is not None


def _is_held() -> bool:
    try:
        names = Path(os.environ[HELD]).read_text()
    except OSError:
        return False
    return re.search(names, os.environ.get("TRAINING_JOB_NAME", "")) is not None


def _wait(reached: Callable[[], bool], *, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait for something. meanwhile: called now and then. A machine that gets no notice ends here."""
    until, again = time.monotonic() + _LONGEST_S, time.monotonic() + _AGAIN_S
    while not reached() and time.monotonic() < until:
        time.sleep(_LOOK_S)
        if time.monotonic() > again:
            meanwhile()
            again = time.monotonic() + _AGAIN_S


# --- in a search, of which the trials count that have ended ---


def _wait_after_trials(running: Any) -> None:
    show = running.RunningSearch._show

    def shown(self: Any, table: Any) -> None:
        before = self.__dict__.setdefault("shown_before", len(table._printed))
        show(self, table)
        ended = len(table._printed) - before
        if _is_told() and ended:
            if _has_come("trial", ended) or _has_come("epoch", 1):
                _wait(lambda: self._signum is not None)
            _wait(lambda: not _is_held() or self._signum is not None)

    running.RunningSearch._show = shown


def _let_trials_go_on(worker: Any) -> None:
    main = worker.main

    def without(arguments: Sequence[str]) -> None:
        for name in (MOMENTS, ADVICE, HELD):
            os.environ.pop(name, None)
        main(arguments)

    worker.main = without
