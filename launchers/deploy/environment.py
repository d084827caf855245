"""Check the variables that a container is to have, before it is started with them."""

import contextlib
import difflib
import io
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from dogbreed.serving import settings
from dogbreed.serving.limits import Limits
from launchers.deploy.checks import Checks

_PREFIX = "DOGBREED_"
_KNOWN = [
    *(_PREFIX + limit.metadata["option"].removeprefix("--").replace("-", "_").upper() for limit in fields(Limits)),
    *(_PREFIX + option.name.upper() for option in fields(settings.Settings) if option.name not in ("model", "limits")),
]
_ANSWER_S, _STOP_S = 60.0, 30.0  # until SageMaker gives up waiting for an answer, and kills a container


def examine(environ: Mapping[str, str], checks: Checks) -> bool:
    """Check a container's variables, and return whether the server can start with them."""
    before = len(checks.findings)
    for name in sorted(environ.keys() - set(_KNOWN)):
        if name.startswith(_PREFIX):
            close = difflib.get_close_matches(name, _KNOWN, 1)
            known = "python -m dogbreed.serving --help, which lists the options"
            checks.failed("variables", f"{name} is not a setting of the server", close[0] if close else known)
    starts = True
    for name in sorted(environ):
        if reason := _refused({name: environ[name]}):
            checks.failed("variables", f"The server does not start: {reason}", f"correct {name}, or leave it out")
            starts = False
    if starts and (reason := _refused(environ)):
        checks.failed("variables", f"The server does not start: {reason}", "correct them, or leave them out")
        starts = False
    if starts:
        for cause, action in _unfit(environ):
            checks.failed("variables", cause, action)
    if environ and len(checks.findings) == before:
        checks.passed("variables", ", ".join(f"{name}={value}" for name, value in sorted(environ.items())))
    return starts


def _refused(environ: Mapping[str, str]) -> str:
    """Return what the server says of these variables, or "" if it accepts them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            settings.read(["model"], environ)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
    return ""


def _unfit(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what the server accepts and SageMaker's contract does not, with what to try."""
    found = settings.read(["model"], environ, host="0.0.0.0")
    if found.host not in ("0.0.0.0", "::"):
        yield f"The server would listen on {found.host} alone, where SageMaker does not reach it", "no DOGBREED_HOST"
    if found.port != 8080 and "SAGEMAKER_BIND_TO_PORT" not in environ:
        yield f"The server would listen on port {found.port}, and SageMaker calls 8080", "no DOGBREED_PORT"
    if found.root_path:
        yield f"SageMaker calls /ping and /invocations, not paths below {found.root_path}", "no DOGBREED_ROOT_PATH"
    if found.limits.deadline_s > _ANSWER_S:
        yield (
            f"The server would take up to {found.limits.deadline_s:g} s for an answer, and SageMaker waits for "
            f"{_ANSWER_S:.0f}",
            "DOGBREED_DEADLINE_S=10",
        )
    if found.limits.drain_s >= _STOP_S:
        yield (
            f"The server would take up to {found.limits.drain_s:g} s to end, and is killed after {_STOP_S:.0f}",
            "DOGBREED_DRAIN_S=20",
        )
    if (base := environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")) and Path(base) != Path("/opt/ml"):
        yield (
            f"The server would look for the model in {base}/model, and SageMaker puts it into /opt/ml/model",
            "no SAGEMAKER_BASE_DIR",
        )
