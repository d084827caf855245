"""Check the settings of a run before any photo or weight is read."""

from collections.abc import Iterator, Mapping
from typing import Any

from dogbreed.best_epoch import MONITORS
from dogbreed.features import settings as features

_OURS = frozenset(
    {  # arguments of Lightning's Trainer
        "max_steps",
        "max_time",
        "fast_dev_run",
        "overfit_batches",
        "val_check_interval",
        "check_val_every_n_epoch",
        "limit_val_batches",
        "num_sanity_val_steps",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "callbacks",
        "plugins",
        "logger",
        "default_root_dir",
        "reload_dataloaders_every_n_epochs",
    }
)
RANKS_TIMEOUT_S, RANKS_LEAST_S = 300.0, 5.0


def findings(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the settings alone; checks that need photos or weights come later."""
    if config["monitor"] not in MONITORS:
        yield f"monitor={config['monitor']} is not a validation metric.\nTry: one of {', '.join(MONITORS)}"
    elif config["mode"] != (better := "min" if config["monitor"] in ("val/loss", "val/ece") else "max"):
        yield f"monitor={config['monitor']} with mode={config['mode']} would keep the worst epoch.\nTry: mode={better}"
    if not (config["trainer"].get("max_epochs") or 0) >= 1:
        yield f"trainer.max_epochs must be at least 1, got {config['trainer'].get('max_epochs')}.\nTry: 1 or more"
    for key, least in (("batch_size", 1), ("image_px", 8), ("workers", 0)):
        value = config["data"].get(key)
        if not (isinstance(value, int) and value >= least) and not (key != "image_px" and value is None):
            yield f"data.{key} must be a whole number, at least {least}, got {value}."
    if (devices := config["trainer"].get("devices", 1)) != 1 or config["trainer"].get("num_nodes", 1) != 1:
        yield (
            f"trainer.devices must be 1, got {devices}: each process of a run has one device.\n"
            "Try: torchrun --nproc_per_node=<devices> train.py ..., or launcher=sagemaker_multi"
        )
    if not ((config.get("ranks") or {}).get("timeout_s", RANKS_TIMEOUT_S) >= RANKS_LEAST_S):
        yield f"ranks.timeout_s must be at least {RANKS_LEAST_S:g} seconds.\nTry: {RANKS_TIMEOUT_S:g}"
    yield from features.findings(features.settings_of(config), augmented=config["data"].get("augment") is not None)
    for key in sorted(_OURS & config["trainer"].keys()):
        yield f"trainer.{key} is set by the run itself: another value breaks checkpoints or the report.\nTry: remove it"
    if not 0 <= config["seed"] < 2**32:
        yield f"seed={config['seed']} is out of range.\nTry: a whole number from 0 to 4294967295"
    for key in ("lr", "weight_decay", "label_smoothing", "dropout", "warmup", "backbone_lr_scale", "ema_decay"):
        value = config["model"].get(key) or 0.0
        top = float("inf") if key in ("lr", "weight_decay", "backbone_lr_scale") else 1.0
        if not 0 <= value <= top:
            yield f"model.{key}={value} is out of range.\nTry: a value from 0 to {top:g}"
