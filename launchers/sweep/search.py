"""From a command to a study, its trials, and the best of them."""

import hashlib
import json
import math
import os
import re
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, cast

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, read_write

from dogbreed.errors import ConfigError, Interrupted, raise_findings
from dogbreed.hardware import available_cpus
from launchers import prepare
from launchers.base import SPEC_FILE, Launcher, LaunchError, Plan, RunSpec, shown_path
from launchers.local import ABOUT_THIS_COMMAND, LocalLauncher, override
from launchers.sweep import page
from launchers.sweep.best import retrain_command, write_best
from launchers.sweep.space import SearchSpace, read
from launchers.sweep.study import (
    Study,
    StudyAbout,
    StudyError,
    Trial,
    build_pruner,
    build_sampler,
    hidden,
    is_grid,
    sqlite_file,
    study_names,
)
from launchers.sweep.table import SweepTable, in_words
from launchers.sweep.worker import Epoch, Outcome, Task, Worker

_INDENT = 12 * " "
SAME_CAUSE = 3  # trials in a row that fail for the same reason end the search
_MOST_AT_ONCE = 8  # where nothing is said: each process takes half a gigabyte
_WAIT_S = 0.25  # for a message; in between the table is drawn
_CLAIM_S = 2.0  # until it is looked again whether a trial has come back
_UNREACHABLE_S = 60.0  # that a database may be away
_STOP_S = 60.0  # for workers to save what they do
_NOT_OF_THE_STUDY = ABOUT_THIS_COMMAND | {"launcher", "aws", "hpo", "hydra", "test", "logger", "save"}
# what may be searched without another feature for any photo
_OF_THE_HEAD = frozenset(
    {"model.lr", "model.weight_decay", "model.label_smoothing", "model.optimizer", "model.dropout", "model.warmup"}
    | {"model.ema_decay", "data.batch_size", "seed"}
)


@dataclass(frozen=True)
class Settings:
    """The config node `hpo`."""

    study: str | None
    n_trials: int
    parallel: int | None
    storage: str | None
    fresh: bool
    space: Mapping[str, Any] | None
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any] | None

    def findings(self) -> Iterator[str]:
        for name, least in (("n_trials", 1), ("parallel", 1)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least) and not (name == "parallel" and value is None):
                yield f"hpo.{name}={value} cannot be.\nTry: a whole number, at least {least}"
        if self.study is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,40}", str(self.study)):
            yield f"hpo.study={self.study!r} cannot name folders.\nTry: letters, digits and hyphens, at most 41"


def search(cfg: DictConfig, typed: Sequence[str]) -> float | None:
    """Run, or go on with, the search that a command asks for. Returns the best value of the objective.

    cfg: the whole config with Hydra's own. typed: the command's overrides, without those of hydra.*.
    """
    if "hpo" not in cfg or "sampler" not in cfg.hpo:
        raise ConfigError("The sweeper dogbreed searches with what is under hpo.\nTry: python train.py -m hpo=optuna")
    node = cast(dict[str, Any], OmegaConf.to_container(cfg.hpo, resolve=True))
    if unknown := sorted(node.keys() - Settings.__dataclass_fields__.keys()):
        raise ConfigError(f"Unknown under hpo: {', '.join(unknown)}.\nTry: {', '.join(Settings.__dataclass_fields__)}")
    settings = Settings(**node)
    raise_findings(ConfigError, list(settings.findings()))
    asked = [text for text in typed if _root(text) == "resume"]
    if asked and asked[-1] not in ("resume=null", "resume="):
        raise ConfigError("A search goes on by the same command again.\nTry: leaving out resume=")
    about_trials = [text for text in typed if _root(text) not in ABOUT_THIS_COMMAND | {"hpo"}]
    space, fixed = read(about_trials, settings.space or {})
    always = ["hpo=none", "test=false"]
    if not any(_root(text) == "logger" for text in fixed):
        always.append("logger=none")  # numbers of many short runs are in the study
    overrides = [*_searchpath(cfg), *fixed, *always]
    launcher, plan = _checked(overrides, space)
    study = _study_of(cfg, settings, space, plan, fixed)
    folder = Path(study.folder)
    parallel = settings.parallel or (min(available_cpus(), _MOST_AT_ONCE) if _trains_heads(plan, launcher) else 1)
    if cfg.dry_run:
        print(_dry(study, settings, folder, parallel, space, plan))
        return None
    sampler = settings.sampler
    build_sampler(sampler, space, 0, 0)  # what is wrong with it, before anything is made
    seed = int(plan.spec.config["seed"])
    opened = Study(
        study.about,
        study.storage,
        lambda before: build_sampler(sampler, space, seed, before),
        build_pruner(settings.pruner),
    )
    n_trials = settings.n_trials
    if is_grid(sampler):
        n_trials = min(n_trials, math.prod(map(len, space.grid().values())))
    running = _Search(
        study=opened,
        space=space,
        overrides=overrides,
        folder=folder,
        n_trials=n_trials,
        parallel=min(parallel, n_trials),
        monitor=str(plan.spec.config["monitor"]),
        asks=opened.prunes,
        warms_up=_trains_heads(plan, launcher) and space.parameters.keys() <= _OF_THE_HEAD,
    )
    try:
        return running.run()
    finally:
        opened.close()


# --- what is asked for ---


@dataclass(frozen=True)
class _Named:
    """A study before it is opened."""

    about: StudyAbout
    folder: str
    storage: str


def _checked(overrides: Sequence[str], space: SearchSpace) -> tuple[Launcher, Plan]:
    """The launcher, and the plan of some trial: what is wrong with all of them is wrong with this one."""
    try:
        return prepare([*overrides, *space.overrides(space.first()), "dry_run=false"])
    except ConfigCompositionException as error:
        unknown = re.search(r"Could not override '\+?([^']+)'", str(error))
        if unknown is None:
            raise
        close = get_close_matches(unknown[1], _keys(prepare([])[1].spec.config), 3, 0.6)
        hint = f"\nTry: {' or '.join(close)}" if close else ""
        raise ConfigError(f"{str(error).strip()}{hint}") from error


def _keys(config: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _study_of(cfg: DictConfig, settings: Settings, space: SearchSpace, plan: Plan, fixed: Sequence[str]) -> _Named:
    """Name, folder and storage of the study: the newest of this name, or with `fresh` one after it."""
    config = {key: value for key, value in plan.spec.config.items() if key not in _NOT_OF_THE_STUDY}
    if config["data"].get("source"):  # where it lies is the machine's business
        config["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    digest = hashlib.blake2b(
        (json.dumps(config, sort_keys=True) + space.as_json()).encode(), digest_size=16
    ).hexdigest()
    name = settings.study
    if name is None:
        choices = cfg.hydra.runtime.choices
        label = re.sub(r"[^A-Za-z0-9]+", "-", str(choices.get("experiment") or choices.get("data"))).strip("-")
        name = f"{label[:24] or 'study'}-{digest[:8]}"

    def folder(number: int) -> Path:
        with read_write(cfg):
            cfg.hpo.study = name if number == 1 else f"{name}-{number}"
        return Path(cfg.hydra.sweep.dir).absolute()

    names = study_names(settings.storage) if settings.storage and not cfg.dry_run else set()

    def exists(number: int) -> bool:
        place = folder(number)
        return cfg.hpo.study in names if settings.storage else (place / "study.db").exists()

    number = 1
    if folder(2) == folder(1):  # hydra.sweep.dir without the study's name in it
        if settings.fresh:
            raise ConfigError("hpo.fresh=true needs a folder of its own.\nTry: another hydra.sweep.dir")
    else:
        while exists(number + 1) or (settings.fresh and exists(number)):
            number += 1
    place = folder(number)
    about = StudyAbout(
        str(cfg.hpo.study),
        space,
        str(plan.spec.config["monitor"]),
        str(plan.spec.config["mode"]),
        shlex.join(fixed) or "the defaults",
        digest,
    )
    return _Named(about, str(place), settings.storage or f"sqlite:///{place / 'study.db'}")


def _trains_heads(plan: Plan, launcher: Launcher) -> bool:
    """Whether trials are short and on features that all of them share."""
    config = plan.spec.config
    off = (config.get("features") or {}).get("mode") in ("off", False)
    return isinstance(launcher, LocalLauncher) and config["model"]["trainable"] == "head" and not off


def _searchpath(cfg: DictConfig) -> list[str]:
    """Folders of further YAML files that the command named (--config-dir): trials compose from them, too."""
    sources = cfg.hydra.runtime.config_sources
    ours = ("command-line", "hydra.searchpath in command-line")
    places = [override("p", f"file://{source.path}")[2:] for source in sources if source.provider in ours]
    return [f"hydra.searchpath=[{','.join(places)}]"] if places else []


def _root(text: str) -> str:
    return re.split(r"[.=@/]", text.lstrip("+~"), maxsplit=1)[0]


def _dry(study: _Named, settings: Settings, folder: Path, parallel: int, space: SearchSpace, plan: Plan) -> str:
    lines = [
        f"Plan for the search {study.about.name}",
        f"  trials    {settings.n_trials}, {parallel} at once",
        f"  objective {study.about.monitor}, {study.about.direction}",
        f"  storage   {hidden(study.storage)}",
        f"  folder    {folder}",
        *(f"  {key}  {parameter}" for key, parameter in space.parameters.items()),
        f"A trial, such as the first\n{plan}",
    ]
    return "\n".join(lines)


# --- running it ---


@dataclass
class _Search:
    """Slots that are filled as soon as they are free, until the study has its trials."""

    study: Study
    space: SearchSpace
    overrides: Sequence[str]  # of every trial
    folder: Path
    n_trials: int
    parallel: int
    monitor: str
    asks: bool  # whether a pruner wants to hear of each epoch
    warms_up: bool
    _workers: dict[int, Worker] = field(default_factory=dict)  # by slot
    _busy: dict[int, int] = field(default_factory=dict)  # trial by slot
    _heard: list[tuple[int, Epoch | Outcome | None]] = field(default_factory=list)  # by slot; not yet told to the study
    _causes: list[str] = field(default_factory=list)  # of the latest trials to end; "" for a good end
    _claims_again_at: float = 0.0
    _signum: int | None = None
    _interrupted_at: float = 0.0

    def run(self) -> float:
        name = self.study.about.name
        before = self.study.trials()
        done = self.study.counts().finished
        going_on = f", going on after {done}" if done else ""
        print(
            f"Search {name}: {self.n_trials} trials{going_on}, {self.parallel} at once, in {shown_path(self.folder)}",
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
            self._raise_same_cause()
            return self._end()

    def _fill_until_done(self, table: SweepTable) -> None:
        unreachable_since: float | None = None
        while True:
            try:
                done = self._step()
                self._show(table)
                unreachable_since = None
            except StudyError:  # a database that is started again, a file that is locked for long
                unreachable_since = unreachable_since or time.monotonic()
                if self._signum is not None or time.monotonic() - unreachable_since > _UNREACHABLE_S:
                    raise
                time.sleep(1.0)
                continue
            if done:
                return

    def _step(self) -> bool:
        """Begin what can be begun and hear what there is to hear. True once nothing is left to do."""
        if self._signum is None and not self._same_cause():
            self._fill()
        if self._busy:
            self._hear()
        elif self._signum is not None or self._same_cause() or self.study.counts().finished >= self.n_trials:
            return True
        else:
            time.sleep(_WAIT_S)  # others run the last ones, and may die
        if self._signum is not None:
            self._interrupt_workers()
        self.study.beat()
        return False

    def _show(self, table: SweepTable) -> None:
        trials = self.study.trials()
        table.show(trials, self.study.best(trials))

    def _fill(self) -> None:
        for slot in range(self.parallel):
            if slot in self._busy or time.monotonic() < self._claims_again_at:
                continue
            trial = self.study.claim(self.n_trials)
            if trial is None:  # all are begun; but one that runs elsewhere may come back
                self._claims_again_at = time.monotonic() + _CLAIM_S
                return
            self._set_foreign_aside(trial.number)
            self._busy[slot] = trial.number
            self._worker(slot).send(
                Task(
                    (*self.overrides, *self.space.overrides(trial.values), *self._own(trial.number)),
                    cpus=_cpus(slot, self.parallel),
                    asks=self.asks,
                    takes_over=True,
                )
            )

    def _own(self, number: int) -> list[str]:
        """Id and folder of a trial's run."""
        return [override("run_id", self._run_id(number)), override("hydra.run.dir", str(self._folder_of(number)))]

    def _run_id(self, number: int) -> str:
        """Of this very study: another one may have had this name before, in a database that is gone."""
        return f"{self.study.about.name}-{self.study.uid}-{number}"

    def _set_foreign_aside(self, number: int) -> None:
        """A folder that another study of this name has left would be gone on with as if it were this trial's."""
        folder = self._folder_of(number)
        if folder.exists() and _run_id_in(folder) not in (None, self._run_id(number)):
            aside = folder.with_name(f"old-{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
            folder.replace(aside)
            print(f"{shown_path(folder)} is another study's; it is now {aside.name}", flush=True)

    def _folder_of(self, number: int) -> Path:
        return self.folder / f"{number:05d}"

    def _worker(self, slot: int) -> Worker:
        if slot not in self._workers:
            self._workers[slot] = Worker(slot, self.folder / "workers" / f"{slot}.log")
        return self._workers[slot]

    def _hear(self) -> None:
        """Whatever workers have to say, for a moment. What the study cannot be told now is kept, and told again."""
        told = {slot for slot, _ in self._heard}
        by_connection = {self._workers[slot].connection: slot for slot in self._busy.keys() - told}
        for ready in wait(list(by_connection), 0 if told else _WAIT_S):
            slot = by_connection[cast(Connection, ready)]
            self._heard.append((slot, self._workers[slot].receive()))
        while self._heard:
            slot, message = self._heard[0]
            if isinstance(message, Epoch):
                value = float(message.metrics[self.monitor])
                self._workers[slot].send(self.study.report(self._busy[slot], message.number, value))
            else:
                self._ended(slot, self._busy[slot], message)
                del self._busy[slot]
                self._claims_again_at = 0.0
            self._heard.pop(0)

    def _ended(self, slot: int, number: int, outcome: Outcome | None) -> None:
        """outcome: null where the process has ended in the middle of it."""
        if outcome is None:
            how = self._workers[slot].end(wait_s=1.0)
            if self._signum is not None:
                self.study.give_back(number)
            elif cause := self.study.died(number, how):
                self._causes.append(cause)
            del self._workers[slot]
            return
        if outcome.ended in ("stopped", "busy"):
            self.study.give_back(number)
            if outcome.ended == "stopped":
                self._workers.pop(slot).end()
            return
        value = float(outcome.metrics.get(self.monitor, math.nan))
        if outcome.ended == "well" and math.isfinite(value):
            epochs = int(outcome.metrics["epochs"])
            self.study.complete(number, value, self._folder_of(number), epochs, pruned=epochs < outcome.max_epochs)
            self._causes.append("")
            return
        cause = outcome.detail or f"{self.monitor} is {value}"
        self.study.failed(number, cause)
        self._causes.append(re.sub(r"[-+]?\d[\d.e+-]*", "#", cause.splitlines()[0]))

    def _warm_up(self) -> None:
        """Once for all trials, with all cores. Raises what would stop every trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        worker = self._worker(0)
        reader = _Tail(self.folder / "workers" / "0.log")
        some = (*self.overrides, *self.space.overrides(self.space.first()))
        worker.send(Task(some, first=True, folder=str(self.folder)))
        while not worker.connection.poll(_WAIT_S):
            self.study.beat()
            reader.copy()
            if self._signum is not None:
                self._interrupt_workers()
        reader.copy()
        outcome = worker.receive()
        if outcome is None or isinstance(outcome, Epoch) or outcome.ended == "stopped":
            how = self._workers.pop(0).end()
            if self._signum is None:
                raise LaunchError(f"The process that computes features has ended: {how}")
            self._raise_interrupted()
        elif outcome.ended == "failed":
            raise ConfigError(outcome.detail)

    # --- how it ends ---

    def _same_cause(self) -> str:
        """The reason that the latest trials have failed for, where it is the same for all of them."""
        latest = self._causes[-SAME_CAUSE:]
        return latest[0] if len(latest) == SAME_CAUSE and len(set(latest)) == 1 else ""

    def _raise_same_cause(self) -> None:
        if self._same_cause():
            failed = [trial for trial in self.study.trials() if trial.state == "failed"]
            latest = max(failed, key=lambda trial: trial.number)
            raise LaunchError(
                f"{SAME_CAUSE} trials in a row have failed for the same reason, so the search ends here:\n"
                f"{latest.cause}\n"
                f"The latest is {shown_path(self._folder_of(latest.number))}; what had ended before is kept. "
                f"Try: mend it, then {_again()}"
            )

    def _raise_interrupted(self) -> None:
        assert self._signum is not None
        done = self.study.counts().finished
        raise Interrupted(
            f"Stopped by {signal.Signals(self._signum).name}: {done} of {self.n_trials} trials have ended, "
            f"what was running has been saved.\nGo on with: {_again()}",
            self._signum,
        )

    def _end(self) -> float:
        """The study's page, the best trial's config, and its run brought to its end."""
        counts, trials = self.study.counts(), self.study.trials()
        best = self.study.best(trials)
        said = f"{counts.complete} trials complete, {counts.pruned} pruned, {counts.failed} failed"
        full = max((trial.epochs for trial in trials if trial.state == "complete"), default=0)
        if counts.pruned and full:
            ended = [trial for trial in trials if trial.finished]
            said += f"; {sum(t.epochs for t in ended) / (full * len(ended)):.0%} of the epochs trained"
        print(f"\n{said}")
        if best is None or best.value is None:
            raise LaunchError(
                f"No trial has run to its end, so there is no best.\nTry: {_again()} with more hpo.n_trials"
            )
        write_best(self.folder, self.overrides, self.space.overrides(best.values))
        written = page.write(self.study, self.folder / "study.html")
        print(self._finish(best))
        own = sqlite_file(self.study.storage)
        print(
            f"\nbest        trial {best.number}, {self.monitor} {best.value:.4f}\n"
            f"{textwrap.fill(in_words(best.values), 80, initial_indent=_INDENT, subsequent_indent=_INDENT)}\n"
            f"study       {shown_path(written)}\n"
            f"database    {shown_path(own) if own else hidden(self.study.storage)}\n"
            f"\nTrain with these settings: {retrain_command(self.folder)}"
        )
        return best.value

    def _finish(self, best: Trial) -> str:
        """Have the best trial's run calibrated, tested and reported; what came of it, for people."""
        folder = self._folder_of(best.number)  # which may have been moved since
        if _run_id_in(folder) != self._run_id(best.number) or not (folder / "metrics.json").exists():
            return f"\nThe best trial's run lies on another machine, in {best.folder}."
        while True:
            worker = self._worker(0)
            found = [text for text in self.overrides if text.startswith("hydra.searchpath=")]
            worker.send(Task((*found, override("resume", str(folder)), "test=true"), cpus=tuple(sorted(_all_cpus()))))
            while not worker.connection.poll(_WAIT_S):
                self.study.beat()
                if self._signum is not None:
                    self._interrupt_workers()
            outcome = worker.receive()
            if isinstance(outcome, Outcome) and outcome.ended == "well":
                return outcome.shown
            if self._signum is not None:
                self._raise_interrupted()
            if not isinstance(outcome, Outcome) or outcome.ended != "busy":
                break  # else another sweeper tests it just now
        detail = outcome.detail if isinstance(outcome, Outcome) else f"its process: {self._workers.pop(0).end()}"
        raise LaunchError(f"The best trial's run {shown_path(folder)} cannot be tested: {detail}\nTry: {_again()}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal is noted, and trials are saved; the second ends all processes at once."""

        def heed(signum: int, frame: FrameType | None) -> None:
            if self._signum is not None:
                self._kill_all()
                if sys.stdout.isatty():
                    os.write(1, b"\x1b[?25h")  # the cursor, which the table hides
                os._exit(128 + signum)
            self._signum, self._interrupted_at = signum, time.monotonic()

        before = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt_workers(self) -> None:
        """Once; those that do not end are killed, which costs what they have trained since their last checkpoint."""
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
        """However the search ends, no process is left; trials that were running are taken up by the next command."""
        wait_s = 2.0
        try:
            yield
        except BaseException:
            if self._busy:  # a database that cannot be reached, say: what runs is saved
                wait_s = _STOP_S
                for worker in self._workers.values():
                    worker.interrupt()
            raise
        finally:
            for worker in self._workers.values():
                worker.end(wait_s=wait_s)


class _Tail:
    """Shows what is added to a file from now on."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, path.stat().st_size if path.exists() else 0

    def copy(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self.place)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self.place += len(whole)
        if whole:
            print(whole.decode(errors="replace"), end="", flush=True)


def _run_id_in(folder: Path) -> str | None:
    """Of the run that lies there."""
    try:
        return RunSpec.from_json((folder / SPEC_FILE).read_text()).run_id
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _all_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(available_cpus()))


def _cpus(slot: int, parallel: int) -> tuple[int, ...] | None:
    """A slot's share of the processors: disjoint where there are enough, else one each in turn.

    None where a container's quota is less than the processors it sees: the same few would be pinned by all containers.
    """
    cpus = sorted(_all_cpus())
    if available_cpus() < len(cpus):
        return None
    if parallel >= len(cpus):
        return (cpus[slot % len(cpus)],)
    return tuple(cpus[slot * len(cpus) // parallel : (slot + 1) * len(cpus) // parallel])


def _again() -> str:
    """The command that goes on with this search; without the password of a database."""
    typed = [hidden(text) for text in sys.argv[1:] if text.replace(" ", "").lower() != "hpo.fresh=true"]
    return shlex.join(["python", "train.py", *typed])
