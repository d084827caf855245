"""A setting that nothing reads is refused, with what may have been meant."""

from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException

from dogbreed.errors import ConfigError
from launchers import prepare
from launchers.choices import unread
from launchers.hydra_errors import message
from launchers.known import hint, near


@pytest.mark.parametrize(
    ("typed", "key", "meant"),
    [
        ("+epochs=1", "epochs", "trainer.max_epochs=1"),
        ("++epochs=1", "epochs", "trainer.max_epochs=1"),
        ("+early_stopping.patience=3", "early_stopping.patience", "trainer.max_epochs"),
        ("+early_stopping={patience: 3, monitor: x}", "early_stopping.monitor", "monitor"),
        ("+trainer.epochs=3", "trainer.epochs", "trainer.max_epochs=3"),
        ("+model.learning_rate=0.1", "model.learning_rate", "model.lr=0.1"),
        ("+model.drop_out=0.1", "model.drop_out", "model.dropout=0.1"),
        ("+data.batchsize=8", "data.batchsize", "data.batch_size=8"),
        ("+data.augment.rotate=1", "data.augment.rotate", "data.augment"),
        ("+save.every_epochs=1", "save.every_epochs", "save.every_s=1"),
        ("+features.view=2", "features.view", "features.views=2"),
        ("+ranks.timeout=2", "ranks.timeout", "ranks.timeout_s=2"),
        ("+sed=1", "sed", "seed=1"),
        ("+launcher.foo=1", "launcher.foo", "conf/launcher/local.yaml has runs_dir, sweeps_dir."),
        ("+launcher.spot=true", "launcher.spot", "launcher=sagemaker_spot launcher.spot=True"),
        ("+aws.regoin=x", "aws.regoin", "aws.region=x"),
        ("+hpo.trials=2", "hpo.trials", "hpo.n_trials=2"),
    ],
)
def test_what_nothing_reads_is_refused(typed: str, key: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        prepare([typed, f"hydra.run.dir={tmp_path}"])
    assert f"Nothing reads the setting {key}." in str(raised.value)
    assert meant in str(raised.value)


def test_all_such_settings_are_listed_at_once_also_those_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nepochs: 3\nmodel:\n  rate: 0.1\n")
    with pytest.raises(ConfigError) as raised:
        prepare(
            ["experiment=mine", "+gpus=1", f"hydra.searchpath=[file://{tmp_path}]", f"hydra.run.dir={tmp_path}/run"]
        )
    assert [name for name in ("epochs.", "model.rate.", "gpus.") if f"setting {name}" not in str(raised.value)] == []


@pytest.mark.parametrize(
    "typed",
    [
        ["+trainer.limit_train_batches=2"],
        ["+trainer.benchmark=true"],
        ["+mine=1e-3", "model.lr=${mine}"],
        ["+my={rate: 1e-3}", "model.lr=${my.rate}"],
        ["logger=csv", "+logger.flush_logs_every_n_steps=1"],
        ["data=drawn", "+data.source.processes=1"],
        ["aws=rehearsal", "+aws.faults.no_capacity=1"],
        ["+aws.mine=1e-3", "model.lr=${aws.mine}"],
        ["data.augment=null"],
        ["model._target_=tests.support.somebody.Model", "+model.depth=3"],
    ],
)
def test_what_something_reads_is_taken(typed: list[str], tmp_path: Path) -> None:
    prepare([*typed, f"hydra.run.dir={tmp_path}"])


def test_somebody_s_own_launcher_may_have_any_settings() -> None:
    assert not [*unread("launcher", {"_target_": "mine.Launcher", "depth": 3})]
    spot = {"spot": True, "instance_type": "ml.m5.large", "max_wait_s": 28800}
    target = "launchers.sagemaker.training.SageMakerLauncher"
    found = unread("launcher", {"_target_": target, **spot, "depth": 3})
    assert [*found] == [("depth", 3, "sagemaker_spot")]


def test_an_argument_of_lightning_s_trainer_is_to_be_added() -> None:
    assert hint("trainer.limit_train_batches", 2) == "Try: +trainer.limit_train_batches=2"


def test_no_setting_is_made_up() -> None:
    from launchers.known import _MEANT, _keys

    assert set(_MEANT.values()) - set(_keys()) == {"hydra.run.dir"}
    assert near("something_else_entirely") == []


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("launcher.foo=1", "conf/launcher/local.yaml has runs_dir, sweeps_dir.\nTry: "),
        ("launcher.run_dir=x", "Try: launcher.runs_dir=x"),
        ("launcher.spot=true", "Try: launcher=sagemaker_gpu launcher.spot=True\n or: launcher=sagemaker_multi "),
        ("launcher=sagemaker_spot launcher.instance=2", "Try: launcher.instances=2"),
        ("launcher=sagemaker_spot launcher.max_wait=60", "Try: launcher.max_wait_s=60"),
        ("launcher=sagemaker_gpu launcher.runs_dir=x", "Try: launcher=local launcher.runs_dir=x"),
        ("aws.state_dir=x", "Try: aws=rehearsal aws.state_dir=x"),
        ("aws=rehearsal aws.faults.no_capacity=1", "Try: +aws.faults.no_capacity=1"),
        ("aws.profile=x", "conf/aws/account.yaml has region, bucket, role.\nTry: "),
        ("hpo.trials=3", "Try: hpo=optuna hpo.n_trials=3"),
        ("hpo=optuna hpo.n_trial=3", "Try: hpo.n_trials=3"),
        ("logger=csv logger.foo=3", "conf/logger/csv.yaml has name.\nTry: "),
        ("hydra.foo=1", "Try: python train.py --help"),
    ],
)
def test_the_hint_is_about_the_file_that_was_chosen(typed: str, expected: str) -> None:
    words = typed.split()
    key, _, value = words[-1].partition("=")
    found = hint(key, {"true": True}.get(value, int(value) if value.isdigit() else value), words)
    assert found.startswith(expected)
    assert f"{key.partition('.')[0]}=1" not in found


def test_hydra_s_advice_to_add_an_unknown_setting_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "epochs=1"])
    error = ConfigCompositionException("Could not override 'epochs'.\nTo append to your config use +epochs=1")
    assert message(error) == "epochs is not a setting.\nTry: trainer.max_epochs=1"


# --- options, configs and folders that do not exist ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["launcher=nope"],
            ["launcher=nope is not one of the choices: deploy, ec2_spot, local,", "train.py --help, which"],
        ),
        (["launcher=spot"], ["Try: launcher=ec2_spot or launcher=sagemaker_spot"]),
        (["launcher=Sagemaker_Spot"], ["Try: launcher=sagemaker_spot"]),
        (["+launcher=locl"], ["Try: launcher=local"]),
        (["launcher=[local,x]"], ["launcher=x is not one of the choices"]),
        (["data=drwn"], ["choices: dogimages, drawn, folder.", "Try: data=drawn"]),
        (["model=resnet5"], ["Try: model=resnet50"]),
        (["experiment=quikstart"], ["Try: experiment=quickstart"]),
        (["trainer=gpu"], ["Try: trainer=default"]),
        (["logger=wandbb"], ["Try: logger=wandb"]),
        (["aws=reherasal"], ["Try: aws=rehearsal"]),
        (["hpo=optun"], ["Try: hpo=optuna"]),
        (["hpo=optuna", "hpo/sampler=tp"], ["Try: hpo/sampler=tpe"]),
        (["launcher=deploy", "launcher/scaling=reports"], ["Try: launcher/scaling=report"]),
        (["launcher/scaling=report"], ["Try: launcher=deploy launcher/scaling=report"]),
        (["launcher/scalng=report"], ["Try: launcher/scaling=report"]),
        (["--config-name=confg"], ["There is no config confg.yaml in ", "Try: --config-name=config"]),
        (["--config-name", "nothing_like_it"], ["There is no config nothing_like_it.yaml in "]),
        (["--config-dir=/no/such"], ["The folder of configs /no/such does not exist.\nTry: "]),
    ],
)
def test_what_does_not_exist_is_refused_with_what_is_near(words: list[str], said: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        prepare([*words, f"hydra.run.dir={tmp_path}"])
    text = str(raised.value)
    assert [part for part in [*said, "\nTry: "] if part not in text] == []
    assert "Config search path" not in text
    assert "provider=" not in text


def test_a_config_that_names_what_does_not_exist_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    content = "# @package _global_\ndefaults:\n  - override /data: dawn\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"data=dawn, which a config file names, is not one of the choices"):
        prepare(["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]", f"hydra.run.dir={tmp_path}/run"])
