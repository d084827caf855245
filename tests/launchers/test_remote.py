"""The first process on a rented machine, with a project of a few lines in the place of ours."""

import ast
import json
import os
import signal
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from launchers.payload.packages import versions
from launchers.remote import gpu
from launchers.remote.context import REASON, SENT
from launchers.remote.entry import END
from tests.support.launcher_contract import until
from tests.support.machines import LONGEST_S, REMOTE, SAYS, Machine
from tests.support.project import ROOT


def test_it_needs_nothing_but_the_standard_library_and_pip_and_names_what_train_py_reads() -> None:
    source, imported = REMOTE.read_text(), set()
    assert f'"{SENT}"' in source
    assert f'"{REASON}"' in source
    loaded = [REMOTE.with_name(f"{name}.py") for name in ("install", "uploads", "gpu", "secret_values")]
    for node in (node for path in (REMOTE, *loaded) for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= {*sys.stdlib_module_names, "pip", "boto3", "botocore"}  # of the last, after the installation


def test_it_runs_train_py_with_what_was_typed_and_the_machine_s_own_paths(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS)
    status, lines = machine.run()
    assert status == 0
    said = json.loads(lines[0])
    assert said["argv"] == [
        "seed=1",
        "x=/opt/ml",  # what was typed is left as it is
        "launcher=local",
        f"hydra.run.dir={machine.base}/checkpoints",
        f"data.root={machine.base}/tmp/dogbreed/photos",
    ]
    assert said["cwd"] == str(machine.base / "code")
    assert said["sent"] == str(machine.base / "input/data/spec/spec.json")
    assert lines[-1] == END


def test_the_run_folder_is_kept_as_output_without_half_written_files(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS)
    machine.run()
    kept = {str(path.relative_to(machine.base / "output/data")) for path in (machine.base / "output/data").rglob("*.*")}
    assert kept == {"metrics.json", "checkpoints/best.ckpt"}


def test_where_an_earlier_machine_has_begun_it_goes_on(tmp_path: Path) -> None:
    again = {"typed": ["y=2"], "own": ["resume=/opt/ml/checkpoints"]}
    machine = Machine(tmp_path / "ml", SAYS, again=again)
    assert "seed=1" in json.loads(machine.run()[1][0])["argv"]
    (machine.base / "checkpoints" / "config.yaml").write_text("{}")
    assert json.loads(machine.run()[1][0])["argv"] == ["y=2", f"resume={machine.base}/checkpoints"]


def test_what_a_machine_that_was_taken_away_left_running_is_not_running(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS)
    state = machine.base / "checkpoints" / "state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"phase": "running", "attempt": 3, "host": "elsewhere"}))
    machine.run()
    found = json.loads(state.read_text())
    assert (found["phase"], found["cause"], found["attempt"]) == ("failed", "interrupted", 3)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_train_py_and_its_own_reason_is_the_machine_s(signum: signal.Signals, tmp_path: Path) -> None:
    train = """
import json, os, signal, sys, time
from pathlib import Path
def heed(number, frame):
    said = {"cause": "interrupted", "detail": "saved at step 7", "consequence": False}
    Path(os.environ["DOGBREED_REASON"]).write_text(json.dumps(said))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, heed); signal.signal(signal.SIGINT, heed)
(Path(os.environ["SAGEMAKER_BASE_DIR"]) / "checkpoints" / "up").touch()
time.sleep(600)
"""
    machine = Machine(tmp_path / "ml", train)
    process = machine.start()
    until(lambda: (machine.base / "checkpoints" / "up").exists())
    process.send_signal(signum)
    said = process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == 128 + signum
    assert machine.failure == "[interrupted] saved at step 7"
    assert said.splitlines()[-1] == END


@pytest.mark.parametrize(
    ("train", "status", "reason"),
    [
        ("import sys; sys.exit(3)", 3, "[unknown] train.py ended with exit status 3"),
        (
            "import os; os.kill(os.getpid(), 9)",
            137,
            "[user_code] train.py was killed, most likely because memory ran out",
        ),
    ],
)
def test_an_end_without_a_word_is_explained_as_far_as_it_can_be(
    train: str, status: int, reason: str, tmp_path: Path
) -> None:
    machine = Machine(tmp_path / "ml", train)
    assert machine.run()[0] == status
    assert machine.failure.startswith(reason)


def test_without_a_network_what_the_image_lacks_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS, requires="'pytest>=1', 'not-there-at-all>=2', 'torch>=999'")
    status, lines = machine.run(DOGBREED_INSTALL="no")
    assert status == 1
    assert machine.failure.startswith("[bad_config]")
    assert "lacks: not-there-at-all>=2, torch>=999" in machine.failure
    assert "pytest" not in machine.failure
    assert lines[-1] == END


def test_what_the_image_lacks_is_installed_and_nothing_else(tmp_path: Path) -> None:
    wheel = tmp_path / "wheels" / "needed_here-2.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        about = "Metadata-Version: 2.1\nName: needed-here\nVersion: 2.0\n"
        archive.writestr("needed_here.py", "x = 1\n")
        archive.writestr("needed_here-2.0.dist-info/METADATA", about)
        archive.writestr(
            "needed_here-2.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("needed_here-2.0.dist-info/RECORD", "")
    machine = Machine(tmp_path / "ml", SAYS, requires="'pytest>=1', 'needed-here>=2'")
    status, lines = machine.run(
        PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheel.parent), PIP_TARGET=str(tmp_path / "installed")
    )
    assert status == 0, lines
    assert lines[0] == "Installing packages that the image lacks: needed-here>=2"
    assert (tmp_path / "installed" / "needed_here.py").exists()
    assert len(list((tmp_path / "installed").glob("*.dist-info"))) == 1


def test_what_pip_cannot_install_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS, requires="'not-there-at-all>=2'")
    assert machine.run(PIP_NO_INDEX="1")[0] == 1
    assert machine.failure.startswith("[bad_config] pip could not install not-there-at-all>=2")


def test_a_bundle_without_train_py_is_said_to_be_one(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS)
    with tarfile.open(machine.base / "input/data/code/bundle.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("other.py"))
    assert machine.run()[0] == 1
    assert machine.failure == "[bad_config] the code bundle contains no train.py"


# --- several processes ---

RANK = """
import json, os, sys
names = ("NCCL_DEBUG", "DOGBREED_MEETING_S", "RANK", "LOCAL_RANK",
         "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
sys.stdout.write(json.dumps({name: os.environ.get(name) for name in (*names, "GLOO_SOCKET_IFNAME")}) + "\\n")
"""
FAILS_IN_1 = """
import json, os, sys, time
from pathlib import Path
first = Path(os.environ["SAGEMAKER_BASE_DIR"], "first")
def end(**said):
    open(os.environ["DOGBREED_REASON"], "w").write(json.dumps(said)); sys.exit(1)
if os.environ["LOCAL_RANK"] == "0":
    first.touch()
    end(cause="unknown", detail="has lost another one", consequence=True)
if os.environ["LOCAL_RANK"] == "1":
    while not first.exists():
        time.sleep(0.02)
    time.sleep(0.5); end(cause="user_code", detail="ZeroDivisionError: here", consequence=False)
time.sleep(600)
"""


def of_several(
    machine: Machine, tmp_path: Path, *, hosts: list[str], current: str, gpus: int, works: str = "True"
) -> dict[str, str]:
    """Machines and GPUs as SageMaker, nvidia-smi and torch describe them. works: whether torch can use them."""
    config = machine.base / "input/config"
    config.mkdir()
    about = {"hosts": hosts, "current_host": current, "network_interface_name": "eth7"}
    (config / "resourceconfig.json").write_text(json.dumps(about))
    listed = "".join(f"echo 'GPU {n}: Tesla T4 (UUID: GPU-{n})'\n" for n in range(gpus))
    listed = f'if [ "$1" != -L ]; then echo 470.57; exit; fi\n{listed}'
    torch = tmp_path / "fake" / "torch"
    torch.mkdir(parents=True, exist_ok=True)
    (torch / "__init__.py").write_text("import os\nfrom . import cuda, version\n")
    (torch / "version.py").write_text("cuda = '13.3'\n")
    (torch / "cuda.py").write_text(f"import os\ndef is_available(): return {works}\n")
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\n{listed}" if gpus else "#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    return {
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{torch.parent}:{os.environ['PYTHONPATH']}",
        "TRAINING_JOB_NAME": "job-7",
    }


def test_each_gpu_of_each_machine_gets_a_process_that_knows_all(tmp_path: Path) -> None:
    hosts = ["algo-1", "algo-10", "algo-2"]  # as SageMaker sorts them
    seen = []
    for number, host in enumerate(["algo-1", "algo-2", "algo-10"]):
        machine = Machine(tmp_path / host, RANK)
        status, lines = machine.run(**of_several(machine, tmp_path, hosts=hosts, current=host, gpus=2))
        assert status == 0, lines
        told = sorted((json.loads(line) for line in lines[:-1]), key=lambda each: int(each["LOCAL_RANK"]))
        assert [int(each["RANK"]) for each in told] == [2 * number, 2 * number + 1]
        assert {(each["WORLD_SIZE"], each["LOCAL_WORLD_SIZE"]) for each in told} == {("6", "2")}
        assert {each["GLOO_SOCKET_IFNAME"] for each in told} == {"eth7"}
        assert {(each["NCCL_DEBUG"], each["DOGBREED_MEETING_S"]) for each in told} == {("WARN", "900")}
        seen += [(each["MASTER_ADDR"], each["MASTER_PORT"]) for each in told]
    assert len(set(seen)) == 1
    assert seen[0][0] == "algo-1"
    assert 20000 <= int(seen[0][1]) < 30000


def test_a_machine_alone_without_gpu_has_one_process_that_is_told_of_no_other(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", RANK)
    _, lines = machine.run(**of_several(machine, tmp_path, hosts=["algo-1"], current="algo-1", gpus=0))
    assert set(json.loads(lines[0]).values()) == {None}
    assert lines[1:] == [END]


def test_later_attempts_meet_at_another_port(tmp_path: Path) -> None:
    ports = []
    for attempt in (None, 1, 2):
        machine = Machine(tmp_path / str(attempt), RANK)
        if attempt:
            (machine.base / "checkpoints").mkdir()
            (machine.base / "checkpoints/state.json").write_text(json.dumps({"phase": "failed", "attempt": attempt}))
        _, lines = machine.run(**of_several(machine, tmp_path, hosts=["algo-1", "algo-2"], current="algo-1", gpus=0))
        ports.append(json.loads(lines[0])["MASTER_PORT"])
    assert len(set(ports)) == 3


def test_the_process_that_failed_by_itself_is_named_and_none_is_left(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", FAILS_IN_1, last_words=2)
    status, lines = machine.run(**of_several(machine, tmp_path, hosts=["algo-1"], current="algo-1", gpus=3))
    assert status == 1
    assert machine.failure == "[user_code] process 1 (algo-1): ZeroDivisionError: here"
    assert lines[-2:] == [machine.failure, END]


def test_a_process_that_is_aborted_is_not_the_one_to_blame(tmp_path: Path) -> None:
    aborted = FAILS_IN_1.replace('end(cause="unknown", detail="has lost another one", consequence=True)', "os.abort()")
    machine = Machine(tmp_path / "ml", aborted, last_words=2)
    machine.run(**of_several(machine, tmp_path, hosts=["algo-1"], current="algo-1", gpus=2))
    assert machine.failure == "[user_code] process 1 (algo-1): ZeroDivisionError: here"


def test_other_machines_than_the_first_write_nothing_that_is_saved(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", RANK)
    kept = machine.base / "checkpoints"
    kept.mkdir()
    files = {"state.json": json.dumps({"phase": "running", "attempt": 1}), ".last.ckpt.tmp-9.sagemaker-ignore": "half"}
    for name, text in files.items():
        (kept / name).write_text(text)
    machine.run(**of_several(machine, tmp_path, hosts=["algo-1", "algo-2"], current="algo-2", gpus=0))
    assert {path.name: path.read_text() for path in kept.iterdir()} == files
    assert not (machine.base / "output/data").exists()


# --- a GPU that CUDA cannot use ---


def test_where_cuda_cannot_use_the_gpu_the_job_ends_at_once_and_names_both(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS)
    status, lines = machine.run(
        **of_several(machine, tmp_path, hosts=["algo-1"], current="algo-1", gpus=1, works="False")
    )
    assert status == 1
    assert machine.failure.startswith("[bad_config] CUDA 13.3 of the image's torch cannot use this machine's GPU")
    assert "whose driver is 470.57" in machine.failure
    assert "Try: launcher.image=" in machine.failure
    assert not any("argv" in line for line in lines)  # nothing was trained


def test_the_image_s_libraries_for_older_drivers_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compat = tmp_path / "compat"
    works = f"'{compat}' in os.environ.get('LD_LIBRARY_PATH', '')"
    about = of_several(Machine(tmp_path / "ml", SAYS), tmp_path, hosts=["a-1"], current="a-1", gpus=1, works=works)
    for name, value in about.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    assert "not even" not in gpu.make_usable(compat)[1]
    compat.mkdir()
    (compat / "libcuda.so.1").touch()
    assert gpu.make_usable(compat) == ({"LD_LIBRARY_PATH": f"{compat}:/before"}, "")
    (tmp_path / "fake/torch/cuda.py").write_text("def is_available(): return False\n")
    assert f"not even with the libraries in {compat}" in gpu.make_usable(compat)[1]


# --- what AWS's images bring ---


def test_bytecode_is_written_where_the_image_forbids_it(tmp_path: Path) -> None:
    says = "import sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"
    forbids, allows = (Machine(tmp_path / name, says) for name in ("forbids", "allows"))
    assert forbids.run(PYTHONDONTWRITEBYTECODE="1")[1][0] == f"False {forbids.base}/tmp/dogbreed/pycache"
    assert allows.run(PYTHONDONTWRITEBYTECODE="")[1][0] == "False None"


def test_the_served_model_is_the_job_s_own_artifact(tmp_path: Path) -> None:
    writes = """
import io, os, tarfile
from pathlib import Path
folder = Path(os.environ["SAGEMAKER_BASE_DIR"]) / "checkpoints"
with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
    entry = tarfile.TarInfo("model.onnx"); entry.size = 4
    archive.addfile(entry, io.BytesIO(b"onnx"))
"""
    machine = Machine(tmp_path / "ml", writes)
    assert machine.run()[0] == 0
    assert (machine.base / "model/model.onnx").read_bytes() == b"onnx"
    assert (machine.base / "output/data/model.tar.gz").exists()


def wheel_in(folder: Path, name: str, version: str) -> None:
    folder.mkdir(exist_ok=True)
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


@pytest.mark.parametrize(("sent", "installed"), [({"needed-here": "2.0"}, "2.0"), ({"needed-here": "1.9"}, "2.1")])
def test_the_sender_s_versions_are_installed_as_far_as_they_can_be_had(
    sent: dict[str, str], installed: str, tmp_path: Path
) -> None:
    for version in ("2.0", "2.1"):
        wheel_in(tmp_path / "wheels", "needed_here", version)
    machine = Machine(tmp_path / "ml", SAYS, requires="'needed-here>=2'", versions={**sent, "pytest": "1.0"})
    status, lines = machine.run(
        PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "wheels"), PIP_TARGET=str(tmp_path / "installed")
    )
    assert status == 0, lines
    assert [path.name for path in (tmp_path / "installed").glob("*.dist-info")] == [
        f"needed_here-{installed}.dist-info"
    ]


def test_the_versions_that_are_sent_are_this_machine_s_without_torch() -> None:
    sent = versions(ROOT, ["wandb"])
    assert sent["lightning"] == metadata.version("lightning")
    assert sent["antlr4-python3-runtime"]  # what hydra-core needs in turn
    assert not sent.keys() & {"torch", "torchvision", "triton"}
