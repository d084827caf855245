"""Check the id, the folder and the name of a run, from which every launcher builds names."""

import re
from pathlib import Path

from launchers.spec import RunSpec

_TRIAL = re.compile(r"(.+)-[0-9a-f]{6}-\d+")  # as launchers/sweep/folders.py names it


def name_findings(spec: RunSpec) -> list[str]:
    """List what is wrong with the run's id, folder and name, from which every launcher builds names."""
    findings = []
    if not Path(spec.folder).is_absolute():
        findings.append(f"The run folder must be an absolute path, not {spec.folder!r}.")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,53}[A-Za-z0-9])?", spec.run_id):
        findings.append(
            f"run_id={spec.run_id!r} is not a valid run id: it becomes part of folder, job and tag names.\n"
            "Try: at most 55 letters, digits and hyphens, with no hyphen at either end"
        )
    name = spec.config.get("name")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9]([\w-]{0,61}[A-Za-z0-9])?", str(name), re.ASCII):
        findings.append(
            f"name={name!r} is not a valid name for a run: it becomes a tag, and is typed in commands.\n"
            "Try: at most 63 letters, digits, hyphens and underscores, with a letter or digit at either end"
        )
    return findings


def search_of(run_id: str) -> str:
    """Return the name of the search that a run is a trial of, by its id; empty for any other run."""
    found = _TRIAL.fullmatch(run_id)
    return found[1] if found else ""
