"""What a server allows: sizes, numbers and times, each an option of the command and an environment variable."""

from dataclasses import dataclass, field
from typing import Any


def _limit(default: float, option: str, unit: str, description: str) -> Any:
    return field(default=default, metadata={"option": option, "unit": unit, "help": description})


@dataclass(frozen=True)
class Limits:
    """All are positive. A body's time ends where it pauses or is slow; the deadline begins when it is there."""

    body_bytes: int = _limit(6 * 2**20, "--max-body-bytes", "N", "largest body of a request, as SageMaker's own limit")
    pictures: int = _limit(16, "--max-pictures", "N", "most pictures of one request")
    waiting: int = _limit(32, "--max-waiting", "N", "most complete requests at a time; others get a 503")
    deadline_s: float = _limit(10.0, "--deadline-s", "S", "time for an answer, from the complete request")
    connections: int = _limit(
        1000, "--max-connections", "N", "most connections at a time; idle ones make room, then others get a 503"
    )
    buffered_bytes: int = _limit(
        256 * 2**20, "--max-buffered-bytes", "N", "most bytes of all bodies in memory; others get a 503"
    )
    body_pause_s: float = _limit(10.0, "--body-pause-s", "S", "longest pause of a body that is being sent")
    body_bytes_per_s: int = _limit(8000, "--body-bytes-per-s", "N", "least bytes a second of a body, on average")
    body_window_s: float = _limit(15.0, "--body-window-s", "S", "time over which that average is taken")
    headers_s: float = _limit(10.0, "--headers-s", "S", "time for the headers of a request")
    idle_s: float = _limit(
        75.0, "--idle-s", "S", "time that a connection is kept between requests; load balancers keep theirs for less"
    )
    drain_s: float = _limit(
        20.0, "--drain-s", "S", "time to finish requests after SIGTERM; SageMaker kills 30 s after it"
    )
