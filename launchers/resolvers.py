"""The resolvers of conf/: `${new_run_id:}`, `${aws_region:}` and `${for_heads:A,B}`. Importing this registers them."""

import os
import random
import secrets
from datetime import UTC, datetime

from omegaconf import OmegaConf

import dogbreed.resolvers  # noqa: F401 (registers ${for_heads:A,B})
from dogbreed.distributed import ranks
from dogbreed.errors import ConfigError
from launchers.aws.account import configured_region

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


def new_run_id(of: str = "run") -> str:
    """Make a run id that sorts by time and is valid in names of folders, jobs and tags: 20261123-001122-x7k2, UTC.

    of: what it names; within one command, each kind of thing gets an id of its own.

    Processes that torchrun started for one run draw the same id, from torchrun's process number and start time.
    Raises ConfigError if one run trains on several machines, which cannot agree on an id.
    """
    here = ranks.here()
    if not here.several:
        letters = "".join(secrets.choice(_LETTERS) for _ in range(4))
        return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{letters}"
    if here.nodes > 1:
        raise ConfigError("A run on several machines needs a run id that is the same on all of them.\nTry: run_id=...")
    import psutil

    started = psutil.Process(os.getppid()).create_time()
    drawn = random.Random(f"{os.getppid()} {started}")
    return f"{datetime.fromtimestamp(started, UTC):%Y%m%d-%H%M%S}-{''.join(drawn.choices(_LETTERS, k=4))}"


# Cached, so that run_id and the folder named after it agree. Each job of a sweep is composed separately and gets its
# own; the sweep's name is resolved before, and its jobs share it.
OmegaConf.register_new_resolver("new_run_id", new_run_id, use_cache=True, replace=True)
OmegaConf.register_new_resolver("aws_region", configured_region, replace=True)
