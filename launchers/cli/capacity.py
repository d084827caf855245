"""`python -m launchers capacity`: from traffic to the setting to deploy, its latency and its dollars."""

import argparse
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError, raise_findings
from launchers.capacity import traffic
from launchers.capacity.advice import Advice, Assumptions, Objective, Verdict, advise, endpoint, judge, with_front
from launchers.capacity.policies import NAMES
from launchers.capacity.setting import Function, Retries, Setting
from launchers.capacity.traffic import Trace
from launchers.cost import prices
from launchers.cost.serving import break_even_rps
from launchers.formatting import usd

HELP = "Predict latency, refusals and dollars of a deployment from its traffic."
EPILOG = """\
Without --slots and --instances the cheapest setting is looked for; with them,
that setting is judged. Dollars are of 730 hours of such traffic, by the list
prices of us-east-1.

  python -m launchers capacity --rps 12 --peak 45
  python -m launchers capacity requests.csv --p99-ms 300
  python -m launchers capacity --rps 10 --slots 3 --no-retries
  python -m launchers capacity --rps 12 --peak 45 --instances 1-3 --slots 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("trace", nargs="?", type=Path, metavar="TRACE", help="a CSV of timestamps or counts, or get-metric-data's JSON")
    add("--rps", type=float, metavar="N", help="generate traffic instead: mean requests per second")
    add("--peak", type=float, metavar="N", help="highest requests per second of generated traffic")
    add("--shape", choices=traffic.SHAPES, help="of generated traffic (default: steady, or daily with --peak)")
    add(
        "--hours", type=float, metavar="H", help="length of generated traffic (default: a day, a week, 70 minutes, 2 h)"
    )
    times = parser.add_mutually_exclusive_group()
    times.add_argument(
        "--service-ms",
        type=float,
        default=100.0,
        metavar="MS",
        help="time of one request on one vCPU; without --instances of the whole call (default: 100)",
    )
    times.add_argument("--service-times", type=Path, metavar="FILE", help="measured ones instead: JSON with service_ms")
    add("--slots", type=int, metavar="N", help="reserved concurrency of the Lambda function")
    add("--provisioned", type=int, default=0, metavar="N", help="of these, kept warm (default: 0)")
    add("--instances", metavar="N[-M]", help="instances of an endpoint, or the least and the most of them")
    add(
        "--policy",
        choices=NAMES,
        metavar="NAME",
        help=f"how their number changes: {', '.join(NAMES)} (default: concurrency for a range)",
    )
    add("--instance-type", default="ml.c7i.large", metavar="TYPE", help="of the endpoint (default: ml.c7i.large)")
    add(
        "--overhead-ms",
        type=float,
        default=15.0,
        metavar="MS",
        help="of a call through Lambda to an endpoint (default: 15)",
    )
    add(
        "--cold-ms",
        type=float,
        metavar="MS",
        help="of a function's first call (default: 3000 with the model inside, 400 in front; 0 with --slots alone)",
    )
    add("--start-s", type=float, default=240.0, metavar="S", help="until a new instance serves (default: 240)")
    add(
        "--timeout-ms",
        type=float,
        default=29_000.0,
        metavar="MS",
        help="time-out of the callers, below which every service time must be (default: 29000)",
    )
    add("--no-retries", action="store_true", help="callers do not repeat refused requests (default: twice)")
    add("--p99-ms", type=float, metavar="MS", help="objective: 99 %% are answered within this (default: 500)")
    add("--refused", metavar="SHARE", help="objective: share that may be refused, such as 0.1%% (default)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")
    add("--html", type=Path, metavar="FILE", help="also write a page with charts")


def run(args: argparse.Namespace) -> int:
    service_s = traffic.service_times(args.service_times) if args.service_times else [args.service_ms / 1000]
    objective = _objective(args)
    least, most = _instances(args)
    _check(args, service_s, objective, least, most)
    trace = _trace(args)
    row = prices.hosting(args.instance_type)
    assert row is not None
    assumed = Assumptions(
        service_s,
        overhead_s=args.overhead_ms / 1000,
        start_s=args.start_s,
        vcpus=row.vcpus,
        instance_type=args.instance_type,
        retries=Retries(0) if args.no_retries else Retries(),
        **({} if args.cold_ms is None else {"cold_s": args.cold_ms / 1000, "front_cold_s": args.cold_ms / 1000}),
    )
    given = args.slots is not None or least
    advice = None
    if given:
        chosen = judge(_setting(args, assumed, least, most), trace, assumed, objective, args.seed)
    if not given or args.p99_ms is not None or args.refused is not None:
        advice = advise(trace, assumed, objective, args.seed)
        chosen = chosen if given else advice.best
    facts = _facts(chosen, trace, assumed, advice, args.seed)
    if args.html:
        from launchers.capacity import page

        page.write(args.html, chosen, trace, assumed, advice)
    if args.json:
        print(json.dumps(facts, indent=2, allow_nan=False))
    else:
        print(_shown(chosen, trace, assumed, advice))
        if args.html:
            print("\n".join(_field("Page", shown_path(args.html))))
    return 0


def _objective(args: argparse.Namespace) -> Objective:
    share = 0.001
    if args.refused is not None:
        text = args.refused.strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = math.nan
        if not 0 <= share < 1:
            raise ConfigError(f"--refused must be a share from 0 to below 1, got {args.refused}.\nTry: --refused 0.1%")
    return Objective(0.5 if args.p99_ms is None else args.p99_ms / 1000, share)


def _instances(args: argparse.Namespace) -> tuple[int, int]:
    """Return the least and the most instances; zeros if there is no endpoint."""
    if args.instances is None:
        return 0, 0
    low, _, high = args.instances.partition("-")
    try:
        least, most = int(low), int(high or low)
    except ValueError:
        least = most = 0
    if not 1 <= least <= most:
        raise ConfigError(f"--instances must be a number or a range such as 1-3, got {args.instances}.")
    return least, most


def _check(args: argparse.Namespace, service_s: list[float], objective: Objective, least: int, most: int) -> None:
    found = []
    if (args.trace is None) == (args.rps is None):
        found.append(
            "Traffic is needed: a trace or --rps, one of them.\nTry: python -m launchers capacity --rps 12 --peak 45"
        )
    if args.trace is not None and (args.peak is not None or args.shape or args.hours is not None):
        found.append("--peak, --shape and --hours are of generated traffic, which a trace replaces.")
    numbers = [
        ("--service-ms", args.service_ms, 0, False), ("--slots", args.slots, 1, True),
        ("--provisioned", args.provisioned, 0, True), ("--overhead-ms", args.overhead_ms, 0, True),
        ("--cold-ms", args.cold_ms, 0, True), ("--start-s", args.start_s, 0, True),
        ("--timeout-ms", args.timeout_ms, 0, False), ("--p99-ms", args.p99_ms, 0, False),
    ]  # fmt: skip
    for name, value, lowest, equal in numbers:
        if value is not None and not (math.isfinite(value) and (value > lowest or (equal and value == lowest))):
            found.append(f"{name} must be {'at least' if equal else 'above'} {lowest}, got {value:g}.")
    if args.provisioned and args.provisioned > (args.slots or 0):
        found.append(f"--provisioned {args.provisioned} needs as many --slots, got {args.slots or 0}.")
    if args.policy and args.policy != "none" and least == most:
        found.append(f"--policy {args.policy} needs a range of instances.\nTry: --instances 1-3")
    if max(service_s) * 1000 > args.timeout_ms:
        found.append(
            f"A service time of {max(service_s) * 1000:g} ms is longer than the time-out of {args.timeout_ms:g} ms, so "
            "such requests would never be answered.\nTry: a larger --timeout-ms, or a faster model"
        )
    if prices.hosting(args.instance_type) is None:
        known = ", ".join(prices.hosting_types())
        found.append(
            f"The price of {args.instance_type} as an endpoint is not known.\nTry: --instance-type, one of {known}"
        )
    if args.p99_ms is not None and not least and args.p99_ms < min(service_s) * 1000:
        found.append(
            f"No setting answers within {args.p99_ms:g} ms what takes {min(service_s) * 1000:g} ms.\n"
            f"Try: --p99-ms {math.ceil(min(service_s) * 1200)}, or a faster model"
        )
    raise_findings(ConfigError, found)


def _trace(args: argparse.Namespace) -> Trace:
    if args.trace is not None:
        return traffic.read(args.trace, args.seed)
    shape: traffic.Shape = args.shape or ("steady" if args.peak is None else "daily")
    hours = traffic.HOURS[shape] if args.hours is None else args.hours
    return traffic.generate(args.rps, args.peak, shape, hours, args.seed)


def _setting(args: argparse.Namespace, assumed: Assumptions, least: int, most: int) -> Setting:
    if not least:
        cold = 0.0 if args.cold_ms is None else assumed.cold_s
        memory = prices.lambda_prices().vcpu_mb
        name = f"lambda, {args.slots} slots" + (f", {args.provisioned} provisioned" if args.provisioned else "")
        function = Function(args.slots, args.provisioned, cold, memory_mb=memory)
        return Setting(function, retries=assumed.retries, name=name)
    fleet = endpoint(assumed, least, most, args.policy or ("none" if least == most else "concurrency"))
    return fleet if args.slots is None else with_front(fleet, args.slots, assumed, args.provisioned)


# --- what is printed ---


def _facts(chosen: Verdict, trace: Trace, assumed: Assumptions, advice: Advice | None, seed: int) -> dict[str, Any]:
    facts = {
        **_row(chosen),
        "late_ms": chosen.objective.p99_s * 1000,
        "evidence": chosen.evidence,
        "meets_objective": chosen.meets,
        "requests": chosen.outcome.requests,
        "hours": trace.end_s / 3600,
        "mean_rps": trace.mean_rps,
        "peak_rps": trace.peak_rps(),
        "instance_hours": chosen.outcome.instance_s / 3600,
        "cold_starts": chosen.outcome.cold,
        "repeats": chosen.outcome.repeats,
        "usd_free_tier": chosen.bill.free,
        "break_even_rps": _finite(_break_even(assumed)),
        "prices_as_of": prices.lambda_prices().as_of,
        "seed": seed,
        "notes": list(trace.notes),
    }
    if advice is not None:
        facts["recommended"] = _row(advice.best)
        facts["pareto"] = [_row(one) for one in advice.pareto]
    return facts


def _row(verdict: Verdict) -> dict[str, Any]:
    outcome = verdict.outcome
    return {
        "setting": verdict.setting.name,
        "refused": outcome.refused_share,
        "late": verdict.late,
        **{f"p{percent}_ms": _finite(outcome.percentile_s(percent) * 1000) for percent in (50, 95, 99)},
        "usd_per_month": verdict.bill.total,
        "binding_limit": verdict.binding,
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _break_even(assumed: Assumptions) -> float:
    return break_even_rps(assumed.mean_s, assumed.mean_s + assumed.overhead_s, assumed.instance_type)


def _shown(chosen: Verdict, trace: Trace, assumed: Assumptions, advice: Advice | None) -> str:
    objective = chosen.objective
    lines = [
        *_field(
            "Traffic",
            f"{len(trace.at):,} requests in {trace.end_s / 3600:.3g} h: {trace.mean_rps:.3g} a second, "
            f"{trace.peak_rps():.3g} in the busiest minute",
        ),
        *(line for note in trace.notes for line in _field("", note)),
        *_field("Objective", f"99 % within {objective.p99_s * 1000:g} ms, at most {objective.refused:.2%} refused"),
        "",
    ]
    if advice is not None:
        lines += _table(advice.tried, advice.best)
        if not advice.best.meets:
            lines += ["", "Nothing that was tried meets the objective; the one marked * is the nearest."]
        lines.append("")
    lines += _details(chosen)
    rate = _break_even(assumed)
    if math.isfinite(rate):
        lines += _field(
            "Break-even",
            f"above {rate:.3g} requests/s, day and night, one {assumed.instance_type} behind a Lambda is cheaper than "
            "the model in a Lambda",
        )
    return "\n".join(lines)


def _field(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, 80, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)


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
        name = textwrap.wrap(row[4], 80 - len(room), subsequent_indent="  ", drop_whitespace=True) or [""]
        lead = "  " if row[4].startswith("  ") else ""
        lines += [f"{begin}{lead}{name[0].lstrip()}", *(f"{room}  {more.lstrip()}" for more in name[1:])]
    return [line.rstrip() for line in lines]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}" if math.isfinite(seconds) else "-"
