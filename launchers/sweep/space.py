"""The search space: parameters with their ranges, as plain data, and their forms for Optuna and for a grid.

Ranges are written in Hydra's own syntax, on the command line or under `hpo.space` in YAML:

    interval(1e-4, 1e-1)            any number between, both ends included
    tag(log, interval(1e-4, 1e-1))  the same on a logarithmic scale
    int(interval(1, 8))             whole numbers, both ends included
    range(16, 65, 16)               16, 32, 48, 64: as Python's range, the end excluded
    choice(adamw, sgd)              one of these; also written adamw,sgd
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.errors import HydraException

from dogbreed.errors import ConfigError, raise_findings
from launchers.runs.search_folder import Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_FORMS = "Try: interval(1e-4,1e-1), tag(log, interval(1e-4,1e-1)), int(interval(1,8)), range(16,65,16) or choice(a,b)"


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, both included. step: None for any number between. whole: integers only."""

    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    def __str__(self) -> str:
        """Return the range as the plan of a search shows it."""
        steps = "" if self.step is None else f" in steps of {self.step:g}"
        return f"{self.low:g} to {self.high:g}{steps}{', on a log scale' if self.log else ''}{', whole' * self.whole}"

    def override(self, value: Value) -> str:
        return repr(int(cast(int, value)) if self.whole else float(cast(float, value)))


@dataclass(frozen=True)
class Choice:
    """One of several values. texts: the values as they are written after Hydra's `key=`."""

    texts: tuple[str, ...]

    def __str__(self) -> str:
        """Return the values as the plan of a search shows them."""
        return ", ".join(self.texts)

    def override(self, value: Value) -> str:
        return next(text for text in self.texts if repr(_plain(text)) == repr(value))  # NaN equals itself here

    @property
    def values(self) -> tuple[Value, ...]:
        return tuple(map(_plain, self.texts))


Parameter: TypeAlias = Number | Choice


@dataclass(frozen=True)
class SearchSpace:
    """Parameters by their config key, which may also name a group of options, as in `model=choice(...)`."""

    parameters: Mapping[str, Parameter]

    def as_json(self) -> str:
        """Return JSON text that does not depend on the order of the parameters."""
        return json.dumps({key: asdict(self.parameters[key]) for key in sorted(self.parameters)})

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """Return the Hydra overrides for one point of the space."""
        return [f"{key}={parameter.override(values[key])}" for key, parameter in self.parameters.items()]

    def lines(self) -> list[str]:
        """Return a line for each parameter, as the plan of a search shows them."""
        width = max(map(len, self.parameters), default=0)
        return [f"  {key:<{width}}  {parameter}" for key, parameter in self.parameters.items()]

    def large_fractions(self) -> dict[str, Number]:
        """Return the parameters that any number is drawn for, up to more than 1: these may be meant to be whole."""
        numbers = {key: p for key, p in self.parameters.items() if isinstance(p, Number)}
        return {key: p for key, p in numbers.items() if not p.whole and p.step is None and p.high > 1}

    def first(self) -> dict[str, Value]:
        """Return one point of the space: the lowest numbers and the first choices."""
        return {
            key: p.values[0] if isinstance(p, Choice) else int(p.low) if p.whole else p.low
            for key, p in self.parameters.items()
        }

    def distributions(self) -> "dict[str, BaseDistribution]":
        """Return the parameters as Optuna's distributions."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        def distribution(parameter: Parameter) -> "BaseDistribution":
            if isinstance(parameter, Choice):
                return CategoricalDistribution(parameter.values)
            if parameter.whole:
                step = int(parameter.step or 1)
                return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
            return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)

        return {key: distribution(parameter) for key, parameter in self.parameters.items()}

    def grid(self) -> dict[str, list[Value]]:
        """List all values of each parameter. Raises ConfigError, naming the parameters that have infinitely many."""
        findings, grid = [], dict[str, list[Value]]()
        for key, p in self.parameters.items():
            if isinstance(p, Choice):
                grid[key] = list(p.values)
            elif p.whole and not p.log:
                grid[key] = list(range(int(p.low), int(p.high) + 1, int(p.step or 1)))
            elif p.step is not None:
                grid[key] = [p.low + n * p.step for n in range(math.floor((p.high - p.low) / p.step + 1e-9) + 1)]
            else:
                findings.append(
                    f"A grid cannot search {key}, which may be any number from {p.low:g} to {p.high:g}.\n"
                    f"Try: {key}=choice(...) or range(...), or another sampler: hpo/sampler=tpe"
                )
        raise_findings(ConfigError, findings)
        return grid


def read(typed: Sequence[str], given: Mapping[str, Any]) -> tuple[SearchSpace, list[str]]:
    """Read the search space from `hpo.space` and a command's overrides; return it and the fixed overrides.

    typed: the command's overrides. given: `hpo.space`, ranges as text by key. A typed range replaces a given one, and a
    typed plain value removes the key from the search. Raises ConfigError, listing all findings.
    """
    findings: list[str] = []
    parser = OverridesParser.create()
    fixed, swept = list[str](), dict[str, Override]()
    settled = set[str]()
    for parsed in parser.parse_overrides(list(typed)):
        key = parsed.get_key_element()
        if not parsed.is_sweep_override():
            fixed.append(cast(str, parsed.input_line))
            settled.add(key.lstrip("+~"))
        else:
            swept[key] = parsed
    for key, text in given.items():
        if key in swept or f"+{key}" in swept or key in settled:
            continue
        if text is None:  # a parameter of the default space that is not to be searched
            continue
        try:
            swept[key] = parser.parse_override(f"{key}={text}")
        except HydraException as error:
            findings.append(f"hpo.space.{key}={text} is not valid: {_first_line(error)}\n{_FORMS}")
    parameters = dict[str, Parameter]()
    for key, parsed in swept.items():
        problems, parameter = _parameter(parsed)
        findings += [f"{parsed.input_line}: {problem}" for problem in problems]
        if parameter is not None:
            parameters[key] = parameter
    if not swept and not findings:
        findings.append(
            "There is nothing to search: hpo.space is empty and no override is a range.\n"
            "Try: 'model.lr=tag(log, interval(1e-4,1e-1))', or the default hpo.space"
        )
    raise_findings(ConfigError, findings)
    return SearchSpace(parameters), fixed


def _parameter(parsed: Override) -> tuple[list[str], Parameter | None]:
    """Return (problems, None), or ([], the parameter) if there are no problems."""
    value: Any = parsed.value()
    if not parsed.is_sweep_override():
        return [f"this is a single value, not a range.\n{_FORMS}"], None
    tags = set(getattr(value, "tags", ()))
    problems = []
    if unknown := sorted(tags - {"log"}):
        problems.append(f"the tag {unknown[0]} is unknown.\nTry: tag(log, ...)")
    if isinstance(value, IntervalSweep | RangeSweep):
        return _number(value, "log" in tags, problems)
    if "log" in tags:
        problems.append("the tag log applies only to a range of numbers.\nTry: tag(log, interval(low,high))")
    if not isinstance(value, ChoiceSweep):
        problems.append(f"this kind of sweep cannot be searched.\n{_FORMS}")
    if problems:
        return problems, None
    sweeps = parsed.sweep_iterator(transformer=Transformer.str)
    return [], Choice(tuple(dict.fromkeys(map(str, sweeps))))


def _number(value: IntervalSweep | RangeSweep, log: bool, problems: list[str]) -> tuple[list[str], Number | None]:
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        step: Any = None
    else:
        low, high, step = value.start, value.stop, value.step
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in (low, high)):
        return [*problems, f"its ends must be finite numbers, got {low} and {high}.\n{_FORMS}"], None
    assert low is not None
    assert high is not None
    whole = all(isinstance(number, int) for number in (low, high, step if step is not None else low))
    if low > high or (step is not None and step <= 0):
        swapped = f"interval({high},{low})" if step is None else f"range({high},{low},{abs(step)})"
        problems.append(f"it must ascend, but starts at {low} and ends at {high}.\nTry: {swapped}")
    elif low == high:
        problems.append(f"it starts and ends at {low}, so there is nothing to search.\nTry: the plain value {low}")
    elif log and low <= 0:
        problems.append(f"a log range must start above 0, got {low}.\nTry: a low end such as 1e-6")
    elif log and step not in (None, 1):
        problems.append(f"log cannot be combined with a step of {step}.\nTry: tag(log, int(interval({low},{high})))")
    if problems:
        return problems, None
    if isinstance(value, RangeSweep):  # like Python's range, without the end
        count = math.ceil((high - low) / step - 1e-9)
        high = low + step * (count - 1) if whole else float(Decimal(str(low)) + Decimal(str(step)) * (count - 1))
        if low == high:
            return [f"it contains only {low}.\nTry: the plain value {low}, or a larger end"], None
        if log:
            step = None
    return [], Number(low, high, whole, log, None if whole and step == 1 else step)


def _plain(text: str) -> Value:
    """Convert text to a value that Optuna stores: numbers, booleans and None as such, everything else as text."""
    value = OverridesParser.create().parse_override(f"key={text}").value()
    if value is None or isinstance(value, bool | int | float):
        return cast(Value, value)
    return text


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
