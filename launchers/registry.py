"""The one table of back ends: it maps a handle, a scheme or a target to its launcher and its cloud.

A back end is a class that implements `launchers.base.Launcher`, and a row in this table.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from dogbreed.commands import is_address
from dogbreed.errors import ConfigError
from launchers.base import Capabilities, Cloud, Launcher
from launchers.runs.find import LOCAL, find, folder_of
from launchers.runs.launched import NOT_OF_THE_PLACE, folder_here, launched
from launchers.status import Handle, LaunchError

LAUNCHERS: dict[str, str] = {  # scheme of its handles -> its class, which is imported when it is needed
    LOCAL: "launchers.local.LocalLauncher",
    "sagemaker": "launchers.sagemaker.training.SageMakerLauncher",
    "tuner": "launchers.sagemaker.tuner.Tuner",
    "deploy": "launchers.deploy.launcher.DeployLauncher",
    "ec2": "launchers.ec2.spot.Ec2Launcher",
}
CLOUDS: dict[str, str] = {  # scope of handles -> its class; any other scope is a region of one's own account
    "rehearsal": "launchers.rehearsal.cloud.Rehearsal",
}
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+){1,3}-\d{1,2}")  # such as us-gov-west-1
_ACCOUNT = "launchers.aws.account.Account"


def launcher_of(handle: Handle, place: Mapping[str, str] | None = None, *, runs_dir: str = "runs") -> Launcher:
    """Return a launcher that can follow the run, from its handle alone.

    place: what was stored about its cloud (`Cloud.place`). Raises LaunchError for an unknown scheme.
    """
    if handle.launcher not in LAUNCHERS:
        known = ", ".join(f"{scheme}://" for scheme in LAUNCHERS)
        raise LaunchError(f"{handle} belongs to an unknown launcher; known are {known}.\nTry: a run folder")
    launcher: type[Launcher] = _load(LAUNCHERS[handle.launcher])
    return launcher.at(cloud_of(handle.scope, place), runs_dir=runs_dir)


def cloud_of(scope: str, place: Mapping[str, str] | None = None) -> Cloud:
    """Return the cloud of a handle's scope: a region of one's own account, or a stand-in such as `rehearsal`."""
    if scope in CLOUDS:
        cloud: Cloud = _load(CLOUDS[scope])(**(place or {}))
    else:
        cloud = _load(_ACCOUNT)(region=scope)
    return cloud


def capabilities_of(node: Mapping[str, Any]) -> Capabilities:
    """Return what the launcher of a config node `launcher` can do, without building it.

    Raises ConfigError if there is no such class.
    """
    target = str(node.get("_target_"))
    try:
        launcher: type[Launcher] = _load(target)
        return launcher.capabilities
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"launcher._target_={target} is not a launcher: {error}\nTry: launcher=local") from error


def find_run(text: str, *, runs_dir: str = "runs", state_dir: str | None = None) -> tuple[Launcher, Handle]:
    """Find the run that a person named, and a launcher that knows it.

    text: a handle, a run folder, or the name of one in `runs_dir`. The folder of a remote run names that run.
    state_dir: of the rehearsal cloud; None for the default one. Raises LaunchError if there is no such run.
    """
    if is_address(text) and Handle.parse(text).launcher != LOCAL:
        handle = Handle.parse(text)
        here = None if state_dir else folder_here(handle, runs_dir)  # where its cloud was noted
        if here is not None and (note := launched(here)):
            return launched_run(note, runs_dir=runs_dir)
        return launcher_of(handle, _place(state_dir), runs_dir=runs_dir), handle
    handle = find(text, runs_dir)
    if note := launched(folder_of(handle)):
        return launched_run({**_place(state_dir), **note}, runs_dir=runs_dir)  # of one that was downloaded it says none
    return launcher_of(handle, runs_dir=runs_dir), handle


def launched_run(note: Mapping[str, str], *, runs_dir: str = "runs") -> tuple[Launcher, Handle]:
    """Return the run that a folder's launched.json names, and a launcher that knows it."""
    handle = Handle.parse(note["handle"])
    place = {key: value for key, value in note.items() if key not in NOT_OF_THE_PLACE}
    return launcher_of(handle, place, runs_dir=runs_dir), handle


def launcher_at(
    target: str | None, *, runs_dir: str = "runs", state_dir: str | None = None, bucket: str | None = None
) -> Launcher:
    """Return a launcher that lists and cleans up what is at a target.

    target: such as sagemaker://eu-west-1; None for this machine. Raises LaunchError for anything else.
    """
    scheme, found, scope = (target or f"{LOCAL}://{Path(runs_dir)}").rstrip("/").partition("://")
    if not (scheme in LAUNCHERS and found and scope):
        raise LaunchError(f"{target!r} is not a valid target.\nTry: {targets()}")
    launcher: type[Launcher] = _load(LAUNCHERS[scheme])
    return launcher.at(cloud_of(scope, _place(state_dir)), runs_dir=runs_dir, bucket=bucket)


def launchers_at(
    target: str, *, runs_dir: str = "runs", state_dir: str | None = None, bucket: str | None = None
) -> list[Launcher]:
    """Return the launchers that list what is at a target, of all kinds if it is a region or a cloud alone.

    target: local, a region such as eu-west-1, rehearsal, or what `launcher_at` takes. Raises LaunchError for others.
    """
    if target == LOCAL:
        return [launcher_at(None, runs_dir=runs_dir)]
    if target in CLOUDS or _REGION.fullmatch(target):
        places = [f"{scheme}://{target}" for scheme in LAUNCHERS if scheme != LOCAL]
    else:
        places = [target]
    return [launcher_at(place, runs_dir=runs_dir, state_dir=state_dir, bucket=bucket) for place in places]


def targets() -> str:
    """Say what `launcher_at` takes besides this machine."""
    places = (f"{scheme}://{scope}" for scheme in LAUNCHERS if scheme != LOCAL for scope in ("REGION", *CLOUDS))
    return ", ".join([LOCAL, "REGION", *CLOUDS, *places])


def _place(state_dir: str | None) -> dict[str, str]:
    return {"state_dir": state_dir} if state_dir else {}


def _load(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)
