"""Collect what was checked before a deployment: a table of results, and problems with their causes."""

import textwrap
from dataclasses import dataclass, field

from dogbreed.errors import raise_findings
from launchers.status import LaunchError

MEMORY_MB = 4096  # of ml.c7i.large, the default instance type
_WIDTH = 80


@dataclass
class Checks:
    """rows: name and result of each check. findings: a cause and what to try, as errors have them.

    again: the command that makes the artifact again. larger: what gives the server more memory.
    """

    again: str = "python -m dogbreed.export RUN"
    larger: str = "an instance type with more memory; or --memory-mb, if yours has more"
    rows: list[tuple[str, str]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        return not self.findings

    def passed(self, name: str, result: str) -> None:
        self.rows.append((name, result))

    def failed(self, name: str, cause: str, action: str = "") -> None:
        """Add a problem. cause: a sentence without its full stop. action: what to try; by default to export again."""
        self.problem(name, f"{cause}.\nTry: {action or self.again}")

    def problem(self, name: str, finding: str) -> None:
        self.findings.append(finding)
        self.rows.append((name, f"problem {len(self.findings)}"))

    def raise_findings(self) -> None:
        """Raise one LaunchError with all problems, if there are any."""
        raise_findings(LaunchError, self.findings)

    def __str__(self) -> str:
        """Return the table, at most 80 columns wide."""
        width = max((len(name) for name, _ in self.rows), default=0)
        lines = []
        for name, result in self.rows:
            start = f"{name:<{width}}  "
            lines.append(textwrap.fill(result, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start)))
        return "\n".join(lines)
