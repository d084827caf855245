"""`python -m launchers rehearsal`: start, show or stop the rehearsal cloud."""

import argparse
import json
from pathlib import Path

from dogbreed.commands import shown_path

HELP = "Start, show or stop the rehearsal cloud."
EPILOG = """\
It starts by itself when a command needs it, and ends when nothing has asked it
for a while.

  python -m launchers rehearsal status
  python -m launchers rehearsal stop
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("do", choices=["start", "status", "stop"], metavar="start|status|stop")


def run(args: argparse.Namespace) -> int:
    from launchers.rehearsal import process

    place = Path(args.state_dir).expanduser() if args.state_dir else process.default_place()
    if args.do == "stop":
        stopped = process.stop(place)
        shown = "The rehearsal cloud was stopped." if stopped else "The rehearsal cloud is not running."
        print(_facts(place) if args.json else shown)
        return 0
    server = process.start(place, process.IDLE_S) if args.do == "start" else process.running(place)
    if args.json:
        print(_facts(place, None if server is None else server.url, None if server is None else server.key))
        return 0
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


def _facts(place: Path, url: str | None = None, key: str | None = None) -> str:
    return json.dumps({"running": url is not None, "state_dir": str(place), "url": url, "key": key}, indent=2)
