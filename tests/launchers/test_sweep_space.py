"""Search spaces: Hydra's syntax becomes plain data, and all findings are reported at once."""

import json
import math
import random
import shlex
from inspect import signature
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers.sweep.search import WHOLE_OR_NULL, whole_findings
from launchers.sweep.space import Choice, Number, SearchSpace, read


def one(text: str) -> Number | Choice:
    space, fixed = read([f"key={text}"], {})
    assert fixed == []
    return space.parameters["key"]


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("interval(1e-4,1e-1)", Number(1e-4, 1e-1)),
        ("interval(1,5)", Number(1.0, 5.0)),
        ("tag(log,interval(1e-4,1e-1))", Number(1e-4, 1e-1, log=True)),
        ("int(interval(1,8))", Number(1, 8, whole=True)),
        ("tag(log,int(interval(1,64)))", Number(1, 64, whole=True, log=True)),
        ("range(16,65,16)", Number(16, 64, whole=True, step=16)),
        ("range(3)", Number(0, 2, whole=True)),
        ("range(0,1,0.25)", Number(0, 0.75, step=0.25)),
        ("range(0,0.4,0.1)", Number(0, 0.3, step=0.1)),
        ("choice(adamw,sgd)", Choice(("adamw", "sgd"))),
        ("adamw,sgd", Choice(("adamw", "sgd"))),
        ("choice(16,32,16)", Choice(("16", "32"))),
        ("choice([0.3,1],[0.5,1])", Choice(("[0.3,1]", "[0.5,1]"))),
        ("choice(true,'a b')", Choice(("True", "a\\ b"))),
    ],
)
def test_hydras_forms_are_read(text: str, parameter: Number | Choice) -> None:
    assert one(text) == parameter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(1e-1,1e-4)", "interval(0.0001,0.1)"),
        ("range(5,1)", "starts at 5 and ends at 1"),
        ("interval(1,1)", "the plain value 1.0"),
        ("range(1,2)", "contains only 1"),
        ("tag(log,interval(0,1))", "must start above 0, got 0.0"),
        ("tag(log,interval(-1,1))", "must start above 0, got -1.0"),
        ("tag(log,range(1,9,2))", "a step of 2"),
        ("tag(log,choice(1,2))", "log applies only to a range of numbers"),
        ("tag(warm,interval(0,1))", "tag warm is unknown"),
        ("glob(*)", "cannot be searched"),
    ],
)
def test_an_invalid_range_is_a_clear_error(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        one(text)
    assert expected in str(raised.value)
    assert "Try: " in str(raised.value)


def test_all_findings_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        read(["a=interval(2,1)", "b=tag(log,interval(0,1))"], {"c": "interval(0,", "d": "3"})
    message = str(raised.value)
    assert message.startswith("4 problems found")
    assert all(f"{key}" in message for key in ("a=interval(2,1)", "b=tag", "hpo.space.c=interval(0,", "d=3"))


def test_typed_ranges_replace_given_ones() -> None:
    given_ = {"model.lr": "interval(0,1)", "model.dropout": "interval(0,0.5)", "model.warmup": "interval(0,0.1)"}
    space, fixed = read(["model.lr=choice(1,2)", "model.dropout=0.2", "seed=3"], given_)
    assert space.parameters == {"model.lr": Choice(("1", "2")), "model.warmup": Number(0.0, 0.1)}
    assert fixed == ["model.dropout=0.2", "seed=3"]


def test_null_removes_a_given_parameter() -> None:
    space, _ = read([], {"model.lr": None, "model.dropout": "interval(0,0.5)"})
    assert list(space.parameters) == ["model.dropout"]


@pytest.mark.parametrize("given_", [{}, {"model.lr": None}])
def test_an_empty_space_is_refused(given_: dict[str, None]) -> None:
    with pytest.raises(ConfigError, match="nothing to search"):
        read(["seed=3"], given_)


def test_the_order_of_parameters_does_not_change_the_space() -> None:
    one_, _ = read(["a=interval(0,1)", "b=1,2"], {})
    other, _ = read(["b=1,2", "a=interval(0,1)"], {})
    assert one_.as_json() == other.as_json()
    assert json.loads(one_.as_json())["a"] == {"low": 0.0, "high": 1.0, "whole": False, "log": False, "step": None}


def test_a_grid_refuses_parameters_with_infinitely_many_values() -> None:
    space, _ = read(["a=interval(0,1)", "b=1,2", "c=range(0,6,2)", "d=tag(log,interval(1,9))", "e=range(0,1,0.25)"], {})
    with pytest.raises(ConfigError) as raised:
        space.grid()
    assert "cannot search a," in str(raised.value)
    assert "cannot search d," in str(raised.value)
    finite = SearchSpace({key: space.parameters[key] for key in "bce"})
    assert finite.grid() == {"b": [1, 2], "c": [0, 2, 4], "e": [0.0, 0.25, 0.5, 0.75]}


numbers = st.floats(1e-9, 1e9, allow_nan=False).map(lambda x: float(f"{x:.6g}"))
words = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=12)


@st.composite
def parameters(draw: st.DrawFn) -> Number | Choice:
    if draw(st.booleans()):
        from dogbreed.commands import override

        kinds = st.one_of(words.map(lambda w: override("k", w)[2:]), st.integers().map(str), numbers.map(repr))
        return Choice(tuple(dict.fromkeys(draw(st.lists(kinds, min_size=2, max_size=5)))))
    low = draw(st.integers(1, 1000))
    high = low + draw(st.integers(1, 1000))
    if draw(st.booleans()):
        return Number(low, high, whole=True, log=draw(st.booleans()))
    return Number(float(low), float(high), log=draw(st.booleans()))


@given(st.dictionaries(st.sampled_from(["model.lr", "data.batch_size", "seed"]), parameters(), min_size=1))
def test_optuna_draws_in_range_and_what_it_draws_can_be_typed(given_: dict[str, Number | Choice]) -> None:
    import optuna
    from hydra.core.override_parser.overrides_parser import OverridesParser

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SearchSpace(given_)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=random.Random(0).randrange(2**31)))
    for _ in range(3):
        drawn = study.ask(space.distributions()).params
        typed = OverridesParser.create().parse_overrides(space.overrides(drawn))
        for parsed in typed:
            parameter = given_[parsed.key_or_group]
            if isinstance(parameter, Choice):
                assert parsed.input_line.partition("=")[2] in parameter.texts
            else:
                value = parsed.value()
                assert parameter.low <= value <= parameter.high
                assert isinstance(value, int) or not parameter.whole
                assert math.isclose(value, drawn[parsed.key_or_group])


def test_settings_that_are_null_or_whole_are_known() -> None:
    from dogbreed.data import DogBreedData  # these bring torch
    from dogbreed.model import DogBreedClassifier

    arguments = {f"data.{name}": argument for name, argument in signature(DogBreedData).parameters.items()}
    arguments |= {f"model.{name}": argument for name, argument in signature(DogBreedClassifier).parameters.items()}
    null_or_whole = {key for key, argument in arguments.items() if argument.annotation in (int | None, "int | None")}
    assert null_or_whole == WHOLE_OR_NULL - {"save.every_n_steps"}


@pytest.mark.parametrize("more", [(), ("experiment=quickstart",), ("data=drawn",)], ids=" ".join)
@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        ("data.batch_size=interval(16,64)", "data.batch_size=int(interval(16,64))"),
        ("data.batch_size=interval(15.5,64.5)", "data.batch_size=int(interval(16,64))"),
        ("data.batch_size=tag(log,interval(8,64))", "data.batch_size=tag(log, int(interval(8,64)))"),
        ("trainer.max_epochs=interval(1,5)", "trainer.max_epochs=int(interval(1,5))"),
        ("seed=interval(0,9)", "seed=int(interval(0,9))"),
        ("data.start_px=interval(32,64)", "data.start_px=int(interval(32,64))"),
    ],
)
def test_a_whole_number_is_not_searched_among_fractions(
    typed: str, instead: str, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space, fixed = read([typed, *more, "hpo=none"], {})
    (finding,) = whole_findings(fixed, space)
    key = typed.partition("=")[0]
    assert finding.startswith(f"{key} takes whole numbers")
    (word,) = shlex.split(finding.partition("Try: ")[2])
    assert word == instead
    again, fixed = read([word, "hpo=none"], {})
    assert list(whole_findings(fixed, again)) == []


def test_a_fraction_is_searched_among_fractions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space, fixed = read(["model.lr=interval(1,5)", "model.warmup=interval(0,0.3)", "trainer.gradient_clip_val=1,2"], {})
    assert list(whole_findings(fixed, space)) == []


def test_a_space_is_shown_as_a_person_would_write_it() -> None:
    log, few = Number(1e-4, 0.1, log=True), Choice(("16", "32"))
    space = SearchSpace({"model.lr": log, "seed": Number(0, 8, whole=True, step=2), "data.batch_size": few})
    assert space.lines() == [
        "  model.lr         0.0001 to 0.1, on a log scale",
        "  seed             0 to 8 in steps of 2, whole",
        "  data.batch_size  16, 32",
    ]
