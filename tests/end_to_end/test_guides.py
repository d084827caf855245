"""The README and the guides beside the code are true: links, paths, settings, tables, and the commands, which run.

Those marked `cloud` run every command that can run here. A command that is new in a guide goes into one of these lists:
MODEL, HERE and REHEARSED say what is added to it, so that it takes seconds and means the same; SKIPPED says why it
cannot run.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import astuple, fields
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import DictConfig
from quick_runs import EXPORTS

from dogbreed import backbones
from launchers.rehearsal import process
from launchers.rehearsal.faults import Faults
from launchers.sweep.space import read
from tests.support.configs import CONF, choices, composed, names
from tests.support.guides import GUIDES, README, Guide, all_commands
from tests.support.photos import make_photos
from tests.support.project import ROOT
from tests.support.shell import Shell

NETWORK = "model.library=timm model.backbone=test_resnet model.weights=null model.image_px=32"  # no weights to download
TINY = f"{NETWORK} data.batch_size=4 data.workers=0 trainer.max_epochs=2"
OWN_PHOTOS = "data=folder data.root=PHOTOS"
# 84 for validation: with fewer than 50, how unlike other photos are is not measured
FEW_OF_EACH = "+data.source.breeds=42 data.source.train=2 data.source.valid=2 data.source.test=1"
FEW_DOGS = "+data.source.breeds=8 data.source.train=10 data.source.valid=2 data.source.test=2"
FEW_TRIALS = f"experiment=quickstart {FEW_DOGS} hpo.n_trials=2"

SERVE = "python -m dogbreed.serving runs/RUN"  # while one of the next two asks it
ASK = "curl --data-binary @PHOTO.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8080/invocations"
LOAD = "python -m launchers loadtest http://127.0.0.1:8080/invocations --requests 100 --output load.json"

# In this order: what is used later is made first
MODEL = {  # runs end with their model.tar.gz
    "python train.py experiment=quickstart": FEW_OF_EACH,
    "python -m dogbreed.predict runs/RUN PHOTO.jpg": "",
    "python -m dogbreed.report runs/RUN": "",
    "python -m dogbreed.export runs/RUN": "",
    "python -m dogbreed.export runs/RUN --int8": "",
    "python -m launchers doctor runs/RUN": "",
    "python -m dogbreed.export model.pth --classes NAMES.txt": "",
    "python -m launchers doctor model.pth --classes NAMES.txt": "",
    ASK: "--fail",
    LOAD: "--requests 5",
}
HERE = {
    "python train.py resume=runs/RUN": "",
    "python train.py resume=runs/RUN trainer.max_epochs=60": "test=false",
    "python train.py data=folder data.root=PHOTOS": TINY,
    "python train.py data=drawn model.trainable=layer4": f"{TINY} {FEW_DOGS} test=false",
    "torchrun --nproc_per_node=2 train.py experiment=finetune data=folder data.root=PHOTOS": f"{TINY} test=false",
    "python train.py -m hpo=optuna experiment=quickstart": f"{FEW_OF_EACH} hpo.n_trials=5",
    "python train.py --config-dir sweeps/SEARCH experiment=best": "trainer.max_epochs=1 test=false",
    "python train.py -m hpo=optuna 'model.lr=tag(log, interval(1e-4,1e-2))' model.dropout=0.3": FEW_TRIALS,
    "python train.py -m hpo=optuna hpo.space=null 'model.warmup=interval(0,0.3)' 'seed=range(3)'": FEW_TRIALS,
    "python train.py -m hpo=optuna hpo/sampler=random hpo/pruner=none hpo.n_trials=50 hpo.parallel=4": (
        f"{FEW_TRIALS} hpo.study=random"
    ),
    "python train.py -m model.lr=1e-3,1e-2 seed=0,1": f"{TINY} {OWN_PHOTOS} test=false",
    "python -m dogbreed.features list": "",
    "python -m dogbreed.features verify": "",
    "python -m dogbreed.features prune --unused-for 30 --apply": "",
    "python train.py --help": "",
    "python -m dogbreed.benchmark --help": "",
    "python -m dogbreed.serving --help": "",
    "python -m launchers images": "",
    "python -m launchers prices --need gpu=1,gpu_memory_gb=16": "",
    "python -m launchers capacity --rps 12 --peak 45": "--shape burst --hours 1",
    "python -m launchers capacity --rps 12 --peak 45 --shape burst --instances 1-3 --policy report --slots 3 "
    "--service-ms 60": "",
    "python -m launchers capacity --rps 12 --peak 45 --instances 1-3 --policy report --service-ms 60 --threshold 90": (
        "--shape burst --hours 1"
    ),
    "python -m launchers capacity --rps 10 --slots 4 --measured load.json": "--hours 1",
}
SPOT = "python train.py launcher=sagemaker_spot"
TUNER = "python train.py -m hpo=sagemaker_tuner experiment=quickstart launcher=sagemaker_spot aws=rehearsal"
REHEARSED = {
    "python train.py experiment=quickstart launcher=sagemaker_spot aws=rehearsal": FEW_DOGS,
    "python -m launchers rehearsal status": "",
    "python -m launchers list sagemaker://rehearsal --all": "",
    "python -m launchers list": "",
    "python -m launchers status RUN": "",
    "python -m launchers logs RUN": "",
    "python -m launchers attach RUN": "",
    "python -m launchers cancel RUN": "",
    "python -m launchers result RUN": "",
    "python -m launchers download RUN": "",
    "python -m launchers cleanup": "",
    "python train.py resume=sagemaker://REGION/RUN": "aws=rehearsal",
    "python train.py resume=sagemaker://REGION/RUN launcher=sagemaker_gpu": "aws=rehearsal",
    "python train.py resume=sagemaker://REGION/RUN launcher=local": "aws=rehearsal",
    "python train.py -m hpo=optuna experiment=quickstart launcher=sagemaker_spot aws=rehearsal": (
        f"{FEW_DOGS} hpo.n_trials=2"
    ),
    "python train.py data=folder data.root=PHOTOS launcher=sagemaker_multi launcher.instances=2 aws=rehearsal": TINY,
    f"{SPOT} aws=rehearsal aws.reclaims=2 '+aws.faults.reclaim_at=[epoch 2,checkpoint 1]'": (
        f"{TINY} {OWN_PHOTOS} trainer.max_epochs=6"
    ),
    f"{SPOT} aws=rehearsal +aws.faults.no_capacity=1": f"{TINY} {OWN_PHOTOS}",
    f"{SPOT} launcher.bucket=my-bucket aws.role=MySageMakerRole dry_run=true": "",
    "python train.py -m hpo=optuna launcher=sagemaker_gpu launcher.bucket=my-bucket aws.role=MySageMakerRole "
    "dry_run=true": "",
    "python train.py -m hpo=sagemaker_tuner experiment=finetune launcher=sagemaker_gpu launcher.bucket=my-bucket "
    "aws.role=MySageMakerRole hpo.parallel=4 dry_run=true": "",
    f"{TUNER} hpo.n_trials=8": f"{FEW_DOGS} hpo.n_trials=2",
    "python -m launchers iam --apply --for aws=rehearsal": "",
    "python train.py experiment=quickstart launcher=ec2_spot aws=rehearsal": FEW_DOGS,
    "python train.py launcher=ec2_spot launcher.bucket=my-bucket dry_run=true": "",
    "python train.py launcher=deploy aws=rehearsal name=dogs checkpoint=runs/RUN": "",
    "python train.py launcher=deploy launcher.front=lambda launcher.reserved=3 aws=rehearsal name=dogs "
    "checkpoint=runs/RUN": "",
    "python -m launchers invoke dogs PHOTO.jpg": "",
    "python -m launchers loadtest dogs --rps 3 --seconds 10": "--seconds 2",
    "python -m launchers explain dogs": "",
    "python -m launchers status dogs": "",
    "python -m launchers logs dogs": "",
    "python -m launchers rollback dogs": "",
    "python -m launchers cancel dogs": "",
    "python train.py launcher=deploy launcher.variant=lambda aws=rehearsal name=dogs checkpoint=runs/RUN": "",
    "python train.py launcher=sagemaker_gpu launcher.instance_type=auto 'launcher.needs={gpu: 1, gpu_memory_gb: 16}' "
    "limits.max_usd=0.05 aws=rehearsal dry_run=true": "",
    "python -m launchers cost sagemaker://rehearsal": "",
    "python train.py launcher=deploy launcher/preset=report aws=rehearsal name=cats checkpoint=runs/RUN dry_run=true": (
        ""
    ),
    "python -m launchers rehearsal stop": "",
}
FAILS = {
    f"{SPOT} aws=rehearsal +aws.faults.no_capacity=1",  # as the guide says
    "python -m launchers rollback dogs",  # of a single revision
}

_INSTALLS = "installs packages; .ci/run installs all of them into a new environment"
_DOWNLOADS = "downloads dogImages and the weights of ResNet50"
_ACCOUNT = "needs an AWS account"
_DOCKER = "needs Docker; test_serving_image.py executes the image's steps"
_MEASURES = "takes minutes to hours on an idle machine; test_benchmark.py checks what it does"
_CHECKS = "is a check of the project itself, and these tests are among them"
SKIPPED = {
    "pip install -e .": _INSTALLS,
    "pip install -e '.[rehearsal]'": _INSTALLS,
    "pip install -e '.[aws]'": _INSTALLS,
    "pip install -e '.[serve]'": _INSTALLS,
    "pip install -e '.[lambda]'": _INSTALLS,
    "pip install -e '.[wandb]'": _INSTALLS,
    "pip install -e '.[sagemaker]'": _INSTALLS,
    "pip install -e '.[postgresql]'": _INSTALLS,
    "pip install -e '.[dev]'": _INSTALLS,
    "pip install -e '.[dev]' && python -m pytest": _INSTALLS,
    "pip install optuna-dashboard && optuna-dashboard sqlite:///sweeps/SEARCH/study.db": _INSTALLS,
    "python train.py": _DOWNLOADS,
    "python train.py experiment=finetune": _DOWNLOADS,
    "python train.py -m hpo=optuna": _DOWNLOADS,
    f"{SPOT} launcher.bucket=my-bucket aws.role=MySageMakerRole": _ACCOUNT,
    "python train.py launcher=sagemaker_gpu launcher.bucket=my-bucket aws.role=MySageMakerRole "
    "launcher.instance_type=ml.g5.xlarge": _ACCOUNT,
    f"{TUNER} hpo.space=null 'model.lr=tag(log,interval(1e-3,1e-2))' 'model.dropout=interval(0,0.3)' "
    "'model.label_smoothing=interval(0,0.2)' hpo.early_stopping=false hpo.n_trials=8": "test_tuner.py runs it",
    "python train.py -m hpo=optuna hpo.storage=postgresql://user:password@host/database hpo.study=NAME": (
        "needs a database server; test_sweep.py starts one for two searches that share a study"
    ),
    f"{SPOT} logger=wandb 'launcher.secrets={{WANDB_API_KEY: ARN}}'": _ACCOUNT,
    "python -m launchers iam": _ACCOUNT,
    "python -m launchers iam --apply --for launcher=deploy": _ACCOUNT,
    "python -m launchers iam --bucket my-bucket --apply --for launcher=ec2_spot": _ACCOUNT,
    "python train.py launcher=ec2_spot launcher.bucket=my-bucket": _ACCOUNT,
    "python -m launchers iam --bucket my-bucket": _ACCOUNT,
    "python -m launchers iam --bucket my-bucket --check": _ACCOUNT,
    "python -m launchers iam --bucket my-bucket --apply": _ACCOUNT,
    "python -m launchers iam --remove": _ACCOUNT,
    "python -m launchers iam --bucket my-bucket --apply --for launcher=sagemaker_gpu "
    "launcher.instance_type=ml.g5.xlarge --for launcher=sagemaker_spot": _ACCOUNT,
    "python -m launchers prices --refresh": "asks AWS, and writes into the project",
    "python -m launchers cost": _ACCOUNT,
    "python -m launchers cost --bucket my-bucket --month 2026-11": _ACCOUNT,
    "python -m launchers open dogs": "listens until it is interrupted; test_deploy_front.py opens and asks one",
    "curl --data-binary @PHOTO.jpg http://127.0.0.1:8765/": "asks what has been opened; test_deploy_front.py does it",
    "python -m launchers iam --for launcher=deploy name=dogs": _ACCOUNT,
    "python -m launchers status HANDLE": "needs a search by the tuner; test_tuner.py asks for one's status elsewhere",
    "python -m launchers images --refresh": "needs the SageMaker SDK, and writes into the project",
    "docker build -f launchers/deploy/image/Dockerfile -t dogbreed-serve .": _DOCKER,
    'docker run -p 8080:8080 -v "$PWD/model:/opt/ml/model:ro" dogbreed-serve serve': _DOCKER,
    "python -m dogbreed.benchmark all": _MEASURES,
    "python -m dogbreed.benchmark frozen sweep": _MEASURES,
    "python -m dogbreed.benchmark frozen finetune input overhead startup sweep search": _MEASURES,
    "python -m dogbreed.benchmark probe": _MEASURES,
    "python -m dogbreed.benchmark serve": _MEASURES,
    "python -m dogbreed.benchmark ddp": _MEASURES,
    "python -m dogbreed.benchmark speedup": _MEASURES,
    "python -m dogbreed.benchmark sweep": _MEASURES,
    "python -m dogbreed.benchmark capacity": _MEASURES,
    "ruff check . && ruff format --check .": _CHECKS,
    "mypy": _CHECKS,
    "lint-imports": _CHECKS,
    "python -m pytest": _CHECKS,
    'python -m pytest -m "cloud and not slow"': _CHECKS,
    'python -m pytest -m "not slow"': _CHECKS,
    "python -m pytest -m slow": _CHECKS,
    "python -m pytest -n0 tests/launchers/test_plans.py": _CHECKS,
    "python -m pytest -n0 tests/launchers/test_plans.py -k recorded": _CHECKS,
    "DOGBREED_RECORD=1 python -m pytest tests/launchers/test_plans.py": "writes into the project",
    "python -m pytest -n0 -s -m slow tests/launchers/test_scenarios.py": _CHECKS,
    "DOGBREED_SCENARIOS=17 python -m pytest -n0 -s -m slow tests/launchers/test_scenarios.py": _CHECKS,
    "git diff tests/launchers/plans": "is about what was just recorded in a clone",
}

guides = pytest.mark.parametrize("guide", GUIDES, ids=str)


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(README.read_text().splitlines()) <= 250


@guides
def test_links_lead_somewhere(guide: Guide) -> None:
    by_path = {each.path: each for each in GUIDES}
    for link in guide.links():
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        path = (guide.path.parent / name).resolve() if name else guide.path
        assert path.exists(), link
        assert not anchor or anchor in by_path[path].anchors(), link


# what begins like a path and is none of the project: of a run, of photos, of a rented machine, an address
_ELSEWHERE = re.compile(r"(runs|sweeps|checkpoints|train|valid|test|model)/|[~/]|\w+://")


@guides
def test_paths_exist(guide: Guide) -> None:
    for text in guide.code():
        if "/" in text and re.fullmatch(r"[\w.~/:-]+", text) and not _ELSEWHERE.match(text):
            assert (ROOT / text).exists() or (CONF / text).is_dir(), text


@guides
def test_names_of_modules_and_what_is_in_them_exist(guide: Guide) -> None:
    for text in guide.code():
        if found := re.match(r"(python -m )?(?P<name>(dogbreed|launchers)(\.\w+)+)", text):
            _find_name(found["name"])


def _find_name(name: str) -> None:
    """Fail if a dotted name is neither a module nor the text of one."""
    path = ROOT
    for part in name.split("."):
        if (path / part).is_dir() or (path / f"{part}.py").exists():
            path = path / part
        else:
            source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
            assert re.search(rf"\b{part}\b", source.read_text()), name


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """All keys that some choice has, `a.b.c`, with those in between."""
    found = {f"aws.faults.{fault.name}" for fault in fields(Faults)}
    for choice in choices():
        found |= set(_keys(composed(choice)))
    for name in names("launcher/scaling"):
        found |= set(_keys(composed("launcher=deploy", f"launcher/scaling={name}")))
    return found


def _keys(node: DictConfig, above: str = "") -> Iterator[str]:
    for key in node:
        yield f"{above}{key}"
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from _keys(value, f"{above}{key}.")


FILES = ("model.tar.gz", "model.onnx")  # of a run, named as settings are
_SETTING = re.compile(r"\+?(?P<key>(data|model|trainer|features|hpo|launcher|aws|ranks|save|logger)(\.\w+)+)(=.*)?")


@guides
def test_settings_exist(guide: Guide, settings: set[str]) -> None:
    for text in guide.code():
        found = _SETTING.fullmatch(text)
        if found and not text.startswith("+trainer.") and text not in FILES:  # of Lightning's own arguments
            assert found["key"] in settings, text


@pytest.mark.parametrize("name", names("launcher"))
def test_what_each_launcher_can_do_is_in_the_table(name: str) -> None:
    capabilities = get_class(composed(f"launcher={name}").launcher._target_).capabilities
    answers = ["yes" if can else "no" for can in astuple(capabilities)]
    assert f"| `{name}` | {' | '.join(answers)} |" in (ROOT / "launchers" / "README.md").read_text()


def test_each_fault_is_in_the_table() -> None:
    text = (ROOT / "launchers" / "rehearsal" / "README.md").read_text()
    shown = re.findall(r"^\| `aws\.(?:faults\.)?(\w+)` \|", text, re.MULTILINE)
    assert sorted(shown) == sorted(fault.name for fault in fields(Faults))


@pytest.mark.parametrize("command", [text for text in all_commands() if "train.py" in text and "pytest" not in text])
def test_commands_compose(command: str) -> None:
    words = shlex.split(command.partition("train.py")[2])
    overrides = [word for word in words if "=" in word and not word.startswith("resume=") and word != "experiment=best"]
    ranges = [parsed for parsed in OverridesParser.create().parse_overrides(overrides) if parsed.is_sweep_override()]
    typed = [text for text in overrides if text not in [parsed.input_line for parsed in ranges]]
    cfg = composed(*typed)
    if {"hpo=optuna", "hpo=sagemaker_tuner"} & set(typed):
        space, _ = read(overrides, cfg.hpo.space or {})
        composed(*typed, *space.overrides(space.first()))
    elif ranges:
        composed(*typed, *(f"{parsed.key_or_group}={next(parsed.sweep_string_iterator())}" for parsed in ranges))


def test_every_command_is_run_or_skipped_for_a_reason() -> None:
    known = [*MODEL, *HERE, SERVE, *REHEARSED, *SKIPPED]
    assert sorted(known) == sorted(set(known)), "a command is in two lists"
    assert not set(all_commands()) - set(known), "add these to MODEL, HERE, REHEARSED or SKIPPED"
    assert not set(known) - set(all_commands()), "no guide has these"


def _save_as_another_program(folder: Path) -> None:
    """Save what the guides call model.pth and NAMES.txt."""
    network, width = backbones.build("timm", "tf_efficientnet_lite0", None)
    head = torch.nn.Linear(width, 3)
    state = network.state_dict() | {f"classifier.{name}": value for name, value in head.state_dict().items()}
    torch.save(state, folder / "model.pth")
    (folder / "NAMES.txt").write_text("one\ntwo\nthree\n")


@pytest.mark.cloud
@pytest.mark.exports
@pytest.mark.onnx
@pytest.mark.plots
@pytest.mark.timeout(1800)
def test_commands_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(tmp_path, make_photos(tmp_path / "photos"))
    _save_as_another_program(tmp_path)
    for command, added in MODEL.items():
        with shell.serving(SERVE) if command in (ASK, LOAD) else nullcontext():
            shell.type(command, added)
    monkeypatch.delenv(EXPORTS)
    for command, added in HERE.items():
        shell.type(command, added)
    for code in Guide(README).python():
        small = 'DogBreedClassifier(data.classes, library="timm", backbone="test_resnet", weights=None,'
        shell.type_python(code.replace("DogBreedClassifier(data.classes,", small))
    shell.settle()


@pytest.mark.cloud
@pytest.mark.timeout(1800)
def test_commands_run_in_the_rehearsal_cloud(tmp_path: Path) -> None:
    shell = Shell(tmp_path, make_photos(tmp_path / "photos"))
    try:
        for command, added in REHEARSED.items():
            shell.type(command, added, status=1 if command in FAILS else 0)
    finally:
        process.stop(shell.cache / "rehearsal")
    shell.settle()
