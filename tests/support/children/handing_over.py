"""Has the fork server run a program that would import torch or boto3, also where a shell starts it.

What subprocess.Popen starts is forked at once (forking.py). A shell starts Python itself: that process asks for the
forked one, waits for it and ends as it does. It is for what the script of a rented machine does: it looks which Python
has torch and boto3, and fetches the code.
"""

import os
import signal
import subprocess
import sys

import forking

ASKS = "import sys, torch; sys.exit("  # these as in launchers/ec2/user_data.py
HAS_BOTO3, FETCHES = "import boto3", "import sys, boto3; boto3.client("
_HANDED_OVER = "DOGBREED_TESTS_HANDED_OVER"  # where the server could not fork it, it begins as ever


def install() -> None:
    words = sys.orig_argv
    code = words[2] if len(words) > 2 and words[1] == "-c" else ""
    wanted = code == HAS_BOTO3 or code.startswith((ASKS, FETCHES))
    if not wanted or forking.SERVER not in os.environ or _HANDED_OVER in os.environ:
        return
    environment = {**os.environ, _HANDED_OVER: "1"}
    status = subprocess.run([sys.executable, *words[1:]], env=environment, start_new_session=True).returncode
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
