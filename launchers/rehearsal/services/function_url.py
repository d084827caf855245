"""Function URLs: each is an HTTP server on a port of loopback, which checks who calls as AWS does.

Source: "Invoking Lambda function URLs" and "Control access to Lambda function URLs" in the Lambda developer guide.
"""

import base64
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from werkzeug.serving import WSGIRequestHandler, make_server

from launchers.aws.access import Decision, decide
from launchers.aws.actions import Need
from launchers.rehearsal.access import allowed
from launchers.rehearsal.names import ACCOUNT
from launchers.rehearsal.principals import Principal, Signature, caller_of, check_signature
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.function_environment import Outcome
from launchers.rehearsal.services.function_record import FunctionRecord, Url
from launchers.rehearsal.services.function_runtime import LARGEST

# below those that systems give to whoever asks for any: nobody takes it during a restart; and above those of jobs on
# several machines
_PORTS = 30_000, 32_768
_TEXTS = ("text/", "application/json", "application/javascript", "application/xml", "application/vnd.api+json")
_NOT_PASSED_ON = ("authorization", "x-amz-security-token")
_PAGE = "https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html"
_Reply = tuple[int, dict[str, str], list[str], bytes]  # status, headers, cookies, body
Invoke = Callable[[FunctionRecord, str, bytes], Outcome]


class UrlServer:
    """Serves one function URL. key: of the account's administrator."""

    def __init__(self, record: FunctionRecord, qualifier: str, key: str, invoke: Invoke) -> None:
        self.record, self.qualifier, self.key, self.invoke = record, qualifier, key, invoke
        self.url: Url = record.urls[qualifier]
        try:
            port = self.url.port or random.randrange(*_PORTS)
            self._http = make_server("127.0.0.1", port, self, threaded=True, request_handler=_Handler)
        except (OSError, SystemExit):  # another program has the port by now
            self._http = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Handler)
        self.url.port = self._http.port
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True, name="function url").start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, headers, cookies, body = self._answer(environ)
        length = [("Content-Length", str(len(body)))] if status not in (204, 304) else []
        sent = [(name, value) for name, value in headers.items() if name.lower() != "content-length"]
        start_response(f"{status} {_phrase(status)}", [*sent, *length, *(("Set-Cookie", each) for each in cookies)])
        return [body] if length and environ["REQUEST_METHOD"] != "HEAD" else []

    def _answer(self, environ: dict[str, Any]) -> _Reply:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(size) if environ.get("HTTP_TRANSFER_ENCODING") is None else _rest(environ)
        try:
            caller = self._authorized(environ, body)
            event = self._event(environ, body, caller)
            payload = json.dumps(event, ensure_ascii=False).encode()
            if len(payload) > LARGEST:
                raise Refused("RequestTooLargeException", "Request Entity Too Large", 413)
            return _of_outcome(self.invoke(self.record, self.qualifier, payload))
        except Refused as refusal:
            return _refusal(refusal)

    def _authorized(self, environ: Mapping[str, Any], body: bytes) -> Principal | None:
        """Return who calls; None for anybody, where the URL does not ask. Raises Refused."""
        context = {"lambda:FunctionUrlAuthType": [self.url.auth], "lambda:InvokedViaFunctionUrl": ["true"]}
        arn = self.record.arn(self.qualifier)
        policy = {"Statement": self.record.policies.get(self.qualifier, [])}
        principal, who = None, {"AWS": ["*"]}
        if self.url.auth == "AWS_IAM":
            signature = Signature.of(environ)
            if signature is None or signature.service != "lambda":
                raise _forbidden()
            try:
                principal = caller_of(signature, self.key)
                check_signature(environ, body, signature, principal)
            except Refused:
                raise _forbidden() from None
            who = {"AWS": [principal.arn, ACCOUNT]}
        for action in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"):
            decisions = {decide([policy], action, arn, context, who)}
            if principal is not None:
                decisions.add(allowed(principal, Need(action, arn, context)))
            if Decision.EXPLICIT_DENY in decisions or Decision.ALLOWED not in decisions:
                raise _forbidden()
        return principal

    def _event(self, environ: Mapping[str, Any], body: bytes, caller: Principal | None) -> dict[str, Any]:
        """Return the request as a function gets it: payload format 2.0."""
        path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace") or "/"
        raw_path, _, query = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or path).partition("?")
        headers = _headers(environ)
        now, host = datetime.now(UTC), environ["HTTP_HOST"]
        parameters: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
        cookies = headers.pop("cookie", "")
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": raw_path or "/",
            "rawQueryString": query,
            "headers": headers,
            "requestContext": {
                "accountId": ACCOUNT if caller else "anonymous",
                "apiId": self.url.id,
                "domainName": host,
                "domainPrefix": self.url.id,
                "http": {
                    "method": environ["REQUEST_METHOD"],
                    "path": path,
                    "protocol": environ["SERVER_PROTOCOL"],
                    "sourceIp": environ["REMOTE_ADDR"],
                    "userAgent": headers.get("user-agent", ""),
                },
                "requestId": _id(),
                "routeKey": "$default",
                "stage": "$default",
                "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
                "timeEpoch": int(1e3 * time.time()),
                **({"authorizer": {"iam": _iam(environ, caller)}} if caller else {}),
            },
            "isBase64Encoded": False,
        }
        if cookies:
            event["cookies"] = [each.strip() for each in cookies.split(";")]
        if parameters:
            event["queryStringParameters"] = parameters
        if body:
            binary = _is_binary(headers)
            event["isBase64Encoded"] = binary
            event["body"] = base64.b64encode(body).decode() if binary else body.decode(errors="replace")
        return event


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Drop the message."""


def _rest(environ: Mapping[str, Any]) -> bytes:
    """Return a body that is sent in chunks, without the part that is too much anyway."""
    return bytes(environ["wsgi.input"].read(2 * LARGEST))


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    found = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    kept = {name: value for name, value in found.items() if name not in _NOT_PASSED_ON}
    return {**kept, "x-forwarded-for": environ["REMOTE_ADDR"], "x-forwarded-proto": "https", "x-forwarded-port": "443"}


def _is_binary(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "").lower()
    return "content-encoding" in headers or not kind.startswith(_TEXTS)


def _iam(environ: Mapping[str, Any], caller: Principal) -> dict[str, Any]:
    signature = Signature.of(environ)
    return {
        "accessKey": signature.key if signature else "",
        "accountId": ACCOUNT,
        "callerId": caller.arn.rpartition("/")[2],
        "cognitoIdentity": None,
        "principalOrgId": None,
        "userArn": caller.arn,
        "userId": caller.arn.rpartition("/")[2],
    }


def _of_outcome(outcome: Outcome) -> _Reply:
    """Return the HTTP response that a function's answer stands for."""
    headers = {"Content-Type": "application/json", "x-amzn-RequestId": outcome.request_id}
    broken: _Reply = 502, headers, [], b'{"Message":"Internal Server Error"}'
    if outcome.error:
        return broken
    found = json.loads(outcome.payload or b"null")
    if not (isinstance(found, dict) and "statusCode" in found):
        text = found if isinstance(found, str) else outcome.payload.decode()
        return 200, headers, [], text.encode()
    body = found.get("body") or ""
    if not isinstance(body, str):
        return broken
    content = body.encode()
    if found.get("isBase64Encoded"):
        with suppress(ValueError):
            content = base64.b64decode(body)
    given = {str(name): _text(value) for name, value in (found.get("headers") or {}).items()}
    if any(name.lower() == "content-type" for name in given):
        del headers["Content-Type"]
    return int(found["statusCode"]), {**headers, **given}, list(found.get("cookies") or ()), content


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _refusal(refusal: Refused) -> _Reply:
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": refusal.code, "x-amzn-RequestId": _id()}
    reason = {key: str(value) for key, value in refusal.details.items()}
    name = "Message" if refusal.status in (403, 502) else "message"
    status = 502 if refusal.code in ("ResourceConflictException", "ResourceNotFoundException") else refusal.status
    return status, headers, [], json.dumps({**reason, name: refusal.text}).encode()


def _forbidden() -> Refused:
    text = f"Forbidden. For troubleshooting Function URL authorization issues, see: {_PAGE}"
    return Refused("AccessDeniedException", text, 403)


def _phrase(status: int) -> str:
    with suppress(ValueError):
        return HTTPStatus(status).phrase
    return "Unknown"


def _id() -> str:
    return str(uuid.uuid4())
