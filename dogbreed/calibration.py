"""Calibrate probabilities by temperature scaling."""

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_SPREADS = 1e3  # probabilities are equal to 3 digits there, and float32 still tells the classes apart


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature, at least 0.05, by which to divide logits [N, classes] so that they fit labels [N] best.

    Minimises the negative log-likelihood (Guo et al. 2017, arXiv 1706.04599). The order of the classes does not change.

    N photos cannot prove more than a certain confidence, and without any error the likelihood has no optimum. So the
    temperature is raised until the mean confidence on these photos is at most (right + 1) / (N + 2), Laplace's rule of
    succession; or until all probabilities are about 1 / classes, if that is more.
    """
    logits = logits.double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / log_temperature.exp(), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    fitted = float(log_temperature.detach().exp().nan_to_num(1.0).clamp(0.05, 20.0))
    return _bounded(fitted, logits, labels)


def _bounded(temperature: float, logits: Tensor, labels: Tensor) -> float:
    """Return the temperature, or the lowest above it at which the mean confidence is what N photos can support."""
    right = int((logits.argmax(-1) == labels).sum())
    most = (right + 1) / (len(labels) + 2)
    if not _mean_confidence(logits, temperature) > most:  # NaN if the network's outputs are
        return temperature
    low, high = temperature, 2 * temperature
    highest = _MOST_SPREADS * float((logits.amax(-1) - logits.amin(-1)).max())
    while _mean_confidence(logits, high) > most:  # it falls with the temperature
        if high >= highest:
            return max(temperature, highest)
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _mean_confidence(logits, middle) > most else (low, middle)
    return high * (1 + 1e-6)  # a checkpoint holds it as float32, which may be a little lower


def _mean_confidence(logits: Tensor, temperature: float) -> float:
    return float((logits / temperature).softmax(-1).amax(-1).mean())
