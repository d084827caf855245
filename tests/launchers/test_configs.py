"""The configuration files agree with the code and with each other."""

from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from launchers.sweep.samplers import build_pruner, build_sampler
from launchers.sweep.space import read
from tests.support.configs import CONF, choices, composed, names


def test_there_are_options_to_test() -> None:
    assert {"data=drawn", "model=resnet50", "launcher=local", "logger=wandb", "experiment=quickstart"} <= set(choices())


@pytest.mark.parametrize("choice", choices())
def test_every_choice_composes_and_lacks_only_what_the_user_must_set(choice: str) -> None:
    cfg = composed(choice)
    assert OmegaConf.missing_keys(cfg) <= {"data.root"}
    OmegaConf.resolve(composed(choice, "data.root=x"))


@pytest.mark.parametrize("group", ["data", "model"])
def test_a_setting_and_its_argument_have_the_same_default(group: str) -> None:
    """Of training on photos: a notebook does that, and only conf/ knows whether features are cached."""
    composition = composed("data.root=x", "features.mode=off")[group]
    cfg: dict[str, Any] = OmegaConf.to_container(composition, resolve=True)  # type: ignore[assignment]
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


@pytest.mark.parametrize("sampler", names("hpo/sampler"))
@pytest.mark.parametrize("pruner", names("hpo/pruner"))
def test_every_sampler_and_pruner_can_be_built(sampler: str, pruner: str) -> None:
    cfg = composed("hpo=optuna", f"hpo/sampler={sampler}", f"hpo/pruner={pruner}")
    hpo: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)["hpo"]  # type: ignore[call-overload, index]
    space, _ = read([], {"model.lr": "choice(1e-3,1e-2)", "seed": "range(3)"})
    study = optuna.create_study(sampler=build_sampler(hpo["sampler"], space, 0, 0), pruner=build_pruner(hpo["pruner"]))
    assert study.ask(space.distributions()).params.keys() == {"model.lr", "seed"}
