"""The configuration files, composed as a command would compose them."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import launchers.resolvers  # noqa: F401 (registers ${new_run_id:})
from tests.support.project import ROOT

CONF: Path = ROOT / "conf"


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def names(group: str) -> list[str]:
    """Return what can be chosen in a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "base")


def choices() -> list[str]:
    """Return every `group=name`."""
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    return [f"{group}={name}" for group in groups for name in names(group)]
