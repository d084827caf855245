"""`python -m launchers doctor`: check a model as an endpoint would serve it, on this machine."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from dogbreed.commands import is_address, shown_path
from dogbreed.errors import ConfigError
from dogbreed.run_folder import RunFolder, write_bytes
from launchers.cli import named
from launchers.deploy.checks import MEMORY_MB
from launchers.spec import LAUNCHED_FILE

HELP = "Check a model as an endpoint would serve it, on this machine."
EPILOG = """\
Nothing is uploaded. The model is unpacked read-only and served on loopback as
in the endpoint's image: with its packages alone, without torch and without a
home folder. The exit status is 1 if there is any problem.

  python -m launchers doctor runs/RUN
  python -m launchers doctor model.pth --classes NAMES.txt
  python -m launchers doctor model.tar.gz --env DOGBREED_MAX_PICTURES=4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="MODEL", help="a run or search (folder, name or handle), a model.tar.gz, or a file of weights")
    add("--classes", type=Path, metavar="FILE", help="class names of a bare file of weights, as for dogbreed.export")
    add("--photos", type=Path, metavar="FOLDER", help="the run's photos, if they moved")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the container; can be repeated")
    add(
        "--memory-mb",
        type=int,
        default=MEMORY_MB,
        metavar="MB",
        help=f"memory of the instance (default: {MEMORY_MB}, of ml.c7i.large)",
    )


def run(args: argparse.Namespace) -> int:
    from launchers.deploy import doctor  # brings NumPy and Pillow

    environ = dict(_pair(text) for text in args.env)
    source = _source(args)
    with tempfile.TemporaryDirectory(prefix="dogbreed-doctor-") as scratch:
        model = _model(source, args.classes, Path(scratch))
        began = time.monotonic()
        checks = doctor.examine(
            model, run=doctor.run_of(source), photos=args.photos, environ=environ, memory_mb=args.memory_mb
        )
    if args.json:
        rows = [{"check": name, "result": result} for name, result in checks.rows]
        print(json.dumps({"checks": rows, "findings": checks.findings}, indent=2))
        return int(not checks.healthy)
    print(f"{shown_path(source)}, as an endpoint would serve it:\n")
    print(f"{checks}\n", flush=True)
    if not checks.healthy:
        checks.raise_findings()
    print(f"No problems found, in {time.monotonic() - began:.1f} s.")
    return 0


def _source(args: argparse.Namespace) -> Path:
    """Return the file or folder that a person named: a path, or a run whose result is here or is downloaded."""
    path = Path(args.run).expanduser()
    away = (path / LAUNCHED_FILE).exists() and not RunFolder.of(path).model.exists()
    if not is_address(args.run) and (path.suffix or (path.exists() and not away)):  # ids of runs have no points
        return path
    launcher, handle = named.found(args.run, args)
    if launcher.capabilities.deploys:
        ask = named.words_of(launcher, handle, "status")
        raise ConfigError(f"{handle} serves a model already; this examines one before that.\nTry: {ask}")
    return launcher.result(handle).folder


def _model(source: Path, classes: Path | None, scratch: Path) -> Path:
    """Return the artifact at `source`, unchanged if it is one, so that all that is wrong with it is found."""
    from dogbreed import artifact
    from dogbreed.model_files import artifact_of

    if artifact.is_artifact(source) and classes is None:
        unpacked = source.is_dir() and (source / artifact.MANIFEST).exists()
        return RunFolder.of(source).model if source.is_dir() and not unpacked else source
    print("Making the artifact ...", file=sys.stderr)
    model = scratch / "model.tar.gz"
    write_bytes(model, artifact_of(source, classes=classes))
    return model


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not (found and name):
        raise ConfigError(f"--env {text} is not a variable and its value.\nTry: --env DOGBREED_MAX_PICTURES=4")
    return name, value
