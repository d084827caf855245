"""Whether this process runs on a rented machine, and where that machine left what was sent."""

import os

REASON = "DOGBREED_REASON"  # there as well: the file that train.py writes why it ended into, where it did not end well
SENT = "DOGBREED_SENT"  # in a rented machine's environment: the file that says what was sent


def on_rented_machine() -> bool:
    """Whether launchers/remote.py has started this process: paths here mean nothing to whoever reads what it says."""
    return SENT in os.environ
