"""The study in its database: it hands out trials, records their outcomes, and detects sweepers that have died.

Several sweepers may work on one study, on several machines if the database is PostgreSQL. A trial is claimed and ended
under one lock, so each number is used once and the count is exact. A trial whose sweeper or worker has died goes back
into the queue with its number and its parameters, and its run resumes from its last checkpoint.

This is the only module that uses Optuna's storage. Importing Optuna takes half a second, so functions import it.
"""

import json
import os
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed.best_epoch import LOSS
from launchers.runs.processes import living_process, this_host
from launchers.runs.searches import SWEEPERS, TESTED_USD, USD
from launchers.sweep.identity import StudyAbout, differences
from launchers.sweep.storage import StudyError, close, exclusive, open_storage, storage_errors
from launchers.sweep.trials import (
    BEST_EPOCH,
    CAUSE,
    EPOCHS,
    FOLDER,
    GIVEN_USD,
    JOB,
    VAL_LOSS,
    Counts,
    Elsewhere,
    Trial,
    trial_of,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

BEAT_S = 15.0  # between two heartbeats of a sweeper
DEAD_AFTER_S = 90.0  # without a heartbeat, a sweeper on another machine counts as dead
REPORTS_S = 1.0  # at least, between two calls of `changed` for epochs alone
MOST_DEATHS = 3  # of a trial's worker processes, after which the trial has failed

_ABOUT = "dogbreed"  # attribute of a study: what it searches, all in one, so that a kill leaves all of it or nothing
_SWEEPER, _DEATHS = "sweeper", "deaths"  # attributes of a trial
_PRUNED_AT = "pruned_at"  # attribute of a trial: the epoch after which it was pruned


@dataclass
class _Watched:
    """The last heartbeat of another machine's sweeper, and when it was first seen, by this machine's clock."""

    beat: int
    since: float


@dataclass
class Study:
    """A study that this process works on.

    storage: an SQLAlchemy URL, SQLite's or PostgreSQL's. sampler: makes the sampler for the trial that has this number
    of trials before it, so that an interrupted sweep draws the same values as one that was not interrupted. alone:
    whether no other sweeper can be alive, because all others were on machines that no longer exist. changed: called
    when the database has changed in a way that must be saved. Raises StudyError if the database cannot be reached, or
    holds a different study of this name.
    """

    about: StudyAbout
    storage: str
    sampler: Callable[[int], "optuna.samplers.BaseSampler"]
    pruner: "optuna.pruners.BasePruner"
    alone: bool = False
    changed: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _asked: dict[int, "optuna.Trial"] = field(default_factory=dict)
    _notified_at: float = 0.0  # when `changed` was called last

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # the table already shows what it logs for each trial
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.me, self._process = uuid.uuid4().hex[:12], _this_process()
        self._beat, self._beaten_at = 0, -BEAT_S
        self._rdb = open_storage(self.storage)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        import optuna

        with self._errors():
            self._study = optuna.create_study(
                storage=self._rdb,
                study_name=self.about.name,
                direction=None if self._exists() else self.about.direction,  # an existing study's is compared below
                load_if_exists=True,
                sampler=self.sampler(0),
                pruner=self.pruner,
            )
            self._id = self._rdb.get_study_id_from_name(self.about.name)
            with self._lock():
                self._check_same()
            self.beat()
        self._notify()

    def _exists(self) -> bool:
        return self.about.name in [study.study_name for study in self._rdb.get_all_studies()]

    def _check_same(self) -> None:
        """Record what a new study searches; compare it if the study exists. Raises StudyError if it differs."""
        now = {
            "direction": self.about.direction,
            "objective": self.about.monitor,
            "space": json.loads(self.about.space.as_json()),
            "settings": self.about.settings,
            "digest": self.about.digest,
        }
        direction = self._study.direction.name.lower()
        seen: dict[str, Any] | None = self._study.user_attrs.get(_ABOUT)
        if seen is None and direction == now["direction"] and not self._study.get_trials(deepcopy=False):
            seen = {**now, "uid": uuid.uuid4().hex[:6]}
            self._study.set_user_attr(_ABOUT, seen)
        seen = seen or {"direction": direction}
        self.uid = str(seen.get("uid"))
        if differing := list(differences(seen, now)):
            raise StudyError(
                f"The study {self.about.name} already exists with different settings:\n"
                + "\n".join(f"  {line}" for line in differing)
                + "\nTry: another name (hpo.study=...), hpo.fresh=true for a new study beside it, or its own settings"
            )

    def close(self) -> None:
        """Close the database. Call this in the thread that used it."""
        close(self._rdb)

    # --- the queue ---

    def claim(self, n_trials: int, *, jobs: bool = False) -> Trial | None:
        """Claim the next trial for this sweeper; return None if no trial is to be started now.

        Trials of dead sweepers come first. n_trials: how many trials the finished study has; those that other sweepers
        are running count. jobs: whether runs go on without their sweepers. One that was to end early is then claimed,
        so that somebody ends it; otherwise it is recorded as pruned.
        """
        trial = self._claim(n_trials, jobs)
        if trial is not None:  # before it starts: the study must know each trial that has files
            self._notify()
        return trial

    def _claim(self, n_trials: int, jobs: bool) -> Trial | None:
        with self._errors(), self._lock():
            while True:
                trials = self._study.get_trials(deepcopy=False)
                running = [trial for trial in trials if trial.state.name == "RUNNING"]
                # asked once for each: one that counted as alive here and as dead below would be replaced, not repeated
                dead = [trial for trial in running if not self._alive(trial)]
                for trial in dead:
                    self._queue_again(trial.number)
                finished = sum(trial.state.is_finished() for trial in trials)
                if finished + len(running) - len(dead) >= n_trials:
                    return None
                self._study.sampler = self.sampler(len(trials))
                asked = self._study.ask(self.about.space.distributions())
                asked.set_user_attr(_SWEEPER, self.me)
                self._asked[asked.number] = asked
                pruned_at = asked.user_attrs.get(_PRUNED_AT)
                if pruned_at is None or jobs:
                    return self.trial(asked.number)
                self._tell(asked.number, None, epochs=int(pruned_at))  # its sweeper died before it could record that
                del self._asked[asked.number]

    def give(self, number: int, share: Callable[[Sequence[Trial]], float | None]) -> float | None:
        """Record what a trial of this sweeper may cost, and return it; None if nothing is left.

        share: called with all trials, while no other sweeper can record anything.
        """
        with self._errors(), self._lock():
            usd = share(self._trials())
            if usd is not None:
                self._asked[number].set_user_attr(GIVEN_USD, usd)
        return usd

    def bill(self, number: int, usd: float) -> None:
        """Record what the run of a trial of this sweeper has cost."""
        with self._errors(), self._lock():
            if (asked := self._owned(number)) is not None:
                asked.set_user_attr(USD, usd)

    def bill_test(self, number: int, usd: float) -> None:
        """Record what the run of an ended trial has cost in all, since it was tested."""
        with self._errors(), self._lock():
            tested = self._study.user_attrs.get(TESTED_USD, {})
            self._study.set_user_attr(TESTED_USD, {**tested, str(number): usd})
        self._notify()

    def hold(self, numbers: Container[int]) -> None:
        """Forget claims of other trials than these, so that the next claim queues them again.

        Call this after an error of the database: it may have recorded a claim that nobody was told of, or not have
        recorded that a trial was given back. Nobody else would take over a trial of a sweeper that lives.
        """
        self._asked = {number: asked for number, asked in self._asked.items() if number in numbers}

    def counts(self) -> Counts:
        with self._errors():
            trials = self._study.get_trials(deepcopy=False)  # read once: other sweepers may end trials at any moment
            alive = [trial for trial in trials if trial.state.name == "RUNNING" and self._alive(trial)]
        states = Counter(trial.state.name for trial in trials)
        return Counts(states["COMPLETE"], states["PRUNED"], states["FAIL"], len(alive))

    def give_back(self, number: int) -> None:
        """Queue a trial of this sweeper again, whose run was stopped and can be resumed."""
        with self._own(number) as asked:
            if asked is not None:
                self._queue_again(number)

    def died(self, number: int, detail: str) -> str:
        """Queue a trial again whose worker process died, up to MOST_DEATHS times.

        Returns the cause if the trial has failed by that, otherwise "".
        """
        with self._own(number) as asked:
            if asked is None:
                return ""
            deaths = int(asked.user_attrs.get(_DEATHS, 0)) + 1
            asked.set_user_attr(_DEATHS, deaths)
            if deaths < MOST_DEATHS:
                self._queue_again(number)
                return ""
            cause = f"its process died {deaths} times: {detail}"
            self._fail(number, cause)
        return cause

    @contextmanager
    def _own(self, number: int) -> Iterator["optuna.Trial | None"]:
        """Yield a trial of this sweeper, to be ended; None if another sweeper has taken it over.

        Another one takes over if this one was disconnected or suspended for longer than others wait for its heartbeat.
        """
        with self._errors(), self._lock():
            yield self._owned(number)
            self._asked.pop(number, None)  # last, so that it can be repeated after an error of the database
        self._notify()

    def _owned(self, number: int) -> "optuna.Trial | None":
        frozen = self._frozen(number)
        ours = frozen.state.name == "RUNNING" and frozen.user_attrs.get(_SWEEPER) == self.me
        return self._asked.get(number) if ours else None

    def _queue_again(self, number: int) -> None:
        from optuna.trial import TrialState

        trial_id = self._rdb.get_trial_id_from_study_id_trial_number(self._id, number)
        self._rdb.set_trial_state_values(trial_id, state=TrialState.WAITING)

    def add(self, ended: Sequence[Elsewhere]) -> dict[str, int]:
        """Add trials that ran elsewhere, each once. Return the numbers of all such trials, by their names there."""
        with self._errors(), self._lock():
            known = self._jobs()
            for each in ended:
                if each.job not in known:
                    self._study.add_trial(each.as_optuna(self.about.space.distributions()))
            found = self._jobs()
        self._notify()
        return found

    def _jobs(self) -> dict[str, int]:
        trials = self._study.get_trials(deepcopy=False)
        return {str(trial.user_attrs[JOB]): trial.number for trial in trials if JOB in trial.user_attrs}

    # --- outcomes ---

    def report(self, number: int, epoch: int, value: float) -> bool | None:
        """Record a trial's objective after an epoch, from 1. Return True if its training should end now.

        Return None if another sweeper has taken the trial over.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        with self._errors():
            frozen, asked = self._frozen(number), self._asked[number]
            if frozen.user_attrs.get(_SWEEPER) != self.me:
                return None
            if _PRUNED_AT in frozen.user_attrs:
                return epoch >= int(frozen.user_attrs[_PRUNED_AT])
            if epoch in frozen.intermediate_values:  # trained again after a kill, with the same result
                return False
            try:
                asked.report(value, epoch)
                if pruned := asked.should_prune():
                    asked.set_user_attr(_PRUNED_AT, epoch)  # recorded, because the pruner may not repeat its decision
            except UpdateFinishedTrialError:
                return None
        if pruned or self.clock() - self._notified_at > REPORTS_S:
            self._notify()
        return pruned

    def _notify(self) -> None:
        self._notified_at = self.clock()
        self.changed()

    def complete(
        self, number: int, value: float, folder: Path, metrics: Mapping[str, float], *, pruned: bool = False
    ) -> None:
        """Record the outcome of a trial's run. metrics: of its best epoch, with the number of `epochs` trained."""
        epochs = int(metrics["epochs"])
        with self._own(number) as asked:
            if asked is not None:
                asked.set_user_attr(FOLDER, str(folder))
                if LOSS in metrics:  # decides between equal trials
                    asked.set_user_attr(VAL_LOSS, float(metrics[LOSS]))
                    asked.set_user_attr(BEST_EPOCH, int(metrics.get("best_epoch", epochs)))
                self._tell(number, None if pruned else value, epochs=epochs)

    def failed(self, number: int, cause: str) -> None:
        with self._own(number) as asked:
            if asked is not None:
                self._fail(number, cause)

    def _tell(self, number: int, value: float | None, *, epochs: int) -> None:
        """Record a trial as complete, or as pruned if `value` is None; Optuna then uses the last reported value."""
        from optuna.trial import TrialState

        asked = self._asked[number]
        asked.set_user_attr(EPOCHS, epochs)
        self._study.tell(asked, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)

    def _fail(self, number: int, cause: str) -> None:
        from optuna.trial import TrialState

        asked = self._asked[number]
        asked.set_user_attr(CAUSE, cause[:2000])
        self._study.tell(asked, state=TrialState.FAIL)

    def trial(self, number: int) -> Trial:
        with self._errors():
            return trial_of(self._frozen(number))

    def trials(self) -> list[Trial]:
        """Return all trials of the study, in the order of their numbers."""
        with self._errors():
            return self._trials()

    def _trials(self) -> list[Trial]:
        tested: Mapping[str, float] = self._study.user_attrs.get(TESTED_USD, {})
        found = map(trial_of, self._study.get_trials(deepcopy=False))
        return [replace(trial, usd=tested.get(str(trial.number), trial.usd)) for trial in found]

    def best(self, trials: Sequence[Trial] | None = None) -> Trial | None:
        """Return the best complete trial (see `Trial.merit`); None if there is no complete trial yet.

        trials: those of the study, if the caller has just read them.
        """
        trials = self.trials() if trials is None else trials
        complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
        return max(complete, key=lambda trial: trial.merit(self.about.mode), default=None)

    @property
    def prunes(self) -> bool:
        """Whether the pruner needs each epoch's value."""
        from optuna.pruners import NopPruner

        return not isinstance(self.pruner, NopPruner)

    @property
    def optuna_study(self) -> "optuna.Study":
        return self._study

    def _frozen(self, number: int) -> "FrozenTrial":
        trial_id = self._rdb.get_trial_id_from_study_id_trial_number(self._id, number)
        return self._study._storage.get_trial(trial_id)

    # --- heartbeats ---

    def beat(self) -> None:
        """Write this sweeper's heartbeat if the last one is BEAT_S old. Call this every few seconds."""
        if self.clock() - self._beaten_at < BEAT_S:
            return
        self._beaten_at, self._beat = self.clock(), self._beat + 1
        with self._errors():
            self._study.set_user_attr(SWEEPERS + self.me, {**self._process, "beat": self._beat})

    def _alive(self, trial: "FrozenTrial") -> bool:
        """Whether the sweeper of a running trial is alive."""
        sweeper = trial.user_attrs.get(_SWEEPER)
        if sweeper == self.me or self.alone:
            # if not in `_asked`: see `hold`; or a sweeper took it over and died before recording that
            return sweeper == self.me and trial.number in self._asked
        entry = self._study.user_attrs.get(f"{SWEEPERS}{sweeper}")
        if not entry:
            return False  # its sweeper died between asking Optuna for the trial and claiming it
        if entry["host"] == this_host():
            return living_process(entry["pid"], entry["started"]) is not None
        # two machines' clocks may differ, so this one's clock measures the time since the last new heartbeat
        watched = self._watched.get(str(sweeper))
        if watched is None or watched.beat != entry["beat"]:
            self._watched[str(sweeper)] = _Watched(entry["beat"], self.clock())
            return True
        return self.clock() - watched.since < DEAD_AFTER_S

    # --- the database ---

    def _lock(self) -> AbstractContextManager[None]:
        return exclusive(self.storage, self.about.name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with storage_errors(self.storage):
            yield


def _this_process() -> dict[str, Any]:
    import psutil

    return {"host": this_host(), "pid": os.getpid(), "started": psutil.Process().create_time()}
