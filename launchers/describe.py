"""From what was typed to a RunSpec: the one place that looks at the clock, at git and at Hydra's config."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import ConfigError
from launchers.base import RunOutput, RunSpec
from launchers.overrides import ABOUT_THIS_COMMAND, STAYS_HERE
from launchers.payload import photos
from launchers.payload.code import CodeBundle, scan
from launchers.project import PROJECT, git_state
from launchers.registry import capabilities_of
from launchers.remote.context import SENT
from launchers.resume import differences, fetch_checkpoints, going_on, saved, typed_after_resume


def describe(cfg: DictConfig, hydra: Any = None) -> RunSpec:
    """The run that `cfg` asks for. `hydra`: Hydra's own config where no Hydra application is running.

    Of a remote run that is resumed here, it downloads what that has saved. Raises ConfigError for values that are still
    missing, all at once, and for a resume that changes what the run is.
    """
    hydra = HydraConfig.get() if hydra is None else hydra
    if missing := sorted(map(str, OmegaConf.missing_keys(cfg))):
        raise ConfigError(
            f"{len(missing)} value{'s are' if len(missing) > 1 else ' is'} missing: {', '.join(missing)}\n"
            f"Try: {' '.join(f'{key}=...' for key in missing)}"
        )
    composed: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    overrides = list(hydra.overrides.task)
    folder = Path(OmegaConf.select(hydra, "runtime.output_dir", throw_on_missing=False) or hydra.run.dir).absolute()
    run_id, created_at, config = str(composed["run_id"]), datetime.now(UTC).isoformat(timespec="seconds"), composed
    now: list[str] | None = None
    launcher = capabilities_of(composed["launcher"])
    if composed["resume"]:
        if hydra.mode == RunMode.MULTIRUN:
            raise ConfigError("resume= goes on with one run, but -m starts several.\nTry: the same command without -m")
        before, _ = saved(folder)
        run_id, created_at = before.run_id, before.created_at or created_at
        now = typed_after_resume(overrides)
        config = going_on(folder, composed, now, hydra.runtime.choices)
        if not launcher.remote:
            fetch_checkpoints(folder)
    there = sent()
    # a search checks this itself: each of its trials has drawn other settings
    if there is not None and isinstance(there.output, RunOutput):
        check_as_sent(config, there)
    commit, dirty = git_state()
    code = _code(hydra) if launcher.sends_code else None
    photos = _photos(config) if code else None
    lasting = None if now is None else _lasting(now)
    return RunSpec(run_id, _lasting(overrides), config, str(folder), created_at, commit, dirty, code, photos, lasting)


def _photos(config: Mapping[str, Any]) -> photos.SentFolder | None:
    """The data folder that lies on this machine alone: not in S3, and nothing that another machine could fetch."""
    root = str(config["data"].get("root"))
    return None if config["data"].get("source") or root.startswith("s3://") else photos.scan(Path(root))


def _lasting(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in overrides if text.lstrip("+~").partition("=")[0] not in ABOUT_THIS_COMMAND)


def _code(hydra: Any) -> CodeBundle:
    """What would be sent to another machine, with the folders of YAML files that the command named."""
    ours = ("command-line", "hydra.searchpath in command-line")
    sources = OmegaConf.select(hydra, "runtime.config_sources", throw_on_missing=False) or []
    places = [str(source.path) for source in sources if source.provider in ours]
    named = [str(place) for place in OmegaConf.select(hydra, "searchpath", throw_on_missing=False) or []]
    places += [place.removeprefix("file://") for place in named if place.startswith("file://")]
    return scan(PROJECT, [Path(place).absolute() for place in dict.fromkeys(places)])


def check_as_sent(config: Mapping[str, Any], there: RunSpec) -> None:
    """On a rented machine: refuse settings that differ from those that the person who sent them saw.

    Raises ConfigError, listing what differs.
    """
    then, now = (
        {key: value for key, value in settings.items() if key not in STAYS_HERE}
        for settings in (there.config, json.loads(json.dumps(config)))
    )
    if listed := [
        f"{key}: {old} was sent, {new} here" for key, old, new in differences(then, now) if key != "data.root"
    ]:
        raise ConfigError(
            "This machine makes other settings of the same command:\n"
            + "\n".join(listed)
            + "\nTry: no settings that depend on the machine's own environment"
        )


def sent() -> RunSpec | None:
    """What the person who rented this machine has sent; null where nobody has."""
    file = os.environ.get(SENT)
    return RunSpec.from_json(json.dumps(json.loads(Path(file).read_bytes())["spec"])) if file else None
