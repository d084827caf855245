"""Write the best trial's settings as an experiment: `python train.py --config-dir SWEEP experiment=best`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dogbreed.run_folder import write_text
from launchers.config_sources import PROJECTS_OWN, ConfigSources
from launchers.overrides import root_key
from launchers.project import PROJECT
from launchers.runs.search_folder import BEST

_LEFT_OUT = ("hpo", "test", "hydra", "launcher", "aws")


def write_best(sweep: Path, study: str, overrides: Sequence[str], drawn: Sequence[str]) -> Path:
    """Write `sweep/experiment/best.yaml`. overrides: those of all trials. drawn: the best trial's parameters."""
    experiments: list[str] = []
    groups: dict[str, Any] = {}
    values = OmegaConf.create({})
    removed: list[str] = []
    sources, rest = ConfigSources.split(overrides)
    for parsed in OverridesParser.create().parse_overrides([*rest, *drawn]):
        key, value = parsed.key_or_group, cast(Any, parsed.value())
        if key.split(".")[0] in _LEFT_OUT or (key == "logger" and value == "none"):
            continue
        if parsed.is_delete():
            removed.append(str(parsed.input_line))
        elif key == "experiment":
            experiments = [str(value)] if value is not None else []
        elif (PROJECT / "conf" / key).is_dir() and "." not in key:
            groups[key] = value
        else:
            OmegaConf.update(values, key, value, force_add=True)
    experiments = [_copied(sweep, sources.sent, experiment) for experiment in experiments]
    defaults: list[Any] = [*experiments, *({f"override /{key}": value} for key, value in groups.items()), "_self_"]
    notes = [f"# also needs, on the command line: {text}" for text in removed]
    head = ["# @package _global_", f"# the best trial of the search {study}", *notes]
    text = (
        "\n".join(head) + "\n" + OmegaConf.to_yaml(OmegaConf.create({"defaults": defaults})) + OmegaConf.to_yaml(values)
    )
    path = sweep / "experiment" / f"{BEST}.yaml"
    write_text(path, text)
    return path


def best_words(overrides: Sequence[str], drawn: Sequence[str]) -> list[str]:
    """Return the command that trains with the best trial's settings if the search had a primary config of the user's.

    `best.yaml` would be composed before that config, which could replace its values. Return no words if it had none.
    overrides, drawn: as in `write_best`.
    """
    sources, rest = ConfigSources.split(overrides)
    if (sources.name, sources.folder) == (PROJECTS_OWN.name, PROJECTS_OWN.folder):
        return []
    kept = [text for text in rest if root_key(text) not in _LEFT_OUT and text != "logger=none"]
    return ["python", "train.py", *sources.words, *kept, *drawn]


def _copied(sweep: Path, places: Sequence[Path], experiment: str) -> str:
    """Copy an experiment from a folder of the user's beside best.yaml, if it is not in conf/; return its name there.

    A best.yaml of another search is renamed after that search. places: the user's config folders.
    """
    if (PROJECT / "conf" / "experiment" / f"{experiment}.yaml").exists():
        return experiment
    for place in places:
        if not (place / "experiment" / f"{experiment}.yaml").exists() or place.resolve() == sweep.resolve():
            continue
        names = {file.stem: file.stem for file in sorted((place / "experiment").glob("*.yaml"))}
        if BEST in names:
            names[BEST] = f"{BEST}-of-{place.name}"
        for stem, name in names.items():
            write_text(sweep / "experiment" / f"{name}.yaml", (place / "experiment" / f"{stem}.yaml").read_text())
        return names[experiment]
    return experiment
