"""Render openapi.json as the page /docs, with examples."""

import html
import json
from importlib.resources import files
from string import Template
from typing import Any

from dogbreed.serving.problems import PROBLEMS

ADDRESS = "http://127.0.0.1:8080"  # a placeholder in the page for the server's own address
EXAMPLES = {
    "curl": f"curl -F file=@photo.jpg {ADDRESS}/invocations",
    "only the probabilities": "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' "
    f"-H 'Accept: application/json;verbose=false' {ADDRESS}/invocations",
    "Python": 'import json, urllib.request\n\nwith open("photo.jpg", "rb") as photo:\n'
    "    request = urllib.request.Request(\n"
    f'        "{ADDRESS}/invocations", photo.read(), {{"Content-Type": "image/jpeg"}}\n    )\n'
    'print(json.load(urllib.request.urlopen(request))["predictions"])',
    "Python, with requests": 'import requests\n\nwith open("photo.jpg", "rb") as photo:\n'
    f'    answer = requests.post("{ADDRESS}/invocations", files={{"file": photo}})\n'
    'print(answer.json()["predictions"])',
}


def page(document: dict[str, Any]) -> str:
    """Render an OpenAPI document as HTML; its examples use ADDRESS."""
    invocations = document["paths"]["/invocations"]["post"]
    rows = "".join(
        f"<tr><th scope=row><code>{method.upper()} {html.escape(path)}</code></th>"
        f"<td>{html.escape(it['summary'])}</td></tr>"
        for path, methods in document["paths"].items()
        for method, it in methods.items()
    )
    types = "".join(f"<li><code>{kind}</code></li>" for kind in invocations["requestBody"]["content"])
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
        for name, schema in document["components"]["schemas"].items()
    )
    return Template((files(__package__) / "page" / "docs.html").read_text()).substitute(
        addresses=rows,
        types=types,
        limits=html.escape(invocations["description"]),
        examples=examples,
        problems=problems,
        schemas=schemas,
    )
