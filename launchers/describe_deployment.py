"""Turn a command with launcher=deploy into a RunSpec: find the model, and what is deployed under its name now."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from dogbreed import commands
from dogbreed.cache import cache_folder
from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.run_folder import write_bytes
from launchers.base import Deploys
from launchers.overrides import override_key, root_key
from launchers.payload import image, package
from launchers.payload.model import MODEL_FILE, SentModel
from launchers.project import PROJECT, git_state
from launchers.registry import find_run
from launchers.runs.find import DEPLOYMENTS_DIR
from launchers.runs.state import State
from launchers.spec import Deployment, RunSpec
from launchers.status import Cause, LaunchError, Phase

log = logging.getLogger("dogbreed")
Found = TypeVar("Found")

# keys that a deployment reads; all others are about training
_READ = frozenset({"launcher", "aws", "name", "checkpoint", "dry_run", "debug", "hydra", "run_id", "limits"})
_CLASSES = frozenset({"data", "data.root"})  # the photos by which the classes of a bare file are named
_EXAMPLE = "Try: python train.py launcher=deploy name=dogs checkpoint=runs/RUN"


def describe_deployment(launcher: Deploys, config: Mapping[str, Any], overrides: Sequence[str]) -> RunSpec:
    """Return the deployment that a command asks for.

    launcher: of the config. config: as composed. overrides: as typed. Downloads the result of a remote run. Raises
    ConfigError, listing what is missing or not read, and ArtifactError or LaunchError for a model that cannot be used.
    """
    raise_findings(ConfigError, list(_findings(config, overrides)))
    name = str(config["name"])
    named = any(override_key(text) == "data.root" for text in overrides)
    model = sent_model(str(config["checkpoint"]), Path(str(config["data"]["root"])) if named else None)
    commit, dirty = git_state()
    dry_run, capped = bool(config["dry_run"]), (config.get("limits") or {}).get("max_usd") is not None
    before = _asked(launcher, launcher.deployed, name, dry_run=dry_run)
    return RunSpec(
        run_id=name,
        overrides=tuple(text for text in overrides if override_key(text) not in ("dry_run", "debug", "run_id")),
        config=config,
        folder=str(commands.working_folder() / DEPLOYMENTS_DIR / name),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        dirty=dirty,
        deployment=Deployment(
            model,
            image.digest(PROJECT),
            before,
            package.digest(PROJECT),
            _asked(launcher, launcher.reservable, name, dry_run=dry_run),
            _asked(launcher, launcher.spent_usd, name, dry_run=dry_run) if capped and before is not None else None,
        ),
    )


def _findings(config: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[str]:
    for key, what in (("name", "the deployment's name"), ("checkpoint", "the model")):
        if config[key] is None:
            yield f"{key}=, {what}, is missing.\n{_EXAMPLE}"
    if unread := [text for text in overrides if root_key(text) not in _READ and override_key(text) not in _CLASSES]:
        yield (
            f"A deployment does not read {', '.join(unread)}: it serves a model that has been trained.\n"
            "Try: leaving that out"
        )


def _asked(launcher: Deploys, method: Callable[[str], Found | None], name: str, *, dry_run: bool) -> Found | None:
    """Return what the account says of this name. A dry run does without it where nobody can be asked."""
    if dry_run and not launcher.answers:
        return None
    try:
        return method(name)
    except LaunchError as error:
        if not dry_run or error.cause is Cause.BAD_CONFIG:
            raise
        log.warning("Planned without asking the account what it has for %s now. %s", name, error)
        return None


def sent_model(text: str, classes: Path | None) -> SentModel:
    """Return the artifact of what a person named, made and kept in the cache if there is none yet.

    text: a run or a search, its folder or its handle; an artifact, a checkpoint or a bare file of weights. classes:
    where the class names of a bare file are; None for those in the file or dogImages'.
    """
    from dogbreed.model_files import artifact_of  # loads torch where it must

    path = _path(text)
    state = State.seen(path) if path.is_dir() else None
    if state is not None and state.phase is not Phase.SUCCEEDED:
        raise ConfigError(
            f"The run in {shown_path(path)} has not finished: {state.phase}.\n"
            f"Try: {commands.launchers('status', shown_path(path))}"
        )
    content = artifact_of(path, classes=classes)
    kept = cache_folder() / "models" / hashlib.sha256(content).hexdigest()[:16] / MODEL_FILE
    if not kept.exists():
        write_bytes(kept, content)
    return SentModel.scan(kept, shown_path(path))


def _path(text: str) -> Path:
    path = Path(text).expanduser()
    if not commands.is_address(text) and path.exists():
        return path.absolute()
    try:
        launcher, handle = find_run(text)
        return launcher.folder(handle) or launcher.result(handle).folder
    except LaunchError as error:
        raise ConfigError(f"checkpoint={text} is neither a file nor a run.\n{error}") from error
