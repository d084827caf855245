"""Describe special properties of some SageMaker instance types."""

import re

_OWN_DISKS = re.compile(r"\.(g[4-9]\w*|p3dn|p[4-9]\w*(-\w+)?|trn\w+|[a-z]+\d[a-z]*d[a-z]*)\.")


def has_own_disks(instance_type: str) -> bool:
    """Return whether an instance type has its own NVMe disks of a fixed size, so that a volume size has no effect.

    They are encrypted as they are, and a key for them is refused
    (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ResourceConfig.html).
    """
    return _OWN_DISKS.search(instance_type) is not None
