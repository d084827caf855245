"""The planner's word against the rehearsal cloud: its overrides deploy as they are printed, and its forecast holds.

Service times are real and paced, whatever the clock does; each load is sent by `loadtest`, at the times that are
simulated as well.
"""

import json
import shlex
from collections.abc import Iterator
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
from launchers.status import Handle
from tests.support.places import Place, deploying, end, endpoint, left_in

pytestmark = pytest.mark.cloud
SERVICE_S, SLOTS = 0.25, 3
FIXED = ("--rps", "4", "--hours", "1", "--service-ms", "250", "--instances", "1", "--slots", str(SLOTS))
SCALED = (*FIXED[:-3], "1-2", "--policy", "concurrency", "--slots", str(SLOTS))


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
def dogs(place: Place) -> Iterator[Handle]:
    """A deployment of the overrides that the planner prints for one instance behind a Lambda with three slots."""
    from launchers.capacity.advice import Assumptions, with_front
    from launchers.capacity.advice import endpoint as fleet
    from launchers.capacity.overrides import overrides

    assumed = Assumptions([SERVICE_S])
    words = overrides(with_front(fleet(assumed, 1, 1, "none"), SLOTS, assumed))
    _, handle = place.deployed("dogs", *words[1:], f"+aws.faults.service_s={SERVICE_S}")
    yield handle
    end(place, "dogs")
    assert left_in(place.cloud, "dogs") == []


def loaded(place: Place, target: str, file: str, *words: str) -> dict[str, Any]:
    for _ in range(3):  # a machine that stalls meanwhile has measured itself
        assert place.verb("loadtest", target, *words, "--output", file) == 0
        found: dict[str, Any] = json.loads(Path(file).read_text())
        if found["kept_pace"]:
            break
    return found


def compared(found: dict[str, Any], outcome: Outcome) -> None:
    forecast_ms, measured_ms = outcome.percentile_s(95) * 1000, found["p95_ms"]
    refused = f"refused {outcome.refused_share:.3f} for {found['refused']:.3f}"
    print(f"forecast for measured: p95 {forecast_ms:.0f} for {measured_ms:.0f} ms, {refused}")
    assert found["kept_pace"], found["late_p99_ms"]
    assert forecast_ms == pytest.approx(measured_ms, rel=0.25)
    assert outcome.refused_share == pytest.approx(found["refused"], abs=0.03)


def forecast(setting: Setting, found: dict[str, Any], service_s: list[float]) -> Outcome:
    """Simulate the requests that were sent, when they were due."""
    at = found["sent_at_s"]
    drawn = [service_s[place % len(service_s)] for place in range(len(at))]
    return simulate(replace(setting, retries=Retries(0)), Traffic(at, drawn, at[-1] + 1.0))


def test_a_forecast_agrees_with_the_endpoint_and_with_the_lambda_in_front_under_the_same_load(
    place: Place, dogs: Handle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    through = loaded(place, "dogs", "front.json", "--clients", str(SLOTS), "--requests", "12")  # all slots are warm
    through = loaded(place, "dogs", "front.json", "--requests", "10")
    with monkeypatch.context() as direct:
        direct.setattr(DeployLauncher, "entrance", lambda launcher, handle: of_endpoint(launcher.cloud, handle.run_id))
        alone = loaded(place, "dogs", "alone.json", "--requests", "10")
        straight = loaded(place, "dogs", "straight.json", "--rps", "5", "--seconds", "12")
    service_s, _ = service_times(Path("alone.json"))
    assert min(service_s) >= SERVICE_S
    fleet = Endpoint(1, 1, 2)
    compared(straight, forecast(Setting(endpoint=fleet), straight, service_s))

    behind = loaded(place, "dogs", "behind.json", "--rps", "4", "--seconds", "16")
    assert set(behind["statuses"]) == {"200", "429"}
    overhead_s = max(0.0, (through["p50_ms"] - alone["p50_ms"]) / 1000)
    compared(behind, forecast(Setting(Function(SLOTS), fleet, overhead_s), behind, service_s))


def test_the_overrides_that_are_printed_deploy_as_they_are(
    place: Place, dogs: Handle, capsys: pytest.CaptureFixture[str]
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
