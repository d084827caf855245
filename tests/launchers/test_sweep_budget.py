"""limits of a search whose trials are jobs of their own: what each trial is given, and when no further one starts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dogbreed.errors import ConfigError
from launchers.cost.limits import Limits
from launchers.plan import Costs
from launchers.sweep.budget import Budget
from launchers.sweep.trials import Trial
from tests.support.sweeps import Sweep

COSTS = Costs(worst_usd=3.0, least_usd=0.05, least_h=0.07, expected_usd=0.2)  # a trial is given 0.30 at least


def budget(max_usd: float | None = None, n_trials: int = 10, **more: Any) -> Budget:
    return Budget(Limits(max_usd=max_usd, max_hours=more.pop("hours", None)), COSTS, n_trials, **more)


def trial(number: int, **about: Any) -> Trial:
    return Trial(number, about.pop("state", "running"), {}, None, "", 0.0, 0, "", **about)


def test_all_trials_and_the_test_of_the_best_get_the_same_if_that_is_enough() -> None:
    asked = budget(11.0)
    assert asked.share([], 0) == pytest.approx(1.0)
    assert asked.fitting == 10
    assert str(asked) == (
        "$11.00 for the whole search: $1 for a trial and its end,\nso that all 10 and the test of the best fit at worst"
    )
    assert budget(1000.0).share([], 0) == pytest.approx(3.0)  # no more than it can cost


def test_otherwise_fewer_trials_get_what_they_need_and_what_is_saved_goes_to_further_ones() -> None:
    asked = budget(1.5)
    assert asked.fitting == 4
    assert "4 of 10 trials fit at worst; as trials end for less, further ones start" in str(asked)
    running = [trial(number, given_usd=0.3) for number in range(3)]
    assert asked.share(running, 3) == pytest.approx(0.3)
    running.append(trial(3, given_usd=0.3))
    assert asked.share(running, 4) is None  # the rest is for the test
    cheap = [*running[:3], replace(running[3], state="complete", usd=0.01)]
    assert asked.share(cheap, 4) is None  # 0.59 are left, for one trial and the test 0.60 are needed
    cheaper = [*running[:2], *(replace(each, state="pruned", usd=0.01) for each in running[2:])]
    assert asked.share(cheaper, 4) == pytest.approx(0.3)


def test_a_trial_keeps_what_it_was_given_so_that_its_job_is_found_again() -> None:
    assert budget(1.5).share([trial(0, given_usd=0.31, state="waiting")], 0) == 0.31


def test_earlier_trials_that_had_no_limit_count_with_what_they_have_cost() -> None:
    assert budget(1.5).share([trial(0, state="complete", usd=1.0)], 1) is None


def test_a_limit_below_one_trial_and_its_test_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError, match=r"a trial is given \$0.3 at least") as error:
        budget(0.5).check()
    assert str(error.value).endswith("Try: limits.max_usd=0.603, or hpo.one_job=true")
    budget(0.603).check()
    Budget(Limits(max_usd=0.001), None, 10).check()  # of trials on this machine, which cost nothing


def test_the_best_trial_s_test_gets_all_that_is_left() -> None:
    best = trial(1, state="complete", given_usd=0.4, usd=0.25)
    others = [trial(0, state="failed", given_usd=0.4, usd=None)]
    (word,) = budget(2.0).for_the_test([*others, best], best)
    assert float(word.removeprefix("limits.max_usd=")) == pytest.approx(2.0 - 0.4)
    assert budget().for_the_test([best], best) == []


def test_hours_count_from_the_start_and_end_the_search() -> None:
    now = [0.0]
    asked = budget(hours=1.0, clock=lambda: now[0])
    assert asked.overrides(None) == ["limits.max_hours=1"]
    now[0] = 1800.0
    assert asked.overrides(0.3) == ["limits.max_usd=0.3", "limits.max_hours=0.5"]
    assert asked.admits(trial(0), lambda number, share: 1.0)
    now[0] = 3400.0
    assert not asked.admits(trial(1), lambda number, share: 1.0)
    assert asked.over == "limits.max_hours=1 is over"


def test_what_is_over_can_go_on_once_a_trial_has_ended_for_less() -> None:
    asked = budget(0.6)
    assert not asked.admits(trial(1), lambda number, share: share([trial(0, given_usd=0.3)]))
    assert asked.over == "limits.max_usd=0.6 pays for no further trial"
    ended = trial(0, state="complete", given_usd=0.3, usd=0.0)
    assert asked.admits(trial(1), lambda number, share: share([ended]))
    assert asked.over == ""


def test_a_search_ends_when_its_limit_pays_for_no_further_trial_and_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "search")
    paid = "launcher._target_=tests.support.fake_training.PaidLauncher"  # each trial, and the test, costs 0.25
    words = (paid, "hpo.n_trials=10", "hpo.parallel=1", "hpo.study=paid")
    printed = sweep.run(*words, "limits.max_usd=1.5")
    assert "The search ends with 4 of 10 trials: limits.max_usd=1.5 pays for no further trial." in printed
    study = sweep.study()
    assert [trial.user_attrs["usd"] for trial in study.trials if trial.state.name == "COMPLETE"] == [0.25] * 4
    given = [trial.user_attrs.get("given_usd") for trial in study.trials]
    assert all(usd is None or usd == pytest.approx(0.3) for usd in given)
    assert list(study.user_attrs["tested_usd"].values()) == [0.5]  # with its test
    assert "The search ends with 5 of 10 trials" in sweep.run(*words, "limits.max_usd=1.86")
    refused = sweep.run(*words, "limits.max_usd=0.4", status=1)
    assert "limits.max_usd=0.4 is not enough for a search whose trials are jobs of their own" in refused


def test_once_the_hours_are_over_the_best_trial_is_still_tested() -> None:
    now = [0.0]
    asked = budget(2.0, hours=1.0, clock=lambda: now[0])
    now[0] = 4000.0
    best = trial(0, state="complete", given_usd=0.4, usd=0.25)
    assert [word.partition("=")[0] for word in asked.for_the_test([best], best)] == ["limits.max_usd"]


def test_a_trial_is_given_no_less_than_its_launcher_accepts() -> None:
    costs = replace(COSTS, expected_usd=None)
    asked = Budget(Limits(max_usd=2.5 * costs.least_usd), costs, 10)
    asked.check()
    given = asked.share([], 0)
    assert given is not None
    assert given >= costs.least_usd


def test_machines_that_are_kept_after_a_trial_are_set_aside() -> None:
    costs = replace(COSTS, kept_usd=0.1)
    asked = Budget(Limits(max_usd=1.0), costs, 10)
    ended = [trial(number, state="complete", given_usd=0.3, usd=0.1) for number in range(2)]
    assert asked.share(ended, 2) == pytest.approx(0.3)  # 0.60 are left, for one trial and the test
    ended.append(trial(2, state="complete", given_usd=0.3, usd=0.1))
    assert asked.share(ended, 3) is None
    (word,) = asked.for_the_test(ended, ended[0])
    assert float(word.removeprefix("limits.max_usd=")) == pytest.approx(1.0 - 2 * 0.2)
