"""That what is done once a process for the tests comes to what is done each time without them."""

import json
import os
import subprocess
import sys

import hydra._internal.config_loader_impl as loading

from tests.support.project import ROOT

COMMANDS = (
    ["experiment=quickstart"],
    ["experiment=quickstart", "model.lr=0.5", "data.batch_size=4"],
    ["data=folder", "data.root=photos", "+hydra.job.env_set.A=b"],
    ["experiment=quickstart", "launcher=sagemaker_spot", "~trainer.max_epochs"],
    ["experiment=quickstart", "model.lr=0.25"],
    ["launcher=sagemaker_spot", "hydra.searchpath=[file://elsewhere]", "model.lr=0.25"],
)
COMPOSES = """
import json, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
import launchers.resolvers
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    for overrides in json.loads(sys.argv[2]):
        print(json.dumps(OmegaConf.to_yaml(compose("config", overrides, return_hydra_config=True))))
"""


def test_files_that_are_merged_once_give_what_they_give_when_merged_each_time() -> None:
    words = ["-W", "ignore", "-c", COMPOSES, str(ROOT / "conf"), json.dumps([*COMMANDS, *COMMANDS])]
    here, plain = ({**os.environ, "PYTHONPATH": path} for path in (os.environ["PYTHONPATH"], str(ROOT)))
    children = [
        subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for environment in (here, plain)
    ]
    ours, real = (child.communicate()[0].splitlines() for child in children)
    assert [child.returncode for child in children] == [0, 0]
    assert ours == real
    assert len(set(ours)) == len(COMMANDS)


def test_the_processes_of_the_tests_do_so() -> None:
    assert loading.create_defaults_list.__module__ == "quick_runs"
