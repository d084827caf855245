"""How a server is set up, and behind what: options, environment variables, addresses, proxies, ids, log and OpenAPI."""

import asyncio
import base64
import http.client
import json
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from openapi_spec_validator import validate

from dogbreed import __version__
from dogbreed.serving import settings
from dogbreed.serving.app import Application
from dogbreed.serving.limits import Limits
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.problems import PROBLEMS
from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.serving import WAIT_S, Reply, Served, metric, serving, tiny_model

PNG = saved(upright(), "PNG")
ROOT = "/dogs/v1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model.tar.gz")


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Everything that may be set by the environment is."""
    environ = {"DOGBREED_ROOT_PATH": ROOT + "/", "DOGBREED_MAX_PICTURES": "2", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "1"}
    with serving(model, tmp_path_factory.mktemp("served"), environ=environ) as running:
        yield running


# options and variables


@pytest.mark.parametrize("limit", fields(Limits), ids=lambda limit: limit.name)
def test_every_limit_is_an_option_and_a_variable(limit: Any) -> None:
    option = limit.metadata["option"]
    variable = "DOGBREED_" + option.removeprefix("--").replace("-", "_").upper()

    def value(arguments: list[str], environ: dict[str, str]) -> Any:
        return getattr(settings.read(["m", *arguments], environ).limits, limit.name)

    less = str(limit.default - 1)  # the limit of one body may not be above that of all
    assert value([], {}) == limit.default
    assert value([], {variable: less}) == value([option, less], {}) == limit.default - 1
    assert value([option, less], {variable: "3"}) == limit.default - 1
    assert value([], {variable: ""}) == limit.default


@pytest.mark.parametrize(
    ("environ", "name", "value"),
    [
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "20"}, "body_bytes", 20 * 2**20),
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}, "body_bytes", 256 * 2**20),  # batch transform: any size
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "20", "DOGBREED_MAX_BODY_BYTES": "500"}, "body_bytes", 500),
        ({"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "100"}, "waiting", 100),
        ({"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "1"}, "waiting", 32),
        ({"SAGEMAKER_MODEL_SERVER_TIMEOUT": "55"}, "deadline_s", 55.0),
    ],
)
def test_sagemakers_own_names_are_known(environ: Mapping[str, str], name: str, value: float) -> None:
    assert getattr(settings.read(["m"], environ).limits, name) == value


def test_address_and_precision_are_variables_too() -> None:
    environ = {"DOGBREED_HOST": "::", "SAGEMAKER_BIND_TO_PORT": "9090", "DOGBREED_MAX_ACCURACY_LOSS": "-1"}
    found = settings.read(["m"], environ, host="0.0.0.0")
    assert (found.host, found.port, found.max_accuracy_loss, found.root_path) == ("::", 9090, -1, "")
    assert settings.read(["m", "--root-path", "/a/b/"], {}).root_path == "/a/b"
    assert settings.read(["m", "--root-path", "/"], {}).root_path == ""


USELESS = [
    "--port 99999",
    "--port -1",
    "--port x",
    "--port ²",
    "--max-waiting 0",
    "--max-waiting 1.5",
    "--max-connections -3",
    "--max-pictures 0",
    "--deadline-s -1",
    "--deadline-s 0",
    "--deadline-s nan",
    "--deadline-s inf",
    "--deadline-s soon",
    "--body-window-s 0",
    "--idle-s -inf",
    "--drain-s 1e9",
    "--max-body-bytes 0",
    "--max-body-bytes 99999999999999999999999",
    "--max-body-bytes 300000000",
    "--max-buffered-bytes 1000",
    "--max-accuracy-loss nan",
    "--max-accuracy-loss 2",
    "--root-path dogs",
    "--root-path //evil.example",
    "--root-path /a?b",
    "--root-path /<script>",
]


@pytest.mark.parametrize("words", USELESS)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_what_cannot_work_is_refused_in_words(by: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    option, value = words.split()
    variable = "DOGBREED_" + option.removeprefix("--").replace("-", "_").upper()
    arguments, environ = (["m", f"{option}={value}"], {}) if by == "option" else (["m"], {variable: value})
    with pytest.raises(SystemExit) as refused:
        settings.read(arguments, environ)
    assert refused.value.code == 2
    said = capsys.readouterr().err.partition("error: ")[2]
    assert (option if by == "option" else variable) in said or option in said
    assert "invalid" not in said


def test_the_command_ends_before_it_loads_a_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dogbreed.serving", str(tmp_path), "--deadline-s", "nan"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 2
    assert "'nan' is not a number of seconds" in done.stderr


def test_help_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        settings.read(["--help"], {})
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert all(limit.metadata["option"] in said for limit in fields(Limits))


def test_what_is_set_is_what_counts(served: Served) -> None:
    assert served.ask("GET", "/health").json["max_body_bytes"] == 2**20
    assert served.classify(PNG + bytes(2**20 - len(PNG))).status == 200
    assert served.classify(PNG + bytes(2**20)).json["code"] == "body_too_large"
    assert served.invoke({"images": ["", "", ""]}).json["code"] == "too_many_pictures"


# addresses


def reachable(host: str, port: int) -> bool:
    with closing(http.client.HTTPConnection(host, port, timeout=WAIT_S)) as connection:
        connection.request("GET", "/ping")
        return connection.getresponse().status in (200, 503)


@pytest.mark.parametrize("host", ["::", "localhost"])
def test_both_families_of_addresses_are_served_on_one_port(host: str, model: Path, tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with serving(model, tmp_path, "--host", host, ready=False) as running:
        assert reachable("127.0.0.1", running.port)
        assert host == "localhost" or reachable("::1", running.port)


def test_an_address_that_cannot_be_had_ends_the_server_with_words(model: Path) -> None:
    command = [sys.executable, "-m", "dogbreed.serving", str(model), "--host", "no.such.host.invalid"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 3
    assert "Cannot listen on no.such.host.invalid port 8080: " in done.stderr
    assert "Traceback" not in done.stderr


# behind a proxy


@pytest.mark.parametrize("prefix", ["", ROOT])
def test_a_root_path_is_known_whether_the_proxy_takes_it_off_or_not(prefix: str, served: Served) -> None:
    for path in ("/ping", "/health", "/", "/page.css", "/page.js", "/docs", "/openapi.json"):
        assert served.ask("GET", prefix + path).status == 200, path
    for path in ("/invocations", "/invocations/"):
        assert served.ask("POST", prefix + path, PNG, content_type="image/png").status == 200
    problem = served.ask("GET", prefix + "/nothing").json
    assert problem["type"] == f"{ROOT}/docs#not_found"
    assert f"POST {ROOT}/invocations" in problem["detail"]
    assert served.ask("GET", prefix + "/docs/").headers["location"] == "../docs"
    assert served.ask("GET", prefix + "/openapi.json").json["servers"] == [{"url": ROOT}]


def test_a_root_path_without_its_slash_leads_to_the_page(served: Served) -> None:
    moved = served.ask("GET", ROOT, host="elsewhere.example")
    assert (moved.status, moved.headers["location"]) == (308, "v1/")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_name_other_files_by_relative_addresses(path: str, served: Served) -> None:
    page = served.ask("GET", path).body.decode()
    linked = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert len(linked) > 3
    assert not [address for address in linked if address.startswith("/") or ":" in address]
    script = served.ask("GET", "/page.js").body.decode()
    assert not re.findall(r'["`\']/(?:invocations|health)', script)


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({"host": "dogs.example"}, f"http://dogs.example{ROOT}/invocations"),
        ({"host": "[::1]:8080"}, f"http://[::1]:8080{ROOT}/invocations"),
        ({"host": "dogs.example", "x_forwarded_proto": "https"}, f"https://dogs.example{ROOT}/invocations"),
        ({"host": "x'><script>alert(1)</script>"}, "http://127.0.0.1:8080/invocations"),
    ],
)
def test_the_docs_show_the_address_that_was_asked(headers: Mapping[str, str], shown: str, served: Served) -> None:
    page = served.ask("GET", "/docs", **headers).body.decode()
    assert f"curl -F file=@photo.jpg {shown}<" in page
    assert "alert(1)" not in page


# ids and the log


@pytest.mark.parametrize("given", ["4f2a", "Root=1-67891233-abcdef012345678912345678", "a" * 128])
def test_a_requests_id_comes_back_and_is_in_the_log(given: str, served: Served) -> None:
    for reply in (
        served.ask("GET", "/health", x_request_id=given),
        served.classify(PNG, x_request_id=given),
        served.classify(b"no", x_request_id=given),
        served.ask("GET", "/nothing", x_request_id=given),
    ):
        assert reply.headers["x-request-id"] == given
    until(lambda: served.log.read_text().count(f"id={given}\n") == 3)  # not that of who watches it


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "x\tid=1", "é"])
def test_an_id_that_no_log_should_hold_is_replaced(given: str, served: Served) -> None:
    found = served.ask("GET", "/health", x_request_id=given.encode().decode("latin-1")).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert found != served.ask("GET", "/health").headers["x-request-id"]


def test_the_log_says_what_happened_and_nothing_of_what_was_sent(served: Served) -> None:
    served.ask("GET", "/ping")  # when it is answered, the lines of earlier requests are there
    before = served.log.stat().st_size

    def lines() -> list[str]:
        return served.log.read_text()[before:].splitlines()

    served.classify(PNG, "?top=3&secret=query")
    served.ask("GET", "/ping")  # who asks every few seconds whether all is well is not worth a line
    served.invoke({"image": "c2VjcmV0", "secret": "field"})
    served.ask("GET", "/no%E2%80%A8thing%0Aforged")
    until(lambda: len(lines()) >= 3)
    first, second, third = lines()
    expected = rf"127\.0\.0\.1 POST '/dogs/v1/invocations' 200 received={len(PNG)} sent=\d+ ms=[\d.]+ id=\w{{32}}"
    assert re.fullmatch(expected, first)
    assert " 422 bad_request_fields received=" in second
    assert " GET '/dogs/v1/no\\u2028thing\\nforged' 404 not_found received=0" in third
    assert not re.search(r"secret|c2Vj|top=3", first + second + third)


def call(app: Any, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """One request to an ASGI application, without a server."""
    sent: list[Any] = []
    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"", "headers": [(b"host", b"x")],
        "scheme": "http", "server": ("x", 80), "client": ("127.0.0.1", 1), "state": {"no_room": False},
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent)


def test_an_error_of_ours_is_in_the_log_and_not_in_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def handle(self, request: Any) -> None:
            raise ValueError("the password is 1234")

    application = Application(Metrics(), Limits())
    application.service = Broken()  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR):
        status, headers, body = call(application.asgi(), "POST", "/invocations", PNG)
    problem = json.loads(body)
    assert (status, problem["code"]) == (500, "internal")
    assert headers["x-request-id"] in problem["detail"]
    assert b"password" not in body
    assert headers["x-request-id"] in caplog.text
    assert "the password is 1234" in caplog.text
    assert b'dogbreed_requests_total{code="internal"} 1.0' in application.metrics.text()
    assert b'dogbreed_request_seconds_count{status="500"} 1.0' in application.metrics.text()


# OpenAPI


@pytest.fixture(scope="module")
def document(served: Served) -> Any:
    return served.ask("GET", "/openapi.json").json


def test_the_interface_is_described_in_openapi(document: Any) -> None:
    validate(document)
    assert document["info"]["version"] == __version__
    images = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert images[1]["properties"]["images"]["maxItems"] == 2
    assert "1,048,576 bytes and 2 pictures" in document["paths"]["/invocations"]["post"]["description"]
    assert Application(Metrics(), Limits())._document["servers"] == [{"url": "."}]


def agrees(document: Any, method: str, path: str, reply: Reply) -> None:
    """Whether an answer is one that the document announces for its address: status, type, headers and content."""
    described = document["paths"][path][method.lower()]["responses"][str(reply.status)]
    assert {name.lower() for name in described["headers"]} <= reply.headers.keys()
    if "content" not in described:
        assert reply.body == b""
        return
    ((kind, content),) = described["content"].items()
    assert reply.headers["content-type"].partition(";")[0] == kind
    if kind.endswith("json"):
        schema = {**content["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(reply.json)


def test_everything_that_is_described_is_answered_so(document: Any, served: Served) -> None:
    for path, methods in document["paths"].items():
        for method in methods:
            if method == "get":
                agrees(document, method, path, served.ask("GET", path))


def test_every_way_to_ask_is_described_and_works(document: Any, served: Served) -> None:
    body = document["paths"]["/invocations"]["post"]["requestBody"]["content"]
    assert set(body) == {"image/*", "application/x-image", "application/octet-stream", "multipart/form-data",
                         "application/json"}  # fmt: skip
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + PNG + b"\r\n--x--\r\n"
    for kind in body:
        if kind == "application/json":
            continue
        sent = (form, f"{kind}; boundary=x") if kind.startswith("multipart") else (PNG, kind.replace("*", "png"))
        for query in ("", "?top=1", "?top=133&heat_map=true"):
            for accept in ("*/*", "application/json;verbose=false"):
                reply = served.classify(sent[0], query, content_type=sent[1], accept=accept)
                assert reply.status == 200
                agrees(document, "post", "/invocations", reply)
    text = base64.b64encode(PNG).decode()
    for value in ({"image": text}, {"images": [text, text], "top": 2, "heat_map": True}):
        jsonschema.Draft202012Validator(body["application/json"]["schema"]).validate(value)
        for accept in ("*/*", "application/json;verbose=false"):
            agrees(document, "post", "/invocations", served.invoke(value, accept=accept))


def test_every_refusal_is_described(document: Any, served: Served) -> None:
    text, form = "application/json", "multipart/form-data"
    bad = [
        (b"", "image/png"), (b"x", "image/png"), (PNG[:99], "image/png"), (PNG, "text/html"), (b"x", form),
        (b"{", text), (b'{"image": "%"}', text), (b"{}", text), (b'{"images": ["aaaa", "bbbb"]}', text),
        (bytes(2**21), "image/png"), (saved(np.zeros((4000, 4000), np.uint8), "PNG"), "image/png"),
    ]  # fmt: skip
    seen = set()
    for content, kind in bad:
        reply = served.classify(content, content_type=kind)
        agrees(document, "post", "/invocations", reply)
        seen.add(reply.json["code"])
    seen.add((reply := served.classify(PNG, "?top=0")).json["code"])
    agrees(document, "post", "/invocations", reply)
    assert len(seen) >= 11
    described = document["paths"]["/invocations"]["post"]["responses"]
    for code, (status, _) in PROBLEMS.items():
        assert status in (404, 405) or f"{code}: " in described[str(status)]["description"]
    assert metric(served, "dogbreed_request_seconds_count", status="413") >= 2
