"""Read an account's quotas, so that what they do not allow is refused before anything is made."""

from launchers.aws.errors import errors
from launchers.base import Cloud

_CONSOLE = "https://console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas"


def of_endpoints(cloud: Cloud, instance_type: str) -> float | None:
    """Return how many instances of a type the account's endpoints may have; None if AWS names no such quota.

    Codes of these quotas differ by type and are documented nowhere, so the quota is found by its name:
    https://docs.aws.amazon.com/general/latest/gr/sagemaker.html
    """
    with errors("reading the account's quotas"):
        pages = cloud.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
        for page in pages:
            for quota in page["Quotas"]:
                if quota["QuotaName"] == _name(instance_type):
                    return float(quota["Value"])
    return None


def endpoint_finding(cloud: Cloud, instance_type: str, wanted: int, why: str) -> str:
    """Return what is wrong if the quota allows fewer than the wanted instances; empty if it allows them.

    why: for what so many are needed.
    """
    allowed = of_endpoints(cloud, instance_type)
    if allowed is None or allowed >= wanted:
        return ""
    return (
        f"The account's quota `{_name(instance_type)}` is {allowed:g}, and {why} needs {wanted}.\n"
        f"Try: raising it at {_CONSOLE}, or another launcher.instance_type"
    )


def _name(instance_type: str) -> str:
    return f"{instance_type} for endpoint usage"
