"""`scenario_client.py HOW WORD...`: a command as a person types it, which is killed at a moment that HOW names.

WORD...: `train.py` or `launchers`, and what follows it. HOW is JSON: call (its number of the calls of AWS, from 1) or
step (of training on this machine), signal (a name), after (whether the call is still made), notes (a folder), lacking
(which of the actions that the command takes is not permitted, from 1), refused (a file for what was not permitted).
Training on this machine is what tests/support/stand_in_training.py does.
"""

import json
import os
import runpy
import signal
import sys
import threading
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
_counting = threading.Lock()
_calls = 0


def count_calls(how: dict[str, Any]) -> None:
    """Let this process be killed at one of its calls of AWS."""
    from botocore.client import BaseClient

    make: Any = BaseClient._make_api_call  # type: ignore[attr-defined]

    def made(self: Any, operation: str, parameters: Any) -> Any:
        global _calls
        with _counting:
            _calls += 1
            here = _calls == how["call"]
        if here and not how["after"]:
            kill(how)
        answer = make(self, operation, parameters)
        if here and how["after"]:
            kill(how)
        return answer

    BaseClient._make_api_call = made  # type: ignore[attr-defined]


def kill(how: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.Signals[how["signal"]])


def lack(how: dict[str, Any]) -> None:
    """Let this process act as the person who launches, whom one of the actions that it takes is not permitted."""
    from botocore.client import BaseClient

    from launchers.aws.actions import actions_of
    from launchers.aws.errors import denial
    from launchers.rehearsal.cloud import Rehearsal
    from launchers.rehearsal.names import FAULTS_HEADER

    send: Any = BaseClient._make_request  # type: ignore[attr-defined]
    make, taken = Rehearsal.__post_init__, dict[str, None]()

    def made(self: Rehearsal) -> None:
        make(self)
        self.launch_as = self.launch_as or "dogbreed-launch"

    def sent(self: Any, operation: Any, request: Any, context: Any) -> Any:
        own, headers = actions_of(self.meta.service_model.service_name, operation.name), request["headers"]
        if FAULTS_HEADER not in headers:  # it takes the role
            return send(self, operation, request, context)
        with _counting:
            taken.update(dict.fromkeys(own[:1]))
            missing = list(islice(taken, how["lacking"] - 1, how["lacking"]))
        headers[FAULTS_HEADER] = json.dumps({**json.loads(headers[FAULTS_HEADER]), "denied": missing})
        http, answer = send(self, operation, request, context)
        error = answer.get("Error", {}) if http.status_code >= 400 else {}
        found = denial(str(error.get("Message", "")))
        if found is not None or error.get("Code") == "403":  # to HEAD, S3 answers without words
            with Path(how["refused"]).open("a") as file:
                file.write(f"{found.action if found is not None else own[0]}\n")
        return http, answer

    Rehearsal.__post_init__ = made  # type: ignore[method-assign]
    BaseClient._make_request = sent  # type: ignore[attr-defined]


def train_in_its_place(how: dict[str, Any]) -> None:
    """Let runs on this machine count steps instead of training."""
    from launchers.local import LocalLauncher
    from tests.support import stand_in_training as stand_in

    def began(step: int) -> None:
        if step == how.get("step"):
            kill(how)

    def train(self: Any, spec: Any, folder: Any, watch: Any) -> None:
        note = stand_in.Notes(Path(how["notes"]), spec.run_id, "here")
        folder.config.write_text(json.dumps(dict(spec.config)))
        try:
            stand_in.train(folder.path, spec.config["trainer"]["max_epochs"], note, began=began)
        except BaseException:  # a signal, as train.py hears it
            step = stand_in.noted_step(note)
            stand_in.save(folder.path, step)
            note("asked to end", step)
            raise

    LocalLauncher._train = train  # type: ignore[method-assign]


if __name__ == "__main__":
    asked, (program, *words) = json.loads(sys.argv[1]), sys.argv[2:]
    if asked.get("call"):
        count_calls(asked)
    if asked.get("lacking"):
        lack(asked)
    train_in_its_place(asked)
    if program == "train.py":
        sys.argv = [str(ROOT / "train.py"), *words]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from launchers.cli.verbs import main

        sys.exit(main(words))
