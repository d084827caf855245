"""`python -m launchers loadtest`: what it sends, measures and refuses, and what the planner makes of its file."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from dogbreed import load
from dogbreed.errors import DogBreedError
from dogbreed.load import Answer, Load, Timed
from launchers.capacity import measured
from launchers.capacity.measured import Measured, service_times
from launchers.cli import loadtest, verbs
from launchers.deploy import signing
from launchers.rehearsal.cloud import Rehearsal
from tests.support.answering import Answering, answering
from tests.support.answers import SCHEMAS, problems
from tests.support.ports import reserved_port

TIMING = "wait;dur=500, decode;dur=4, network;dur=16"


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert verbs.main(["loadtest", *words, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert problems(facts, SCHEMAS["loadtest"]) == []
    return facts


def test_a_closed_loop_of_one_client_measures_what_the_planner_plans_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "load.json"
    with answering(service_s=0.03) as (url, server):
        facts = asked(capsys, url, "--requests", "9", "--seconds", "600", "--output", str(file))
    assert len(server.seen) == 10  # the first is not counted
    assert (facts["sent"], facts["answered"], facts["refused"], facts["clients"]) == (9, 9, 0.0, 1)
    assert 30 <= facts["p50_ms"] <= facts["p95_ms"] <= facts["p99_ms"]
    assert facts["service_from"] == "whole calls, one at a time"
    assert json.loads(file.read_text()) == facts
    # so few that nobody waits for others, even where one of the nine took seconds
    words = ["capacity", "--rps", "0.5", "--hours", "2", "--slots", "4", "--measured", str(file), "--json"]
    assert verbs.main(words) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["p50_ms"] == pytest.approx(facts["p50_ms"], rel=0.5)
    assert min(facts["service_ms"]) <= planned["p50_ms"] <= max(facts["service_ms"])
    assert any("9 measured" in note for note in planned["notes"])


def test_an_open_loop_says_what_was_refused_and_takes_the_server_s_own_times(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = threading.Event()

    def say(self: Answering, status: int, body: bytes) -> None:
        if status == 429:
            refused.set()
        Answering._say(self, status, body)

    def keep_the_slot(self: Answering) -> None:
        """Stay until another request was refused; the first of all, which is not counted, comes alone."""
        if len(self.seen) > 1:
            refused.wait(300)

    with answering(slots=1, timing=TIMING, wait=keep_the_slot, _say=say) as (url, _):
        words = [url, "--rps", "60", "--requests", "20", "--output", "load.json"]
        assert verbs.main(["loadtest", *words]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "at random times, 60 a second" in said
    assert "with 429" in said
    facts = json.loads((tmp_path / "load.json").read_text())
    assert facts["refused"] == facts["statuses"]["429"] / 20 > 0
    assert set(facts["service_ms"]) == {20.0}
    assert facts["service_from"] == "the server's own times, without waiting"
    assert "capacity --rps" in said
    assert "--measured" in said


def timed(late_s: float, seconds: float = 0.1, status: int = 200) -> Timed:
    return Timed(0.0, late_s, seconds, Answer(status))


def test_it_says_when_it_was_itself_what_was_slow() -> None:
    on_time = Measured("u", Load([timed(0.001)] * 50, 5, 0.1), rps=10)
    assert on_time.kept_pace
    late = Measured("u", Load([timed(0.2)] * 50, 5, 0.1), rps=10)
    busy = Measured("u", Load([timed(0.001)] * 50, 5, 0.97), clients=8)
    for one in (late, busy):
        assert not one.kept_pace
        said = " ".join(" ".join(loadtest._shown(one, None)).split())
        assert "could not keep the pace, so these times are too long" in said
    assert "1 % of the requests were sent more than 200 ms late" in " ".join(
        " ".join(loadtest._shown(late, None)).split()
    )
    assert "of 8 clients, which may contain waiting" in busy.service_s[1]


def test_a_503_that_sagemaker_passes_on_is_a_refusal() -> None:
    words = '{"ErrorCode":"INTERNAL_FAILURE_FROM_MODEL","Message":"Received server error (%d) from primary"}'
    answers = [Answer(200), Answer(424, words=words % 503), Answer(424, words=words % 500), Answer(429)]
    found = Measured("u", Load([Timed(0, 0, 0.1, each) for each in answers], 1, 0.1), clients=1)
    assert found.refused_share == 0.5


def test_requests_that_cannot_be_signed_are_counted_and_said() -> None:
    calls = []

    def sign(method: str, url: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        calls.append(body)
        if len(calls) > 3:
            raise RuntimeError("the token has expired")
        return headers

    with answering() as (url, server):
        sent = load.closed_loop(load.Target(url, sign), [b"x"], 1, 8)
        waited = load.open_loop(load.Target(url, sign), [b"x"], [0.0] * 5)
    assert [one.answer.status for one in sent.requests] == [200] * 3 + [0] * 5
    assert [one.answer.status for one in waited.requests] == [0] * 5
    assert len(server.seen) == 3
    said = " ".join(" ".join(loadtest._shown(Measured("u", sent, clients=1), None)).split())
    assert "No answer the token has expired" in said


def test_percentiles_are_those_of_numpy() -> None:
    import numpy as np

    for values in ([3.0], [1.0, 2.0], [5.0, 1.0, 9.0, 2.0, 2.5]):
        for percent in (0, 50, 95, 99, 100):
            assert measured._percentile(values, percent) == pytest.approx(np.percentile(values, percent))


# --- what is not asked ---


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://abc.lambda-url.eu-west-1.on.aws/",
        "http://127.0.0.1.example.com/",
        "http://10.0.0.7/",
        "http://[2001:db8::1]/",
        "http://0x7f000001.com/",
    ],
)
def test_nothing_is_sent_to_what_is_not_this_machine_unless_it_is_said_to_be_one_s_own(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "signer", lambda *_: None)
    monkeypatch.setattr(loadtest.load, "first_answer", lambda *_: pytest.fail("it was asked"))
    assert verbs.main(["loadtest", url]) == 1
    error = capsys.readouterr().err
    assert "is not this machine" in error
    assert "--yes-this-is-mine" in error


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "::1", "a.localhost"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert loadtest._is_here(host)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("http://localhost/", "--requests", "0"), ("--requests must be from 1",)),
        (("http://localhost/", "--requests", "1000000"), ("to 100,000, got 1000000",)),
        (("http://localhost/", "--seconds", "0", "--clients", "0"), ("2 problems", "--seconds", "--clients")),
        (("http://localhost/", "--seconds", "nan"), ("--seconds must be",)),
        (("http://localhost/", "--rps", "-1"), ("--rps must be above 0",)),
        (("http://localhost/", "--rps", "0.001"), ("No request falls into 30 s", "--seconds 4000")),
        (("ftp://localhost/",), ("neither an http(s) address nor a deployment",)),
        (("http:///invocations",), ("names no host",)),
        (("http://me:secret@localhost/",), ("has a user's name in it",)),
        (("http://localhost:99999/",), ("is not a URL",)),
        (("http://localhost/", "--photo", "/nowhere.jpg"), ("/nowhere.jpg cannot be read",)),
    ],
)
def test_bad_input_is_answered_with_what_to_change(
    words: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verbs.main(["loadtest", *words]) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "name of your deployment"),
        (404, "/invocations"),
        (415, "--photo FILE"),
        (500, "answers 500: a reason"),
    ],
)
def test_a_server_that_takes_no_photo_is_asked_once(
    status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(status=status) as (url, server):
        assert verbs.main(["loadtest", url]) == 1
    assert words in capsys.readouterr().err
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "name", "words"),
    [
        (400, "dogs", "python -m launchers status dogs"),
        (403, "dogs", "python -m launchers iam"),
        (403, "", "python -m launchers iam"),
        (500, "", "python -m launchers list"),
    ],
)
def test_a_deployment_that_takes_no_photo_is_one_to_look_at(status: int, name: str, words: str) -> None:
    with answering(status=status) as (url, _), pytest.raises(DogBreedError) as caught:
        loadtest._answers(load.Target(url, lambda method, url, body, headers: headers), b"x", name)
    assert words in str(caught.value)
    assert "--photo" not in str(caught.value)


def test_a_deployment_that_does_not_answer_is_one_to_look_at() -> None:
    with reserved_port() as port, pytest.raises(DogBreedError, match="launchers status dogs"):
        loadtest._answers(load.Target(f"http://127.0.0.1:{port}/", lambda *about: about[3]), b"x", "dogs")


def test_a_server_that_is_not_there_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    with reserved_port() as port:
        assert verbs.main(["loadtest", f"http://127.0.0.1:{port}/"]) == 1
    error = capsys.readouterr().err
    assert "does not answer" in error
    assert "python -m dogbreed.serving MODEL" in error


def test_requests_for_an_endpoint_s_own_address_are_signed_for_sagemaker() -> None:
    class Client:
        class meta:  # noqa: N801
            endpoint_url, region_name = "https://runtime.sagemaker.eu-west-1.amazonaws.com", "eu-west-1"

            class service_model:  # noqa: N801
                signing_name = "sagemaker"

        def _get_credentials(self) -> Any:
            from botocore.credentials import Credentials

            return Credentials("AKIDEXAMPLE", "secret")

    cloud = Rehearsal(state_dir="/nowhere", _clients={"sagemaker-runtime": Client()})
    url, sign = signing.of_endpoint(cloud, "dogs")
    assert url == "https://runtime.sagemaker.eu-west-1.amazonaws.com/endpoints/dogbreed-dogs/invocations"
    assert "/eu-west-1/sagemaker/aws4_request" in sign("POST", url, b"x", {})["Authorization"]


# --- its file ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Cannot read service times"),
        ("[]", "has no service times"),
        ("{}", "has no service_ms"),
        ('{"benchmarks": {"input": {}}}', "has no serve"),
        ('{"service_ms": 7}', "is not a list"),
        ('{"service_ms": ["x"]}', "Cannot read"),
        ('{"service_ms": [null]}', "Cannot read"),
        ("[100, -3]", "not above 0 ms"),
        ("[1e999]", "not above 0 ms"),
    ],
)
def test_files_without_service_times_say_why(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(DogBreedError, match=words):
        service_times(tmp_path / "file.json")


def test_what_may_contain_waiting_is_said_by_the_planner(tmp_path: Path) -> None:
    Measured("u", Load([timed(0.001)] * 50, 5, 0.97), clients=8).save(tmp_path / "file.json")
    times, notes = service_times(tmp_path / "file.json")
    assert len(times) == 50
    assert "of 8 clients, which may contain waiting" in notes[0]
    assert "could not keep its pace" in notes[1]
    (tmp_path / "plain.json").write_text("[90, 110]")
    assert service_times(tmp_path / "plain.json") == ([0.09, 0.11], ())


def test_the_file_of_the_server_s_benchmark_is_read(tmp_path: Path) -> None:
    samples = {"FastAPI": [{"service_ms": [400]}], "ours": [{"service_ms": [50, 60]}, {"service_ms": [70]}]}
    (tmp_path / "file.json").write_text(json.dumps({"benchmarks": {"serve": {"samples": samples}}}))
    times, notes = service_times(tmp_path / "file.json")
    assert times == [0.05, 0.06, 0.07]
    assert "3 measured, median 60 ms; the benchmark of the server, one client" in notes[0]
