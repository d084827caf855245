"""Which of the processes that train one run this one is, as the environment says. Loads no torch.

torchrun, or launchers/remote/entry.py, starts `train.py` once for each process, and the environment tells them apart
(https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables). Without that there is one process.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from dogbreed.errors import DogBreedError

log = logging.getLogger("dogbreed")


class PeerLost(DogBreedError):  # noqa: N818 (what happened, not a mistake)
    """Another process of the same run has ended, hangs or cannot be reached.

    consequence: whether that one may say more about why.
    """

    def __init__(self, message: str, *, consequence: bool) -> None:
        super().__init__(message)
        self.consequence = consequence


@dataclass(frozen=True)
class Ranks:
    """This process among all. rank: from 0; local_rank: on its machine, which `local_world_size` of them share."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.world_size > 1

    @property
    def nodes(self) -> int:
        return max(1, self.world_size // self.local_world_size)

    def share(self, count: int) -> slice:
        """Its part of `count` things in order. The parts differ by one at most, and together are the whole."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size}"


def here() -> Ranks:
    """As the environment says."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, world, local_rank, local_world = (int(os.environ.get(name, name.endswith("SIZE"))) for name in names)
    return Ranks(rank, world, local_rank, local_world) if world > 1 else Ranks()


def last_words(lost: PeerLost) -> None:
    """What a process says that is ended by its own watch, as no exception reaches where it waits; a launcher says more
    by putting its own function here.
    """
    log.error("%s", lost)


def meeting_s(timeout_s: float) -> float:
    """How long the processes wait for each other as they begin. Whoever starts them may know that they need longer."""
    return max(timeout_s, float(os.environ.get("DOGBREED_MEETING_S", "0")))


def address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


def not_met(ranks: Ranks, timeout_s: float, why: str) -> PeerLost:
    host, port = address()
    return PeerLost(
        f"{str(ranks).capitalize()}: not all have met at {host}:{port} within {timeout_s:g} s ({why}).\n"
        "Try: the logs of the others; a security group that lets the machines of a job reach each other on all ports",
        consequence=False,
    )


def hangs(ranks: Ranks, who: Sequence[int], timeout_s: float) -> PeerLost:
    names = listed(who) or "another than this"
    return PeerLost(
        f"{str(ranks).capitalize()}: process {names} hangs: nothing has come of it for {timeout_s:g} s.\n"
        "Try: the log of that process; a larger ranks.timeout_s where a step may take that long",
        consequence=False,
    )
