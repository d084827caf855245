"""The revisions of an endpoint: which there are, which are kept, and how one of them comes back into service."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dogbreed import commands
from launchers.aws import tags
from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.cost import serving
from launchers.deploy import autoscaling, calls, endpoint, expiry, names, parts, request, smoke, waiting
from launchers.deploy.endpoint import Endpoint
from launchers.deploy.scaling import Scaled
from launchers.status import Cause, Failures, Handle, LaunchError, Phase, Status

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher

log = logging.getLogger("dogbreed")

PROVISIONING_S = 1800  # until SageMaker has an instance, at most; start_s comes on top
_SMOKE_EVERY_S = 5.0  # between two requests that give the alarms something to see


def revisions(cloud: Cloud, name: str) -> list[str]:
    """Return the endpoint configurations of a deployment, the newest first."""
    with errors("listing the revisions"):
        pages = (
            cloud.client("sagemaker")
            .get_paginator("list_endpoint_configs")
            .paginate(NameContains=names.Names(name).endpoint, SortBy="CreationTime", SortOrder="Descending")
        )
        found = [each["EndpointConfigName"] for page in pages for each in page["EndpointConfigs"]]
    return [config for config in found if names.revision_of(config, name) is not None]


def forget_old(cloud: Cloud, name: str, kept: Collection[str]) -> None:
    """Remove the other revisions. kept: the configurations in service now and before."""
    for config in revisions(cloud, name):
        if config not in kept and (revision := names.revision_of(config, name)) is not None:
            parts.remove_revision(cloud, name, revision)


def note_served(cloud: Cloud, name: str, found: Endpoint, noted: Mapping[str, str]) -> None:
    """Note in the endpoint's tags that the revision in service has served, before another one takes its place.

    noted: its tags. Only such a revision may be brought back: the update to another one may have been abandoned.
    """
    revision = names.revision_of(found.config, name)
    if revision is not None and (also := tags.also_served(noted, revision)):
        tags.add(cloud, found.arn, also)


def config_before(configs: Sequence[str], in_service: str, served: Collection[str]) -> str:
    """Return the configuration that was in service before: the next older one, or else the next newer one.

    One that is newer was rolled back from. Empty if there is none. configs: the newest first, with that in service.
    served: the revisions that have been in service.
    """
    place = configs.index(in_service) if in_service in configs else -1
    newer, older = configs[: max(place, 0)], configs[place + 1 :]
    return next((config for config in (*older, *reversed(newer)) if config.endswith(tuple(served))), "")


def rollback(launcher: "DeployLauncher", handle: Handle) -> Status:
    """Bring the revision before into service, as an update with alarms. Raises LaunchError if there is none."""
    cloud, name = launcher.cloud, handle.run_id
    found = endpoint.find(cloud, name)
    if found is None:
        raise LaunchError(launcher.unknown(handle))
    noted = found.own_tags(cloud, name)
    if tags.SCALED in noted and autoscaling.lacks_policy(cloud, name):
        completed = _complete(launcher, handle, found, noted[tags.SCALED])
        if completed is not None:
            return completed
    if found.phase is not Phase.IN_SERVICE:
        raise LaunchError(
            f"The deployment {name} is {found.status}, and only one in service can be rolled back.\n"
            f"Try: {commands.launchers('status', *launcher.name_of(handle))}"
        )
    target = config_before(revisions(cloud, name), found.config, tags.served(noted))
    if not target:
        raise LaunchError(
            f"The deployment {name} has no revision before this one.\nTry: deploying another model under this name",
            Cause.BAD_CONFIG,
        )
    before, now = (_variant(cloud, config) for config in (target, found.config))
    scaled, types = autoscaling.present(cloud, name), [request.types_in(before), request.types_in(now)]
    instances = scaled.least if scaled else int(before["InitialInstanceCount"])
    parameters = request.update(launcher, names.Names(name), target, instances, keep=scaled is not None)
    end_together(cloud, name, [target])
    note_served(cloud, name, found, noted)
    retyped = scaled if types[0] != types[1] else None
    quota = "" if set(types[0]).isdisjoint(types[1]) else "(an update needs the quota of its machines twice)"
    with _not_scaling(launcher, handle, found, retyped, types[1][0], target):
        with errors("rolling back", quota=quota):
            cloud.client("sagemaker").update_endpoint(**parameters)
        deadline_s = PROVISIONING_S + 2 * launcher.start_s + request.watched_s(launcher, instances)
        try:
            status = waiting.settle(launcher, handle, deadline_s=deadline_s, meanwhile=traffic(cloud, name))
        except LaunchError as error:  # what followed it may lack a permission; a second rollback would undo the first
            error.add_note(f"The rollback was asked for, and goes on: {target} comes into service.")
            raise
    after = endpoint.find(cloud, name)
    if after is None or after.config != target:
        raise LaunchError(f"The rollback of {name} did not come into service: {status}", status.cause)
    return status


@contextmanager
def _not_scaling(
    launcher: "DeployLauncher", handle: Handle, found: Endpoint, scaled: Scaled | None, instance_type: str, target: str
) -> Iterator[None]:
    """End the scaling while the instance type changes, as AWS asks for, and begin it again, also after an error.

    Until then a tag of the endpoint says how it scales, so that the next `rollback` begins it again if this process is
    ended. found: the endpoint. scaled: how it scales, on `instance_type`; None if nothing is to be done. target: the
    configuration that is brought back.
    """
    if scaled is None:
        yield
        return
    cloud, name, scales = launcher.cloud, handle.run_id, False
    revision = names.revision_of(target, name)
    tags.add(cloud, found.arn, {tags.SCALED: f"{revision} {instance_type} {scaled.numbers}"})
    again = commands.launchers("rollback", *launcher.name_of(handle))
    print(f"{name} does not scale until it is rolled back. If this command is stopped before that: {again}", flush=True)
    try:
        for each in autoscaling.deregister(scaled.kind, names.Names(name)):
            calls.send(cloud, each, {})
        yield
    except BaseException as error:
        failures = Failures()
        with failures.noted():
            scales = _scale_again(cloud, name, scaled, instance_type)
        for other in failures.errors:
            if str(other) != str(error):  # as after credentials have expired
                error.add_note(str(other))
        raise
    else:
        scales = _scale_again(cloud, name, scaled, instance_type)
    finally:
        if not scales:
            log.warning("%s does not scale. To let it scale as before, once it is in service: %s", name, again)


def _scale_again(cloud: Cloud, name: str, scaled: Scaled, instance_type: str) -> bool:
    """Let a deployment scale as it did, on the instances that it has now. Return False if it is not in service."""
    found = endpoint.find(cloud, name)
    if found is None or found.phase is not Phase.IN_SERVICE:
        return False
    now = request.types_in(_variant(cloud, found.config))[0]
    calls.scale(cloud, name, scaled.on(serving.vcpus(now) / serving.vcpus(instance_type)), found.arn)
    tags.remove(cloud, found.arn, tags.SCALED)
    return True


def _complete(launcher: "DeployLauncher", handle: Handle, found: Endpoint, noted: str) -> Status | None:
    """Complete a rollback to other instances that was ended before the deployment scaled again.

    Return None if the revision before neither is in service nor comes: it scales again then, but is to be rolled back.
    noted: in the endpoint's tag. Raises LaunchError if the revision does not come into service.
    """
    cloud, name = launcher.cloud, handle.run_id
    revision, instance_type, numbers = noted.split(" ", 2)
    scaled = Scaled.of_numbers(numbers)
    if found.phase is Phase.IN_SERVICE and names.revision_of(found.config, name) != revision:
        _scale_again(cloud, name, scaled, instance_type)
        return None
    print(f"Completing the rollback of {name} that was interrupted: it scales again once in service", flush=True)
    deadline_s = PROVISIONING_S + 2 * launcher.start_s + request.watched_s(launcher, launcher.most)
    status = waiting.settle(launcher, handle, deadline_s=deadline_s, meanwhile=traffic(cloud, name))
    scales, after = _scale_again(cloud, name, scaled, instance_type), endpoint.find(cloud, name)
    if not scales or after is None or names.revision_of(after.config, name) != revision:
        raise LaunchError(f"The rollback of {name} did not come into service: {status}", status.cause)
    return launcher.status(handle)


def _variant(cloud: Cloud, config: str) -> dict[str, Any]:
    """Return the variant of an endpoint configuration, as AWS describes it."""
    found = endpoint.described(cloud, "describe_endpoint_config", EndpointConfigName=config) or {}
    return dict(found["ProductionVariants"][0])


def end_together(cloud: Cloud, name: str, configs: Iterable[str]) -> None:
    """Let the schedules of revisions run after the deployment's own, which may have become later, or never.

    configs: endpoint configurations of the deployment.
    """
    client, expires = cloud.client("scheduler"), endpoint.expires_at(cloud, name)
    found = {part.name: part for part in parts.of_deployment(cloud, name)}
    owners = {
        schedule: own
        for own in (names.RevisionNames(name, names.revision_of(config, name) or "") for config in configs)
        for schedule in own.schedules.values()
        if schedule in found
    }
    for schedule, own in owners.items():
        if not expires:
            parts.remove(cloud, found[schedule])
            continue
        with errors(f"changing the schedule {schedule}"):
            role = client.get_schedule(Name=schedule)["Target"]["RoleArn"]
            for wanted in expiry.of_revision(own, datetime.fromisoformat(expires), role):
                if wanted["Name"] == schedule:
                    client.update_schedule(**wanted)


def traffic(cloud: Cloud, name: str) -> Callable[[Status], None]:
    """Return what sends a picture now and then during an update, so that its alarms have something to see."""
    last, every_s, picture, told = 0.0, min(_SMOKE_EVERY_S, 2 * cloud.poll_s), next(smoke.pictures()), False

    def send(status: Status) -> None:
        nonlocal last, told
        if status.phase is Phase.UPDATING and time.monotonic() - last >= every_s:
            last = time.monotonic()
            try:
                smoke.invoke(cloud, name, picture)
            except LaunchError as error:  # that is what the alarms are for
                log.debug("a request during the update failed", exc_info=True)
                if error.cause is Cause.PERMISSION and not told:  # of which the alarms see nothing
                    log.warning("The alarms see only the requests of others. %s", error)
                    told = True

    return send
