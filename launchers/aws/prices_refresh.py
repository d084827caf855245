"""`python -m launchers prices --refresh`: read today's prices from the AWS Price List API into prices.yaml.

It asks GetProducts, a few megabytes of what the table has, and not for the price list as a file, which needs no
credentials, but is hundreds of megabytes for EC2 alone
(https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/price-changes.html).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from dogbreed.run_folder import write_bytes
from launchers.aws.account import Account
from launchers.aws.errors import errors
from launchers.cost.prices import REGION
from launchers.status import LaunchError

Attributes = Mapping[str, str]
_ROW = re.compile(
    r"^  (?P<name>[a-z0-9.-]+): \{usd: (?P<usd>[\d.]+), as_of: [^,]+, source: \w+(?P<withdrawn>, withdrawn: true)?\}$"
)


@dataclass(frozen=True)
class _Section:
    """A section of prices.yaml. name_of: the row that a product belongs to; None for none of them."""

    key: str
    service: str
    filters: Mapping[str, str]
    name_of: Callable[[Attributes], str | None]


def _instance_name(attributes: Attributes) -> str | None:
    return attributes.get("instanceName")


def _machine(attributes: Attributes) -> str | None:
    """Return the name of an EC2 machine; None for blocks of capacity that are paid in advance."""
    return attributes.get("instanceType") if attributes.get("marketoption", "OnDemand") == "OnDemand" else None


_MACHINES = {"productFamily": "ML Instance"}
_SECTIONS = (
    _Section("training", "AmazonSageMaker", {**_MACHINES, "component": "Training"}, _instance_name),
    _Section("hosting", "AmazonSageMaker", {**_MACHINES, "component": "Hosting"}, _instance_name),
    _Section(
        "ec2",
        "AmazonEC2",
        {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"},
        _machine,
    ),
)
_LAMBDA = {  # of AWS Lambda: the group of a product, and the key in prices.yaml
    "AWS-Lambda-Duration": "usd_per_gb_s",
    "AWS-Lambda-Duration-ARM": "arm_usd_per_gb_s",
    "AWS-Lambda-Requests": "usd_per_million",
    "AWS-Lambda-Provisioned-Concurrency": "provisioned_usd_per_gb_s",
    "AWS-Lambda-Duration-Provisioned": "provisioned_use_usd_per_gb_s",
}


def refresh(file: Path) -> str:
    """Write today's prices into the file, and return what changed. Raises LaunchError, having changed nothing."""
    text = file.read_text()
    changed, report = refreshed(text, today=f"{datetime.now(UTC):%Y-%m-%d}")
    write_bytes(file, changed.encode())
    return report


def refreshed(text: str, *, today: str) -> tuple[str, str]:
    """Return prices.yaml with the prices of today, and what has changed, in words.

    A row that the price list no longer has keeps its price and becomes `withdrawn`. Rows are not added: the table has
    what is known of a machine besides its price.
    """
    changes: list[str] = []
    lines = text.splitlines()
    for section in _SECTIONS:
        found: dict[str, Decimal] = {}
        for attributes, usd in _products(section.service, section.filters, ("Hrs", "Hours")):
            name = section.name_of(attributes)
            if name is not None:  # of several prices for one machine the highest, so that the worst case holds
                found[name] = max(usd, found.get(name, usd))
        if not found:
            raise LaunchError(f"The price list of {section.service} in {REGION} has no prices for {section.key}.")
        lines = list(_with_prices(lines, section.key, found, today, changes))
    lines = list(_with_lambda(lines, today, changes))
    count = f"{len(changes) or 'No'} price{'' if len(changes) == 1 else 's'} changed"
    return "\n".join(lines) + "\n", "\n".join([f"{count}:" if changes else count, *changes])


def _with_prices(
    lines: Sequence[str], section: str, found: Mapping[str, Decimal], today: str, changes: list[str]
) -> Iterator[str]:
    here = False
    for line in lines:
        if line and line[0] not in " #":
            here = line.startswith(f"{section}:")
        row = _ROW.match(line) if here else None
        if row is None:
            yield line
            continue
        name, before = row["name"], Decimal(row["usd"])
        usd = found.get(name)
        if usd is None:
            if not row["withdrawn"]:
                changes.append(f"  {name} ({section}): withdrawn")
            yield line if row["withdrawn"] else f"{line[:-1]}, withdrawn: true}}"
            continue
        if usd != before or row["withdrawn"]:
            changes.append(f"  {name} ({section}): {before} -> {_plain(usd)}")
        yield f"  {name}: {{usd: {_plain(usd)}, as_of: {today}, source: api}}"


def _with_lambda(lines: Sequence[str], today: str, changes: list[str]) -> Iterator[str]:
    found: dict[str, Decimal] = {}
    for attributes, usd in _products("AWSLambda", {}, ("Lambda-GB-Second", "Requests", "Request")):
        if key := _LAMBDA.get(attributes.get("group", "")):
            million = 1_000_000 if key == "usd_per_million" else 1
            found[key] = max(usd * million, found.get(key, Decimal(0)))  # the first tier costs most
    here = False
    for line in lines:
        if line and line[0] not in " #":
            here = line.startswith("lambda:")
        key, _, rest = line.strip().partition(": ")
        if not (here and line.startswith("  ")):
            yield line
        elif key in found:
            if found[key] != Decimal(rest.split()[0]):
                changes.append(f"  {key} (lambda): {rest.split()[0]} -> {_plain(found[key])}")
            yield f"  {key}: {_plain(found[key])}"
        elif key in ("as_of", "source") and len(found) == len(_LAMBDA):
            yield f"  {key}: {today if key == 'as_of' else 'api'}"
        else:
            yield line


def _products(service: str, filters: Mapping[str, str], units: Sequence[str]) -> Iterator[tuple[Attributes, Decimal]]:
    """Yield the products of a service in the table's region, with each price on demand that is counted in one of units.

    Raises LaunchError.
    """
    wanted = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value}
        for field, value in {"regionCode": REGION, **filters}.items()
    ]
    with errors("reading the AWS Price List", then="(it needs the permission pricing:GetProducts)"):
        pages = Account("us-east-1").client("pricing").get_paginator("get_products")  # the API is in few regions
        for page in pages.paginate(ServiceCode=service, Filters=wanted, FormatVersion="aws_v1"):
            for text in page["PriceList"]:
                product = json.loads(text)
                for usd in _on_demand(product, units):
                    yield product["product"].get("attributes", {}), usd


def _on_demand(product: Mapping[str, Any], units: Sequence[str]) -> Iterator[Decimal]:
    """Yield the prices of a product; what is free is a free tier, or a block of capacity that is paid in advance."""
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            usd = Decimal(dimension["pricePerUnit"].get("USD", "0"))
            if usd > 0 and dimension["unit"] in units:
                yield usd


def _plain(usd: Decimal) -> str:
    """Return a number without an exponent or trailing zeros."""
    return f"{usd.normalize():f}"
