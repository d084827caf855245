"""What the planner found, for people and for programs."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dogbreed import commands
from launchers.capacity.advice import Advice, Assumptions, Verdict
from launchers.capacity.overrides import overrides, reason_against
from launchers.capacity.traffic import Trace
from launchers.cost import prices
from launchers.cost.serving import break_even_rps, busy_vcpus
from launchers.formatting import usd

_WIDTH = 80


@dataclass(frozen=True)
class Plan:
    """All that was found. chosen: the setting that was judged, or the recommended one. advice: what was compared.

    usual: the same setting with the policy's usual numbers, if `chosen` has others.
    """

    chosen: Verdict
    trace: Trace
    assumed: Assumptions
    seed: int
    advice: Advice | None = None
    usual: Verdict | None = None

    @property
    def to_deploy(self) -> Verdict:
        return self.chosen if self.advice is None else self.advice.best


def facts(plan: Plan) -> dict[str, Any]:
    """Return all of it for programs."""
    chosen, trace, advice = plan.chosen, plan.trace, plan.advice
    found = {
        **_row(chosen),
        "late_ms": chosen.objective.p99_s * 1000,
        "evidence": chosen.evidence,
        "meets_objective": chosen.meets,
        "within_budget": chosen.affordable,
        "requests": chosen.outcome.requests,
        "hours": trace.end_s / 3600,
        "mean_rps": trace.mean_rps,
        "peak_rps": trace.peak_rps(),
        "cold_starts": chosen.outcome.cold,
        "repeats": chosen.outcome.repeats,
        "usd_free_tier": chosen.bill.free,
        "break_even_rps": _finite(break_even(plan.assumed)),
        "prices_as_of": prices_as_of(plan),
        "seed": plan.seed,
        "notes": list(trace.notes),
    }
    if advice is not None:
        found["recommended"] = _row(advice.best)
        found["pareto"] = [_row(one) for one in advice.pareto]
        found["compared"] = [_row(one) for one in advice.tried]
    if plan.usual is not None:
        found["usual"] = _row(plan.usual)
    return found


def _row(verdict: Verdict) -> dict[str, Any]:
    outcome = verdict.outcome
    return {
        "setting": verdict.setting.name,
        "refused": outcome.refused_share,
        "late": verdict.late,
        **{f"p{percent}_ms": _finite(outcome.percentile_s(percent) * 1000) for percent in (50, 95, 99)},
        "usd_per_month": verdict.bill.total,
        "binding_limit": verdict.binding,
        "instance_hours": outcome.instance_s / 3600,
        "overrides": None if reason_against(verdict.setting) else overrides(verdict.setting),
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def break_even(assumed: Assumptions) -> float:
    """Return the rate above which one instance is cheaper; infinity if it cannot answer so many."""
    rate = break_even_rps(assumed.mean_s, assumed.mean_s + assumed.overhead_s, assumed.instance_type)
    return rate if rate < busy_vcpus(assumed.vcpus) / assumed.mean_s else math.inf


def prices_as_of(plan: Plan) -> str:
    """Return the date of the prices; the older one if there are two."""
    compared = [one.setting for one in (plan.chosen, *(plan.advice.tried if plan.advice else ()))]
    types = {one.endpoint.type for one in compared if one.endpoint is not None}
    dates = [row.as_of for kind in types if (row := prices.hosting(kind)) is not None]
    if any(one.function is not None for one in compared):
        dates.append(prices.lambda_prices().as_of)
    return min(dates)


def shown(plan: Plan) -> str:
    """Return it as lines of a terminal."""
    chosen, trace, advice, objective = plan.chosen, plan.trace, plan.advice, plan.chosen.objective
    wanted = f"99 % within {objective.p99_s * 1000:g} ms, at most {objective.refused:.2%} refused"
    if objective.max_usd is not None:
        wanted += f", for at most {usd(objective.max_usd)} a month"
    lines = [
        *_field(
            "Traffic",
            f"{len(trace.at):,} requests in {trace.end_s / 3600:.3g} h: {trace.mean_rps:.3g} a second, "
            f"{trace.peak_rps():.3g} in the busiest minute",
        ),
        *(line for note in trace.notes for line in _field("", note)),
        *_field("Objective", wanted),
        "",
    ]
    if advice is not None:
        lines += _table(advice.tried, advice.best)
        if missed := _missed(advice.best):
            lines += ["", *textwrap.wrap(missed, _WIDTH)]
        lines.append("")
    lines += _details(chosen)
    if plan.usual is not None:
        lines += _field("Against", _against(chosen, plan.usual))
    rate = break_even(plan.assumed)
    if math.isfinite(rate):
        lines += _field(
            "Break-even",
            f"above {rate:.3g} requests/s, day and night, one {plan.assumed.instance_type} behind a Lambda is cheaper "
            "than the model in a Lambda",
        )
    best = plan.to_deploy
    if best is not chosen:
        lines += _field("Instead", f"{best.setting.name}: {usd(best.bill.total)} a month")
    return "\n".join([*lines, *_deploy(best)])


def _missed(best: Verdict) -> str:
    if best.meets and best.affordable:
        return ""
    if not best.affordable:
        return "Nothing that was tried costs so little; the one marked * is the cheapest."
    within = "" if best.objective.max_usd is None else " within the budget"
    return f"Nothing that was tried meets the objective{within}; the one marked * is the nearest."


def _against(chosen: Verdict, usual: Verdict) -> str:
    """Say what the numbers of a policy that were asked for save, and what they cost, against its usual ones."""
    usual_h, hours = usual.outcome.instance_s / 3600, (usual.outcome.instance_s - chosen.outcome.instance_s) / 3600
    dollars = usual.bill.total - chosen.bill.total
    saved = f"as many instance-hours, {usual_h:.2f}"
    if abs(hours) >= 0.005:
        saved = f"{abs(hours):.2f} {'less' if hours > 0 else 'more'} than {usual_h:.2f} instance-hours"
    if abs(dollars) >= 0.005:
        saved += f", {usd(abs(dollars))} a month {'less' if dollars > 0 else 'more'}"
    return (
        f"the usual numbers of this policy: {saved}; p99 {_ms(chosen.p99_s)} instead of {_ms(usual.p99_s)} ms, "
        f"{chosen.late:.2%} instead of {usual.late:.2%} later than {chosen.objective.p99_s * 1000:g} ms"
    )


def _deploy(chosen: Verdict) -> list[str]:
    if reason := reason_against(chosen.setting):
        return _field("Deploy", reason)
    first, *others = deploy_lines(chosen, indent=14)
    return [f"{'Deploy':<12}{first}", *others]


def deploy_lines(chosen: Verdict, indent: int) -> list[str]:
    """Return the command that deploys a setting, on lines that a shell reads as one; all but the first are indented."""
    command = commands.in_project(*overrides(chosen.setting), "name=NAME", "checkpoint=RUN")
    lines = textwrap.wrap(command, _WIDTH - 2 - indent, break_long_words=False, break_on_hyphens=False)
    ends = [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
    return [ends[0], *(" " * indent + line for line in ends[1:])]


def _field(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{name:<12}", subsequent_indent=" " * 12, break_on_hyphens=False)


def _details(verdict: Verdict) -> list[str]:
    outcome, cost = verdict.outcome, verdict.bill
    p50, p95, p99 = (_ms(outcome.percentile_s(percent)) for percent in (50, 95, 99))
    late_ms = verdict.objective.p99_s * 1000
    apart = f" (up to {usd(cost.free)} less with Lambda's free tier)" if cost.free else ""
    fields = [
        ("Setting", verdict.setting.name),
        ("Latency", f"p50 {p50}, p95 {p95}, p99 {p99} ms"),
        ("Refused", f"{outcome.refused_share:.2%}; {verdict.late:.2%} later than {late_ms:g} ms"),
        ("Limit", f"{verdict.binding}: {verdict.evidence}"),
        ("Cost", f"{usd(cost.total)} a month{apart}"),
    ]
    if verdict.setting.endpoint is not None:
        most = max(number for _, number in outcome.instances)
        fields.insert(4, ("Instances", f"{outcome.instance_s / 3600:.2f} instance-hours, at most {most} at once"))
    return [line for name, text in fields for line in _field(name, text)]


def _table(verdicts: Sequence[Verdict], best: Verdict) -> list[str]:
    rows = [("$/month", "p99 ms", "refused", "limit", "setting")]
    for one in verdicts:
        refused = f"{one.outcome.refused_share:.2%}"
        mark = "* " if one is best else "  "
        rows.append((f"{one.bill.total:,.2f}", _ms(one.p99_s), refused, one.binding, mark + one.setting.name))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    room = " " * (sum(widths) + 2 * len(widths))
    lines = []
    for row in rows:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(row[:3], widths[:3], strict=True))
        begin = f"{numbers}  {row[3]:<{widths[3]}}  "
        name = textwrap.wrap(row[4], _WIDTH - len(room), subsequent_indent="  ", drop_whitespace=True) or [""]
        lead = "  " if row[4].startswith("  ") else ""
        lines += [f"{begin}{lead}{name[0].lstrip()}", *(f"{room}  {more.lstrip()}" for more in name[1:])]
    return [line.rstrip() for line in lines]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}" if math.isfinite(seconds) else "-"
