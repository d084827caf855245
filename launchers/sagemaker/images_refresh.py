"""`python -m launchers images --refresh`: write the lower part of images.yaml anew, from the SageMaker SDK's tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from dogbreed.run_folder import write_bytes
from launchers.sagemaker.images import TORCH_AT_LEAST, version
from launchers.status import LaunchError

MARK = "# --- below this line: written by python -m launchers images --refresh ---\n"

_FRAMEWORKS = ("pytorch", "pytorch-amzn2023")  # up to torch 2.10, and from 2.11 on; if both have one, the latter
_CPU, _GPU = "ml.m5.large", "ml.g5.xlarge"  # any of their kind
_ISOLATED = re.compile(r"(us-iso|eu-iso|eusc-)")  # partitions with other domains, which are not supported here


def refresh(file: Path) -> None:
    """Write the file anew; what is above the mark stays as it is.

    Raises LaunchError or StorageError, having changed nothing.
    """
    write_bytes(file, refreshed(file.read_text()).encode())


def refreshed(text: str) -> str:
    """Return images.yaml with its lower part made anew. Raises LaunchError."""
    by_hand, mark, _ = text.partition(MARK)
    if not mark:
        raise LaunchError(
            f"images.yaml has no line {MARK.strip()!r}.\nTry: git checkout launchers/sagemaker/images.yaml"
        )
    return by_hand + mark + _generated()


def _generated() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of_package

    try:
        from sagemaker.core import image_uris

        sdk = f"sagemaker-core {of_package('sagemaker-core')}"
    except (ImportError, PackageNotFoundError) as error:
        raise LaunchError(
            f"The SageMaker SDK is not installed ({error}).\nTry: pip install 'dogbreed[sagemaker]'"
        ) from error
    images: dict[str, dict[str, Any]] = {}
    accounts: dict[str, str] = {}
    try:
        for framework in _FRAMEWORKS:
            config = image_uris.config_for_framework(framework)["training"]
            aliases = config.get("version_aliases", {})
            for name in {*config["versions"], *aliases}:
                if not re.fullmatch(r"\d+\.\d+", name) or version(name) < TORCH_AT_LEAST:
                    continue
                row = config["versions"][aliases.get(name, name)]
                registries = {where: who for where, who in row["registries"].items() if not _ISOLATED.match(where)}
                images[name] = {**_names(image_uris, framework, name, row, next(iter(registries))), "in": registries}
                if moved := [where for where, who in registries.items() if accounts.setdefault(where, who) != who]:
                    raise LaunchError(
                        f"Images of different torch versions are in different registries of {', '.join(moved)}."
                    )
    except (KeyError, ValueError, StopIteration, OSError, AttributeError) as error:
        raise LaunchError(f"{sdk} does not have the expected tables: {error!r}.\nTry: another release of it") from error
    if not images:
        raise LaunchError(f"{sdk} lists no image of torch {'.'.join(map(str, TORCH_AT_LEAST))} or newer.")
    return _yaml(sdk, images, accounts)


def _names(image_uris: Any, framework: str, name: str, row: Mapping[str, Any], region: str) -> dict[str, str]:
    """Return NAME:TAG of the CPU and the GPU image, as the SDK itself makes them, and the Python if it tells."""
    python = max(row.get("py_versions", ()), default=None)
    found = {}
    for kind, instance_type in (("cpu", _CPU), ("gpu", _GPU)):
        uri = image_uris.retrieve(
            framework, region, version=name, py_version=python, instance_type=instance_type, image_scope="training"
        )
        found[kind] = uri.partition("/")[2]
    return {**found, "python": f"{python[2]}.{python[3:]}"} if python else found


def _yaml(sdk: str, images: Mapping[str, Mapping[str, Any]], accounts: Mapping[str, str]) -> str:
    lines = [f"sdk: {sdk}", "images:"]
    for name in sorted(images, key=version, reverse=True):
        row = images[name]
        lines += [f'  - torch: "{name}"', f'    cpu: "{row["cpu"]}"', f'    gpu: "{row["gpu"]}"']
        if "python" in row:
            lines.append(f'    python: "{row["python"]}"')
        if missing := sorted(accounts.keys() - row["in"].keys()):
            lines += _listed("    not_in", missing)
    lines.append("accounts:  # of the registries")
    by_account: dict[str, list[str]] = {}
    for region in sorted(accounts):
        by_account.setdefault(accounts[region], []).append(region)
    for account, regions in sorted(by_account.items(), key=lambda item: (-len(item[1]), item[1])):
        lines += _listed(f'  "{account}"', regions)
    return "\n".join(lines) + "\n"


def _listed(key: str, values: Sequence[str]) -> list[str]:
    if len(short := f"{key}: [{', '.join(values)}]") <= 120:
        return [short]
    indent = " " * (len(key) - len(key.lstrip()) + 2)
    text = wrap(", ".join(values), 120, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return [f"{key}: [", *text, f"{indent[:-2]}]"]
