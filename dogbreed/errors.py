"""Errors that a person can act on: each says what is wrong, what was seen and what to try."""

from collections.abc import Sequence


class DogBreedError(Exception):
    """An error that the person who typed the command can act on. `train.py` prints it without a traceback."""


class DataError(DogBreedError):
    """The photos, or the folders they are in, cannot be used as they are."""


class ConfigError(DogBreedError):
    """The settings contradict each other, the data or the machine."""


class WeightsError(DogBreedError):
    """Pretrained weights cannot be loaded or do not fit the network."""


class CheckpointError(DogBreedError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class ArtifactError(DogBreedError):
    """A model.tar.gz is missing, damaged, not trustworthy, or cannot be made."""


class StorageError(DogBreedError):
    """A file cannot be written: disk full, read-only, no permission."""


class CacheError(DogBreedError):
    """A cached result is missing, damaged, or belongs to something else."""


class Interrupted(DogBreedError):  # noqa: N818 (what happened, not a mistake)
    """A signal asked the run to stop, and it did, with everything saved.

    signum: the signal's number; the process should exit with status 128 + signum.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def raise_findings(error: type[DogBreedError], findings: Sequence[str]) -> None:
    """Raise one `error` that lists all `findings`, so that they can be fixed at once. Do nothing if there are none."""
    if len(findings) == 1:
        raise error(findings[0])
    if findings:
        numbered = (f"{n}. {text}".replace("\n", "\n   ") for n, text in enumerate(findings, 1))
        raise error(f"{len(findings)} problems found:\n" + "\n".join(numbered))
