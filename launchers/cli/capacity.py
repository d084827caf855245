"""`python -m launchers capacity`: from traffic to the setting to deploy, its latency and its dollars."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError, raise_findings
from launchers.aws.scaling import MOST_WAIT_S
from launchers.capacity import measured, shown, traffic
from launchers.capacity.advice import Assumptions, Objective, advise, endpoint, judge, with_front
from launchers.capacity.policies import BUSY, NAMES
from launchers.capacity.setting import Function, Retries, Setting
from launchers.capacity.shown import Plan
from launchers.capacity.traffic import Trace
from launchers.cost import prices
from launchers.formatting import counted

HELP = "Predict latency, refusals and dollars of a deployment from its traffic."
EPILOG = """\
Without --slots and --instances the cheapest setting is looked for; with them,
that setting is judged. Dollars are of 730 hours of such traffic, by the list
prices of us-east-1.

  python -m launchers capacity --rps 12 --peak 45
  python -m launchers capacity requests.csv --p99-ms 300
  python -m launchers capacity --rps 10 --slots 3 --no-retries
  python -m launchers capacity --rps 12 --peak 45 --instances 1-3 --slots 8
  python -m launchers capacity --rps 12 --peak 45 --p99-ms 300 --max-usd 200
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
    times.add_argument("--measured", type=Path, metavar="FILE", help="times that `loadtest --output FILE` has measured")
    add("--slots", type=int, metavar="N", help="reserved concurrency of the Lambda function")
    add("--provisioned", type=int, default=0, metavar="N", help="of these, kept warm (default: 0)")
    add("--instances", metavar="N[-M]", help="instances of an endpoint, or the least and the most of them")
    add(
        "--policy",
        choices=NAMES,
        metavar="NAME",
        help=f"how their number changes: {', '.join(NAMES)} (default: concurrency for a range)",
    )
    add("--threshold", type=float, metavar="PERCENT", help="of all vCPUs, at which `report` adds one (default: 70)")
    add("--out-s", type=float, metavar="S", help="cool-down after instances were added (default: the policy's own)")
    add("--front", action="store_true", help="look for settings with a Lambda alone, whose URL callers use")
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
    add("--max-usd", type=float, metavar="USD", help="objective: dollars a month, at most (default: any)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")
    add("--html", type=Path, metavar="FILE", help="also write a page with charts")


def run(args: argparse.Namespace) -> int:
    service_s, told = measured.service_times(args.measured) if args.measured else ([args.service_ms / 1000], ())
    objective = _objective(args)
    least, most = _instances(args)
    _check(args, service_s, objective, least, most)
    trace = _trace(args)
    trace = replace(trace, notes=(*trace.notes, *told))
    row = prices.hosting(args.instance_type)
    assert row is not None
    assumed = Assumptions(
        service_s,
        overhead_s=args.overhead_ms / 1000,
        start_s=args.start_s,
        vcpus=row.vcpus,
        instance_type=args.instance_type,
        retries=Retries(0) if args.no_retries else Retries(),
        behind=args.front,
        **({} if args.cold_ms is None else {"cold_s": args.cold_ms / 1000, "front_cold_s": args.cold_ms / 1000}),
    )
    given = args.slots is not None or least
    advice = usual = None
    if given:
        setting = _setting(args, assumed, least, most)
        chosen = judge(setting, trace, assumed, objective, args.seed)
        if args.threshold is not None or args.out_s is not None:
            same = argparse.Namespace(**{**vars(args), "threshold": None, "out_s": None})
            usual = judge(_setting(same, assumed, least, most), trace, assumed, objective, args.seed)
    if not given or any(each is not None for each in (args.p99_ms, args.refused, args.max_usd)):
        advice = advise(trace, assumed, objective, args.seed)
        chosen = chosen if given else advice.best
    plan = Plan(chosen, trace, assumed, args.seed, advice, usual)
    if args.html:
        from launchers.capacity import page

        page.write(args.html, plan)
    if args.json:
        print(json.dumps(shown.facts(plan), indent=2, allow_nan=False))
    else:
        print(shown.shown(plan))
        if args.html:
            print(f"{'Page':<12}{shown_path(args.html)}")
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
    return Objective(0.5 if args.p99_ms is None else args.p99_ms / 1000, share, args.max_usd)


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
        ("--out-s", args.out_s, 0, True), ("--seed", args.seed, 0, True), ("--max-usd", args.max_usd, 0, False),
    ]  # fmt: skip
    for name, value, lowest, equal in numbers:
        if value is not None and not (math.isfinite(value) and (value > lowest or (equal and value == lowest))):
            found.append(f"{name} must be {'at least' if equal else 'above'} {lowest}, got {value:g}.")
    if args.provisioned and args.provisioned > (args.slots or 0):
        found.append(f"--provisioned {args.provisioned} needs as many --slots, got {args.slots or 0}.")
    if args.policy and args.policy != "none" and least == most:
        found.append(f"--policy {args.policy} needs a range of instances.\nTry: --instances 1-3")
    scales = least != most and args.policy != "none"
    if args.threshold is not None and not 50 <= args.threshold < 100:
        found.append(f"--threshold must be from 50 to below 100 percent of all vCPUs, got {args.threshold:g}.")
    if args.threshold is not None and not (scales and args.policy == "report"):
        found.append("--threshold is of the policy report.\nTry: --instances 1-3 --policy report")
    elif args.out_s is not None and not scales:
        found.append(
            "--out-s is of a policy that changes the number of instances.\nTry: --instances 1-3 --policy report"
        )
    if args.out_s is not None and args.out_s > MOST_WAIT_S:
        found.append(f"--out-s must be at most {MOST_WAIT_S} seconds, got {args.out_s:g}.\nTry: --out-s {MOST_WAIT_S}")
    if args.front and (least or args.slots is not None):
        found.append("--front is of the search, and --slots with --instances is an endpoint behind a Lambda already.")
    if max(service_s) * 1000 > args.timeout_ms:
        found.append(
            f"A service time of {max(service_s) * 1000:g} ms is longer than the time-out of {args.timeout_ms:g} ms, so "
            "such requests would never be answered.\nTry: a larger --timeout-ms, or a faster model"
        )
    row = prices.hosting(args.instance_type)
    if row is None or not prices.hosts(args.instance_type):
        reason = f"The price of {args.instance_type} as an endpoint is not known."
        if row is not None:
            reason = f"{args.instance_type} is not deployed: it has a GPU, which our server does not use."
        found.append(f"{reason}\nTry: --instance-type, one of {', '.join(prices.hosting_types())}")
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
        name = f"lambda, {counted(args.slots, 'slot')}" + (
            f", {args.provisioned} provisioned" if args.provisioned else ""
        )
        function = Function(args.slots, args.provisioned, cold, memory_mb=memory)
        return Setting(function, retries=assumed.retries, name=name)
    name = args.policy or ("none" if least == most else "concurrency")
    busy = BUSY if args.threshold is None else args.threshold / 100
    fleet = endpoint(assumed, least, most, name, args.out_s, busy)
    return fleet if args.slots is None else with_front(fleet, args.slots, assumed, args.provisioned)
