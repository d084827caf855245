"""Resuming a run: which overrides Hydra composes again, and which settings may change."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from dogbreed.commands import is_address, override, shown_path, unquoted
from dogbreed.errors import ConfigError
from launchers.config_sources import ConfigSources
from launchers.overrides import STAYS_HERE, about_waiting, key_path, override_key, refuse_renamed, without_faults
from launchers.registry import find_run, launched_run
from launchers.runs.find import find, folder_of
from launchers.runs.identity import (
    another_run,
    describe_difference,
    differences,
    has_begun,
    is_run_folder,
    other_settings,
    refuse_search,
    saved,
)
from launchers.runs.launched import launched
from launchers.spec import RunSpec
from launchers.status import Phase
from launchers.typed import readable

MAY_CHANGE = frozenset(  # settings that say where and how to train, not what; weights come with the checkpoint
    {"data.root", "data.workers", "data.max_bad_fraction", "data.max_conflicts"}
    | {"model.weights", "model.compile", "features.max_gb"}
)


def expand(typed: Sequence[str]) -> list[str]:
    """Return the overrides that Hydra should compose: those typed, after the run's own ones if there is a `resume=`.

    The order is: what the run was started with, its id and folder, `resume=FOLDER`, then what was typed now. So Hydra
    checks new overrides against the run's own groups, and `typed_after_resume` can tell them from the old ones. The
    run's own config sources come first.

    Faults that the run was told to inject are left out. Paths are made absolute. Raises ConfigError for words that
    Hydra cannot read, for a key that has been renamed, for a run that cannot be resumed, and for another primary config
    than its own.
    """
    refuse_renamed(typed)
    typed = readable(typed)
    asked = [text for text in typed if text.startswith("resume=")]
    value = asked[-1].removeprefix("resume=") if asked else "null"
    if value in ("null", ""):
        return list(typed)
    state_dirs = [text.partition("=")[2] for text in typed if override_key(text) == "aws.state_dir"]
    folder = _folder(unquoted(value), unquoted(state_dirs[-1]) if state_dirs else None)
    spec, _ = saved(folder)
    refuse_search(folder, spec)
    sources, typed = ConfigSources.split(typed)
    sources = spec.sources.joined(sources)
    flags, rest, about = sources.flags, [], {"run_id": spec.run_id, "hydra.run.dir": str(folder)}
    for text in typed:
        key, assigned, given = text.partition("=")
        if text.startswith("-") or not (assigned or text.startswith("~")):
            flags.append(text)  # --cfg job, -m: Hydra's parser wants them in front of the overrides
        elif key == "resume":
            continue
        elif key not in about:
            rest.append(text)
        elif unquoted(given) not in (about[key], shown_path(folder)):
            raise ConfigError(f"A resumed run keeps its {key}: {about[key]}, got {given}.\nTry: leave out {key}=...")
    replaced = {_key(text) for text in rest}
    # A new choice for a group, as in logger=csv, drops the old choice's settings: csv has no logger.version
    below = tuple(f"{_key(text)}." for text in rest if text not in spec.overrides)
    before = [text for text in without_faults(spec.overrides) if not about_waiting(text)]
    kept = [text for text in before if _key(text) not in replaced and not text.lstrip("+~").startswith(below)]
    return [
        *flags,
        *sources.searchpath,
        *kept,
        override("run_id", spec.run_id),
        override("hydra.run.dir", str(folder)),
        override("resume", str(folder)),
        *rest,
    ]


def _folder(value: str, state_dir: str | None) -> Path:
    """Return the folder of the run that `resume=` names; download a remote run's settings into it.

    state_dir: of the rehearsal cloud, if it was typed.
    """
    launcher, handle = find_run(value, state_dir=state_dir)
    if (here := launcher.folder(handle)) is not None:
        return here
    folder = None if is_address(value) else folder_of(find(value))
    if folder is not None and not _away(folder):
        return folder
    return launcher.fetch(handle, folder, checkpoints=False)


def fetch_checkpoints(folder: Path) -> None:
    """Download what a remote run has saved into its folder on this machine, unless its results are there already.

    Raises LaunchError for a run that has not ended.
    """
    if _away(folder):
        launcher, handle = launched_run(launched(folder) or {})
        launcher.fetch(handle, folder, checkpoints=True)


def _away(folder: Path) -> bool:
    """Whether the run of this folder has files elsewhere that have not been downloaded."""
    note = launched(folder)
    if note is None or note.get("home"):
        return False
    launcher, handle = launched_run(note)
    return launcher.status(handle).phase is not Phase.LOST  # LOST: submitting it has failed


def begun_here(folder: Path) -> RunSpec | None:
    """Return the run whose folder a command names again without `resume=`; None if nothing of a run is there.

    A run that failed before it had trained anything starts over. Raises ConfigError for a search's folder.
    """
    if not is_run_folder(folder) or not (has_begun(folder) or _away(folder)):
        return None
    spec, config = saved(folder)
    refuse_search(folder, spec)
    return replace(spec, config=config)


def refuse_another(folder: Path, before: RunSpec, now: Mapping[str, Any]) -> None:
    """Raise ConfigError, listing the differences, if `now` has other settings than the run that began in the folder."""
    if listed := other_settings(before.config, now):
        raise ConfigError(another_run(folder, listed))


def typed_after_resume(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of this command alone, from the result of `expand`."""
    positions = [n for n, text in enumerate(overrides) if text.startswith("resume=")]
    if not positions:
        raise ConfigError("resume is set in a file, not on the command line.\nTry: python train.py resume=RUN_FOLDER")
    return list(overrides[positions[-1] + 1 :])


def resumed_config(
    folder: Path, composed: Mapping[str, Any], typed: Sequence[str], choices: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the config of the resumed run: the folder's, with the overrides of this command applied.

    composed: the whole config, old and new overrides together. typed: the overrides of this command. choices: Hydra's
    choice for each group. Raises ConfigError, listing all changes that would make it another run.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    spec, before = saved(folder)
    after = deepcopy(before)
    findings = []
    for parsed in OverridesParser.create().parse_overrides(list(typed)):
        key = parsed.key_or_group
        if key == "experiment":
            was = next((text.partition("=")[2] for text in spec.overrides if _key(text) == key), "null")
            now = str(choices.get(key) or "null")
            if now != was.strip("'\""):
                findings.append(f"experiment was {was}, now {now}")
        elif not key.startswith("hydra"):
            _copy(key_path(key), composed, after)
    for key in sorted(STAYS_HERE & (composed.keys() | after.keys())):
        _copy([key], composed, after)
    # without a checkpoint, here or there, there is nothing to resume, and it starts over
    if has_begun(folder) or (launched(folder) or {}).get("saved"):
        findings += [describe_difference(*each) for each in differences(before, after) if _fixed(each[0])]
    if findings:
        raise ConfigError(
            f"Cannot resume the run in {shown_path(folder)} with other data, another model or another seed:\n"
            + "".join(f"  {text}\n" for text in findings)
            + "Try: a new run, without resume="
        )
    return after


def _fixed(key: str) -> bool:
    """Whether another value of this key would make it another run."""
    return key == "seed" or (key.split(".")[0] in ("data", "model", "features") and key not in MAY_CHANGE)


def _copy(path: Sequence[str], source: Any, target: Any) -> None:
    """Copy the value at `path` from `source` to `target`; remove it from `target` if `source` has none."""
    *parents, last = path
    for name in parents:
        if not isinstance(source, dict) or not isinstance(target, dict) or name not in source:
            return
        source, target = source[name], target.setdefault(name, {})
        if isinstance(source, list):
            return
    if isinstance(target, dict):
        if last in source:
            target[last] = deepcopy(source[last])
        else:
            target.pop(last, None)


def _key(text: str) -> str:
    return text.partition("=")[0]
