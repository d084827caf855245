"""The resolver `${for_heads:A,B}` of conf/. Importing this module registers it. Loads no torch."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed.workload import trains_heads


def for_heads(heads: Any, otherwise: Any, *, _root_: DictConfig) -> Any:
    """Return `heads` if the run trains a head on cached features, else `otherwise`.

    Epochs of a head cost nearly nothing, so it can have more of them and smaller steps than training on photos.
    """
    trainable = OmegaConf.select(_root_, "model.trainable", default="head")
    return (
        heads if trains_heads(str(trainable), OmegaConf.select(_root_, "features.mode", default="auto")) else otherwise
    )


OmegaConf.register_new_resolver("for_heads", for_heads, replace=True)
