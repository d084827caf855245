"""Keep ONNX Runtime from reporting to Microsoft, as it does since 1.29 unless it is told not to.

It writes a device id into the user's cache folder, and looks up and contacts a host of Microsoft's.
"""

import os
import sys

VARIABLE = "ORT_DISABLE_TELEMETRY"  # which ONNX Runtime reads when it is imported


def turn_off_reports() -> None:
    """Turn the reports off, in this process and those that it starts; leave alone what the user has set.

    In a process that has imported ONNX Runtime already, as a notebook may have, they are turned off from now on.
    """
    if VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = "1"
    disable = getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None)
    if disable is not None:
        disable()
