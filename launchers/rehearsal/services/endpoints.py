"""SageMaker's endpoints: the interface that AWS documents. Each of them runs in a thread of its own."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from launchers.rehearsal.access import HERE
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.images import ImageStore
from launchers.rehearsal.names import Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Answer, Call, Handler, Refused, invalid, wait_for_ends
from launchers.rehearsal.services.endpoint_configs import EndpointConfigs
from launchers.rehearsal.services.endpoint_instance import Surroundings
from launchers.rehearsal.services.endpoint_invoke import invoke
from launchers.rehearsal.services.endpoint_metrics import Meter
from launchers.rehearsal.services.endpoint_record import IN_PROGRESS, Change, EndpointRecord, Variant
from launchers.rehearsal.services.endpoint_run import EndpointRun, remove_machines
from launchers.rehearsal.services.endpoint_update import check_alarms, check_deployment, retained
from launchers.rehearsal.services.kept_logs import KeptLogs
from launchers.rehearsal.services.models import names_of
from launchers.rehearsal.services.sagemaker_lists import page
from launchers.rehearsal.services.sagemaker_tags import check_tags, from_list, kind_and_name, tag_operations
from launchers.rehearsal.services.training_record import now


class Scaling(Protocol):
    """What scales variants of endpoints, which says what must not happen to these."""

    def check_update(self, endpoint: str, present: Sequence[Variant], wanted: Sequence[Variant]) -> None: ...

    def release(self, endpoint: str, call: Call) -> None: ...


class Endpoints:
    """All endpoints. folder: contains a folder for each of them. meter: what is published of them in CloudWatch."""

    def __init__(
        self,
        folder: Path,
        store: ObjectStore,
        images: ImageStore,
        logs: KeptLogs,
        configs: EndpointConfigs,
        clock: Clock,
        meter: Meter,
    ) -> None:
        self.folder, self.store, self.images, self.logs = folder, store, images, logs
        self.configs, self.clock, self.meter = configs, clock, meter
        self.scaling: Scaling | None = None
        self._server: Server | None = None
        self._runs: dict[str, EndpointRun] = {}
        self._lock = threading.RLock()
        self.operations: dict[tuple[str, str], Handler] = {
            ("sagemaker", "CreateEndpoint"): self.create,
            ("sagemaker", "DescribeEndpoint"): self.describe,
            ("sagemaker", "UpdateEndpoint"): self.update,
            ("sagemaker", "UpdateEndpointWeightsAndCapacities"): self.change_capacities,
            ("sagemaker", "DeleteEndpoint"): self.delete,
            ("sagemaker", "ListEndpoints"): self.list,
            ("sagemaker", "InvokeEndpoint"): self.invoke,
            ("sagemaker", "InvokeEndpointAsync"): refuse,
            ("sagemaker", "InvokeEndpointWithResponseStream"): refuse,
            ("sagemaker", "InvokeEndpointWithBidirectionalStream"): refuse,
            ("logs", "DeleteLogGroup"): self.forget_logs,
            ("servicequotas", "ListServiceQuotas"): list_quotas,
            **tag_operations(self._of_arn),
        }

    @property
    def active(self) -> bool:
        """An endpoint runs until it is deleted, as on AWS."""
        return any(run.record.status != "Failed" for run in self.runs())

    def runs(self) -> list[EndpointRun]:
        with self._lock:
            return [run for run in self._runs.values() if not run.gone.is_set()]

    def begin(self, server: Server) -> None:
        self._server = server
        self.logs.load()
        for record in EndpointRecord.load_all(self.folder):
            remove_machines(record)
            if record.status == "RollingBack":
                record.change = None
                record.to("InService", record.failure)
            self._start(self._around(record))

    def end(self) -> None:
        runs = self.runs()
        for run in runs:
            run.abandon()
        wait_for_ends(runs)

    def create(self, call: Call) -> Answer:
        asked, name = call.parameters, call.parameters["EndpointName"]
        check_tags(asked.get("Tags", []), {})
        with self._lock:
            config = self.configs.request_of(asked["EndpointConfigName"])
            if any(run.record.name == name for run in self.runs()):
                raise invalid(f'Cannot create already existing endpoint "{_arn(name)}".')
            variants = self._variants(config)
            check_deployment(asked.get("DeploymentConfig", {}), variants)
            self._check_quotas(variants, call.faults.quotas)
            metrics = config.get("MetricsConfig", {})
            record = EndpointRecord(self.folder / name, name, asked["EndpointConfigName"], variants, now(), metrics)
            record.tags = from_list(asked.get("Tags", []))
            record.to("Creating")
            no_capacity = call.session.among_first(call.faults.no_capacity, "jobs")
            self._start(replace(self._around(record), faults=call.faults, no_capacity=no_capacity))
        return {"EndpointArn": record.arn}

    def describe(self, call: Call) -> Answer:
        run = self._run(call.parameters["EndpointName"])
        shown = run.record.describe()
        if run.record.status != "Failed":
            shown["ProductionVariants"] = run.fleet.describe()
        if (change := run.record.change) is not None:
            green = run.green.describe() if run.green is not None else []
            of_green = {"ProductionVariants": green} if green else {}
            shown["PendingDeploymentSummary"] = {
                "EndpointConfigName": change.config_name,
                "StartTime": change.started,
                **of_green,
            }
        return shown

    def update(self, call: Call) -> Answer:
        asked = call.parameters
        with self._lock:
            run = self._updatable(asked["EndpointName"])
            record = run.record
            config = self.configs.request_of(asked["EndpointConfigName"])
            self.configs.request_of(record.config_name)  # SageMaker refuses an update if the present one is deleted
            variants = self._variants(config)
            if asked.get("RetainAllVariantProperties"):
                excluded = [each["VariantPropertyType"] for each in asked.get("ExcludeRetainedVariantProperties", [])]
                present = {variant.name: variant for variant in record.variants}
                variants = [retained(variant, present.get(variant.name), excluded) for variant in variants]
            if self.scaling is not None:
                self.scaling.check_update(record.name, record.variants, variants)
            deployment = asked.get("DeploymentConfig")
            if asked.get("RetainDeploymentConfig"):
                deployment = record.deployment
            check_deployment(deployment or {}, variants)
            check_alarms(deployment or {}, record.variants, call.faults.denied_to_role)
            self._check_quotas(variants, call.faults.quotas)
            self._use(run, call)
            metrics = config.get("MetricsConfig", {})
            record.change = Change(asked["EndpointConfigName"], variants, metrics, deployment, now())
            record.to("Updating")
        return {"EndpointArn": record.arn}

    def change_capacities(self, call: Call) -> Answer:
        asked = call.parameters
        with self._lock:
            run = self._updatable(asked["EndpointName"])
            record = run.record
            wanted = {each["VariantName"]: each for each in asked["DesiredWeightsAndCapacities"]}
            present = {variant.name: variant for variant in record.variants}
            if unknown := [name for name in wanted if name not in present]:
                names = ", ".join(f'"{name}"' for name in unknown)
                config = record.config_name
                raise invalid(
                    f'The variant name(s) {names} is/are not present within endpoint configuration "{config}".'
                )
            if any(each.get("DesiredInstanceCount") == 0 for each in wanted.values()):
                raise invalid("DesiredInstanceCount must be at least 1 for a variant without inference components.")
            variants = [_changed(variant, wanted.get(name, {})) for name, variant in present.items()]
            added = [replace(each, count=max(each.count - present[each.name].count, 0)) for each in variants]
            self._check_quotas(added, call.faults.quotas)
            self._use(run, call)
            record.change = Change(record.config_name, variants, record.metrics, None, now(), fleet=False)
            record.to("Updating")
        return {"EndpointArn": record.arn}

    def delete(self, call: Call) -> Answer:
        run = self._run(call.parameters["EndpointName"])
        if self.scaling is not None and run.record.status not in IN_PROGRESS:
            self.scaling.release(run.record.name, call)
        with self._lock:
            if run.record.status in IN_PROGRESS:
                raise invalid(f'Cannot update in-progress endpoint "{run.record.arn}".')
            run.record.to("Deleting")
        return {}

    def list(self, call: Call) -> Answer:
        return page(call.parameters, "Endpoints", [run.record for run in self.runs()], EndpointRecord.summary)

    def invoke(self, call: Call) -> Answer:
        name = call.parameters["EndpointName"]
        run = next((run for run in self.runs() if run.record.name == name), None)
        return invoke(name, run, call.parameters, self.meter)

    def forget_logs(self, call: Call) -> None:
        """Delete the copy of a log group; moto deletes the group."""
        self.logs.forget(call.parameters["logGroupName"])

    def _start(self, around: Surroundings) -> None:
        with self._lock:
            run = EndpointRun(around)
            self._runs[around.record.name] = run
        run.start()

    def _around(self, record: EndpointRecord) -> Surroundings:
        assert self._server is not None
        return Surroundings(record, self.store, self.images, self.logs, self._server, self.clock)

    def _use(self, run: EndpointRun, call: Call) -> None:
        """Let the faults of this call hold for what the endpoint does from now on."""
        no_capacity = call.session.among_first(call.faults.no_capacity, "jobs")
        run.around = replace(run.around, faults=call.faults, no_capacity=no_capacity)
        run.fleet.around = run.around

    def _variants(self, config: Mapping[str, Any]) -> Sequence[Variant]:
        variants = config["ProductionVariants"]
        models = {name: self.configs.models.request_of(name) for name in names_of(variants)}
        return [Variant.of(each, {name: models[name] for name in names_of([each])}) for each in variants]

    def _check_quotas(self, wanted: Sequence[Variant], quotas: Mapping[str, int]) -> None:
        """Raise Refused if the account may not have so many more instances, those of old fleets counted as well."""
        delta: Counter[str] = Counter()
        for variant in wanted:
            delta[variant.kinds[0]] += variant.count
        used: Counter[str] = Counter()
        for run in self.runs():
            for variant in run.record.instances():
                used[variant.kinds[0]] += variant.count
        for kind, count in delta.items():
            if kind in quotas and used[kind] + count > quotas[kind] and count:
                raise Refused(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{kind} for endpoint usage' is {quotas[kind]} Instances, with "
                    f"current utilization of {used[kind]} Instances and a request delta of {count} Instances. "
                    "Please use AWS Service Quotas to request an increase for this quota. If AWS Service Quotas is not "
                    "available, contact AWS support to request an increase for this quota.",
                )

    def _run(self, name: str) -> EndpointRun:
        found = next((run for run in self.runs() if run.record.name == name), None)
        if found is None:
            raise invalid(f'Could not find endpoint "{_arn(name)}".')
        return found

    def _updatable(self, name: str) -> EndpointRun:
        run = self._run(name)
        if run.record.status in IN_PROGRESS:
            raise invalid(f'Cannot update in-progress endpoint "{run.record.arn}".')
        if run.record.status == "Failed":
            raise invalid(f'Cannot update endpoint "{run.record.arn}" in status Failed. It can only be deleted.')
        return run

    def _of_arn(self, arn: str) -> EndpointRecord | None:
        kind, name = kind_and_name(arn)
        return self._run(name).record if kind == "endpoint" else None


def refuse(call: Call) -> Answer:
    raise Refused(
        "ValidationError", "The rehearsal cloud has InvokeEndpoint alone: no asynchronous or streaming answers."
    )


def list_quotas(call: Call) -> Answer | None:
    """Return the quotas of endpoints that `aws.faults` sets; the rehearsal cloud has no others."""
    if call.parameters["ServiceCode"] != "sagemaker":
        return None
    found = [
        {"ServiceCode": "sagemaker", "QuotaName": f"{kind} for endpoint usage", "Value": float(count), "Unit": "None"}
        for kind, count in sorted(call.faults.quotas.items())
        if kind.startswith("ml.")
    ]
    return {"Quotas": found}


def _arn(name: str) -> str:
    return HERE.arn("sagemaker", f"endpoint/{name}")


def _changed(variant: Variant, wanted: Mapping[str, Any]) -> Variant:
    count = wanted.get("DesiredInstanceCount", variant.count)
    return replace(variant, count=count, weight=wanted.get("DesiredWeight", variant.weight))
