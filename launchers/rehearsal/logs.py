"""CloudWatch Logs of the rehearsal cloud."""

import threading
from typing import Any

from moto.logs.models import logs_backends

from launchers.rehearsal.names import ACCOUNT, REGION

_lock = threading.Lock()


def put_log(group: str, stream: str, events: list[dict[str, Any]]) -> None:
    """Add events to a stream; create the group and the stream if they are missing."""
    backend = logs_backends[ACCOUNT][REGION]
    with _lock:
        if group not in backend.groups:
            backend.create_log_group(group, {})
        if stream not in backend.groups[group].streams:
            backend.create_log_stream(group, stream)
        if events:
            backend.put_log_events(group, stream, events)
