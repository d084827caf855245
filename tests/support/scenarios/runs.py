"""Play the scenario of one training run: submitted, interrupted, resumed here or elsewhere, fetched, cleared away."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from launchers.base import Launcher
from launchers.ec2.spot import Ec2Launcher
from launchers.local import LocalLauncher
from launchers.sagemaker.training import SageMakerLauncher
from launchers.status import Cause, Handle, Phase, Status
from tests.support.scenarios.commands import Said, commands_in, steady, wait_until
from tests.support.scenarios.played import MOST_ROUNDS, SAVED_WITHIN_S, Played
from tests.support.scenarios.scenario import MACHINES, Kill
from tests.support.stand_in_training import EVERY, STEP_S

EPOCHS, LONG = 4, 1000
_OTHER_TYPES = "launcher.other_types=[c5.large,m7i.large]"
_SCHEMES: dict[str, type[Any]] = {"sagemaker": SageMakerLauncher, "ec2": Ec2Launcher}
_TIGHT_USD = {"sagemaker_gpu": 0.0079, "sagemaker_spot": 0.0079, "sagemaker_multi": 0.0158}  # of which a minute trains
_ENOUGH_USD = 0.2


def launcher_words(kind: str, *, short: bool = False) -> list[str]:
    """Return the settings of a launcher. short: with a deadline of seconds here."""
    match kind:
        case "sagemaker_gpu":
            return ["launcher=sagemaker_gpu", "launcher.instance_type=ml.m5.large"]
        case "sagemaker_multi":
            return ["launcher=sagemaker_multi", "launcher.instances=2"]
        case "ec2_spot" | "ec2_on_demand":
            deadline = f"launcher.deadline_h={0.1 if short else 1}"  # 36 s or 6 min here
            price = ["launcher.on_demand=true"] if kind == "ec2_on_demand" else []
            return ["launcher=ec2_spot", _OTHER_TYPES, deadline, *price]
        case _:
            return [f"launcher={kind}"]


@dataclass
class PlayedRun(Played):
    """A run. kinds: of launchers, in the order in which it was on them."""

    kinds: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.run_id = f"s{self.scenario.seed}-run"
        self.kinds.append(self.scenario.kind)
        self.most_usd = _TIGHT_USD[self.scenario.kind] if self.scenario.tight else _ENOUGH_USD

    # --- what happens ---

    def play(self) -> None:
        cancelled = False
        if self.scenario.kind == "local":
            self._submit_here()
        else:
            with self.server_dying():
                self._submit()
                self.clean_up_too_early()
                cancelled = self._cancel() if self.scenario.cancel_after_s is not None else False
        for _ in range(MOST_ROUNDS):
            self._wait()
            status = self._status()
            self.happened.append(str(status["phase"]) + (f" ({status['cause']})" if status["cause"] != "none" else ""))
            if status["phase"] == "succeeded":
                break
            if status["phase"] == "cancelled" and cancelled and self.scenario.onward == "as told":
                break  # that is what was wanted
            self._check_cause(status, cancelled=cancelled)
            self._go_on(status)
        else:
            raise AssertionError(f"it has not succeeded after {MOST_ROUNDS} rounds")
        self._last(status)
        self.check(status)

    def _submit_here(self) -> None:
        """Start the run on this machine, and cancel it from another terminal if that is in the scenario."""
        scenario, words = self.scenario, self._words(first=True)
        kill = scenario.kill or Kill("SIGTERM")  # by which `cancel` ends it
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.terminal.type, self.here, "train.py", *words, kill=kill)
            if scenario.cancel_after_s is not None:
                wait_until((self.here / "runs" / self.run_id / "state.json").exists)
                time.sleep(scenario.cancel_after_s)
                assert self.type("launchers", "cancel", f"runs/{self.run_id}").status == 0
            if running.result().status not in (0, 1):
                self.happened.append("ended by a signal")

    def _submit(self) -> None:
        """Type the command that starts the run, and again if it was killed or has failed, until there is a run."""
        for attempt in range(MOST_ROUNDS):
            first = attempt == 0
            said = self.type("train.py", *self._words(first=first), first=first)
            if said.status == 0:
                return
            if said.status != 1:
                self.happened.append("killed")
                continue
            if self._seen().phase is not Phase.LOST:
                return  # it has ended otherwise than well, as its status says
            self.check_reason(said)
            self.happened.append("refused")
            self.heed(said, "iam", "status")
        raise AssertionError("it could not be submitted")

    def _words(self, *, first: bool) -> list[str]:
        scenario = self.scenario
        return [
            "experiment=quickstart",
            *launcher_words(scenario.kind, short=scenario.endless),
            *self.cloud_words(first=first),
            f"run_id={self.run_id}",
            f"trainer.max_epochs={LONG if scenario.tight else EPOCHS}",
            f"limits.max_usd={self.most_usd}",
            *([] if scenario.kind == "local" else [f"launcher.wait={str(scenario.waits).lower()}"]),
        ]

    def _cancel(self) -> bool:
        assert self.scenario.cancel_after_s is not None
        time.sleep(self.scenario.cancel_after_s)
        self.lack("cancel", str(self.handle))
        for _ in range(MOST_ROUNDS):
            said = self.type("launchers", "cancel", str(self.handle), *self.option)
            if said.status == 0:
                return True
            self.check_reason(said)
        raise AssertionError("it could not be cancelled")

    def _wait(self) -> None:
        def over() -> bool:
            return self._seen().finished and not self.account.running()

        wait_until(over)

    def _go_on(self, status: dict[str, Any]) -> None:
        """Type what the status of a run that has failed, or was cancelled, tells to type."""
        commands = commands_in(status["next_action"])
        again = [words for words in commands if words[0] == "train.py"]
        assert again, f"no command resumes it: {status['next_action']}"
        for words in commands:
            if words[:2] == ["launchers", "iam"]:
                assert self.type(*words).status == 0
        more = self._with_more_money(again[0]) if status["cause"] == "budget" else []
        onward = self.scenario.onward
        if onward not in ("as told", "elsewhere") and onward not in self.kinds:
            more += launcher_words(onward)
            self.kinds.append(onward)
            self.happened.append(f"goes on by {onward}")
        said, money = self.type(*again[0], *more), list[str]()
        # what is enough for one launcher may not be for all, and only one that is enough is held against what was spent
        for _ in range(3):
            if said.status == 0 or self._seen().phase is not Phase.LOST:
                break
            if "Not permitted" in said.text:  # the policies are those of the launcher before
                self.heed(said, "iam")
            else:
                money = [self._more_money(said)]
            said = self.type(*again[0], *more, *money)
        assert said.status == 0 or self._seen().phase is not Phase.LOST, said

    def _with_more_money(self, again: list[str]) -> list[str]:
        """Type the command with the old limit, which must be refused; return what the refusal asks for instead."""
        said = self.type(*again)
        assert said.status == 1, said
        done = self.cloud.noted(self.run_id)[-1]["step"] // EVERY
        return [self._more_money(said), f"trainer.max_epochs={done + 1}"]

    def _more_money(self, said: Said) -> str:
        """Return the limit that a refusal asks for."""
        asked = [word.rstrip(".") for word in said.text.split() if word.startswith("limits.max_usd=")]
        assert asked, f"the refusal does not say how much is enough:\n{said}"
        self.most_usd = float(asked[-1].partition("=")[2])
        return asked[-1]

    def _last(self, status: dict[str, Any]) -> None:
        """Fetch the run, or end it, from a folder that knows nothing of it; then nothing may be left."""
        there = self.here if self.kinds[-1] == "local" else self.forget()
        last, succeeded = self.scenario.last, status["phase"] == "succeeded"
        target = str(self.handle) if self.kinds[-1] != "local" else str(self._folder)
        if last != "cleanup":
            if self.kinds[-1] != "local":
                self.lack(last, target, folder=there)
            said = self.type("launchers", last, target, *self.option, folder=there)
            wanted = succeeded if last == "result" else last == "cancel" or bool(self.cloud.noted(self.run_id))
            assert (said.status == 0) == wanted or (last == "download" and not wanted), said
            if last == "result" and succeeded:
                assert "val/acc" in said.text, said
        if last in ("cleanup", "download") or len(self.kinds) > 1 or not succeeded:
            self.clean_up()

    # --- what is known of it ---

    @property
    def handle(self) -> Handle:
        kind = self.kinds[-1]
        if kind == "local":
            return Handle("local", str(self._folder.parent), self.run_id)
        return Handle("ec2" if kind in MACHINES else "sagemaker", "rehearsal", self.run_id)

    @property
    def _folder(self) -> Path:
        """The run's folder on this machine: it goes on where it was begun, from wherever that is typed."""
        return next(iter(sorted(self.place.glob(f"*/runs/{self.run_id}"))), self.here / "runs" / self.run_id)

    def _launcher(self) -> Launcher:
        kind = _SCHEMES.get(self.handle.launcher)
        launcher: Launcher = LocalLauncher() if kind is None else kind.at(self.cloud.admin)
        return launcher

    def _seen(self) -> Status:
        """Return the status as the administrator sees it."""
        return steady(lambda: self._launcher().status(self.handle))

    def _status(self) -> dict[str, Any]:
        """Return the status as the command shows it, typed where the run goes on."""
        local = self.kinds[-1] == "local"
        if self.scenario.onward != "as told" and not local:
            self.here = self.place / "elsewhere"
        target = str(self._folder) if local else str(self.handle)
        if not local:
            self.lack("status", target)
        said = self.type("launchers", "status", target, "--json", *self.option)
        found = said.facts
        assert (said.status == 1) == (found["phase"] == "lost"), said
        if found["phase"] in ("failed", "cancelled"):
            assert found["next_action"], f"it does not say what to do next: {said}"
        return found

    # --- what must hold ---

    def _check_cause(self, status: dict[str, Any], *, cancelled: bool) -> None:
        """Check that a run that has not succeeded names a fault that was injected."""
        rented, causes = self.scenario.rented, set[Cause]()
        if cancelled:
            causes.add(Cause.BY_USER)
        if self.scenario.kind == "local":
            causes |= {Cause.BY_USER, Cause.INTERRUPTED}
        if self.scenario.tight:
            causes.add(Cause.BUDGET)
        if self.cloud.deaths or rented.get("crashes", 0) > 2 or rented.get("reclaims"):
            causes.add(Cause.INTERRUPTED)
        if self.scenario.kind in MACHINES and self.scenario.client.get("expires_after"):
            causes.add(Cause.INTERRUPTED)  # its submission, half-way
        if rented.get("no_capacity") or rented.get("no_capacity_in"):
            causes.add(Cause.CAPACITY)
        if rented.get("denied_to_role") or rented.get("clock_skew_s"):
            causes.add(Cause.PERMISSION)
        if self.scenario.endless:
            causes.add(Cause.TIME_LIMIT)
        assert Cause(status["cause"]) in causes, f"{status['cause']} is none of {sorted(causes)}: {status}"

    def check(self, status: dict[str, Any]) -> None:
        """Check what must hold after all of it."""
        notes = self.cloud.noted(self.run_id)
        assert not self.account.running(), f"still billed: {self.account.running()}"
        assert not [each for each in notes if each["event"] == "overlap"], "two machines trained at the same time"
        self._check_progress(notes)
        if status["phase"] == "succeeded":
            assert notes[-1]["event"] == "ended", notes[-1]
        self.check_account(most_usd=self.most_usd)

    def _check_progress(self, notes: list[dict[str, Any]]) -> None:
        """Check that each attempt began with the last checkpoint of the one before, or with one a little older.

        What was killed has lost what it saved in its last moments, which are those before its last note.
        """
        starts = [n for n, each in enumerate(notes) if each["event"] == "started"]
        for begin, end in pairwise(starts):
            attempt, resumed = notes[begin:end], notes[end]["step"]
            last = attempt[-1]
            if last["event"] in ("asked to end", "ended") and self._had_time(attempt):
                wanted = last["step"]
            else:
                within = 0.0 if last["job"] == "here" else SAVED_WITHIN_S * _slowness(attempt)
                saved = [each for each in attempt if each["event"] == "saved"]
                old = [each["step"] for each in saved if each["at"] <= last["at"] - within]
                wanted = max([notes[begin]["step"], *old])
            assert resumed >= wanted, f"resumed at step {resumed}, but {wanted} was saved: {attempt}"

    def _had_time(self, attempt: list[dict[str, Any]]) -> bool:
        """Return whether what ended by itself could save everything before its machine was gone.

        What a cloud's process has left when it was killed may run on for a while, and nobody saves anything for it.
        """
        first, last = attempt[0], attempt[-1]
        around = 2 * SAVED_WITHIN_S
        if any(first["at"] - around < death < last["at"] + around for death in self.cloud.deaths):
            return False
        for machine in self.account.machines:
            if machine.launched < last["at"] <= machine.changed:
                return machine.left is not None
        return True


def _slowness(attempt: list[dict[str, Any]]) -> float:
    """Return how many times as long the steps of an attempt took as they should: what saves them was as slow."""
    steps = [each["at"] for each in attempt if each["event"] == "at"]
    longest = max((after - before for before, after in pairwise(steps)), default=STEP_S)
    return max(1.0, longest / (2 * STEP_S))
