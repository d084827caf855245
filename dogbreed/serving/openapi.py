"""The server's description for programs (OpenAPI 3.1) and, made of the same, for people: a page without any script."""

import html
import json
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from dogbreed import __version__
from dogbreed.serving.intake import BYTES_TYPES, MAX_TOP
from dogbreed.serving.problems import PROBLEMS

_Schema = dict[str, Any]
_BASE64: _Schema = {"type": "string", "contentEncoding": "base64", "description": "the bytes of a JPEG, PNG or WebP"}
_TOP: _Schema = {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 5}
_HEAT: _Schema = {"type": "boolean", "default": False}
_PROBABILITIES: _Schema = {
    "type": "array",
    "items": {"type": "number"},
    "description": "one for each breed, in the order of the artifact's labels.json; they sum to 1",
}
_PARAMETERS = [
    {"name": "top", "in": "query", "schema": _TOP, "description": "how many breeds"},
    {
        "name": "heat_map",
        "in": "query",
        "schema": _HEAT,
        "description": "what in the picture speaks for the first breed",
    },
]
EXAMPLES = {
    "curl": "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8080/invocations",
    "the bare probabilities": "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' "
    "-H 'Accept: application/json;verbose=false' http://127.0.0.1:8080/invocations",
    "Python": 'import json, urllib.request\n\nwith open("photo.jpg", "rb") as photo:\n'
    "    request = urllib.request.Request(\n"
    '        "http://127.0.0.1:8080/invocations", photo.read(), {"Content-Type": "image/jpeg"}\n    )\n'
    'print(json.load(urllib.request.urlopen(request))["predictions"])',
}


def _object(required: list[str], **properties: _Schema) -> _Schema:
    return {"type": "object", "required": required, "properties": properties}


def _schemas() -> dict[str, _Schema]:
    number, text = {"type": "number"}, {"type": "string"}
    heat_map = _object(
        ["crop_pct", "rows"],
        crop_pct={**number, "description": "of the photo's shorter side: the middle square that the rows lie over"},
        rows={"type": "array", "items": {"type": "array", "items": number}, "description": "0..1, top row first"},
    )
    result = _object(
        ["predictions", "probabilities"],
        predictions={"type": "array", "items": _object(["breed", "probability"], breed=text, probability=number)},
        probabilities=_PROBABILITIES,
        heat_map={"oneOf": [heat_map, {"type": "null"}], "description": "if asked for; null where the model has none"},
    )
    model = _object(["name", "version", "run_id", "precision"], name=text, version=text, run_id=text, precision=text)
    codes = {"type": "string", "enum": list(PROBLEMS)}
    return {
        "Answer": {"allOf": [result, _object(["model"], model={"$ref": "#/components/schemas/Model"})]},
        "Answers": _object(
            ["results", "model"],
            results={"type": "array", "items": result},
            model={"$ref": "#/components/schemas/Model"},
        ),
        "Model": model,
        "Problem": _object(
            ["type", "title", "status", "code", "detail"],
            type=text,
            title=text,
            status={"type": "integer"},
            code=codes,
            detail=text,
            errors={
                "type": "array",
                "items": _object(["picture", "code", "detail"], picture={"type": "integer"}, code=codes, detail=text),
            },
        ),
    }


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""

    def ref(name: str) -> _Schema:
        return {"$ref": f"#/components/schemas/{name}"}

    def plain(summary: str, kind: str, **more: str) -> dict[str, Any]:
        answers = {"200": "it is so", **more}
        content = {"content": {kind: {"schema": {"type": "string"}}}} if kind else {}
        return {
            "get": {"summary": summary, "responses": {c: {"description": d, **content} for c, d in answers.items()}}
        }

    problem = {"application/problem+json": {"schema": ref("Problem")}}
    statuses = sorted({status for status, _ in PROBLEMS.values()} - {404, 405})
    problems = {
        str(status): {
            "description": "; ".join(f"{code}: {title}" for code, (its, title) in PROBLEMS.items() if its == status),
            "content": problem,
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status == 503 else {}),
        }
        for status in statuses
    }
    bodies: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in BYTES_TYPES}
    bodies["application/json"] = {
        "schema": {
            "oneOf": [
                _object(["image"], image=_BASE64, top=_TOP, heat_map=_HEAT),
                _object(["images"], images={"type": "array", "items": _BASE64}, top=_TOP, heat_map=_HEAT),
            ]
        }
    }
    answers = {
        "application/json": {"schema": {"oneOf": [ref("Answer"), ref("Answers")]}},
        "application/json;verbose=false": {
            "schema": {"oneOf": [_PROBABILITIES, {"type": "array", "items": _PROBABILITIES}]}
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "dogbreed", "version": __version__, "description": "Which breed is this dog?"},
        "paths": {
            "/invocations": {
                "post": {
                    "summary": "The most probable breeds of one picture, or of several as JSON",
                    "parameters": _PARAMETERS,
                    "requestBody": {"required": True, "content": bodies},
                    "responses": {"200": {"description": "ranked breeds, best first", "content": answers}, **problems},
                }
            },
            "/ping": plain(
                "Whether requests are answered", "", **{"503": "the model is being loaded, or the server ends"}
            ),
            "/health": plain(
                "The same with the reason and the model, as JSON", "application/json", **{"503": "not ready"}
            ),
            "/metrics": plain("For Prometheus", "text/plain"),
            "/": plain("A page to try it", "text/html"),
        },
        "components": {"schemas": _schemas()},
    }


@cache
def page() -> bytes:
    """The same as HTML."""
    described = document()
    rows = "".join(
        f"<tr><th scope=row><code>{method.upper()} {html.escape(path)}</code></th>"
        f"<td>{html.escape(it['summary'])}</td></tr>"
        for path, methods in described["paths"].items()
        for method, it in methods.items()
    )
    types = "".join(f"<li><code>{kind}</code></li>" for kind in (*BYTES_TYPES, "application/json"))
    examples = "".join(
        f"<h3>{html.escape(name)}</h3><pre tabindex=0><code>{html.escape(text)}</code></pre>"
        for name, text in EXAMPLES.items()
    )
    problems = "".join(
        f'<tr id="{code}"><td>{status}</td><th scope=row><code>{code}</code></th><td>{html.escape(title)}</td></tr>'
        for code, (status, title) in PROBLEMS.items()
    )
    schemas = "".join(
        f"<details><summary><code>{name}</code></summary>"
        f"<pre tabindex=0><code>{html.escape(json.dumps(schema, indent=2))}</code></pre></details>"
        for name, schema in described["components"]["schemas"].items()
    )
    template = Template((files(__package__) / "page" / "docs.html").read_text())
    return template.substitute(
        addresses=rows, types=types, examples=examples, problems=problems, schemas=schemas
    ).encode()
