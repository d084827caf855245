"""Temperature scaling: it fits, and it never states more confidence than the validation photos support."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed.calibration import fit_temperature


def confidence(logits: torch.Tensor, temperature: float) -> float:
    held = float(torch.tensor(temperature))  # a checkpoint holds float32
    return float((logits.double() / held).softmax(-1).amax(-1).mean())


@settings(deadline=None, max_examples=60)
@given(
    photos=st.integers(1, 60),
    classes=st.integers(2, 20),
    scale=st.floats(1e-3, 1e4),
    right=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_the_mean_confidence_is_what_so_many_photos_can_support(
    photos: int, classes: int, scale: float, right: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(scale * rng.standard_normal((photos, classes)))
    predicted = logits.argmax(-1)
    is_right = torch.from_numpy(rng.random(photos) < right)
    labels = torch.where(is_right, predicted, (predicted + 1) % classes)
    temperature = fit_temperature(logits, labels)
    assert 0.05 <= temperature < float("inf")
    most = (int(is_right.sum()) + 1) / (photos + 2)
    assert confidence(logits, temperature) <= max(most, 1 / classes + 1e-3)


@pytest.mark.parametrize(("photos", "most"), [(3, 4 / 5), (10, 11 / 12), (400, 401 / 402)])
def test_perfectly_separated_photos_do_not_make_a_model_certain(photos: int, most: float) -> None:
    labels = torch.arange(photos) % 3
    logits = 30 * torch.nn.functional.one_hot(labels, 3).float()
    assert confidence(logits, fit_temperature(logits, labels)) == pytest.approx(most, abs=1e-4)


def test_where_photos_support_it_the_likelihood_decides() -> None:
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(2 * rng.standard_normal((4000, 5)))
    labels = torch.multinomial(truth.softmax(-1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert fit_temperature(3 * truth, labels) == pytest.approx(3, rel=0.1)


def test_outputs_that_are_not_finite_end_with_a_temperature() -> None:
    assert fit_temperature(torch.full((4, 3), torch.nan), torch.zeros(4, dtype=torch.long)) > 0


def test_a_model_that_is_always_wrong_keeps_the_order_of_its_classes() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.3]]).repeat(9, 1) + 1e-3 * torch.arange(9).unsqueeze(1)
    temperature = torch.tensor(fit_temperature(logits, torch.zeros(9, dtype=torch.long)), dtype=torch.float32)
    shown = (logits / temperature).softmax(-1)
    assert shown.argmax(-1).tolist() == [2] * 9
    assert shown.amax(-1).mean() == pytest.approx(1 / 3, abs=1e-3)
