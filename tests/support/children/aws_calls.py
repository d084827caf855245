"""Records what is asked of AWS in the processes of the tests, for tests/support/permitted.py to compare with policies.

Two kinds of lines go into a file for each process: what launchers call, in any account; and what the rehearsal cloud
allowed, with the role that asked for it, the resource and the values of condition keys. What a test calls itself, to
set up an account or to look at it, is told apart by the stack: the nearest of our files is that of a test.
"""

import json
import os
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import on_import

CALLS = "DOGBREED_TESTS_CALLS"  # the folder of the files
_ROOT = Path(__file__).resolve().parents[3]
_LAUNCHERS, _TESTS = f"{_ROOT / 'launchers'}{os.sep}", f"{_ROOT / 'tests'}{os.sep}"
# the administrator who sets up roles; and the rehearsal's services, which call others under roles of theirs
_NOT_LAUNCHING = (f"{_LAUNCHERS}cli{os.sep}iam.py", f"{_LAUNCHERS}rehearsal{os.sep}")
_NEW = re.compile(r"(\d{8}-\d{6}|[0-9a-f]{16}).*")  # what begins with a run's id or a digest differs in each run
_seen: set[str] = set()


def install() -> None:
    on_import.change("botocore.client", _record_calls)
    on_import.change("launchers.rehearsal.access", _record_decisions)


def _write(**what: Any) -> None:
    line = json.dumps(what, sort_keys=True)
    if line not in _seen and CALLS in os.environ:
        _seen.add(line)
        with Path(os.environ[CALLS], f"{os.getpid()}.jsonl").open("a") as file:
            file.write(f"{line}\n")


# --- what launchers call ---


def _record_calls(client: Any) -> None:
    call = client.BaseClient._make_api_call

    def make_api_call(self: Any, operation_name: str, api_params: Any) -> Any:
        if _is_from_launchers(sys._getframe(1)):
            _write(calls=self.meta.service_model.service_name, operation=operation_name)
        return call(self, operation_name, api_params)

    client.BaseClient._make_api_call = make_api_call


def _is_from_launchers(frame: FrameType | None) -> bool:
    """Return whether the call is from our code, or from a thread in which s3transfer moves a file."""
    nearest, moves_a_file = "", False
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_NOT_LAUNCHING):
            return False
        if not nearest and name.startswith((_LAUNCHERS, _TESTS)):
            nearest = name
        moves_a_file = moves_a_file or "s3transfer" in name
        frame = frame.f_back
    return nearest.startswith(_LAUNCHERS) if nearest else moves_a_file


# --- what the rehearsal cloud allows ---


def _record_decisions(access: Any) -> None:
    allowed = access.allowed

    def recorded(principal: Any, need: Any) -> Any:
        decision = allowed(principal, need)
        if decision == "allowed" and not principal.arn.endswith((":root", "/simulation")):
            context = {key: _values(key, list(values)) for key, values in need.context.items()}
            resource = _NEW.sub("any", need.resource)
            _write(by=principal.arn, action=need.action, resource=resource, context=context)
        return decision

    access.allowed = recorded


def _values(key: str, values: list[str]) -> list[str]:
    """Leave out what is new in each run: policies ask only whether it is there."""
    return ["any"] if key.startswith(("aws:RequestTag/", "aws:ResourceTag/", "s3:prefix")) else values
