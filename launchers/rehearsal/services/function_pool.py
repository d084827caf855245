"""The execution environments of Lambda functions: warm ones are used again, concurrency is enforced.

Source: "Understanding Lambda function scaling" and "Lambda execution environment lifecycle" in the Lambda developer
guide.
"""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping

from launchers.rehearsal.clock import Clock
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.function_environment import ON_DEMAND, PROVISIONED, Around, Died, Environment, Outcome
from launchers.rehearsal.services.function_metrics import FunctionMeter, Invocation
from launchers.rehearsal.services.function_record import FunctionRecord, Version, conflict, missing
from launchers.rehearsal.services.function_runtime import LARGEST, Event

INIT_S = 10.0  # real, in which a function must start on demand; else it starts again, in the time of the invocation
PROVISIONED_INIT_S = 900.0
IDLE_S = 600.0  # after which an environment ends, on the cloud's clock; Lambda does not say how long it waits
ACCOUNT_LIMIT = 1000  # concurrent executions of an account
UNRESERVED = 100  # of them that nobody can reserve


class Concurrency:
    """Counts executions. limit: of the account; new accounts have 10."""

    def __init__(self) -> None:
        self.limit = ACCOUNT_LIMIT
        self.busy: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, record: FunctionRecord, reserved: Mapping[str, int]) -> str:
        """Count one more execution; return the reason, and do not count it, if there may not be one.

        reserved: of all functions that have reserved some, by name.
        """
        with self._lock:
            if record.reserved is not None:
                if self.busy[record.name] >= record.reserved:
                    return "ReservedFunctionConcurrentInvocationLimitExceeded"
            else:
                shared = sum(count for name, count in self.busy.items() if name not in reserved)
                if shared >= self.limit - sum(reserved.values()):
                    return "ConcurrentInvocationLimitExceeded"
            self.busy[record.name] += 1
            return ""

    def leave(self, record: FunctionRecord) -> None:
        with self._lock:
            self.busy[record.name] -= 1


class Pool:
    """The environments of one function."""

    def __init__(self, around: Around, record: FunctionRecord, clock: Clock) -> None:
        self.around, self.record, self.clock = around, record, clock
        self._environments: list[Environment] = []
        self._starting: Counter[str] = Counter()  # provisioned ones, by version
        self._lock = threading.RLock()
        self._stopped = False  # its function is deleted

    def run(self, version: Version, payload: bytes, arn: str) -> Outcome:
        """Execute a version, in a warm environment if there is one."""
        environment, died = self._warm(version), None
        until = time.monotonic() + version.timeout_s
        if environment is None:
            environment = self._new(version, ON_DEMAND)
            try:
                environment.initialize(time.monotonic() + INIT_S)
                until = time.monotonic() + version.timeout_s
            except Died as first:
                died = first
                if first.status == "timeout":
                    died = _initialized(environment, until := time.monotonic() + version.timeout_s)
        deadline_ms = int(1e3 * (time.time() + until - time.monotonic()))
        try:
            return environment.invoke(Event(str(uuid.uuid4()), payload, arn, deadline_ms), until, died)
        finally:
            self._give_back(environment)

    def ready(self, number: str) -> int:
        """Return how many provisioned environments of a version there are for requests to find."""
        with self._lock:
            found = [each for each in self._of(number) if each.kind == PROVISIONED and each.initialized]
            return sum(each.idle_since > 0 for each in found)  # given back once, after its start

    def tend(self, provisioned: Mapping[str, int]) -> None:
        """End environments that are not needed any more, and start provisioned ones. provisioned: by version."""
        with self._lock:
            if self._stopped:
                return
            for each in list(self._environments):
                old = self.record.versions.get(each.version.number) is not each.version  # changed, or deleted
                idle = each.kind == ON_DEMAND and self.clock.now() - each.idle_since > IDLE_S
                surplus = each.kind == PROVISIONED and each.version.number not in provisioned
                if not each.busy and (old or idle or surplus):
                    self._environments.remove(each)
                    threading.Thread(target=each.stop, daemon=True).start()
            for number, count in provisioned.items():
                there = [each for each in self._of(number) if each.kind == PROVISIONED]
                for each in there[count:]:
                    if not each.busy:
                        self._environments.remove(each)
                        threading.Thread(target=each.stop, daemon=True).start()
                version = self.record.versions.get(number)
                if version is not None and self._starting[number] + len(there) < count:
                    self._starting[number] += 1
                    threading.Thread(target=self._provision, args=(version,), daemon=True).start()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            found, self._environments = self._environments, []
        for each in found:
            each.stop()

    def _provision(self, version: Version) -> None:
        environment = self._new(version, PROVISIONED)
        try:
            _initialized(environment, time.monotonic() + PROVISIONED_INIT_S)
        finally:
            with self._lock:
                self._starting[version.number] -= 1
            self._give_back(environment)

    def _of(self, number: str) -> list[Environment]:
        return [each for each in self._environments if each.version.number == number]

    def _warm(self, version: Version) -> Environment | None:
        """Take an idle environment of a version, a provisioned one first."""
        with self._lock:
            found = [
                each
                for each in self._of(version.number)
                if not each.busy and each.initialized and each.version is version
            ]
            found.sort(key=lambda each: (each.kind != PROVISIONED, -each.idle_since))
            if not found:
                return None
            found[0].busy = True
            return found[0]

    def _new(self, version: Version, kind: str) -> Environment:
        environment = Environment(self.around, self.record, version, kind)
        environment.busy = True
        with self._lock:
            self._environments.append(environment)
        return environment

    def _give_back(self, environment: Environment) -> None:
        with self._lock:
            environment.idle_since, environment.busy = self.clock.now(), False
            kept = environment in self._environments
            if kept and (self._stopped or not environment.initialized):
                self._environments.remove(environment)
                kept = False
        if not kept:
            environment.stop()


def _initialized(environment: Environment, until: float) -> Died | None:
    try:
        environment.initialize(until)
    except Died as died:
        return died
    return None


class Invoker:
    """Executes functions. records: all functions, by name."""

    def __init__(self, records: Mapping[str, FunctionRecord], clock: Clock, meter: FunctionMeter) -> None:
        self.records, self.clock, self.meter = records, clock, meter
        self.concurrency = Concurrency()
        self.around: Around | None = None
        self.pools: dict[str, Pool] = {}
        self._ended = False
        self._lock = threading.Lock()

    def reserved(self) -> dict[str, int]:
        return {name: each.reserved for name, each in list(self.records.items()) if each.reserved is not None}

    def execute(self, record: FunctionRecord, qualifier: str, payload: bytes) -> Outcome:
        """Raises Refused for what Lambda does not execute."""
        if len(payload) > LARGEST:
            text = f"Request must be smaller than {LARGEST} bytes for the InvokeFunction operation"
            raise Refused("RequestTooLargeException", text, 413, Type="User")
        version = _routed(record, qualifier)
        if self.clock.now() < version.ready:
            state = "The function is currently in the following state: Pending"
            raise conflict(f"The operation cannot be performed at this time. {state}")
        counted = Invocation(record.name, qualifier, version.number)
        if reason := self.concurrency.enter(record, self.reserved()):
            self.meter.count(counted, throttled=True)
            raise Refused("TooManyRequestsException", "Rate Exceeded.", 429, Reason=reason, Type="User")
        busy = self.concurrency.busy
        self.meter.concurrent(record.name, busy[record.name], sum(busy.values()))
        try:
            outcome = self.pool(record).run(version, payload, record.arn(qualifier))
        finally:
            self.concurrency.leave(record)
        self.meter.count(counted, failed=bool(outcome.error), duration_ms=1e3 * outcome.duration_s)
        return outcome

    def pool(self, record: FunctionRecord) -> Pool:
        """Raises Refused for a function that is deleted meanwhile."""
        assert self.around is not None
        with self._lock:
            if self._ended or self.records.get(record.name) is not record:
                raise missing(record.arn())
            found = self.pools.get(record.name)
            if found is None or found.record is not record:
                found = self.pools[record.name] = Pool(self.around, record, self.clock)
            return found

    def forget(self, name: str) -> None:
        """End all environments of a function that is deleted."""
        with self._lock:
            found = self.pools.pop(name, None)
        if found is not None:
            found.stop()

    def end(self) -> None:
        """End all environments, for good."""
        with self._lock:
            self._ended, found, self.pools = True, list(self.pools.values()), {}
        for each in found:
            each.stop()


def _routed(record: FunctionRecord, qualifier: str) -> Version:
    """Return the version that a request goes to; an alias may share its requests between two."""
    alias = record.aliases.get(qualifier)
    if alias is not None:
        number, drawn = alias.version, random.random()
        for other, share in alias.weights.items():
            if drawn < share:
                number = other
                break
            drawn -= share
        return record.version(number)
    return record.version(qualifier)
