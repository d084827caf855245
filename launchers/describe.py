"""Turn a command into a RunSpec: the one place that reads the clock, git and Hydra's config."""

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError, raise_findings
from launchers import known
from launchers.config_sources import ConfigSources
from launchers.describe_deployment import describe_deployment
from launchers.overrides import ABOUT_THIS_COMMAND, STAYS_HERE
from launchers.payload import photos
from launchers.payload.code import CodeBundle, scan
from launchers.project import PROJECT, git_state
from launchers.registry import capabilities_of
from launchers.remote.context import SENT
from launchers.resume import begun_here, fetch_checkpoints, refuse_another, resumed_config, typed_after_resume
from launchers.runs.identity import differences, saved
from launchers.runs.launched import launched
from launchers.runs.state import State
from launchers.spec import RunOutput, RunSpec
from launchers.status import Phase
from launchers.typed import absolute


def describe(cfg: DictConfig, hydra: Any = None) -> RunSpec:
    """Return the run that `cfg` asks for. hydra: Hydra's own config, if no Hydra application is running.

    Downloads what a remote run has saved if it is to be resumed on this machine. Raises ConfigError, listing all values
    that are still missing, and for a resume that would make it another run.
    """
    hydra = HydraConfig.get() if hydra is None else hydra
    if missing := sorted(map(str, OmegaConf.missing_keys(cfg))):
        raise ConfigError(
            f"{len(missing)} value{'s are' if len(missing) > 1 else ' is'} missing: {', '.join(missing)}\n"
            f"Try: {' '.join(f'{key}=...' for key in missing)}"
        )
    raise_findings(ConfigError, list(known.findings(OmegaConf.to_container(cfg, resolve=False))))  # type: ignore[arg-type]
    composed, overrides, there = _resolved(cfg), list(hydra.overrides.task), sent()
    launcher, sources = capabilities_of(composed["launcher"]), ConfigSources.of(hydra)
    if launcher.deploys:
        if hydra.mode == RunMode.MULTIRUN:
            raise ConfigError("launcher=deploy serves one model, but -m starts several runs.\nTry: leave out -m")
        return describe_deployment(instantiate(cfg.launcher, _convert_="all"), composed, overrides)
    if composed["checkpoint"] is not None:
        raise ConfigError("checkpoint= names what launcher=deploy serves; this launcher trains.\nTry: leave it out")
    folder = Path(OmegaConf.select(hydra, "runtime.output_dir", throw_on_missing=False) or hydra.run.dir).absolute()
    run_id, created_at, config = str(composed["run_id"]), datetime.now(UTC).isoformat(timespec="seconds"), composed
    now: list[str] | None = None
    if composed["resume"]:
        if hydra.mode == RunMode.MULTIRUN:
            raise ConfigError("resume= resumes one run, but -m starts several.\nTry: the same command without -m")
        before, _ = saved(folder)
        run_id, created_at = before.run_id, before.created_at or created_at
        now = typed_after_resume(overrides)
        config = resumed_config(folder, composed, now, hydra.runtime.choices)
        if not launcher.remote:
            fetch_checkpoints(folder)
    elif there is None and (begun := begun_here(folder)) is not None:  # rented machines resume by the same command
        run_id, created_at = begun.run_id, begun.created_at or created_at
        config = _resolved(_with_run_id(cfg, run_id))
        refuse_another(folder, begun, config)
        now = _go_on(folder, remote=launcher.remote)
    # a search checks this itself, because each of its trials has other settings
    if there is not None and isinstance(there.output, RunOutput):
        check_as_sent(config, there)
    commit, dirty = git_state()
    code = _code(sources, hydra, config, folder) if launcher.sends_code else None
    photos = _photos(config) if code else None
    lasting = None if now is None else _lasting(now)
    about = (run_id, _lasting(overrides), config, str(folder), created_at, commit, dirty, code, photos, lasting)
    return RunSpec(*about, sources=sources)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    config["data"]["root"] = _root(str(config["data"]["root"]))
    return config


def _with_run_id(cfg: DictConfig, run_id: str) -> DictConfig:
    """Return the config with another run id, which other settings may refer to."""
    changed = deepcopy(cfg)
    changed.run_id = run_id
    return changed


def _go_on(folder: Path, *, remote: bool) -> list[str] | None:
    """Make the begun run of this folder, whose command was given again, ready to continue.

    Return the overrides of `RunSpec.going_on`: none, or None if the run's files are not on this machine. Raises
    ConfigError for a run that has finished here if it would be sent to another machine.
    """
    if not remote:
        fetch_checkpoints(folder)
    elif launched(folder) is not None:
        return None
    elif (state := State.seen(folder)) is not None and state.phase is Phase.SUCCEEDED:
        raise ConfigError(
            f"The run in {shown_path(folder)} has finished, with these settings.\n"
            f"Try: {commands.launchers('result', shown_path(folder))}"
        )
    return []


def _root(root: str) -> str:
    """Return the data folder independent of the current one. In S3, or below the home folder, it is that already."""
    return root if commands.is_address(root) or root.startswith("~") else str(absolute(root))


def _photos(config: Mapping[str, Any]) -> photos.SentFolder | None:
    """Scan a data folder that is only on this machine; return None if it is in S3 or another machine can fetch it."""
    root = str(config["data"].get("root"))
    return None if config["data"].get("source") or root.startswith("s3://") else photos.scan(Path(root))


def _lasting(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in overrides if text.lstrip("+~").partition("=")[0] not in ABOUT_THIS_COMMAND)


def _code(sources: ConfigSources, hydra: Any, config: Mapping[str, Any], folder: Path) -> CodeBundle:
    """Scan the code that would be sent to another machine, with the config folders that the command named."""
    stays, weights = _stays(hydra, config, folder), config["model"].get("weights")
    return scan(PROJECT, sources.sent, stays=stays, model_weights=weights)


def _stays(hydra: Any, config: Mapping[str, Any], folder: Path) -> dict[Path, str]:
    """Return the folders of results and data, which are not code even if they are inside the project."""
    named = {
        "data.root": config["data"].get("root"),
        "aws.state_dir": config["aws"].get("state_dir"),
        "DOGBREED_CACHE": os.environ.get("DOGBREED_CACHE"),
        "hydra.sweep.dir": OmegaConf.select(hydra, "sweep.dir", throw_on_missing=False),
    }
    found = {
        Path(str(text)).expanduser().absolute(): name
        for name, text in named.items()
        if text and not commands.is_address(str(text))
    }
    return {**found, folder: "the run's folder"}


def check_as_sent(config: Mapping[str, Any], there: RunSpec) -> None:
    """Check that the settings composed on a rented machine are the submitted ones.

    Raises ConfigError, listing what differs.
    """
    then, now = (
        {key: value for key, value in settings.items() if key not in STAYS_HERE}
        for settings in (there.config, json.loads(json.dumps(config)))
    )
    if listed := [
        f"{key}: {old} submitted, {new} here" for key, old, new in differences(then, now) if key != "data.root"
    ]:
        raise ConfigError(
            "The configuration composed here differs from the submitted one:\n"
            + "\n".join(listed)
            + "\nTry: settings that do not depend on a machine's environment"
        )


def sent() -> RunSpec | None:
    """Read what was sent to this rented machine; return None on any other machine."""
    file = os.environ.get(SENT)
    return RunSpec.from_json(json.dumps(json.loads(Path(file).read_bytes())["spec"])) if file else None
