"""The environments of a function in the rehearsal cloud, without processes: what becomes of them when it is deleted."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from launchers.rehearsal.service import Refused
from launchers.rehearsal.services import function_pool
from launchers.rehearsal.services.function_environment import ON_DEMAND
from launchers.rehearsal.services.function_pool import Invoker, Pool
from tests.support.launcher_contract import until

CLOCK: Any = SimpleNamespace(now=lambda: 1.0)


class Started:
    """An environment whose start waits until it is let go."""

    made: list["Started"]
    going: threading.Event
    begun: threading.Event

    def __init__(self, around: Any, record: Any, version: Any, kind: str) -> None:
        self.version, self.kind, self.busy, self.idle_since, self.initialized = version, kind, False, 0.0, False
        self.stopped = 0
        self.made.append(self)

    def initialize(self, until: float) -> None:
        self.begun.set()
        assert self.going.wait(120)
        self.initialized = True

    def invoke(self, *about: Any) -> str:
        return "answered"

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> type[Started]:
    kind = type("Environment", (Started,), {"made": [], "going": threading.Event(), "begun": threading.Event()})
    monkeypatch.setattr(function_pool, "Environment", kind)
    return kind


def deleted() -> tuple[Any, Any]:
    version = SimpleNamespace(number="1", timeout_s=9.0)
    return SimpleNamespace(name="dogs", versions={"1": version}, arn=lambda *_: "arn:dogs"), version


def test_what_starts_while_its_function_is_deleted_ends(started: type[Started]) -> None:
    record, version = deleted()
    pool = Pool(CLOCK, record, CLOCK)
    request = threading.Thread(target=pool.run, args=(version, b"", "arn"))
    request.start()
    assert started.begun.wait(120)
    pool.stop()
    started.going.set()
    request.join(120)
    assert pool.run(version, b"", "arn") == "answered"  # one that had the pool before it was stopped
    pool.tend({"1": 2})
    assert [each.kind for each in started.made] == [ON_DEMAND] * 2
    assert all(each.stopped for each in started.made)
    assert not pool._environments


def test_a_provisioned_environment_is_ready_once_a_request_finds_it(started: type[Started]) -> None:
    record, version = deleted()
    pool = Pool(CLOCK, record, CLOCK)
    pool.tend({"1": 1})
    assert started.begun.wait(120)
    started.made[0].initialized = True  # which it is a moment before its start returns
    assert pool.ready("1") == 0
    started.going.set()
    until(lambda: pool.ready("1") == 1)
    pool.run(version, b"", "arn")
    assert len(started.made) == 1


def test_a_function_that_is_deleted_gets_no_environments_again(started: type[Started]) -> None:
    record, _ = deleted()
    records = {"dogs": record}
    invoker = Invoker(records, CLOCK, CLOCK)
    invoker.around = CLOCK
    assert invoker.pool(record) is invoker.pool(record)
    del records["dogs"]
    invoker.forget("dogs")
    with pytest.raises(Refused, match="not found"):
        invoker.pool(record)
    assert not invoker.pools
    records["dogs"] = record
    invoker.end()
    with pytest.raises(Refused):
        invoker.pool(record)
