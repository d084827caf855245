"""Tell whether two commands mean the same run: a folder or a run id that is used again, with other settings or not."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dogbreed import commands
from dogbreed.commands import override, shown_path
from dogbreed.errors import ConfigError
from dogbreed.run_folder import RunFolder
from launchers.overrides import STAYS_HERE
from launchers.runs.find import resume_command, search_command
from launchers.spec import SPEC_FILE, RunOutput, RunSpec, SearchOutput
from launchers.status import Cause, Handle, LaunchError

_ABSENT = object()


def is_run_folder(folder: Path) -> bool:
    return (folder / SPEC_FILE).exists() or RunFolder(folder).config.exists()


def has_begun(folder: Path) -> bool:
    """Return whether the folder holds something that was trained; a run that failed before that starts over."""
    here = RunFolder(folder)
    return any(path.exists() for path in (here.last, here.previous, here.best, here.metrics))


def saved(folder: Path) -> tuple[RunSpec, dict[str, Any]]:
    """Return the spec of the run in `folder` and its config: config.yaml, or the spec's if the run died before that.

    Raises ConfigError if both files are missing or one cannot be read.
    """
    spec_file, config_file, where = folder / SPEC_FILE, RunFolder(folder).config, shown_path(folder)
    config: dict[str, Any] | None = None
    spec: RunSpec | None = None
    try:
        if config_file.exists():
            from omegaconf import OmegaConf  # its reader takes 1e-4 for a number; PyYAML's does not

            config = dict(OmegaConf.to_container(OmegaConf.load(config_file), resolve=True))  # type: ignore[arg-type]
            config.pop("git", None)  # the code may have changed since
        if spec_file.exists():
            spec = RunSpec.from_json(spec_file.read_text())
    except Exception as error:  # a damaged file can make its reader raise anything
        raise ConfigError(f"{where} holds a damaged config.yaml or spec.json: {error}\nTry: a new run") from error
    if spec is None and config is None:
        raise ConfigError(
            f"{where} is not a run folder: it holds neither config.yaml nor spec.json.\nTry: the run's own folder"
        )
    if spec is None:
        assert config is not None
        run_id = str(config.get("run_id") or folder.name)
        spec = RunSpec(run_id, (), config, str(folder), created_at="", commit=None, dirty=False)
    return spec, dict(spec.config) if config is None else config


def differences(before: Any, after: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, value before, value after) for each value that differs between two nested dicts."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(before.get(key, _ABSENT), after.get(key, _ABSENT), f"{at}.{key}" if at else str(key))
    elif before != after:
        yield at, before, after


def describe_difference(key: str, before: Any, after: Any) -> str:
    return f"{key} was {_shown(before)}, now {_shown(after)}"


def other_settings(before: Mapping[str, Any], now: Mapping[str, Any], *, same_photos: bool = False) -> list[str]:
    """Describe each setting of a run that differs between two configs; those that stay on a machine do not count.

    same_photos: whether the photos are known to be the same, wherever they are.
    """
    one, other = ({k: v for k, v in config.items() if k not in STAYS_HERE} for config in (before, now))
    anywhere = same_photos or bool((now.get("data") or {}).get("source"))  # drawn or downloaded: to any place
    found = differences(one, other)
    return [describe_difference(*each) for each in found if not (anywhere and each[0] == "data.root")]


def refuse_other_settings(folder: Path, now: Mapping[str, Any]) -> None:
    """Raise ConfigError if the folder holds what was trained with other settings than `now`, listing them."""
    if not (is_run_folder(folder) and has_begun(folder)):
        return
    _, before = saved(folder)
    if listed := other_settings(before, now):
        raise ConfigError(another_run(folder, listed))


def another_run(folder: Path, listed: list[str]) -> str:
    return (
        f"{shown_path(folder)} holds a run with other settings:\n"
        + "".join(f"  {text}\n" for text in listed)
        + "Try: another folder for the new run (run_id=, hydra.run.dir=, or in a sweep hydra.sweep.dir=)\n"
        f"or:  {resume_command(folder)}, to go on with the run that is there"
    )


def refuse_search(folder: Path, spec: RunSpec) -> None:
    """Raise ConfigError if the folder is a search's."""
    if not isinstance(spec.output, RunOutput):
        raise ConfigError(
            f"{shown_path(folder)} is a search, not a run; its own command again resumes it.\n"
            f"Try: {search_command(spec)}"
        )


def refuse_another_run(now: RunSpec, before: RunSpec, handle: Handle) -> None:
    """Raise LaunchError, listing the differences, if the run id of `now` belongs to something with other settings.

    before: the spec that was submitted with this id.
    """
    match now.output, before.output:
        case SearchOutput(digest=digest), SearchOutput(digest=known):
            listed = _other_search(now, before) if known and digest != known else []
        case RunOutput(), RunOutput():
            one, other = before.photos, now.photos
            same = one is not None and other is not None and one.digest == other.digest
            listed = other_settings(before.config, now.config, same_photos=same)
            if one is not None and other is not None and not same:
                listed.append(f"the photos in {now.config['data']['root']} have changed")
        case _:
            listed = ["a search and a run cannot share a name"]
    if listed:
        raise LaunchError(
            f"The name {now.run_id} belongs to another {'run' if isinstance(before.output, RunOutput) else 'search'}, "
            "with other settings:\n" + "".join(f"  {text}\n" for text in listed) + f"Try: {_another_name(now, handle)}",
            Cause.BAD_CONFIG,
        )


def _other_search(now: RunSpec, before: RunSpec) -> list[str]:
    listed = other_settings(before.config, now.config, same_photos=True)
    typed = (commands.shell(*spec.overrides) or "the defaults" for spec in (before, now))
    return listed or ["the search space: was {}, now {}".format(*typed)]


def _another_name(now: RunSpec, handle: Handle) -> str:
    if isinstance(now.output, SearchOutput):
        return "another name (hpo.study=...), hpo.fresh=true for a new search beside it, or its own settings"
    return f"another run_id=\nor:  {commands.train(override('resume', str(handle)))}, to go on with that run"


def _shown(value: Any) -> str:
    return "not set" if value is _ABSENT else repr(value)
