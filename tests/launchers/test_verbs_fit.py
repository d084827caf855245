"""Each command of `python -m launchers` on each kind of thing: what does not fit is refused, with what does.

No cloud is asked for more than how a thing stands, and a part of a table that cannot be had hides no other.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from launchers import registry
from launchers.aws import tags
from launchers.aws.account import Account
from launchers.cli.listing import Listed, table
from launchers.deploy.launcher import DeployLauncher
from launchers.ec2 import state
from launchers.ec2.spot import Ec2Launcher
from launchers.ec2.state import Attempt, Seen
from launchers.local import LocalLauncher
from launchers.sagemaker.training import SageMakerLauncher
from launchers.sagemaker.tuner import Tuner
from launchers.spec import RunSpec
from launchers.status import Cause, Handle, LogLine, Phase, Status
from tests.support.answers import StatusOf, problems

ID, SEARCH = "20261123-001122-x7k2", "20261122-120000-qqqq"
KINDS = {  # how each is named
    "local run": f"runs/{ID}",
    "local search": f"sweeps/{SEARCH}",
    "SageMaker run": f"sagemaker://eu-west-1/{ID}",
    "EC2 run": f"ec2://eu-west-1/{ID}",
    "tuner's search": "tuner://eu-west-1/dogs-1a2b3c4d",
    "deployment": "deploy://eu-west-1/dogs",
}
ALL = {  # that are elsewhere
    "SageMaker run": SageMakerLauncher,
    "EC2 run": Ec2Launcher,
    "tuner's search": Tuner,
    "deployment": DeployLauncher,
}
_RUN, _SEARCH = "is a run, not a deployment.\nTry: ", "is a search, not a deployment.\nTry: "
_SERVES = dict.fromkeys(("local run", "SageMaker run", "EC2 run"), _RUN) | dict.fromkeys(
    ("local search", "tuner's search"), _SEARCH
)
REFUSED = {  # what each command says of a kind that it does not fit; it fits all others
    "invoke": _SERVES,
    "open": _SERVES,
    "rollback": _SERVES,
    "doctor": {"deployment": "serves a model already; this examines one before that.\nTry: python -m launchers status"},
    "download": {"deployment": "is a deployment, which leaves no files.\nTry: python -m launchers logs deploy://"},
    "logs": {"local search": f"Try: python -m launchers logs sweeps/{SEARCH}/00000"},
}
CASES = [(verb, kind, text) for verb, kinds in REFUSED.items() for kind, text in kinds.items()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run and a search; whatever is elsewhere has succeeded, or is in service."""
    monkeypatch.chdir(tmp_path)
    at = "2026-11-23T00:11:22.000+00:00"
    state = {
        "phase": "succeeded", "cause": "none", "detail": "", "attempt": 1, "pid": 1, "process_started": 1.0,
        "host": "another", "first_started_at": at, "started_at": at, "ended_at": at,
    }  # fmt: skip
    for folder in (tmp_path / "runs" / ID, tmp_path / "sweeps" / SEARCH / "00000"):
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "spec.json").write_text(RunSpec(folder.name, (), {}, str(folder), at, None, False).to_json())
    (tmp_path / "PHOTO.jpg").write_bytes(b"\xff\xd8")
    for launcher in (SageMakerLauncher, Ec2Launcher, Tuner):
        monkeypatch.setattr(launcher, "status", lambda self, handle: Status(Phase.SUCCEEDED, started_at=at))
    monkeypatch.setattr(DeployLauncher, "status", lambda self, handle: Status(Phase.IN_SERVICE, started_at=at))

    def client(self: Account, service: str) -> Any:
        raise AssertionError(f"{service} was asked")

    monkeypatch.setattr(Account, "client", client)
    return tmp_path


@pytest.mark.parametrize(("verb", "kind", "text"), CASES)
def test_a_command_that_does_not_fit_a_kind_says_which_one_does(
    home: Path, said: Callable[..., str], verb: str, kind: str, text: str
) -> None:
    photo = ["PHOTO.jpg"] if verb == "invoke" else []
    printed = said(verb, KINDS[kind], *photo, status=1)
    assert text in printed
    assert printed.startswith("error: ")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_status(home: Path, said: Callable[..., str], kind: str) -> None:
    assert said("status", KINDS[kind]).split()[0] in ("succeeded", "in", "cancelled")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("local")])
def test_watching_what_has_settled_ends_at_once(home: Path, said: Callable[..., str], kind: str) -> None:
    """Of deployments, EC2 and tuners as of jobs."""
    (line,) = said("status", "--watch", KINDS[kind], "--json").splitlines()
    assert json.loads(line)["handle"] == KINDS[kind]


@pytest.mark.parametrize("kind", ["SageMaker run", "EC2 run", "tuner's search", "deployment"])
@pytest.mark.parametrize("timed", [True, False])
def test_the_log_of_each_kind_is_chosen_by_its_end_and_by_time(
    home: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kind: str, timed: bool
) -> None:
    """EC2's lines have no times, and then there is a way out."""
    now = datetime.now(UTC)
    lines = [LogLine(1, 0, f"line {n}", now - timedelta(hours=n) if timed else None) for n in (3, 2, 1, 0)]
    monkeypatch.setattr(ALL[kind], "logs", lambda self, handle, **how: iter(lines))
    assert said("logs", KINDS[kind], "--tail", "2") == "1 | line 1\n1 | line 0\n"
    printed = said("logs", KINDS[kind], "--since", "90m", status=0 if timed else 1)
    assert printed == "1 | line 1\n1 | line 0\n" if timed else "have no times.\nTry: --tail N instead" in printed
    stamp = f"{now - timedelta(hours=3):%Y-%m-%d %H:%M:%S}" if timed else " " * 19
    assert said("logs", KINDS[kind], "-t").startswith(f"{stamp} | 1 | line 3\n")


# --- tables ---


@pytest.fixture
def one_of_each(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A region in which one of each kind is in progress; the handles of those that were cancelled."""
    cancelled: list[str] = []
    ages = {"SageMaker run": 1, "EC2 run": 5, "tuner's search": 30, "deployment": 60}
    for kind, hours in ages.items():
        handle = Handle.parse(KINDS[kind])
        at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        phase = Phase.IN_SERVICE if kind == "deployment" else Phase.RUNNING
        found = handle, Status(phase, started_at=at, name="mine" if kind == "EC2 run" else "", usd=1.0)
        monkeypatch.setattr(ALL[kind], "list", lambda self, found=found, **how: iter([found]))

        def cancel(self: Any, handle: Handle, *, grace_s: float = 110) -> Status:
            cancelled.append(str(handle))
            return Status(Phase.CANCELLED, Cause.BY_USER)

        monkeypatch.setattr(ALL[kind], "cancel", cancel)
    return cancelled


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["SageMaker run", "EC2 run", "tuner's search", "deployment"]),
        (["--launcher", "ec2,tuner"], ["EC2 run", "tuner's search"]),
        (["--launcher", "deploy"], ["deployment"]),
        (["--state", "in_service"], ["deployment"]),
        (["--name", "mine"], ["EC2 run"]),
        (["--name", "dogs"], ["tuner's search", "deployment"]),
        (["--newer-than", "6h"], ["SageMaker run", "EC2 run"]),
        (["--older-than", "1d"], ["tuner's search", "deployment"]),
        (["--older-than", "1d", "--state", "running"], ["tuner's search"]),
    ],
)
def test_filters_are_of_all_kinds(
    one_of_each: list[str], said: Callable[..., str], words: list[str], expected: list[str]
) -> None:
    listed = json.loads(said("list", "eu-west-1", *words, "--json"))
    assert [each["handle"] for each in listed] == [KINDS[kind] for kind in expected]
    assert [text for each in listed for text in problems(each, StatusOf)] == []


def test_cancelling_all_ends_each_kind_once(one_of_each: list[str], said: Callable[..., str]) -> None:
    assert "Try: --yes" in said("cancel", "--all", "eu-west-1", status=1)
    assert one_of_each == []
    answers = json.loads(said("cancel", "--all", "eu-west-1", "--yes", "--json"))
    assert sorted(one_of_each) == sorted(KINDS[kind] for kind in ALL)
    assert {each["phase"] for each in answers} == {"cancelled"}


def test_runs_on_ec2_that_have_ended_are_listed_from_the_bucket(
    home: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of them in EC2: their submissions in the bucket tell of them."""
    monkeypatch.undo()
    monkeypatch.chdir(home)
    alone = {scheme: registry.LAUNCHERS[scheme] for scheme in ("local", "ec2")}
    monkeypatch.setattr(registry, "LAUNCHERS", alone)
    fields = {
        "attempt": 1, "submission": 1, "machine": "i-0123456789abcdef0", "type": "m5.large", "zone": "eu-west-1a",
        "bought": "spot", "started": "2026-11-23T00:15:00+00:00", "ended": "2026-11-23T01:15:00+00:00", "why": None,
    }  # fmt: skip
    outcomes = {"20261123-001122-aaaa": "succeeded", "20261123-001122-bbbb": "failed", "20261123-001122-cccc": None}

    def read(cloud: Any, layout: Any, run_id: str) -> Seen:
        if (outcome := outcomes[run_id]) is None:
            return Seen(layout, run_id, None, "")  # its submission was deleted
        result = {"submission": 1, "attempt": 1, "outcome": outcome, "reason": "[user_code] no memory", "ended": "x"}
        submission = {"number": 1, "plan": "p", "deadline": 0, "features": None, "encryption": {}}
        at = "2026-11-23T00:11:22+00:00"
        return Seen(layout, run_id, submission, at, attempts=(Attempt.of(fields),), result=result)

    keys = [(f"{run_id}/submissions/00001.json", 1) for run_id in outcomes] + [("20261123-001122-dddd/spec.json", 1)]
    monkeypatch.setattr(state, "read", read)
    monkeypatch.setattr("launchers.ec2.spot.groups.find", lambda cloud, run_id="": [])
    monkeypatch.setattr("launchers.ec2.spot.account.bucket_of_profile", lambda cloud, role: "my-bucket")
    monkeypatch.setattr("launchers.ec2.spot.s3.objects", lambda cloud, uri: keys)
    monkeypatch.setattr("launchers.ec2.spot.logs.tail", lambda cloud, location: ())
    monkeypatch.setattr(
        "launchers.ec2.spot.read_spec",
        lambda cloud, location: RunSpec("x", (), {"name": location.uri[-4:]}, "/x", "", None, False),
    )
    monkeypatch.setattr(Ec2Launcher, "_again", lambda self, seen, handle: "the same command")
    assert "No runs in progress" in said("list", "eu-west-1")
    lines = said("list", "eu-west-1", "--all").splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "20261123-001122-aaaa" in text
    assert "succeeded" in text
    assert "20261123-001122-bbbb" in text
    assert "failed" in text
    assert "cccc" not in text
    assert "dddd" not in text
    failed = json.loads(said("list", "eu-west-1", "--state", "failed", "--json"))
    (each,) = failed
    assert (each["handle"], each["name"]) == ("ec2://eu-west-1/20261123-001122-bbbb", "bbbb")
    assert each["cause"] == "user_code"


def test_credentials_that_expire_before_the_second_page_hide_nothing_of_the_first(
    home: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    pages: list[Any] = []

    class SageMaker:
        def list_training_jobs(self, **asked: Any) -> dict[str, Any]:
            pages.append(asked)
            if "NextToken" in asked:
                raise ClientError(
                    {"Error": {"Code": "ExpiredTokenException", "Message": "The security token is expired"}},
                    "ListTrainingJobs",
                )
            arns = [f"arn:aws:sagemaker:eu-west-1:123456789012:training-job/run-{n}" for n in range(8)]
            return {"TrainingJobSummaries": [{"TrainingJobArn": arn} for arn in arns], "NextToken": "more"}

    monkeypatch.setattr(Account, "client", lambda self, service: SageMaker())
    monkeypatch.setattr(tags, "read", lambda cloud, arn: {tags.RUN_ID: arn.rpartition("/")[2]})
    printed = said("list", "sagemaker://eu-west-1", "--all", status=1)
    shown, _, problem = printed.partition("Not shown, or not all of it: sagemaker in sagemaker://eu-west-1\n")
    assert [line.split()[0].rpartition("/")[2] for line in shown.splitlines()[1:]] == [f"run-{n}" for n in range(8)]
    assert "expired" in problem
    assert "Try: " in problem
    assert len(pages) == 2


def test_a_table_of_many_long_names_and_wide_figures_stays_within_80_columns() -> None:
    dollars = [0.0, 0.004, 12.5, 123456.78, None]
    listed = [
        Listed(
            LocalLauncher(),
            Handle("deploy", "ap-southeast-2", f"{'long-name-' * 5}{number}"[: 20 + number % 40]),
            Status(phase, attempt=100 + number, started_at="2026-11-29T12:57:09.123+00:00", usd=dollars[number % 5]),
            Path(f"/deployments/{'long-name-' * 5}{number}"),
        )
        for number, phase in enumerate(list(Phase) * 20)
    ]
    lines = table(listed).splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    rows = [line for line in lines if "2026-11-29" in line]
    assert len(rows) == len(listed)
    assert len({line.index("2026-11-29") for line in rows}) == 1  # columns stay in line
