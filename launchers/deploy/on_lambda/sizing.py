"""Choose memory and disk of a function from its model, and where the model lies. Pure."""

import math

from launchers.cost import prices
from launchers.deploy.on_lambda.package import LARGEST_BYTES, PACKAGES_BYTES
from launchers.payload.model import SentModel

MEMORY_MB = (128, 10_240)  # that Lambda allows
INIT_S = 10.0  # in which a process must be ready; else Lambda starts it again, within the first request's time
TIMEOUT_S = 60  # of a request, also of one that waits for such a start
# Measured with ONNX Runtime 1.32: 133 MB with EfficientNet-Lite0 (14 MB), 411 MB with ResNet50 (95 MB). Decoding the
# largest pictures takes up to 200 MB more.
_BASE_MB, _PER_MODEL = 300, 4.0
_STEP_MB = 64
_DISK_MB = 512  # of /tmp, which costs nothing
# A start on Lambda, an estimate: importing everything, bytes a second from S3, and into ONNX Runtime
_IMPORTS_S, _FETCHED, _LOADED = 3.0, 80e6, 100e6


def is_inside(model: SentModel) -> bool:
    """Return whether the model is put into the package: half of what Lambda's limit leaves, since packages grow."""
    return model.size <= (LARGEST_BYTES - PACKAGES_BYTES) / 2


def needed_mb(model: SentModel) -> int:
    """Return the least memory with which the model works."""
    return math.ceil(_BASE_MB + _PER_MODEL * model.size / 1e6)


def memory_mb(model: SentModel, given: int | None) -> int:
    """Return the function's memory: as given, or at least what one whole vCPU comes with."""
    if given is not None:
        return given
    return max(prices.lambda_prices().vcpu_mb, math.ceil(needed_mb(model) / _STEP_MB) * _STEP_MB)


def disk_mb(model: SentModel) -> int:
    """Return the size of /tmp, where a model from S3 lies while it is loaded."""
    return _DISK_MB if is_inside(model) else max(_DISK_MB, math.ceil(1.1 * model.size / 2**20))


def start_s(model: SentModel) -> float:
    """Return an estimate of the seconds that the first request of a process waits."""
    return _IMPORTS_S + (0 if is_inside(model) else model.size / _FETCHED) + model.size / _LOADED
