import os
from pathlib import Path

import pytest

from dogbreed import hardware


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the cgroup folder as in a container: this process is in the outermost cgroup."""
    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path)
    monkeypatch.setattr(hardware, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path


def group(root: Path, path: str, **files: str) -> None:
    """Create a cgroup with these files; `cpu_max` stands for cpu.max."""
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(content + "\n")


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1)]
)
def test_a_containers_share_of_cpus_is_what_may_be_used(cgroup: Path, quota: str, cpus: int) -> None:
    (cgroup / "cpu.max").write_text(quota + "\n")
    assert hardware.available_cpus() == cpus


def test_cgroups_version_1_are_supported(cgroup: Path) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert hardware.available_cpus() == 3


@pytest.mark.parametrize(
    ("service", "slice_", "cpus"),
    [
        ("200000 100000", None, 2),  # systemd-run -p CPUQuota=200%
        ("300000 100000", "max 100000", 3),
        ("max 100000", "300000 100000", 3),  # a quota of the group around it holds what is inside, too
        ("600000 100000", "300000 100000", 3),
        ("300000 100000", "600000 100000", 3),
    ],
)
def test_the_quota_of_the_processs_own_cgroup_counts_and_of_those_around(
    cgroup: Path, service: str, slice_: str | None, cpus: int
) -> None:
    (cgroup / "own").write_text("0::/user.slice/dogs.service\n")
    group(cgroup, "user.slice/dogs.service", cpu_max=service)
    group(cgroup, "user.slice/other.service", cpu_max="100000 100000")
    if slice_ is not None:
        group(cgroup, "user.slice", cpu_max=slice_)
    assert hardware.available_cpus() == cpus


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_the_own_cgroup_is_found_in_version_1(folder: str, cgroup: Path) -> None:
    (cgroup / "own").write_text("9:memory:/elsewhere\n4:cpu,cpuacct:/lxc/a:b\n1:name=systemd:/\n0::/\n")
    group(cgroup, f"{folder}/lxc/a:b", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    group(cgroup, f"{folder}/lxc", cpu_cfs_quota_us="500000", cpu_cfs_period_us="100000")
    group(cgroup, folder, cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    assert hardware.available_cpus() == 5


@pytest.mark.parametrize("own", ["0::/docker/4f2a\n", "0::/../../host.slice\n", "", "4:cpu:/docker/4f2a\n0::/\n"])
def test_a_cgroup_that_a_container_does_not_see_is_its_outermost_one(own: str, cgroup: Path) -> None:
    (cgroup / "own").write_text(own)
    (cgroup / "cpu.max").write_text("200000 100000\n")
    assert hardware.available_cpus() == 2


def test_without_a_container_the_affinity_counts(cgroup: Path) -> None:
    assert hardware.available_cpus() == 8


def test_a_containers_memory_limit_is_what_may_be_used(cgroup: Path) -> None:
    free = hardware.available_memory_bytes()
    (cgroup / "memory.max").write_text("1000000\n")
    (cgroup / "memory.current").write_text("400000\n")
    assert hardware.available_memory_bytes() == 600_000 < free
    (cgroup / "memory.stat").write_text("anon 100000\ninactive_file 300000\n")  # photos that were read
    assert hardware.available_memory_bytes() == 900_000


def test_the_memory_limit_of_the_processs_own_cgroup_counts_and_of_those_around(cgroup: Path) -> None:
    (cgroup / "own").write_text("0::/user.slice/dogs.service\n")
    group(cgroup, "user.slice/dogs.service", memory_max="max", memory_current="300000")
    group(cgroup, "user.slice", memory_max="1000000", memory_current="900000")
    assert hardware.available_memory_bytes() == 100_000
    group(cgroup, "user.slice/dogs.service", memory_max="350000")
    assert hardware.available_memory_bytes() == 50_000
