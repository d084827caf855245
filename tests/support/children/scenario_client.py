"""`scenario_client.py HOW WORD...`: a command as a person types it, which is killed at a moment that HOW names.

WORD...: `train.py` or `launchers`, and what follows it. HOW is JSON: call (its number of the calls of AWS, from 1) or
step (of training on this machine), signal (a name), after (whether the call is still made), notes (a folder).
Training on this machine is what tests/support/stand_in_training.py does.
"""

import json
import os
import runpy
import signal
import sys
import threading
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
    train_in_its_place(asked)
    if program == "train.py":
        sys.argv = [str(ROOT / "train.py"), *words]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from launchers.cli.verbs import main

        sys.exit(main(words))
