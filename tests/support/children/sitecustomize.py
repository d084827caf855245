"""What every Python process of the tests imports as it begins, also those that a test starts: it is on PYTHONPATH."""

import awaited
import aws_calls
import forking
import handing_over
import loopback_only  # noqa: F401
import quick_runs

forking.install()
quick_runs.install()
aws_calls.install()
awaited.install()
handing_over.install()  # last: it may end this process
