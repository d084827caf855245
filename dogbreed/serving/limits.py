"""Define the server's limits: each is a command-line option and an environment variable."""

from dataclasses import dataclass, field
from typing import Any


def _limit(default: float, option: str, unit: str, description: str) -> Any:
    return field(default=default, metadata={"option": option, "unit": unit, "help": description})


@dataclass(frozen=True)
class Limits:
    """Limits of one server, all positive. The deadline starts when a request's body is complete."""

    body_bytes: int = _limit(
        6 * 2**20, "--max-body-bytes", "N", "maximum size of a request body in bytes; the default is SageMaker's limit"
    )
    pictures: int = _limit(16, "--max-pictures", "N", "maximum number of pictures per request")
    waiting: int = _limit(
        32, "--max-waiting", "N", "maximum number of fully received requests in progress; others get a 503"
    )
    deadline_s: float = _limit(10.0, "--deadline-s", "S", "time to answer a request once it is fully received")
    connections: int = _limit(
        1000,
        "--max-connections",
        "N",
        "maximum number of open connections; idle ones are closed first, then new ones get a 503",
    )
    buffered_bytes: int = _limit(
        256 * 2**20, "--max-buffered-bytes", "N", "maximum total bytes of request bodies in memory; others get a 503"
    )
    body_pause_s: float = _limit(10.0, "--body-pause-s", "S", "longest pause while a body is uploaded")
    body_bytes_per_s: int = _limit(8000, "--body-bytes-per-s", "N", "minimum average upload speed in bytes per second")
    body_window_s: float = _limit(15.0, "--body-window-s", "S", "window over which the upload speed is averaged")
    headers_s: float = _limit(10.0, "--headers-s", "S", "time to receive the headers of a request")
    idle_s: float = _limit(
        75.0, "--idle-s", "S", "how long an idle connection is kept open; must exceed your load balancer's idle timeout"
    )
    drain_s: float = _limit(
        20.0, "--drain-s", "S", "time to finish requests after SIGTERM; SageMaker kills the container after 30 s"
    )
