"""Name the parts of a submission in AWS, and its objects in the bucket. Pure."""

import re

from launchers.aws.layout import Layout

PREFIX = "dogbreed-"  # of groups and launch templates
SUBMISSIONS = "submissions/"  # below the run: one object for each submission
_SUBMISSION = re.compile(rf"{PREFIX}(?P<run_id>.+?)(?:--(?P<number>\d+))?")
FILES = "dogbreed:files"  # a tag of groups and templates: where the run is in S3
DEADLINE = "deadline"  # the group's scheduled action


def group_name(run_id: str, number: int) -> str:
    """Return the name of the group, and of the launch template, of a run's `number`th submission, from 1."""
    return f"{PREFIX}{run_id}" if number == 1 else f"{PREFIX}{run_id}--{number}"


def run_of(name: str) -> str:
    """Return the run id of a group's or a template's name; empty if it is none of ours."""
    found = _SUBMISSION.fullmatch(name)
    return "" if found is None else found["run_id"]


def run_key(layout: Layout, run_id: str, name: str = "") -> str:
    """Return the key of an object of a run."""
    return f"{layout.runs}{run_id}/{name}".rstrip("/")


def submission_key(layout: Layout, run_id: str, number: int) -> str:
    return run_key(layout, run_id, f"{SUBMISSIONS}{number}.json")
