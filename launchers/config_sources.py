"""What Hydra composes a config from besides overrides: the primary config's name, its folder, and further folders."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from dogbreed.commands import override, working_folder
from dogbreed.errors import ConfigError
from launchers.overrides import override_key
from launchers.project import PROJECT

CONFIG = "config"  # the primary config that train.py names
_CONF = PROJECT / "conf"
_FILE = "file://"
_MAIN, _BESIDE = "main", "command-line"  # Hydra's names: of --config-path, of --config-dir
_FURTHER = ("hydra.searchpath in command-line", "hydra.searchpath in main")
_FLAGS = {"-cn": "--config-name", "-cp": "--config-path", "-cd": "--config-dir"}


@dataclass(frozen=True)
class ConfigSources:
    """The sources that a command named, by --config-name, --config-path, --config-dir and hydra.searchpath.

    folder: --config-path, absolute; None for conf/ of the project. beside: --config-dir, absolute. further: of
    hydra.searchpath, file:// with an absolute path, or pkg://. Hydra searches them in this order.
    """

    name: str = CONFIG
    folder: str | None = None
    beside: str | None = None
    further: tuple[str, ...] = ()

    @classmethod
    def of(cls, hydra: Any) -> Self:
        """Read them from Hydra's own config. Raises ConfigError for a primary config in a Python package."""
        from omegaconf import OmegaConf

        def selected(key: str) -> Any:
            return OmegaConf.select(hydra, key, throw_on_missing=False)

        sources = selected("runtime.config_sources") or []
        found = [(str(source.provider), f"{source.schema}://{source.path}") for source in sources]
        main, beside = (next((at for provider, at in found if provider == name), None) for name in (_MAIN, _BESIDE))
        if main is not None and not main.startswith(_FILE):
            raise ConfigError(f"--config-path={main} is not a folder.\nTry: the path of a folder")
        return cls(
            str(selected("job.config_name") or CONFIG),
            None if main is None else _not_conf(_path(main)),
            None if beside is None else _path(beside),
            _unique(map(_absolute, [address for provider, address in found if provider in _FURTHER])),
        )

    @classmethod
    def split(cls, words: Sequence[str]) -> tuple[Self, list[str]]:
        """Take them out of the words of a command, as `train.py` understands them; return the other words as well."""
        given, rest, left = dict[str, str](), list[str](), list(words)
        while left:
            word = left.pop(0)
            typed, assigned, value = word.partition("=")
            flag = _flag(typed)
            if flag is None:
                rest.append(word)
            elif assigned or left:
                given[flag] = value if assigned else left.pop(0)
            else:
                raise ConfigError(f"{word} needs a value.\nTry: python train.py --help")
        further = list[str]()
        for text in [text for text in rest if override_key(text) == "hydra.searchpath"]:
            further += _listed(text)
            rest.remove(text)
        folder = _not_conf(os.path.normpath(PROJECT / given.get("--config-path", _CONF)))
        beside = _path(given["--config-dir"]) if "--config-dir" in given else None
        return cls(given.get("--config-name", CONFIG), folder, beside, _unique(map(_absolute, further))), rest

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Build them from JSON fields, in which the tuple has become a list."""
        return cls(**{**fields, "further": tuple(fields["further"])})

    @property
    def flags(self) -> list[str]:
        """The words that Hydra wants in front of all overrides. Folders in the project are named from there."""
        given = {
            "--config-name": None if self.name == CONFIG else self.name,
            "--config-path": None if self.folder is None else _in_project(self.folder),
            "--config-dir": self.beside,
        }
        return [f"{flag}={value}" for flag, value in given.items() if value is not None]

    @property
    def searchpath(self) -> list[str]:
        """The further sources as an override."""
        quoted = ",".join(override("p", address)[2:] for address in self.further)
        return [f"hydra.searchpath=[{quoted}]"] if quoted else []

    @property
    def words(self) -> list[str]:
        """All of them as words of a command."""
        return [*self.flags, *self.searchpath]

    @property
    def sent(self) -> list[Path]:
        """The folders that another machine needs and that do not come with the project."""
        outside = self.folder is not None and Path(_in_project(self.folder)).is_absolute()
        named = [self.folder if outside else None, self.beside, *map(_local_path, self.further)]
        return [Path(path) for path in named if path is not None]

    def moved(self, project: str, names: Sequence[str]) -> Self:
        """Return the same sources for a command in `project`, another machine's copy of it.

        names: of the folders of `sent`, below it.
        """
        there = dict(zip(map(str, self.sent), names, strict=True))
        folder, beside = (None if path is None else there.get(path, path) for path in (self.folder, self.beside))
        places = ((at, _local_path(at)) for at in self.further)
        further = tuple(at if path is None else f"{_FILE}{project}/{there[path]}" for at, path in places)
        return replace(self, folder=folder and str(PROJECT / folder), beside=beside, further=further)

    def joined(self, later: Self) -> Self:
        """Return these sources with the further ones of a later command.

        Folders that no longer exist are left out. Raises ConfigError if that command names another primary config.
        """
        findings = []
        if later.name not in (CONFIG, self.name):
            findings.append(f"--config-name was {self.name}, now {later.name}")
        folder = self.folder if self.folder is None or Path(self.folder).is_dir() else later.folder
        if later.folder not in (None, folder):
            findings.append(f"--config-path was {self.folder or _CONF}, now {later.folder}")
        if findings:
            listed = "".join(f"  {text}\n" for text in findings)
            raise ConfigError(f"A resumed run keeps its config:\n{listed}Try: leave this out, or a new run")
        before, now = ([] if path is None else [f"{_FILE}{path}"] for path in (self.beside, later.beside))
        places = [*filter(_exists, before), *now]  # Hydra takes one --config-dir
        further = _unique([*filter(_exists, self.further), *places[1:], *later.further])
        return replace(self, folder=folder, beside=_path(places[0]) if places else None, further=further)

    def not_among(self, files: Collection[str], config_dirs: Sequence[str]) -> Iterator[str]:
        """Yield what another machine would lack. files: of the code that is sent. config_dirs: folders in it."""
        folder = "conf" if self.folder is None else _in_project(self.folder)
        folders = [*([] if Path(folder).is_absolute() else [folder]), *config_dirs]
        name = self.name if self.name.endswith(".yaml") else f"{self.name}.yaml"
        named = (self.name, self.folder) != (CONFIG, None)
        if named and not any(f"{place}/{name}" in files for place in folders):
            yield f"{name}, the config that --config-name names, is not among the files that are sent"
        for address in self.further:
            package = address.removeprefix("pkg://").partition(".")[0]
            if address.startswith("pkg://") and not any(file.startswith(f"{package}/") for file in files):
                yield f"{address} in hydra.searchpath is not a package of the project, so it is not sent"


PROJECTS_OWN = ConfigSources()  # conf/config.yaml


def _flag(typed: str) -> str | None:
    """Return the long form of a flag, which may be abbreviated; None for anything else."""
    longs = [long for long in _FLAGS.values() if typed.startswith("--") and long.startswith(typed)]
    return _FLAGS.get(typed) or (longs[0] if len(longs) == 1 else None)


def _listed(text: str) -> Iterator[str]:
    """Yield the entries of hydra.searchpath=[...]."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = OverridesParser.create().parse_override(text).value()
    yield from map(str, value if isinstance(value, list) else [] if value is None else [value])


def _path(address: str) -> str:
    return str(working_folder() / address.removeprefix(_FILE))


def _local_path(address: str) -> str | None:
    """Return the path of a folder; None for a package."""
    return address.removeprefix(_FILE) if address.startswith(_FILE) else None


def _not_conf(folder: str) -> str | None:
    return None if folder == str(_CONF) else folder


def _absolute(address: str) -> str:
    scheme, found, path = address.partition("://")
    if found and scheme != "file":
        return address
    return f"{_FILE}{_path(path if found else address)}"


def _unique(addresses: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(addresses))


def _exists(address: str) -> bool:
    return not address.startswith(_FILE) or Path(address.removeprefix(_FILE)).is_dir()


def _in_project(folder: str) -> str:
    """Return the folder's path below the project, as --config-path takes it; outside the project, the absolute one."""
    path = Path(folder)
    return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else str(path)
