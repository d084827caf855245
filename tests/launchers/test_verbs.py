"""`python -m launchers`: names, tables, JSON, examples in the help, and what a person may get wrong."""

import argparse
import io
import json
import re
import shlex
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers import prepare, registry
from launchers.cli import ending, verbs
from launchers.cli.ages import age
from launchers.cli.listing import Found, Listed, table
from launchers.local import LocalLauncher
from launchers.plan import Plan
from launchers.runs.find import find
from launchers.runs.launched import remember
from launchers.spec import RunSpec
from launchers.status import Handle, LaunchError, LogLine, Phase, Status
from tests.support.answers import SCHEMAS, problems
from tests.support.launcher_contract import until
from tests.support.toy_deployments import ToyDeployments

NOW = datetime.now(UTC)
ID, OTHER, SEARCH = "20261123-001122-x7k2", "20261123-001133-abcd", "20261122-120000-qqqq"


def make_run(folder: Path, phase: Phase = Phase.SUCCEEDED, *, hours: float = 1, name: str | None = None) -> None:
    """Make the folder of a run that has ended, as the local launcher leaves it."""
    folder.mkdir(parents=True)
    at = (NOW - timedelta(hours=hours)).isoformat(timespec="milliseconds")
    state = {
        "phase": phase,
        "cause": "none",
        "detail": "",
        "attempt": 1,
        "pid": 1,
        "process_started": 1.0,
        "host": "another",
        "first_started_at": at,
        "started_at": at,
        "ended_at": at,
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "spec.json").write_text(RunSpec(folder.name, (), {"name": name}, str(folder), at, None, False).to_json())
    begun = NOW.astimezone() - timedelta(hours=hours)
    lines = [f"{begun + timedelta(minutes=n):%Y-%m-%d %H:%M:%S},000 INFO line {n}" for n in range(4)]
    (folder / "train.log").write_text("\n".join([*lines, "Traceback"]) + "\n")
    (folder / "metrics.json").write_text('{"val/acc": 0.5}')


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, one of them called baseline, a search and a deployment called dogs."""
    monkeypatch.setitem(registry.LAUNCHERS, "toydeploy", "tests.support.toy_deployments.ToyDeployments")
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / ID, name="baseline")
    make_run(tmp_path / "runs" / OTHER, Phase.FAILED, hours=30)
    make_run(tmp_path / "sweeps" / SEARCH / "00000", hours=2)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "dogs").write_text("in_service")
    spec = RunSpec("dogs", (), {}, str(tmp_path / "deployments" / "dogs"), NOW.isoformat(), None, False)
    (tmp_path / "deployments" / "dogs").mkdir(parents=True)
    handle = Handle("toydeploy", str(tmp_path / "there"), "dogs")
    remember(tmp_path / "deployments" / "dogs", Plan(spec, handle, ()), {})
    (tmp_path / "PHOTO.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "requests.csv").write_text("timestamp\n" + "".join(f"{second}.5\n" for second in range(600)))
    return tmp_path


class TestNames:
    @pytest.mark.parametrize(
        "typed", [f"runs/{ID}", f"runs/{ID[:-3]}", ID, ID[:-3], "baseline", "base", f"./runs/{ID}/"]
    )
    def test_a_run_is_found_by_folder_id_name_and_their_beginnings(self, home: Path, typed: str) -> None:
        assert find(typed) == Handle("local", str(home / "runs"), ID)

    def test_an_ambiguous_beginning_says_which_it_could_be(self, home: Path, said: Callable[..., str]) -> None:
        printed = said("status", ID[:8], status=1)
        assert f"{ID[:8]} could be any of these 2:" in printed
        assert f"  runs/{ID}  baseline\n  runs/{OTHER}\n" in printed

    def test_a_whole_name_counts_more_than_a_beginning(self, home: Path) -> None:
        make_run(home / "runs" / "20261125-000000-long", name="baseline-2")
        assert find("baseline").run_id == ID

    def test_an_unknown_name_names_the_near_ones(self, home: Path, said: Callable[..., str]) -> None:
        printed = said("status", "basline", status=1)
        assert f"There is no run folder basline.\nTry: runs/{ID}" in printed
        assert "Try: deployments/dogs" in said("status", "dgos", status=1)

    def test_a_folder_that_is_no_run_does_not_hide_what_has_its_name(self, home: Path) -> None:
        (home / "dogs").mkdir()
        assert find("dogs").scope == str(home / "deployments")

    @pytest.mark.parametrize("typed", ["do", "dogs"])
    def test_a_deployment_elsewhere_is_found_by_the_beginning_of_its_handle(
        self, home: Path, said: Callable[..., str], typed: str
    ) -> None:
        (home / "deployments" / "dogs" / "launched.json").unlink()
        assert said("status", f"toydeploy://{home}/there/{typed}").startswith("in service")
        (home / "there" / "dolphins").write_text("in_service")
        if typed == "do":
            assert "could be any of these 2" in said("status", f"toydeploy://{home}/there/{typed}", status=1)

    def test_an_unknown_handle_names_the_near_ones(self, home: Path, said: Callable[..., str]) -> None:
        printed = said("logs", f"toydeploy://{home}/there/dgos", status=1)
        assert f"Try: toydeploy://{home}/there/dogs" in printed

    def test_several_are_asked_at_once_and_one_that_is_unknown_hides_no_other(
        self, home: Path, said: Callable[..., str]
    ) -> None:
        printed = said("status", "baseline", "nope", OTHER, status=1)
        assert "baseline:\nsucceeded" in printed
        assert f"{OTHER}:\nfailed" in printed
        assert "no run folder nope" in printed

    def test_a_verb_that_does_not_fit_says_which_one_does(self, home: Path, said: Callable[..., str]) -> None:
        assert "launcher=deploy name=NAME" in said("invoke", "baseline", "PHOTO.jpg", status=1)
        assert "launcher=deploy name=NAME" in said("rollback", "baseline", status=1)
        trial = f"python -m launchers logs sweeps/{SEARCH}/00000"
        assert f"Try: {trial}" in said("logs", SEARCH, status=1)


class TestList:
    def test_one_table_holds_runs_searches_and_deployments_newest_first(
        self, home: Path, said: Callable[..., str]
    ) -> None:
        lines = said("list", "--all").splitlines()
        assert max(map(len, lines)) <= 80
        first = [line.split()[0] for line in lines]
        assert first == ["run", f"runs/{ID}", f"sweeps/{SEARCH}", f"runs/{OTHER}", "deployments/dogs"]

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--state", "failed"], [OTHER]),
            (["--state", "succeeded,failed"], [ID, OTHER]),
            (["--all", "--name", "base"], [ID]),
            (["--all", "--newer-than", "3h", "--launcher", "local"], [ID]),
            (["--all", "--older-than", "1d", "--launcher", "local"], [OTHER]),
            (["--all", "--launcher", "search"], [SEARCH]),
            (["--launcher", "toydeploy"], ["dogs"]),
            (["--all", "--launcher", "local", "--trials", "--newer-than", "1d"], [ID, "00000"]),
        ],
    )
    def test_filters(self, home: Path, said: Callable[..., str], words: list[str], expected: list[str]) -> None:
        listed = json.loads(said("list", "--json", *words))
        assert [each["handle"].rpartition("/")[2] for each in listed] == expected

    def test_a_filter_that_is_not_known_names_those_that_are(self, home: Path, said: Callable[..., str]) -> None:
        assert "Try: planned, submitted" in said("list", "--state", "bogus", status=1)
        assert "Try: local, sagemaker" in said("list", "--launcher", "bogus", status=1)

    def test_rows_found_so_far_are_shown_before_the_error_that_ends_the_table(
        self, home: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = ToyDeployments.list

        def expires(self: ToyDeployments, **how: Any) -> Any:
            yield from whole(self, **how)
            raise LaunchError("Listing failed. The AWS credentials have expired.\nTry: aws sso login")

        monkeypatch.setattr(ToyDeployments, "list", expires)
        printed = said("list", "local", f"toydeploy://{home}/there", "--all", status=1)
        assert "dogs" in printed.partition("Not shown")[0]
        assert f"runs/{ID}" in printed
        assert printed.endswith("The AWS credentials have expired.\nTry: aws sso login\n")

    def test_one_reason_is_said_once_for_all_that_it_hides(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = Found()
        for name in "abcde":
            found.missing(LaunchError("The AWS credentials have expired."), name)
        assert found.report() == 1
        assert capsys.readouterr().err == (
            "Not shown, or not all of it: a, b, c and 2 others\nerror: The AWS credentials have expired.\n"
        )

    def test_a_region_without_anything_of_ours(
        self, home: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = {"local": registry.LAUNCHERS["local"], "toydeploy": registry.LAUNCHERS["toydeploy"]}
        monkeypatch.setattr(registry, "LAUNCHERS", alone)
        (home / "eu-west-3").mkdir()
        assert said("list", "eu-west-3") == (
            "No runs in progress in eu-west-3. To include ended ones: python -m launchers list --all\n"
        )

    @given(
        st.lists(
            st.tuples(
                st.from_regex(r"[a-z0-9-]{1,58}", fullmatch=True), st.sampled_from(list(Phase)), st.floats(0, 1e6)
            ),
            min_size=1,
        )
    )
    def test_costs_fit_into_80_columns(self, runs: list[tuple[str, Phase, float]]) -> None:
        listed = [
            Listed(
                LocalLauncher(),
                Handle("sagemaker", "eu-west-1", name),
                Status(phase, attempt=12, started_at=NOW.isoformat(), usd=dollars),
                Path(f"/{name}"),
            )
            for name, phase, dollars in runs
        ]
        assert max(map(len, table(listed).splitlines())) <= 80


class TestSearch:
    @pytest.fixture
    def study(self, home: Path) -> Path:
        """A search with a database in which trials are in every state, and whose process has ended."""
        folder = home / "sweeps" / "mine"
        make_run(folder / "00000")
        with closing(sqlite3.connect(folder / "study.db")) as database:
            database.execute("CREATE TABLE trials (state TEXT)")
            database.execute("CREATE TABLE study_user_attributes (key TEXT, value_json TEXT)")
            database.executemany(
                "INSERT INTO trials VALUES (?)", [("COMPLETE",), ("COMPLETE",), ("PRUNED",), ("FAIL",), ("WAITING",)]
            )
            gone = json.dumps({"host": "another", "pid": 1, "started": 1.0, "beat": 1})
            database.execute("INSERT INTO study_user_attributes VALUES ('sweeper:abc', ?)", [gone])
            database.commit()
        return folder

    def test_its_status_counts_trials(self, study: Path, said: Callable[..., str]) -> None:
        printed = said("status", "mine")
        assert printed.startswith("cancelled (interrupted)\nsearch: 4 trials ended (1 pruned, 1 failed)")
        assert "Resume it with the command that started it." in printed

    def test_it_has_succeeded_once_it_has_a_result(self, study: Path, said: Callable[..., str]) -> None:
        (study / "best.json").write_text("{}")
        assert said("status", "mine").startswith("succeeded")
        assert "succeeded" in said("cancel", "mine")


class TestLogs:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ([], ["line 0", "line 1", "line 2", "line 3", "Traceback"]),
            (["--tail", "2"], ["line 3", "Traceback"]),
            (["--tail", "0"], []),
            (["--since", "58.9m"], ["line 2", "line 3", "Traceback"]),
            (["--since", "58.9m", "--tail", "1"], ["Traceback"]),
            (["--since", "10s"], []),
        ],
    )
    def test_a_part_of_a_log(self, home: Path, said: Callable[..., str], words: list[str], expected: list[str]) -> None:
        later_s = (datetime.now(UTC) - NOW).total_seconds()  # a busy machine begins with this test minutes later
        words = [f"{58.9 * 60 + later_s:.0f}s" if word == "58.9m" else word for word in words]
        lines = said("logs", "baseline", *words).splitlines()
        assert [line.rpartition("INFO ")[2].removeprefix("1 | ") for line in lines] == expected

    def test_timestamps_are_in_utc(self, home: Path, said: Callable[..., str]) -> None:
        began = f"{NOW - timedelta(hours=1):%Y-%m-%d %H:%M:%S}"
        assert said("logs", "baseline", "-t").startswith(f"{began} | 1 | ")

    def test_lines_without_times_cannot_be_chosen_by_time(self, home: Path, said: Callable[..., str]) -> None:
        assert "Try: --tail N instead of --since" in said("logs", "dogs", "--since", "1m", status=1)


class TestCancel:
    def test_all_asks_first(self, home: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        assert "Try: --yes" in said("cancel", "--all", status=1)
        terminal = io.StringIO()
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("builtins.input", lambda question: "n")
        printed = said("cancel", "--all", status=1)
        assert "deployments/dogs" in printed
        assert "Nothing was cancelled." in printed
        assert (home / "there" / "dogs").exists()
        monkeypatch.setattr("builtins.input", lambda question: "y")
        assert "Removed: endpoint." in said("cancel", "--all")
        assert "Nothing is in progress." in said("cancel", "--all")

    def test_it_says_what_it_waits_for(
        self, home: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ending, "_SHOW_AFTER_S", 0.0)
        end = ToyDeployments.cancel

        def slowly(self: ToyDeployments, handle: Handle, *, grace_s: float = 110) -> Status:
            until(lambda: "Waiting for" in sys.stderr.getvalue(), every_s=0.01)  # type: ignore[attr-defined]
            return end(self, handle, grace_s=grace_s)

        monkeypatch.setattr(ToyDeployments, "cancel", slowly)
        printed = said("cancel", "dogs")
        assert f"Waiting for toydeploy://{home}/there/dogs to save and stop ..." in printed

    def test_nothing_named_is_an_error(self, home: Path, said: Callable[..., str]) -> None:
        assert "Nothing to cancel was named." in said("cancel", status=1)


def test_watching_ends_once_nothing_can_change(home: Path, said: Callable[..., str]) -> None:
    printed = said("status", "--watch", "baseline", "dogs")
    assert re.search(rf"UTC  local://\S+{ID}: succeeded", printed)
    assert "dogs: in service" in printed


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172800), ("1w", 604800)]
)
def test_ages(text: str, seconds: int) -> None:
    assert age(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1h", "10 m", "1y", "nan", "9999999d"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="try 90s"):
        age(text)


# --- JSON ---


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("list", ["--all"]),
        ("status", ["baseline"]),
        ("status", ["dogs"]),
        ("cancel", ["baseline"]),
        ("cancel", ["dogs"]),
        ("rollback", ["dogs"]),
        ("attach", ["baseline"]),
        ("result", ["baseline"]),
        ("download", ["baseline"]),
        ("download", [SEARCH]),
        ("invoke", ["dogs", "PHOTO.jpg"]),
        ("cleanup", []),
        ("images", []),
        ("rehearsal", ["status", "--state-dir", "cloud"]),
        ("prices", ["--need", "gpu=1"]),
        ("iam", ["--account", "123456789012", "--for", "launcher=ec2_spot", "aws.region=eu-west-1"]),
        ("capacity", ["--rps", "5", "--hours", "0.1", "--slots", "3"]),
        ("capacity", ["--rps", "5", "--hours", "0.1", "--instances", "1", "--p99-ms", "900"]),
    ],
)
def test_json_has_its_schema(home: Path, said: Callable[..., str], verb: str, words: list[str]) -> None:
    answer = json.loads(said(verb, *words, "--json"))
    assert problems(answer, SCHEMAS[verb]) == []
    assert answer or verb == "cleanup"


@pytest.mark.parametrize("verb", ["status", "result", "download", "cancel"])
def test_json_of_several_is_an_array_of_the_same(home: Path, said: Callable[..., str], verb: str) -> None:
    make_run(home / "runs" / "again")
    answers = json.loads(said(verb, "baseline", "again", "--json"))
    assert len(answers) == 2
    assert [problems(each, SCHEMAS[verb]) for each in answers] == [[], []]


def test_json_of_logs_and_of_watching_is_an_object_a_line(home: Path, said: Callable[..., str]) -> None:
    lines = [json.loads(line) for line in said("logs", "baseline", OTHER, "--json").splitlines()]
    assert len(lines) == 10
    assert [text for each in lines for text in problems(each, SCHEMAS["logs"])] == []
    watched = [json.loads(line) for line in said("status", "-w", "baseline", "dogs", "--json").splitlines()]
    assert [problems(each, SCHEMAS["status"]) for each in watched] == [[], []]


def test_every_command_prints_json_of_a_schema() -> None:
    assert SCHEMAS.keys() == PARSERS.keys()
    assert [verb for verb, parser in PARSERS.items() if "--json" not in parser.format_help()] == []


def test_an_answer_that_does_not_fit_its_schema_is_found() -> None:
    line = {"handle": "x", "attempt": True, "node": 0, "text": None, "more": 1}
    assert sorted(problems(line, SCHEMAS["logs"])) == [
        "answer has an unknown key more",
        "answer lacks at",
        "answer.attempt is True, not int",
        "answer.text is None, not str",
    ]


# --- help ---

PARSERS: dict[str, argparse.ArgumentParser] = next(
    action.choices  # type: ignore[misc]
    for action in verbs._parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)
ELSEWHERE = {  # where the examples of these are executed
    "doctor": "tests/launchers/test_doctor.py and the guides, as it needs a model",
    "explain": "tests/launchers/test_explain.py",
    "loadtest": "tests/launchers/test_loadtest.py",
    "cost": "tests/launchers/test_verbs_rehearsed.py, as it needs a cloud",
    "open": "tests/launchers/test_signing.py, as it listens until it is ended",
}
MEANT = {"RUN": f"runs/{ID}", "runs/RUN": f"runs/{ID}", "NAME": "baseline", "ID": OTHER, "PHOTO.jpg": "PHOTO.jpg"}


def examples(verb: str) -> list[str]:
    return re.findall(rf"^  (python -m launchers {verb}\b.*)$", PARSERS[verb].epilog or "", re.MULTILINE)


@pytest.mark.parametrize("verb", PARSERS)
def test_the_help_of_each_command_has_examples_within_80_columns(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert examples(verb)
    assert max(map(len, PARSERS[verb].format_help().splitlines())) <= 80


@pytest.mark.parametrize("command", [each for verb in PARSERS if verb not in ELSEWHERE for each in examples(verb)])
def test_the_examples_work(home: Path, said: Callable[..., str], command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, *words = shlex.split(command)[3:]
    make_run(home / "runs" / "20261124-000000-made")
    meant = {**MEANT, "NAME": "dogs"} if PARSERS[verb].get_default("command") in DEPLOYMENTS else MEANT
    if verb == "result":  # of runs that succeeded
        meant = {**MEANT, "ID": "20261124-000000-made"}
    place = ["--state-dir", str(home / "cloud")] if "--state-dir" in PARSERS[verb].format_usage() else []
    shorter = ["--shape", "burst", "--hours", "0.2"] if "--rps" in words else []  # a day of traffic takes 20 s
    said(verb, *(meant.get(word, word) for word in words), *place, *shorter)


DEPLOYMENTS = (verbs.deployments.invoke, verbs.deployments.rollback)


# --- names given with name= ---


def test_a_name_is_kept_with_the_run_and_as_a_tag(tmp_path: Path) -> None:
    launcher, plan = prepare(
        [
            *("launcher=sagemaker_spot", "aws.region=eu-west-1", "aws.bucket=my-bucket", "aws.role=MyRole"),
            *("data=drawn", "name=baseline", f"hydra.run.dir={tmp_path}/run"),
        ]
    )
    tags = {tag["Key"]: tag["Value"] for tag in plan.requests[-1].parameters["Tags"]}
    assert tags["dogbreed:name"] == "baseline"
    assert json.loads(plan.spec.to_json())["config"]["name"] == "baseline"
    assert "name=" not in str(dict(plan.rows)["command"])  # the machine needs no name
    assert launcher.plan(plan.spec) == plan


@pytest.mark.parametrize("name", ["a b", "-a", "a/b", "x" * 64, "a.b", "ä"])
def test_a_name_that_cannot_be_a_tag_or_typed_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    spec = RunSpec("run", (), {"name": name}, str(folder), "2026-01-01", None, False)
    with pytest.raises(ConfigError, match="is not a valid name for a run"):
        LocalLauncher().plan(spec)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["lst"], "error: lst is not a command.\nTry: python -m launchers list\n"),
        (["satus", "RUN"], "error: satus is not a command.\nTry: python -m launchers status\n"),
        (["nothing-like-it"], "error: nothing-like-it is not a command.\nTry: python -m launchers --help\n"),
        (["list", "--lancher", "ec2"], "error: --lancher is unknown here.\nTry: --launcher\n"),
        (["rehearsal", "stat"], "error: stat is not a choice of start|status|stop.\nTry: status\n"),
        (["capacity", "--shape", "dayly"], "error: dayly is not a choice of --shape.\nTry: daily\n"),
        (["status"], "the following arguments are required: RUN\nTry: python -m launchers status --help\n"),
    ],
)
def test_a_command_or_an_option_that_does_not_exist_names_the_near_ones(
    words: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        verbs.main(words)
    assert capsys.readouterr().err.endswith(printed)


def test_doctor_refuses_a_deployment(home: Path, said: Callable[..., str]) -> None:
    (home / "deployments" / "dogs").rename(home / "runs" / "served")
    printed = said("doctor", "served", status=1)
    assert "serves a model already" in printed


def test_following_the_tail_of_a_log_of_several_machines_loses_no_line(
    home: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine's lines stay in their order, but not all of them: the next reading begins with other ones."""
    before = [LogLine(1, 0, "a"), LogLine(1, 0, "b"), LogLine(1, 1, "c")]
    after = [LogLine(1, 0, "a"), LogLine(1, 0, "b"), LogLine(1, 0, "new"), LogLine(1, 1, "c"), LogLine(1, 1, "last")]

    def logs(self: ToyDeployments, handle: Handle, *, follow: bool = False, attempt: int | None = None) -> Any:
        return iter(after if follow else before)

    monkeypatch.setattr(ToyDeployments, "logs", logs)
    assert said("logs", "dogs", "--tail", "1", "--follow") == "1 | c\n1 | new\n1 | last\n"
