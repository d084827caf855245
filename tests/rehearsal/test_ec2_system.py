"""Parts of a rehearsed EC2 machine: the text of its user data, systemd's units, its metadata service."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.rehearsal.services.ec2_answers import fixed_id
from launchers.rehearsal.services.ec2_catalog import IMAGES, offerings, quota_of, spot_usd, types, usd
from launchers.rehearsal.services.ec2_imds import Metadata
from launchers.rehearsal.services.ec2_instance import Instance
from launchers.rehearsal.services.ec2_system import System
from launchers.rehearsal.services.ec2_unit import UnitError, read_unit, seconds


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path / "with a space" / "disk", {}, time.time, torch=True)
    yield made
    made.kill()


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("cat /opt/dogbreed/start.sh", "cat {root}/opt/dogbreed/start.sh"),
        ('cat > "/etc/systemd/system/a.service"', 'cat > "{root}/etc/systemd/system/a.service"'),
        ("X=/tmp", "X={root}/tmp"),
        ("/usr/sbin/shutdown -h now", "{bin}/shutdown -h now"),
        ("aws s3 cp s3://bucket/opt/x .", "aws s3 cp s3://bucket/opt/x ."),
        ("cat /etc/os-release /optional $HOME/opt", "cat /etc/os-release /optional $HOME/opt"),
        ("#!/bin/bash", "#!/bin/bash"),
    ],
)
def test_absolute_paths_of_a_script_are_the_machine_s_own(system: System, text: str, here: str) -> None:
    assert system.local(text) == here.format(root=system.root, bin=system.root.parent / "b")
    assert system.shown(system.local("cat /opt/x")) == "cat /opt/x"
    assert " " not in str(system.root)  # shells split words there


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("20", "2"),
        ("0.5", "0.05"),
        ("1m 30s", "9"),
        ("2h", "720"),
        ("1d", "8640"),
        ("infinity", "infinity"),
        ("", ""),
        ("five", "five"),
    ],
)
def test_a_script_sleeps_by_the_clock(words: str, asked: str, tmp_path: Path) -> None:
    rates = iter([1.0, 10.0])
    made = System(tmp_path / "disk", {}, time.time, torch=True, rate=lambda: next(rates))
    try:
        made.tick()  # the clock has become faster meanwhile
        program = Path(made.environment["PATH"].split(":")[0]) / "sleep"
        assert program.read_text().count("/bin/sleep") == 2
        program.write_text(program.read_text().replace("exec /bin/sleep", "exec echo"))
        output = subprocess.run([program, *words.split()], capture_output=True, text=True, check=True).stdout
    finally:
        made.kill()
    assert output == f"{asked}\n"


def test_units_are_read_with_all_values_and_unknown_settings_are_refused() -> None:
    text = "[Unit]\nDescription=x\n# a comment\n[Service]\nExecStart=/bin/a \\\n  b\nEnvironment=A=1\nEnvironment=B=2\n"
    found = read_unit(text)
    assert (found["ExecStart"], found["Environment"]) == (["/bin/a    b"], ["A=1", "B=2"])
    with pytest.raises(UnitError, match="does not know the setting WatchdogSec"):
        read_unit("[Service]\nWatchdogSec=5\n")
    with pytest.raises(UnitError, match=r"no units with a section \[Timer\]"):
        read_unit("[Timer]\nOnBootSec=5\n")


@pytest.mark.parametrize(("text", "found"), [("90", 90), ("1min 30s", 90), ("100ms", 0.1), ("2h", 7200), ("5 m", 300)])
def test_spans_of_time_are_systemd_s(text: str, found: float) -> None:
    assert seconds(text) == pytest.approx(found)


def machine(tmp_path: Path, **data: object) -> Instance:
    kept = {"ImageId": IMAGES[0].id, **data}
    return Instance(tmp_path, fixed_id("i", "x"), "m5.large", "us-east-1a", "subnet-1", "172.31.0.4", True, kept, 0.0)


def asked(metadata: Metadata, path: str, ttl: str = "60") -> tuple[int, str]:
    status, token = metadata.answer("PUT", "/latest/api/token", {"x-aws-ec2-metadata-token-ttl-seconds": ttl})
    assert status == 200
    return metadata.answer("GET", path, {"x-aws-ec2-metadata-token": token})


def test_metadata_appears_when_there_is_something_to_say(tmp_path: Path) -> None:
    metadata = Metadata(machine(tmp_path), skew_s=600)
    try:
        assert asked(metadata, "/latest/meta-data/instance-type") == (200, "m5.large")
        for path in (
            "spot/instance-action",
            "events/recommendations/rebalance",
            "iam/security-credentials/",
            "nothing",
        ):
            assert asked(metadata, f"/latest/meta-data/{path}")[0] == 404
        metadata.action_at = 1_800_000_600.0
        wanted = '{"action": "terminate", "time": "2027-01-15T08:00:00Z"}'  # ten minutes before the machine's own
        assert asked(metadata, "/latest/meta-data/spot/instance-action") == (200, wanted)
        assert "instance-action" in asked(metadata, "/latest/meta-data/spot/")[1]
    finally:
        metadata.close()


def test_without_an_endpoint_metadata_tells_nothing(tmp_path: Path) -> None:
    metadata = Metadata(machine(tmp_path, MetadataOptions={"HttpEndpoint": "disabled"}))
    try:
        assert metadata.answer("GET", "/latest/meta-data/instance-id", {}) == (403, "")
    finally:
        metadata.close()


@given(st.sampled_from(sorted(types())), st.floats(1.7e9, 1.9e9))
def test_spot_is_never_dearer_than_on_demand(kind: str, at: float) -> None:
    for name, zone in offerings():
        if name == kind:
            assert 0 < spot_usd(kind, zone, at) <= usd(kind)


@pytest.mark.parametrize(
    ("kind", "spot", "code"),
    [("m5.large", True, "L-34B43A08"), ("g4dn.xlarge", False, "L-DB2E81BA"), ("p3.2xlarge", True, "L-7212CCBC")],
)
def test_types_count_for_the_quota_of_their_family(kind: str, spot: bool, code: str) -> None:
    quota = quota_of(kind, spot=spot)
    assert quota is not None
    assert quota.code == code
