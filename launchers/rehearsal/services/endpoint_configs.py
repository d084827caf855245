"""SageMaker's endpoint configurations: which models run on which instances. Kept on disk; nothing runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launchers.rehearsal.access import HERE
from launchers.rehearsal.names import Server
from launchers.rehearsal.service import Answer, Call, Handler, invalid
from launchers.rehearsal.services.models import Models, Resource, names_of
from launchers.rehearsal.services.sagemaker_lists import page
from launchers.rehearsal.services.sagemaker_tags import check_tags, kind_and_name, tag_operations

_MISSING = {  # what the rehearsal has not, and would only pretend to do
    "AsyncInferenceConfig": "asynchronous inference",
    "ShadowProductionVariants": "shadow variants",
    "ExplainerConfig": "explanations",
    "DataCaptureConfig": "data capture",
    "CrossRegionTrafficConfig": "traffic to other regions",
}
_MISSING_OF_VARIANT = {
    "ServerlessConfig": "serverless endpoints",
    "AcceleratorType": "elastic inference",
    "ManagedInstanceScaling": "inference components",
    "CapacityReservationConfig": "capacity reservations",
    "CoreDumpConfig": "core dumps",
}
_FREQUENCIES = (10, 30, 60, 120, 180, 240, 300)


class EndpointConfigs:
    """All endpoint configurations. folder: contains a file for each of them."""

    active = False

    def __init__(self, folder: Path, models: Models) -> None:
        self.folder, self.models = folder, models
        self._configs: dict[str, Resource] = {}
        self.operations: dict[tuple[str, str], Handler] = {
            ("sagemaker", "CreateEndpointConfig"): self.create,
            ("sagemaker", "DescribeEndpointConfig"): self.describe,
            ("sagemaker", "DeleteEndpointConfig"): self.delete,
            ("sagemaker", "ListEndpointConfigs"): self.list,
            **tag_operations(self._of_arn),
        }

    def begin(self, server: Server) -> None:
        self._configs = Resource.load_all(self.folder)

    def end(self) -> None:
        """Do nothing: nothing is running."""

    def request_of(self, name: str) -> dict[str, Any]:
        """Return what a configuration was created with. Raises Refused if it does not exist."""
        return self._config(name).request

    def create(self, call: Call) -> Answer:
        asked = call.parameters
        name = asked["EndpointConfigName"]
        check_tags(asked.get("Tags", []), {})
        if name in self._configs:
            raise invalid(f'Cannot create already existing endpoint configuration "{self._configs[name].arn}".')
        _check(asked)
        for model in names_of(asked["ProductionVariants"]):
            self.models.request_of(model)
        self._configs[name] = made = Resource.of(self.folder, "endpoint-config", name, asked)
        return {"EndpointConfigArn": made.arn}

    def describe(self, call: Call) -> Answer:
        return self._config(call.parameters["EndpointConfigName"]).described("EndpointConfig")

    def delete(self, call: Call) -> Answer:
        """Delete a configuration, also one in use: its endpoints go on."""
        found = self._config(call.parameters["EndpointConfigName"])
        found.file.unlink()
        del self._configs[found.name]
        return {}

    def list(self, call: Call) -> Answer:
        configs = list(self._configs.values())
        return page(call.parameters, "EndpointConfigs", configs, lambda each: each.summary("EndpointConfig"))

    def _config(self, name: str) -> Resource:
        if name not in self._configs:
            arn = HERE.arn("sagemaker", f"endpoint-config/{name}")
            raise invalid(f'Could not find endpoint configuration "{arn}".')
        return self._configs[name]

    def _of_arn(self, arn: str) -> Resource | None:
        kind, name = kind_and_name(arn)
        return self._config(name) if kind == "endpoint-config" else None


def _check(asked: Mapping[str, Any]) -> None:
    """Raise Refused for what SageMaker does not accept, and for what the rehearsal has not."""
    variants = asked["ProductionVariants"]
    missing = [text for key, text in _MISSING.items() if asked.get(key)]
    missing += [text for key, text in _MISSING_OF_VARIANT.items() if any(key in variant for variant in variants)]
    if missing:
        raise invalid(f"The rehearsal cloud has no {', '.join(missing)}.")
    names = [variant["VariantName"] for variant in variants]
    if len(set(names)) < len(names):
        raise invalid(f"Production variant names must be unique, got {', '.join(names)}.")
    for variant in variants:
        _check_variant(variant)
    frequency = asked.get("MetricsConfig", {}).get("MetricPublishFrequencyInSeconds", 60)
    if frequency not in _FREQUENCIES:
        allowed = ", ".join(map(str, _FREQUENCIES))
        raise invalid(f"MetricPublishFrequencyInSeconds must be one of {allowed}, got {frequency}.")


def _check_variant(variant: Mapping[str, Any]) -> None:
    name, pools = variant["VariantName"], variant.get("InstancePools", [])
    if "ModelName" not in variant:
        raise invalid(f"The rehearsal cloud has no inference components: name a model for the variant {name}.")
    if ("InstanceType" in variant) == bool(pools):
        raise invalid(f"Specify either InstanceType or InstancePools for the variant {name}.")
    if "InitialInstanceCount" not in variant:
        raise invalid(f"InitialInstanceCount must be specified for the variant {name}.")
    for key in ("InstanceType", "Priority"):
        values = [pool[key] for pool in pools]
        if len(set(values)) < len(values):
            raise invalid(f"Instance pools of the variant {name} must differ in {key}.")
