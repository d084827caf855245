"""Which folder each trial of a search writes into, and what lies there from before."""

import itertools
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launchers.base import SPEC_FILE, TRIAL_FOLDERS, RunSpec
from launchers.formatting import shown_path
from launchers.runs.search_folder import trial_folder
from launchers.sweep.space import SearchSpace
from launchers.sweep.study import Study
from launchers.sweep.trials import Trial


@dataclass
class TrialFolders:
    """The folders of a search's trials.

    search: the search's folder. among_remains: whether it may hold what earlier machines saved in part, in any order.
    """

    search: Path
    study: Study
    space: SearchSpace
    among_remains: bool
    _chosen: dict[int, Path] = field(default_factory=dict)  # of trials that are not in their usual folder

    def of(self, number: int) -> Path:
        return self._chosen.get(number) or trial_folder(self.search, number)

    def run_id(self, number: int) -> str:
        """Return the run id of a trial of this very study: an earlier one may have had the same name."""
        return f"{self.study.about.name}-{self.study.uid}-{number}"

    def holds(self, number: int) -> bool:
        """Whether the trial's folder holds this very trial's run."""
        spec = _spec_in(self.of(number))
        return spec is not None and spec.run_id == self.run_id(number)

    def make_room(self, trial: Trial) -> None:
        """Choose the trial's folder, so that it cannot resume from another trial's files."""
        if self.among_remains:
            self._chosen[trial.number] = self._unmixed(trial)
        else:
            self._set_foreign_aside(trial.number)

    def keep_only(self, trials: Sequence[Trial]) -> None:
        """At the end of a search among remains: remove the folders of trials that the study does not know."""
        self._chosen = {trial.number: self._unmixed(trial) for trial in trials if trial.finished}
        for folder in sorted(self.search.iterdir()):
            if re.fullmatch(TRIAL_FOLDERS, folder.name) and folder not in self._chosen.values():
                shutil.rmtree(folder, ignore_errors=True)  # SageMaker's agent writes and removes markers meanwhile

    def _set_foreign_aside(self, number: int) -> None:
        """Rename a folder that another study of this name has left: it would be resumed as if it were this trial's."""
        folder = self.of(number)
        spec = _spec_in(folder)
        if spec is not None and spec.run_id != self.run_id(number):
            aside = folder.with_name(f"old-{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
            folder.replace(aside)
            print(f"{shown_path(folder)} is another study's; it is now {aside.name}", flush=True)

    def _unmixed(self, trial: Trial) -> Path:
        """Return the usual folder, or that with -2, -3...: the first that holds this very trial's files, or no file.

        Files come back one by one from a machine that was interrupted, so the files of two trials of one number, of
        which the study knows one, may lie in one folder. A folder that nobody else has written into cannot be mixed.
        """
        usual = trial_folder(self.search, trial.number)
        further = (usual.with_name(f"{usual.name}-{n}") for n in itertools.count(2))
        candidates = itertools.chain([usual], further)
        return next(folder for folder in candidates if not folder.exists() or self._is_of(folder, trial))

    def _is_of(self, folder: Path, trial: Trial) -> bool:
        """Whether the folder was begun as this trial, with the values that the study has of it."""
        spec = _spec_in(folder)
        drawn = set(self.space.overrides(trial.values))
        return spec is not None and spec.run_id == self.run_id(trial.number) and drawn <= set(spec.overrides)


def _spec_in(folder: Path) -> RunSpec | None:
    """Read what the run that lies there was started as; None if there is none."""
    try:
        return RunSpec.from_json((folder / SPEC_FILE).read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None
