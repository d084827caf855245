"""The best trial's settings as an experiment of their own: `python train.py --config-dir SWEEP experiment=best`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dogbreed.run_folder import write_text
from launchers.base import shown_path
from launchers.describe import PROJECT

_NAME = "best"
_NOT_IN_IT = ("hpo", "test", "hydra", "launcher", "aws")


def write_best(sweep: Path, overrides: Sequence[str], drawn: Sequence[str]) -> Path:
    """`sweep/experiment/best.yaml`, out of what all trials have and what this one drew."""
    experiments: list[str] = []
    groups: dict[str, Any] = {}
    values = OmegaConf.create({})
    removed = []
    for parsed in OverridesParser.create().parse_overrides([*overrides, *drawn]):
        key, value = parsed.key_or_group, parsed.value()
        if key.split(".")[0] in _NOT_IN_IT or (key == "logger" and value == "none"):
            continue
        if parsed.is_delete():
            removed.append(str(parsed.input_line))
        elif key == "experiment":
            experiments = [str(value)] if value is not None else []
        elif (PROJECT / "conf" / key).is_dir() and "." not in key:
            groups[key] = value
        else:
            OmegaConf.update(values, key, value, force_add=True)
    defaults: list[Any] = [*experiments, *({f"override /{key}": value} for key, value in groups.items()), "_self_"]
    notes = [f"# also needs, on the command line: {text}" for text in removed]
    head = ["# @package _global_", f"# the best trial of the search in {sweep.name}", *notes]
    text = (
        "\n".join(head) + "\n" + OmegaConf.to_yaml(OmegaConf.create({"defaults": defaults})) + OmegaConf.to_yaml(values)
    )
    path = sweep / "experiment" / f"{_NAME}.yaml"
    write_text(path, text)
    return path


def retrain_command(sweep: Path) -> str:
    return shlex.join(["python", "train.py", "--config-dir", shown_path(sweep), f"experiment={_NAME}"])
