"""Write metrics.csv, one row per epoch."""

import csv
import io
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from dogbreed.distributed import collectives, ranks
from dogbreed.errors import ConfigError
from dogbreed.model import DogBreedClassifier
from dogbreed.progress import Epoch
from dogbreed.run_folder import RunFolder, write_text

log = logging.getLogger("dogbreed")


Watch: TypeAlias = Callable[[int, Mapping[str, float]], bool]  # epoch (from 1), its val/ metrics -> whether to stop


class History(Callback):
    """Writes a row of metrics.csv and a line of the log per epoch. A resumed run keeps the rows before it."""

    def __init__(self, here: RunFolder, watch: Watch | None) -> None:
        self.here, self.watch = here, watch
        self.rows: list[dict[str, float]] = []
        self._images = 0  # since the start of the epoch, perhaps in an earlier process
        self._seconds = 0.0
        self._waiting = 0.0  # seconds of these spent waiting for the loader's batches
        self._since = time.monotonic()
        self._waited_before = 0.0
        self._compiled = 0  # batch shapes that torch.compile has compiled

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        now, waited = time.monotonic(), cast(Any, trainer.train_dataloader).waited_s
        compiled = len(cast(DogBreedClassifier, pl_module).compiled_sizes)
        if compiled == self._compiled:
            self._images += len(batch[1])
            self._seconds += now - self._since
            self._waiting += waited - self._waited_before
        else:  # compilation takes minutes and says nothing about the speed of later steps
            log.info("Compiled for images of %d px in %.0f s (not counted)", batch[0].shape[-1], now - self._since)
        self._since, self._waited_before, self._compiled = now, waited, compiled

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = cast(DogBreedClassifier, pl_module)
        now = time.monotonic()
        train_loss, train_acc = model.global_train_averages()
        images = collectives.all_reduce([self._images])[0]
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/loss": train_loss,
            "train/acc": train_acc,
            **{name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")},
            "seconds": round(self._seconds + now - self._since, 3),
            "images_per_s": round(images / max(self._seconds, 1e-9), 1),
            "data_wait": round(self._waiting / max(self._seconds, 1e-9), 4),
            **_efficiency(trainer, self._seconds),
        }
        if not (math.isfinite(row["train/loss"]) and math.isfinite(row["val/loss"])):
            raise ConfigError(
                f"Training has diverged: in epoch {row['epoch']} the loss is {row['train/loss']} (train) and "
                f"{row['val/loss']} (val).\nTry: a new run with a smaller model.lr"
            )
        self.rows.append(row)
        self._images, self._seconds, self._waiting, self._since = 0, 0.0, 0.0, now
        self._write()
        log.info("%s", _line(row, trainer.max_epochs or 0))
        validated = {name: value for name, value in row.items() if name.startswith("val/")}
        if self.watch is not None and self.watch(int(row["epoch"]), validated):
            trainer.should_stop = True

    def totals(self) -> dict[str, float]:
        """Return the totals of the training: epochs, steps, seconds (with validation), images/s (without), the share of
        time in which the model waited for data, and the efficiency if several processes train.
        """
        speeds = sorted(row["images_per_s"] for row in self.rows)
        waits = sorted(row["data_wait"] for row in self.rows)
        together = sorted(row["efficiency"] for row in self.rows if "efficiency" in row)
        return {
            "epochs": len(self.rows),
            "steps": self.rows[-1]["step"],
            "seconds": round(sum(row["seconds"] for row in self.rows), 1),
            "images_per_s": speeds[len(speeds) // 2],
            "data_wait": waits[len(waits) // 2],
            **({"efficiency": together[len(together) // 2]} if together else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "images": self._images, "seconds": self._seconds, "waiting": self._waiting}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._images, self._seconds = state_dict["images"], state_dict["seconds"]
        self._waiting = state_dict["waiting"]
        if self.rows:
            self._write()  # drop the rows of steps that are trained again

    def _write(self) -> None:
        table = io.StringIO()
        names = dict.fromkeys(name for row in self.rows for name in row)  # only several processes have an efficiency
        writer = csv.DictWriter(table, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.here.history, table.getvalue())


def _line(row: Mapping[str, float], epochs: int) -> Epoch:
    return Epoch(
        int(row["epoch"]),
        epochs,
        train_loss=row["train/loss"],
        train_acc=row["train/acc"],
        val_loss=row["val/loss"],
        val_acc=row["val/acc"],
        images_per_s=row["images_per_s"],
        seconds=row["seconds"],
        processes=ranks.here().world_size,
        efficiency=row.get("efficiency"),
    )


def _efficiency(trainer: Trainer, seconds: float) -> dict[str, float]:
    """Return the scaling efficiency: the share of a step in which this process did not wait for others' gradients.

    DistributedDataParallel measures in some steps the communication that the backward pass did not hide.
    """
    step_s = seconds / max(1, int(trainer.num_training_batches))
    measured: Mapping[str, Any] = getattr(trainer.strategy.model, "_get_ddp_logging_data", dict)()
    exposed_ns = measured.get("avg_backward_comm_time", 0) - measured.get("avg_backward_compute_comm_overlap_time", 0)
    if not measured.get("avg_backward_comm_time"):
        return {}  # nothing measured yet
    return {"efficiency": round(1 - min(1.0, exposed_ns / 1e9 / max(step_s, 1e-9)), 4)}
