"""Choose the machine image of a run: a Deep Learning AMI of AWS's by default, from amis.yaml."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

AUTO = "auto"
WARN_DAYS = 90
TABLE = Path(__file__).with_name("amis.yaml")
_NAME = "launchers/ec2/amis.yaml"  # as shown in messages

_AMI = re.compile(r"ami-[0-9a-f]{8,17}")
_PARAMETER = re.compile(r"/[\w./-]+")
_ARM = re.compile(r"(a1|[a-z]+\d+g[a-z]*)(-[a-z0-9]+)?\.")  # Graviton: m7g, c7gn, g5g
_GPU = re.compile(r"(g|p)\d")


@dataclass(frozen=True)
class Ami:
    """A row of amis.yaml. ends: the last day of patches, ISO 8601. plain: PyTorch is installed at the start."""

    name: str
    parameter: str
    system: str
    architecture: str
    torch: str
    ends: str
    plain: bool = False

    def days_left(self, today: str) -> int:
        """Return the days until AWS stops patching it, negative afterwards. today: ISO 8601."""
        return (date.fromisoformat(self.ends) - date.fromisoformat(today[:10])).days


@lru_cache
def _file() -> dict[str, Any]:
    from omegaconf import OmegaConf  # here, so that `python -m launchers --help` does without

    return OmegaConf.to_container(OmegaConf.load(TABLE))  # type: ignore[return-value]


@lru_cache
def table() -> tuple[Ami, ...]:
    """Return all rows, in the order of the file: the first of an architecture is preferred."""
    return tuple(Ami(name, **row) for name, row in _file()["images"].items())


def architecture(instance_type: str) -> str:
    """Return the architecture of an instance type, by its name."""
    return "arm64" if _ARM.match(instance_type) else "x86_64"


def has_gpu(instance_type: str) -> bool:
    return _GPU.match(instance_type) is not None


def chosen(image: str, instance_type: str, today: str) -> Ami | None:
    """Return the row that `launcher.image` selects; None if it is an AMI or a parameter of one's own.

    `auto` selects the first Deep Learning AMI of the architecture that is still patched, or the first of all. today:
    of the plan, ISO 8601.
    """
    if image != AUTO:
        return next((row for row in table() if row.name == image), None)
    fitting = [row for row in table() if row.architecture == architecture(instance_type) and not row.plain]
    return next((row for row in fitting if row.days_left(today) >= 0), fitting[0])


def parameter(image: str, instance_type: str, today: str) -> str | None:
    """Return the SSM parameter that names the AMI; None if `image` is the AMI itself."""
    row = chosen(image, instance_type, today)
    if row is not None:
        return row.parameter
    return None if _AMI.fullmatch(image) else image


def torch_to_install(image: str, instance_type: str, today: str) -> str | None:
    """Return the version of PyTorch that the machine installs when it starts; None if the image has one."""
    row = chosen(image, instance_type, today)
    return row.torch if row is not None and row.plain else None


def findings(image: str, types: Sequence[str], today: str) -> Iterator[str]:
    """Yield the problems of the chosen image, as far as its name tells."""
    kinds = sorted({architecture(each) for each in types})
    if len(kinds) > 1:
        yield (
            f"launcher.instance_type and launcher.other_types have processors of two kinds ({' and '.join(kinds)}), "
            "and an image is for one of them.\nTry: types of one kind"
        )
        return
    row = chosen(image, types[0], today)
    if row is None:
        if not _AMI.fullmatch(image) and not _PARAMETER.fullmatch(image):
            near = get_close_matches(image, [each.name for each in table()], 2, 0.5)
            yield (
                f"launcher.image={image} is unknown.\n"
                f"Try: {', '.join(near) or AUTO}, or one of `python -m launchers images`; or an AMI's id"
            )
        return
    if row.architecture != kinds[0]:
        fitting = ", ".join(each.name for each in table() if each.architecture == kinds[0])
        yield (
            f"launcher.image={image} is for {row.architecture}, and {types[0]} has an {kinds[0]} processor.\n"
            f"Try: {fitting}"
        )
    if row.plain and (gpus := [each for each in types if has_gpu(each)]):
        yield f"launcher.image={image} has no driver for the GPU of {gpus[0]}.\nTry: launcher.image=auto"


def note(image: str, instance_type: str, today: str) -> str:
    """Return a note if support of the image has ended or ends soon; otherwise an empty string."""
    row = chosen(image, instance_type, today)
    if row is None:
        return ""
    days, see = row.days_left(today), "see python -m launchers images"
    if days < 0:
        return f"AWS has not patched this image since {row.ends}: {see}"
    return f"AWS stops patching this image on {row.ends}, in {days} days: {see}" if days <= WARN_DAYS else ""


def shown(today: str) -> str:
    """Return the whole table in 80 columns, with the rows that `auto` selects."""
    auto = {chosen(AUTO, each, today) for each in ("m5.large", "m7g.large")}
    lines = [f"{'launcher.image, for launcher=ec2_spot':<38}{'torch':<7}{'processor':<11}patched until"]
    for row in table():
        left = row.days_left(today)
        warn = ", over" if left < 0 else f", {left} d" if left <= WARN_DAYS else ""
        torch = f"{row.torch}{'*' if row.plain else ''}"
        lines.append(f"{row.name:<38}{torch:<7}{row.architecture:<11}{row.ends}{warn}{' auto' if row in auto else ''}")
    return "\n".join(
        [
            *lines,
            "",
            "* installed by pip when a machine starts; for machines without GPU.",
            "Each is found through its public SSM parameter, the newest build of its line.",
            f"Dates are kept by hand in {_NAME}, as of {_file()['as_of']}, from",
            f"{_file()['source']}",
        ]
    )
