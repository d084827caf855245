"""Run a search: fill free slots with trials, process the workers' messages, and finish the search."""

import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import cast

from dogbreed import commands
from dogbreed.commands import override, shown_path
from dogbreed.errors import ConfigError, Interrupted
from dogbreed.interruption import HANG_UP, let_go_of_terminal, signals
from dogbreed.run_folder import RunFolder
from launchers.config_sources import ConfigSources
from launchers.overrides import override_key, without_faults
from launchers.remote.context import on_rented_machine
from launchers.status import LaunchError
from launchers.sweep import page
from launchers.sweep.best import write_best
from launchers.sweep.budget import Budget
from launchers.sweep.folders import TrialFolders
from launchers.sweep.machines import Machines
from launchers.sweep.processors import all_cpus, cpus_of
from launchers.sweep.space import SearchSpace
from launchers.sweep.storage import StudyError, hidden
from launchers.sweep.study import Study
from launchers.sweep.summary import summarize
from launchers.sweep.table import SweepTable
from launchers.sweep.tail import Tail
from launchers.sweep.trials import Trial
from launchers.sweep.worker import Epoch, Outcome, Task, Worker

SAME_CAUSE = 3  # trials in a row that fail for the same reason end the search
_WAIT_S = 0.25  # to wait for a message; in between the table is drawn
_CLAIM_S = 2.0  # between two attempts to claim a trial, when all are running
_UNREACHABLE_S = 60.0  # for which a database may be unreachable
_STOP_S = 60.0  # for workers to save their runs


@dataclass
class RunningSearch:
    """Fills its slots with trials as soon as they are free, until the study has all of its trials."""

    study: Study
    space: SearchSpace
    overrides: Sequence[str]  # of every trial
    folder: Path
    n_trials: int
    parallel: int
    machines: Machines
    budget: Budget
    monitor: str
    asks: bool  # whether a pruner needs each epoch's value
    warms_up: bool  # whether to compute the trials' shared features first
    elsewhere: bool  # whether trials are remote runs that continue without this process
    home: Path  # the search's folder on the machine of the person who started it, which may be another one
    has_leftovers: bool = False  # whether folders may hold files that interrupted machines saved in part, in any order
    _workers: dict[int, Worker] = field(default_factory=dict)  # by slot
    _busy: dict[int, int] = field(default_factory=dict)  # trial by slot
    _received: list[tuple[int, Epoch | Outcome | None]] = field(default_factory=list)  # (slot, message) to process
    _causes: list[str] = field(default_factory=list)  # why the latest trials failed; "" for one that did not
    _no_machine: str = ""  # the latest error of a trial that got none
    _out_of_sight: str = ""  # the latest error of a trial whose job cannot be followed
    _claims_again_at: float = 0.0
    _signum: int | None = None
    _interrupted_at: float = 0.0
    _interrupted: int = 0  # trials that were running then

    def __post_init__(self) -> None:
        self._folders = TrialFolders(self.folder, self.study, self.space, self.has_leftovers)

    def run(self) -> float:
        name, before = self.study.about.name, self.study.trials()
        done = self.study.counts().finished
        resumed = f", resumed after {done}" if done else ""
        print(
            f"Search {name}: {self.n_trials} trials{resumed}, {self.parallel} at once, in {shown_path(self.home)}",
            flush=True,
        )
        with self._signals(), self._workers_ended():
            if done < self.n_trials and self.warms_up:
                self._warm_up()
            with SweepTable(name, self.space, self.n_trials) as table:
                table.skip(before)
                self._fill_until_done(table)
            if self._signum is not None:
                self._raise_interrupted()
            self.machines.raise_if_over(
                self._no_machine, done=self.study.counts().finished, n_trials=self.n_trials, again=_again()
            )
            self._raise_out_of_sight()
            self._raise_same_cause()
            return self._end()

    def _fill_until_done(self, table: SweepTable) -> None:
        unreachable_since: float | None = None
        while True:
            try:
                done = self._step()
                self._show(table)
                unreachable_since = None
            except StudyError:  # the database may be restarting, or the file locked for a while
                unreachable_since = unreachable_since or time.monotonic()
                if self._signum is not None or time.monotonic() - unreachable_since > _UNREACHABLE_S:
                    raise
                self.study.hold(self._busy.values())
                time.sleep(1.0)
                continue
            if done:
                return

    def _step(self) -> bool:
        """Start the trials that can be started and process messages. Return True when nothing is left to do."""
        if not self._ends and not self._received:  # what has been received may have ended a trial in part
            self._fill()
        if self._busy:
            self._receive()
        elif self._ends or self.study.counts().finished >= self.n_trials:
            return True
        else:
            time.sleep(_WAIT_S)  # other sweepers run the last trials, and may die
        if self._signum is not None:
            self._interrupt_workers()
        self.study.beat()
        return False

    @property
    def _ends(self) -> bool:
        """Whether no further trial is started."""
        over = self.machines.over or (self.budget.over and not self._busy)
        no_more = over or self._out_of_sight or self._same_cause()
        return self._signum is not None or bool(no_more)

    def _show(self, table: SweepTable) -> None:
        trials = self.study.trials()
        table.show(trials, self.study.best(trials))

    def _fill(self) -> None:
        for slot in range(self.parallel):
            if slot in self._busy or time.monotonic() < self._claims_again_at:
                continue
            if not self.machines.has_room(len(self._busy)):
                return
            trial = self.study.claim(self.n_trials, jobs=self.elsewhere)
            if trial is None:  # all are running, but another sweeper's trial may return to the queue
                self._claims_again_at = time.monotonic() + _CLAIM_S
                return
            if not self.budget.admits(trial, self.study.give):
                self.study.give_back(trial.number)
                self._claims_again_at = time.monotonic() + _CLAIM_S
                return
            self._folders.make_room(trial)
            overrides = self._overrides_of(trial)  # not later: it asks the database, which may not answer
            self._busy[slot] = trial.number
            self._worker(slot).send(Task(overrides, cpus=cpus_of(slot, self.parallel), asks=self.asks, takes_over=True))

    def _overrides_of(self, trial: Trial) -> tuple[str, ...]:
        """Return the overrides of a trial's run: those of all trials, its parameters, its id and folder."""
        own = (
            override("run_id", self._folders.run_id(trial.number)),
            override("hydra.run.dir", str(self._folders.of(trial.number))),
        )
        limits = self.budget.overrides(self.study.trial(trial.number).given_usd)
        return (*self.overrides, *self.space.overrides(trial.values), *own, *limits)

    def _worker(self, slot: int) -> Worker:
        if slot not in self._workers:
            self._workers[slot] = Worker(slot, self.folder / "workers" / f"{slot}.log")
        return self._workers[slot]

    def _receive(self) -> None:
        """Process the workers' messages. Those that the study cannot record now are kept for the next call."""
        pending = {slot for slot, _ in self._received}
        by_connection = {self._workers[slot].connection: slot for slot in self._busy.keys() - pending}
        for ready in wait(list(by_connection), 0 if pending else _WAIT_S):
            slot = by_connection[cast(Connection, ready)]
            self._received.append((slot, self._workers[slot].receive()))
        while self._received:
            slot, message = self._received[0]
            if isinstance(message, Epoch):
                value = float(message.metrics[self.monitor])
                ends = self.study.report(self._busy[slot], message.number, value)
                if ends is None and self.elsewhere:  # its job goes on for the sweeper that has taken it over
                    self._workers.pop(slot).end()
                    del self._busy[slot]
                else:
                    self._workers[slot].send(ends is not False)
            else:
                self._ended(slot, self._busy[slot], message)
                del self._busy[slot]
                self._claims_again_at = 0.0
            self._received.pop(0)

    def _ended(self, slot: int, number: int, outcome: Outcome | None) -> None:
        """Record the outcome of a trial. outcome: None if the worker process died."""
        if outcome is None:
            how = self._workers[slot].end(wait_s=1.0)
            if self._signum is not None:
                self.study.give_back(number)
            elif cause := self.study.died(number, how):
                self._causes.append(cause)
            del self._workers[slot]
            return
        if outcome.shortage is not None:
            self.study.give_back(number)  # with its number and its values: it has not been tried
            self._lack_machine(outcome)
            return
        if outcome.ended == "out of sight":
            self.study.give_back(number)  # the same command comes back to its job
            self._out_of_sight = outcome.detail
            return
        self.machines.found()
        self.budget.over = ""  # it may have cost less than it was given
        if outcome.usd is not None:
            self.study.bill(number, outcome.usd)
        if outcome.ended in ("stopped", "busy"):
            self.study.give_back(number)
            if outcome.ended == "stopped":
                self._workers.pop(slot).end()
            return
        value = float(outcome.metrics.get(self.monitor, math.nan))
        if outcome.ended == "well" and math.isfinite(value):
            pruned = int(outcome.metrics["epochs"]) < outcome.max_epochs
            self.study.complete(number, value, self._folders.of(number), outcome.metrics, pruned=pruned)
            self._causes.append("")
            return
        cause = outcome.detail or f"{self.monitor} is {value}"
        self.study.failed(number, cause)
        self._causes.append(re.sub(r"[-+]?\d[\d.e+-]*", "#", cause.splitlines()[0]))

    def _lack_machine(self, outcome: Outcome) -> None:
        """Decide what follows from a run's outcome "no machine", and say so."""
        assert outcome.shortage is not None
        self._no_machine = outcome.detail
        if told := self.machines.lack(outcome.shortage, max(0, len(self._busy) - 1)):
            print(f"No machine for a trial: {told}", flush=True)

    def _warm_up(self) -> None:
        """Compute the features that all trials share, with all CPUs. Raises what would stop every trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        worker = self._worker(0)
        reader = Tail(self.folder / "workers" / "0.log")
        some = (*self.overrides, *self.space.overrides(self.space.first()))
        worker.send(Task(some, first=True, folder=str(self.folder)))
        while not worker.connection.poll(_WAIT_S):
            self._beat()
            reader.copy()
            if self._signum is not None:
                self._interrupt_workers()
        reader.copy()
        outcome = worker.receive()
        if outcome is None or isinstance(outcome, Epoch) or outcome.ended == "stopped":
            how = self._workers.pop(0).end()
            if self._signum is None:
                raise LaunchError(f"The process that computes the shared features died: {how}")
            self._raise_interrupted()
        elif outcome.ended == "failed":
            raise ConfigError(outcome.detail)

    def _beat(self) -> None:
        """Write a heartbeat where nothing else is asked of the study; the next one makes up for one that fails."""
        with suppress(StudyError):
            self.study.beat()

    # --- how it ends ---

    def _same_cause(self) -> str:
        """Return the reason why the latest trials failed, if it is the same for SAME_CAUSE of them; otherwise ""."""
        latest = self._causes[-SAME_CAUSE:]
        return latest[0] if len(latest) == SAME_CAUSE and len(set(latest)) == 1 else ""

    def _raise_out_of_sight(self) -> None:
        if self._out_of_sight:
            raise LaunchError(
                "The job of a trial cannot be followed, and may go on; "
                f"{self.study.counts().finished} of {self.n_trials} trials have ended and are kept.\n"
                f"{self._out_of_sight}\n"
                f"Then, to come back to it: {_again()}"
            )

    def _raise_same_cause(self) -> None:
        if self._same_cause():
            failed = [trial for trial in self.study.trials() if trial.state == "failed"]
            latest = max(failed, key=lambda trial: trial.number)
            raise LaunchError(
                f"{SAME_CAUSE} trials in a row failed for the same reason, so the search has stopped:\n"
                f"{latest.cause}\n"
                f"The latest is {shown_path(self._folders.of(latest.number))}. Earlier trials are kept.\n"
                f"Try, once the cause is fixed: {_again()}"
            )

    def _raise_interrupted(self) -> None:
        assert self._signum is not None
        done = self.study.counts().finished
        fetch = commands.launchers("download", shown_path(self.folder))
        continues = f"running jobs continue ({commands.launchers('list')}; {fetch} fetches what has ended)"
        rest = continues if self.elsewhere else "running ones have been saved"
        rest = rest if self._interrupted else "none was running"
        message = (
            f"Stopped by {signal.Signals(self._signum).name}: {done} of {self.n_trials} trials have ended, {rest}."
        )
        raise Interrupted(message if on_rented_machine() else f"{message}\nResume with: {_again()}", self._signum)

    def _end(self) -> float:
        """Write the study's page and the best trial's config, test its run, and return the best value."""
        counts, trials = self.study.counts(), self.study.trials()
        best = self.study.best(trials)
        if self.budget.over and counts.finished < self.n_trials:
            print(f"\nThe search ends with {counts.finished} of {self.n_trials} trials: {self.budget.over}.")
        if best is None or best.value is None:
            print(f"\n0 trials complete, {counts.pruned} pruned, {counts.failed} failed")
            raise LaunchError(
                f"No trial is complete, so there is no best one.\nTry: {_again(f'hpo.n_trials={2 * self.n_trials}')}"
            )
        summary = summarize(self.study, trials, best, self.space, self.overrides)
        rented = on_rented_machine()  # then the summary is printed after the results are downloaded
        if not rented:
            print(f"\n{summary.head}")
        if not summary.words:
            write_best(self.folder, self.study.about.name, self.overrides, self.space.overrides(best.values))
        page.write(self.study, self.folder / "study.html", self.home)
        if self.has_leftovers:
            self._folders.keep_only(trials)
        print(self._finish(best))
        summary.write(self.folder)
        self.study.changed()
        if not rented:
            print(f"\n{summary.tail(self.folder)}")
        return best.value

    def _finish(self, best: Trial) -> str:
        """Calibrate, test and report the best trial's run; return the result as text for people."""
        folder = self._folders.of(best.number)  # the search may have been moved, so not `best.folder`
        there = RunFolder(folder)
        whole = self._folders.holds(best.number) and there.metrics.exists()
        if not whole and not self.has_leftovers:
            return f"\nThe best trial's run is on another machine, in {best.folder}."
        tasks, shown = [], ""
        if not (whole and there.best.exists()) and self.has_leftovers:  # the study was saved, but not all of this run
            shutil.rmtree(folder, ignore_errors=True)
            tasks.append(self._overrides_of(best))
        root = [text for text in self.overrides if text.startswith("data.root=")]
        found = [*ConfigSources.split(self.overrides)[0].words, *root]
        limits = self.budget.for_the_test(self.study.trials(), best)
        tasks.append((*found, override("resume", str(folder)), "test=true", *limits))
        for overrides in tasks:
            outcome = self._done(Task(overrides, cpus=tuple(sorted(all_cpus())), takes_over=self.has_leftovers))
            if not isinstance(outcome, Outcome) or outcome.ended != "well":
                break
            shown = outcome.shown
            if outcome.usd is not None:
                self.study.bill_test(best.number, outcome.usd)
        else:
            return shown
        detail = outcome.detail if isinstance(outcome, Outcome) else f"its process died: {self._workers.pop(0).end()}"
        raise LaunchError(f"The best trial's run {shown_path(folder)} cannot be tested: {detail}\nTry: {_again()}")

    def _done(self, task: Task) -> "Epoch | Outcome | None":
        """Run one task while no trial is running and return its outcome. Raises Interrupted after a signal."""
        while True:
            worker = self._worker(0)
            worker.send(task)
            while not worker.connection.poll(_WAIT_S):
                self._beat()
                if self._signum is not None:
                    self._interrupt_workers()
            outcome = worker.receive()
            ended = outcome.ended if isinstance(outcome, Outcome) else ""
            if self._signum is not None and ended != "well":
                self._raise_interrupted()
            if ended == "no machine":
                self._lack_machine(cast(Outcome, outcome))
                while not (self.machines.over or self.machines.has_room(0) or self._signum):
                    self._beat()
                    time.sleep(_WAIT_S)
            elif ended != "busy":  # otherwise another sweeper is doing it
                return outcome
            if self._signum is not None:
                self._raise_interrupted()
            if self.machines.over:
                return outcome

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Handle signals: after the first, trials are saved; the second ends all processes at once."""

        def heed(signum: int, frame: FrameType | None) -> None:
            if signum == HANG_UP:
                let_go_of_terminal()
            if self._signum in (None, HANG_UP):  # a terminal that closes sends several, and SIGTERM with them
                self._interrupted_at = self._interrupted_at or time.monotonic()
                self._interrupted = self._interrupted or len(self._busy)
                self._signum = signum
            elif signum != HANG_UP:
                self._kill_all()
                if sys.stdout.isatty():
                    os.write(1, b"\x1b[?25h")  # the cursor, which the table hides
                os._exit(128 + signum)

        before = {number: signal.signal(number, heed) for number in signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt_workers(self) -> None:
        """Interrupt the workers once; kill those that do not end, which loses their training since the checkpoint."""
        if self._interrupted_at > 0:
            self._interrupted_at = -time.monotonic()
            for worker in self._workers.values():
                worker.interrupt()
        elif time.monotonic() + self._interrupted_at > _STOP_S:
            self._kill_all()

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            worker.kill()

    @contextmanager
    def _workers_ended(self) -> Iterator[None]:
        """End all workers, however the search ends. The next command resumes the trials that were running."""
        wait_s = 2.0
        try:
            yield
        except BaseException:
            if self._busy:  # save running trials, if the database cannot be reached, for example
                wait_s = _STOP_S
                for worker in self._workers.values():
                    worker.interrupt()
            raise
        finally:
            for worker in self._workers.values():
                worker.end(wait_s=wait_s)


def _again(*further: str) -> str:
    """Return the command that resumes this search, with the database's password masked. further: overrides to add."""
    left_out = {"hpo.fresh", *(override_key(text) for text in further)}
    kept = [hidden(text) for text in without_faults(sys.argv[1:]) if override_key(text) not in left_out]
    return commands.train(*kept, *further)
