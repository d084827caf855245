"""Write what a capacity plan found as one HTML page that needs no network."""

import math
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed.run_folder import write_text
from launchers.capacity.advice import Advice, Verdict
from launchers.capacity.overrides import reason_against
from launchers.capacity.shown import Plan, break_even, deploy_lines, prices_as_of
from launchers.capacity.traffic import Trace
from launchers.formatting import usd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 288  # of a line: every five minutes of a day


def write(path: Path, plan: Plan) -> None:
    """Write the page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string((files("launchers.capacity") / "page.html.jinja").read_text())
    chosen, trace, assumed, advice = plan.chosen, plan.trace, plan.assumed, plan.advice
    rate = break_even(assumed)
    content = template.render(
        css=Markup((files("dogbreed.report") / "page.css").read_text()),
        chosen=chosen,
        requests=chosen.outcome.requests,
        hours=trace.end_s / 3600,
        mean=trace.mean_rps,
        peak=trace.peak_rps(),
        notes=trace.notes,
        plots=_plots(chosen, trace, advice),
        deploy="" if reason_against(plan.to_deploy.setting) else "\n".join(deploy_lines(plan.to_deploy, indent=2)),
        tried=advice.tried if advice else (),
        best=advice.best if advice else None,
        as_of=prices_as_of(plan),
        break_even=f"{rate:.3g}" if math.isfinite(rate) else "",
        instance_type=assumed.instance_type,
        dollars=usd,
        ms=lambda seconds: f"{seconds * 1000:,.0f}" if math.isfinite(seconds) else "-",
    )
    write_text(path, content)


def _plots(chosen: Verdict, trace: Trace, advice: Advice | None) -> list[tuple[str, str, Any]]:
    plots = [("Requests", "Requests per second over time.", _requests(trace))]
    if chosen.setting.endpoint is not None:
        plots.append(("Instances", "Those in service.", _instances(chosen, trace)))
    plots.append(("Latency", "Share of the answered requests that were answered within a time.", _latency(chosen)))
    if advice is not None:
        about = (
            "Each dot is a setting of the table below, the large one the recommended one. Its height is its p99 or its "
            "refused share, whichever is further from the objective, which is at 1. No other setting is "
            "better than those on the line."
        )
        plots.append(("Dollars and objective", about, _compared(advice)))
    return plots


def _requests(trace: Trace) -> Any:
    import numpy as np

    from dogbreed.report.plots import VALID, svg

    width = trace.end_s / min(_POINTS, max(1, len(trace.at) // 10))
    counts = np.bincount((trace.at / width).astype(int), minlength=math.ceil(trace.end_s / width))
    unit, name = _unit(trace.end_s)

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((0.09, 0.2, 0.89, 0.74))
        axes.plot(np.arange(len(counts)) * width / unit, counts / width, color=VALID, lw=1.4)
        axes.set(xlim=(0, trace.end_s / unit), ylim=(0, None), xlabel=name, ylabel="requests/s")

    described = f"{trace.mean_rps:.3g} on average, {trace.peak_rps():.3g} in the busiest minute"
    return svg(draw, 620, 200, "requests", "Requests per second", described)


def _instances(chosen: Verdict, trace: Trace) -> Any:
    from dogbreed.report.plots import TRAIN, svg

    changes = chosen.outcome.instances
    unit, name = _unit(trace.end_s)
    times = [at / unit for at, _ in changes] + [trace.end_s / unit]
    numbers = [count for _, count in changes] + [changes[-1][1]]

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_axes((0.09, 0.24, 0.89, 0.7))
        axes.step(times, numbers, where="post", color=TRAIN, lw=1.8)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set(xlim=(0, trace.end_s / unit), ylim=(0, max(numbers) + 0.4), xlabel=name, ylabel="instances")

    return svg(draw, 620, 160, "instances", "Instances in service", f"from {min(numbers)} to {max(numbers)}")


def _latency(chosen: Verdict) -> Any:
    import numpy as np

    from dogbreed.report.plots import TRAIN, VALID, svg

    shares = np.linspace(0, 99.9, 400)
    answered = bool(chosen.outcome.latency_s)
    times = np.percentile(np.asarray(chosen.outcome.latency_s), shares) * 1000 if answered else np.zeros(len(shares))
    limit_ms = chosen.objective.p99_s * 1000

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((0.09, 0.22, 0.89, 0.72))
        axes.plot(times, shares, color=VALID, lw=1.6)
        axes.axvline(limit_ms, color=TRAIN, lw=1.2, ls="--")
        axes.set(xlim=(0, max(float(times.max()), limit_ms) * 1.05), ylim=(0, 100), xlabel="ms", ylabel="% of requests")

    described = f"99 % within {chosen.p99_s * 1000:,.0f} ms; the dashed line is the objective, {limit_ms:g} ms"
    return svg(draw, 620, 180, "latency", "Latency", described)


def _compared(advice: Advice) -> Any:
    from dogbreed.report.plots import TRAIN, VALID, svg

    known = [one for one in advice.tried if math.isfinite(one.misses_by)]
    line = [one for one in advice.pareto if math.isfinite(one.misses_by)]

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axes = figure.add_axes((0.1, 0.2, 0.88, 0.74))
        axes.plot([one.bill.total for one in line], [one.misses_by for one in line], color=VALID, lw=1.2)
        axes.scatter([one.bill.total for one in known], [one.misses_by for one in known], color=VALID, s=24)
        axes.scatter([advice.best.bill.total], [advice.best.misses_by], color=TRAIN, s=60, zorder=3)
        axes.axhline(1, color=TRAIN, lw=1.2, ls="--")
        axes.set(xlim=(0, None), yscale="log", xlabel="$ a month", ylabel="times the objective")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7))

    described = f"the recommended setting costs {usd(advice.best.bill.total)} a month; the dashed line is the objective"
    return svg(draw, 620, 220, "compared", "Dollars a month and distance from the objective", described)


def _unit(end_s: float) -> tuple[float, str]:
    """Return the seconds of a unit of time that suits a trace of this length, and its name."""
    if end_s > 3 * 86_400:
        return 86_400.0, "days"
    return (3600.0, "hours") if end_s > 7200 else (60.0, "minutes")
