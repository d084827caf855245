"""Read this process's rank from the environment. Loads no torch.

torchrun, or launchers/remote/entry.py, starts `train.py` once per process and sets the environment variables in
https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables. Without them there is one process.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from dogbreed.errors import DogBreedError

log = logging.getLogger("dogbreed")


class PeerLost(DogBreedError):  # noqa: N818 (what happened, not a mistake)
    """Another process of the same run has ended, hangs or cannot be reached.

    consequence: the other process's log may explain the cause.
    """

    def __init__(self, message: str, *, consequence: bool) -> None:
        super().__init__(message)
        self.consequence = consequence


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, from 0. local_rank: its rank among the `local_world_size` processes of its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes the run folder."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.world_size > 1

    @property
    def nodes(self) -> int:
        return max(1, self.world_size // self.local_world_size)

    def share(self, count: int) -> slice:
        """Return this process's slice of `count` items. The slices cover all items; their sizes differ by at most 1."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size}"


def here() -> Ranks:
    """Read the ranks of this process from the environment."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, world, local_rank, local_world = (int(os.environ.get(name, name.endswith("SIZE"))) for name in names)
    return Ranks(rank, world, local_rank, local_world) if world > 1 else Ranks()


def last_words(lost: PeerLost) -> None:
    """Log why this process ends itself: it waits where no exception reaches it. A launcher replaces this function with
    one that also records the end.
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
        f"{str(ranks).capitalize()}: not all processes joined at {host}:{port} within {timeout_s:g} s ({why}).\n"
        "Try: check the logs of the others, and that the security group lets a job's machines reach each other on all "
        "ports",
        consequence=False,
    )


def hangs(ranks: Ranks, who: Sequence[int], timeout_s: float) -> PeerLost:
    names = listed(who) or "other than this one"
    return PeerLost(
        f"{str(ranks).capitalize()}: process {names} hangs: no progress for {timeout_s:g} s.\n"
        "Try: check the log of that process; a larger ranks.timeout_s if a step may take that long",
        consequence=False,
    )
