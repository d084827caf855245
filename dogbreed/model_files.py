"""Make the one artifact, model.tar.gz, from whatever file or folder holds a model. Imports torch only if it must."""

import os
from collections.abc import Sequence
from pathlib import Path

from dogbreed import artifact, class_names, commands
from dogbreed.errors import ArtifactError
from dogbreed.run_folder import RunFolder


def artifact_of(source: Path, *, classes: Path | Sequence[str] | None = None) -> bytes:
    """Return the artifact's bytes, which are the same for the same source.

    source: the folder of a finished run or search (its best trial), an artifact or its unpacked folder, a checkpoint of
    a run, or a bare file of weights: a state dict or a ResNet50 pickled whole, of torch.save or safetensors.
    classes: the names of a bare file's classes in label order, or where they are (see `dogbreed.class_names.read`); by
    default those in the file, or dogImages' if there are 133. All other sources know their own, which must be the same.

    Raises ArtifactError, CheckpointError, WeightsError or DataError.
    """
    source = source.expanduser()
    shown = commands.shown_path(source)
    if not source.exists():
        raise ArtifactError(
            f"There is no file or folder {shown}.\n"
            "Try: a run's folder, a model.tar.gz, a checkpoint or a file of weights"
        )
    if source.is_file() and not os.access(source, os.R_OK):
        raise ArtifactError(f"{shown} cannot be read: permission denied.\nTry: {commands.shell('chmod', 'u+r', shown)}")
    if source.is_dir() and not artifact.is_artifact(source):
        source = _best_of(source)
    if artifact.is_artifact(source):
        found = artifact.read(source)
        class_names.refuse_others(found.labels, classes, source)
        if source.is_dir() and (source / artifact.MANIFEST).exists():
            return artifact.pack(found.manifest, found.labels, found.preprocess, found.networks)
        return (RunFolder.of(source).model if source.is_dir() else source).read_bytes()
    from dogbreed import export  # brings torch

    return export.export_file(source, classes)


def _best_of(folder: Path) -> Path:
    """Return best.ckpt of a run that has ended without an artifact. Raises ArtifactError if it has not ended."""
    here = RunFolder.of(folder)
    shown = commands.shown_path(folder)
    if here.fit.exists() and here.best.exists():
        return here.best
    if here.best.exists():
        best = commands.shown_path(here.best)
        raise ArtifactError(
            f"The run in {shown} has not finished.\n"
            f"Try: {commands.train(commands.override('resume', shown))}\n"
            f" or: its best checkpoint so far, {best}"
        )
    raise ArtifactError(
        f"{shown} holds no model: neither a finished run or search, nor the files of a model.tar.gz.\n"
        "Try: python -m launchers list --all, which shows runs and their folders"
    )
