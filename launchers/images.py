"""The container image of a training job: a URI, or AWS's own for PyTorch, by region and instance type."""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from launchers import costs

AUTO = "auto"

_URI = re.compile(r"\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/\S+[:@]\S+")


@lru_cache
def _table() -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("images.yaml")))  # type: ignore[return-value]


def resolve(image: str, region: str, instance_type: str) -> str:
    """The URI that `auto` stands for; any other is what it is."""
    if image != AUTO:
        return image
    row = costs.instance(instance_type)
    gpu = row.gpus > 0 if row else re.match(r"ml\.(g|p|trn|inf)\d", instance_type) is not None
    name = _table()["image"]["gpu" if gpu else "cpu"]
    return f"{_table()['account']}.dkr.ecr.{region}.amazonaws.com/{name}"


def findings(image: str, region: str | None, instance_type: str) -> Iterator[str]:
    if image == AUTO:
        if re.match(
            r"ml\.(p2|p3|p3dn|trn\w+|inf\w+|p6e-\w+)\.", instance_type
        ):  # CUDA 13 needs Turing or later, on x86
            yield f"No image of AWS's that is known here is for {instance_type}.\nTry: launcher.image=<a URI>"
        if region is not None and region not in _table()["regions"]:
            yield f"launchers/images.yaml knows no image in {region}.\nTry: launcher.image=<the URI of one there>"
        return
    uri = _URI.fullmatch(image)
    if uri is None:
        yield (
            f"launcher.image={image} is no image in Amazon ECR.\n"
            "Try: auto, or ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
        )
    elif region is not None and uri["region"] != region:
        yield f"launcher.image is in {uri['region']}, and the job in {region}.\nTry: an image in {region}"


def note(image: str, today: str) -> str:
    """What there is to say about it. today: ISO 8601."""
    if image != AUTO:
        return ""
    until = str(_table()["image"]["patched_until"])
    return f"AWS has not patched this image since {until}: see launchers/images.yaml" if until < today[:10] else ""
