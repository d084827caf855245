"""Recognise the operation of a request to S3, which is not named in it: the method, the path and the query say it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote_plus
from xml.etree import ElementTree

from launchers.rehearsal.service_models import service_model


def s3_call(environ: Mapping[str, Any], body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the operation and those of its parameters that decide who may call it.

    body: only that of DeleteObjects is read.
    """
    path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")  # as WSGI hands over UTF-8
    bucket, _, key = path.lstrip("/").partition("/")
    query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", ""), True).items()}
    copied = environ.get("HTTP_X_AMZ_COPY_SOURCE")
    operation = _operation(environ["REQUEST_METHOD"], bool(bucket), bool(key), frozenset(query), copied is not None)
    parameters: dict[str, Any] = {"Bucket": bucket} if bucket else {}
    if key:
        parameters["Key"] = key
    if "prefix" in query:
        parameters["Prefix"] = query["prefix"]
    if copied is not None:
        parameters["CopySource"] = unquote_plus(copied)
    if operation == "DeleteObjects":
        parameters["Delete"] = {"Objects": [{"Key": key} for key in _keys(body)]}
    return operation, parameters


def _keys(body: bytes) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(body).iter() if node.tag.rpartition("}")[2] == "Key"]


@lru_cache(maxsize=512)
def _operation(method: str, on_bucket: bool, on_object: bool, query: frozenset[str], copies: bool) -> str:
    given = query | ({"x-amz-copy-source"} if copies else frozenset())
    fitting = [
        (len(needed), name)
        for name, (of_method, parts, needed) in _operations().items()
        if of_method == method and parts == on_bucket + on_object and needed <= given
    ]
    return max(fitting)[1] if fitting else "Unknown"


@lru_cache
def _operations() -> dict[str, tuple[str, int, frozenset[str]]]:
    """Return of each operation: its method, how many parts its path has, and what must be in its query."""
    model = service_model("s3")
    found = {}
    for name in model.operation_names:
        operation = model.operation_model(name)
        path, _, query = operation.http["requestUri"].partition("?")
        needed = {part.partition("=")[0] for part in query.split("&") if part}
        shape = operation.input_shape
        for member in shape.required_members if shape else ():
            wire = shape.members[member].serialization
            if wire.get("location") == "querystring" or wire.get("name") == "x-amz-copy-source":
                needed.add(wire["name"])
        if path.strip("/") in ("", "{Bucket}", "{Bucket}/{Key+}"):
            found[name] = (
                operation.http["method"],
                path.count("{"),
                frozenset(needed),
            )
    return found
