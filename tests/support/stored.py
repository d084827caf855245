"""Files of a run that succeeded, as far as launchers read them, without training."""

from pathlib import Path

from omegaconf import OmegaConf

from launchers import prepare
from launchers.plan import Plan
from launchers.runs.state import State
from launchers.status import Cause, Phase, Status


def stored_run(folder: Path, *overrides: str) -> Plan:
    """Write them into the folder, and return the run's plan."""
    plan = prepare([*overrides, f"hydra.run.dir={folder}"])[1]
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "spec.json").write_text(plan.spec.to_json())
    OmegaConf.save(dict(plan.spec.config), folder / "config.yaml")
    (folder / "metrics.json").write_text('{"val/acc": 0.5, "test/acc": 0.25}')
    (folder / "report.html").write_text("a report")
    (folder / "train.log").write_text("2026-11-23 00:00:00,000 INFO attempt 1 (pid 7 on here)\n")
    State.of_this_process(Status(Phase.LOST)).ended(Phase.SUCCEEDED, Cause.NONE, "").write(folder)
    return plan
