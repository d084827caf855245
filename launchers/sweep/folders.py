"""Choose the folder that each trial of a search writes to, and handle files that earlier trials left there."""

import itertools
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError
from dogbreed.run_folder import trial_folder
from launchers.runs.names import search_of
from launchers.spec import SPEC_FILE, STUDY_FILE, TRIAL_FOLDERS, RunSpec, SearchOutput
from launchers.sweep.space import SearchSpace
from launchers.sweep.study import Study
from launchers.sweep.trials import Trial


@dataclass
class TrialFolders:
    """The folders of a search's trials.

    search: the search's folder. has_leftovers: whether it may hold files that interrupted machines saved in part, in
    any order.
    """

    search: Path
    study: Study
    space: SearchSpace
    has_leftovers: bool
    _chosen: dict[int, Path] = field(default_factory=dict)  # by trial, for trials in another folder than the default

    def of(self, number: int) -> Path:
        return self._chosen.get(number) or trial_folder(self.search, number)

    def run_id(self, number: int) -> str:
        """Return a trial's run id, which includes the study's uid: an earlier study may have had the same name."""
        return f"{self.study.about.name}-{self.study.uid}-{number}"

    def holds(self, number: int) -> bool:
        """Whether the trial's folder holds the run of this trial, not that of another study."""
        spec = _spec_in(self.of(number))
        return spec is not None and spec.run_id == self.run_id(number)

    def make_room(self, trial: Trial) -> None:
        """Choose the trial's folder, so that it cannot resume from another trial's files."""
        if self.has_leftovers:
            self._chosen[trial.number] = self._unmixed(trial)
        else:
            self._set_foreign_aside(trial.number)

    def keep_only(self, trials: Sequence[Trial]) -> None:
        """Remove the folders of trials that the study does not know, at the end of a search with leftovers."""
        self._chosen = {trial.number: self._unmixed(trial) for trial in trials if trial.finished}
        for folder in sorted(self.search.iterdir()):
            if TRIAL_FOLDERS.fullmatch(folder.name) and folder not in self._chosen.values():
                shutil.rmtree(folder, ignore_errors=True)  # SageMaker's agent writes and removes markers meanwhile

    def _set_foreign_aside(self, number: int) -> None:
        """Rename a folder of another study with this name: it would be resumed as if it were this trial's."""
        folder = self.of(number)
        spec = _spec_in(folder)
        if spec is not None and spec.run_id != self.run_id(number):
            aside = folder.with_name(f"old-{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
            folder.replace(aside)
            print(f"{shown_path(folder)} belongs to another study; renamed it to {aside.name}", flush=True)

    def _unmixed(self, trial: Trial) -> Path:
        """Return the default folder, or that with -2, -3...: the first that holds this trial's files, or no files.

        An interrupted machine saves its files one by one, so one folder may hold files of two trials with the same
        number, of which the study knows only one. A folder that only this trial has written to cannot be mixed.
        """
        usual = trial_folder(self.search, trial.number)
        further = (usual.with_name(f"{usual.name}-{n}") for n in itertools.count(2))
        candidates = itertools.chain([usual], further)
        return next(folder for folder in candidates if not folder.exists() or self._is_of(folder, trial))

    def _is_of(self, folder: Path, trial: Trial) -> bool:
        """Whether the folder was started by this trial, with the parameter values that the study records for it."""
        spec = _spec_in(folder)
        drawn = set(self.space.overrides(trial.values))
        return spec is not None and spec.run_id == self.run_id(trial.number) and drawn <= set(spec.overrides)


def refuse_folder_of_another(search: Path, name: str) -> None:
    """Raise ConfigError if the folder holds another search than the one of this name: its trials have the same folders.

    A folder that only holds trials is another search's if their run ids name one.
    """
    specs = [_spec_in(search), *(_spec_in(trial_folder(search, number)) for number in range(3))]
    owners = {owner for spec in specs if spec is not None and (owner := _study_of(spec))} | _studies_in(search)
    if owners and name not in owners:
        raise ConfigError(
            f"{shown_path(search)} is the folder of another search, {', '.join(sorted(owners))}; this one is {name}.\n"
            "Try: hydra.sweep.dir=<another folder>, or that search's own settings"
        )


def _study_of(spec: RunSpec) -> str | None:
    """Return the name of the study that a search or a trial belongs to; None for any other run."""
    if isinstance(spec.output, SearchOutput):
        return spec.output.study
    return search_of(spec.run_id) or None


def _studies_in(search: Path) -> set[str]:
    """Return the names of the studies in a search's own database."""
    file = search / STUDY_FILE
    if not file.exists():
        return set()
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return {str(name) for (name,) in database.execute("SELECT study_name FROM studies")}
    except sqlite3.Error:
        return set()  # damaged, or without its tables yet: opening it says so


def _spec_in(folder: Path) -> RunSpec | None:
    """Read the spec of the run in the folder; return None if there is none."""
    try:
        return RunSpec.from_json((folder / SPEC_FILE).read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None
