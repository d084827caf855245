"""What has been billed, by the records in the bucket, and `python -m launchers cost`, which adds them up."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from launchers.aws import bills
from launchers.aws.bills import Bill
from launchers.aws.layout import Layout
from launchers.cli import cost
from launchers.cli.verbs import main
from launchers.rehearsal.cloud import Rehearsal
from launchers.status import LaunchError
from tests.support.answers import SCHEMAS, problems
from tests.support.launcher_contract import until
from tests.support.rehearsing import BUCKET, prepared

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
OCTOBER = (datetime(2026, 10, 1, tzinfo=UTC), NOVEMBER[0])


def bill(name: str = "run", launcher: str = "sagemaker", **about: Any) -> Bill:
    return replace(Bill(name, launcher, f"runs/{name}/1", 2.0, NOON, NOON + timedelta(hours=1)), **about)


def test_a_month_has_its_part_of_what_is_billed() -> None:
    over_midnight = bill(started=NOVEMBER[0] - timedelta(hours=1), ended=NOVEMBER[0] + timedelta(hours=3), seconds=7200)
    assert over_midnight.usd(NOON, *NOVEMBER) == pytest.approx(3.0)  # of 2 h billed, 3 of the 4 hours are in November
    assert over_midnight.usd(NOON, *OCTOBER) == pytest.approx(1.0)
    assert bill().usd(NOON, *OCTOBER) == 0.0


def test_what_has_not_ended_costs_until_now_or_until_its_last_moment() -> None:
    running = bill(ended=None)
    now = NOON + timedelta(hours=5)
    assert running.open_at(now)
    assert running.usd(now, *NOVEMBER) == pytest.approx(10.0)
    expired = replace(running, ends_at=NOON + timedelta(hours=2))
    assert not expired.open_at(now)
    assert expired.usd(now, *NOVEMBER) == pytest.approx(4.0)
    assert bill(usd_per_hour=None).usd(now, *NOVEMBER) is None
    assert bill(started=None, ended=None).usd(now, *NOVEMBER) == 0.0


def test_a_machine_that_could_not_record_its_end_is_billed_until_its_group_has_ended_it_at_most() -> None:
    times = {"started": NOON.isoformat(), "ended": None, "ends_at": (NOON + timedelta(hours=2)).isoformat()}
    fields = {"attempt": 1, "submission": 1, "type": "m5.large", "beside_usd_per_hour": 0.004, "why": None, **times}
    much_later = NOON + timedelta(days=30)

    def usd(result: dict[str, Any], *later: Bill) -> float | None:
        (lost,) = bills._of_machine("runs/run/attempts/1.json", "run", fields, result)
        lost, *_ = bills._ended_by_the_next([lost, *later])
        assert not lost.open_at(much_later)
        return lost.usd(much_later, *cost._EVER)

    assert usd({}) == pytest.approx(2 * 0.1)
    late = {"submission": 1, "attempt": 1, "outcome": "failed", "ended": much_later.isoformat()}
    assert usd(late) == pytest.approx(2 * 0.1)
    assert usd({**late, "ended": (NOON + timedelta(hours=1)).isoformat()}) == pytest.approx(0.1)
    assert usd({**late, "submission": 2, "ended": (NOON + timedelta(hours=1)).isoformat()}) == pytest.approx(2 * 0.1)
    for hours, billed in ((1, 1), (100, 2)):
        following = bill("run", "ec2", key="runs/run/attempts/2.json", started=NOON + timedelta(hours=hours))
        assert usd({}, following) == pytest.approx(billed * 0.1)


def test_trials_are_added_up_by_search_and_the_dearest_is_first() -> None:
    trials = [bill(f"dogs-1a2b3c4d-0f0f0f-{number}", state="succeeded") for number in range(3)]
    others = [bill("20261120-120000-abcd", state="failed"), bill("dogs", "deploy", ended=None, state="")]
    rows = cost._rows([*others, *trials], NOON + timedelta(hours=2), *NOVEMBER)
    assert [(row.name, row.launcher, row.state, row.usd) for row in rows] == [
        ("dogs-1a2b3c4d (3 trials)", "sagemaker", "succeeded", pytest.approx(6.0)),
        ("dogs", "deploy", "not ended", pytest.approx(4.0)),
        ("20261120-120000-abcd", "sagemaker", "failed", pytest.approx(2.0)),
    ]
    text = cost._shown([cost._Row("dogs", "deploy", "in service", 0.0, 4.0, 4.0)], rows, "2026-11")
    assert text.startswith(
        "Still costs money:\n      launcher  state       so far\ndogs  deploy    in service   $4.00\n"
    )
    assert "in all                                           6.00  $12.00" in text
    assert (
        "By launcher: sagemaker $8.00, deploy $4.00\nBy state: succeeded $6.00, not ended $4.00, failed $2.00" in text
    )
    assert max(map(len, text.splitlines())) <= 80
    live = [cost._Row("dogs", "deploy", "in service", 0.0, None, 4.0)]
    assert problems(cost._facts(live, rows), SCHEMAS["cost"]) == []


def test_a_cost_that_depends_on_the_load_is_two_amounts() -> None:
    scaled = bill("dogs", "deploy", usd_per_hour=0.3, least_usd_per_hour=0.1)
    endless = bill("cats", "deploy", usd_per_hour=None, least_usd_per_hour=0.2)
    rows = cost._rows([scaled, endless], NOON + timedelta(hours=2), *NOVEMBER)
    text = cost._shown([cost._Row("cats", "deploy", "in service", 0.0, None, 0.2)], rows, None)
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line}
    assert lines["dogs"] == "dogs deploy ended 1.00 $0.1 to $0.3"
    assert lines["cats"] == "cats deploy ended 1.00 $0.2 or more"
    assert lines["in"] == "in all 2.00 $0.3 or more"
    assert 'or more": nothing limits the requests' in text
    assert max(map(len, text.splitlines())) <= 80
    facts = cost._facts([], rows)
    assert (facts["usd"], facts["by_launcher"]) == (pytest.approx(0.5), {"deploy": pytest.approx(0.5)})


def test_a_deployment_that_nobody_has_ended_and_that_is_gone_may_have_cost_nothing() -> None:
    left, now = bill("dogs", "deploy", ended=None), NOON + timedelta(hours=3)
    gone = cost._unless_gone(left, [], now)
    assert (gone.state, gone.usd(now, *NOVEMBER), gone.least_usd(now, *NOVEMBER)) == ("gone", 6.0, 0.0)
    assert cost._unless_gone(left, [cost._Row("dogs", "deploy", "in service", 0.0, 6.0, 6.0)], now) == left


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--month", "2099-01"], "--month 2099-01 is in the future.\nTry: --month 20"),
        (["--month", "november"], "--month november is not a month.\nTry: --month 20"),
        (["--month", "2026-13"], "--month 2026-13 is not a month."),
        (["sagemaker://eu-west-1"], "No bucket is configured.\nTry: python -m launchers cost --bucket NAME"),
    ],
)
def test_what_cannot_be_added_up_is_one_clear_message(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cost", *words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.cloud
def test_records_of_all_launchers_are_added_up_from_the_bucket(
    cloud: Rehearsal,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=1", launcher="sagemaker_gpu")
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished)
    monkeypatch.chdir(tmp_path)  # the bucket knows, and no folder here
    words = ["cost", "sagemaker://rehearsal", "--state-dir", str(place), "--json"]

    def rows() -> dict[str, Any]:
        assert main(words) == 0
        return {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}

    usd = launcher.status(plan.handle).usd
    assert usd is not None
    assert rows()[plan.spec.run_id]["usd"] == pytest.approx(usd)  # its end is not recorded, so SageMaker is asked
    launcher.result(plan.handle)
    layout = Layout(BUCKET, "dogbreed")
    (recorded,) = (each for each in bills.read(cloud, layout) if each.name == plan.spec.run_id)
    assert (recorded.state, recorded.usd_per_hour) == ("succeeded", 0.7364)
    assert recorded.ended is not None
    machine = {"attempt": 1, "type": "m5.large", "started": "2026-10-01T10:00:00+00:00", "ended": None, "why": None}
    second = {**machine, "attempt": 2, "started": "2026-10-01T11:00:00+00:00", "ended": "2026-10-01T13:00:00+00:00"}
    objects = {
        "runs/on-ec2/attempts/00001.json": machine,
        "runs/on-ec2/attempts/00002.json": second,
        "runs/on-ec2/result.json": {"attempt": 2, "outcome": "succeeded"},
        "runs/broken/bills/job.json": {"name": "broken"},
    }
    for key, content in objects.items():
        cloud.client("s3").put_object(Bucket=BUCKET, Key=f"dogbreed/{key}", Body=json.dumps(content).encode())
    ended = Bill("dogs", "deploy", "dogbreed/models/dogs/bills/1.json", 0.107, NOON, NOON + timedelta(hours=10))
    bills.write(cloud, layout, ended, {})
    found = rows()
    assert found["on-ec2"]["usd"] == pytest.approx(3 * 0.096)  # the first machine ended when the second began
    assert (found["on-ec2"]["launcher"], found["on-ec2"]["state"]) == ("ec2", "succeeded")
    assert found["dogs"]["usd"] == pytest.approx(1.07)
    assert "broken" not in found
    assert bills.spent_elsewhere(cloud, layout, "on-ec2", "sagemaker") == pytest.approx(3 * 0.096)
    assert bills.spent_elsewhere(cloud, layout, "on-ec2", "ec2") == 0.0
    goes_on, further = prepared(
        place, tmp_path / "on-ec2", "run_id=on-ec2", "limits.max_usd=0.3", launcher="sagemaker_gpu"
    )
    with pytest.raises(LaunchError, match=r"Earlier jobs of the run have cost \$0\.288"):
        goes_on.submit(further)
    words += ["--month", "2026-10"]
    assert rows().keys() == {"on-ec2"}
    assert main([word for word in words if word != "--json"]) == 0
    assert "Cost in 2026-10:\n" in capsys.readouterr().out
