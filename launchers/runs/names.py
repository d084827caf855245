"""Check the id and the folder of a run, from which every launcher builds names."""

import re
from pathlib import Path

from launchers.spec import RunSpec


def name_findings(spec: RunSpec) -> list[str]:
    """List what is wrong with the run's id and folder, from which every launcher builds names."""
    findings = []
    if not Path(spec.folder).is_absolute():
        findings.append(f"The run folder must be an absolute path, not {spec.folder!r}.")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,53}[A-Za-z0-9])?", spec.run_id):
        findings.append(
            f"run_id={spec.run_id!r} is not a valid run id: it becomes part of folder, job and tag names.\n"
            "Try: at most 55 letters, digits and hyphens, with no hyphen at either end"
        )
    return findings
