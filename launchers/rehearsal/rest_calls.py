"""Requests and answers of services with AWS's REST-JSON protocol: the method and the path name the operation."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote

from launchers.rehearsal.service import Answer, Refused
from launchers.rehearsal.service_models import service_model

MODELS = {
    "sagemaker": "sagemaker-runtime",
    "scheduler": "scheduler",
    "lambda": "lambda",
}  # signing name -> the service's model


def rest_call(environ: Mapping[str, Any], service: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the operation of a request and its parameters. service: one of MODELS."""
    path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
    for name, (method, pattern, query) in _operations(service).items():
        asks = query in environ.get("QUERY_STRING", "")
        if method == environ["REQUEST_METHOD"] and asks and (found := pattern.fullmatch(path)):
            return name, _parameters(environ, service, name, found.groupdict(), body)
    raise Refused("UnknownOperationException", f"There is no operation {environ['REQUEST_METHOD']} {path}", 404)


def rest_answer(service: str, operation: str, answer: Answer) -> tuple[int, str, bytes, list[tuple[str, str]]]:
    """Return the status, the type of the body, the body and the headers of an answer."""
    described = model(service).operation_model(operation)
    shape, status = described.output_shape, int(described.http.get("responseCode", 200))
    headers, kind, body = [], "application/json", b""
    payload = shape.serialization.get("payload") if shape else None
    rest = dict(answer)
    for name, member in shape.members.items() if shape else ():
        if member.serialization.get("location") == "statusCode":
            status = int(rest.pop(name, status))
        elif member.serialization.get("location") == "header" and rest.get(name) is not None:
            header, value = member.serialization["name"], str(rest.pop(name))
            if header.lower() == "content-type":
                kind = value
            else:
                headers.append((header, value))
    body = rest.get(payload, b"") if payload else json.dumps(rest).encode()
    return status, kind, b"" if status == 204 else body, headers


def model(service: str) -> Any:
    return service_model(MODELS[service])


@lru_cache
def _operations(service: str) -> dict[str, tuple[str, re.Pattern[str], str]]:
    """Return method, path and what the query must have, by operation; those that must have something come first."""
    found = {}
    for name in model(service).operation_names:
        http = model(service).operation_model(name).http
        path, _, wanted = http["requestUri"].partition("?")
        pattern = "".join(
            f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{\w+\})", path)
        )
        found[name] = (http["method"], re.compile(pattern), wanted)
    return dict(sorted(found.items(), key=lambda each: not each[1][2]))


def _parameters(
    environ: Mapping[str, Any], service: str, operation: str, in_path: Mapping[str, str], body: bytes
) -> dict[str, Any]:
    shape = model(service).operation_model(operation).input_shape
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    payload = shape.serialization.get("payload")
    found: dict[str, Any] = {} if payload else _body(body)
    for name, member in shape.members.items():
        wire, location = member.serialization.get("name", name), member.serialization.get("location")
        value: Any = None
        if name == payload:
            value = body
        elif location == "uri":
            value = unquote(in_path[wire])
        elif location == "querystring":
            value = query.get(wire)
            value = int(value) if value and member.type_name in ("integer", "long") else value
            if member.type_name == "list":
                value = parse_qs(environ.get("QUERY_STRING", "")).get(wire)
        elif location == "header":
            value = environ.get("CONTENT_TYPE" if wire.lower() == "content-type" else _header(wire)) or None
        if value is not None:
            found[name] = value
    return found


def _body(body: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(body or b"{}"))
    except ValueError:
        raise Refused("SerializationException", "The body is not valid JSON.", 400) from None


def _header(name: str) -> str:
    return f"HTTP_{name.upper().replace('-', '_')}"
