"""What serving a model costs: on instances that are always there, or in a Lambda function that is paid by the call."""

from dogbreed.serving.limits import Limits
from dogbreed.workload import work
from launchers.cost import prices

MONTH_S = 730 * 3600.0  # as AWS counts a month
AT_ONCE = Limits().waiting  # requests that an instance takes, those included that it works on; others get a 503
_VCPU_GFLOPS = 60.0  # ONNX Runtime on one vCPU: an estimate that gives ResNet50 0.14 s; others report 0.1 to 0.2 s


def seconds_on_vcpu(backbone: str, classes: int, image_px: int) -> float | None:
    """Return an estimate of the seconds that one vCPU takes for a photo; None for a backbone of unknown work."""
    found = work(backbone, "head", classes, image_px=image_px)
    return None if found is None else found.frozen_gflop / _VCPU_GFLOPS


def usd_per_month(instance_type: str, instances: int) -> float | None:
    """Return what an endpoint's instances cost; None for a type without a known price."""
    row = prices.hosting(instance_type)
    return None if row is None else row.usd * instances * MONTH_S / 3600


def vcpus(instance_type: str) -> int:
    """Return the vCPUs of an instance type of endpoints: by its size, `large` 2, `xlarge` 4, `4xlarge` 16."""
    size = instance_type.rpartition(".")[2]
    many = size.removesuffix("xlarge")
    return 4 * int(many or 1) if size.endswith("xlarge") and (many or "1").isdecimal() else 2


def busy_vcpus(vcpus: int) -> int:
    """Return how many of an instance's vCPUs are ever in use: each request has one."""
    return min(vcpus, AT_ONCE)


def target(vcpus: int) -> int:
    """Return the requests in progress at which instances are added: one for each vCPU where they can be exceeded."""
    return vcpus if vcpus < AT_ONCE else AT_ONCE // 2


def usd_per_call(seconds: float, memory_mb: int) -> float:
    """Return what one call of a function costs."""
    rates = prices.lambda_prices()
    return rates.usd_per_million / 1e6 + seconds * memory_mb / 1024 * rates.usd_per_gb_s


def break_even_rps(service_s: float, call_s: float, instance_type: str, instances: int = 1) -> float:
    """Return the requests per second, day and night, from which instances are cheaper than a function with the model.

    service_s: of one request in a function with one vCPU. call_s: of the function in front of the endpoint. Returns
    infinity if the function in front alone costs as much.
    """
    row, rates = prices.hosting(instance_type), prices.lambda_prices()
    if row is None:
        raise KeyError(instance_type)
    saved = usd_per_call(service_s, rates.vcpu_mb) - usd_per_call(call_s, rates.front_mb)
    return instances * row.usd / 3600 / saved if saved > 0 else float("inf")
