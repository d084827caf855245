"""Summarize a search by SageMaker's tuner before it starts: machines, cost, and what suits heads better."""

import math
from collections.abc import Iterator
from dataclasses import replace

from dogbreed import commands
from launchers import formatting
from launchers.aws import sent
from launchers.cost import estimate, prices
from launchers.sagemaker import fitting, permissions, summary
from launchers.sagemaker.settings import JobSettings
from launchers.sagemaker.tuning import trials_of
from launchers.sagemaker.tuning_limits import FittedSearch
from launchers.spec import RunSpec, Tuning
from launchers.status import Handle


def rows(fitted: FittedSearch, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
    """Yield the rows of the plan, as (name, text)."""
    settings, tuning, trials = fitted.settings, spec.tuning, trials_of(spec)
    assert tuning is not None
    several = f"{settings.instances} x " if settings.instances > 1 else ""
    how = "spot" if settings.spot else "on demand"
    yield "where", f"{settings.cloud.describe()}: {several}{settings.instance_type} for each trial, {how}"
    yield "search", f"{trials} trials, {tuning.parallel} at once, each a training job; {_strategy(tuning)}"
    if fitted.choice is not None:
        yield "machine", str(fitted.choice)
    yield from _cost_rows(fitted, spec, tuning, trials)
    yield from _head_rows(settings, spec, trials)
    if ends := _ends(tuning):
        yield "ends", "\n".join(ends)
    if tuning.parents:
        yield "learns from", "\n".join(tuning.parents)
    yield "command", commands.shell(*sent.command(spec, resumes=False).argv, "KEY=VALUE...")
    yield from _machine_rows(settings, spec, tuning)
    yield "files", f"{settings.layout.run(spec.run_id).uri}\ncheckpoints/TRIAL holds the folder of each trial"
    yield "folder", spec.folder
    yield "resume", "the same command again: a further job for the trials that are missing"
    yield from permissions.rows(settings, spec)


def _strategy(tuning: Tuning) -> str:
    stops = ", trials that fall behind are stopped" if tuning.early_stopping else ""
    return f"{tuning.strategy}{stops}"


def _cost_rows(fitted: FittedSearch, spec: RunSpec, tuning: Tuning, trials: int) -> Iterator[tuple[str, str]]:
    settings, one = fitted.settings, fitted.one(spec)
    turns = math.ceil(trials / min(tuning.parallel, trials))
    known = one is not None and one.seconds is not None
    expected = f"about {summary.minutes(turns * (one.seconds or 0))} expected, " if known and one is not None else ""
    wait = f", {summary.hours(settings.max_wait_s)} with waiting" if settings.spot and settings.max_wait_s else ""
    why = f" ({fitted.limit})" if fitted.limit else ""
    whole = f", {summary.hours(fitted.whole_s)} for all{why}" if fitted.whole_s else ""
    yield "time", f"{expected}at most {summary.hours(settings.max_run_s)} for each trial{wait}{whole}"
    if one is None:
        yield "cost", f"unknown: launchers/cost/prices.yaml has no price for {settings.instance_type}"
    else:
        free = "" if settings.cloud.bills else "nothing here; on AWS "
        low, high = prices.spot_range()
        spot = f", {low:.0%} to {high:.0%} of that on spot" if settings.spot else ""
        yield (
            "cost",
            f"{free}{_expected(one, trials)}, {formatting.usd(fitted.worst_usd(spec, one.usd_per_hour))} at worst\n"
            f"{formatting.usd(one.usd_per_hour)} an hour and trial on demand{spot}\n"
            f"(list price of {prices.REGION}, {one.as_of})",
        )
    yield (
        "quota",
        f"{tuning.parallel * settings.instances} for `{settings.instance_type} for "
        f"{'spot ' if settings.spot else ''}training job usage`, 0 in new accounts;\n"
        "with less than hpo.parallel needs, AWS refuses the search",
    )


def _expected(one: estimate.Cost, trials: int) -> str:
    """Say what all trials cost, each as long as it is expected to take."""
    if one.expected is None:
        return one.expected_words
    low, high = (trials * usd for usd in one.expected)
    return replace(one, expected=(low, high)).expected_words


def _head_rows(settings: JobSettings, spec: RunSpec, trials: int) -> Iterator[tuple[str, str]]:
    """Say what the search in one job takes, where only heads are trained."""
    if not spec.workload.trains_heads:
        return
    cost = fitting.Fitted(settings).estimate(replace(spec, tuning=None))
    figures = ""
    if cost is not None and cost.seconds is not None and cost.expected is not None:
        words = cost.expected_words.removesuffix(" expected").removeprefix("about ")
        figures = f": about {summary.minutes(cost.seconds)} and {words} for {trials} trials"
    yield (
        "instead",
        "only heads are trained, which takes seconds, and each trial starts a machine, which takes\n"
        f"minutes. hpo=optuna searches them in one job{figures}",
    )


def _ends(tuning: Tuning) -> list[str]:
    better = "at least" if tuning.mode == "max" else "at most"
    return [
        *([] if tuning.target is None else [f"once {tuning.monitor} is {better} {tuning.target:g}"]),
        *([] if tuning.patience is None else [f"after {tuning.patience} trials without a better one"]),
        *(["once SageMaker expects no better one"] if tuning.converges else []),
        *([] if tuning.max_run_s is None else [f"after {summary.hours(tuning.max_run_s)}"]),
    ]


def _machine_rows(settings: JobSettings, spec: RunSpec, tuning: Tuning) -> Iterator[tuple[str, str]]:
    yield from summary.image_rows(settings, spec)
    save = spec.config.get("save") or {}
    every = f"{save['every_s']:g} s" if save.get("every_s") else f"{save.get('every_n_steps')} steps"
    yield (
        "interruption",
        "the image's toolkit starts the trials and passes no signal on, so an interruption or a stop\n"
        f"loses up to {every} of a trial (save.every_s)",
    )
    for name, text in sent.rows(settings.layout, spec):
        if name == "features":
            text = (
                "each trial reads those that earlier runs have computed, and this command shares those of the\n"
                f"first trial with the later ones, in {text.splitlines()[-1]}"
            )
        yield name, text
    if settings.secrets:
        yield "secrets", ", ".join(settings.secrets) + ": fetched on the machine, for train.py alone"
    if tuning.strategy in ("Hyperband", "Grid") and not settings.cloud.bills:
        yield "", f"the rehearsal cloud does not run {tuning.strategy}: this plan is for AWS"
