"""The network with its new head, as a LightningModule: losses, metrics, optimizer, and the trainable part."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from dogbreed import backbones, transforms
from dogbreed.batches import FeatureBatch
from dogbreed.checkpoints import FROZEN, read_whole
from dogbreed.distributed import collectives, ranks
from dogbreed.errors import CheckpointError, ConfigError
from dogbreed.preprocess import Interpolation, Preprocess


class DogBreedClassifier(LightningModule):
    """A pretrained backbone and a new linear head, for the classes of one data set.

    classes: their names in label order. library, backbone, weights: see `dogbreed.backbones.build`.
    trainable: `head`, `all`, or the first part of the backbone that is trained (`layer4`).
    image_px, crop_pct, interpolation, mean, std: what the backbone was trained with; see Preprocess.
    lr: peak learning rate of the head. backbone_lr_scale: the backbone's, relative to it. weight_decay: of weights, not
    of biases and norms. warmup: share of all steps in which the rate rises from 0; then it decays along a cosine to 0
    (arXiv 1608.03983). label_smoothing: 0..1. dropout: before the head. ema_decay: of a moving average of the weights
    that is validated and exported in place of the last ones; None for none. compile: use torch.compile for training
    steps on images, not for evaluation. released, released_width: digest and width of a backbone that is not built
    because the head is trained on its features, as after `release_frozen`. scale_lr: multiply lr by the number of
    processes that train, each of which has a batch of its own (arXiv 1706.02677: with a warm-up, there over 5 of 90
    epochs).

    Takes images as uint8 [N, 3, H, W] (0..255) or as floats that are already normalised; returns logits [N, classes].
    Steps also take a FeatureBatch: precomputed outputs of the frozen part.
    """

    backbone: nn.Module
    temperature: Tensor  # of the logits at prediction, fitted on the validation set (arXiv 1706.04599)
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        classes: Sequence[str],
        *,
        library: backbones.Library = "torchvision",
        backbone: str = "resnet50",
        weights: str | None = "IMAGENET1K_V2",
        trainable: str = "head",
        image_px: int = 224,
        crop_pct: float = 0.965,
        interpolation: Interpolation = "bilinear",
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        lr: float = 2e-3,
        backbone_lr_scale: float = 0.1,
        weight_decay: float = 0.01,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        warmup: float = 0.05,
        label_smoothing: float = 0.1,
        dropout: float = 0.2,
        ema_decay: float | None = None,
        compile: bool = False,
        scale_lr: bool = True,
        released: str = "",
        released_width: int = 0,
    ) -> None:
        super().__init__()
        classes, mean, std = list(classes), list(mean), list(std)  # plain lists: a checkpoint holds no other classes
        self.save_hyperparameters(ignore=["released", "released_width"])
        self.classes = tuple(classes)
        # before loading: if the file is replaced meanwhile, its new content must not get this identity
        self.weights_identity = backbones.weights_identity(library, backbone, weights)
        if released:
            self.backbone, self.width = nn.Identity(), released_width
        else:
            with torch.random.fork_rng(devices=[]):  # so that the head's first weights are the same without a backbone
                self.backbone, self.width = backbones.build(library, backbone, weights)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.width, len(classes)))
        self.frozen = backbones.freeze(self.backbone, trainable)
        self.register_buffer("temperature", torch.ones(()))
        # (x / 255 - mean) / std as one multiplication and one addition
        shape, (mean_tensor, std_tensor) = (1, 3, 1, 1), (torch.tensor(mean), torch.tensor(std))
        self.register_buffer("pixel_scale", (1 / (255 * std_tensor)).view(shape), persistent=False)
        self.register_buffer("pixel_shift", (-mean_tensor / std_tensor).view(shape), persistent=False)
        # the epoch's running sums of loss and correct predictions. Plain tensors: they are updated in many small steps
        self._sums, self._count = torch.zeros(2), 0
        # a NaN loss must show up, not be left out of the mean
        self.val_loss, self.val_metrics = MeanMetric(nan_strategy="disable"), metrics(len(classes)).clone(prefix="val/")
        self.test_loss, self.test_metrics = (
            MeanMetric(nan_strategy="disable"),
            metrics(len(classes)).clone(prefix="test/"),
        )
        self.to(memory_format=torch.channels_last)  # the fastest layout for convolutions
        self.train()  # the initial mode, except for the frozen part; Lightning does not change the modes
        self.released = released  # digest of the frozen part, once it is dropped
        self._cuts: dict[bool, backbones.Cut | None] = {}  # by mode; a dict, so that no module is registered twice
        self._compiled_forward: Callable[[Tensor], Tensor] | None = None
        self.compiled_sizes: set[tuple[int, ...]] = set()  # batch shapes that torch.compile has compiled
        self.global_batch = 0  # photos per step, if processes have unequal shares
        self.shares_steps = False  # whether a step has as many photos as one process would take: then scale_lr is void

    @classmethod
    def from_checkpoint(cls, path: Path | str) -> "DogBreedClassifier":
        """Load a checkpoint's trained network in eval mode on the CPU. Raises CheckpointError."""
        model = cls.from_state(read_whole(Path(path)))
        return model.eval()

    @classmethod
    def from_state(cls, checkpoint: Mapping[str, Any]) -> "DogBreedClassifier":
        model = cls(**{**checkpoint["hyper_parameters"], "weights": None})
        try:
            model.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise CheckpointError(f"The checkpoint's weights do not fit its own settings: {error}") from error
        return model

    @property
    def preprocess(self) -> Preprocess:
        """Return the preprocessing from a photo to this network's input."""
        names = ("image_px", "crop_pct", "interpolation", "mean", "std")
        return Preprocess(**{name: self.hparams[name] for name in names})

    def train(self, mode: bool = True) -> "DogBreedClassifier":
        super().train(mode)
        for part in self.frozen:
            part.eval()  # requires_grad=False alone would not stop BatchNorm from updating its running statistics
        return self

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.backbone(self.normalised(images))))

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise uint8 images with the backbone's mean and standard deviation; return others unchanged."""
        if images.dtype == torch.uint8:
            return transforms.normalised(images, self.pixel_scale, self.pixel_shift)
        return images

    @property
    def cut(self) -> "backbones.Cut | None":
        """The backbone cut where its trained part begins, in its current mode; None if it cannot be cut."""
        if self.training not in self._cuts:
            self._cuts[self.training] = backbones.cut(self.backbone)
        return self._cuts[self.training]

    def from_features(self, features: Tensor) -> Tensor:
        """Compute logits from the outputs of `cut.frozen` for normalised images."""
        cut = self.cut
        assert cut is not None, "features of a backbone that cannot be cut"
        return cast(Tensor, self.head(cut.rest(features.float())))

    def backbone_state(self) -> dict[str, Tensor]:
        """Return the backbone's part of the state dict, under the backbone's own names."""
        return {f"backbone.{name}": value for name, value in self.backbone.state_dict().items()}

    def release_frozen(self) -> dict[str, Tensor]:
        """Drop the frozen part of the backbone and return its state: training on features does not need it.

        From then on the state dict holds only the trained part, and images are refused. Cuts in both modes first.
        """
        for mode in (False, True):
            self.train(mode)
            assert self.cut is not None
        whole = self.state_dict()
        if self.frozen == [self.backbone]:
            self.backbone = nn.Identity()
        else:
            names = {id(module): name for name, module in self.backbone.named_modules()}
            for part in self.frozen:
                self.backbone.set_submodule(names[id(part)], nn.Identity())
        self._cuts = {mode: replace(cut, frozen=nn.Identity()) for mode, cut in self._cuts.items() if cut is not None}
        self.frozen = []
        kept = self.state_dict().keys()
        dropped = {name: value for name, value in whole.items() if name not in kept}
        self.released = backbones.digest(dropped)
        return dropped

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        if len(batch) == 3:  # directly from a loader: DogBreedData would have applied the light
            batch = transforms.relight(batch[0], batch[2]), batch[1]
        inputs, labels = batch
        logits = self._train_forward(inputs) if not isinstance(batch, FeatureBatch) else self.from_features(inputs)
        collectives.moved_on()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.hparams["label_smoothing"])
        right = (logits.detach().argmax(-1) == labels).float().mean()
        self._sums = self._sums.to(loss.device) + torch.stack((loss.detach().float(), right)) * len(labels)
        self._count += len(labels)
        every = cast(Any, self.trainer).log_every_n_steps
        if every and (self.trainer.global_step + 1) % every == 0:  # loggers ignore the other steps
            self.log("train/loss_step", loss)
        if self.global_batch:  # gradients are averaged over processes; each photo must count the same
            return loss * (len(labels) * ranks.here().world_size / self.global_batch)
        return loss

    def _train_forward(self, images: Tensor) -> Tensor:
        if not self.hparams["compile"]:
            return cast(Tensor, self(images))
        if self._compiled_forward is None:
            # compile for each image size: kernels for dynamic sizes are slower
            self._compiled_forward = torch.compile(self.forward, dynamic=False)
        logits = self._compiled_forward(images)
        self.compiled_sizes.add(tuple(images.shape))
        return logits

    @property
    def train_averages(self) -> tuple[float, float]:
        """Return loss and accuracy of this process's training steps in this epoch so far."""
        loss, right = (self._sums / max(1, self._count)).tolist()
        return loss, right

    def global_train_averages(self) -> tuple[float, float]:
        """Return the same averages over all processes, which call this together."""
        loss, right, count = collectives.all_reduce([*self._sums.tolist(), float(self._count)])
        return loss / max(1.0, count), right / max(1.0, count)

    def on_validation_start(self) -> None:
        """Broadcast the buffers of process 0: each process has its own BatchNorm statistics, and those are saved."""
        if ranks.here().several and cast(Any, self.trainer).state.fn == "fit":
            collectives.broadcast_buffers(self)

    def on_validation_epoch_start(self) -> None:
        # after trainer.validate() their sums are inference tensors, which trainer.fit() could not add to
        _reset(self.val_loss, self.val_metrics)
        if self.hparams["ema_decay"]:
            # broadcast again: Lightning has just swapped in the averaged weights, which have buffers of their own
            self.on_validation_start()

    def on_test_epoch_start(self) -> None:
        _reset(self.test_loss, self.test_metrics)

    def on_before_backward(self, loss: Tensor) -> None:
        collectives.moved_on()

    def on_train_epoch_end(self) -> None:
        loss, right = self.global_train_averages()
        self.log_dict({"train/loss": loss, "train/acc": right})
        self._sums, self._count = torch.zeros(2), 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_loss, self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the batch's logits (before temperature) and labels, on the CPU."""
        logits = self._evaluate(batch, "test", self.test_loss, self.test_metrics)
        return {"logits": logits.cpu(), "labels": batch[1].cpu()}

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str, loss: MeanMetric, metric: MetricCollection) -> Tensor:
        inputs, labels = batch
        logits: Tensor = (self.from_features(inputs) if isinstance(batch, FeatureBatch) else self(inputs)).float()
        calibrated = logits / self.temperature
        # per photo: torchmetrics 1.9 accepts no weights if its NaN check is disabled
        loss.update(F.cross_entropy(calibrated, labels, reduction="none"))
        with _plain_counting(logits.device):
            metric.update(calibrated.softmax(-1), labels)
        self.log(f"{stage}/loss", loss)
        self.log_dict(metric)
        return logits

    def configure_optimizers(self) -> Any:
        hp = self.hparams
        lr = hp["lr"] * (ranks.here().world_size if hp["scale_lr"] and not self.shares_steps else 1)
        groups = [
            *_groups(self.head, lr, hp["weight_decay"]),
            *_groups(self.backbone, lr * hp["backbone_lr_scale"], hp["weight_decay"]),
        ]
        # one kernel for all weights; fp16's loss scaling requires unscaling gradients before clipping
        fused = self._loss_scaler() is None
        optimizer: torch.optim.Optimizer
        if hp["optimizer"] == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=lr, fused=fused)
        elif hp["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=fused)
        else:
            raise ConfigError(f"Unknown model.optimizer={hp['optimizer']}.\nTry: adamw or sgd")
        total = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, round(total * hp["warmup"]))
        # a function of the step alone: its state is one number, so that a resumed run may also be extended
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_cosine(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's own refuses fused optimizers in mixed precision because of loss scaling, which bf16 does not use
        if self._loss_scaler() is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if gradient_clip_algorithm == "value":
                torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
            else:
                torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def _loss_scaler(self) -> Any:
        return getattr(getattr(self.trainer, "precision_plugin", None), "scaler", None)

    def configure_callbacks(self) -> list[Callback]:
        decay = self.hparams["ema_decay"]
        return [EMAWeightAveraging(decay=decay)] if decay else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.released:
            checkpoint[FROZEN] = self.released
        # the running averages of an unfinished epoch, so that a resumed run reports the same values
        checkpoint["train_sums"] = collectives.all_gather({"sums": self._sums.cpu(), "count": self._count})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved, here = checkpoint.get("train_sums", []), ranks.here()
        if len(saved) == here.world_size:
            self._sums, self._count = saved[here.rank]["sums"], saved[here.rank]["count"]
        elif saved and here.first:  # the number of processes has changed: process 0 reports for all the previous ones
            self._sums = torch.stack([part["sums"] for part in saved]).sum(0)
            self._count = sum(part["count"] for part in saved)


@contextmanager
def _plain_counting(device: torch.device) -> Iterator[None]:
    """Disable torch's deterministic mode on a CPU: torch.bincount is deterministic there, but torchmetrics avoids it.

    Instead it compares each row with each pair of classes: 15 million comparisons for 835 photos of 133 breeds.
    """
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cpu":
        torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)


def _reset(*evaluated: MeanMetric | MetricCollection) -> None:
    for metric in evaluated:
        metric.reset()


def metrics(classes: int) -> MetricCollection:
    """Build metrics of probabilities [N, classes]: top-1 and top-5 accuracy, macro F1, calibration error (15 bins)."""
    return MetricCollection(
        {
            "acc": MulticlassAccuracy(classes, average="micro"),
            "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro"),
            "f1": MulticlassF1Score(classes, average="macro"),
            "ece": MulticlassCalibrationError(classes, n_bins=15),
        },
        compute_groups=False,
    )


def _groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups: weights with decay; biases and norms without (arXiv 1812.01187, section 3.1)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _warmup_cosine(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
