"""Detect whether this process runs on a rented machine, and name the variables that it reads there."""

import os

SENT = "DOGBREED_SENT"  # the path of spec.json
REASON = "DOGBREED_REASON"  # the file that train.py writes into why it ended, unless it ended well


def on_rented_machine() -> bool:
    """Return whether launchers/remote/entry.py started this process; its paths then mean nothing to a log's reader."""
    return SENT in os.environ
