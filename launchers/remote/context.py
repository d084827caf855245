"""Whether this process runs on a rented machine, and what that machine's environment tells it."""

import os

SENT = "DOGBREED_SENT"  # the file that says what was sent
REASON = "DOGBREED_REASON"  # the file that train.py writes into why it ended, unless it ended well


def on_rented_machine() -> bool:
    """Whether launchers/remote/entry.py has started this process: its paths mean nothing to those who read its log."""
    return SENT in os.environ
