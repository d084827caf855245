import os
from pathlib import Path

import pytest

from dogbreed import hardware


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1)]
)
def test_a_containers_share_of_cpus_is_what_may_be_used(cgroup: Path, quota: str, cpus: int) -> None:
    (cgroup / "cpu.max").write_text(quota + "\n")
    assert hardware.available_cpus() == cpus


def test_the_older_cgroups_are_understood_too(cgroup: Path) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert hardware.available_cpus() == 3


def test_without_a_container_the_affinity_counts(cgroup: Path) -> None:
    assert hardware.available_cpus() == 8


def test_a_containers_memory_limit_is_what_may_be_used(cgroup: Path) -> None:
    free = hardware.available_memory_bytes()
    (cgroup / "memory.max").write_text("1000000\n")
    (cgroup / "memory.current").write_text("400000\n")
    assert hardware.available_memory_bytes() == 600_000 < free
    (cgroup / "memory.stat").write_text("anon 100000\ninactive_file 300000\n")  # photos that were read
    assert hardware.available_memory_bytes() == 900_000
