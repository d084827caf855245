"""`python -m launchers prices`: what machines cost by the hour, and which are large enough."""

import argparse
import io
import json
from dataclasses import asdict
from typing import Any

from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError, raise_findings
from launchers.cost import needs, prices
from launchers.cost.prices import Instance

HELP = "List what machines cost by the hour, the cheapest first."
EPILOG = """\
Prices are on demand, in us-east-1, from launchers/cost/prices.yaml, which gives
the day and the source of each. --need leaves out what is too small:

  python -m launchers prices --need gpu=1,gpu_memory_gb=16
  python -m launchers prices --need vcpus=8,memory_gb=32

--refresh reads the prices from the AWS Price List API into that file. Whoever
calls it needs AWS credentials with the permission pricing:GetProducts.
"""
_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--need", action="append", default=[], metavar="KEY=N,...", help=f"at least that much: {', '.join(needs.KEYS)}")
    add("--refresh", action="store_true", help="update the table from the AWS Price List API")


def run(args: argparse.Namespace) -> int:
    asked = needs.parse(",".join(args.need))
    raise_findings(ConfigError, list(needs.findings(asked, "--need")))
    if args.refresh:
        from launchers.aws import prices_refresh

        report = prices_refresh.refresh(prices.TABLE)
        prices.forget()
        if not args.json:
            print(f"Updated {shown_path(prices.TABLE)}. {report}\n")
    wanted = needs.Needs.of(asked)
    rows = [row for row in prices.types() if wanted.met_by(row)]
    if args.json:
        print(json.dumps([_facts(row) for row in rows], indent=2))
    else:
        print(_table(rows), end="")
    return 0


def _facts(row: Instance) -> dict[str, Any]:
    """Return a row for programs. The prices of an endpoint and of EC2 are None where they are not known."""
    endpoint, machine = prices.hosting(row.type), prices.ec2(prices.machine_of(row.type))
    return {
        **asdict(row),
        "hosting_usd": endpoint.usd if endpoint else None,
        "ec2_usd": machine.usd if machine else None,
    }


def _table(rows: list[Instance]) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("type", no_wrap=True)
    for name in ("training", "endpoint", "EC2", "vCPU", "GB", "GPUs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("as of", no_wrap=True)
    for row in rows:
        facts = _facts(row)
        gpus = f"{row.gpus} x {row.gpu} {row.gpu_memory_gb:g}" if row.gpus else ""
        table.add_row(
            row.type,
            _usd(row.usd),
            _usd(facts["hosting_usd"]),
            _usd(facts["ec2_usd"]),
            str(row.vcpus),
            f"{row.memory_gb:g}",
            gpus,
            "withdrawn" if row.withdrawn else row.as_of,
        )
    out = io.StringIO()
    Console(file=out, width=_WIDTH).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    low, high = prices.spot_range()
    lines += [
        "",
        "US dollars an hour, on demand, in us-east-1. GB: memory of the machine, and",
        f"after a GPU's name of each. Spot machines cost {low:.0%} to {high:.0%} of that.",
    ]
    if any(row.withdrawn for row in rows):
        lines.append("withdrawn: AWS no longer offers it; the price is the last that is known.")
    return "\n".join(lines) + "\n"


def _usd(amount: float | None) -> str:
    if amount is None:
        return ""
    return f"{amount:.3f}" if amount < 10 else f"{amount:.2f}"
