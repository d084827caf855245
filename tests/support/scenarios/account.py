"""What an account holds after a scenario, and what it has paid, as its administrator sees it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from launchers.cost import prices
from launchers.deploy import parts
from launchers.rehearsal.services.ec2_instance import Instance
from launchers.rehearsal.services.training_record import FINISHED, JobRecord
from tests.support.fleet import Fleet
from tests.support.scenarios.clouds import OwnCloud


@dataclass(frozen=True)
class Account:
    """The account of one scenario; everything in it is that scenario's."""

    cloud: OwnCloud

    @property
    def jobs(self) -> list[JobRecord]:
        return sorted(JobRecord.load_all(self.cloud.state / "jobs"), key=lambda job: job.created)

    @property
    def machines(self) -> list[Instance]:
        return sorted(Instance.load_all(self.cloud.state / "ec2" / "instances"), key=lambda each: each.launched)

    def running(self) -> list[str]:
        """Return what is billed by the second now."""
        jobs = [job.name for job in self.jobs if job.status not in FINISHED or job.pool == "Available"]
        return [*jobs, *(each.id for each in self.machines if each.alive)]

    def left(self) -> list[str]:
        """Return what is there although nothing is to run any more: it costs, or could start what costs."""
        fleet = Fleet(self.cloud.admin)
        groups = fleet.groups.describe_auto_scaling_groups()["AutoScalingGroups"]
        templates = fleet.ec2.describe_launch_templates()["LaunchTemplates"]
        actions = fleet.groups.describe_scheduled_actions()["ScheduledUpdateGroupActions"]
        return [
            *self.running(),
            *(f"group {each['AutoScalingGroupName']}" for each in groups),
            *(f"launch template {each['LaunchTemplateName']}" for each in templates),
            *(f"scheduled action of {each['AutoScalingGroupName']}" for each in actions),
            *map(str, parts.everything(self.cloud.admin)),
        ]

    def usd(self) -> float:
        """Return what all machines have cost."""
        total = sum(each.bill(0.0)["usd"] for each in self.machines)
        for job in self.jobs:
            resources = job.request["ResourceConfig"]
            row = prices.instance(resources["InstanceType"])
            assert row is not None
            total += (job.billable_s + job.pool_s) / 3600 * row.usd * resources["InstanceCount"]
        return float(total)

    def wrong(self, *, tuned: bool = False) -> Iterator[str]:
        """Yield what may never have happened. tuned: whether the tuner had several jobs at once."""
        if not tuned:
            for earlier, later in pairwise(self.jobs):
                if earlier.ended is None or earlier.ended > later.created:
                    yield f"{later.name} began while {earlier.name} was there"
                elif earlier.status == "Completed":
                    yield f"{later.name} began although {earlier.name} had succeeded"
        for before, after in pairwise(self.machines):
            if before.impaired:  # it was down from then on, whenever its end was noticed
                continue
            ended = before.left if before.left is not None else before.ended
            if ended is None or (after.began is not None and after.began < ended):
                yield f"{after.id} was up while {before.id} was"
        code = {key.rpartition("/")[0] for key in self._keys() if key.endswith("bundle.tar.gz")}
        if len(code) != 1:
            yield f"other code than the stand-in was sent: {sorted(code)}"

    def _keys(self) -> list[str]:
        pages = self.cloud.admin.client("s3").get_paginator("list_objects_v2").paginate(Bucket="dogbreed-rehearsal")
        return [item["Key"] for page in pages for item in page.get("Contents", [])]
