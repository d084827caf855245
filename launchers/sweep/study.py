"""The study in its database: whose turn is which trial, what came of it, and whose sweeper has died.

Several sweepers may work on one study, on several machines where the database is PostgreSQL. A trial is handed out and
taken back under one lock, so a number is given once, and the count is exact. A trial whose sweeper or worker has died
goes back into the queue under its own number with its parameters, and its run goes on from its last checkpoint.

The only module that knows Optuna's storage; Optuna takes half a second to import, hence inside the functions.
"""

import json
import os
import platform
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.runs.processes import living_process
from launchers.sweep.identity import StudyAbout, differences
from launchers.sweep.storage import StudyError, close, exclusive, open_storage, storage_errors
from launchers.sweep.trials import CAUSE, EPOCHS, FOLDER, Counts, Trial, trial_of

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

BEAT_S = 15.0  # how often a sweeper says that it lives
DEAD_AFTER_S = 90.0  # without a beat, for a sweeper on another machine
REPORTS_S = 1.0  # between two calls of `changed` for what epochs alone have brought
MOST_DEATHS = 3  # of a trial's worker processes, before the trial counts as failed by its own doing

_ABOUT = "dogbreed"  # of a study: what it is of, in one attribute, so that a kill leaves all of it or nothing
_SWEEPER, _DEATHS = "sweeper", "deaths"  # of a trial
_PRUNED_AT = "pruned_at"  # of a trial: the epoch after which it was told to end
_SWEEPERS = "sweeper:"  # and an id: of a study


@dataclass
class _Watched:
    """Another machine's sweeper: its last beat, and since when it has been that one by our own clock."""

    beat: int
    since: float


@dataclass
class Study:
    """A study that this process works on.

    storage: an SQLAlchemy URL, SQLite's or PostgreSQL's. sampler: makes one for the trial with this number of trials
    before it, so that a sweep that was stopped draws what one that was not would have drawn. alone: nobody else can be
    at work on it, whatever it says of other sweepers: they were on machines that are gone. changed: called once the
    database has something new that is not to be lost. Raises StudyError where the database cannot be reached or holds
    a study of this name that is another.
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
    _told_at: float = 0.0  # when `changed` was called last

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it says of each trial, the table says
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
                direction=None if self._exists() else self.about.direction,  # an existing one's is compared below
                load_if_exists=True,
                sampler=self.sampler(0),
                pruner=self.pruner,
            )
            self._id = self._rdb.get_study_id_from_name(self.about.name)
            with self._lock():
                self._check_same()
            self.beat()
        self._tell_of_change()

    def _exists(self) -> bool:
        return self.about.name in [study.study_name for study in self._rdb.get_all_studies()]

    def _check_same(self) -> None:
        """Write down what this study is of, or compare."""
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
                f"The study {self.about.name} exists already, and it is another one:\n"
                + "\n".join(f"  {line}" for line in differing)
                + "\nTry: another name (hpo.study=...), hpo.fresh=true for a new one beside it, or what it began with"
            )

    def close(self) -> None:
        """Let go of the database. To be called in the thread that used it."""
        close(self._rdb)

    # --- the queue ---

    def claim(self, n_trials: int) -> Trial | None:
        """The next trial to run, whose sweeper we are from now on; null where none is to be begun now.

        Trials of the dead come first. n_trials: how many are to have ended in the end; those that are running
        elsewhere are counted on.
        """
        trial = self._claim(n_trials)
        if trial is not None:  # before it begins: a study must know of the trials whose files are found
            self._tell_of_change()
        return trial

    def _claim(self, n_trials: int) -> Trial | None:
        with self._errors(), self._lock():
            for trial in self._study.get_trials(deepcopy=False):
                if trial.state.name == "RUNNING" and not self._lives(trial):
                    self._queue_again(trial.number)
            while True:
                counts = self.counts()
                if counts.finished + counts.running >= n_trials:
                    return None
                self._study.sampler = self.sampler(len(self._study.get_trials(deepcopy=False)))
                asked = self._study.ask(self.about.space.distributions())
                asked.set_user_attr(_SWEEPER, self.me)
                self._asked[asked.number] = asked
                pruned_at = asked.user_attrs.get(_PRUNED_AT)
                if pruned_at is None:
                    return self.trial(asked.number)
                self._tell(asked.number, None, epochs=int(pruned_at))  # its sweeper died before it could say so
                del self._asked[asked.number]

    def counts(self) -> Counts:
        trials = self._study.get_trials(deepcopy=False)  # once: others end trials at any moment
        states = Counter(trial.state.name for trial in trials)
        alive = [trial for trial in trials if trial.state.name == "RUNNING" and self._lives(trial)]
        return Counts(states["COMPLETE"], states["PRUNED"], states["FAIL"], len(alive))

    def give_back(self, number: int) -> None:
        """Queue a trial of ours again: its run was stopped, with what it needs to go on."""
        with self._own(number) as asked:
            if asked is not None:
                self._queue_again(number)

    def died(self, number: int, detail: str) -> str:
        """The worker process of a trial of ours has ended in the middle of it: once more, but not for ever.

        Returns the cause where the trial has failed by that.
        """
        with self._own(number) as asked:
            if asked is None:
                return ""
            deaths = int(asked.user_attrs.get(_DEATHS, 0)) + 1
            asked.set_user_attr(_DEATHS, deaths)
            if deaths < MOST_DEATHS:
                self._queue_again(number)
                return ""
            cause = f"its process has ended {deaths} times: {detail}"
            self._fail(number, cause)
        return cause

    @contextmanager
    def _own(self, number: int) -> Iterator["optuna.Trial | None"]:
        """A trial that is ours to end, which it is from here on no more; null where another has taken it over.

        That happens to a sweeper that was cut off, or asleep, for longer than others wait for its beat.
        """
        with self._errors(), self._lock():
            frozen = self._frozen(number)
            ours = frozen.state.name == "RUNNING" and frozen.user_attrs.get(_SWEEPER) == self.me
            yield self._asked.get(number) if ours else None
            self._asked.pop(number, None)  # last: after an error of the database it is tried again
        self._tell_of_change()

    def _queue_again(self, number: int) -> None:
        from optuna.trial import TrialState

        trial_id = self._rdb.get_trial_id_from_study_id_trial_number(self._id, number)
        self._rdb.set_trial_state_values(trial_id, state=TrialState.WAITING)

    # --- what came of it ---

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Note a trial's objective after an epoch (from 1). True where its training is to end with it."""
        from optuna.exceptions import UpdateFinishedTrialError

        with self._errors():
            frozen, asked = self._frozen(number), self._asked[number]
            if frozen.user_attrs.get(_SWEEPER) != self.me:
                return True  # another has taken it over
            if epoch in frozen.intermediate_values:  # trained again after a kill: with the same numbers
                return epoch >= int(frozen.user_attrs.get(_PRUNED_AT, epoch + 1))
            try:
                asked.report(value, epoch)
                if pruned := asked.should_prune():
                    asked.set_user_attr(_PRUNED_AT, epoch)  # kept: the pruner may not say so again
            except UpdateFinishedTrialError:
                return True
        if pruned or self.clock() - self._told_at > REPORTS_S:
            self._tell_of_change()
        return pruned

    def _tell_of_change(self) -> None:
        self._told_at = self.clock()
        self.changed()

    def complete(self, number: int, value: float, folder: Path, epochs: int, *, pruned: bool = False) -> None:
        with self._own(number) as asked:
            if asked is not None:
                asked.set_user_attr(FOLDER, str(folder))
                self._tell(number, None if pruned else value, epochs=epochs)

    def failed(self, number: int, cause: str) -> None:
        with self._own(number) as asked:
            if asked is not None:
                self._fail(number, cause)

    def _tell(self, number: int, value: float | None, *, epochs: int) -> None:
        """value: null for a pruned one, of which Optuna takes what was reported last."""
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
        """All of the study, in the order of their numbers."""
        with self._errors():
            return [trial_of(trial) for trial in self._study.get_trials(deepcopy=False)]

    def best(self, trials: Sequence[Trial] | None = None) -> Trial | None:
        """The best that ran to its end; null before the first. The first of several equals.

        trials: where they have just been read.
        """
        trials = self.trials() if trials is None else trials
        complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
        sign = -1 if self.about.mode == "max" else 1
        return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)

    @property
    def prunes(self) -> bool:
        """Whether the pruner wants to hear of each epoch."""
        from optuna.pruners import NopPruner

        return not isinstance(self.pruner, NopPruner)

    @property
    def optuna_study(self) -> "optuna.Study":
        return self._study

    def _frozen(self, number: int) -> "FrozenTrial":
        trial_id = self._rdb.get_trial_id_from_study_id_trial_number(self._id, number)
        return self._study._storage.get_trial(trial_id)

    # --- who lives ---

    def beat(self) -> None:
        """Say that this sweeper lives, if it is time to. To be called every few seconds."""
        if self.clock() - self._beaten_at < BEAT_S:
            return
        self._beaten_at, self._beat = self.clock(), self._beat + 1
        with self._errors():
            self._study.set_user_attr(_SWEEPERS + self.me, {**self._process, "beat": self._beat})

    def _lives(self, trial: "FrozenTrial") -> bool:
        """Whether the sweeper of a running trial does."""
        sweeper = trial.user_attrs.get(_SWEEPER)
        if sweeper == self.me or self.alone:  # it may have been ours, and who took it over died before saying so
            return sweeper == self.me and trial.number in self._asked
        entry = self._study.user_attrs.get(f"{_SWEEPERS}{sweeper}")
        if not entry:
            return False  # it died between asking for the trial and saying that it is its own
        if entry["host"] == _host():
            return living_process(entry["pid"], entry["started"]) is not None
        # clocks of two machines need not agree: what counts is how long, by ours, nothing has come
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

    return {"host": _host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _host() -> str:
    """Where a process number means the same process: the machine, since it was started, and the container."""
    parts = [platform.node()]
    for path, read in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", Path.readlink)):
        try:
            parts.append(str(read(Path(path))).strip())
        except OSError:
            parts.append("")
    return "/".join(parts)
