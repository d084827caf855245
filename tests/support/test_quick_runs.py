"""That what is done once a process for the tests comes to what is done each time without them."""

import json
import subprocess
import sys
from pathlib import Path

import hydra._internal.config_loader_impl as loading
from hydra import compose, initialize_config_dir

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
sys.path.insert(0, sys.argv[3])
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import create_defaults_list
from omegaconf import OmegaConf
import launchers.resolvers
print(create_defaults_list.__module__)
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    for overrides in json.loads(sys.argv[2]):
        print(json.dumps(OmegaConf.to_yaml(compose("config", overrides, return_hydra_config=True))))
"""


def test_files_that_are_merged_once_give_what_they_give_when_merged_each_time() -> None:
    words = ["-c", COMPOSES, str(ROOT / "conf"), json.dumps([*COMMANDS, *COMMANDS]), str(ROOT)]
    children = [
        subprocess.Popen([sys.executable, "-W", "ignore", *flags, *words], stdout=subprocess.PIPE, text=True)
        for flags in ([], ["-I"])  # which keeps Python from what PYTHONPATH names, and so from sitecustomize.py
    ]
    (quick, *ours), (plain, *real) = (child.communicate()[0].splitlines() for child in children)
    assert [child.returncode for child in children] == [0, 0]
    assert (quick, plain) == ("quick_runs", "hydra._internal.defaults_list")
    assert ours == real
    assert len(set(ours)) == len(COMMANDS)


def test_the_processes_of_pytest_merge_them_once_too() -> None:
    assert loading.create_defaults_list.__module__ == "quick_runs"


def test_a_folder_that_a_test_writes_is_read_each_time(tmp_path: Path) -> None:
    for value in (1, 2):
        (tmp_path / "config.yaml").write_text(f"a: {value}\n")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            assert compose("config").a == value
