"""What a simulation found: latencies, refusals, and seconds that are paid."""

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launchers.capacity.setting import Limit

if TYPE_CHECKING:
    import numpy as np

CAUSES: tuple[Limit, ...] = ("none", "lambda_slots", "vcpus", "start_delay", "max_instances")
NONE, SLOTS, VCPUS, START, MOST = range(5)  # places in CAUSES


@dataclass
class Outcome:
    """What was simulated. latency_s: of each answered request, from when it was first sent, repeats included.

    cause: of each answered one, the place in `CAUSES` of what it waited for first. refused: by what refused them.
    cold: calls that began a new environment. function_s, provisioned_s: billed seconds of the function, beyond its
    provisioned slots and within them. instance_s: of instances, until closed_s, when all was answered. instances:
    (seconds, number) at each change.
    """

    end_s: float
    requests: int = 0
    latency_s: array = field(default_factory=lambda: array("d"))  # type: ignore[type-arg]
    cause: array = field(default_factory=lambda: array("b"))  # type: ignore[type-arg]
    refused: dict[Limit, int] = field(default_factory=dict)
    repeats: int = 0
    cold: int = 0
    calls: int = 0
    function_s: float = 0.0
    provisioned_s: float = 0.0
    instance_s: float = 0.0
    closed_s: float = 0.0
    busy_s: float = 0.0
    instances: list[tuple[float, int]] = field(default_factory=list)

    @property
    def refused_share(self) -> float:
        return sum(self.refused.values()) / self.requests if self.requests else 0.0

    def late_share(self, limit_s: float) -> float:
        """Return the share of all requests that were answered later than this; refused ones are not among them."""
        return int((self._latencies() > limit_s).sum()) / self.requests if self.requests else 0.0

    def late_causes(self, limit_s: float) -> dict[Limit, int]:
        """Return how many requests were answered later than this, by what they waited for."""
        import numpy as np

        late = np.frombuffer(self.cause, np.int8)[self._latencies() > limit_s] if self.latency_s else np.zeros(0, int)
        return {name: int((late == code).sum()) for code, name in enumerate(CAUSES) if (late == code).any()}

    def percentile_s(self, percent: float) -> float:
        """Return the seconds within which this percentage of the answered requests was answered; NaN without any."""
        import numpy as np

        return float(np.percentile(self._latencies(), percent)) if self.latency_s else float("nan")

    def _latencies(self) -> "np.ndarray":
        import numpy as np

        return np.frombuffer(self.latency_s, np.float64) if self.latency_s else np.zeros(0)
