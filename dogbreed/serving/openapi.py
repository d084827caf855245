"""Build the OpenAPI 3.1 document. A test compares it with the server's real responses."""

from typing import Any

from dogbreed import __version__
from dogbreed.serving.intake import BYTES_TYPES, FORM_TYPE, JSON_TYPE, MAX_TOP
from dogbreed.serving.limits import Limits
from dogbreed.serving.problems import PROBLEMS

_Schema = dict[str, Any]
_NUMBER, _TEXT, _INTEGER = {"type": "number"}, {"type": "string"}, {"type": "integer"}
_BASE64: _Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "description": "a JPEG, PNG or WebP file, as base64 or as a base64 data URL",
}
_BYTES: _Schema = {"type": "string", "contentMediaType": "application/octet-stream"}
_TOP: _Schema = {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 5}
_HEAT: _Schema = {"type": "boolean", "default": False}
_PROBABILITIES: _Schema = {
    "type": "array",
    "items": _NUMBER,
    "description": "one per class, in the order of the artifact's labels.json; they sum to 1",
}
_PARAMETERS = [
    {"name": "top", "in": "query", "schema": _TOP, "description": "number of classes to return"},
    {
        "name": "heat_map",
        "in": "query",
        "schema": _HEAT,
        "description": "whether to return a heat map of the evidence for the first class",
    },
]
_HEADERS: _Schema = {"X-Request-Id": {"schema": _TEXT, "description": "the request's X-Request-Id, or a new id"}}


def document(limits: Limits, root_path: str = "") -> dict[str, Any]:
    """Return the OpenAPI document. root_path: the path prefix under which clients reach the server, such as /dogs."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "dogbreed", "version": __version__, "description": "What does this photo show?"},
        "servers": [{"url": root_path or "."}],  # "." is the folder of this document, even behind a proxy
        "paths": {
            "/invocations": {"post": _invocations(limits)},
            "/ping": _get("Readiness check", "", also={"503": "loading or shutting down"}),
            "/health": _get(
                "Readiness check with status and model details",
                "application/json",
                _ref("Health"),
                {"503": "not ready"},
            ),
            "/metrics": _get("Prometheus metrics", "text/plain"),
            "/": _get("Demo page", "text/html"),
            "/docs": _get("API documentation", "text/html"),
            "/openapi.json": _get("OpenAPI document", "application/json", {"type": "object"}),
        },
        "components": {"schemas": _schemas()},
    }


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: _Schema) -> _Schema:
    return {"type": "object", "required": required, "properties": properties}


def _get(
    summary: str, media_type: str, schema: _Schema | None = None, also: dict[str, str] | None = None
) -> dict[str, Any]:
    """Describe a GET route. also: descriptions of statuses besides 200, which have the same content."""
    content = {"content": {media_type: {"schema": schema or {"type": "string"}}}} if media_type else {}
    statuses = {"200": "OK", **(also or {})}
    responses = {status: {"description": text, "headers": _HEADERS, **content} for status, text in statuses.items()}
    return {"get": {"summary": summary, "responses": responses}}


def _invocations(limits: Limits) -> dict[str, Any]:
    return {
        "summary": "Classify one or several pictures",
        "description": f"A request may have at most {limits.body_bytes:,} bytes and {limits.pictures} pictures.",
        "parameters": _PARAMETERS,
        "requestBody": {"required": True, "content": _bodies(limits)},
        "responses": {"200": _answers(), **_problems()},
    }


def _bodies(limits: Limits) -> dict[str, Any]:
    several = {"minItems": 1, "maxItems": limits.pictures}
    one, many = {"top": _TOP, "heat_map": _HEAT, "image": _BASE64}, {"type": "array", "items": _BASE64, **several}
    as_json = [
        {**_object(["image"], **one), "additionalProperties": False},
        {**_object(["images"], top=_TOP, heat_map=_HEAT, images=many), "additionalProperties": False},
    ]
    files = {"type": "array", "items": _BYTES, **several}
    form = {
        **_object([], file=files),
        "description": "every file is a picture, whatever its field name; other fields are ignored",
    }
    return {
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in BYTES_TYPES},
        FORM_TYPE: {"schema": form},
        JSON_TYPE: {"schema": {"oneOf": as_json}},
    }


def _answers() -> dict[str, Any]:
    bare = [_PROBABILITIES, {"type": "array", "items": _PROBABILITIES}]
    return {
        "description": "Ranked classes, best first: Answer for one picture; Answers for a JSON list or a form with "
        "several files. With Accept: application/json;verbose=false, only the probabilities",
        "headers": {**_HEADERS, "Server-Timing": {"schema": _TEXT, "description": "milliseconds per stage"}},
        "content": {JSON_TYPE: {"schema": {"oneOf": [_ref("Answer"), _ref("Answers"), *bare]}}},
    }


def _problems() -> dict[str, Any]:
    retry = {"Retry-After": {"schema": _INTEGER, "description": "seconds"}}
    return {
        str(status): {
            "description": "; ".join(f"{code}: {title}" for code, (its, title) in PROBLEMS.items() if its == status),
            "headers": {**_HEADERS, **(retry if status == 503 else {})},
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
        for status in sorted({status for status, _ in PROBLEMS.values()} - {404, 405})
    }


def _schemas() -> dict[str, _Schema]:
    heat_map = _object(
        ["crop_pct", "rows"],
        crop_pct={
            **_NUMBER,
            "description": "side of the center square that the rows cover, as a share of the photo's shorter side",
        },
        rows={"type": "array", "items": {"type": "array", "items": _NUMBER}, "description": "0..1, top row first"},
    )
    prediction = _object(
        ["breed", "label", "index", "probability"],
        breed={**_TEXT, "description": "the class's display name"},
        label={**_TEXT, "description": "the name of its folder, as in the artifact's labels.json"},
        index={**_INTEGER, "description": "its place in labels.json and in probabilities, from 0"},
        probability=_NUMBER,
    )
    result = _object(
        ["predictions", "unlike_training_photos", "probabilities"],
        predictions={"type": "array", "items": prediction},
        unlike_training_photos={
            "type": ["boolean", "null"],
            "description": "whether the photo is unlike those that the model was trained on, so that its predictions "
            "mean little; null if this is not judged, see the model's `unlike`",
        },
        probabilities=_PROBABILITIES,
        heat_map={
            "oneOf": [heat_map, {"type": "null"}],
            "description": "only if requested; null if the model has none",
        },
    )
    codes = {"type": "string", "enum": list(PROBLEMS)}
    error = _object(["picture", "code", "detail"], picture=_INTEGER, code=codes, detail=_TEXT)
    return {
        "Answer": {"allOf": [result, _object(["model"], model=_ref("Model"))]},
        "Answers": _object(["results", "model"], results={"type": "array", "items": result}, model=_ref("Model")),
        "Model": _object(
            ["name", "version", "run_id", "precision", "unlike"],
            name=_TEXT,
            version=_TEXT,
            run_id=_TEXT,
            precision=_TEXT,
            unlike={
                **_TEXT,
                "description": "whether it is judged if photos are unlike the training photos: on, or off: the reason",
            },
        ),
        "Health": _object(
            ["status", "uptime_s", "max_body_bytes"],
            status={"type": "string", "enum": ["loading", "ready", "draining"]},
            uptime_s=_NUMBER,
            max_body_bytes=_INTEGER,
            waiting=_INTEGER,
            classes=_INTEGER,
            model=_ref("Model"),
        ),
        "Problem": _object(
            ["type", "title", "status", "code", "detail"],
            type=_TEXT,
            title=_TEXT,
            status=_INTEGER,
            code=codes,
            detail=_TEXT,
            errors={"type": "array", "items": error, "description": "one per unusable picture"},
        ),
    }
