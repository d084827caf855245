"""`python -m launchers`: what has been run, how it stands, and how to stop it. Loads neither torch nor Hydra."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dogbreed.errors import DogBreedError
from launchers.base import Handle, Phase, RunResult, Status, shown_path
from launchers.local import LocalLauncher, find, folder_of

_EPILOG = """\
A run is named by its folder (runs/20261123-001122-x7k2), by the last part of
that, or by its handle (local:///home/me/runs/20261123-001122-x7k2).
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    launcher = LocalLauncher(args.runs_dir)
    try:
        status: int = args.command(launcher, args)
        sys.stdout.flush()
        return status
    except DogBreedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _list(launcher: LocalLauncher, args: argparse.Namespace) -> int:
    runs = list(launcher.list(active_only=not args.all))
    if args.json:
        print(json.dumps([_facts(handle, status) for handle, status in runs], indent=2))
    elif runs:
        rows = [(shown_path(folder_of(h)), str(s.phase), str(s.attempt), s.started_at[:19]) for h, s in runs]
        rows = [("run", "phase", "attempt", "started (UTC)"), *rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    else:
        seen = f"in {launcher.runs_dir} or {launcher.sweeps_dir}"
        print(f"No run {seen}." if args.all else f"No run is going on {seen}. Those that have ended: list --all")
    return 0


def _status(launcher: LocalLauncher, args: argparse.Namespace) -> int:
    handle = find(args.run, args.runs_dir)
    status = launcher.status(handle)
    if args.json:
        print(json.dumps(_facts(handle, status), indent=2))
    else:
        print(status)
    return 1 if status.phase is Phase.LOST else 0


def _logs(launcher: LocalLauncher, args: argparse.Namespace) -> int:
    for line in launcher.logs(find(args.run, args.runs_dir), follow=args.follow, attempt=args.attempt):
        print(f"{line.attempt} | {line.text}", flush=args.follow)
    return 0


def _cancel(launcher: LocalLauncher, args: argparse.Namespace) -> int:
    status = launcher.cancel(find(args.run, args.runs_dir), grace_s=args.grace_s)
    print(status)
    return 1 if status.phase is Phase.LOST else 0


def _result(launcher: LocalLauncher, args: argparse.Namespace) -> int:
    result: RunResult = launcher.result(find(args.run, args.runs_dir))
    if args.json:
        artifacts = {name: str(path) for name, path in result.artifacts.items()}
        print(json.dumps({"handle": str(result.handle), "metrics": result.metrics, "artifacts": artifacts}, indent=2))
    else:
        print(str(result).strip())
    return 0


def _cleanup(launcher: LocalLauncher, args: argparse.Namespace) -> int:
    report = launcher.cleanup(apply=args.apply)
    for name in report.found:
        print(f"{'removed' if name in report.removed else 'left over'}  {name}")
    if report.left and not args.apply:
        print("Remove them with: python -m launchers cleanup --apply")
    elif not report.found:
        print("Nothing is left over.")
    return 1 if report.left and args.apply else 0


def _facts(handle: Handle, status: Status) -> dict[str, Any]:
    return {"handle": str(handle), "folder": str(folder_of(handle)), **asdict(status)}


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--runs-dir", default="runs", metavar="FOLDER", help="where runs lie (default: runs)")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="for programs")
    one_run = argparse.ArgumentParser(add_help=False)
    one_run.add_argument("run", metavar="RUN", help="a run folder, its name, or a handle")

    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m launchers", description=__doc__, epilog=_EPILOG, formatter_class=shape)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[*parents, common])
        sub.set_defaults(command=command)
        return sub

    listing = add("list", _list, "Show the runs that are going on, newest first.", as_json)
    listing.add_argument("--all", action="store_true", help="and those that have ended")
    add("status", _status, "Show how a run stands, and what to do next.", one_run, as_json)
    logs = add("logs", _logs, "Print a run's log, each line with its attempt.", one_run)
    logs.add_argument("--follow", "-f", action="store_true", help="until the run has ended")
    logs.add_argument("--attempt", type=int, metavar="N", help="of this attempt only")
    cancel = add("cancel", _cancel, "Make a run save and stop.", one_run)
    cancel.add_argument(
        "--grace-s", type=float, default=110, metavar="S", help="seconds until it is killed (default: 110)"
    )
    add("result", _result, "Show the numbers and files of a run that succeeded.", one_run, as_json)
    cleanup = add("cleanup", _cleanup, "Show files that killed runs left half written.")
    cleanup.add_argument("--apply", action="store_true", help="and remove them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
