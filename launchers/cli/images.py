"""`python -m launchers images`: the images that machines start from, and which one image=auto selects."""

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime

from dogbreed.commands import shown_path

HELP = "List the images for training jobs, until when AWS patches them, and which one image=auto selects."
EPILOG = """\
  python -m launchers images
  python -m launchers images --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--refresh", action="store_true", help="update the table from the SageMaker SDK")


def run(args: argparse.Namespace) -> int:
    from launchers.ec2 import amis
    from launchers.sagemaker import images

    if args.refresh:
        from launchers.sagemaker.images_refresh import refresh

        refresh(images.TABLE)
        if not args.json:
            print(f"Updated {shown_path(images.TABLE)}.\n")
    today = datetime.now(UTC).isoformat()
    if args.json:
        jobs = [{**asdict(row), "not_in": sorted(row.not_in)} for row in images.table()]
        print(json.dumps({"sagemaker": jobs, "ec2": [asdict(row) for row in amis.table()]}, indent=2))
    else:
        print(f"{images.shown(today)}\n\n{amis.shown(today)}")
    return 0
