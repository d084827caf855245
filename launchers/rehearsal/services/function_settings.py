"""What belongs to a Lambda function: versions, aliases, URLs, permissions, concurrency and tags."""

import json
import secrets
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from launchers.rehearsal.service import Answer, Call, Handler, Refused
from launchers.rehearsal.services.function_package import LARGEST_UNPACKED
from launchers.rehearsal.services.function_pool import UNRESERVED
from launchers.rehearsal.services.function_record import (
    LATEST,
    Alias,
    FunctionRecord,
    Url,
    conflict,
    missing,
    stamp,
    wrong,
)
from launchers.rehearsal.services.training_record import now

if TYPE_CHECKING:
    from launchers.rehearsal.services.functions import Functions

_CODE_STORAGE = 80_530_636_800  # 75 GB, of all functions of a region


class FunctionSettings:
    """The operations, on the functions of the service."""

    def __init__(self, functions: "Functions") -> None:
        self.functions = functions
        self.operations: Mapping[str, Handler] = {
            "PublishVersion": self.publish,
            "ListVersionsByFunction": self.list_versions,
            "CreateAlias": self.create_alias,
            "UpdateAlias": self.update_alias,
            "GetAlias": self.get_alias,
            "DeleteAlias": self.delete_alias,
            "ListAliases": self.list_aliases,
            "CreateFunctionUrlConfig": self.create_url,
            "UpdateFunctionUrlConfig": self.update_url,
            "GetFunctionUrlConfig": self.get_url,
            "DeleteFunctionUrlConfig": self.delete_url,
            "ListFunctionUrlConfigs": self.list_urls,
            "AddPermission": self.add_permission,
            "RemovePermission": self.remove_permission,
            "GetPolicy": self.get_policy,
            "PutFunctionConcurrency": self.reserve,
            "GetFunctionConcurrency": self.get_reserved,
            "DeleteFunctionConcurrency": self.release,
            "PutProvisionedConcurrencyConfig": self.provision,
            "GetProvisionedConcurrencyConfig": self.get_provisioned,
            "DeleteProvisionedConcurrencyConfig": self.delete_provisioned,
            "ListProvisionedConcurrencyConfigs": self.list_provisioned,
            "GetAccountSettings": self.account,
            "ListTags": self.list_tags,
            "TagResource": self.tag,
            "UntagResource": self.untag,
        }

    # --- versions and aliases ---

    def publish(self, call: Call) -> Answer:
        with self.functions.lock:
            record, _ = self.functions.of(call)
            self.functions.check_idle(record)
            if call.parameters.get("CodeSha256") not in (None, record.latest.sha256):
                raise wrong(
                    f"CodeSHA256 ({call.parameters['CodeSha256']}) is different from current CodeSHA256 in $LATEST"
                )
            made = self.functions.publish(record, call.parameters.get("Description", ""))
            record.save()
            return record.describe(made, self.functions.clock)

    def list_versions(self, call: Call) -> Answer:
        record, _ = self.functions.of(call)
        return {"Versions": [record.describe(each, self.functions.clock) for each in record.versions.values()]}

    def create_alias(self, call: Call) -> Answer:
        asked = call.parameters
        with self.functions.lock:
            record, _ = self.functions.of(call)
            if asked["Name"] in record.aliases:
                raise conflict(f"Alias already exists: {record.arn(asked['Name'])}")
            alias = Alias(asked["FunctionVersion"], _weights(asked), asked.get("Description", ""))
            return self._set_alias(record, asked["Name"], alias)

    def update_alias(self, call: Call) -> Answer:
        asked = call.parameters
        with self.functions.lock:
            record, _ = self.functions.of(call)
            before = record.alias(asked["Name"])
            weights = _weights(asked) if "RoutingConfig" in asked else before.weights
            text = asked.get("Description", before.description)
            return self._set_alias(
                record, asked["Name"], Alias(asked.get("FunctionVersion", before.version), weights, text)
            )

    def get_alias(self, call: Call) -> Answer:
        record, _ = self.functions.of(call)
        return record.describe_alias(call.parameters["Name"])

    def delete_alias(self, call: Call) -> Answer:
        """Delete an alias with its URL, permissions and provisioned concurrency; one that is gone is no error."""
        name = call.parameters["Name"]
        with self.functions.lock:
            record, _ = self.functions.of(call)
            self.functions.stop_serving(record, name)
            for kept in (record.aliases, record.policies, record.provisioned):
                kept.pop(name, None)
            record.save()
        return {}

    def list_aliases(self, call: Call) -> Answer:
        record, _ = self.functions.of(call)
        wanted = call.parameters.get("FunctionVersion")
        names = [name for name, alias in record.aliases.items() if wanted in (None, alias.version)]
        return {"Aliases": [record.describe_alias(name) for name in sorted(names)]}

    def _set_alias(self, record: FunctionRecord, name: str, alias: Alias) -> Answer:
        for number in alias.versions():
            record.version(number)
        if alias.weights and LATEST in alias.versions():
            raise wrong("$LATEST is not supported for an alias pointing to more than 1 version")
        if alias.version in alias.weights or len(alias.weights) > 1:
            raise wrong("An alias routes to its version and to one further version at most.")
        if any(not 0 <= share <= 1 for share in alias.weights.values()):
            raise wrong("The weight of an additional version must be between 0.0 and 1.0.")
        record.aliases[name] = alias
        record.save()
        return record.describe_alias(name)

    # --- URLs ---

    def create_url(self, call: Call) -> Answer:
        asked = call.parameters
        with self.functions.lock:
            record, qualifier = self.functions.of(call)
            if qualifier:
                record.alias(qualifier)
            if qualifier in record.urls:
                why = "Error message:  FunctionUrlConfig exists for this Lambda function"
                raise conflict(
                    f"Failed to create function url config for [functionArn = {record.arn(qualifier)}]. {why}"
                )
            _check_mode(asked)
            made = Url(secrets.token_hex(16), asked["AuthType"], now(), cors=asked.get("Cors"))
            record.urls[qualifier] = made
            self.functions.serve(record, qualifier)
            return record.describe_url(qualifier)

    def update_url(self, call: Call) -> Answer:
        asked = call.parameters
        with self.functions.lock:
            record, qualifier = self.functions.of(call)
            record.describe_url(qualifier)
            _check_mode(asked)
            url = record.urls[qualifier]
            url.auth, url.cors = asked.get("AuthType", url.auth), asked.get("Cors", url.cors)
            record.save()
            return record.describe_url(qualifier)

    def get_url(self, call: Call) -> Answer:
        record, qualifier = self.functions.of(call)
        return record.describe_url(qualifier)

    def delete_url(self, call: Call) -> Answer:
        with self.functions.lock:
            record, qualifier = self.functions.of(call)
            record.describe_url(qualifier)
            self.functions.stop_serving(record, qualifier)
            record.save()
        return {}

    def list_urls(self, call: Call) -> Answer:
        record, _ = self.functions.of(call)
        return {"FunctionUrlConfigs": [record.describe_url(qualifier) for qualifier in sorted(record.urls)]}

    # --- who may call it ---

    def add_permission(self, call: Call) -> Answer:
        asked = call.parameters
        with self.functions.lock:
            record, qualifier = self.functions.of(call)
            if qualifier:
                record.version(qualifier)
            statements = record.policies.setdefault(qualifier, [])
            if any(each["Sid"] == asked["StatementId"] for each in statements):
                raise conflict(
                    f"The statement id ({asked['StatementId']}) provided already exists. Please provide a new "
                    "statement id, or remove the existing statement."
                )
            statement = _statement(asked, record.arn(qualifier))
            statements.append(statement)
            record.save()
        return {"Statement": json.dumps(statement)}

    def remove_permission(self, call: Call) -> Answer:
        with self.functions.lock:
            record, qualifier = self.functions.of(call)
            statements = record.policies.get(qualifier, [])
            kept = [each for each in statements if each["Sid"] != call.parameters["StatementId"]]
            if len(kept) == len(statements):
                raise _no_policy()
            record.policies[qualifier] = kept
            record.save()
        return {}

    def get_policy(self, call: Call) -> Answer:
        record, qualifier = self.functions.of(call)
        statements = record.policies.get(qualifier)
        if not statements:
            raise _no_policy()
        policy = {"Version": "2012-10-17", "Id": "default", "Statement": statements}
        return {"Policy": json.dumps(policy), "RevisionId": str(uuid.uuid4())}

    # --- concurrency ---

    def reserve(self, call: Call) -> Answer:
        asked = call.parameters["ReservedConcurrentExecutions"]
        with self.functions.lock:
            record, _ = self.functions.of(call)
            others = sum(count for name, count in self.functions.invoker.reserved().items() if name != record.name)
            if asked > self.functions.invoker.concurrency.limit - others - UNRESERVED and asked > 0:
                raise wrong(
                    "Specified ReservedConcurrentExecutions for function decreases account's "
                    f"UnreservedConcurrentExecution below its minimum value of [{UNRESERVED}]."
                )
            if asked < sum(record.provisioned.values()):
                raise wrong(
                    "ReservedConcurrentExecutions for function should not be lower than function's total provisioned "
                    f"concurrency [{sum(record.provisioned.values())}]."
                )
            record.reserved = asked
            record.save()
        return {"ReservedConcurrentExecutions": asked}

    def get_reserved(self, call: Call) -> Answer:
        record, _ = self.functions.of(call)
        return {} if record.reserved is None else {"ReservedConcurrentExecutions": record.reserved}

    def release(self, call: Call) -> Answer:
        with self.functions.lock:
            record, _ = self.functions.of(call)
            record.reserved = None
            record.save()
        return {}

    def provision(self, call: Call) -> Answer:
        asked = call.parameters["ProvisionedConcurrentExecutions"]
        with self.functions.lock:
            record, qualifier = self.functions.of(call)
            record.version(qualifier)
            if qualifier in ("", LATEST):
                raise wrong("Provisioned Concurrency Configs cannot be applied to unpublished function versions.")
            total = asked + sum(count for of, count in record.provisioned.items() if of != qualifier)
            if record.reserved is not None and total > record.reserved:
                raise wrong(
                    "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for "
                    "function"
                )
            free = self.functions.invoker.concurrency.limit - sum(self.functions.invoker.reserved().values())
            if record.reserved is None and total > free - UNRESERVED:
                raise wrong(
                    "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
                    f"below its minimum value of [{UNRESERVED}]."
                )
            record.provisioned[qualifier] = asked
            record.save()
            return self._provisioned(record, qualifier)

    def get_provisioned(self, call: Call) -> Answer:
        record, qualifier = self.functions.of(call)
        if qualifier not in record.provisioned:
            text = "No Provisioned Concurrency Config found for this function"
            raise Refused("ProvisionedConcurrencyConfigNotFoundException", text, 404, Type="User")
        return self._provisioned(record, qualifier)

    def delete_provisioned(self, call: Call) -> Answer:
        with self.functions.lock:
            record, qualifier = self.functions.of(call)
            record.provisioned.pop(qualifier, None)
            record.save()
        return {}

    def list_provisioned(self, call: Call) -> Answer:
        record, _ = self.functions.of(call)
        shown = [
            {**self._provisioned(record, qualifier), "FunctionArn": record.arn(qualifier)}
            for qualifier in sorted(record.provisioned)
        ]
        return {"ProvisionedConcurrencyConfigs": shown}

    def _provisioned(self, record: FunctionRecord, qualifier: str) -> Answer:
        asked = record.provisioned[qualifier]
        there = min(self.functions.invoker.pool(record).ready(record.version(qualifier).number), asked)
        return {
            "RequestedProvisionedConcurrentExecutions": asked,
            "AvailableProvisionedConcurrentExecutions": there,
            "AllocatedProvisionedConcurrentExecutions": there,
            "Status": "READY" if there == asked else "IN_PROGRESS",
            "LastModified": stamp(now()),
        }

    def account(self, call: Call) -> Answer:
        records, concurrency = list(self.functions.records.values()), self.functions.invoker.concurrency
        if call.faults.concurrency is not None:
            concurrency.limit = call.faults.concurrency
        size = sum(version.size for record in records for version in record.versions.values())
        return {
            "AccountLimit": {
                "TotalCodeSize": _CODE_STORAGE,
                "CodeSizeUnzipped": LARGEST_UNPACKED,
                "CodeSizeZipped": 52_428_800,
                "ConcurrentExecutions": concurrency.limit,
                "UnreservedConcurrentExecutions": concurrency.limit - sum(self.functions.invoker.reserved().values()),
            },
            "AccountUsage": {"TotalCodeSize": size, "FunctionCount": len(records)},
        }

    # --- tags ---

    def list_tags(self, call: Call) -> Answer:
        return {"Tags": self._tagged(call).tags}

    def tag(self, call: Call) -> Answer:
        record = self._tagged(call)
        record.tags |= call.parameters["Tags"]
        record.save()
        return {}

    def untag(self, call: Call) -> Answer:
        record = self._tagged(call)
        keys = call.parameters["TagKeys"]
        for key in [keys] if isinstance(keys, str) else keys:
            record.tags.pop(key, None)
        record.save()
        return {}

    def _tagged(self, call: Call) -> FunctionRecord:
        arn = str(call.parameters.get("Resource"))
        if ":function:" not in arn:
            raise missing(arn, "Resource not found: ")
        return self.functions.record(arn.rpartition(":function:")[2].partition(":")[0])


def _weights(asked: Mapping[str, Any]) -> dict[str, float]:
    return dict((asked.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {})


def _check_mode(asked: Mapping[str, Any]) -> None:
    if asked.get("InvokeMode", "BUFFERED") != "BUFFERED":
        raise wrong("The rehearsal cloud has the InvokeMode BUFFERED alone.")


def _no_policy() -> Refused:
    return Refused("ResourceNotFoundException", "The resource you requested does not exist.", 404, Type="User")


def _statement(asked: Mapping[str, Any], arn: str) -> dict[str, Any]:
    principal: Any = asked["Principal"]
    if principal.endswith(".amazonaws.com"):
        principal = {"Service": principal}
    elif principal != "*":
        account = f"arn:aws:iam::{principal}:root" if principal.isdigit() else principal
        principal = {"AWS": account}
    conditions: dict[str, dict[str, str]] = {}
    if "FunctionUrlAuthType" in asked:
        conditions["StringEquals"] = {"lambda:FunctionUrlAuthType": asked["FunctionUrlAuthType"]}
    if "SourceAccount" in asked:
        conditions.setdefault("StringEquals", {})["AWS:SourceAccount"] = asked["SourceAccount"]
    if "InvokedViaFunctionUrl" in asked:
        conditions["Bool"] = {"lambda:InvokedViaFunctionUrl": str(asked["InvokedViaFunctionUrl"]).lower()}
    if "SourceArn" in asked:
        conditions["ArnLike"] = {"AWS:SourceArn": asked["SourceArn"]}
    return {
        "Sid": asked["StatementId"],
        "Effect": "Allow",
        "Principal": principal,
        "Action": asked["Action"],
        "Resource": arn,
        **({"Condition": conditions} if conditions else {}),
    }
