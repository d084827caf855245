"""Record what a deployment costs, for `python -m launchers cost`: each command that changes it begins a record."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from launchers.aws import bills
from launchers.aws.bills import Bill
from launchers.aws.layout import Layout
from launchers.base import Cloud
from launchers.deploy import limited
from launchers.deploy.settings import DeploySettings
from launchers.status import LaunchError

log = logging.getLogger("dogbreed")


def begin(settings: DeploySettings, name: str, encryption: Mapping[str, str]) -> None:
    """Record that a deployment has changed now, or begun. settings: as they are in service."""
    rate = limited.usd_per_hour(settings)
    if settings.bucket is None or rate is None:
        return
    layout, now = Layout(settings.bucket, settings.prefix), datetime.now(UTC)
    ends_at = None if settings.ttl_hours is None else now + timedelta(hours=settings.ttl_hours)
    key = bills.key_of_deployment(layout, name, now)
    end(settings.cloud, layout, name, encryption)
    _write(settings.cloud, layout, Bill(name, "deploy", key, rate, now, ends_at=ends_at), encryption)


def end(cloud: Cloud, layout: Layout, name: str, encryption: Mapping[str, str]) -> None:
    """Record that a deployment has ended now, if its record is open."""
    now = datetime.now(UTC)
    try:
        found = [bill for bill in bills.of_deployment(cloud, layout, name) if bill.open_at(now)]
    except LaunchError as error:
        log.warning("%s", error)
        return
    for bill in found:
        _write(cloud, layout, replace(bill, ended=now, state="ended"), encryption)


def _write(cloud: Cloud, layout: Layout, bill: Bill, encryption: Mapping[str, str]) -> None:
    try:
        bills.write(cloud, layout, bill, encryption)
    except LaunchError as error:  # the deployment itself is well
        log.warning("%s", error)
