"""Write checkpoints that survive a crash at any moment, and resume training from them exactly."""

import io
import logging
import math
import os
import random
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dogbreed.best_epoch import LOSS, merit
from dogbreed.data import TrainLoader
from dogbreed.distributed import collectives, ranks
from dogbreed.errors import CheckpointError
from dogbreed.interruption import Interruption
from dogbreed.run_folder import RunFolder, write_bytes
from dogbreed.saved_progress import SavedProgress, file_beside
from dogbreed.unlike import Unlike

log = logging.getLogger("dogbreed")

CALIBRATION = "calibration"  # a checkpoint's key for what was measured on the validation photos, once it is calibrated
FROZEN = "frozen"  # a checkpoint's key for the digest of the part of the network that is not in it
_SAVE_BEFORE_VALIDATION_S = 10.0
_OTHERS = "Try: python -m dogbreed.export FILE --output model.tar.gz, which also takes the files of other programs"


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; loads plain values and tensors only and runs no code (weights_only).

    Raises CheckpointError if it is missing, damaged, or not from a dogbreed run.
    """
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} does not exist.\nTry: <run folder>/checkpoints/best.ckpt")
    if damage := _damage(path):
        raise CheckpointError(f"The checkpoint {path} is damaged: {damage}.\nTry: another checkpoint of the same run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a zip file with other contents, or a pickle that needs code, which is not run
        raise CheckpointError(f"{path} is not a checkpoint of a dogbreed run.\n{_OTHERS}") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise CheckpointError(f"{path} is a torch file, but not a checkpoint of a dogbreed run.\n{_OTHERS}")
    return checkpoint


def is_own(content: Any) -> bool:
    """Return whether this is the content of a dogbreed run's checkpoint with a network."""
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    return isinstance(settings, dict) and {"classes", "library", "backbone"} <= settings.keys()


def frozen_beside(path: Path) -> Path:
    """Return where the frozen part of the network is kept, if it is not in the checkpoint at `path`."""
    return path.with_name(RunFolder(path).frozen.name)


def read_whole(path: Path) -> dict[str, Any]:
    """Read a checkpoint with the whole network, also of an unfinished run on cached features."""
    checkpoint = read(path)
    frozen = checkpoint.pop(FROZEN, None)
    if frozen is None:
        return checkpoint
    beside = frozen_beside(path)
    if not beside.is_file():
        raise CheckpointError(
            f"{path} holds only the trained part of the network, and {beside.name} is not beside it.\n"
            "Try: the checkpoint in its own run folder, or best.ckpt of a finished run, which holds the whole network"
        )
    rest = read(beside)
    if rest[FROZEN] != frozen:
        raise CheckpointError(f"{beside} belongs to another run than {path}.\nTry: the checkpoint in its run folder")
    return {**checkpoint, "state_dict": {**rest["state_dict"], **checkpoint["state_dict"]}}


def add_calibration(checkpoint: dict[str, Any], photos: int, found: Unlike | None) -> None:
    """Record in a checkpoint on how many photos it was calibrated, and how it tells photos of another kind."""
    checkpoint[CALIBRATION] = {"photos": photos, "unlike": asdict(found) if found else None}


def calibration(checkpoint: Mapping[str, Any]) -> tuple[int | None, Unlike | None]:
    """Return what `add_calibration` recorded; None for each in a checkpoint of an earlier version."""
    saved = checkpoint.get(CALIBRATION) or {}
    return saved.get("photos"), Unlike(**saved["unlike"]) if saved.get("unlike") else None


def newest(folder: RunFolder) -> Path | None:
    """Return the furthest intact checkpoint whose best.ckpt exists; set damaged ones aside with a warning.

    Return None to start over. On a rented machine files are saved one by one, so one may be restored without the other,
    or last.ckpt as it was before previous.ckpt.
    """
    for path in _furthest_first(folder):
        try:
            if _has_its_best(read(path), folder):
                return path
            log.warning("%s belongs to a newer best.ckpt than the one here; using the previous checkpoint", path)
            continue
        except CheckpointError as error:
            damage = str(error)
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        path.replace(aside)
        file_beside(path).unlink(missing_ok=True)
        log.warning("The checkpoint %s is damaged and was renamed to %s: %s", path, aside.name, damage)
    return None


def _furthest_first(folder: RunFolder) -> list[Path]:
    found = [path for path in (folder.last, folder.previous) if path.exists()]
    progress = {path: SavedProgress.of(path) for path in found}
    damaged = (math.inf, math.inf)  # first, so that it is set aside
    return sorted(found, key=lambda path: damaged if (p := progress[path]) is None else p.at, reverse=True)


def _has_its_best(checkpoint: dict[str, Any], folder: RunFolder) -> bool:
    """Return whether best.ckpt is from the best epoch as of `checkpoint`, or from a later one."""
    states = checkpoint.get("callbacks", {})
    best: dict[str, Any] = next((v for key, v in states.items() if key.startswith(BestCheckpoint.__qualname__)), {})
    rows = states.get("History", {}).get("rows", [])
    score, monitor = best.get("best_model_score"), best.get("monitor")
    if score is None:
        return True
    # earlier versions did not record the epoch, and kept the first of equals
    epoch = best.get("epoch") or next((row["epoch"] for row in rows if row[monitor] == float(score)), 0)
    try:
        return epoch_of(folder.best) >= epoch
    except CheckpointError:
        return False


def epoch_of(path: Path) -> int:
    """Return the epoch, from 1, in or after which a checkpoint was written. Raises CheckpointError like `read`."""
    return int(read(path)["epoch"]) + 1


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically. Raises StorageError if the disk is full."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_bytes(path, buffer.getbuffer())


class DurableCheckpointIO(TorchCheckpointIO):
    """Syncs checkpoints to disk: Lightning's own writes are atomic, but a power cut could leave an empty file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path))


class BestCheckpoint(ModelCheckpoint):
    """Keeps checkpoints/best.ckpt, the best epoch by the rule in `dogbreed.best_epoch`."""

    def __init__(self, folder: RunFolder, monitor: str, mode: str) -> None:
        super().__init__(
            dirpath=folder.checkpoints, filename="best", monitor=monitor, mode=mode, enable_version_counter=False
        )
        self._best = str(folder.best)
        self._merit: tuple[float, float, float] | None = None  # of the epoch in best.ckpt
        self._epoch: int | None = None  # the same, from 1

    def check_monitor_top_k(self, trainer: Trainer, current: torch.Tensor | None = None) -> bool:
        """Return whether this epoch is the best so far; Lightning would keep the first of several equal ones."""
        if current is None:
            return False
        loss, epoch = float(trainer.callback_metrics[LOSS]), trainer.current_epoch + 1
        found = merit(float(current), loss=loss, epoch=epoch, mode=self.mode)
        better = trainer.strategy.reduce_boolean_decision(self._merit is None or found > self._merit)
        if better:
            self._merit, self._epoch = found, epoch
        return better

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "merit": self._merit, "epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # In a folder that was moved or downloaded from another machine, Lightning would forget the best score so far
        here: dict[str, Any] = {"dirpath": self.dirpath}
        if state_dict["best_k_models"]:
            score = next(iter(state_dict["best_k_models"].values()))
            here |= dict.fromkeys(("best_model_path", "kth_best_model_path"), self._best)
            here |= {"best_k_models": {self._best: score}}
            # a state of an earlier version has no more than the score: an equal epoch that follows is better trained
            oldest = merit(float(score), loss=math.inf, epoch=0, mode=self.mode)
            self._merit, self._epoch = state_dict.get("merit") or oldest, state_dict.get("epoch")
        super().load_state_dict(state_dict | here)


class ResumePoint(Checkpoint):
    """Keeps checkpoints/last.ckpt, from which training resumes bit for bit, and the one before as previous.ckpt.

    Saves after a step once `every_s` seconds or `every_n_steps` steps have passed, after the first and the last epoch,
    when the file of DOGBREED_SAVE_NOW asks for it, and when a signal asks to stop. Never saves between an epoch's last
    step and its validation: Lightning would skip that validation on resume. It saves just before the last step instead,
    so that a signal in a long validation loses at most one step.

    A checkpoint includes the random number generators' states of all training processes; they are restored at the first
    step, when the loader's iterator exists.

    A small file beside each checkpoint says how far it is (SavedProgress), for machines that do not have it.
    """

    def __init__(
        self, folder: RunFolder, stop: Interruption, run_id: str | None, every_s: float, every_n_steps: int | None
    ) -> None:
        self.folder, self.stop, self.run_id = folder, stop, run_id
        self.every_s, self.every_n_steps = every_s, every_n_steps
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._batches = 0  # trained in this epoch
        self._random_states: dict[str, Any] | None = None
        self._agreement = collectives.Agreement()
        self._device = torch.device("cpu")
        asking = os.environ.get("DOGBREED_SAVE_NOW")  # as launchers/remote/ec2.py sets it
        self._asking = Path(asking) if asking else None
        self._asked_ns = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = trainer.strategy.root_device

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has installed its own handler, which ends training without a checkpoint and with exit status 0
        self.stop.listen()
        self.stop.check()  # a signal may have arrived while Lightning had them; nothing is trained yet
        if (rank := ranks.here().rank) > 0:  # each process needs its own dropout; Lightning has just seeded all alike
            torch.manual_seed(int(np.random.SeedSequence([torch.initial_seed(), rank]).generate_state(1)[0]))
        # Lightning would do this itself, except after configure_optimizers has asked for the number of steps
        if self._batches:
            cast(TrainLoader, trainer.train_dataloader).load_state_dict({"batches": self._batches})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._random_states is not None:
            _set_random_states(self._random_states, self._device)
            self._random_states = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches = batch_idx + 1
        left = int(trainer.num_training_batches) - self._batches
        if left == 0 or self._batches % trainer.accumulate_grad_batches:
            return  # accumulated gradients are not saved in checkpoints
        collectives.moved_on()
        last = left <= trainer.accumulate_grad_batches  # before the validation
        due = self._due() or (last and self._waited() > _SAVE_BEFORE_VALIDATION_S)
        signum, due = self._agreement.reached(self.stop.signum, due, now=last)
        if signum is not None:
            self._save(trainer)
            self.stop.stop(f"after step {trainer.global_step}, with a checkpoint", signum)
        if due or self._due_by_steps(trainer):
            self._save(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # without a checkpoint so far, training has taken only seconds: wait for the one at the epoch's end.
        # Several processes must stop together, and in validation each has its own number of batches
        stops = self.stop.signum is not None and not ranks.here().several
        if stops and trainer.state.fn == "fit" and self.folder.last.exists():
            self.stop.stop(f"in the validation after step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = 0
        due = self._due() or self._waited() > _SAVE_BEFORE_VALIDATION_S or not self.folder.last.exists()
        signum, due = self._agreement.reached(self.stop.signum, due, now=True)
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if signum is not None or last or due or self._due_by_steps(trainer):
            self._save(trainer)
        if signum is not None and not last:
            self.stop.stop(f"after step {trainer.global_step}, with a checkpoint", signum)

    def state_dict(self) -> dict[str, Any]:
        everyones = collectives.all_gather(_random_states(self._device))
        return {"batches": self._batches, "random": everyones if len(everyones) > 1 else everyones[0]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved, here = state_dict["random"], ranks.here()
        saved = saved if isinstance(saved, list) else [saved]
        self._batches = state_dict["batches"]
        self._random_states = saved[here.rank] if here.rank < len(saved) else None

    def _waited(self) -> float:
        return time.monotonic() - self._saved_at

    def _due(self) -> bool:
        return self._waited() >= self.every_s or self._is_asked()

    def _is_asked(self) -> bool:
        """Whether somebody has written the file of DOGBREED_SAVE_NOW since the last checkpoint."""
        if self._asking is None:
            return False
        try:
            return self._asking.stat().st_mtime_ns > self._asked_ns
        except OSError:
            return False

    def _due_by_steps(self, trainer: Trainer) -> bool:
        steps = trainer.global_step - self._saved_step
        return self.every_n_steps is not None and steps >= self.every_n_steps

    def _save(self, trainer: Trainer) -> None:
        last, previous = self.folder.last, self.folder.previous
        if self._asking is not None and self._is_asked():
            self._asked_ns = self._asking.stat().st_mtime_ns
        if last.exists():
            # in this order, a kill leaves no file beside a later checkpoint
            file_beside(previous).unlink(missing_ok=True)
            last.replace(previous)
            if file_beside(last).exists():
                file_beside(last).replace(file_beside(previous))
        trainer.save_checkpoint(last, weights_only=False)
        if ranks.here().first:
            self._progress(trainer).write(last)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _progress(self, trainer: Trainer) -> SavedProgress:
        photos = cast(Any, trainer).datamodule.state_dict()
        return SavedProgress(
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            run_id=self.run_id,
            photos=photos["digest"],
            batch=photos["global_batch"],
            epoch_steps=math.ceil(int(trainer.num_training_batches) / trainer.accumulate_grad_batches),
        )


def _damage(path: Path) -> str:
    """Return what is wrong with a file of torch.save (a zip archive with a checksum per part); "" if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile may raise anything for damaged bytes
        return str(error) or type(error).__name__
    return f"the checksum of {broken} is wrong" if broken else ""


def _random_states(device: torch.device) -> dict[str, Any]:
    numpy: Any = np.random.get_state(legacy=False)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": numpy | {"state": {"key": numpy["state"]["key"].tolist(), "pos": numpy["state"]["pos"]}},
        "python": [version, list(internal), gauss_next],
    }


def _set_random_states(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    numpy = states["numpy"]
    key = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy | {"state": {"key": key, "pos": numpy["state"]["pos"]}})
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
