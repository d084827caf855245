"""Going on with a run: which overrides Hydra composes again, and which of them may change what the run was."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from dogbreed.errors import ConfigError
from dogbreed.run_folder import RunFolder
from launchers.base import SPEC_FILE, Phase, RunOutput, RunSpec
from launchers.formatting import shown_path
from launchers.overrides import STAYS_HERE, key_path, override, refuse_renamed, unquoted
from launchers.registry import find_run, launched_run
from launchers.runs.launched import launched

MAY_CHANGE = frozenset(  # where and how, not what; weights come with the checkpoint
    {"data.root", "data.workers", "data.max_bad_fraction", "model.weights", "model.compile", "features.max_gb"}
)

_ABSENT = object()


def expand(typed: Sequence[str]) -> list[str]:
    """What Hydra should compose. Without `resume=` that is what was typed; else the run's own overrides come first.

    The result reads: what the run was started with, its id and folder, `resume=FOLDER`, then what was typed now. So
    Hydra checks new overrides against the run's own groups, and `typed_after_resume` can tell them from the old ones.

    Raises ConfigError for a key that has been renamed, and for a run that cannot be resumed.
    """
    refuse_renamed(typed)
    asked = [text for text in typed if text.startswith("resume=")]
    value = asked[-1].removeprefix("resume=") if asked else "null"
    if value in ("null", ""):
        return list(typed)
    folder = _folder(unquoted(value))
    spec, _ = saved(folder)
    if not isinstance(spec.output, RunOutput):
        raise ConfigError(f"{shown_path(folder)} is a search, which goes on by the same command again, without resume=")
    flags, rest, about = [], [], {"run_id": spec.run_id, "hydra.run.dir": str(folder)}
    for text in typed:
        key, assigned, given = text.partition("=")
        if text.startswith("-") or not (assigned or text.startswith("~")):
            flags.append(text)  # --cfg job, -m: Hydra's parser wants them in front of the overrides
        elif key == "resume":
            continue
        elif key not in about:
            rest.append(text)
        elif unquoted(given) not in (about[key], shown_path(folder)):
            raise ConfigError(f"A resumed run keeps its {key}: {about[key]}, not {given}.\nTry: leaving out {key}=...")
    replaced = {_key(text) for text in rest}
    # A group chosen anew, as in logger=csv, takes the old one's own settings with it: logger.version is not csv's
    below = tuple(f"{_key(text)}." for text in rest if text not in spec.overrides)
    kept = [o for o in spec.overrides if _key(o) not in replaced and not o.lstrip("+~").startswith(below)]
    return [
        *flags,
        *kept,
        override("run_id", spec.run_id),
        override("hydra.run.dir", str(folder)),
        override("resume", str(folder)),
        *rest,
    ]


def _folder(value: str) -> Path:
    """Return the folder of the run that `resume=` names, with a remote run's settings in it."""
    launcher, handle = find_run(value)
    if (here := launcher.folder(handle)) is not None:
        return here
    folder = None if "://" in value else Path(value).absolute()
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
    """Whether the run of this folder has files elsewhere that are not in it."""
    note = launched(folder)
    if note is None or note.get("home"):
        return False
    launcher, handle = launched_run(note)
    return launcher.status(handle).phase is not Phase.LOST  # it was to be submitted, but never was


def typed_after_resume(overrides: Sequence[str]) -> list[str]:
    """The overrides of this command alone, out of what `expand` made."""
    places = [n for n, text in enumerate(overrides) if text.startswith("resume=")]
    if not places:
        raise ConfigError("resume belongs to one command, not into a file.\nTry: python train.py resume=RUN_FOLDER")
    return list(overrides[places[-1] + 1 :])


def saved(folder: Path) -> tuple[RunSpec, dict[str, Any]]:
    """What the run in `folder` was started as, and its config: config.yaml's, or the spec's if it died before that.

    Raises ConfigError where neither is there or one cannot be read.
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
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise ConfigError(f"{where} holds a damaged config.yaml or spec.json: {error}\nTry: a new run") from error
    if spec is None and config is None:
        raise ConfigError(
            f"{where} holds neither config.yaml nor spec.json, so it is no run's folder.\nTry: the run's own folder"
        )
    if spec is None:
        assert config is not None
        run_id = str(config.get("run_id") or folder.name)
        spec = RunSpec(run_id, (), config, str(folder), created_at="", commit=None, dirty=False)
    return spec, dict(spec.config) if config is None else config


def going_on(
    folder: Path, composed: Mapping[str, Any], typed: Sequence[str], choices: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of the resumed run: the folder's, with what was typed now on top.

    composed: the whole config, old and new overrides together. choices: Hydra's choice for each group.
    Raises ConfigError, listing all changes that would make it another run.
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
    here = RunFolder(folder)
    begun = any(path.exists() for path in (here.last, here.previous, here.best, here.metrics))
    if begun or (launched(folder) or {}).get("saved"):  # else it starts over
        findings += [
            f"{key} was {_shown(old)}, now {_shown(new)}" for key, old, new in differences(before, after) if _fixed(key)
        ]
    if findings:
        raise ConfigError(
            f"The run in {shown_path(folder)} cannot go on with other data, another model or another seed:\n"
            + "".join(f"  {text}\n" for text in findings)
            + "Try: a new run, without resume="
        )
    return after


def _fixed(key: str) -> bool:
    """Whether another value would make it another run."""
    return key == "seed" or (key.split(".")[0] in ("data", "model", "features") and key not in MAY_CHANGE)


def differences(before: Any, after: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, value before, value after) of each value that is not the same in two nested dicts."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(before.get(key, _ABSENT), after.get(key, _ABSENT), f"{at}.{key}" if at else str(key))
    elif before != after:
        yield at, before, after


def _copy(path: Sequence[str], source: Any, target: Any) -> None:
    """Make `target` hold at `path` what `source` holds there; take it away where `source` has nothing."""
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


def _shown(value: Any) -> str:
    return "not set" if value is _ABSENT else repr(value)
