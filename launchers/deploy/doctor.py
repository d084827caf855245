"""Examine a model as it would be deployed, before anything is uploaded: its files, its server, its answers."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.run_folder import RunFolder
from launchers.deploy import as_trained, contents, contract, environment
from launchers.deploy.checks import MEMORY_MB, Checks
from launchers.deploy.served import missing_packages, serving


def examine(
    model: Path,
    *,
    run: RunFolder | None = None,
    photos: Path | None = None,
    environ: Mapping[str, str] | None = None,
    memory_mb: int = MEMORY_MB,
    larger: str = "",
) -> Checks:
    """Check the artifact at `model`, and a server that serves it on loopback as the endpoint's image would.

    model: an archive, or the folder of its files. run: the run that it is of, to compare it with. photos: the run's
    data folder, if it moved. environ: the container's variables. memory_mb: of the instance. larger: what to try where
    that is not enough.
    Does not raise for what is wrong with them: all problems are in the result (`Checks.raise_findings`).
    """
    checks = Checks(commands.module("dogbreed.export", shown_path(run.path))) if run is not None else Checks()
    checks.larger = larger or checks.larger
    starts = environment.examine(environ or {}, checks)
    served = contents.examine(model, checks)
    if served is None:
        return checks
    if run is not None:
        as_trained.examine(served, run, checks, photos=photos)
    if missing := missing_packages():
        plural = "are" if len(missing) > 1 else "is"
        checks.failed(
            "server",
            f"The model cannot be served here: {', '.join(missing)} {plural} not installed",
            "pip install -e '.[serve]'",
        )
    elif starts:
        memory_bytes = memory_mb * 2**20
        with (
            tempfile.TemporaryDirectory(prefix="dogbreed-doctor-") as scratch,
            serving(model, Path(scratch), environ or {}, memory_bytes=memory_bytes) as server,
        ):
            contract.examine(server, served, checks, memory_bytes=memory_bytes)
    return checks


def run_of(model: Path) -> RunFolder | None:
    """Return the run that an artifact or a run's folder is of, if its settings are beside it."""
    here = RunFolder.of(model if model.is_dir() else model.parent)
    return here if here.config.is_file() and here.model.exists() else None
