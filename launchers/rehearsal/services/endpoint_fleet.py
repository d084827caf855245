"""The instances of an endpoint's variants, and the balancer that shares requests among them."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from launchers.rehearsal.services.endpoint_instance import Instance, StartError, Surroundings
from launchers.rehearsal.services.endpoint_record import Variant
from launchers.rehearsal.services.training_record import now

HEALTH_CHECK_S = 240  # without ContainerStartupHealthCheckTimeoutInSeconds
_CAPACITY_S = 0.5  # until it is known that there is no instance of a type
_STEP_S = 0.05


class Fleet:
    """All instances of some variants. Only the endpoint's own thread changes it.

    config: the name of the configuration that they are of. metrics: its MetricsConfig. status: as in VariantStatus,
    since when.
    """

    def __init__(
        self, around: Surroundings, variants: Sequence[Variant], config: str, metrics: Mapping[str, Any]
    ) -> None:
        self.around, self.variants, self.config, self.metrics = around, list(variants), config, metrics
        self.instances: dict[str, list[Instance]] = {variant.name: [] for variant in variants}
        self.status: tuple[str, float] | None = ("Creating", now())

    def to(self, status: str | None) -> None:
        self.status = None if status is None else (status, now())

    def start(self, ended: Callable[[], bool]) -> None:
        """Bring all instances into service. Raises StartError; then those that started must be stopped."""
        for variant in self.variants:
            self.grow(variant, variant.count, ended)
        self.to(None)

    def grow(self, variant: Variant, count: int, ended: Callable[[], bool]) -> None:
        """Bring so many more instances of a variant into service. Raises StartError."""
        kind = self._available(variant)
        added = [Instance(self.around, variant, kind, self.config, self.metrics) for _ in range(count)]
        self.instances[variant.name] = [*self.instances[variant.name], *added]
        for instance in added:
            instance.prepare()
        self.around.clock.wait(self.around.faults.start_s, ended)
        for instance in added:
            instance.start()
        timeout_s = variant.config.get("ContainerStartupHealthCheckTimeoutInSeconds", HEALTH_CHECK_S)
        until, real = self.around.clock.now() + timeout_s, time.monotonic() + timeout_s
        while not all(instance.healthy for instance in added):
            if ended():
                return
            # no clock makes a container that starts any faster; one that answers, or ends, has started
            starting = time.monotonic() < real and any(instance.starting for instance in added)
            if self.around.clock.now() > until and not starting:
                raise StartError(
                    f"The primary container for production variant {variant.name} did not pass the ping health check. "
                    "Please check CloudWatch logs for this endpoint."
                )
            self.around.clock.wait(_STEP_S)
            self.look()

    def shrink(self, variant: Variant, count: int) -> None:
        """Stop instances of a variant until so many are left."""
        kept, rest = self.instances[variant.name][:count], self.instances[variant.name][count:]
        self.instances[variant.name] = kept
        _stop(rest)

    def look(self) -> None:
        for instance in self.all():
            instance.look()

    def all(self) -> list[Instance]:
        return [instance for instances in self.instances.values() for instance in instances]

    def stop(self) -> None:
        self.to("Deleting")
        instances = self.all()
        _stop(instances)
        self.instances = {variant.name: [] for variant in self.variants}

    def remove(self) -> None:
        """Kill everything at once."""
        for instance in self.all():
            instance.remove()

    def describe(self) -> list[dict[str, Any]]:
        """Return the variants as DescribeEndpoint shows them."""
        return [self._variant(variant) for variant in self.variants]

    def _variant(self, variant: Variant) -> dict[str, Any]:
        instances = self.instances[variant.name]
        serving = [instance for instance in instances if instance.healthy]
        images = [
            {"SpecifiedImage": uri, "ResolvedImage": f"{uri.partition('@')[0]}@{digest}", "ResolutionTime": at}
            for uri, digest, at in {_deployed(each) for each in instances if each.image is not None}
        ]
        shown: dict[str, Any] = {
            "VariantName": variant.name,
            "DeployedImages": images,
            "CurrentWeight": variant.weight,
            "DesiredWeight": variant.weight,
            "CurrentInstanceCount": len(serving),
            "DesiredInstanceCount": variant.count,
        }
        if "InstancePools" in variant.config:
            shown["InstancePools"] = [
                {"InstanceType": kind, "CurrentInstanceCount": sum(each.kind == kind for each in serving)}
                for kind in variant.kinds
            ]
        if "RoutingConfig" in variant.config:
            shown["RoutingConfig"] = variant.config["RoutingConfig"]
        if self.status is not None:
            shown["VariantStatus"] = [{"Status": self.status[0], "StartTime": self.status[1]}]
        return shown

    def _available(self, variant: Variant) -> str:
        """Return the first instance type of which there are instances. Raises StartError if there is none."""
        for kind in variant.kinds:
            if not self.around.no_capacity and kind not in self.around.faults.no_capacity_of:
                return kind
            self.around.clock.wait(_CAPACITY_S)
        more = (
            ""
            if "InstancePools" in variant.config
            else " Consider configuring InstancePools in your EndpointConfig with multiple instance types for "
            "priority-based fallback to improve capacity availability."
        )
        raise StartError(
            "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error. Please retry "
            f"using a different ML instance type or after some time.{more}"
        )


def _deployed(instance: Instance) -> tuple[str, str, float]:
    assert instance.image is not None
    uri = instance.model.get("PrimaryContainer", instance.model.get("Containers", [{}])[0])["Image"]
    return uri, instance.image.digest, instance.image_resolved


def _stop(instances: Sequence[Instance]) -> None:
    if instances:
        with ThreadPoolExecutor(len(instances)) as pool:
            list(pool.map(lambda instance: instance.stop(), instances))


# --- the balancer ---


@dataclass
class _Route:
    fleet: Fleet
    variant: Variant
    weight: float
    taken: int = 0

    @property
    def serving(self) -> list[Instance]:
        return [instance for instance in self.fleet.instances[self.variant.name] if instance.healthy]


class Balancer:
    """Shares requests among fleets, variants and instances. Used by the threads of all requests."""

    def __init__(self) -> None:
        self._routes: list[_Route] = []
        self._lock = threading.Lock()

    def share(self, fleets: Mapping[Fleet, float]) -> None:
        """Set the share of each fleet's traffic, and start anew with counting."""
        routes = []
        for fleet, share in fleets.items():
            total = sum(variant.weight for variant in fleet.variants) or 1.0
            routes += [_Route(fleet, variant, share * variant.weight / total) for variant in fleet.variants]
        with self._lock:
            self._routes = routes

    @property
    def variants(self) -> set[str]:
        return {route.variant.name for route in self._routes}

    def take(self, variant: str | None) -> Instance | None:
        """Return the instance for a request, which is given back after it; None if none is healthy.

        variant: the one that the request asks for; such requests ignore weights. Otherwise the route that is furthest
        behind its share gets it. On it the instance with the fewest outstanding requests, or any for RANDOM.
        """
        with self._lock:
            routes = [route for route in self._routes if variant in (None, route.variant.name) and route.serving]
            routes = [route for route in routes if route.weight > 0 or variant is not None]
            if not routes:
                return None
            route = min(routes, key=lambda route: (route.taken + 1) / (route.weight or 1.0))
            route.taken += 1
            strategy = route.variant.config.get("RoutingConfig", {}).get("RoutingStrategy", "RANDOM")
            serving = route.serving
            random.shuffle(serving)
            chosen = serving[0] if strategy == "RANDOM" else min(serving, key=lambda each: each.outstanding)
            chosen.outstanding += 1
            return chosen

    def give_back(self, instance: Instance) -> None:
        with self._lock:
            instance.outstanding -= 1
