"""Stands in for the toolkit of AWS's training images: what their command `train` does with a job that names no other.

It behaves as sagemaker-training 5.1 does (https://github.com/aws/sagemaker-training-toolkit) where launchers depend on
it: it unpacks the source directory, passes hyperparameters as arguments and variables, passes no signal on, and reports
a failure in its own words. Where that package is installed, the rehearsal cloud runs it instead. Runs as a program of a
rented machine and uses the standard library alone.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ERROR = re.compile(r"\b(?:Runtime|Value|Type|Key|OS|Import|Attribute|Assertion|Memory)Error\b|ModuleNotFoundError")


def main() -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as process 1 of a container, which has no handler for it
    base = Path(os.environ["SAGEMAKER_BASE_DIR"])
    given = {key: _decoded(value) for key, value in _read(base / "input/config/hyperparameters.json").items()}
    code = base / "code"
    code.mkdir(parents=True, exist_ok=True)
    if not any(code.iterdir()):
        with tarfile.open(str(given["sagemaker_submit_directory"])) as archive:
            archive.extractall(code, filter="data")
    own = {key: value for key, value in given.items() if not key.startswith(("sagemaker_", "_tuning"))}
    argv = [sys.executable, str(given["sagemaker_program"]), *_arguments(own)]
    variables = {
        "SM_HPS": json.dumps(own),
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DATA_DIR": str(base / "output/data"),
        "SM_CHANNELS": json.dumps(sorted(_read(base / "input/config/inputdataconfig.json"))),
    }
    status, errors = _run(argv, code, {**os.environ, **variables})
    (base / "output").mkdir(exist_ok=True)
    if status == 0:
        (base / "output/success").write_text("")
        return 0
    failure = f'ExecuteUserScriptError:\nExitCode {status}\nErrorMessage "{errors}"\nCommand "{" ".join(argv)}"'
    (base / "output/failure").write_text(failure)
    print(f"Reporting training FAILURE\n{failure}", flush=True)
    return 1


def _run(argv: list[str], folder: Path, variables: Mapping[str, str]) -> tuple[int, str]:
    """Run the program, and return its exit status and its output from the first line on that names an error."""
    errors: list[str] = []
    with subprocess.Popen(
        argv,
        cwd=folder,
        env=dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            print(text, flush=True)
            if errors or _ERROR.search(text):
                errors.append(text)
    return process.returncode, "\n ".join(errors)


def _arguments(values: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for key, value in sorted(values.items()):
        words += [f"{'-' if len(key) == 1 else '--'}{key}", str(value)]
    return words


def _decoded(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


if __name__ == "__main__":
    sys.exit(main())
