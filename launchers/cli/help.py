"""Print `python train.py --help`. Hydra's own help copies its config once for each group, which takes half a second."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from dogbreed.resolvers import for_heads
from launchers.resume import expand

_HEAD = """\
Fine-tune an image classifier on photos of dog breeds, or on your own photos.

Try:
  python train.py experiment=quickstart          draws its own dogs, no download
  python train.py                                ResNet50, 8,351 photos, 1.1 GB
  python train.py data=folder data.root=PHOTOS   your photos, a folder per class
  python train.py resume=runs/RUN                resume a run
  python train.py resume=runs/RUN trainer.max_epochs=60  train it for longer
  python train.py -m model.lr=1e-3,3e-3 seed=0,1 a sweep: each combination once
  python train.py -m hpo=optuna experiment=quickstart    a search
  python train.py dry_run=true                   print the plan, run nothing
  python train.py launcher=sagemaker_spot aws=rehearsal  the cloud, rehearsed

Groups, to choose from with group=option:
"""
_FOOT = """\
Flags of train.py:  python train.py --hydra-help
Manage your runs:   python -m launchers --help
"""


def print_help(conf: Path, overrides: Sequence[str]) -> None:
    """Print the help, with the settings as `overrides` change them. conf: the folder of the YAML files."""
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("config", expand(overrides))
    print(_HEAD + _groups(conf))
    print("Settings, to change with key=value:\n" + textwrap.indent(_settings(cfg), "  "))
    print(_FOOT, end="")


def _settings(cfg: DictConfig) -> str:
    """Return the settings as YAML, with the defaults that apply to them instead of `${for_heads:A,B}`."""
    return re.sub(
        r"\$\{for_heads:([^,}]*),([^}]*)\}", lambda of: str(for_heads(*of.groups(), _root_=cfg)), OmegaConf.to_yaml(cfg)
    )


def _groups(conf: Path) -> str:
    """List the options of each group, each with the first comment of its file."""
    lines = []
    for group in sorted(path for path in conf.rglob("*") if path.is_dir()):
        name = group.relative_to(conf).as_posix()
        if name.split("/")[0] == "hydra":
            continue
        lines.append(f"  {name}=")
        for option in sorted(group.glob("*.yaml")):
            if option.stem != "base":  # base.yaml holds what the options share
                text = f"    {option.stem:<19} {_comment(option)}".rstrip()
                lines.append(textwrap.fill(text, 80, subsequent_indent=" " * 24))
    return "\n".join(lines) + "\n"


def _comment(path: Path) -> str:
    comments = [line[2:] for line in path.read_text(encoding="utf-8").splitlines()[:2] if line.startswith("# ")]
    return next((text for text in comments if not text.startswith("@package")), "")
