"""The signing proxy: what comes is passed on with a signature, and only what comes from this machine's own address."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from launchers.cli import opening, verbs
from launchers.deploy import signing
from launchers.deploy.signing import LARGEST, SigningProxy
from launchers.status import Handle, LaunchError
from tests.support.answers import SCHEMAS, problems


class Function(BaseHTTPRequestHandler):
    """A function URL of a few lines: it answers with what it got."""

    seen: list[tuple[str, str, bytes, dict[str, str]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, body, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(418)
        self.send_header("Retry-After", "1")
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        if self.path != "/unknown-length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def signed(method: str, url: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "Authorization": f"signed {method} {url} {len(body)}"}


@pytest.fixture
def proxy() -> Iterator[SigningProxy]:
    Function.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Function) as function:
        found = SigningProxy(f"http://127.0.0.1:{function.server_address[1]}/", signed)
        threads = [threading.Thread(target=each) for each in (function.serve_forever, found.serve)]
        for thread in threads:
            thread.start()
        yield found
        found.close()
        function.shutdown()
        for thread in threads:
            thread.join()


def ask(
    proxy: SigningProxy, method: str = "POST", path: str = "/", body: bytes = b"", **headers: str
) -> tuple[int, list[tuple[str, str]], bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=120)) as connection:
        connection.request(method, path, body or None, named)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()


def test_a_request_is_passed_on_signed_and_so_is_the_answer(proxy: SigningProxy) -> None:
    body = bytes(range(256)) * 4096
    status, headers, answer = ask(proxy, path="/a%20b?x=1", body=body, Content_Type="image/jpeg", Cookie="me=1")
    assert (status, answer) == (418, body)
    assert [value for name, value in headers if name == "Set-Cookie"] == ["a=1", "b=2"]
    ((method, path, came, sent),) = Function.seen
    assert (method, path, came) == ("POST", "/a%20b?x=1", body)
    assert sent["authorization"] == f"signed POST {proxy.url}a%20b?x=1 {len(body)}"
    assert (sent["content-type"], sent["cookie"]) == ("image/jpeg", "me=1")
    assert sent["host"] == proxy.url.split("/")[2]


def test_an_answer_of_unknown_length_is_passed_on_as_it_comes(proxy: SigningProxy) -> None:
    assert ask(proxy, path="/unknown-length", body=b"dog" * 100_000)[2] == b"dog" * 100_000


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "dogs.example"},  # a name that resolves to this machine
        {"Origin": "https://dogs.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_other_web_pages_get_nothing(proxy: SigningProxy, headers: dict[str, str]) -> None:
    assert ask(proxy, body=b"x", **headers)[0] == 403
    assert Function.seen == []


def test_its_own_page_may_ask(proxy: SigningProxy) -> None:
    origin = proxy.address.rstrip("/")
    assert ask(proxy, body=b"x", Origin=origin, Sec_Fetch_Site="same-origin")[0] == 418


def test_what_is_too_large_or_cannot_be_reached_is_said(proxy: SigningProxy) -> None:
    status, _, said = ask(proxy, Content_Length=str(LARGEST + 1))
    assert status == 413
    assert b"6,291,456" in said
    proxy.url = "http://127.0.0.1:1/"
    status, _, said = ask(proxy)
    assert status == 502
    assert b"cannot be reached" in said


def test_a_port_that_is_taken_is_said(proxy: SigningProxy) -> None:
    with pytest.raises(LaunchError, match="--port 0"):
        SigningProxy(proxy.url, signed, proxy.port)


def test_signatures_are_those_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    client = boto3.client("lambda", "eu-west-1", aws_access_key_id="A" * 20, aws_secret_access_key="s" * 40)

    class Cloud:
        def client(self, service: str) -> Any:
            assert service == "lambda"
            return client

    sign = signing.signer(Cloud())  # type: ignore[arg-type]
    headers = sign("POST", "https://x.lambda-url.eu-west-1.on.aws/a%20b?q=1", b"photo", {"Content-Type": "image/jpeg"})
    assert headers["Authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={'A' * 20}/")
    assert "/eu-west-1/lambda/aws4_request, SignedHeaders=content-type;host;x-amz-date" in headers["Authorization"]


def test_the_examples_of_the_command_s_help(
    proxy: SigningProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle, answered = Handle("deploy", "rehearsal", "dogs"), []
    launcher = SimpleNamespace(url=lambda _: proxy.url, cloud=None)
    monkeypatch.setattr(opening.named, "deployment", lambda text, args: (launcher, handle))
    monkeypatch.setattr(signing, "signer", lambda cloud: signed)
    serve = SigningProxy.serve

    def served(self: SigningProxy) -> None:
        """Answer one request, until Ctrl-C."""
        thread = threading.Thread(target=serve, args=(self,))
        thread.start()
        answered.append(ask(self, body=b"photo"))
        self.close()
        thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(SigningProxy, "serve", served)
    command, curl = re.findall(r"^  (\S.*)$", opening.EPILOG, re.MULTILINE)
    words = [*command.split()[3:], "--port", "0"]
    assert verbs.main(words) == 0
    assert re.fullmatch(r"dogs answers at http://127.0.0.1:\d+/ until Ctrl-C; .*\n\n", capsys.readouterr().out)
    assert verbs.main([*words, "--json"]) == 0
    assert problems(json.loads(capsys.readouterr().out), SCHEMAS["open"]) == []
    assert [(status, body) for status, _, body in answered] == [(418, b"photo")] * 2
    assert curl == f"curl --data-binary @PHOTO.jpg http://127.0.0.1:{opening.PORT}/"
