"""How far a checkpoint's training had come: written beside it, so that two copies of a run can be compared.

Dates do not tell that: copying a folder renews them, and clocks differ. Needs no torch.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Self

from dogbreed.run_folder import write_json

_SOURCES = ("DogBreedData", "CachedFeatures")  # in a checkpoint, the keys of what its photos were read with


@dataclass(frozen=True)
class SavedProgress:
    """The progress of one checkpoint. None where it is not known.

    epoch: from 0. step: optimizer steps. run_id, photos (a digest), batch (photos in a step of all processes) and
    epoch_steps tell which history it belongs to.
    """

    epoch: int
    step: int
    run_id: str | None = None
    photos: str | None = None
    batch: int | None = None
    epoch_steps: int | None = None

    @classmethod
    def beside(cls, checkpoint: Path) -> Self | None:
        """Read the file beside a checkpoint; None if there is none, or it is damaged."""
        try:
            return cls(**json.loads(file_beside(checkpoint).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def of(cls, checkpoint: Path) -> Self | None:
        """Read the progress of a checkpoint; None if it is damaged. The file beside it adds what it does not hold."""
        there, beside = cls._in(checkpoint), cls.beside(checkpoint)
        return beside if there is not None and beside is not None and beside.at == there.at else there

    @classmethod
    def _in(cls, checkpoint: Path) -> Self | None:
        try:
            contents = _without_tensors(checkpoint)
            source: Mapping[str, Any] = next((contents[name] for name in _SOURCES if name in contents), {})
            epoch, step = int(contents["epoch"]), int(contents["global_step"])
            return cls(epoch, step, photos=source.get("digest"), batch=source.get("global_batch"))
        except Exception:  # damaged bytes can make their reader raise anything
            return None

    def write(self, checkpoint: Path) -> None:
        write_json(file_beside(checkpoint), asdict(self))

    @property
    def at(self) -> tuple[int, int]:
        return self.epoch, self.step

    def differs_from(self, other: "SavedProgress") -> bool:
        """Return whether the two belong to different histories, so that it cannot be said which is further."""
        names = [field.name for field in fields(self) if field.name not in ("epoch", "step")]
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return any(one is not None and another is not None and one != another for one, another in pairs)

    def __str__(self) -> str:
        known = {
            "run": self.run_id,
            "photos": self.photos and self.photos[:8],
            "photos in a step": self.batch,
            "steps in an epoch": self.epoch_steps,
        }
        about = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
        return f"epoch {self.epoch + 1}, step {self.step}" + (f" ({about})" if about else "")


def file_beside(checkpoint: Path) -> Path:
    """Return the file for a checkpoint's progress: last.json for last.ckpt."""
    return checkpoint.with_suffix(".json")


class _Ignored(dict[Any, Any]):
    """Stands for every object in a checkpoint that is not a plain value."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


class _PlainValues(pickle.Unpickler):
    """Reads the plain values of a checkpoint and runs no code: each class is replaced by `_Ignored`."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        return _Ignored

    def persistent_load(self, pid: Any) -> Any:
        return None


def _without_tensors(checkpoint: Path) -> Mapping[str, Any]:
    """Read what torch.save wrote, without its tensors: a zip archive with one pickle."""
    with zipfile.ZipFile(checkpoint) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as file:
            contents: Mapping[str, Any] = _PlainValues(file).load()
    return contents
