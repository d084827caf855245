"""Calibrate probabilities by temperature scaling."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature, in 0.05..20, by which to divide logits [N, classes] so that they fit labels [N] best.

    Minimises the negative log-likelihood (Guo et al. 2017, arXiv 1706.04599). The order of the classes does not change.
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
    # predictions without any error have no optimum: the temperature would go to 0
    return float(log_temperature.detach().exp().nan_to_num(1.0).clamp(0.05, 20.0))
