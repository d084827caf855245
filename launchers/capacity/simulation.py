"""Simulate requests one by one: Lambda's slots, an endpoint's instances, and the policy that changes their number.

An event loop of our own: libraries for this take about ten times as long for each request.

What is simplified: environments of a function are reused last in, first out; a request that had begun when its deadline
passed is worked on to its end, as servers do; instances are billed from the decision to start them until they have
drained.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from launchers.aws.scaling import Scaler
from launchers.capacity.outcome import CAUSES, MOST, NONE, SLOTS, START, VCPUS, Outcome
from launchers.capacity.setting import Endpoint, Setting

TICK_S = 10  # the shortest period of a metric
_DONE, _ENDS, _AGAIN, _BEGINS, _TICK, _READY, _EXPIRES = range(7)  # kinds of events; at the same moment in this order
_NOBODY = -1  # in place of a request that is worked on although nobody gets its answer any more


@dataclass(frozen=True)
class Traffic:
    """Requests to simulate. at: seconds from the beginning, ascending. service_s: of one each, as long as `at`.

    end_s: how long it lasts. clients, think_s: for a closed loop in place of `at`: each client waits for its answer,
    then think_s, and asks again until the end.
    """

    at: Sequence[float]
    service_s: Sequence[float]
    end_s: float
    clients: int = 0
    think_s: float = 0.0


def simulate(setting: Setting, traffic: Traffic, seed: int = 0) -> Outcome:
    """Simulate traffic on a setting. The same seed gives the same outcome. Takes about 4 us for each request."""
    run = _Run(setting, traffic, seed)
    run.loop()
    return run.outcome


class _Instances:
    """The instances of an endpoint: the requests at each, and how many there should be."""

    def __init__(self, about: Endpoint, outcome: Outcome, longest_s: float) -> None:
        self.about, self.outcome = about, outcome
        self.inside: list[int] = [0] * about.least  # requests at each, waiting or in progress
        self.queues: list[deque[tuple[int, float]]] = [deque() for _ in range(about.least)]
        self.serving = list(range(about.least))
        self.starting = 0
        self.scaler = Scaler(about.policy, about.least, about.most) if about.policy and about.scales else None
        self.billed_since = [0.0] * about.least
        self.drained: set[int] = set()
        self.waits_long = (about.waiting / about.vcpus + 2) * longest_s > about.deadline_s
        # integrals over time, since the last tick and in all: requests inside, and vCPUs in use
        self.total_inside = self.total_busy = 0
        self.seen_at = self.inside_s = self.busy_s = 0.0
        self.arrived = 0
        self.points: list[float | None] = []  # of TICK_S each
        self.minute: deque[float] = deque(maxlen=6)  # the latest values
        self.slow_points: list[float | None] = []
        self.readable: deque[tuple[float, bool, float | None]] = (
            deque()
        )  # when a point can be read, slow, and its value
        outcome.instances.append((0.0, about.least))

    def pass_time(self, now: float) -> None:
        elapsed = now - self.seen_at
        self.inside_s += self.total_inside * elapsed
        self.busy_s += self.total_busy * elapsed
        self.seen_at = now

    @property
    def cause(self) -> int:
        """What a request waits for that finds all vCPUs in use now."""
        if not self.about.scales:
            return VCPUS
        return MOST if len(self.serving) == self.about.most else START

    @property
    def full(self) -> bool:
        return self.total_busy >= self.about.vcpus * len(self.serving)

    def least_outstanding(self) -> int:
        serving = self.serving
        if len(serving) == 1:
            return serving[0]
        inside = self.inside
        best = serving[0]
        fewest = inside[best]
        for one in serving:
            if inside[one] < fewest:
                best, fewest = one, inside[one]
        return best

    def tick(self, now: float) -> int:
        """Close a period, let the policy decide, and return how many instances to start now."""
        self.pass_time(now)
        self._publish(now)
        self.outcome.busy_s += self.busy_s
        self.inside_s = self.busy_s = 0.0
        self.arrived = 0
        while self.readable and self.readable[0][0] <= now:
            _, slow, value = self.readable.popleft()
            (self.slow_points if slow else self.points).append(value)
        if self.scaler is None or round(now) % self.scaler.every_s:
            return 0
        policy = self.scaler.policy
        high = self.points if policy.high.period_s < 60 else self.slow_points
        low = self.points if policy.low and policy.low.period_s < 60 else self.slow_points
        desired = len(self.serving) + self.starting
        wanted, self.scaler = self.scaler.decide(now, high[-40:], low[-120:], len(self.serving), desired)
        if wanted > desired:
            self.starting += wanted - desired
            self.billed_since += [now] * (wanted - desired)
            return wanted - desired
        for _ in range(desired - wanted):
            self._remove(now)
        return 0

    def _publish(self, now: float) -> None:
        count = len(self.serving)
        if self.about.metric == "cpu":
            value = 100 * self.busy_s / TICK_S / count
        elif self.about.metric == "concurrency":
            value = self.inside_s / TICK_S / count
        else:
            value = self.arrived * 60 / TICK_S / count
        self.minute.append(value)
        self.readable.append((now + self.about.publish_s, False, value))
        if round(now) % 60 == 0:
            self.readable.append((now + self.about.publish_s, True, sum(self.minute) / len(self.minute)))

    def ready(self, now: float) -> int:
        """Take a started instance into service and return its number."""
        self.pass_time(now)
        self.starting -= 1
        number = len(self.inside)
        self.inside.append(0)
        self.queues.append(deque())
        self.serving.append(number)
        self.outcome.instances.append((now, len(self.serving)))
        if self.scaler is not None and not self.starting:
            self.scaler = self.scaler.completed(now)
        return number

    def _remove(self, now: float) -> None:
        number = min(self.serving[1:] or self.serving, key=lambda one: self.inside[one])
        self.serving.remove(number)
        self.outcome.instances.append((now, len(self.serving)))
        self.drained.add(number)
        self.stop_if_idle(number, now)

    def stop_if_idle(self, number: int, now: float) -> None:
        if not self.inside[number]:
            self.drained.discard(number)
            self.outcome.instance_s += now - self.billed_since[number]
            self.billed_since[number] = float("inf")

    def close(self, now: float) -> None:
        self.pass_time(now)
        self.outcome.busy_s += self.busy_s
        self.outcome.closed_s = now
        self.outcome.instance_s += sum(now - since for since in self.billed_since if since <= now)


class _Run:
    """One simulation. Requests are numbers: places in the lists of when each was first sent, and the like."""

    def __init__(self, setting: Setting, traffic: Traffic, seed: int) -> None:
        import random

        self.setting, self.traffic = setting, traffic
        self.random = random.Random(seed).random
        self.outcome = Outcome(traffic.end_s)
        self.events: list[tuple[float, int, int, int]] = []  # when, kind, request, instance
        self.sent: list[float] = list(traffic.at)
        self.service = list(traffic.service_s)
        self.tries: dict[int, int] = {}
        self.cause: dict[int, int] = {}
        self.since: dict[int, float] = {}  # when it took its slot
        self.expires: dict[int, float] = {}  # when one that waits, or is worked on too late, gets a 503
        self.function = setting.function
        self.in_use = 0
        self.idle: list[float] = []  # when each idle environment was used last, the latest last
        self.instances = None
        if setting.endpoint:
            self.instances = _Instances(setting.endpoint, self.outcome, max(self.service, default=0.0))

    def loop(self) -> None:
        traffic, events, outcome = self.traffic, self.events, self.outcome
        push, pop = heapq.heappush, heapq.heappop
        if self.instances:
            push(events, (float(TICK_S), _TICK, 0, 0))
        for client in range(traffic.clients):
            self.sent.append(0.0)
            push(events, (0.0, _AGAIN, client, 0))
        arrivals, place, count = traffic.at, 0, len(traffic.at)
        outcome.requests = count + traffic.clients
        following = arrivals[0] if count else float("inf")
        handlers = (self._done, self._ends, self._again, self._begins, self._tick, self._ready, self._expires)
        while place < count or events:
            if place < count and (not events or following <= events[0][0]):
                self._arrive(following, place)
                place += 1
                following = arrivals[place] if place < count else float("inf")
            else:
                now, kind, request, instance = pop(events)
                if kind == _TICK and place == count and now > traffic.end_s and not self._in_progress():
                    break
                handlers[kind](now, request, instance)
        if self.instances:
            self.instances.close(max(traffic.end_s, self.instances.seen_at))

    def _in_progress(self) -> bool:
        return any(event[1] not in (_TICK, _READY, _EXPIRES) for event in self.events)

    # --- a request's way: a slot, then an instance, then its answer ---

    def _arrive(self, now: float, request: int) -> None:
        function = self.function
        if function is None:
            self._to_endpoint(now, request)
            return
        if self.in_use >= function.slots:
            fleet = self.instances  # where its vCPUs are what keeps the slots in use, they are the limit
            self._refuse(now, request, fleet.cause if fleet is not None and fleet.full else SLOTS)
            return
        self.in_use += 1
        self.since[request] = now
        idle = self.idle
        if idle and now - idle[-1] <= function.idle_s:
            idle.pop()
            delay = 0.0
        elif self.in_use <= function.provisioned:
            delay = 0.0
        else:
            idle.clear()  # all others were used even earlier
            delay = function.cold_s
            if delay:
                self.outcome.cold += 1
                self.cause[request] = START
        if self.instances is None:
            heapq.heappush(self.events, (now + delay + self.service[request], _ENDS, request, 0))
        elif delay:
            heapq.heappush(self.events, (now + delay, _BEGINS, request, 0))
        else:
            self._to_endpoint(now, request)

    def _again(self, now: float, request: int, _: int) -> None:
        self._arrive(now, request)

    def _begins(self, now: float, request: int, _: int) -> None:
        self._to_endpoint(now, request)

    def _to_endpoint(self, now: float, request: int) -> None:
        fleet = self.instances
        assert fleet is not None
        fleet.arrived += 1
        number = fleet.least_outstanding()
        inside = fleet.inside[number]
        vcpus = fleet.about.vcpus
        if inside >= vcpus + fleet.about.waiting:
            if self.function is not None:
                self._release(now, request)
            self._refuse(now, request, fleet.cause)
            return
        fleet.pass_time(now)
        fleet.inside[number] = inside + 1
        fleet.total_inside += 1
        if inside < vcpus:
            fleet.total_busy += 1
            self._work(now, request, number, now + fleet.about.deadline_s)
        else:
            fleet.queues[number].append((request, now))
            self.cause.setdefault(request, fleet.cause)
            if fleet.waits_long:
                self._expire(now + fleet.about.deadline_s, request, number)

    def _work(self, now: float, request: int, number: int, until: float) -> None:
        """Begin with a request. until: its deadline, at which it gets a 503, though the work goes on."""
        done = now + self.service[request]
        if done <= until:
            self.expires.pop(request, None)
        else:
            if request not in self.expires:
                self._expire(until, request, number)
            request = _NOBODY
        heapq.heappush(self.events, (done, _DONE, request, number))

    def _expire(self, at: float, request: int, number: int) -> None:
        self.expires[request] = at
        heapq.heappush(self.events, (at, _EXPIRES, request, number))

    def _expires(self, now: float, request: int, number: int) -> None:
        """A request's deadline passes, unless it was answered before."""
        fleet = self.instances
        assert fleet is not None
        if self.expires.get(request) != now:
            return
        del self.expires[request]
        waiting = fleet.queues[number]
        if (place := next((place for place, one in enumerate(waiting) if one[0] == request), None)) is not None:
            del waiting[place]
            fleet.pass_time(now)
            fleet.inside[number] -= 1
            fleet.total_inside -= 1
        if self.function is not None:
            self._release(now, request)
        self._refuse(now, request, self.cause.get(request, NONE))

    def _done(self, now: float, request: int, number: int) -> None:
        """An instance has finished with a request."""
        fleet = self.instances
        assert fleet is not None
        fleet.pass_time(now)
        fleet.inside[number] -= 1
        fleet.total_inside -= 1
        queue = fleet.queues[number]
        if queue:
            following, came = queue.popleft()
            self._work(now, following, number, came + fleet.about.deadline_s)
        else:
            fleet.total_busy -= 1
            if number in fleet.drained:
                fleet.stop_if_idle(number, now)
        if request == _NOBODY:
            return
        if self.setting.overhead_s:
            heapq.heappush(self.events, (now + self.setting.overhead_s, _ENDS, request, number))
        else:
            self._ends(now, request, number)

    def _ends(self, now: float, request: int, _: int) -> None:
        """A request has its answer."""
        if self.function is not None:
            self._release(now, request)
        outcome = self.outcome
        outcome.latency_s.append(now - self.sent[request])
        outcome.cause.append(self.cause.pop(request, NONE))
        if self.traffic.clients:
            self._next_of_client(now)

    def _release(self, now: float, request: int) -> None:
        function, outcome = self.function, self.outcome
        assert function is not None
        billed = now - self.since.pop(request)
        outcome.calls += 1
        if self.in_use <= function.provisioned:
            outcome.provisioned_s += billed
        else:
            outcome.function_s += billed
        self.in_use -= 1
        self.idle.append(now)

    def _refuse(self, now: float, request: int, cause: int) -> None:
        """Answer 429 or 503; the client repeats it, or gives up."""
        retries, tries = self.setting.retries, self.tries.get(request, 0)
        if tries < retries.most:
            self.tries[request] = tries + 1
            self.cause[request] = cause
            self.outcome.repeats += 1
            wait = retries.wait_s * 2**tries * (0.5 + self.random())  # jitter, so that they do not come back together
            heapq.heappush(self.events, (now + wait, _AGAIN, request, 0))
            return
        self.tries.pop(request, None)
        self.cause.pop(request, None)
        name = CAUSES[cause]
        self.outcome.refused[name] = self.outcome.refused.get(name, 0) + 1
        if self.traffic.clients:
            self._next_of_client(now)

    def _next_of_client(self, now: float) -> None:
        at = now + self.traffic.think_s
        if at >= self.traffic.end_s:
            return
        number = len(self.sent)
        self.sent.append(at)
        self.service.append(self.service[number % len(self.traffic.service_s)])
        self.outcome.requests += 1
        heapq.heappush(self.events, (at, _AGAIN, number, 0))

    # --- the endpoint's size ---

    def _tick(self, now: float, _: int, __: int) -> None:
        assert self.instances is not None
        for _one in range(self.instances.tick(now)):
            heapq.heappush(self.events, (now + self.instances.about.start_s, _READY, 0, 0))
        heapq.heappush(self.events, (now + TICK_S, _TICK, 0, 0))

    def _ready(self, now: float, _: int, __: int) -> None:
        assert self.instances is not None
        self.instances.ready(now)
