"""Adapt a downloaded run folder to this machine, and read its result."""

from pathlib import Path
from typing import Any

from dogbreed.run_folder import SEARCH_FILE, RunFolder, best_trial, lasting_files, write_json, write_text
from launchers.runs.results import best_so_far, read_result
from launchers.spec import LAUNCHED_FILE, SPEC_FILE, STUDY_FILE, RunOutput, RunSpec, SearchOutput
from launchers.status import Handle, LaunchError, RunResult


def read_downloaded(handle: Handle, folder: Path) -> RunResult:
    """Read the result of a run or a search from its folder. Raises LaunchError if it cannot be read."""
    if not (folder / SEARCH_FILE).exists():
        return read_result(handle, RunFolder(folder))
    from launchers.runs.search_folder import read_search  # brings OmegaConf

    return read_search(handle, folder)


def settle(folder: Path, spec: RunSpec) -> None:
    """Replace the rented machine's paths in the folder with those of this machine."""
    from omegaconf import OmegaConf

    write_text(folder / SPEC_FILE, spec.to_json())
    here = OmegaConf.create(dict(spec.config))
    match spec.output:
        case RunOutput():
            _settle_config(RunFolder(folder).config, here)
        case SearchOutput():
            from launchers.runs.search_folder import move_data, move_words

            for config_file in folder.glob("*/config.yaml"):
                _settle_config(config_file, here)
            typed = any(text.lstrip("+").startswith("data.root=") for text in spec.overrides)
            root = here.data.root if typed or not here.data.get("source") else None
            move_data(folder, root)
            move_words(folder, spec.sources, root)


def _settle_config(config_file: Path, here: Any) -> None:
    from omegaconf import OmegaConf

    if not config_file.exists():
        return
    config = OmegaConf.load(config_file)
    for key in ("data.root", "launcher"):
        OmegaConf.update(config, key, OmegaConf.select(here, key), merge=False)
    write_text(config_file, OmegaConf.to_yaml(config))


def complete(folder: Path, spec: RunSpec, missing: str) -> None:
    """Write the result of a run that was stopped before it could: the metrics of its best epoch, from metrics.csv.

    missing: the object that would have held the results. Raises LaunchError for a search, which has no metrics.csv.
    """
    match spec.output:
        case RunOutput():
            write_json(RunFolder(folder).metrics, best_so_far(folder))
        case SearchOutput():
            raise LaunchError(f"{missing}, which held the search's results, no longer exists.")


def files_to_resume_from(spec: RunSpec) -> list[Path]:
    """List the files of a run's folder that another machine needs to resume the run."""
    folder = Path(spec.folder)
    files = [path for path in lasting_files(folder) if path.name != LAUNCHED_FILE]
    match spec.output:
        case RunOutput():
            return files
        case SearchOutput():  # ended trials are not resumed, but the best one is tested at the end
            best = best_trial(folder)
            return [path for path in files if path == folder / STUDY_FILE or best in path.parents]
