"""What can be deployed, as the simulation sees it."""

from dataclasses import dataclass, field
from typing import Literal

from dogbreed.serving.limits import Limits
from launchers.aws.scaling import Metric, Policy
from launchers.cost.serving import AT_ONCE

Limit = Literal["none", "lambda_slots", "vcpus", "start_delay", "max_instances"]


@dataclass(frozen=True)
class Function:
    """A Lambda function. slots: its reserved concurrency. provisioned: slots that are kept warm.

    cold_s: seconds that a call takes longer in a new execution environment. idle_s: after which an unused environment
    is gone; AWS publishes no number, observers report 5 to 15 minutes.
    """

    slots: int
    provisioned: int = 0
    cold_s: float = 0.0
    idle_s: float = 600.0
    memory_mb: int = 256


@dataclass(frozen=True)
class Endpoint:
    """A real-time endpoint. least, most: its number of instances. vcpus: of each, one request on each at a time.

    policy: how the number changes; None keeps `least`. metric: what the policy reads, as an average per instance: busy
    vCPUs in percent, so up to 200 with two; requests in progress; or requests per minute. publish_s: seconds after a
    period's end at which its value can be read. start_s: from the decision until a new instance answers. waiting: the
    requests that an instance queues beyond those it works on; further ones get a 503. deadline_s: after which one gets
    a 503 that is not answered yet.
    """

    least: int = 1
    most: int = 1
    vcpus: int = 2
    policy: Policy | None = None
    metric: Metric = "concurrency"
    publish_s: float = 10.0
    start_s: float = 240.0
    waiting: int = AT_ONCE - 2
    deadline_s: float = Limits().deadline_s
    type: str = "ml.c7i.large"

    @property
    def scales(self) -> bool:
        return self.policy is not None and self.most > self.least


@dataclass(frozen=True)
class Retries:
    """How clients repeat refused requests: `most` times, the first after `wait_s` on average, then twice as long."""

    most: int = 2
    wait_s: float = 0.2


@dataclass(frozen=True)
class Setting:
    """An architecture: a function with the model inside, an endpoint, or an endpoint with a function in front.

    overhead_s: seconds that a request spends outside of the endpoint's vCPUs while it holds its slot.
    """

    function: Function | None = None
    endpoint: Endpoint | None = None
    overhead_s: float = 0.0
    retries: Retries = field(default_factory=Retries)
    name: str = ""

    @property
    def kind(self) -> str:
        """The architecture, in words."""
        function = ""
        if self.function is not None:
            function = "lambda with provisioned slots" if self.function.provisioned else "lambda"
        if self.endpoint is None:
            return function
        scaled = "scaled endpoint" if self.endpoint.scales else "fixed endpoint"
        return f"{scaled} behind a {function}" if function else scaled
