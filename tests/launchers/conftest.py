"""What tests of several commands share."""

from collections.abc import Callable

import pytest

from launchers.cli import verbs


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command in this process and return what it prints, stdout and then stderr."""

    def said(*words: str, status: int = 0) -> str:
        ended = verbs.main(words)
        printed = capsys.readouterr()
        assert ended == status, printed
        return printed.out + printed.err

    return said
