"""What every launcher promises, as tests: a launcher's test file subclasses a contract and gives the fixtures.

Launchers of runs subclass LauncherContract, and that of deployments PlanContract.
"""

import builtins
import json
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from dogbreed.errors import ConfigError, DogBreedError
from launchers.base import Capabilities, Launcher
from launchers.follow import wait
from launchers.plan import Costs, Plan
from launchers.spec import RunSpec
from launchers.status import Cause, Handle, LaunchError, Phase


def submitted(launcher: Launcher, plan: Plan) -> Handle:
    """Submit and see it end, whether the launcher raises what stopped the run or leaves it to `status`."""
    try:
        launcher.submit(plan)
        until(lambda: launcher.status(plan.handle).finished)
    except DogBreedError:
        pass
    return plan.handle


def until(reached: Callable[[], bool], *, timeout_s: float = 300, every_s: float = 0.1) -> None:
    """Wait for something. timeout_s: long, as it costs time only where a test fails. every_s: between two looks, which
    become fewer in a long wait, as each of them costs time.
    """
    began = time.monotonic()
    while not reached():
        waited_s = time.monotonic() - began
        assert waited_s < timeout_s, "waited in vain"
        time.sleep(max(every_s, min(0.5, 0.05 * waited_s)))


class PlanContract(ABC):
    """What holds for every launcher, of deployments too. Fixtures may be overridden with other scopes."""

    @pytest.fixture
    @abstractmethod
    def launcher(self) -> Launcher:
        """The launcher under test."""

    @pytest.fixture
    @abstractmethod
    def spec(self) -> RunSpec:
        """A run that it accepts; it is planned, never started."""

    @pytest.fixture
    @abstractmethod
    def wrong_spec(self) -> RunSpec:
        """A run with two things wrong that its plan can see."""

    @pytest.fixture
    def launcher_of_wrong(self, launcher: Launcher) -> Launcher:
        """The launcher that is to plan it; another one if its own settings are one of the two."""
        return launcher

    def test_capabilities_are_all_stated(self, launcher: Launcher) -> None:
        assert all(isinstance(getattr(launcher.capabilities, field.name), bool) for field in fields(Capabilities))

    def test_planning_is_repeatable_and_edits_nothing(self, launcher: Launcher, spec: RunSpec) -> None:
        before = deepcopy(spec)
        assert launcher.plan(spec) == launcher.plan(spec)
        assert spec == before

    def test_planning_looks_at_no_disk_network_clock_or_environment(
        self, launcher: Launcher, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launcher.plan(spec)  # imports are done
        planning = threading.get_ident()

        def watching(look: Callable[..., Any]) -> Callable[..., Any]:
            def looked(*args: Any, **kwargs: Any) -> Any:
                assert threading.get_ident() != planning, f"plan looked at the world: {args}"
                return look(*args, **kwargs)  # other threads go on with what they do

            return looked

        with monkeypatch.context() as watched:
            for place, name in (
                (builtins, "open"),
                (os, "stat"),
                (os, "listdir"),
                (os, "scandir"),
                (os, "getcwd"),
                (os, "getenv"),
                (socket.socket, "__init__"),
                (time, "time"),
                (time, "sleep"),
            ):
                watched.setattr(place, name, watching(getattr(place, name)))
            launcher.plan(spec)

    def test_a_plan_says_what_it_costs_and_where_it_runs(self, launcher: Launcher, spec: RunSpec) -> None:
        text = str(launcher.plan(spec))
        assert spec.run_id in text
        assert {"where", "cost", "command"} <= {line.split()[0] for line in text.splitlines() if line}

    def test_a_plan_holds_its_limits_and_refuses_those_that_it_cannot_hold(
        self, launcher: Launcher, spec: RunSpec
    ) -> None:
        def costs(**limits: float) -> Costs | None:
            return launcher.plan(replace(spec, config={**spec.config, "limits": limits})).costs

        usual = costs()
        for wrong in ({"max_usd": 0}, {"max_usd": -1}, {"max_hours": 0}):
            with pytest.raises(ConfigError, match=r"limits\.max_"):
                costs(**wrong)
        if usual is None:
            return  # it costs nothing
        for least in (0.9, 1.01, 3.0, 1000.0):
            max_usd = least * usual.least_usd
            if least < 1:
                with pytest.raises(ConfigError, match=r"limits\.max_usd"):
                    costs(max_usd=max_usd)
            else:
                limited = costs(max_usd=max_usd)
                assert limited is not None
                assert limited.worst_usd <= min(max_usd, usual.worst_usd) * (1 + 1e-9)
        with pytest.raises(ConfigError, match=r"limits\.max_hours"):
            costs(max_hours=0.9 * usual.least_h)
        shorter = costs(max_hours=1.1 * usual.least_h)
        assert shorter is not None
        assert shorter.worst_usd <= usual.worst_usd

    def test_a_plan_names_all_that_is_wrong_at_once(self, launcher_of_wrong: Launcher, wrong_spec: RunSpec) -> None:
        with pytest.raises(ConfigError, match="2 problems found"):
            launcher_of_wrong.plan(wrong_spec)

    def test_a_spec_travels_as_json(self, launcher: Launcher, spec: RunSpec) -> None:
        returned = RunSpec.from_json(spec.to_json())
        assert returned == spec
        assert launcher.plan(returned) == launcher.plan(spec)

    def test_a_handle_is_its_text(self, launcher: Launcher, spec: RunSpec) -> None:
        handle = launcher.plan(spec).handle
        assert Handle.parse(str(handle)) == handle

    def test_an_unknown_run_is_lost_and_never_a_success(self, launcher: Launcher, spec: RunSpec) -> None:
        handle = replace(launcher.plan(spec).handle, run_id="20000101-000000-none")
        assert launcher.status(handle).phase is Phase.LOST
        assert launcher.cancel(handle).phase is Phase.LOST
        assert handle not in [known for known, _ in launcher.list(active_only=False)]
        with pytest.raises(LaunchError):
            launcher.logs(handle)
        with pytest.raises(LaunchError):
            launcher.result(handle)


class LauncherContract(PlanContract):
    """What holds for every launcher of runs. Expensive fixtures are asked for by one test."""

    @pytest.fixture
    @abstractmethod
    def succeeded(self) -> Plan:
        """A submitted run that succeeded at its first attempt."""

    @pytest.fixture
    @abstractmethod
    def failing(self) -> Plan:
        """A run, not yet submitted, that a mistake in its config stops."""

    @pytest.fixture
    @abstractmethod
    def endless(self) -> Plan:
        """A run that has been submitted, is training, and goes on until it is cancelled."""

    @pytest.fixture
    @abstractmethod
    def left_over(self) -> str:
        """Something that nothing uses any more, by the name that `cleanup` gives it."""

    @pytest.fixture
    @abstractmethod
    def in_use(self) -> str:
        """Something like it that is still in use, and must stay."""

    def test_a_run_that_succeeded(self, launcher: Launcher, succeeded: Plan) -> None:
        handle = succeeded.handle
        status = launcher.status(handle)
        assert (status.phase, status.cause, status.attempt) == (Phase.SUCCEEDED, Cause.NONE, 1)
        result = wait(launcher, handle)
        assert result.handle == handle
        assert 0 <= result.metrics["val/acc"] <= 1
        assert {"report", "best", "metrics", "config", "log"} <= result.artifacts.keys()
        assert all(path.exists() for path in result.artifacts.values())
        assert "val/acc" in str(result)
        assert handle in [known for known, _ in launcher.list(active_only=False)]
        assert handle not in [known for known, _ in launcher.list()]

    def test_logs_are_labelled_and_can_be_chosen(self, launcher: Launcher, succeeded: Plan) -> None:
        lines = list(launcher.logs(succeeded.handle))
        assert any("epoch 1/" in line.text for line in lines)
        assert {line.attempt for line in lines} == {1}
        assert list(launcher.logs(succeeded.handle, follow=True)) == lines
        assert list(launcher.logs(succeeded.handle, attempt=1, node=0)) == [line for line in lines if line.node == 0]
        assert not list(launcher.logs(succeeded.handle, attempt=2))

    def test_what_has_succeeded_is_not_run_again(self, launcher: Launcher, succeeded: Plan) -> None:
        before = launcher.status(succeeded.handle)
        assert launcher.submit(succeeded) == succeeded.handle
        assert launcher.cancel(succeeded.handle) == before
        assert launcher.status(succeeded.handle) == before

    def test_a_run_that_fails_says_why_and_what_next(self, launcher: Launcher, failing: Plan) -> None:
        handle = submitted(launcher, failing)
        status = launcher.status(handle)
        assert (status.phase, status.cause, status.attempt) == (Phase.FAILED, Cause.BAD_CONFIG, 1)
        assert status.detail
        assert status.log_tail
        assert status.next_action
        assert status.detail in str(status)
        with pytest.raises(LaunchError, match="failed"):
            wait(launcher, handle)
        assert submitted(launcher, failing) == handle
        assert launcher.status(handle).attempt == 2
        assert {line.attempt for line in launcher.logs(handle)} == {1, 2}

    def test_what_a_failed_run_has_left_comes_home_without_another_attempt(
        self, launcher: Launcher, failing: Plan
    ) -> None:
        handle = submitted(launcher, failing)
        with pytest.raises(LaunchError):
            wait(launcher, handle)
        before = launcher.status(handle)
        folder = launcher.download(handle)
        words = before.detail.split()[1:8]  # the first may be a path, which a log shows as the machine has it
        logs = [path.read_text().split() for path in folder.glob("*.log")]
        assert any(set(words) <= set(log) for log in logs), (words, logs)
        assert launcher.status(handle) == before

    def test_a_run_that_is_cancelled(self, launcher: Launcher, endless: Plan) -> None:
        handle = endless.handle
        assert not launcher.status(handle).finished
        assert handle in [known for known, _ in launcher.list()]
        with pytest.raises(LaunchError):
            launcher.result(handle)
        if launcher.capabilities.remote:
            with pytest.raises(LaunchError):
                launcher.download(handle)
        if launcher.capabilities.follow_logs:
            assert next(launcher.logs(handle, follow=True)).attempt == 1
        stopped = launcher.cancel(handle)
        assert (stopped.phase, stopped.cause) == (Phase.CANCELLED, Cause.BY_USER)
        assert stopped.next_action
        assert launcher.cancel(handle) == stopped
        with pytest.raises(LaunchError, match="cancelled"):
            wait(launcher, handle)

    def test_cleanup_shows_first_and_spares_what_is_in_use(
        self, launcher: Launcher, left_over: str, in_use: str
    ) -> None:
        now = timedelta(0)
        assert launcher.cleanup(older_than=now).found == (left_over,)
        assert launcher.cleanup(older_than=now).left == (left_over,)
        assert launcher.cleanup(older_than=now, apply=True).removed == (left_over,)
        assert launcher.cleanup(older_than=now).found == ()

    def test_status_is_plain_data(self, launcher: Launcher, succeeded: Plan) -> None:
        status = launcher.status(succeeded.handle)
        assert json.loads(json.dumps([status.phase, status.cause])) == ["succeeded", "none"]
