"""What is said of flags that train.py does not have, and of settings on both sides of one."""

import contextlib
import io
import shlex

import pytest
from hydra._internal.utils import get_args_parser
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers.flags import _value_of, refuse_unknown


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "seed=1 trainer.max_epochs=2",
        "-m seed=1,2 model.lr=0.1",
        "seed=1,2 model.lr=0.1 -m",
        "--config-name other seed=1",
        "seed=1 --cfg job --resolve",
        "--info",
        "-cd here -cn=other seed=1",
    ],
)
def test_what_hydra_takes_passes(typed: str) -> None:
    refuse_unknown(shlex.split(typed))


@pytest.mark.parametrize(
    ("typed", "said", "tried"),
    [
        ("a=b -m c=d", "some are in front of -m, and c=d behind it", "Try: python train.py -m a=b c=d"),
        (
            "a=1 --config-name x -m b='2 3' c=4",
            "of --config-name x -m, and b=2 3 c=4 behind",
            "Try: python train.py --config-name x -m a=1 'b=2 3' c=4",
        ),
        ("a=1 --config-n x b=2", "of --config-n x, and b=2 behind", "Try: python train.py --config-n x a=1 b=2"),
        ("--multrun seed=1,2", "--multrun is not a flag of train.py.", "Try: --multirun"),
        ("--epochs 5", "--epochs is not a flag", "Try: trainer.max_epochs=5"),
        ("seed=1 --lr=0.1", "--lr is not a flag", "Try: model.lr=0.1"),
        ("--batch-size 32 seed=1", "--batch-size is not a flag", "Try: data.batch_size=32"),
        ("--dry-run", "--dry-run is not a flag", "Try: dry_run=true"),
        ("-x", "-x is not a flag", "Try: python train.py --hydra-help, which lists the flags"),
        ("--epochs 5 --zzzz", "2 problems found", "Try: trainer.max_epochs=5"),
        ("seed=1 --config-name", "--config-name needs a value.", "Try: --config-name=VALUE"),
        ("--cfg jobs", "--cfg=jobs is not one of the choices: job, hydra, all.", "Try: --cfg="),
        ("--con x", "--con could be any of several flags.", "--config-name"),
        ("--multirun=yes", "--multirun takes no value.", "Try: --multirun"),
    ],
)
def test_what_hydra_would_answer_with_its_usage(typed: str, said: str, tried: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_unknown(shlex.split(typed))
    assert said in str(caught.value)
    assert tried in str(caught.value)


def test_a_letter_of_several_behind_one_dash_has_no_value() -> None:
    """Python 3.13 reports -mx as -x, which was not typed."""
    assert _value_of("-x", ["-mx", "seed=1"]) == "true"


_words = st.lists(
    st.sampled_from(
        ["a=1", "b=x y", "~c", "-m", "--config-name", "--config-n", "-cd=here", "--cfg", "job", "--zz", "-q=1", "-r"]
    ),
    max_size=5,
)


@given(_words)
def test_exactly_what_hydra_refuses_is_refused_and_what_is_to_be_typed_is_taken(words: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            get_args_parser().parse_args(words)
            taken = True
        except SystemExit:
            taken = False
    try:
        refuse_unknown(words)
    except ConfigError as error:
        assert not taken
        _, tried, command = str(error).partition("Try: python train.py ")
        if tried and "--hydra-help" not in command:
            refuse_unknown(shlex.split(command))
    else:
        assert taken
