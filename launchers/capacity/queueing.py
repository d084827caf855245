"""Closed forms of queueing theory: what the simulation must agree with where it has no more to it than they have.

Sources: Erlang (1917), as in Kleinrock, "Queueing Systems", volume 1, sections 3.4 and 3.5; mean value analysis:
Reiser and Lavenberg, "Mean-Value Analysis of Closed Multichain Queuing Networks", J. ACM 27 (1980).
"""

from collections.abc import Sequence


def erlang_b(load: float, slots: int) -> float:
    """Return the share of requests that find all slots in use and are refused, for arrivals at random.

    load: arrivals per second times the mean seconds that each takes. How that time varies does not matter.
    """
    refused = 1.0
    for count in range(1, slots + 1):
        refused = load * refused / (count + load * refused)
    return refused


def erlang_c(load: float, servers: int) -> float:
    """Return the share of requests that must wait, for arrivals at random and exponential service times.

    Raises ValueError if the load is not below the number of servers: the queue would grow for ever.
    """
    if load >= servers:
        raise ValueError(f"{servers} servers cannot keep up with a load of {load}")
    lost = erlang_b(load, servers)
    return lost / (1 - load / servers * (1 - lost))


def mean_wait(rate: float, service_s: float, servers: int) -> float:
    """Return the mean seconds that a request waits, in the same queue as `erlang_c`."""
    return erlang_c(rate * service_s, servers) * service_s / (servers - rate * service_s)


def closed_throughput(in_flight: int, think_s: float, service_s: Sequence[float]) -> float:
    """Return the requests per second of a closed loop by mean value analysis.

    in_flight: clients, each of which waits for its answer and then for `think_s`. service_s: mean time at each single
    server that a request visits once, one after the other.
    """
    waiting = [0.0] * len(service_s)
    rate = 0.0
    for clients in range(1, in_flight + 1):
        stay = [time * (1 + before) for time, before in zip(service_s, waiting, strict=True)]
        rate = clients / (think_s + sum(stay))
        waiting = [rate * time for time in stay]
    return rate


def slots_for(load: float, refused: float) -> int:
    """Return the least number of slots that refuse at most this share of requests that arrive at random."""
    slots, lost = 0, 1.0
    while lost > refused:
        slots += 1
        lost = load * lost / (slots + load * lost)
    return slots
