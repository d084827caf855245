"""Play the scenario of a search: as one job, or by SageMaker's tuner, whose trials are jobs of their own."""

import json
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from launchers.rehearsal.services.tuning_record import TuningRecord
from launchers.runs.launched import launched
from launchers.sagemaker.training import SageMakerLauncher
from launchers.sagemaker.tuner import Tuner
from launchers.status import Cause, Handle, Phase, Status
from tests.support.scenarios.commands import Said, commands_in, steady, wait_until
from tests.support.scenarios.played import MOST_ROUNDS, SAVED_WITHIN_S, Played

TRIALS = 4
_MOST_USD = 1.0
_SPACE = ["hpo.space=null", "model.lr=tag(log,interval(1e-4,1e-1))"]


@dataclass
class PlayedSearch(Played):
    """A search of four trials, which its own command takes up again. handle: as a command has noted it last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.handle = Handle("sagemaker" if self.scenario.kind == "one_job" else "tuner", "rehearsal", "none")

    def play(self) -> None:
        cancelled = False
        with self.server_dying():
            self._submit()
            self.clean_up_too_early()
            if self.scenario.cancel_after_s is not None:
                cancelled = self._cancel()
        for _ in range(MOST_ROUNDS):
            wait_until(lambda: self._seen().finished and not self.account.running())
            status = self._status()
            self.happened.append(str(status["phase"]) + (f" ({status['cause']})" if status["cause"] != "none" else ""))
            if status["phase"] == "succeeded":
                break
            self._check_cause(status, cancelled=cancelled)
            self._go_on(status)
        else:
            raise AssertionError(f"it has not succeeded after {MOST_ROUNDS} rounds")
        self._last()
        self._check()

    def _submit(self) -> None:
        for attempt in range(MOST_ROUNDS):
            said = self._search(first=attempt == 0)
            if said.status == 0:
                return
            if said.status != 1:
                self.happened.append("killed")
                continue
            if self._seen().phase is not Phase.LOST:
                return
            self.check_reason(said)
            self.happened.append("refused")
            self.heed(said, "iam", "status")
        raise AssertionError("it could not be submitted")

    def _search(self, *, first: bool, well: bool = False) -> Said:
        by = ["hpo=optuna", "hpo/pruner=none", "hpo.one_job=true", "hpo.parallel=2"]
        if self.scenario.kind == "tuner":
            by = ["hpo=sagemaker_tuner", "hpo.parallel=2", "hpo.early_stopping=false"]
        about = [f"hpo.n_trials={TRIALS}", "hpo.study=mine", "features.mode=off", "trainer.max_epochs=4", *_SPACE]
        wait = f"launcher.wait={str(self.scenario.waits).lower()}"
        words = ["-m", *by, "experiment=quickstart", *about, "launcher=sagemaker_spot", wait]
        cloud = self.cloud_words(first=first, well=well)
        return self.type("train.py", *words, f"limits.max_usd={_MOST_USD}", *cloud, first=first)

    def _cancel(self) -> bool:
        assert self.scenario.cancel_after_s is not None
        time.sleep(self.scenario.cancel_after_s)
        self.lack("cancel", str(self._handle()))
        for _ in range(MOST_ROUNDS):
            said = self.type("launchers", "cancel", str(self._handle()), *self.option)
            if said.status == 0:
                return True
            self.check_reason(said)
        raise AssertionError("it could not be cancelled")

    def _go_on(self, status: dict[str, Any]) -> None:
        if self.scenario.onward == "the same command":
            self._search(first=False, well=True)
            return
        for words in commands_in(status["next_action"]):
            if words[0] == "train.py":
                self.type(*words)
                return
            if words[1] == "iam":
                assert self.type(*words).status == 0
            if words[1] == "download":  # what goes on elsewhere goes on from what it has left, if that is anything
                self.type(*words)
        raise AssertionError(f"no command resumes it: {status['next_action']}")

    def _last(self) -> None:
        last = self.scenario.last if self.scenario.last != "cleanup" else "result"
        handle, there = str(self._handle()), self.forget()
        self.lack(last, handle, folder=there)
        said = self.type("launchers", last, handle, *self.option, folder=there)
        assert said.status == 0, said
        if last in ("result", "download"):
            self._check_home(said)
        self.clean_up()

    def _check_home(self, said: Said) -> None:
        import optuna

        study = optuna.load_study(study_name=None, storage=f"sqlite:///{self.place / 'there/sweeps/mine/study.db'}")
        states = [trial.state.name for trial in study.trials]
        complete, lost = states.count("COMPLETE"), 0
        if self.scenario.kind == "tuner":  # the service counts a trial that found no machine as one that it was to run
            lost = min(states.count("FAIL"), self.scenario.rented.get("no_capacity", 0))
        assert complete in (TRIALS, TRIALS - lost), f"{states}: {said}"
        best = json.loads((self.place / "there/sweeps/mine/best.json").read_text())
        assert best["value"] == study.best_value

    # --- what is known of it ---

    def _handle(self) -> Handle:
        for folder in (self.place / "elsewhere", self.place / "home"):
            if (note := launched(folder / "sweeps" / "mine")) is not None:
                self.handle = Handle.parse(note["handle"])
                break
        return self.handle

    def _seen(self) -> Status:
        def read() -> Status:
            launcher = SageMakerLauncher.at(self.cloud.admin)
            return (Tuner(launcher) if self.scenario.kind == "tuner" else launcher).status(self._handle())

        return steady(read)

    def _status(self) -> dict[str, Any]:
        """Return the status as the command shows it, typed where the search goes on."""
        handle = str(self._handle())
        if self.scenario.onward == "on another machine" and self.here.name == "home":
            self.forget()
        if self.scenario.onward in ("elsewhere", "on another machine"):
            self.here = self.place / "elsewhere"
        self.lack("status", handle)
        said = self.type("launchers", "status", handle, "--json", *self.option)
        found = said.facts
        if found["phase"] in ("failed", "cancelled"):
            assert found["next_action"], f"it does not say what to do next: {said}"
        return found

    # --- what must hold ---

    def _check_cause(self, status: dict[str, Any], *, cancelled: bool) -> None:
        rented, causes = self.scenario.rented, set[Cause]()
        if cancelled:
            causes |= {Cause.BY_USER}
        if self.cloud.deaths or rented.get("crashes", 0) > 2 or rented.get("reclaims"):
            causes.add(Cause.INTERRUPTED)
        if rented.get("no_capacity"):
            causes.add(Cause.CAPACITY)
        if rented.get("denied_to_role"):
            causes.add(Cause.PERMISSION)
        assert Cause(status["cause"]) in causes, f"{status['cause']} is none of {sorted(causes)}: {status}"

    def _check(self) -> None:
        if self.scenario.kind == "one_job":
            self._check_trials()
        else:
            records = sorted(TuningRecord.load_all(self.cloud.state / "tuning"), key=lambda each: each.created)
            for earlier, later in pairwise(records):
                assert earlier.ended is not None, "a tuning job began while another was there"
                assert earlier.ended <= later.created, "a tuning job began while another was there"
            ended = [job.name for job in self.account.jobs if job.status == "Completed"]
            assert len(ended) <= TRIALS, f"more trials were trained than were asked for: {ended}"
        self.check_account(tuned=self.scenario.kind == "tuner", most_usd=_MOST_USD)

    def _check_trials(self) -> None:
        """Check that no trial was trained by two, and none again that had ended before its machine was gone."""
        runs = dict.fromkeys(job.tags["dogbreed:run-id"] for job in self.account.jobs)  # elsewhere a search that
        notes = [each for run_id in runs for each in self.cloud.noted(run_id)]  # has left nothing begins under another
        assert not [each for each in notes if "overlap" in each], "a trial was trained by two at the same time"
        machines = [n for n, each in enumerate(notes) if each.get("event") == "machine"]
        for begin, end in pairwise(machines):
            latest = max((each.get("ended", each.get("began", 0.0)) for each in notes[begin + 1 : end]), default=0.0)
            kept = {
                each["trial"]
                for each in notes[begin:end]
                if "ended" in each and each["ended"] < latest - 2 * SAVED_WITHIN_S
            }
            again = {each["trial"] for each in notes[end:] if "began" in each and "ended" not in each}
            assert not kept & again, f"trials {sorted(kept & again)} had ended, and were trained again"
