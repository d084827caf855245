"""List, follow and stop runs, on this machine and in a cloud."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.errors import DogBreedError, Interrupted
from launchers.base import Deploys, Launcher, Tunes
from launchers.cli import capacity, cost, doctor, prices
from launchers.cli.listing import Listed, launched_from_here, table
from launchers.registry import find_run, launcher_at, targets
from launchers.runs.find import SWEEPS_DIR
from launchers.status import Handle, LaunchError, Phase, RunResult

_EPILOG = """\
Name a run by its folder (runs/20261123-001122-x7k2), by the folder's name, or
by its handle: sagemaker://eu-west-1/20261123-001122-x7k2 works from any folder
and any machine, sagemaker://rehearsal/... only on this machine.
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        status: int = args.command(args)
        sys.stdout.flush()
        return status
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return 128 + interrupted.signum
    except DogBreedError as error:
        print("\n".join([f"error: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _find_run(args: argparse.Namespace) -> tuple[Launcher, Handle]:
    return find_run(args.run, runs_dir=args.runs_dir, state_dir=args.state_dir)


def _launcher_at(args: argparse.Namespace) -> Launcher:
    bucket = getattr(args, "bucket", None)
    return launcher_at(args.place, runs_dir=args.runs_dir, state_dir=args.state_dir, bucket=bucket)


def _list(args: argparse.Namespace) -> int:
    launcher = _launcher_at(args)
    runs = [] if args.place else launched_from_here(args.runs_dir, ended=args.all, name=args.name)
    if launcher.answers:
        runs += [Listed(launcher, *run) for run in launcher.list(active_only=not args.all, name=args.name)]
    elif args.place:
        print(f"{args.place} is not running, and neither are its runs.", file=sys.stderr)
    runs.sort(key=lambda run: run.status.started_at, reverse=True)
    if args.json:
        print(json.dumps([run.facts() for run in runs], indent=2))
    elif runs:
        print(table(runs))
    else:
        where = f"at {args.place}" if args.place else f"in {args.runs_dir} or {SWEEPS_DIR}"
        print(
            f"No runs {where}."
            if args.all
            else f"No runs in progress {where}. To include ended ones: python -m launchers list --all"
        )
    return 0


def _status(args: argparse.Namespace) -> int:
    launcher, handle = _find_run(args)
    status = launcher.status(handle)
    if args.json:
        print(json.dumps(Listed(launcher, handle, status).facts(), indent=2))
    else:
        print(status)
    return 1 if status.phase is Phase.LOST else 0


def _logs(args: argparse.Namespace) -> int:
    launcher, handle = _find_run(args)
    for line in launcher.logs(handle, follow=args.follow, attempt=args.attempt):
        print(f"{line.attempt} | {line.text}", flush=args.follow)
    return 0


def _attach(args: argparse.Namespace) -> int:
    from launchers.follow import follow

    launcher, handle = _find_run(args)
    if isinstance(launcher, Tunes):
        from launchers.sweep import tuner

        print(tuner.attach(cast(Any, launcher), handle))
        return 0
    print(follow(launcher, handle))
    return 0


def _cancel(args: argparse.Namespace) -> int:
    launcher, handle = _find_run(args)
    status = launcher.cancel(handle, grace_s=args.grace_s)
    print(status)
    return 1 if status.phase is Phase.LOST else 0


def _result(args: argparse.Namespace) -> int:
    launcher, handle = _find_run(args)
    if isinstance(launcher, Tunes):
        from launchers.sweep import tuner

        result: RunResult = tuner.result(cast(Any, launcher), handle)
    else:
        result = launcher.result(handle)
    if args.json:
        artifacts = {name: str(path) for name, path in result.artifacts.items()}
        print(json.dumps({"handle": str(result.handle), "metrics": result.metrics, "artifacts": artifacts}, indent=2))
    else:
        print(str(result).strip())
    return 0


def _download(args: argparse.Namespace) -> int:
    from launchers.cli.download import downloaded

    launcher, handle = _find_run(args)
    if isinstance(launcher, Tunes):
        from launchers.sweep import tuner

        tuner.download(cast(Any, launcher), handle)
    print(downloaded(launcher, handle, as_json=args.json))
    return 0


def _find_deployment(args: argparse.Namespace) -> tuple[Deploys, Handle]:
    launcher, handle = _find_run(args)
    if not launcher.capabilities.deploys:
        raise LaunchError(
            f"{handle} is a run, not a deployment.\nTry: {commands.train('launcher=deploy', 'name=NAME')} "
            f"{commands.override('checkpoint', str(handle))}"
        )
    return cast(Deploys, launcher), handle


def _invoke(args: argparse.Namespace) -> int:
    launcher, handle = _find_deployment(args)
    answers = {}
    for photo in args.photos:
        try:
            content = Path(photo).expanduser().read_bytes()
        except OSError as error:
            raise LaunchError(f"{photo} cannot be read: {error.strerror}") from error
        answers[photo] = launcher.invoke(handle, content)
    if args.json:
        print(json.dumps(answers, indent=2))
        return 0
    for photo, answer in answers.items():
        print(photo)
        for each in answer["predictions"]:
            print(f"  {each['probability']:6.1%}  {each['breed']}")
    return 0


def _rollback(args: argparse.Namespace) -> int:
    launcher, handle = _find_deployment(args)
    status = launcher.rollback(handle)
    print(status)
    return 0 if status.phase is Phase.IN_SERVICE else 1


def _cleanup(args: argparse.Namespace) -> int:
    older_than = None if args.older_than_h is None else timedelta(hours=args.older_than_h)
    report = _launcher_at(args).cleanup(older_than=older_than, apply=args.apply)
    for name in report.found:
        print(f"{'removed' if name in report.removed else 'left over'}  {name}")
    if report.left and not args.apply:
        print("To remove them, add --apply to the same command.")
    elif not report.found:
        print("Nothing is left over.")
    return 1 if report.left and args.apply else 0


def _rehearsal(args: argparse.Namespace) -> int:
    from launchers.rehearsal import process

    place = Path(args.state_dir).expanduser() if args.state_dir else process.default_place()
    if args.do == "stop":
        print("The rehearsal cloud was stopped." if process.stop(place) else "The rehearsal cloud is not running.")
        return 0
    server = process.start(place, process.IDLE_S) if args.do == "start" else process.running(place)
    if server is None:
        print(f"The rehearsal cloud is not running. Its state is kept in {shown_path(place)}.")
        return 0
    print(
        f"The rehearsal cloud is at {server.url}. Its state is kept in {shown_path(place)}. To inspect it:\n"
        f"  export AWS_ENDPOINT_URL={server.url} AWS_DEFAULT_REGION=us-east-1\n"
        f"  export AWS_ACCESS_KEY_ID={server.key} AWS_SECRET_ACCESS_KEY={server.key}\n"
        "  aws s3 ls --recursive s3://dogbreed-rehearsal"
    )
    return 0


def _images(args: argparse.Namespace) -> int:
    from launchers.ec2 import amis
    from launchers.sagemaker import images

    if args.refresh:
        from launchers.sagemaker.images_refresh import refresh

        refresh(images.TABLE)
        print(f"Updated {shown_path(images.TABLE)}.\n")
    today = datetime.now(UTC).isoformat()
    print(f"{images.shown(today)}\n\n{amis.shown(today)}")
    return 0


def _iam(args: argparse.Namespace) -> int:
    from launchers.cli.iam import run  # here, because it composes settings with Hydra

    return run(args)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state-dir", metavar="FOLDER", help="the rehearsal cloud's folder, if not the default (aws.state_dir)"
    )
    common.add_argument(
        "--runs-dir", default="runs", metavar="FOLDER", help="the folder of run folders (default: runs)"
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON, for programs")
    one_run = argparse.ArgumentParser(add_help=False)
    one_run.add_argument("run", metavar="RUN", help="a run folder, its name, or a handle")

    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m launchers", description=__doc__, epilog=_EPILOG, formatter_class=shape)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, parents=[*parents, common])
        sub.set_defaults(command=command)
        return sub

    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "place", nargs="?", metavar="TARGET", help=f"the cloud to use: {targets()} (default: this machine)"
    )

    listing = add("list", _list, "List the runs in progress, newest first.", place, as_json)
    listing.add_argument("--all", action="store_true", help="include runs that have ended")
    listing.add_argument("--name", default="", metavar="TEXT", help="only runs whose id contains this")
    add("status", _status, "Show a run's status and what to do next.", one_run, as_json)
    logs = add("logs", _logs, "Print a run's log, each line with its attempt.", one_run)
    logs.add_argument("--follow", "-f", action="store_true", help="keep printing until the run has ended")
    logs.add_argument("--attempt", type=int, metavar="N", help="print only this attempt")
    add("attach", _attach, "Follow a run until it has ended, then show its result.", one_run)
    cancel = add("cancel", _cancel, "Ask a run to save and stop.", one_run)
    cancel.add_argument(
        "--grace-s", type=float, default=110, metavar="S", help="seconds until it is killed (default: 110)"
    )
    add("result", _result, "Show the metrics and files of a run that succeeded.", one_run, as_json)
    add(
        "download",
        _download,
        "Fetch what a run left that failed or was cancelled: log, metrics, best checkpoint, a search's trials.",
        one_run,
        as_json,
    )
    invoke = add("invoke", _invoke, "Ask a deployment what is in photos.", one_run, as_json)
    invoke.add_argument("photos", nargs="+", metavar="PHOTO", help="a JPEG, PNG or WebP file")
    add("rollback", _rollback, "Bring the revision of a deployment before into service.", one_run)
    cleanup = add("cleanup", _cleanup, "List leftovers of runs that nothing uses any more.", place)
    cleanup.add_argument("--apply", action="store_true", help="remove them")
    cleanup.add_argument(
        "--older-than-h", type=float, metavar="H", help="only those older than H hours; in a cloud at least 24"
    )
    cleanup.add_argument("--bucket", metavar="NAME", help="the bucket that the launchers use, for a cloud")
    rehearsing = add("rehearsal", _rehearsal, "Start, show or stop the rehearsal cloud.")
    rehearsing.add_argument("do", choices=["start", "status", "stop"], metavar="start|status|stop")
    images = add(
        "images",
        _images,
        "List the images for training jobs, until when AWS patches them, and which one image=auto selects.",
    )
    images.add_argument("--refresh", action="store_true", help="update the table from the SageMaker SDK")
    planner = verbs.add_parser(
        "capacity", help=capacity.HELP, description=capacity.HELP, epilog=capacity.EPILOG, parents=[as_json],
        formatter_class=shape,
    )  # fmt: skip
    capacity.add_arguments(planner)
    planner.set_defaults(command=capacity.run)
    examining = verbs.add_parser(
        "doctor", help=doctor.HELP, description=doctor.HELP, epilog=doctor.EPILOG, parents=[as_json, common],
        formatter_class=shape,
    )  # fmt: skip
    doctor.add_arguments(examining)
    examining.set_defaults(command=doctor.run)
    pricing = verbs.add_parser(
        "prices", help=prices.HELP, description=prices.HELP, epilog=prices.EPILOG, parents=[as_json],
        formatter_class=shape,
    )  # fmt: skip
    prices.add_arguments(pricing)
    pricing.set_defaults(command=prices.run)
    costs = verbs.add_parser(
        "cost", help=cost.HELP, description=cost.HELP, epilog=cost.EPILOG, parents=[as_json, common],
        formatter_class=shape,
    )  # fmt: skip
    cost.add_arguments(costs)
    costs.set_defaults(command=cost.run)
    iam = add("iam", _iam, "Print the roles and policies that launchers need; create, check or remove them.", as_json)
    iam.add_argument(
        "--for",
        dest="settings",
        action="append",
        nargs="+",
        metavar="SETTING",
        help="only what these settings of train.py need, such as launcher=sagemaker_spot; again for further ones",
    )
    iam.add_argument("--account", metavar="ID", help="the account's 12 digits (default: that of your credentials)")
    iam.add_argument("--bucket", metavar="NAME", help="the bucket; with --apply it is created, private and encrypted")
    doing = iam.add_mutually_exclusive_group()
    doing.add_argument("--apply", action="store_true", help="create the roles, or change what differs")
    doing.add_argument("--check", action="store_true", help="say what you and the configured role lack")
    doing.add_argument("--remove", action="store_true", help="remove the roles that --apply created")
    return parser
