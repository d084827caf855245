"""Find the checkpoint that training resumes from, and check that it belongs to the same run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dogbreed import checkpoints
from dogbreed.data import DogBreedData
from dogbreed.distributed import ranks
from dogbreed.errors import CheckpointError
from dogbreed.features.loaders import CachedFeatures
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder

log = logging.getLogger("dogbreed")

_SOURCES = (DogBreedData.__qualname__, CachedFeatures.__qualname__)  # the keys of their states; a checkpoint has one


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to resume from, with its contents; the frozen part of the network may be in a file beside it."""

    path: Path
    contents: Mapping[str, Any]

    @classmethod
    def newest(cls, here: RunFolder) -> Self | None:
        """Read the newest intact checkpoint of the run; return None for a new run."""
        path = checkpoints.newest(here)
        return None if path is None else cls(path, checkpoints.read(path))

    @property
    def released(self) -> str | None:
        """The digest of the frozen part if the checkpoint does not contain it; such a run trains on features."""
        return self.contents.get(checkpoints.FROZEN)

    def check_same(self, model: DogBreedClassifier, data: DogBreedData) -> None:
        """Raise CheckpointError if the checkpoint belongs to another model, class list or data set."""
        before, now = self.contents["hyper_parameters"], dict(model.hparams)
        if "scale_lr" not in before:  # from a version in which one process trained
            now.pop("scale_lr", None)
        findings = [
            f"model.{key} was {before.get(key)} and is now {now.get(key)}"
            for key in sorted((set(before) | set(now)) - {"weights", "classes", "compile"})
            if before.get(key) != now.get(key)
        ]
        if before["classes"] != now["classes"]:
            odd = sorted(set(before["classes"]) ^ set(now["classes"]))
            counts = f"{len(before['classes'])} then, {len(now['classes'])} now"
            findings.append(f"the class list differs ({counts}): {odd[:3]}")
        elif data.photos.digest not in [self.contents.get(source, {}).get("digest") for source in _SOURCES]:
            findings.append(f"the photos in {data.root} differ from those it was trained on")
        if findings:
            listed = "\n".join(f"- {finding}" for finding in findings)
            raise CheckpointError(f"Cannot resume from {self.path}:\n{listed}\nTry: a new run, without resume=")

    def keep_global_batch(self, data: DogBreedData) -> None:
        """Keep the number of photos per step, however many processes share them now."""
        state = next(self.contents[source] for source in _SOURCES if source in self.contents)
        before = int(state.get("global_batch", data.batch_size or data.global_batch))
        then, now = int(state.get("processes", before // (data.batch_size or before))), ranks.here().world_size
        if then != now:
            log.warning(
                "Resuming a run of %d processes with %d: a step still has %d photos, about %d per process; dropout "
                "draws new masks, and trainable BatchNorm sees other shares",
                then,
                now,
                before,
                round(before / now),
            )
        data.global_batch = before
