"""The configuration files agree with the code, with each other and with the README."""

import re
import shlex
from dataclasses import astuple
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

import launchers.resolvers  # noqa: F401 (registers ${new_run_id:})
from launchers.sweep.samplers import build_pruner, build_sampler
from launchers.sweep.space import read
from tests.support.project import ROOT

CONF = ROOT / "conf"


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "base")


def choices() -> list[str]:
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    return [f"{group}={name}" for group in groups for name in names(group)]


def test_there_are_options_to_test() -> None:
    assert {"data=drawn", "model=resnet50", "launcher=local", "logger=wandb", "experiment=quickstart"} <= set(choices())


@pytest.mark.parametrize("choice", choices())
def test_every_choice_composes_and_lacks_only_what_the_user_must_set(choice: str) -> None:
    cfg = composed(choice)
    assert OmegaConf.missing_keys(cfg) <= {"data.root"}
    OmegaConf.resolve(composed(choice, "data.root=x"))


@pytest.mark.parametrize("group", ["data", "model"])
def test_a_setting_and_its_argument_have_the_same_default(group: str) -> None:
    cfg: dict[str, Any] = OmegaConf.to_container(composed("data.root=x")[group], resolve=True)  # type: ignore[assignment]
    target = get_class(cfg.pop("_target_"))
    # the description of a backbone that is not built is an argument, but not a setting
    parameters = {
        k: p
        for k, p in signature(target).parameters.items()
        if p.kind is Parameter.KEYWORD_ONLY and not k.startswith("released")
    }
    assert cfg.keys() - {"root"} == parameters.keys()
    defaults = {name: p.default for name, p in parameters.items() if name not in ("source", "augment", "grow_epochs")}
    assert {name: _plain(default) for name, default in defaults.items()} == {name: cfg[name] for name in defaults}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", names("experiment"))
def test_an_experiment_sets_nothing_about_the_machine(name: str) -> None:
    """Such an experiment would fail on a rented machine, where the launcher is the local one."""
    content = OmegaConf.load(CONF / "experiment" / f"{name}.yaml")
    assert isinstance(content, DictConfig)
    assert not {"launcher", "aws", "hpo", "hydra"} & set(content)


def test_the_default_trains_resnet50_on_the_real_photos() -> None:
    cfg = composed()
    assert (cfg.model.backbone, cfg.model.weights, cfg.model.trainable) == ("resnet50", "IMAGENET1K_V2", "head")
    assert cfg.data.source._target_ == "dogbreed.dogimages.DogImages"
    assert composed("experiment=finetune").model.trainable == "layer4"


@pytest.mark.parametrize("data", ["dogimages", "drawn", "folder"])
def test_data_modules_can_be_built_before_their_photos_exist(data: str, tmp_path: Path) -> None:
    instantiate(composed(f"data={data}", f"data.root={tmp_path / 'none'}").data, _convert_="all")


@pytest.mark.parametrize("name", names("launcher"))
def test_the_readme_says_what_each_launcher_can_do(name: str) -> None:
    capabilities = get_class(composed(f"launcher={name}").launcher._target_).capabilities
    answers = ["yes" if can else "no" for can in astuple(capabilities)]
    assert f"| `{name}` | {' | '.join(answers)} |" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("sampler", names("hpo/sampler"))
@pytest.mark.parametrize("pruner", names("hpo/pruner"))
def test_every_sampler_and_pruner_can_be_built(sampler: str, pruner: str) -> None:
    cfg = composed("hpo=optuna", f"hpo/sampler={sampler}", f"hpo/pruner={pruner}")
    hpo: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)["hpo"]  # type: ignore[call-overload, index]
    space, _ = read([], {"model.lr": "choice(1e-3,1e-2)", "seed": "range(3)"})
    study = optuna.create_study(sampler=build_sampler(hpo["sampler"], space, 0, 0), pruner=build_pruner(hpo["pruner"]))
    assert study.ask(space.distributions()).params.keys() == {"model.lr", "seed"}


def commands() -> list[str]:
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```(?:bash|console|sh)\n(.*?)```", readme, re.DOTALL)
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return sorted(
        {part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("python train.py")}
    )


@pytest.mark.parametrize("command", commands())
def test_the_readmes_commands_compose(command: str) -> None:
    overrides = [word for word in shlex.split(command)[2:] if not word.startswith(("-", "resume="))]
    ranges = [parsed for parsed in OverridesParser.create().parse_overrides(overrides) if parsed.is_sweep_override()]
    typed = [text for text in overrides if text not in [parsed.input_line for parsed in ranges]]
    cfg = composed(*typed)
    if "hpo=optuna" in typed:
        space, _ = read(overrides, cfg.hpo.space or {})
        composed(*typed, *space.overrides(space.first()))
    else:
        composed(*typed, *(f"{parsed.key_or_group}={next(parsed.sweep_string_iterator())}" for parsed in ranges))


def test_the_readme_has_commands() -> None:
    assert "python train.py experiment=quickstart" in commands()
