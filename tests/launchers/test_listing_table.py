"""What `python -m launchers list` prints."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.cli.listing import Listed, table
from launchers.cli.verbs import main as launchers_command
from launchers.local import LocalLauncher
from launchers.plan import Plan
from launchers.rehearsal import process
from launchers.runs.launched import remember
from launchers.spec import RunSpec
from launchers.status import Handle, Phase, Status

NAMES = st.from_regex(r"[a-z0-9-]{1,58}", fullmatch=True)
STARTED = "2026-11-29T12:57:09.123+00:00"


@given(st.lists(st.tuples(NAMES, st.sampled_from(list(Phase)), st.integers(0, 12)), min_size=1))
def test_the_table_fits_80_columns_and_names_every_run(runs: list[tuple[str, Phase, int]]) -> None:
    listed = [
        Listed(
            LocalLauncher(),
            Handle("sagemaker", "eu-west-1", name),
            Status(phase, attempt=tries, started_at=STARTED),
            Path(f"/{name}"),
        )
        for name, phase, tries in runs
    ]
    lines = table(listed).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(line.split()[0] == f"/{name}" for line in lines[1:]) for name, _, _ in runs)


def test_listing_starts_no_server_and_shows_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state = tmp_path / "state"
    for name, day in (("old", 1), ("new", 3), ("middle", 2)):
        spec = RunSpec(name, (), {}, str(tmp_path / "runs" / name), f"2026-11-0{day}T00:00:00+00:00", None, False)
        (tmp_path / "runs" / name).mkdir(parents=True)
        plan = Plan(spec, Handle("sagemaker", "rehearsal", name), ())
        remember(tmp_path / "runs" / name, plan, {"state_dir": str(state)})
    assert launchers_command(["list", "--all"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["runs/new", "runs/middle", "runs/old"]
    assert launchers_command(["list", "sagemaker://rehearsal", "--state-dir", str(state)]) == 0
    assert process.running(state) is None
