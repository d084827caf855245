"""What submitting a run would do, as plain data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launchers.spec import RunSpec
from launchers.status import Handle


@dataclass(frozen=True)
class Request:
    """One call of a cloud's API that changes something. parameters: as boto3 takes them."""

    service: str
    operation: str
    parameters: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.service} {self.operation} {json.dumps(self.parameters, indent=2)}"


@dataclass(frozen=True)
class Costs:
    """What a plan can cost, in US dollars by list prices.

    worst_usd: at most, whatever happens. least_usd, least_h: the smallest limits.max_usd and limits.max_hours that its
    launcher accepts. expected_usd: at most, with what starting and ending take; None if that cannot be estimated.
    kept_usd: the part of these that is paid after the end at most, while machines are kept for the next run.
    """

    worst_usd: float
    least_usd: float
    least_h: float
    expected_usd: float | None = None
    kept_usd: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Everything that `submit` would do, to be printed, compared and recorded.

    requests: in order; the ARN of a role that was given by name is the one thing in them that only the account knows.
    actions: the IAM actions that the person who submits must be allowed. costs: None if it costs nothing, or its price
    is not known.
    """

    spec: RunSpec
    handle: Handle  # what `submit` will return
    rows: tuple[tuple[str, str], ...]  # what a person wants to know first: where it runs, the command, the cost
    requests: tuple[Request, ...] = ()
    actions: tuple[str, ...] = ()
    costs: Costs | None = None

    def brief(self) -> str:
        """Say where the run runs and what it costs."""
        brief = ("where", "time", "cost", "cheaper", "change", "ends", "photos", "search")
        rows = [(name, text) for name, text in self.rows if name in brief]
        return "\n".join(
            [
                f"{self._kind.capitalize()} {self.spec.run_id}{self._called}",
                *(f"  {name:<7} {text.splitlines()[0]}" for name, text in rows),
            ]
        )

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        indent = f"\n{'':{width + 4}}"
        lines = [f"  {name:<{width}}  {indent.join(text.splitlines())}" for name, text in self.rows]
        return "\n".join(
            [
                f"Plan for {self._kind} {self.spec.run_id}{self._called}",
                *lines,
                *(f"\n{request}" for request in self.requests),
            ]
        )

    @property
    def _called(self) -> str:
        """What a person called the run with name=; that of a deployment is its id."""
        name = self.spec.config.get("name")
        return f", called {name}" if name and self.spec.deployment is None else ""

    @property
    def _kind(self) -> str:
        if self.spec.tuning is not None:
            return "search"
        return "run" if self.spec.deployment is None else "deployment"
