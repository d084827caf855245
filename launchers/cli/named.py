"""Find the runs, searches and deployments that a person named in a command."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

from dogbreed import commands
from dogbreed.errors import DogBreedError
from launchers.base import Deploys, Launcher, Tunes
from launchers.registry import find_run
from launchers.runs.find import LOCAL, could_be, folder_of, near
from launchers.runs.launched import folder_here
from launchers.runs.searches import is_search
from launchers.status import Handle, LaunchError, Phase

_ID = re.compile(r"[A-Za-z0-9-]+")  # by which SageMaker can filter
_MOST_LOOKED_AT = 50  # runs of a cloud, newest first, for one of a similar name

Named = tuple[Launcher, Handle]


def found(text: str, args: argparse.Namespace) -> Named:
    """Return what a person named, and a launcher that knows it.

    Raises LaunchError if there is no such run, naming those that may have been meant, or more than one.
    """
    launcher, handle = find_run(text, runs_dir=args.runs_dir, state_dir=args.state_dir)
    typed = commands.is_address(text) and handle.launcher != LOCAL
    if typed and folder_here(handle, args.runs_dir) is None and launcher.answers:
        handle = _whole(launcher, handle)
    return launcher, handle


def _whole(launcher: Launcher, handle: Handle) -> Handle:
    """Return the run of a cloud whose id, or name, is or begins like that of `handle`."""
    if launcher.status(handle).phase is not Phase.LOST:
        return handle
    text = handle.run_id
    listed = launcher.list(active_only=False, name=text) if _ID.fullmatch(text) else ()
    begun = [known for known, _ in listed if known.run_id.startswith(text)]
    if not begun:
        newest = list(islice(launcher.list(active_only=False), _MOST_LOOKED_AT))
        begun = [known for known, status in newest if status.name == text]
        begun = begun or [known for known, status in newest if status.name.startswith(text)]
        close = near(text, [word for known, status in newest for word in (known.run_id, status.name) if word])
        meant = [str(known) for known, status in newest if not {known.run_id, status.name}.isdisjoint(close)]
        if not begun and meant:
            raise LaunchError(f"{launcher.status(handle).detail}\nTry: {' or '.join(meant)}")
    if len(begun) > 1:
        raise LaunchError(could_be(str(handle), map(str, begun)))
    return begun[0] if begun else handle


def deployment(text: str, args: argparse.Namespace) -> tuple[Deploys, Handle]:
    """Return the deployment that a person named. Raises LaunchError for a run, with what deploys it."""
    launcher, handle = found(text, args)
    if not launcher.capabilities.deploys:
        searches = isinstance(launcher, Tunes) or (handle.launcher == LOCAL and is_search(folder_of(handle)))
        deploy = [commands.train("launcher=deploy", "name=NAME"), commands.override("checkpoint", str(handle))]
        raise LaunchError(
            f"{handle} is a {'search' if searches else 'run'}, not a deployment.\nTry: {' '.join(deploy)}"
        )
    return cast(Deploys, launcher), handle


def each(
    args: argparse.Namespace,
    answer: Callable[[Launcher, Handle], tuple[Any, str, int]],
    *,
    heads: bool = False,
) -> int:
    """Answer for each run that was named: print what it says as text, or as JSON, and return the worst status.

    answer: returns JSON, text and the exit status of one run. heads: whether each text begins with the run's name, if
    there are several. One that fails does not keep the others from their answer. With --json one run is an object, and
    several are an array of objects.
    """
    facts: list[Any] = []
    worst = 0
    for text in args.runs:
        try:
            fact, shown, status = answer(*found(text, args))
        except DogBreedError as error:
            if len(args.runs) == 1:
                raise
            print(message(error), file=sys.stderr)
            worst = 1
            continue
        worst = max(worst, status)
        facts.append(fact)
        if not args.json:
            if heads and len(args.runs) > 1:
                print(f"{text}:")
            print(shown, flush=True)
    if args.json:
        print(json.dumps(facts[0] if len(args.runs) == 1 else facts, indent=2))
    return worst


def message(error: DogBreedError) -> str:
    """Return an error as it is printed, with what was noted on it."""
    return "\n".join([f"error: {error}", *getattr(error, "__notes__", [])])


def words_of(launcher: Launcher, handle: Handle, verb: str) -> str:
    """Return a command about a run."""
    return commands.launchers(verb, *launcher.name_of(handle))


def alternatives(launcher: Launcher, handle: Handle, verbs: Sequence[str]) -> str:
    return commands.one_per_line([words_of(launcher, handle, verb) for verb in verbs])


def unfinished(launcher: Launcher, handle: Handle) -> Iterator[str]:
    """Yield what to do instead of asking for the result of a run that has not ended."""
    try:
        status = launcher.status(handle)
    except LaunchError:
        return
    if not status.settled:
        yield alternatives(launcher, handle, ["attach", "cancel"])
