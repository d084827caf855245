"""`deploy_killed.py N WORD...`: deploy as train.py does; SIGKILL follows the Nth call of the plan."""

import os
import signal
import sys

from launchers import prepare
from launchers.deploy.change import Change
from launchers.deploy.endpoint_change import EndpointChange
from launchers.deploy.on_lambda.change import FunctionChange
from launchers.plan import Request

_kind: type[Change] = FunctionChange if "launcher.variant=lambda" in sys.argv else EndpointChange
_send, _calls = _kind._send, 0


def send(self: Change, each: Request, filled: dict[str, str]) -> None:
    global _calls
    _send(self, each, filled)
    _calls += 1
    if _calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _kind._send = send  # type: ignore[method-assign]
    launcher, plan = prepare(sys.argv[2:])
    launcher.submit(plan)
