"""CloudWatch Logs of the rehearsal cloud."""

import threading
from typing import Any

from moto.logs.models import logs_backends

from launchers.rehearsal.names import ACCOUNT, REGION

LOG_GROUP = "/aws/sagemaker/TrainingJobs"


def put_log(stream: str, events: list[dict[str, Any]]) -> None:
    """Into CloudWatch; the group and the stream are made where they are missing."""
    backend = logs_backends[ACCOUNT][REGION]
    with _logs_lock:
        if LOG_GROUP not in backend.groups:
            backend.create_log_group(LOG_GROUP, {})
        if stream not in backend.groups[LOG_GROUP].streams:
            backend.create_log_stream(LOG_GROUP, stream)
        if events:
            backend.put_log_events(LOG_GROUP, stream, events)


_logs_lock = threading.Lock()
