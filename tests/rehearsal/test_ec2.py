"""EC2 in the rehearsal cloud: groups keep one machine, which really runs its user data, until it ends them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dogbreed.progress import Epoch
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.marked import MACHINE, marked
from launchers.rehearsal.services.ec2_instance import Instance
from tests.support.fleet import PLAIN, PROFILE, Fleet, python
from tests.support.launcher_contract import until

pytestmark = pytest.mark.cloud
EPOCH = str(Epoch(1, 9, 1.0, 0.5, 1.0, 0.5, 100.0, 1.0))  # a line of a log
DONE = python("put('done/' + me, meta('instance-life-cycle')); done(); import time; time.sleep(600)")
UNIT = """#!/bin/bash
mkdir -p /opt/job
cat > /opt/job/main.sh <<'MAIN'
trap 'echo asked to end; exit 0' TERM
echo "in the unit: $PWD $HOME"
while true; do sleep 1; done
MAIN
cat > /etc/systemd/system/work.service <<'UNIT'
[Unit]
Description=work
[Service]
ExecStart=/bin/bash /opt/job/main.sh
ExecStopPost=/bin/bash -c 'echo ended with $SERVICE_RESULT; shutdown -h now'
TimeoutStopSec=900
UNIT
systemctl daemon-reload
systemctl start --no-block work.service
echo "the unit is $(systemctl is-active work)"
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    place = tmp_path_factory.mktemp("fleet") / "state of it"
    try:
        yield Fleet(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
    finally:
        process.stop(place)


def _place(fleet: Fleet) -> Path:
    return Path(fleet.cloud.state_dir) / "ec2" / "instances"


def bills(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Return what each machine that there ever was has cost."""
    found = Instance.load_all(_place(fleet))
    return {each.id: each.bill(time.time()) for each in found}


def test_a_machine_that_ends_itself_in_its_group_is_not_replaced(fleet: Fleet) -> None:
    name = fleet.group("ends-itself", DONE)
    (machine,) = fleet.wait(name, "terminated")
    assert fleet.stored(f"done/{machine['InstanceId']}") == "spot"
    assert fleet.described(name)["DesiredCapacity"] == 0
    until(lambda: not fleet.described(name)["Instances"])
    bill = bills(fleet)[machine["InstanceId"]]
    assert (bill["type"], bill["lifecycle"], bill["group"], bill["billed"]) == ("m5.large", "spot", name, False)
    assert bill["usd"] == pytest.approx(bill["usd_per_hour"] * bill["seconds"] / 3600, abs=1e-5)
    assert 0 < bill["usd_per_hour"] < 0.096
    causes = [each["Cause"] for each in fleet.activities(name)]
    assert len(causes) == 2
    assert causes[0].endswith("in response to a user request, shrinking the capacity from 1 to 0.")


def test_shutdown_in_a_machine_ends_it_and_the_group_starts_another(fleet: Fleet) -> None:
    name = fleet.group("respawns", "#!/bin/bash\necho once\nsleep 1\nshutdown -h now\nsleep 6000\n")
    until(lambda: len(fleet.machines(name)) >= 3)
    first = fleet.machines(name)[0]
    assert first["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert "once\n" in fleet.console(first)
    assert "EC2 health check indicating it has been terminated" in " ".join(
        each["Cause"] for each in fleet.activities(name)
    )
    fleet.groups.put_scheduled_update_group_action(
        AutoScalingGroupName=name,
        ScheduledActionName="deadline",
        StartTime=fleet.at(20),
        MinSize=0,
        MaxSize=0,
        DesiredCapacity=0,
    )
    until(lambda: fleet.described(name)["MaxSize"] == 0 and not fleet.described(name)["Instances"])
    assert set(fleet.states(name)) == {"terminated"}
    assert fleet.groups.describe_scheduled_actions(AutoScalingGroupName=name)["ScheduledUpdateGroupActions"] == []


def test_a_unit_runs_and_is_asked_to_end_when_its_machine_is_shut_down(fleet: Fleet) -> None:
    name = fleet.group("unit", UNIT)
    (machine,) = fleet.wait(name, "running")
    until(lambda: "the unit is active" in fleet.console(machine) and "in the unit: / /root" in fleet.console(machine))
    fleet.groups.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=0)
    (machine,) = fleet.wait(name, "terminated")
    assert fleet.console(machine).endswith("result success\nended with success\n")
    assert "asked to end\n" in fleet.console(machine)
    assert machine["StateReason"]["Code"] == "Client.UserInitiatedShutdown"


def test_an_interruption_comes_with_a_notice_two_minutes_before(fleet: Fleet) -> None:
    waits = "import time\nwhile True:\n  try: put('notice/' + me, meta('spot/instance-action')); break\n"
    waits += "  except OSError as error: time.sleep(0.1)\nprint('seen', flush=True); time.sleep(600)"
    noticed = fleet.with_faults(reclaims=1, reclaim_at=["0.1s"], clock_rate=1)
    name = noticed.group("reclaimed", python(waits))
    until(lambda: bool(noticed.machines(name)))
    asked = f"notice/{noticed.machines(name)[0]['InstanceId']}"
    until(lambda: noticed.stored(asked) is not None)  # for which it has the two minutes
    noticed = noticed.hurried()
    until(lambda: len(noticed.machines(name)) == 2)
    first, second = noticed.machines(name)
    assert first["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    action = json.loads(noticed.stored(asked) or "")
    assert {**action, "time": ""} == {"action": "terminate", "time": ""}
    assert noticed.stored(f"notice/{second['InstanceId']}") is None  # the second is spared
    noticed.end(name)
    noticed.wait(name, "terminated", "terminated")


def test_one_without_notice_kills_the_machine_at_once(fleet: Fleet) -> None:
    hard = fleet.with_faults(reclaims=1, reclaim_at=["0.1s"], hard=True)
    name = hard.group("killed", "#!/bin/bash\ntrap 'echo asked' TERM\nsleep 6000 & wait\nsleep 6000\n")
    until(lambda: len(hard.machines(name)) == 2)
    assert "asked" not in hard.console(hard.machines(name)[0])
    hard.end(name)


def test_machines_that_do_not_boot_or_fail_are_replaced(fleet: Fleet) -> None:
    faulty = fleet.with_faults(boot_failures=1, crash_at="epoch 1", crashes=2)
    name = faulty.group("faulty", f"#!/bin/bash\necho here; echo '{EPOCH}'; sleep 6000\n")
    until(lambda: len(faulty.machines(name)) == 3)
    first, second, third = faulty.machines(name)
    assert [faulty.console(each) for each in (first, second)] == ["", f"here\n{EPOCH}\n"]
    until(lambda: "here" in faulty.console(third))
    assert "status checks failure" in " ".join(each["Cause"] for each in faulty.activities(name))
    faulty.end(name)


def test_nothing_of_a_machine_is_left_after_it(fleet: Fleet) -> None:
    name = fleet.group("leaves", "#!/bin/bash\n(setsid nohup sleep 6010 &) \nsleep 6020\n")
    until(lambda: bool(fleet.machines(name)))
    disk = _place(fleet) / fleet.machines(name)[0]["InstanceId"] / "disk"
    until(lambda: len(_sleeping(disk)) == 2)
    fleet.end(name)
    fleet.wait(name, "terminated")
    assert _sleeping(disk) == []
    until(lambda: not fleet.groups.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"])
    assert len(fleet.machines(name)) == 1
    assert not disk.exists()


def _sleeping(disk: Path) -> list[list[str]]:
    """Return what sleeps on the machine with this disk."""
    found = [_words(each) for each in marked(MACHINE, str(disk))]
    return [words for words in found if words in (["/bin/sleep", "601"], ["/bin/sleep", "602"])]


def _words(of: psutil.Process) -> list[str]:
    try:
        return of.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


def test_a_launch_without_capacity_is_tried_elsewhere_and_again(fleet: Fleet) -> None:
    short = fleet.with_faults(no_capacity_in=["us-east-1a", "us-east-1b"], no_capacity=1)
    name = short.group("short", kinds=("m5.large", "c5.large"), zones=("us-east-1a", "us-east-1d"))
    until(lambda: short.states(name) == ["running"])
    assert short.machines(name)[0]["Placement"]["AvailabilityZone"] == "us-east-1d"
    failed = [each for each in short.activities(name) if each["StatusCode"] == "Failed"]
    assert len(failed) == 1
    assert "no Spot capacity available" in failed[0]["StatusMessage"]
    short.end(name)


def test_plain_linux_has_no_torch_until_it_is_installed(fleet: Fleet) -> None:
    script = """#!/bin/bash
python3 -c 'import torch' 2> /dev/null || echo no torch
test -e /opt/pytorch/bin/python || echo no image of PyTorch
dnf install -y -q python3.12 && python3.12 -m venv /opt/job/venv
/opt/job/venv/bin/python -m pip install -q torch
/opt/job/venv/bin/python -c 'import importlib.util; print("torch" if importlib.util.find_spec("torch") else "none")'
sleep 6000
"""
    name = fleet.group("plain", script, data={"ImageId": fleet.image(PLAIN)})
    (machine,) = fleet.wait(name, "running")
    until(lambda: fleet.console(machine).endswith("torch\n"))
    assert fleet.console(machine).startswith("no torch\nno image of PyTorch\n")
    fleet.end(name)


def test_the_metadata_service_wants_a_token_and_says_what_the_machine_is(fleet: Fleet) -> None:
    asks = """
import json, urllib.error
def status(path, method="GET", **headers):
    request = urllib.request.Request(place + path, headers=headers, method=method)
    try: return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error: return error.code
T = "X-aws-ec2-metadata-token-ttl-seconds"
role = meta("iam/security-credentials/")
document = json.loads(ask("/latest/dynamic/instance-identity/document", token=token))
put("asked/" + me, json.dumps([
    status("/latest/meta-data/instance-id"),
    status("/latest/api/token", "PUT"),
    status("/latest/api/token", "PUT", **{T: "60", "X-Forwarded-For": "10.0.0.1"}),
    status("/latest/meta-data/spot/instance-action", **{"X-aws-ec2-metadata-token": token}),
    role, json.loads(meta("iam/security-credentials/" + role))["Code"], document["instanceType"],
    document["instanceId"] == me, meta("placement/region"), meta("").split("\\n")[0],
]))
done()
"""
    name = fleet.group("asks", python(asks), on_demand=True)
    (machine,) = fleet.wait(name, "terminated")
    found = json.loads(fleet.stored(f"asked/{machine['InstanceId']}") or "")
    assert found == [401, 400, 403, 404, PROFILE, "Success", "m5.large", True, "us-east-1", "ami-id"]


def test_a_machine_whose_clock_is_off_gets_no_further(fleet: Fleet) -> None:
    code = "try: put('skewed', 'x')\nexcept Exception as error: print(error, flush=True)\nimport time; time.sleep(600)"
    skewed = fleet.with_faults(clock_skew_s=1800)
    name = skewed.group("skewed", python(code))
    (machine,) = skewed.wait(name, "running")
    until(lambda: "RequestTimeTooSkewed" in skewed.console(machine))
    skewed.end(name)


def test_what_the_role_may_not_do_is_refused_to_the_machine(fleet: Fleet) -> None:
    code = "try: put('denied', 'x')\nexcept Exception as error: print(error, flush=True)\nimport time; time.sleep(600)"
    denied = fleet.with_faults(denied_to_role=["s3:PutObject"])
    name = denied.group("denied", python(code))
    (machine,) = denied.wait(name, "running")
    until(lambda: "AccessDenied" in denied.console(machine))
    denied.end(name)


@pytest.mark.parametrize("rebalances", [False, True])
def test_a_recommendation_starts_a_second_machine_only_where_the_group_rebalances(
    fleet: Fleet, rebalances: bool
) -> None:
    advised = fleet.with_faults(rebalance_at="0.1s")
    code = "import time\nwhile True:\n  try: put('advised/' + me, meta('events/recommendations/rebalance')); break\n"
    code += "  except OSError: time.sleep(0.1)\ntime.sleep(600)"
    name = advised.group(f"advised-{rebalances}", python(code), CapacityRebalance=rebalances)
    until(lambda: bool(advised.machines(name)))
    first = advised.machines(name)[0]["InstanceId"]
    replaced = {"terminated"} if rebalances else set()  # perhaps before it has read the advice
    until(lambda: advised.stored(f"advised/{first}") is not None or bool(replaced & set(advised.states(name))))
    if rebalances:
        advised.wait(name, "terminated", "running")
    else:
        assert advised.states(name) == ["running"]
    advised.end(name)
    until(lambda: set(advised.states(name)) == {"terminated"})
    records = [each for each in Instance.load_all(_place(fleet)) if each.group == name]
    assert [each.id for each in records][:1] == [first]
    together = [each.began for each in records[1:] if each.began and each.began < (records[0].left or 0)]
    assert bool(together) is rebalances  # two machines of one group were up
