"""What stands before moto's server: it refuses what AWS would refuse, lets go wrong what is to go wrong, and answers
what moto only records.
"""

import io
import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import botocore.session
from botocore.exceptions import UnknownServiceError
from moto.core.parse import QueryParser
from moto.core.utils import get_service_model
from werkzeug.datastructures import MultiDict

from launchers.rehearsal.faults import Faults
from launchers.rehearsal.names import ACCOUNT, FAULTS_HEADER, SESSION_HEADER
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.training import TrainingJobs
from launchers.rehearsal.validation import findings

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_SCOPE = re.compile(r"Credential=(?P<key>[^/]+)/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
_NAMES = {"servicequotas": "service-quotas", "monitoring": "cloudwatch", "tagging": "resourcegroupstaggingapi"}


@dataclass(frozen=True)
class Call:
    """A request that has been understood as far as anyone needs it. service: as it is signed; operation: null where the
    address and method say what it is, as for S3. style: of the answer.
    """

    service: str
    operation: str | None
    body: bytes
    style: str  # json | xml


class Gateway:
    """key: the access key that requests must be signed with. Jobs are commands that run as whoever started the server:
    neither another user of the machine nor a page in a browser may send any.
    """

    def __init__(self, moto: App, jobs: TrainingJobs, store: ObjectStore, key: str) -> None:
        self.moto, self.jobs, self.store, self.key = moto, jobs, store, key
        self.last_request = time.monotonic()
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, str]] = Counter()  # (session, kind of faults) -> how often

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        if scope is None or not secrets.compare_digest(scope["key"], self.key):
            text = "The AWS Access Key Id you provided does not exist in our records."
            return _refuse(start_response, Call("", None, b"", "xml"), Refused("InvalidAccessKeyId", text, 403))
        self.last_request = time.monotonic()
        call = _understood(environ, scope["service"])
        faults = Faults.from_header(environ.get(_wsgi(FAULTS_HEADER)))
        session = environ.get(_wsgi(SESSION_HEADER), "")
        try:
            self._faults(call, faults, session)
            parameters = _validated(call)
            if call.service == "sagemaker" and call.operation in self.jobs.operations:
                own = self.jobs.operations[call.operation](parameters, faults=self._of_job(call, faults, session))
                if own is not None:
                    return _json(start_response, 200, own)
        except Refused as refusal:
            return _refuse(start_response, call, refusal)
        owner = environ.get("HTTP_X_AMZ_EXPECTED_BUCKET_OWNER", ACCOUNT)
        if call.service == "s3" and owner != ACCOUNT:  # moto does not look at it
            return _refuse(start_response, call, Refused("AccessDenied", "Access Denied", 403))
        answer = self.moto(environ, start_response)
        if call.service == "s3" and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            answer = list(answer)  # moto has done it by then
            path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")  # as WSGI hands over UTF-8
            bucket, _, key = path.lstrip("/").partition("/")
            if bucket:
                self.store.follow(bucket, key or None)
        return answer

    def _faults(self, call: Call, faults: Faults, session: str) -> None:
        """Raises Refused for what is to go wrong with this request."""
        if faults.expires_after is not None and self._count(session, "expires") > faults.expires_after:
            code = "ExpiredToken" if call.style == "xml" else "ExpiredTokenException"
            raise Refused(code, "The security token included in the request is expired", 400)
        if call.service == "s3":
            time.sleep(faults.s3_delay_s)
            if faults.s3_failures and self._count(session, "s3") <= faults.s3_failures:
                raise Refused("SlowDown", "Please reduce your request rate.", 503)
        elif faults.throttled and self._count(session, "throttled") <= faults.throttled:
            raise Refused("ThrottlingException", "Rate exceeded", 400)

    def _of_job(self, call: Call, faults: Faults, session: str) -> Faults:
        """The same, with its count of jobs without a machine used up as jobs are made."""
        if call.operation != "CreateTrainingJob" or not faults.no_capacity:
            return faults
        left = int(self._count(session, "capacity") <= faults.no_capacity)
        return Faults(**{**faults.__dict__, "no_capacity": left})

    def _count(self, session: str, kind: str) -> int:
        with self._lock:
            self._seen[session, kind] += 1
            return self._seen[session, kind]


def _wsgi(header: str) -> str:
    return f"HTTP_{header.upper().replace('-', '_')}"


def _understood(environ: Environ, service: str) -> Call:
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if service == "s3":
        return Call(service, None, b"", "xml")  # its bodies may be large: they are moto's
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    if target:
        return Call(service, target.rpartition(".")[2], body, "json")
    action = dict(parse_qsl(body.decode(errors="replace"))).get("Action")
    return Call(service, action, body, "xml")


@lru_cache
def _model(service: str) -> Any | None:
    try:
        return botocore.session.get_session().get_service_model(_NAMES.get(service, service))
    except UnknownServiceError:
        return None


def _validated(call: Call) -> dict[str, Any]:
    """The parameters. Raises Refused where AWS's own model of the service does not allow them."""
    if call.operation is None:
        return {}
    model = _model(call.service)
    if model is None or call.operation not in model.operation_names:
        return {}
    operation = model.operation_model(call.operation)
    if operation.input_shape is None:
        return {}
    if call.style == "json":
        try:
            parameters = json.loads(call.body or b"{}")
        except ValueError:
            raise Refused("SerializationException", "The body is no JSON.", 400) from None
    elif model.metadata.get("protocol") == "query":
        values = MultiDict(parse_qsl(call.body.decode(), keep_blank_values=True))
        for_parsing = get_service_model(_NAMES.get(call.service, call.service)).operation_model(call.operation)
        parameters = QueryParser(for_parsing).parse({"values": values, "body": "", "headers": {}, "method": "POST"})  # type: ignore[typeddict-item]
    else:
        return {}
    if found := list(findings(operation.input_shape, parameters)):
        noun = "error" if len(found) == 1 else "errors"
        raise Refused("ValidationException", f"{len(found)} validation {noun} detected: {'; '.join(found)}", 400)
    return dict(parameters)


def _json(start_response: StartResponse, status: int, answer: Mapping[str, Any]) -> Iterable[bytes]:
    return _reply(start_response, status, "application/x-amz-json-1.1", json.dumps(answer).encode(), [])


def _refuse(start_response: StartResponse, call: Call, refusal: Refused) -> Iterable[bytes]:
    if call.style == "json":
        body = json.dumps({"__type": refusal.code, "message": refusal.text}).encode()
        return _reply(start_response, refusal.status, "application/x-amz-json-1.1", body, [])
    error = f"<Error><Code>{refusal.code}</Code><Message>{refusal.text}</Message></Error>"
    if call.service != "s3":
        error = f"<ErrorResponse>{error}</ErrorResponse>"
    # the request's body may not have been read: the connection cannot be used again
    return _reply(start_response, refusal.status, "application/xml", error.encode(), [("Connection", "close")])


def _reply(
    start_response: StartResponse, status: int, kind: str, body: bytes, headers: list[tuple[str, str]]
) -> Iterable[bytes]:
    words = {200: "OK", 400: "Bad Request", 403: "Forbidden", 503: "Service Unavailable"}
    length = [("Content-Type", kind), ("Content-Length", str(len(body))), *headers]
    start_response(f"{status} {words.get(status, 'Error')}", length)
    return [body]
