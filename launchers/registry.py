"""The one table of back ends: from a handle or a place to its launcher and its cloud."""

import argparse
from typing import TYPE_CHECKING

from launchers.aws.account import Account, Cloud
from launchers.base import LAUNCHED_FILE, Handle, Launcher, LaunchError
from launchers.local import LocalLauncher
from launchers.runs.find import find, folder_of

if TYPE_CHECKING:
    from launchers.sagemaker.training import SageMakerLauncher


def launcher_of(handle: Handle, state_dir: str | None = None) -> "SageMakerLauncher":
    """One that can follow the run, from its handle alone."""
    from launchers.sagemaker.training import SCHEME, SageMakerLauncher

    if handle.launcher != SCHEME:
        raise LaunchError(f"{handle} is of no launcher that is known.\nTry: sagemaker://REGION/RUN, or a run folder")
    return SageMakerLauncher(cloud=cloud_of(handle.scope, state_dir))


def cloud_of(scope: str, state_dir: str | None = None) -> Cloud:
    """scope: a region, or `rehearsal`."""
    if scope != "rehearsal":
        return Account(region=scope)
    from launchers.rehearsal.cloud import Rehearsal
    from launchers.rehearsal.process import default_place

    return Rehearsal(state_dir=state_dir or str(default_place()))


PLACES = "sagemaker://REGION, or sagemaker://rehearsal"


def find_run(args: argparse.Namespace) -> tuple[Launcher, Handle]:
    """The run that was named, and a launcher that knows it. What is elsewhere is imported only for a run elsewhere."""
    text = args.run
    if "://" in text and not text.startswith("local://"):
        handle = Handle.parse(text)
        return launcher_of(handle, args.state_dir), handle
    handle = find(text, args.runs_dir)
    if (folder_of(handle) / LAUNCHED_FILE).exists():
        from launchers.runs.launched import launched

        if note := launched(folder_of(handle)):
            elsewhere = Handle.parse(note["handle"])
            return launcher_of(elsewhere, note.get("state_dir")), elsewhere
    return LocalLauncher(args.runs_dir), handle


def launcher_at(args: argparse.Namespace) -> Launcher:
    """Of the place that was named; this machine where none was."""
    if not args.place:
        return LocalLauncher(args.runs_dir)
    scheme, found, scope = args.place.rstrip("/").partition("://")
    if not (scheme == "sagemaker" and found and scope):
        raise LaunchError(f"{args.place!r} is no place.\nTry: {PLACES}")
    from launchers.sagemaker.training import SageMakerLauncher

    cloud = cloud_of(scope, args.state_dir)
    return SageMakerLauncher(cloud, bucket=getattr(args, "bucket", None) or cloud.default_bucket)
