"""Translate errors of memory, disk and compiler into messages that say what to change."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dogbreed.errors import ConfigError
from dogbreed.run_folder import RunFolder, storage_error
from dogbreed.workload import LARGEST_BATCH


@contextmanager
def memory_errors(config: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if "DataLoader worker" in str(error):  # killed, or exited unexpectedly
            raise ConfigError(
                f"A process that decodes photos ended: {str(error).splitlines()[0]}\n"
                "Try: data.workers=0, a smaller data.batch_size in a new run, or in a container more shared memory "
                "(docker run --shm-size=2g)"
            ) from error
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        size = config["data"]["batch_size"] or LARGEST_BATCH
        raise ConfigError(
            f"Out of memory with data.batch_size={size}: {str(error).splitlines()[0]}\n"
            f"Try: a new run with data.batch_size={max(1, size // 2)}, "
            "and trainer.accumulate_grad_batches=2 for the same steps"
        ) from error


@contextmanager
def disk_errors(here: RunFolder) -> Iterator[None]:
    """Translate errors of a full disk, which may occur wherever something is written, also in loggers and libraries."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            raise
        raise storage_error(Path(error.filename or here.path), error) from error


@contextmanager
def compile_errors() -> Iterator[None]:
    """Translate errors of torch.compile, which needs a C++ compiler (on a GPU also Triton) from the first step on."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ConfigError(
            f"torch.compile cannot compile this network here: {type(error).__name__}: {first}\n"
            "Try: model.compile=false, or install a C++ compiler (g++, or CXX=<its path> in the environment)"
        ) from error
