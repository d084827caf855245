"""Summarize a search that has ended, wherever its trials ran."""

from collections.abc import Sequence

from launchers.runs.search_folder import SearchSummary
from launchers.sweep.best import best_words
from launchers.sweep.space import SearchSpace
from launchers.sweep.storage import hidden, sqlite_file
from launchers.sweep.study import Study
from launchers.sweep.trials import Trial


def summarize(
    study: Study, trials: Sequence[Trial], best: Trial, space: SearchSpace, overrides: Sequence[str]
) -> SearchSummary:
    """Return the summary. trials: of the study. best: a complete one. overrides: those of all trials."""
    assert best.value is not None
    counts = study.counts()
    ended = [trial for trial in trials if trial.finished]
    full = max(trial.epochs for trial in trials if trial.state == "complete")
    return SearchSummary(
        study.about.name,
        best.number,
        study.about.monitor,
        best.value,
        best.values,
        counts.complete,
        counts.pruned,
        counts.failed,
        sum(trial.epochs for trial in ended) / (full * len(ended)) if full else 1.0,
        None if sqlite_file(study.storage) else hidden(study.storage),
        best_words(overrides, space.overrides(best.values)),
    )
