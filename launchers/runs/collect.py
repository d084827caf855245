"""Make a downloaded run folder a folder of this machine, and read its result."""

from pathlib import Path

from dogbreed.run_folder import RunFolder, write_json, write_text
from launchers.base import SEARCH_FILE, SPEC_FILE, Handle, RunResult, RunSpec
from launchers.runs.results import read_result


def read_home(handle: Handle, folder: Path) -> RunResult:
    if not (folder / SEARCH_FILE).exists():
        return read_result(handle, RunFolder(folder))
    from launchers.runs.search_folder import read_search

    return read_search(handle, folder)


def settle(folder: Path, spec: RunSpec) -> None:
    """The machine's paths in the folder become this one's again."""
    from omegaconf import OmegaConf

    write_text(folder / SPEC_FILE, spec.to_json())
    there = OmegaConf.create(dict(spec.config))
    for config_file in [RunFolder(folder).config] if spec.search is None else folder.glob("*/config.yaml"):
        if config_file.exists():
            config = OmegaConf.load(config_file)
            for key in ("data.root", "launcher"):
                OmegaConf.update(config, key, OmegaConf.select(there, key), merge=False)
            write_text(config_file, OmegaConf.to_yaml(config))
    if spec.search is not None:
        from launchers.runs.search_folder import move_data

        typed = any(text.lstrip("+").startswith("data.root=") for text in spec.overrides)
        move_data(folder, there.data.root if typed or not there.data.get("source") else None)


def write_metrics_so_far(folder: Path) -> None:
    """metrics.json of a run that was ended before it could write that: of its best epoch, from metrics.csv."""
    from launchers.runs.results import best_so_far

    write_json(RunFolder(folder).metrics, best_so_far(folder))
