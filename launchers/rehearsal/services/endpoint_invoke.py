"""InvokeEndpoint: a request to one of the endpoint's containers, over HTTP, and its answer in AWS's words."""

import http.client
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.service import Answer, Refused
from launchers.rehearsal.services.endpoint_instance import Instance
from launchers.rehearsal.services.endpoint_metrics import Counted, Meter
from launchers.rehearsal.services.endpoint_run import EndpointRun

LARGEST = 6_291_456  # bytes of a body
TIMEOUT_S = 60.0  # in which a container must answer; of real time, since models are not any faster here
_RETURN_S = 60.0  # real, that a request waits for instances after a restart of the cloud
_HEADERS = {  # parameter -> header that the container gets
    "ContentType": "Content-Type",
    "Accept": "Accept",
    "CustomAttributes": "X-Amzn-SageMaker-Custom-Attributes",
    "InferenceId": "X-Amzn-SageMaker-Inference-Id",
}
_SERVES = ("InService", "Updating", "RollingBack", "SystemUpdating")


def invoke(name: str, run: EndpointRun | None, asked: Mapping[str, Any], meter: Meter) -> Answer:
    """Return the container's answer. Raises Refused, ModelError for an answer that is not a success."""
    body = asked.get("Body", b"")
    if len(body) > LARGEST:
        raise Refused("413", f"HTTP content length exceeded {LARGEST} bytes.", 413)
    if run is None or run.record.status not in _SERVES:
        raise Refused("ValidationError", f"Endpoint {name} of account {ACCOUNT} not found.")
    began = time.monotonic()
    while run.returning and time.monotonic() - began < _RETURN_S:
        time.sleep(0.05)
    variant = asked.get("TargetVariant")
    if variant is not None and variant not in run.balancer.variants:
        raise Refused("ValidationError", f"Variant {variant} not found for endpoint {name} of account {ACCOUNT}.")
    instance = run.balancer.take(variant)
    if instance is None:
        raise Refused("ServiceUnavailable", f"Endpoint {name} has no healthy instance.", 503)
    started = time.monotonic()
    try:
        with instance.load.request(TIMEOUT_S) as taken:
            left_s = TIMEOUT_S - (time.monotonic() - started)
            status, headers, content = forward(instance, asked, left_s) if taken else (0, {}, _timed_out(instance))
    finally:
        run.balancer.give_back(instance)
    ended = time.monotonic()
    meter.count(
        Counted(name, instance.variant.name, instance.config),
        instance.metrics,
        status,
        ended - started,
        started - began,
    )
    if not 200 <= status < 300:
        raise _model_error(name, instance, status, content)
    return {
        "Body": content,
        "ContentType": headers.get("content-type", "application/octet-stream"),
        "InvokedProductionVariant": instance.variant.name,
        "CustomAttributes": headers.get("x-amzn-sagemaker-custom-attributes"),
    }


def forward(instance: Instance, asked: Mapping[str, Any], timeout_s: float) -> tuple[int, Mapping[str, str], bytes]:
    """Send a request to the container. Returns the status, the headers by lower-case name, and the body.

    Status 0 and AWS's message stand for no answer.
    """
    headers = {header: str(asked[key]) for key, header in _HEADERS.items() if asked.get(key)}
    until = time.monotonic() + timeout_s
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", instance.port, timeout=timeout_s)) as connection:
            connection.request("POST", "/invocations", asked.get("Body", b""), headers)
            response = connection.getresponse()
            content = response.read()
            if time.monotonic() <= until:
                return response.status, {name.lower(): value for name, value in response.getheaders()}, content
    except TimeoutError:
        pass
    except (OSError, http.client.HTTPException):
        name = instance.around.record.name
        return 0, {}, f"Amazon SageMaker could not get a response from the {name} endpoint.".encode()
    return 0, {}, _timed_out(instance)


def _timed_out(instance: Instance) -> bytes:
    return (
        f"Your invocation timed out while waiting for a response from container {instance.name}. Review the latency "
        "metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
    ).encode()


def _model_error(name: str, instance: Instance, status: int, content: bytes) -> Refused:
    whose = "client" if 400 <= status < 500 else "server"
    message, group = content.decode(errors="replace"), instance.around.record.log_group
    console = f"https://{REGION}.console.aws.amazon.com/cloudwatch/home?region={REGION}#logEventViewer:group={group}"
    return Refused(
        "ModelError",
        f'Received {whose} error ({status}) from {instance.name} with message "{message}". See {console} in account '
        f"{ACCOUNT} for more information.",
        424,
        OriginalStatusCode=status,
        OriginalMessage=message,
        LogStreamArn=f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}",
    )
