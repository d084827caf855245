"""Progress lines can be parsed again, by dogbreed and by SageMaker's metric definitions."""

import math
import re
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.progress import METRIC_PATTERNS, Epoch, TrialEnd, is_result_row, result_table
from tests.support.project import ROOT

losses = st.one_of(st.floats(0, 1e6), st.sampled_from([math.nan, math.inf, -math.inf]))
shares = st.one_of(st.floats(0, 1), st.just(math.nan))
epochs = st.builds(
    Epoch,
    *[st.integers(1, 1000)] * 2,
    train_loss=losses,
    train_acc=shares,
    val_loss=losses,
    val_acc=shares,
    images_per_s=st.floats(0, 1e6),
    seconds=st.floats(0, 1e6),
    processes=st.integers(1, 64),
    efficiency=st.one_of(st.none(), st.floats(0, 1)),
)
values = st.one_of(st.floats(-1e3, 1e3), st.sampled_from([math.nan, math.inf]))
outcomes = st.one_of(st.sampled_from(["", "failed"]), st.integers(0, 99).map("pruned after epoch {}".format))
trials = st.one_of(
    st.builds(TrialEnd, st.integers(0), st.one_of(st.none(), values), outcomes, st.floats(0, 1e6)),
    st.builds(TrialEnd, st.integers(0), values, outcomes, st.floats(0, 1e6), values, st.integers(0)),
)
NAMES = ("val/acc", "test/acc", "test/top5", "test/f1", "test/ece")
MEASURED = ("train/images_per_s", "train/data_wait", "train/efficiency", "train/seconds")
results = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1)).flatmap(
    lambda known: st.dictionaries(st.sampled_from(MEASURED), st.floats(0, 4e5)).map(lambda more: {**known, **more})
)


def alike(one: object, other: object, digits: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        same = one == other or (math.isnan(one) and math.isnan(other))
        return same or math.isclose(one, other, rel_tol=1e-9, abs_tol=digits)
    return one == other


@given(epochs, st.sampled_from(["", "12:00:01 ", "[1] "]))
def test_the_line_of_an_epoch_is_read_as_it_was_written(epoch: Epoch, before: str) -> None:
    found = Epoch.find(f"{before}{epoch}")
    assert found is not None
    assert str(found) == str(epoch)
    assert all(alike(one, other, 0.51) for one, other in zip(astuple(found), astuple(epoch), strict=True))
    assert alike(found.val_loss, epoch.val_loss, 0.0051)
    assert alike(found.val_acc, epoch.val_acc, 0.00051)


@given(trials)
def test_the_line_of_a_trial_is_read_as_it_was_written(trial: TrialEnd) -> None:
    found = TrialEnd.find(str(trial))
    assert found is not None
    assert str(found) == str(trial)
    assert all(alike(one, other, 0.051) for one, other in zip(astuple(found), astuple(trial), strict=True))


@given(epochs)
def test_metrics_of_sagemaker_are_the_numbers_of_the_line(epoch: Epoch) -> None:
    printed = {
        "train/loss": (epoch.train_loss, f"{epoch.train_loss:.2f}"),
        "val/loss": (epoch.val_loss, f"{epoch.val_loss:.2f}"),
        "val/acc_percent": (
            100 * epoch.val_acc + 0 * epoch.val_loss,
            f"{100 * epoch.val_acc:.1f}",
        ),  # with the loss
        "images_per_s": (epoch.images_per_s, f"{epoch.images_per_s:.0f}"),
    }
    for name, (value, text) in printed.items():
        found = re.search(METRIC_PATTERNS[name], str(epoch))
        assert (found and found[1]) == (text if math.isfinite(value) else None)


@given(results)
def test_each_row_of_the_final_table_is_recognised_in_the_log(metrics: dict[str, float]) -> None:
    table = result_table(metrics).splitlines()
    assert len(table) == len(metrics)
    for row in table:
        assert len(row) <= 80
        assert is_result_row(row)
        assert Epoch.find(row) is TrialEnd.find(row) is None
    for name in {"val/acc", "test/acc"} & metrics.keys():
        (value,) = (found[1] for row in table if (found := re.search(METRIC_PATTERNS[name], row)))
        assert value == f"{metrics[name]:.4f}"


@given(st.one_of(epochs, trials))
def test_no_other_line_is_mistaken_for_a_row_of_the_final_table(line: Epoch | TrialEnd) -> None:
    assert not is_result_row(str(line))
    assert (Epoch.find(str(line)) is None) == isinstance(line, TrialEnd)
    assert (TrialEnd.find(str(line)) is None) == isinstance(line, Epoch)


@pytest.mark.parametrize(
    "text", ["", "Training resnet50, head", "Ended after epoch 2 of 10", "best  trial 3, val/acc 0.9"]
)
def test_other_lines_report_nothing(text: str) -> None:
    assert Epoch.find(text) is TrialEnd.find(text) is None
    assert not is_result_row(text)


def test_the_lines_are_those_that_the_guides_show() -> None:
    guides = [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]
    lines = [line for guide in guides for line in guide.read_text().splitlines()]
    shown = [line for line in lines if re.match(r"epoch \d", line)]
    assert shown
    assert all(str(Epoch.find(line)) == line for line in shown)
    assert any(is_result_row(line) for line in lines)
