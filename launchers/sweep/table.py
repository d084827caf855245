"""Show the progress of a search: a table on a terminal, otherwise one line for each trial that has ended."""

import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from dogbreed.progress import TrialEnd
from launchers.runs.search_folder import in_words, short, shown
from launchers.sweep.space import SearchSpace
from launchers.sweep.trials import Trial

_STATES = {"complete": "", "pruned": "pruned", "failed": "failed", "running": "running", "waiting": "waiting"}


class SweepTable:
    """Shows the trials of a search. While it is entered, it occupies the lower part of a terminal."""

    def __init__(self, title: str, space: SearchSpace, n_trials: int) -> None:
        self.title, self.space, self.n_trials = title, space, n_trials
        self._live: Any = None
        self._printed: set[int] = set()

    def __enter__(self) -> "SweepTable":
        from rich.console import Console

        console = Console(highlight=False)
        if console.is_terminal:
            from rich.live import Live

            self._live = Live(console=console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def skip(self, trials: Sequence[Trial]) -> None:
        """Print no lines for trials that had ended before; a table still shows them."""
        self._printed |= {trial.number for trial in trials if trial.finished}

    def show(self, trials: Sequence[Trial], best: Trial | None) -> None:
        if self._live is not None:
            self._live.update(self._rows(trials, best, self._live.console.height - 6), refresh=True)
            return
        for trial in trials:
            if trial.finished and trial.number not in self._printed:
                self._printed.add(trial.number)
                sys.stdout.write(self._line(trial, best) + "\n")
                sys.stdout.flush()

    def _line(self, trial: Trial, best: Trial | None) -> str:
        outcome = {"pruned": f"pruned after epoch {trial.epochs}", "failed": "failed"}.get(trial.state, "")
        so_far = (None, None) if best is None else (best.value, best.number)
        line = str(TrialEnd(trial.number, trial.value, outcome, trial.seconds, *so_far))
        further = [in_words(trial.values), *trial.cause.splitlines()[:1]]
        return "\n".join(
            [line, *(textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="  ") for text in further)]
        )

    def _rows(self, trials: Sequence[Trial], best: Trial | None, height: int) -> Any:
        from rich.table import Table

        done = sum(trial.finished for trial in trials)
        title = f"{self.title}: {done} of {self.n_trials} trials" + (
            f", best {best.value:.4f} (trial {best.number})" if best else ""
        )
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=None,  # with lines between columns, six parameters would not fit into 80 characters
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        table.add_column("trial", justify="right", no_wrap=True)
        for key in self.space.parameters:
            table.add_column(short(key).replace("_", "\n"), justify="right", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)  # state
        table.add_column("time", justify="right", no_wrap=True)
        for trial in _most_telling(trials, best, max(4, height)):
            is_best = best is not None and trial.number == best.number
            state = "best" if is_best else _STATES[trial.state]
            if trial.state == "running" and trial.epochs:
                state = f"epoch {trial.epochs}"
            table.add_row(
                str(trial.number),
                *(shown(trial.values[key], 2) if key in trial.values else "" for key in self.space.parameters),
                "" if trial.value is None else f"{trial.value:.4f}",
                state,
                f"{trial.seconds:.0f} s" if trial.state != "waiting" else "",
                style={"pruned": "dim", "failed": "red", "running": "cyan"}.get(
                    trial.state, "bold green" if is_best else None
                ),
            )
        return table


def _most_telling(trials: Sequence[Trial], best: Trial | None, count: int) -> list[Trial]:
    """Return at least the running trials and the best one, then the latest others, up to `count` in total."""
    kept = [trial for trial in trials if trial.state == "running" or (best and trial.number == best.number)]
    others = [trial for trial in trials if trial not in kept]
    room = max(0, count - len(kept))
    return sorted(kept + (others[-room:] if room else []), key=lambda trial: trial.number)
