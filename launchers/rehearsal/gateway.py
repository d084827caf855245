"""The gateway in front of moto's server: it refuses what AWS would refuse, injects the faults that a client configured,
and routes requests to the rehearsal's own services.
"""

import io
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote
from xml.sax.saxutils import escape

from botocore.exceptions import UnknownServiceError
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.serialize import get_serializer_class
from moto.core.utils import get_service_model
from werkzeug.datastructures import MultiDict

from launchers.aws.actions import Need
from launchers.rehearsal import access, rest_calls
from launchers.rehearsal.bucket_settings import App, BucketSettings, is_of_bucket
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.faults import Faults, Session
from launchers.rehearsal.identity_store import IdentityStore
from launchers.rehearsal.names import ACCOUNT, FAULTS_HEADER, IDENTITY_HEADER, SESSION_HEADER, STATE_HEADER
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.principals import Principal, Signature, caller_of, check_signature
from launchers.rehearsal.s3_calls import s3_call
from launchers.rehearsal.service import Answer, Call, Handler, Refused, Service
from launchers.rehearsal.service_models import service_model
from launchers.rehearsal.validation import findings

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_WHOLLY_OWN = ("ec2", "autoscaling")  # what moto would answer is about machines and networks of its own
_INVALID = {"ec2": "InvalidParameterValue", "autoscaling": "ValidationError"}  # signing name -> its code for that
_IAM_NAMES = {"monitoring": "cloudwatch", "tagging": "tag"}  # signing name -> prefix of IAM actions
_NAMES = {"servicequotas": "service-quotas", "monitoring": "cloudwatch", "tagging": "resourcegroupstaggingapi"}


@dataclass(frozen=True)
class _Message:
    """A request as received.

    service: the name it is signed with. operation: None if the URL and method identify it, as for S3. style: the format
    of the response. parameters: those that are in the path or in headers, for the style rest.
    """

    service: str
    operation: str | None
    body: bytes
    style: str  # json | xml | rest
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Kept(Protocol):
    """State of moto that has a copy on disk."""

    def save(self) -> None: ...


class Gateway:
    """A WSGI application.

    key: of the account's administrator; roles and users have keys of their own. Jobs are commands that run as the user
    who started the server, so neither other users of the machine nor web pages may submit any. kept: what of moto's
    state is saved after a change, by signing name of the service. clock: set to the rate that a client asks for.
    """

    def __init__(
        self,
        moto: App,
        services: Sequence[Service],
        store: ObjectStore,
        settings: BucketSettings,
        identities: IdentityStore,
        key: str,
        kept: Mapping[str, Kept] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.moto, self.store, self.settings, self.identities, self.key = moto, store, settings, identities, key
        self.kept: Mapping[str, Kept] = {"iam": identities, **(kept or {})}
        self.clock = clock
        self.last_request = time.monotonic()
        self._handlers: dict[tuple[str, str], list[Handler]] = defaultdict(list)
        for service in services:
            for operation, handler in service.operations.items():
                self._handlers[operation].append(handler)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._conditional = (
            threading.Lock()
        )  # of writes that depend on what is there, which moto checks before it writes

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        message = _Message("", None, b"", "xml")
        try:
            signature = Signature.of(environ)
            if signature is None:
                raise Refused("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
            message = _understood(environ, signature.service)
            principal = caller_of(signature, self.key)
            self.last_request = time.monotonic()
            check_signature(environ, message.body, signature, principal)
            answer = self._own_answer(environ, message, principal)
        except Refused as refusal:
            return _refuse(start_response, message, refusal, self.identities.file.parent)
        if answer is not None:
            return _answered(start_response, message, answer)
        return self._answer_of_moto(environ, start_response, message)

    def _own_answer(self, environ: Environ, message: _Message, principal: Principal) -> Answer | None:
        """Return a service's answer, or None if moto handles the request. Raises Refused."""
        faults = Faults.from_header(environ.get(_wsgi(FAULTS_HEADER)))
        session = self._session(environ.get(_wsgi(SESSION_HEADER), ""))
        if self.clock is not None and faults.clock_rate is not None:
            self.clock.set_rate(faults.clock_rate)
        _cause(faults, session, message)
        call = Call(_validated(message), faults, session, principal.arn)
        self._authorize(environ, message, replace(principal, denied=(*principal.denied, *faults.denied)), call)
        for handler in self._handlers.get((message.service, message.operation or ""), ()):
            if (answer := handler(call)) is not None:
                return answer
        if message.service in _WHOLLY_OWN:
            text = f"The rehearsal cloud has no {message.operation} of {message.service}."
            raise Refused("UnsupportedOperation", text)
        owner = environ.get("HTTP_X_AMZ_EXPECTED_BUCKET_OWNER", ACCOUNT)
        if message.service == "s3" and owner != ACCOUNT:  # moto does not check it
            raise Refused("AccessDenied", "Access Denied", 403)
        return None

    def _authorize(self, environ: Environ, message: _Message, principal: Principal, call: Call) -> None:
        """Raise Refused if the caller may not do this. Tags of a resource are known where it is one of our own."""
        if message.service == "s3":
            operation, parameters = s3_call(environ, message.body)
        else:
            operation, parameters = message.operation or "", dict(call.parameters)
        wanted = access.needs_of(_IAM_NAMES.get(message.service, message.service), operation, parameters)
        if (arn := self._resource(message.service, operation, call)) is not None:
            wanted = [replace(need, resource=arn) if fnmatchcase(arn, need.resource) else need for need in wanted]
        access.authorize(principal, [replace(need, context={**self._tags(need), **need.context}) for need in wanted])
        if (message.service, operation) == ("sts", "AssumeRole"):
            access.check_trust(str(parameters["RoleArn"]), {"AWS": [principal.arn, ACCOUNT]}, {})

    def _resource(self, service: str, operation: str, call: Call) -> str | None:
        """Return the ARN of what a call is about, where its parameters alone do not tell it."""
        for handler in self._handlers.get((service, "ResourceOf"), ()):
            with suppress(Refused):
                found = handler(replace(call, parameters={**call.parameters, "Operation": operation}))
                if found is not None:
                    return str(found["ResourceArn"])
        return None

    def _tags(self, need: Need) -> dict[str, list[str]]:
        """Return the tags of the resource, as condition keys."""
        for handler in self._handlers.get((need.action.partition(":")[0], "ListTags"), ()):
            with suppress(Refused):
                found = handler(Call(dict.fromkeys(("ResourceArn", "Resource"), need.resource), Faults(), Session()))
                if found is not None:
                    tags = found["Tags"]
                    pairs = tags if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags}
                    return {f"aws:ResourceTag/{key}": [value] for key, value in pairs.items()}
        return {}

    def _answer_of_moto(self, environ: Environ, start_response: StartResponse, message: _Message) -> Iterable[bytes]:
        statuses: list[str] = []

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            statuses.append(status)
            return start_response(status, headers, *more)

        with self._conditional if _is_conditional(environ) else nullcontext():
            answer = self.moto(environ, start)
        if message.service == "s3" and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            answer = list(answer)  # moto has done it by then
            if is_of_bucket(environ) and statuses[0].startswith("2"):
                self.settings.follow(environ, message.body)
            path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")  # as WSGI hands over UTF-8
            bucket, _, key = path.lstrip("/").partition("/")
            if bucket:
                self.store.follow(bucket, key or None)
        if message.service in self.kept and not (message.operation or "").startswith(("Get", "List", "Describe")):
            answer = list(answer)
            self.kept[message.service].save()
        return answer

    def _session(self, name: str) -> Session:
        with self._lock:
            return self._sessions.setdefault(name, Session())


def _cause(faults: Faults, session: Session, message: _Message) -> None:
    """Delay a request, or let it fail, as the client configured. Raises Refused."""
    if faults.expires_after is not None and not session.among_first(faults.expires_after, "requests"):
        code = "ExpiredToken" if message.style == "xml" else "ExpiredTokenException"
        raise Refused(code, "The security token included in the request is expired", 400)
    if message.service == "s3":
        time.sleep(faults.s3_delay_s)
        if session.among_first(faults.s3_failures, "requests to S3"):
            raise Refused("SlowDown", "Please reduce your request rate.", 503)
    elif session.among_first(faults.throttled, "requests to other services"):
        raise Refused("ThrottlingException", "Rate exceeded", 400)


def _is_conditional(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "PUT" and ("HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ)


def _wsgi(header: str) -> str:
    return f"HTTP_{header.upper().replace('-', '_')}"


def _understood(environ: Environ, service: str) -> _Message:
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    lists_keys = environ["REQUEST_METHOD"] == "POST" and "delete" in environ.get("QUERY_STRING", "")
    if service == "s3" and not (lists_keys or is_of_bucket(environ)):
        return _Message(service, None, b"", "xml")  # the bodies of objects may be large, so moto reads them
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    if service == "s3":
        return _Message(service, None, body, "xml")
    if target:
        return _Message(service, target.rpartition(".")[2], body, "json")
    if service in rest_calls.MODELS:
        return _Message(service, *_rest(environ, service, body))
    action = dict(parse_qsl(body.decode(errors="replace"))).get("Action")
    return _Message(service, action, body, "xml")


def _rest(environ: Environ, service: str, body: bytes) -> tuple[str, bytes, str, Mapping[str, Any]]:
    operation, parameters = rest_calls.rest_call(environ, service, body)
    return operation, body, "rest", parameters


def _model(service: str) -> Any | None:
    try:
        return service_model(_NAMES.get(service, service))
    except UnknownServiceError:
        return None


def _validated(message: _Message) -> Mapping[str, Any]:
    """Return the parameters. Raises Refused if AWS's own model of the service does not allow them."""
    if message.operation is None:
        return {}
    model = rest_calls.model(message.service) if message.style == "rest" else _model(message.service)
    if model is None or message.operation not in model.operation_names:
        return {}
    operation = model.operation_model(message.operation)
    if operation.input_shape is None:
        return {}
    if message.style == "rest":
        parameters = dict(message.parameters)
    elif message.style == "json":
        try:
            parameters = json.loads(message.body or b"{}")
        except ValueError:
            raise Refused("SerializationException", "The body is not valid JSON.", 400) from None
    elif (protocol := model.metadata.get("protocol")) in ("query", "ec2"):
        values = MultiDict(parse_qsl(message.body.decode(), keep_blank_values=True))
        for_parsing = get_service_model(_NAMES.get(message.service, message.service)).operation_model(message.operation)
        parser = PROTOCOL_PARSERS[protocol](for_parsing)
        parameters = parser.parse({"values": values, "body": "", "headers": {}, "method": "POST"})  # type: ignore[typeddict-item]
    else:
        return {}
    found = list(findings(operation.input_shape, parameters))
    if message.service == "ec2":  # which has new values, such as instance types, before its model has them
        found = [each for each in found if "allowed values, such as" not in each]
    if found:
        noun = "error" if len(found) == 1 else "errors"
        code = _INVALID.get(message.service, "ValidationException")
        raise Refused(code, f"{len(found)} validation {noun} detected: {'; '.join(found)}", 400)
    return dict(parameters)


def _answered(start_response: StartResponse, message: _Message, answer: Answer) -> Iterable[bytes]:
    """Send a service's answer in the format of its protocol."""
    if message.style == "json":
        return _reply(start_response, 200, "application/x-amz-json-1.1", json.dumps(answer).encode(), [])
    if message.style == "rest":
        status, of, content, headers = rest_calls.rest_answer(message.service, message.operation or "", answer)
        return _reply(start_response, status, of, content, headers)
    model = get_service_model(_NAMES.get(message.service, message.service))
    kind = get_serializer_class(model.service_name, model.metadata["protocol"])
    body = kind(operation_model=model.operation_model(message.operation)).serialize(answer)["body"]
    return _reply(start_response, 200, "text/xml", body.encode() if isinstance(body, str) else body, [])


def _refuse(start_response: StartResponse, message: _Message, refusal: Refused, state: Path) -> Iterable[bytes]:
    """Send an error. state: the folder of the rehearsal's state."""
    denied = refusal.code == "AccessDeniedException"
    headers = [(STATE_HEADER, quote(str(state)))] if denied else []
    if message.style in ("json", "rest"):
        body = json.dumps({"__type": refusal.code, "message": refusal.text, **refusal.details}).encode()
        kind = "application/x-amz-json-1.1" if message.style == "json" else "application/json"
        named = headers if message.style == "json" else [*headers, ("x-amzn-ErrorType", refusal.code)]
        return _reply(start_response, refusal.status, kind, body, named)
    code = "AccessDenied" if denied else refusal.code
    text = refusal.text
    if denied and message.service == "ec2":
        code, text = "UnauthorizedOperation", f"You are not authorized to perform this operation. {text}"
    error = f"<Error><Code>{code}</Code><Message>{escape(text)}</Message></Error>"
    if message.service == "ec2":
        error = f"<Response><Errors>{error}</Errors><RequestID>rehearsal</RequestID></Response>"
    elif message.service != "s3":
        error = f"<ErrorResponse>{error}</ErrorResponse>"
    # the request's body may not have been read: the connection cannot be used again
    return _reply(
        start_response, refusal.status, "application/xml", error.encode(), [*headers, ("Connection", "close")]
    )


def _reply(
    start_response: StartResponse, status: int, kind: str, body: bytes, headers: list[tuple[str, str]]
) -> Iterable[bytes]:
    length = [("Content-Type", kind), ("Content-Length", str(len(body))), (IDENTITY_HEADER, "yes"), *headers]
    start_response(f"{status} {HTTPStatus(status).phrase}", length)
    return [body]
