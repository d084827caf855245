"""What a run needs of a machine, such as one GPU with 16 GB, and which types have it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from launchers.cost import prices
from launchers.cost.prices import Instance

KEYS = {  # what can be needed: the field of a machine
    "gpu": "gpus",
    "gpu_memory_gb": "gpu_memory_gb",
    "vcpus": "vcpus",
    "memory_gb": "memory_gb",
}


@dataclass(frozen=True)
class Needs:
    """At least that much of each. amounts: by key of KEYS; gpu_memory_gb is that of one GPU."""

    amounts: Mapping[str, float]

    @classmethod
    def of(cls, asked: Mapping[str, Any] | None) -> Self:
        """Read the setting `launcher.needs`, leaving out what is none: `findings` reports that."""
        known = {key: value for key, value in (asked or {}).items() if key in KEYS}
        return cls({key: float(value) for key, value in known.items() if _is_amount(value)})

    def met_by(self, row: Instance) -> bool:
        return all(getattr(row, KEYS[key]) >= amount for key, amount in self.amounts.items())

    def types(self) -> list[Instance]:
        """Return the types that meet the needs and are still offered, the cheapest first."""
        return [row for row in prices.types() if self.met_by(row) and not row.withdrawn]

    def nearest(self) -> tuple[Instance, "Needs"]:
        """Return the offered type that comes nearest to needs that none meets, and as much of them as it has."""

        def distance(row: Instance) -> tuple[float, float]:
            met = [min(1.0, getattr(row, KEYS[key]) / amount) for key, amount in self.amounts.items() if amount]
            return sum(1 - share for share in met), row.usd

        row = min((row for row in prices.types() if not row.withdrawn), key=distance)
        has = {key: min(amount, getattr(row, KEYS[key])) for key, amount in self.amounts.items()}
        return row, Needs(has)

    def typed(self, key: str) -> str:
        """Return the needs as an option or a setting of this name takes them."""
        if key.startswith("--"):
            return f"{key} {','.join(f'{name}={amount:g}' for name, amount in self.amounts.items())}"
        return f"'{key}={{{', '.join(f'{name}: {amount:g}' for name, amount in self.amounts.items())}}}'"

    def __str__(self) -> str:
        return ", ".join(f"{key}={amount:g}" for key, amount in self.amounts.items()) or "any amount of memory"


_EXAMPLE = Needs({"gpu": 1, "gpu_memory_gb": 16})


def findings(asked: Any, key: str) -> Iterator[str]:
    """Yield what is wrong with needs as a person gave them. key: of the setting or option, for the message."""
    example = _EXAMPLE.typed(key)
    if asked is not None and not isinstance(asked, Mapping):
        yield f"{key} must name amounts, got {asked!r}.\nTry: {example}"
        return
    known = ", ".join(KEYS)
    wrong = False
    for name, value in (asked or {}).items():
        if name not in KEYS:
            yield f"{key} knows no {name!r}, only {known}.\nTry: {example}"
            wrong = True
        elif not _is_amount(value):
            yield f"{key} must name a number of at least 0 for {name}, got {value!r}.\nTry: {example}"
            wrong = True
    needs = Needs.of(asked)
    if not wrong and not needs.types():
        row, less = needs.nearest()
        yield f"No instance type has {needs}. The nearest is {row.type}, which has {less}.\nTry: {less.typed(key)}"


def parse(text: str) -> dict[str, Any]:
    """Read needs as typed after an option: `gpu=1,gpu_memory_gb=16`."""
    amounts: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.strip().partition("=")
        try:
            amounts[name] = float(value)
        except ValueError:
            amounts[name] = value
    return amounts


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
