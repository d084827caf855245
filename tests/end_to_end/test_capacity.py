"""The planner's word against the rehearsal cloud: its overrides deploy as they are printed, and its forecast holds.

Service times are real and paced, whatever the clock does; each load is sent by `loadtest`, at the times that are
simulated as well.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launchers.capacity.measured import service_times
from launchers.capacity.outcome import Outcome
from launchers.capacity.setting import Endpoint, Function, Retries, Setting
from launchers.capacity.simulation import Traffic, simulate
from launchers.cli.verbs import main
from launchers.deploy import autoscaling
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.names import Names
from launchers.deploy.signing import of_endpoint
from tests.support.places import Place, deploying, end, endpoint, left_in

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]
SERVICE_S, SLOTS = 0.25, 3
FIXED = ("--rps", "4", "--hours", "1", "--service-ms", "250", "--instances", "1", "--slots", str(SLOTS))
SCALED = (*FIXED[:-3], "1-2", "--policy", "concurrency", "--slots", str(SLOTS))
TRIES = 8  # a machine that is kept from its work meanwhile has measured that


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with deploying(
        tmp_path_factory.mktemp("capacity"), "launcher.front=lambda", "launcher/scaling=concurrency"
    ) as found:
        yield found


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Return the overrides of the command that `capacity` prints, without the name and the run."""
    capsys.readouterr()
    assert main(["capacity", *words]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    command = shlex.split(said[said.index("Deploy") + len("Deploy") :])
    assert command[:2] == ["python", "train.py"]
    assert command[-2:] == ["name=NAME", "checkpoint=RUN"]
    return [word for word in command[2:-2] if word.strip()]


@pytest.fixture(scope="module")
def made(place: Place) -> Iterator[tuple[str, ...]]:
    """The overrides that the planner prints for one instance behind a Lambda with three slots, deployed."""
    from launchers.capacity.advice import Assumptions, with_front
    from launchers.capacity.advice import endpoint as fleet
    from launchers.capacity.overrides import overrides

    assumed = Assumptions([SERVICE_S])
    words = overrides(with_front(fleet(assumed, 1, 1, "none"), SLOTS, assumed))
    given = (*words[1:], f"+aws.faults.service_s={SERVICE_S}")
    place.deployed("dogs", *given)
    yield given
    end(place, "dogs")
    assert left_in(place.cloud, "dogs") == []


@pytest.fixture
def dogs(place: Place, made: tuple[str, ...]) -> None:
    """That deployment, whatever another test has made of it."""
    if autoscaling.present(place.cloud, "dogs") is not None:
        place.deployed("dogs", *made)


def loaded(place: Place, target: str, file: str, *words: str) -> dict[str, Any]:
    assert place.verb("loadtest", target, *words, "--output", file) == 0
    found: dict[str, Any] = json.loads(Path(file).read_text())
    return found


def agree(measured: Callable[[], tuple[dict[str, Any], Outcome]], *statuses: str) -> None:
    """Measure, and forecast the same, until both agree. statuses: those that answers have."""
    seen = []
    for _ in range(TRIES):
        found, outcome = measured()
        forecast_ms, measured_ms = outcome.percentile_s(95) * 1000, found["p95_ms"]
        refused = f"refused {outcome.refused_share:.3f} for {found['refused']:.3f}"
        late = f"1 % later than {found['late_p99_ms']:.0f} ms, statuses {found['statuses']}"
        seen.append(f"forecast for measured: p95 {forecast_ms:.0f} for {measured_ms:.0f} ms, {refused}, {late}")
        print(seen[-1])
        if (
            found["kept_pace"]
            and set(found["statuses"]) == set(statuses)
            and forecast_ms == pytest.approx(measured_ms, rel=0.25)
            and outcome.refused_share == pytest.approx(found["refused"], abs=0.03)
        ):
            return
    raise AssertionError("\n".join(seen))


def forecast(setting: Setting, found: dict[str, Any], service_s: list[float]) -> Outcome:
    """Simulate the requests that were sent, when they were due."""
    at = found["sent_at_s"]
    drawn = [service_s[place % len(service_s)] for place in range(len(at))]
    return simulate(replace(setting, retries=Retries(0)), Traffic(at, drawn, at[-1] + 1.0))


def test_a_forecast_agrees_with_the_endpoint_and_with_the_lambda_in_front_under_the_same_load(
    place: Place, dogs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Endpoint(1, 1, 2)
    loaded(place, "dogs", "front.json", "--clients", str(SLOTS), "--requests", "12")  # all slots are warm

    def directly(file: str, *words: str) -> dict[str, Any]:
        with monkeypatch.context() as direct:
            entrance = lambda launcher, handle: of_endpoint(launcher.cloud, handle.run_id)  # noqa: E731
            direct.setattr(DeployLauncher, "entrance", entrance)
            return loaded(place, "dogs", file, *words)

    def alone() -> tuple[list[float], float]:
        found = directly("alone.json", "--requests", "10")
        service_s, _ = service_times(Path("alone.json"))
        assert min(service_s) >= SERVICE_S
        return service_s, found["p50_ms"]

    known: list[tuple[list[float], float]] = []  # the last ones; those before a further try may be out of date

    def straight() -> tuple[dict[str, Any], Outcome]:
        known[:] = [alone()]
        service_s, _ = known[0]
        found = directly("straight.json", "--rps", "5", "--seconds", "12")
        return found, forecast(Setting(endpoint=fleet), found, service_s)

    def behind() -> tuple[dict[str, Any], Outcome]:
        service_s, alone_ms = known.pop() if known else alone()
        through = loaded(place, "dogs", "front.json", "--requests", "10")
        found = loaded(place, "dogs", "behind.json", "--rps", "4", "--seconds", "16")
        overhead_s = max(0.0, (through["p50_ms"] - alone_ms) / 1000)
        return found, forecast(Setting(Function(SLOTS), fleet, overhead_s), found, service_s)

    agree(straight, "200")
    agree(behind, "200", "429")


def test_the_overrides_that_are_printed_deploy_as_they_are(
    place: Place, dogs: None, made: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = printed(capsys, *FIXED)
    launcher, plan = place.prepared("dogs", *words[1:], f"+aws.faults.service_s={SERVICE_S}")
    assert plan.requests == ()  # what is deployed is just that
    assert (launcher.reserved, launcher.count, launcher.scaled) == (SLOTS, 1, None)

    words = printed(capsys, *SCALED)
    place.deployed("dogs", *words[1:], f"+aws.faults.service_s={SERVICE_S}")
    scaled = autoscaling.present(place.cloud, "dogs")
    assert scaled is not None
    assert (scaled.kind, scaled.least, scaled.most) == ("concurrency", 1, 2)
    assert endpoint(place, "dogs")["EndpointStatus"] == "InService"

    capsys.readouterr()
    assert place.verb("explain", "dogs") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Policy dogbreed-dogs-concurrency, on {Names('dogs').variant} 1 to 2 instances." in said
    assert "more than 2 requests in progress for 3 of 3 points of 10 s" in said
    assert place.verb("explain", "nobody") == 1
    assert "nobody" in capsys.readouterr().err
