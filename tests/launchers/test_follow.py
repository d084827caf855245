"""What is printed while a remote run is followed."""

from types import SimpleNamespace
from typing import Any

import pytest

from launchers.follow import follow
from launchers.status import Handle, LogLine, Phase, Status

RUN = Handle("toy", "there", "run")


def followed(capsys: pytest.CaptureFixture[str], before: Status, *lines: LogLine) -> str:
    """Follow a run that stands like this until its log has ended, and return what was printed."""
    ended: list[Status] = []

    def logs(handle: Handle, *, follow: bool) -> Any:
        yield from lines
        ended.append(Status(Phase.SUCCEEDED, attempt=lines[-1].attempt))

    launcher: Any = SimpleNamespace(
        capabilities=SimpleNamespace(remote=True),
        poll_s=0.0,
        status=lambda handle: ended[-1] if ended else before,
        logs=logs,
        result=lambda handle: None,
    )
    follow(launcher, RUN)
    return capsys.readouterr().out


def test_an_interruption_is_said_also_where_no_poll_has_seen_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLine(1, 0, "a"), LogLine(2, 0, "b"), LogLine(2, 0, "c"), LogLine(3, 0, "d")
    said = followed(capsys, Status(Phase.RUNNING, attempt=1), *lines)
    interrupted = f"{RUN}: interrupted, getting another machine"
    at = [line for line in said.splitlines() if not line.endswith(": running")]
    assert at == [
        *("a", interrupted, "--- attempt 2 ---", "b", "c", interrupted, "--- attempt 3 ---", "d"),
        f"{RUN}: succeeded after 3 attempts",
    ]


def test_attempts_from_before_it_was_followed_are_no_interruptions_now(capsys: pytest.CaptureFixture[str]) -> None:
    said = followed(capsys, Status(Phase.RUNNING, attempt=2), LogLine(1, 0, "a"), LogLine(2, 0, "b"))
    assert "--- attempt 2 ---" in said
    assert "interrupted" not in said
