"""Modules that must not import torch, because commands that print a plan or a status must not wait for it."""

import subprocess
import sys

import pytest

from tests.support.project import ROOT

LIGHT = ["errors", "run_folder", "workload", "progress", "speedup", "distributed.ranks", "interruption", "photos"]


@pytest.mark.parametrize("name", LIGHT)
def test_it_loads_no_torch(name: str) -> None:
    script = f"import sys, dogbreed.{name}; print(sorted({{'torch', 'lightning', 'torchvision'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
