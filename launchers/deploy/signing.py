"""A server on loopback that signs each request for a function URL, for programs that cannot: browsers and curl.

Whoever reaches it acts with your permissions. So it listens on loopback alone, takes requests that name this address
(a web page elsewhere cannot, whatever its name resolves to), and none that a page of another address sends.
"""

import http.client
import logging
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from dogbreed.load import Sign
from launchers.base import Cloud
from launchers.deploy.names import Names
from launchers.status import Cause, LaunchError

log = logging.getLogger("dogbreed")

LARGEST = 6 * 1024 * 1024  # bytes of a request, Lambda's own limit
_TIMEOUT_S = 120.0
_CHUNK = 65_536
_HOP_BY_HOP = {  # https://www.rfc-editor.org/rfc/rfc9110.html#section-7.6.1
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade",
}  # fmt: skip
_NOT_SENT = {*_HOP_BY_HOP, "host", "content-length", "expect", "authorization", "origin", "referer"}


def signer(cloud: Cloud, service: str = "lambda") -> Sign:
    """Return what signs requests for function URLs with the cloud's credentials, which are read for each of them.

    service: as boto3 names it, if they are for another one.
    """
    client = cloud.client(service)
    region, credentials = client.meta.region_name, client._get_credentials()  # of any kind, refreshed as they expire
    name = client.meta.service_model.signing_name

    def sign(method: str, url: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method, url, headers, body)
        SigV4Auth(credentials.get_frozen_credentials(), name, region).add_auth(request)
        return dict(request.headers.items())

    return sign


def of_endpoint(cloud: Cloud, name: str) -> tuple[str, Sign]:
    """Return the address at which SageMaker takes pictures for a deployment with POST, and what signs them."""
    service = "sagemaker-runtime"
    address = f"{cloud.client(service).meta.endpoint_url}/endpoints/{Names(name).endpoint}/invocations"
    return address, signer(cloud, service)


class SigningProxy:
    """Passes requests on to `url`, signed. port: of loopback; 0 for any. Raises LaunchError for one that is taken."""

    def __init__(self, url: str, sign: Sign, port: int = 0) -> None:
        self.url, self.sign = url, sign
        try:
            self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"proxy": self}))
        except OSError as error:
            raise LaunchError(
                f"Port {port} cannot be listened on: {error.strerror}.\nTry: --port 0, which takes a free one",
                Cause.BAD_CONFIG,
            ) from error
        self._http.daemon_threads = True

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def serve(self) -> None:
        """Answer requests until `close` is called from another thread, or an exception such as Ctrl-C ends it."""
        with closing(self._http.socket):
            self._http.serve_forever(0.1)

    def close(self) -> None:
        self._http.shutdown()


class _Handler(BaseHTTPRequestHandler):
    proxy: SigningProxy
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        if not self._is_ours():
            self._say(403, "This address passes on what is sent to it directly, and from no other web page.")
            return
        body = self._body()
        if body is None:
            self.close_connection = True
            self._say(413, f"A function takes at most {LARGEST:,} bytes.")
            return
        to = urlsplit(self.proxy.url)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_SENT}
        kind = http.client.HTTPSConnection if to.scheme == "https" else http.client.HTTPConnection
        try:
            signed = self.proxy.sign(self.command, f"{to.scheme}://{to.netloc}{self.path}", body, headers)
            with closing(kind(to.netloc, timeout=_TIMEOUT_S)) as connection:
                connection.request(self.command, self.path, body or None, signed)
                self._answer(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            log.debug("passing on a request failed", exc_info=True)
            self._say(502, f"{to.netloc} cannot be reached: {error}")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _pass_on  # noqa: N815

    def _is_ours(self) -> bool:
        """Return whether a request names this address, and is not from a web page of another one."""
        here = {f"{host}:{self.proxy.port}" for host in ("127.0.0.1", "localhost")}
        origin = self.headers.get("Origin")
        return (
            self.headers.get("Host", "").lower() in here
            and (origin is None or origin.lower().removeprefix("http://") in here)
            and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        )

    def _body(self) -> bytes | None:
        """Return the request's body; None if it is too large, or has no length."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit() or int(length) > LARGEST:
            return None
        return self.rfile.read(int(length))

    def _answer(self, response: http.client.HTTPResponse) -> None:
        """Send the answer on as it comes."""
        self.send_response_only(response.status, response.reason)
        length = response.getheader("Content-Length")
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if length is None and self.command != "HEAD":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while self.command != "HEAD" and (part := response.read(_CHUNK)):
            self.wfile.write(part)

    def _say(self, status: int, text: str) -> None:
        content = f"{text}\n".encode()
        with suppress(OSError):  # it has gone, or the answer had begun
            self.send_response_only(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Drop the message."""
