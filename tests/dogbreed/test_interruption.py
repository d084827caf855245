"""A signal stops the run even if a library swallows the exception that it raised."""

import os
import signal
from contextlib import suppress

import pytest

from dogbreed.errors import Interrupted
from dogbreed.interruption import Interruption, note


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_came_before_training_and_was_swallowed_ends_it(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    note(signum)
    with pytest.raises(Interrupted) as raised, Interruption():
        pytest.fail("training has begun")
    assert raised.value.signum == signum
    assert signal.getsignal(signum) is before
    with Interruption():  # once
        pass


def test_a_signal_whose_exception_is_swallowed_in_training_ends_it_at_the_next_check() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), Interruption() as stop:  # noqa: PT012
        with suppress(Interrupted):  # as a library may
            os.kill(os.getpid(), signal.SIGTERM)
        stop.check()
