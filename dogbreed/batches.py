"""Types of batches other than photos."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class FeatureBatch(NamedTuple):
    """A batch that has already passed through the frozen part of the backbone.

    features: float [N, ...], the backbone's pooled output or the activations where its trained part begins.
    labels: int64 [N].
    """

    features: "Tensor"
    labels: "Tensor"
