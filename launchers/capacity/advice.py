"""Judge settings by simulating them, find the cheapest that meets an objective, and name what binds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from launchers.capacity.dollars import Bill, bill
from launchers.capacity.outcome import Outcome
from launchers.capacity.policies import BUSY, policy
from launchers.capacity.queueing import slots_for
from launchers.capacity.setting import Endpoint, Function, Limit, Retries, Setting
from launchers.capacity.simulation import simulate
from launchers.capacity.traffic import Trace
from launchers.cost import prices
from launchers.cost.serving import AT_ONCE, busy_vcpus
from launchers.formatting import counted

BUSY_S = 1800.0  # the busiest part of a trace, on which all candidates are compared
FINALISTS = 1  # of each architecture, that are simulated on the whole trace
SHORT_S = 10.0  # a cool-down that is as short as the period of a metric
_FULL = 0.85  # of its vCPUs, up to which a fleet is tried


@dataclass(frozen=True)
class Objective:
    """What users must get. p99_s: latency of 99 % of the answered requests. refused: share of all requests.

    max_usd: that a month may cost; None for any amount.
    """

    p99_s: float = 0.5
    refused: float = 0.001
    max_usd: float | None = None


@dataclass(frozen=True)
class Assumptions:
    """What cannot be known from the traffic.

    service_s: samples of one request's time on one vCPU, or of the whole call where there is no endpoint. overhead_s:
    what a call through a function takes beyond the endpoint's own time. cold_s, front_cold_s: what the first call of an
    environment takes longer, with the model inside and without. start_s: of a new instance. behind: whether callers
    reach an endpoint through a function alone, whose URL they know.
    """

    service_s: Sequence[float]
    overhead_s: float = 0.015
    cold_s: float = 3.0
    front_cold_s: float = 0.4
    start_s: float = 240.0
    vcpus: int = 2
    instance_type: str = "ml.c7i.large"
    retries: Retries = field(default_factory=Retries)
    behind: bool = False

    @property
    def mean_s(self) -> float:
        return math.fsum(self.service_s) / len(self.service_s)


@dataclass(frozen=True)
class Verdict:
    """How a setting does under the traffic."""

    setting: Setting
    outcome: Outcome
    bill: Bill
    objective: Objective
    binding: Limit
    evidence: str

    @property
    def p99_s(self) -> float:
        return self.outcome.percentile_s(99)

    @property
    def late(self) -> float:
        return self.outcome.late_share(self.objective.p99_s)

    @property
    def meets(self) -> bool:
        """Whether users get what they must, whatever it costs."""
        return self.outcome.refused_share <= self.objective.refused and self.p99_s <= self.objective.p99_s

    @property
    def affordable(self) -> bool:
        return self.objective.max_usd is None or self.bill.total <= self.objective.max_usd

    @property
    def misses_by(self) -> float:
        """How many times over the objective this is, in its worse respect; at most 1 if it is met."""
        p99 = self.p99_s / self.objective.p99_s if math.isfinite(self.p99_s) else math.inf
        refused = self.outcome.refused_share
        return max(p99, refused / self.objective.refused if self.objective.refused else (math.inf if refused else 0.0))


def judge(setting: Setting, trace: Trace, assumptions: Assumptions, objective: Objective, seed: int) -> Verdict:
    """Simulate one setting under the traffic."""
    outcome = simulate(setting, trace.traffic(assumptions.service_s, seed), seed)
    binding, evidence = _binding(setting, outcome, objective)
    return Verdict(setting, outcome, bill(setting, outcome), objective, binding, evidence)


def _binding(setting: Setting, outcome: Outcome, objective: Objective) -> tuple[Limit, str]:
    """Return the limit that refused or delayed most requests, if that is more than the objective allows."""
    harm = dict(outcome.refused)
    for cause, count in outcome.late_causes(objective.p99_s).items():
        harm[cause] = harm.get(cause, 0) + count
    slow = harm.pop("none", 0)
    total = sum(harm.values())
    limit_ms = objective.p99_s * 1000
    allowed = max(objective.refused, 0.01 if not outcome.refused else objective.refused)
    met = outcome.refused_share <= objective.refused and outcome.percentile_s(99) <= objective.p99_s
    if met or not outcome.requests or total / outcome.requests <= allowed:
        if slow > 0.01 * outcome.requests:
            return (
                "none",
                f"{slow / outcome.requests:.1%} take longer than {limit_ms:g} ms without waiting for anything",
            )
        return "none", f"{total / outcome.requests if outcome.requests else 0:.2%} of the requests are refused or late"
    binding = max(harm, key=lambda cause: harm[cause])
    share = harm[binding] / outcome.requests
    return binding, f"{share:.1%} of the requests are refused or later than {limit_ms:g} ms, because " + _why(
        binding, setting, outcome
    )


def _why(binding: Limit, setting: Setting, outcome: Outcome) -> str:
    if binding == "lambda_slots":
        assert setting.function is not None
        slots = setting.function.slots
        return f"all {slots} slots of the function were in use" if slots > 1 else "the function's only slot was in use"
    about = setting.endpoint
    if binding == "start_delay":
        environment = "the function had to start a new environment"
        if about is None or not about.scales:
            return environment
        instances = f"further instances were needed but not in service yet (they start in {about.start_s:g} s)"
        return f"{instances}, or {environment}" if outcome.cold else instances
    assert about is not None
    if binding == "max_instances":
        return f"all {about.most} instances, the most that the policy may start, were busy"
    vcpus = f"all {about.vcpus} vCPUs" if about.vcpus > 1 else "the vCPU"
    of = f"each of the {about.least} instances" if about.least > 1 else "the instance"
    return f"{vcpus} of {of} {'were' if about.vcpus > 1 else 'was'} busy"


# --- the search ---


@dataclass(frozen=True)
class Advice:
    """What was simulated on the whole trace, the cheapest first, and the one to deploy.

    best: the cheapest that meets the objective; the nearest to it that is within the budget if none does.
    """

    tried: Sequence[Verdict]
    best: Verdict

    @property
    def pareto(self) -> list[Verdict]:
        """Those of which no other is both cheaper and nearer to the objective, the cheapest first."""
        kept: list[Verdict] = []
        for verdict in sorted(self.tried, key=lambda one: (one.bill.total, one.misses_by)):
            if not kept or verdict.misses_by < kept[-1].misses_by:
                kept.append(verdict)
        return kept


def advise(trace: Trace, assumptions: Assumptions, objective: Objective, seed: int) -> Advice:
    """Try architectures and policies, first all on the busiest hours, then the most promising on the whole trace."""
    busiest = trace.busiest(BUSY_S)
    rough = [
        judge(setting, busiest, assumptions, objective, seed) for setting in candidates(trace, assumptions, objective)
    ]
    if busiest is trace:
        whole = rough
    else:
        # dollars of the busiest half hour are too high for what is paid by use or scales, so one of each kind goes on
        ranked = sorted(rough, key=lambda one: (not one.meets, one.bill.total if one.meets else one.misses_by))
        kinds: dict[str, list[Verdict]] = {}
        for one in ranked:
            kinds.setdefault(one.setting.kind, []).append(one)
        finalists = [one for same in kinds.values() for one in same[:FINALISTS]]
        if objective.max_usd is not None:  # what meets the objective may cost too much, and so may all that is near it
            cheapest = [min(same, key=lambda one: one.bill.total) for same in kinds.values()]
            finalists += [one for one in cheapest if all(one is not other for other in finalists)]
        whole = [judge(one.setting, trace, assumptions, objective, seed) for one in finalists]
    return Advice(sorted(whole, key=lambda one: one.bill.total), best_of(whole))


def best_of(judged: Sequence[Verdict]) -> Verdict:
    """Return the cheapest that meets the objective; without one the nearest, and without that the cheapest of all."""
    within = [one for one in judged if one.affordable]
    meeting = [one for one in within if one.meets]
    if meeting:
        return min(meeting, key=lambda one: (one.bill.total, one.p99_s))
    if within:
        return min(within, key=lambda one: (one.misses_by, one.bill.total))
    return min(judged, key=lambda one: one.bill.total)


def candidates(trace: Trace, assumptions: Assumptions, objective: Objective) -> Iterator[Setting]:
    """Yield settings worth trying under this traffic: functions, fixed endpoints, and scaled ones.

    None of a function that has the model inside and keeps some slots warm, since that cannot be deployed.
    """
    peak, mean = trace.peak_rps(), trace.mean_rps
    call_s, rates = assumptions.mean_s, prices.lambda_prices()
    refused = max(objective.refused / 2, 1e-6)
    for slots in dict.fromkeys([slots_for(peak * call_s, refused), slots_for(peak * call_s, refused) + 2]):
        yield Setting(
            Function(slots, 0, assumptions.cold_s, memory_mb=rates.vcpu_mb),
            retries=assumptions.retries,
            name=f"lambda, {counted(slots, 'slot')}",
        )
    per_instance = busy_vcpus(assumptions.vcpus) / assumptions.mean_s
    most = max(1, math.ceil(peak / per_instance / _FULL))
    sizes = sorted({max(1, math.ceil(mean / per_instance / _FULL)), most, most + 1})
    fleets = [endpoint(assumptions, count, count, "none") for count in sizes]
    for least in sorted({1, 2, max(1, most - 1)}):
        for name, out_s in (("concurrency", None), ("invocations", None), ("report", None), ("report", SHORT_S)):
            if least < most + 1:
                fleets.append(endpoint(assumptions, least, most + 1, name, out_s))
    slots = slots_for(peak * (call_s + assumptions.overhead_s), refused) + 1
    if assumptions.behind:
        some = min(slots, math.ceil(mean * (call_s + assumptions.overhead_s)) + 1)
        for warm in dict.fromkeys([0, some, slots]):
            yield from (with_front(fleet, slots, assumptions, warm) for fleet in fleets)
        return
    yield from fleets
    for least, top in {(sizes[0], most), (most, most)}:
        yield with_front(
            endpoint(assumptions, least, top, "concurrency" if top > least else "none"), slots, assumptions
        )


def endpoint(
    assumptions: Assumptions, least: int, most: int, name: str, out_s: float | None = None, busy: float = BUSY
) -> Setting:
    """Return an endpoint that callers reach without a function in front. name, out_s, busy: of its policy."""
    vcpus = busy_vcpus(assumptions.vcpus)
    rules, metric, publish_s = policy(name, vcpus, assumptions.mean_s, out_s, busy)
    scales = rules is not None and most > least
    about = Endpoint(
        least,
        most,
        vcpus,
        rules if scales else None,
        metric,
        publish_s,
        assumptions.start_s,
        AT_ONCE - vcpus,
        type=assumptions.instance_type,
    )
    count = f"{least} to {most}" if scales else str(least)
    apart = f" above {busy:.0%}" if busy != BUSY else ""
    apart += f" with a cool-down of {out_s:g} s" if out_s is not None else ""
    return Setting(
        endpoint=about,
        retries=assumptions.retries,
        name=f"endpoint, {count} {assumptions.instance_type}" + (f", {name}{apart}" if scales else ""),
    )


def with_front(setting: Setting, slots: int, assumptions: Assumptions, provisioned: int = 0) -> Setting:
    """Return the same endpoint with a function in front that passes requests on."""
    memory = prices.lambda_prices().front_mb
    return replace(
        setting,
        function=Function(slots, provisioned, assumptions.front_cold_s, memory_mb=memory),
        overhead_s=assumptions.overhead_s,
        name=f"{setting.name}, behind a lambda with {counted(slots, 'slot')}"
        + (f", {provisioned} provisioned" if provisioned else ""),
    )
