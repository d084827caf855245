"""`python -m launchers invoke` and `rollback`: what deployments can do, and runs cannot."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from launchers.cli import named
from launchers.cli.listing import Listed
from launchers.status import LaunchError, Phase

INVOKE_HELP = "Ask a deployment what is in photos."
INVOKE_EPILOG = """\
  python -m launchers invoke NAME PHOTO.jpg
  python -m launchers invoke NAME PHOTO.jpg --json
"""
ROLLBACK_HELP = "Bring the previous revision of a deployment back into service."
ROLLBACK_EPILOG = """\
  python -m launchers rollback NAME
"""


def add_invoke_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a JPEG, PNG or WebP file")


def invoke(args: argparse.Namespace) -> int:
    launcher, handle = named.deployment(args.run, args)
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


def rollback(args: argparse.Namespace) -> int:
    launcher, handle = named.deployment(args.run, args)
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        status = launcher.rollback(handle)
    print(json.dumps(Listed(launcher, handle, status).facts(), indent=2) if args.json else status)
    return 0 if status.phase is Phase.IN_SERVICE else 1
