"""The result of a search, as a file for programs and as text for people: of a local search or of one job."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self, TypeAlias, cast

from omegaconf import DictConfig, OmegaConf

from dogbreed import commands
from dogbreed.commands import override, shown_path
from dogbreed.run_folder import SEARCH_FILE, RunFolder, trial_folder, write_json, write_text
from launchers.config_sources import ConfigSources
from launchers.runs.results import read_result
from launchers.spec import STUDY_FILE
from launchers.status import Handle, LaunchError, RunResult

BEST = "best"
Value: TypeAlias = "float | int | str | bool | None"

_INDENT = 12 * " "


@dataclass(frozen=True)
class SearchSummary:
    """Summarises a search that has ended.

    trial: number of the best trial. value: its objective. values: its parameters. complete, pruned, failed: numbers of
    trials. epochs_share: share of the epochs that were trained, of all that unpruned trials would have had. database:
    None for study.db in the search's own folder. words: of the command that trains with the best settings; empty if the
    experiment best.yaml does, which it cannot beside a primary config of the user's, whose values come later.
    """

    study: str
    trial: int
    monitor: str
    value: float
    values: Mapping[str, Value]
    complete: int
    pruned: int
    failed: int
    epochs_share: float
    database: str | None
    words: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        write_json(folder / SEARCH_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the summary. Raises LaunchError if there is none."""
        try:
            return cls(**json.loads((folder / SEARCH_FILE).read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise LaunchError(f"{shown_path(folder / SEARCH_FILE)} cannot be read: {error}") from error

    @property
    def head(self) -> str:
        counts = f"{self.complete} trials complete, {self.pruned} pruned, {self.failed} failed"
        return counts + (f"; {self.epochs_share:.0%} of the epochs trained" if self.pruned else "")

    def tail(self, folder: Path) -> str:
        database = shown_path(folder / STUDY_FILE) if self.database is None else self.database
        return (
            f"best        trial {self.trial}, {self.monitor} {self.value:.4f}\n"
            f"{textwrap.fill(in_words(self.values), 80, initial_indent=_INDENT, subsequent_indent=_INDENT)}\n"
            f"study       {shown_path(folder / 'study.html')}\n"
            f"database    {database}\n"
            f"\nTrain with these settings: {commands.shell(*self.words) if self.words else retrain_command(folder)}"
        )


@dataclass(frozen=True)
class SearchResult(RunResult):
    """The result of the best trial's run. folder: the search's."""

    shown: str

    def __str__(self) -> str:
        return self.shown


def read_search(handle: Handle, folder: Path) -> SearchResult:
    """Read a search's result. Raises LaunchError if its summary, or its best trial's metrics, cannot be read."""
    summary = SearchSummary.read(folder)
    best = read_result(handle, RunFolder(trial_folder(folder, summary.trial)))
    shown = f"\n{summary.head}\n{best}\n\n{summary.tail(folder)}"
    metrics = {summary.monitor: summary.value, **best.metrics}
    return SearchResult(handle, folder, metrics, {**best.artifacts, "study": folder / "study.html"}, shown)


def move_words(sweep: Path, sources: ConfigSources, root: str | None) -> None:
    """Set the paths of this machine in the command that a search on another machine ended with.

    sources: those of the search here. root: the photos' folder here; None removes the setting. Does nothing if the
    search was stopped before its end.
    """
    if not (sweep / SEARCH_FILE).exists():
        return
    summary = SearchSummary.read(sweep)
    if summary.words:
        python, script, *rest = summary.words
        kept = [w for w in rest if not w.startswith(("--", "hydra.searchpath=", "data.root="))]
        photos = [] if root is None else [override("data.root", root)]
        replace(summary, words=[python, script, *sources.words, *kept, *photos]).write(sweep)


def move_data(sweep: Path, root: str | None) -> None:
    """Set the photos' folder on this machine in the experiment that `write_best` wrote on another one.

    root: the folder; None removes the setting, so that the default applies.
    """
    path = sweep / "experiment" / f"{BEST}.yaml"
    if not path.exists():
        return
    text = path.read_text()
    settings = cast(DictConfig, OmegaConf.create(text))
    if root is not None:
        OmegaConf.update(settings, "data.root", root, force_add=True)
    elif "root" in (settings.get("data") or {}):
        del settings.data["root"]
        if not settings.data:
            del settings["data"]
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    write_text(path, head + OmegaConf.to_yaml(settings))


def retrain_command(sweep: Path) -> str:
    return commands.train("--config-dir", shown_path(sweep), f"experiment={BEST}")


def short(key: str) -> str:
    return key.rpartition(".")[2].lstrip("+")


def shown(value: Value, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else "null" if value is None else str(value)


def in_words(values: Mapping[str, Value]) -> str:
    """Format all parameters of a trial on one line, rounded."""
    return " ".join(f"{short(key)}={shown(value)}" for key, value in values.items())
