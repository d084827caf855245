"""A rented machine's folder, in which the entry point runs."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from tests.support.project import ROOT

REMOTE = ROOT / "launchers" / "remote" / "entry.py"
LONGEST_S = 400  # of a machine, which is busy with others here
SAYS = """
import json, os, sys
from pathlib import Path
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "sent": os.environ["DOGBREED_SENT"]}))
folder = Path(os.environ["SAGEMAKER_BASE_DIR"]) / "checkpoints"
(folder / "metrics.json").write_text("{}")
(folder / "checkpoints").mkdir(exist_ok=True)
(folder / "checkpoints" / "best.ckpt").write_text("weights")
(folder / ".last.ckpt.tmp-77.sagemaker-ignore").write_text("half")
"""
# once so many processes have ended, each look at the clock finds it much later; no earlier is anybody told to end
_AFTER_LAST_WORDS = """
import entry, sys, time
exits, later, known, monotonic = [], [], entry._Exit, time.monotonic
def now():
    later.extend([1e9] * (len(exits) >= {count}))
    return monotonic() + sum(later)
time.monotonic, entry._LAST_WORDS_S = now, 1e6
entry._Exit = lambda *about: exits.append(about) or known(*about)
sys.exit(entry.main())
"""


class Machine:
    def __init__(
        self,
        base: Path,
        train: str,
        *,
        requires: str = "",
        again: Any = None,
        unpacks: str | None = None,
        versions: dict[str, str] | None = None,
        last_words: int | None = None,
    ) -> None:
        """last_words: of how many processes, after which the others have had their time, instead of some seconds."""
        self.base, self._last_words = base, last_words
        code = base / "input/data/code"
        code.mkdir(parents=True)
        (base / "input/data/spec").mkdir()
        files = {"train.py": train, "pyproject.toml": f"[project]\ndependencies = [{requires}]\n"}
        files |= {f"launchers/remote/{path.name}": path.read_text() for path in REMOTE.parent.glob("*.py")}
        with tarfile.open(code / "bundle.tar.gz", "w:gz") as archive:
            for name, text in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
        own = ["launcher=local", "hydra.run.dir=/opt/ml/checkpoints", "data.root=/tmp/dogbreed/photos"]
        sent = {
            "spec": {},
            "fresh": {"typed": ["seed=1", "x=/opt/ml"], "own": own},
            "again": again,
            "extras": [],
            "versions": versions or {},
            "unpacks": unpacks,
        }
        (base / "input/data/spec/spec.json").write_text(json.dumps(sent))

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        (self.base / "tmp").mkdir(exist_ok=True)
        surroundings = {
            **os.environ,
            "SAGEMAKER_BASE_DIR": str(self.base),
            "TMPDIR": str(self.base / "tmp"),
            **environment,
        }
        words = [str(REMOTE)]
        if self._last_words is not None:
            words = ["-c", _AFTER_LAST_WORDS.format(count=self._last_words)]
            surroundings["PYTHONPATH"] = f"{REMOTE.parent}:{surroundings['PYTHONPATH']}"
        return subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=surroundings
        )

    def run(self, **environment: str) -> tuple[int, list[str]]:
        process = self.start(**environment)
        said = process.communicate(timeout=LONGEST_S)[0]
        return process.returncode, said.splitlines()

    @property
    def failure(self) -> str:
        return (self.base / "output/failure").read_text()
