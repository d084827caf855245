"""List, follow and stop runs, on this machine and in a cloud."""

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from dogbreed.errors import DogBreedError, Interrupted
from launchers.cli import (
    capacity,
    cost,
    deployments,
    doctor,
    download,
    ending,
    explain,
    following,
    images,
    leftovers,
    listing,
    loadtest,
    named,
    opening,
    prices,
    rehearsing,
)
from launchers.cli.parser import Parser

_EPILOG = """\
Name a run by its folder (runs/20261123-001122-x7k2), by the folder's name, by
what you called it (name=...), by an unambiguous beginning of these, or by its
handle: sagemaker://eu-west-1/20261123-001122-x7k2 works from any folder and any
machine, sagemaker://rehearsal/... only on this machine. Likewise searches and
deployments. Each command has examples: python -m launchers COMMAND --help
"""
_IAM_EPILOG = """\
Without --apply and --remove nothing is changed.

  python -m launchers iam --account 123456789012 --for aws.region=eu-west-1
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
        print(named.message(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _iam(args: argparse.Namespace) -> int:
    from launchers.cli.iam import run  # here, because it composes settings with Hydra

    return run(args)


def _parser() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    common.add_argument(
        "--state-dir", metavar="FOLDER", help="the rehearsal cloud's folder, if not the default (aws.state_dir)"
    )
    common.add_argument(
        "--runs-dir", default="runs", metavar="FOLDER", help="the folder of run folders (default: runs)"
    )
    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON, for programs")
    which = "a folder, a name, an id or its beginning, or a handle"
    one_run = Parser(add_help=False)
    one_run.add_argument("run", metavar="RUN", help=which)
    runs = Parser(add_help=False)
    runs.add_argument("runs", nargs="+", metavar="RUN", help=which)

    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m launchers", description=__doc__, epilog=_EPILOG, formatter_class=shape)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str,
        command: Any,
        text: str,
        *parents: Parser,
        epilog: str,
        places: Sequence[Parser] = (common,),
    ) -> argparse.ArgumentParser:
        """places: options that say where runs are; without them for a verb that asks about none."""
        sub = verbs.add_parser(
            name,
            help=text,
            description=textwrap.fill(text, 80),
            parents=[*parents, *places],
            epilog=epilog,
            formatter_class=shape,
        )
        sub.set_defaults(command=command, parser=sub)
        return sub

    listing.add_arguments(add("list", listing.run, listing.HELP, as_json, epilog=listing.EPILOG))
    about = following.STATUS_HELP, runs, as_json
    following.add_status_arguments(add("status", following.status, *about, epilog=following.STATUS_EPILOG))
    about = following.LOGS_HELP, runs, as_json
    following.add_logs_arguments(add("logs", following.logs, *about, epilog=following.LOGS_EPILOG))
    add("attach", following.attach, following.ATTACH_HELP, one_run, as_json, epilog=following.ATTACH_EPILOG)
    ending.add_arguments(add("cancel", ending.run, ending.HELP, as_json, epilog=ending.EPILOG))
    add("result", download.result, download.RESULT_HELP, runs, as_json, epilog=download.RESULT_EPILOG)
    add("download", download.download, download.DOWNLOAD_HELP, runs, as_json, epilog=download.DOWNLOAD_EPILOG)
    about = deployments.INVOKE_HELP, one_run, as_json
    deployments.add_invoke_arguments(add("invoke", deployments.invoke, *about, epilog=deployments.INVOKE_EPILOG))
    opening.add_arguments(add("open", opening.run, opening.HELP, one_run, as_json, epilog=opening.EPILOG))
    about = deployments.ROLLBACK_HELP, one_run, as_json
    add("rollback", deployments.rollback, *about, epilog=deployments.ROLLBACK_EPILOG)
    leftovers.add_arguments(add("cleanup", leftovers.run, leftovers.HELP, as_json, epilog=leftovers.EPILOG))
    rehearsing.add_arguments(add("rehearsal", rehearsing.run, rehearsing.HELP, as_json, epilog=rehearsing.EPILOG))
    images.add_arguments(add("images", images.run, images.HELP, as_json, epilog=images.EPILOG))
    capacity.add_arguments(add("capacity", capacity.run, capacity.HELP, as_json, epilog=capacity.EPILOG, places=()))
    explain.add_arguments(add("explain", explain.run, explain.HELP, as_json, epilog=explain.EPILOG))
    loadtest.add_arguments(add("loadtest", loadtest.run, loadtest.HELP, as_json, epilog=loadtest.EPILOG))
    doctor.add_arguments(add("doctor", doctor.run, doctor.HELP, as_json, epilog=doctor.EPILOG))
    prices.add_arguments(add("prices", prices.run, prices.HELP, as_json, epilog=prices.EPILOG, places=()))
    cost.add_arguments(add("cost", cost.run, cost.HELP, as_json, epilog=cost.EPILOG))
    text = "Print the roles and policies that launchers need; create, check or remove them."
    iam = add("iam", _iam, text, as_json, epilog=_IAM_EPILOG)
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
