"""Read and check the config node `features`. Loads no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dogbreed.workload import feature_settings

MODES = ("auto", "cached", "off")


@dataclass(frozen=True)
class Settings:
    """The config node `features`.

    mode: `auto` caches features if part of the backbone is frozen, it can be cut there and they fit; `cached` raises an
    error instead of falling back to photos; `off` never caches. views: the number of cached views of each training
    photo, a center crop and views - 1 augmented ones; each epoch draws one. max_gb: the size limit of this run's
    features (10^9 bytes).
    """

    mode: Literal["auto", "cached", "off"] = "auto"
    views: int = 1
    max_gb: float = 20.0


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Read the config node `features`; use its defaults for a run of an earlier version, which has no such node."""
    return Settings(**feature_settings(config))


def findings(settings: Settings, *, augmented: bool) -> Iterator[str]:
    """Yield what is wrong with the config node. augmented: whether the training photos are augmented."""
    mode, views, max_gb = settings.mode, settings.views, settings.max_gb
    if mode not in MODES:
        yield f"features.mode={mode} is unknown.\nTry: one of {', '.join(MODES)}"
    if not (isinstance(views, int) and views >= 1):
        yield f"features.views must be a whole number, at least 1, got {views}."
    elif views > 1 and not augmented and mode != "off":
        yield f"features.views={views} would cache the same view: data.augment=null.\nTry: features.views=1"
    if not (isinstance(max_gb, int | float) and max_gb > 0):
        yield f"features.max_gb must be a number of gigabytes above 0, got {max_gb}."
