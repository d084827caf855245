"""Find a run of this machine by what a person typed, and name it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from glob import escape
from pathlib import Path

from dogbreed import commands
from dogbreed.commands import override, shown_path
from launchers.overrides import without_faults
from launchers.runs.launched import folder_here, launched
from launchers.runs.searches import is_search
from launchers.runs.state import STATE_FILE, State
from launchers.spec import LAUNCHED_FILE, SPEC_FILE, RunSpec
from launchers.status import Handle, LaunchError

LOCAL = "local"  # scheme of the handles of this machine's runs
RUNS_DIR, SWEEPS_DIR = "runs", "sweeps"  # the default folders of run folders
DEPLOYMENTS_DIR = "deployments"

_MOST_SHOWN = 8  # of the runs that a beginning could mean


def handle_for(folder: Path) -> Handle:
    return Handle(LOCAL, folder.parent.as_posix().rstrip("/"), folder.name)


def folder_of(handle: Handle) -> Path:
    if handle.launcher != LOCAL:
        raise LaunchError(f"{handle} is not a local run.\nTry: a run folder, or {LOCAL}://<its absolute path>")
    return Path(f"{handle.scope}/{handle.run_id}")


def find(text: str, runs_dir: str = RUNS_DIR) -> Handle:
    """Return the handle of a run, a search or a deployment that has a folder on this machine.

    text: a handle, a folder, the name of one in `runs_dir`, sweeps or deployments, what a person called it with name=,
    or an unambiguous beginning of these. Raises LaunchError if there is no such folder, or more than one.
    """
    if commands.is_address(text):
        folder = folder_of(Handle.parse(text))
        if folder.is_dir():
            return handle_for(folder)
        raise LaunchError(_unknown(shown_path(folder), folder.name, runs_dir))
    candidates = [Path(text).absolute(), *(Path(below, text).absolute() for below in _places(runs_dir))]
    folders = [Path(os.path.normpath(path)) for path in candidates if path.is_dir()]
    if folders:
        return handle_for(next(filter(is_ours, folders), folders[0]))
    return handle_for(_only(text, _begun_with(text, runs_dir), runs_dir))


def is_ours(folder: Path) -> bool:
    """Return whether a folder is that of a run, a search or a deployment."""
    return any((folder / name).exists() for name in (STATE_FILE, LAUNCHED_FILE, SPEC_FILE)) or is_search(folder)


def name_in(folder: Path) -> str:
    """Return what a person called the run in a folder, with name=; empty if nothing."""
    try:
        return str(json.loads((folder / SPEC_FILE).read_bytes())["config"].get("name") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def could_be(text: str, found: Iterable[str]) -> str:
    """Say that what a person typed is the beginning of several names."""
    listed = sorted(found)
    shown = [f"  {name}" for name in listed[:_MOST_SHOWN]]
    if len(listed) > _MOST_SHOWN:
        shown.append(f"  and {len(listed) - _MOST_SHOWN} others")
    return "\n".join([f"{text} could be any of these {len(listed)}:", *shown, "Try: more of the one that you mean"])


def near(text: str, names: Iterable[str]) -> list[str]:
    """Return up to three names that may have been meant, the likeliest first."""
    return get_close_matches(text, list(dict.fromkeys(names)), 3, 0.6)


def _places(runs_dir: str) -> tuple[str, ...]:
    return runs_dir, SWEEPS_DIR, DEPLOYMENTS_DIR


def _here(runs_dir: str) -> list[Path]:
    """Return the folders of runs, searches and deployments, without those of trials."""
    return [folder for place in _places(runs_dir) for folder in Path(place).absolute().glob("*/") if is_ours(folder)]


def _begun_with(text: str, runs_dir: str) -> dict[Path, str]:
    """Return the folders that a text may mean, each as a person would call it."""
    if "/" in text:
        path = Path(text).absolute()
        below = path.parent.glob(f"{escape(path.name)}*/") if path.parent.is_dir() else ()
        return {folder: shown_path(folder) for folder in below if is_ours(folder)}
    names = {folder: name_in(folder) for folder in _here(runs_dir)}
    called = {folder: f"{shown_path(folder)}  {name}" for folder, name in names.items() if name == text}
    if called:
        return called
    return {
        folder: f"{shown_path(folder)}  {name}".rstrip()
        for folder, name in names.items()
        if folder.name.startswith(text) or name.startswith(text)
    }


def _only(text: str, found: Mapping[Path, str], runs_dir: str) -> Path:
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise LaunchError(could_be(text, found.values()))
    raise LaunchError(_unknown(shown_path(Path(text).absolute()), text, runs_dir))


def _unknown(shown: str, text: str, runs_dir: str) -> str:
    """Say that there is no such run, and which may have been meant, or else the newest."""
    here = _here(runs_dir)
    by_name = {**{folder.name: folder for folder in here}, **{name_in(folder): folder for folder in here}}
    close = [shown_path(by_name[name]) for name in near(text.rpartition("/")[2], filter(None, by_name))]
    if close:
        return f"There is no run folder {shown}.\nTry: {' or '.join(dict.fromkeys(close))}"
    newest = [shown_path(folder) for folder in sorted(run_folders(runs_dir), key=_started_at, reverse=True)][:3]
    return f"There is no run folder {shown}.\n" + (
        f"Try: one of the newest, {', '.join(newest)}" if newest else "Try: python -m launchers list --all"
    )


def resume_command(folder: Path) -> str:
    """Return the command that resumes the run, or the search, in `folder`, quoted for a shell and for Hydra."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        spec = RunSpec.from_json((folder / SPEC_FILE).read_text())
        if spec.output.same_command_resumes:
            return search_command(spec)
    return commands.train(override("resume", shown_path(folder)))


def search_command(spec: RunSpec, *more: str) -> str:
    """Return the command that resumes a search, without the faults that it was told to inject. more: overrides."""
    return commands.train(*spec.sources.flags, "-m", *spec.sources.searchpath, *without_faults(spec.overrides), *more)


def search_again(handle: Handle, spec: RunSpec, fetch: str) -> str:
    """Return the commands that go on with a search of a cloud, in whichever folder they are typed.

    fetch: the command that brings what the search has left; empty if that is nothing. A search begins anew where
    nothing is known of it.
    """
    if folder_here(handle) is not None:
        return search_command(spec)
    if (launched(Path(spec.folder)) or {}).get("handle") == str(handle):  # its folder is elsewhere on this machine
        return search_command(spec, override("hydra.sweep.dir", spec.folder))
    return f"{fetch}\nand then: {search_command(spec)}" if fetch else search_command(spec)


def run_folders(runs_dir: str = RUNS_DIR, sweeps_dir: str = SWEEPS_DIR) -> Iterator[Path]:
    """Find the folders of local runs: runs/<run> and sweeps/<sweep>/<run>."""
    for base, pattern in ((runs_dir, "*"), (sweeps_dir, "*/*")):
        yield from (state.parent for state in Path(base).absolute().glob(f"{pattern}/{STATE_FILE}"))


def search_folders(sweeps_dir: str = SWEEPS_DIR) -> Iterator[Path]:
    """Find the folders of searches whose trials were started on this machine, or are on it by now."""
    for folder in sorted(Path(sweeps_dir).absolute().glob("*/")):
        note = launched(folder)
        if (note is None or note.get("home")) and is_search(folder):
            yield folder


def _started_at(folder: Path) -> str:
    state = State.read(folder)
    return "" if state is None else state.first_started_at
