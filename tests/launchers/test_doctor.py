"""The doctor finds what is wrong with a model before it is deployed, and why; a healthy one passes every check."""

import csv
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from dogbreed import artifact, export
from dogbreed.artifact import Artifact, Int8
from dogbreed.inference import Predictor
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder
from launchers.cli import doctor as doctor_command
from launchers.cli import verbs
from launchers.deploy import as_trained, contents, contract, doctor, environment, served
from launchers.deploy.checks import Checks
from launchers.status import LaunchError
from tests.support.answers import SCHEMAS, problems
from tests.support.serving import tiny_model

LABELS = ("a", "b", "c", "d", "e")
PX = 64


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with an artifact and the answers of its test, and the photos beside it."""
    folder = tmp_path_factory.mktemp("doctor") / "run"
    torch.manual_seed(0)
    model = DogBreedClassifier(LABELS, library="timm", backbone="test_resnet", weights=None, image_px=PX)
    with torch.no_grad():
        model.backbone.train()(torch.randn(16, 3, PX, PX))
        model.head[1].weight.mul_(20)
    model.eval()
    here = RunFolder(folder)
    folder.mkdir()
    here.model.write_bytes(export.export_model(model, run_id="run-1"))
    settings = {
        "model": {name: model.hparams[name] for name in ("image_px", "crop_pct", "interpolation", "mean", "std")}
    }
    here.config.write_text(json.dumps({**settings, "data": {"root": str(folder / "photos")}}))
    rng = np.random.default_rng(0)
    predictor, rows = Predictor.from_model(model), []
    for number in range(8):
        name = f"test/{LABELS[number % 5]}/{number}.png"
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(rng.integers(256, size=(9, 12, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))).save(
            path
        )
        best = predictor.predict(path)[0]
        rows.append((name, LABELS[number % 5], best.label, f"{best.probability:.6f}"))
    with here.predictions.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "breed", "predicted", "probability"), *rows])
    return folder


@pytest.fixture(scope="module")
def good(run: Path) -> Artifact:
    return artifact.read(run)


def packed(found: Artifact, **changes: Any) -> bytes:
    new = replace(found, **changes)
    return artifact.pack(new.manifest, new.labels, new.preprocess, new.networks)


def manifest(found: Artifact, **changes: Any) -> bytes:
    return packed(found, manifest=replace(found.manifest, **changes))


def preprocess(found: Artifact, **changes: Any) -> bytes:
    return packed(found, preprocess=replace(found.preprocess, **changes))


def network(found: Artifact, change: Callable[[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> bytes:
    """With other weights: `change` gets the name and value of each."""
    proto = onnx.load_from_string(found.networks[artifact.NETWORK])
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(change(tensor.name, numpy_helper.to_array(tensor)), tensor.name))
    return packed(found, networks={artifact.NETWORK: proto.SerializeToString()})


def _of_pixels(value: np.ndarray[Any, Any]) -> bool:
    return value.ndim == 4 and value.shape[1] == 3 and value.shape[2] > 1


def first(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Callable[[Artifact], bytes]:
    """With other weights of the first convolution."""
    return lambda found: network(found, lambda _, value: change(value) if _of_pixels(value) else value)


def _blue_first(name: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if _of_pixels(value) or name.endswith(("pixel_scale", "pixel_shift")):
        return np.ascontiguousarray(value[:, ::-1])
    return value


def archive(found: Artifact, **files: bytes | None) -> bytes:
    """Tarred by hand. files: further ones; None leaves one out."""
    with tarfile.open(fileobj=io.BytesIO(packed(found))) as source:
        content = {member.name: source.extractfile(member).read() for member in source}  # type: ignore[union-attr]
    content |= {name.replace("__", "."): value for name, value in files.items()}  # type: ignore[misc]
    return tarred({name: value for name, value in content.items() if value is not None})


def tarred(files: Mapping[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as target:
        for name, value in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(value), mode
            target.addfile(member, io.BytesIO(value))
    return buffer.getvalue()


def unreadable(found: Artifact) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(packed(found))) as source:
        content = {member.name: source.extractfile(member).read() for member in source}  # type: ignore[union-attr]
    return tarred(content, mode=0)


def in_a_folder(found: Artifact) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(packed(found))) as source:
        return tarred({f"model/{member.name}": source.extractfile(member).read() for member in source})  # type: ignore[union-attr]


FAULTS: dict[str, tuple[Callable[[Artifact], bytes], str]] = {
    # packaging
    "cut off": (lambda found: packed(found)[:-5000], r"is not a complete \.tar\.gz"),
    "no archive": (lambda found: b"PK\x03\x04" + bytes(100), r"is not a complete \.tar\.gz"),
    "no labels": (lambda found: archive(found, labels__json=None), "labels.json is missing"),
    "code in it": (lambda found: archive(found, inference__py=b"import os"), "'inference.py' is not an expected file"),
    "a pickle in it": (
        lambda found: archive(found, model__pth=b"x"),
        "'model.pth' is not an expected file; pass a file of weights by itself",
    ),
    "the folder was tarred": (in_a_folder, "'model/labels.json' is not an expected file"),
    "a damaged network": (lambda found: archive(found, model__onnx=b"x"), "SHA-256 of model.onnx differs"),
    "edited labels": (lambda found: archive(found, labels__json=b'["a"]'), "SHA-256 of labels.json differs"),
    "a broken manifest": (lambda found: archive(found, manifest__json=b"{"), "manifest.json is not valid JSON"),
    "not a network": (lambda found: packed(found, networks={"model.onnx": b"x" * 99}), "model.onnx is not an ONNX"),
    # permissions
    "unreadable files": (unreadable, r"nobody may read labels\.json \(mode 0000\)"),
    # labels
    "a label too few": (lambda found: packed(found, labels=LABELS[:4]), "5 outputs, but labels.json has 4 names"),
    "a label too many": (lambda found: packed(found, labels=(*LABELS, "f")), "5 outputs, but labels.json has 6 names"),
    "a label twice": (lambda found: packed(found, labels=("a", "b", "c", "d", "a")), "has names twice: a"),
    "an empty label": (lambda found: packed(found, labels=("a", "b", "c", "d", " ")), "has 1 empty names"),
    "labels in another order": (
        lambda found: packed(found, labels=LABELS[::-1]),
        "labels.json has other names, or another",
    ),
    "labels of another set": (
        lambda found: packed(found, labels=tuple("vwxyz")),
        "labels.json has other names, or another",
    ),
    # preprocessing
    "another mean": (lambda found: preprocess(found, mean=(0.5, 0.5, 0.5)), "mean 0.5/0.5/0.5 .* trained with 0.485/"),
    "another std": (
        lambda found: preprocess(found, std=(0.5, 0.5, 0.5)),
        "std 0.5/0.5/0.5, but the network was trained",
    ),
    "a mean of 0 to 255": (lambda found: preprocess(found, mean=(123.675, 116.28, 103.53)), "for values of 0 to 255"),
    "a mean in BGR": (
        lambda found: preprocess(found, mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229)),
        "in the order blue, green, red",
    ),
    "a std of zero": (lambda found: preprocess(found, std=(0.2, 0.0, 0.2)), "not three each"),
    "another size": (lambda found: preprocess(found, image_px=96), "takes pictures of 64 px, but .* has image_px=96"),
    "another crop": (lambda found: preprocess(found, crop_pct=0.875), r"They are right with crop_pct=0\.965"),
    "another interpolation": (lambda found: preprocess(found, interpolation="bicubic"), "interpolation=bilinear"),
    "a network for BGR": (lambda found: network(found, _blue_first), "red and blue exchanged"),
    # weights
    "other weights": (first(lambda value: value + np.float32(0.05)), "weights or its preprocessing have changed"),
    "weights that diverged": (first(lambda value: value * np.float32("nan")), "outputs are not finite"),
    "weights of zero": (
        lambda found: network(
            found, lambda _, value: np.zeros_like(value) if value.ndim == 4 and value.shape[0] > 1 else value
        ),
        "same answer to every picture",
    ),
    # manifest
    "an inexact export": (
        lambda found: manifest(found, parity_error=0.01),
        "differ from the torch network's by 0.01",
    ),
    "a parity that is no number": (lambda found: manifest(found, parity_error=float("nan")), "differ from .* by nan"),
    "int8 without accuracy": (
        lambda found: packed(found, networks={**found.networks, artifact.NETWORK_INT8: found.networks["model.onnx"]}),
        "never used: there is no measured accuracy",
    ),
    "int8 without network": (
        lambda found: manifest(found, int8=Int8(0.9, 0.9, 9)),
        "never used: there is no model.int8",
    ),
    "int8 that cannot be": (
        lambda found: packed(
            found,
            networks={**found.networks, artifact.NETWORK_INT8: found.networks["model.onnx"]},
            manifest=replace(found.manifest, int8=Int8(90.0, 91.0, 9)),
        ),
        "are not shares of photos",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_artifact_is_found_with_its_cause(name: str, good: Artifact, tmp_path: Path) -> None:
    make, said = FAULTS[name]
    (tmp_path / "model.tar.gz").write_bytes(make(good))
    checks = Checks()
    contents.examine(tmp_path / "model.tar.gz", checks)
    assert not checks.healthy
    with pytest.raises(LaunchError, match=rf"{said}(.|\n)*Try: "):
        checks.raise_findings()
    assert all("\nTry: " in finding for finding in checks.findings)


def test_the_artifact_that_the_faults_are_made_of_has_none(run: Path, good: Artifact, tmp_path: Path) -> None:
    checks = Checks()
    for model in (run / "model.tar.gz", Path(shutil.copy(run / "model.tar.gz", tmp_path))):
        assert contents.examine(model, checks) is not None
    (tmp_path / "model.tar.gz").write_bytes(packed(good))
    assert contents.examine(tmp_path / "model.tar.gz", checks) is not None
    assert checks.findings == []


# --- against the run ---


def compared(run: Path, model: bytes, scratch: Path) -> Checks:
    (scratch / "model.tar.gz").write_bytes(model)
    examined = contents.examine(scratch / "model.tar.gz", Checks())
    assert examined is not None
    checks = Checks()
    as_trained.examine(examined, RunFolder(run), checks)
    return checks


def test_an_artifact_answers_as_its_run(run: Path, good: Artifact, tmp_path: Path) -> None:
    checks = compared(run, packed(good), tmp_path)
    assert checks.findings == []
    assert "8 of 8 as in predictions.csv" in str(checks)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda found: preprocess(found, crop_pct=0.5), r"crop_pct was 0\.965 and is 0\.5"),
        (lambda found: preprocess(found, mean=(0.5, 0.5, 0.5)), r"mean was \[0\.485, 0\.456, 0\.406\] and is \[0\.5, "),
        (lambda found: manifest(found, temperature=9.0), r"test photos in .* are answered otherwise"),
        (lambda found: packed(found, labels=LABELS[::-1]), r"test photos in .* are answered otherwise"),
        (lambda found: packed(found, labels=tuple("vwxyz")), "classes that labels.json has not, such as "),
    ],
)
def test_an_artifact_of_another_run_is_found(make: Any, said: str, run: Path, good: Artifact, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=rf"{said}(.|\n)*Try: "):
        compared(run, make(good), tmp_path).raise_findings()


# --- variables of the container ---


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DOGBREED_MAX_BODY_BYTES": "6MB"}, "DOGBREED_MAX_BODY_BYTES: '6MB' is not a whole number"),
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "-1"}, "SAGEMAKER_MAX_PAYLOAD_IN_MB: '-1' is not"),
        ({"DOGBREED_MAX_BODYBYTES": "6"}, "is not a setting of the server\nTry: DOGBREED_MAX_BODY_BYTES"),
        ({"DOGBREED_MAX_BODY_BYTES": str(10**9)}, "exceeds --max-buffered-bytes"),
        ({"DOGBREED_HOST": "127.0.0.1"}, r"listen on 127\.0\.0\.1 alone"),
        ({"DOGBREED_PORT": "80"}, "listen on port 80, and SageMaker calls 8080"),
        ({"DOGBREED_ROOT_PATH": "/dogs"}, "not paths below /dogs"),
        ({"DOGBREED_DEADLINE_S": "120"}, "up to 120 s for an answer"),
        ({"DOGBREED_DRAIN_S": "45"}, "up to 45 s to end"),
        ({"SAGEMAKER_BASE_DIR": "/opt/mine"}, "model in /opt/mine/model"),
    ],
)
def test_a_variable_that_breaks_the_container_is_found(environ: dict[str, str], said: str) -> None:
    checks = Checks()
    environment.examine(environ, checks)
    with pytest.raises(LaunchError, match=said.replace("\n", r"\.\n")):
        checks.raise_findings()


def test_all_wrong_variables_come_at_once_and_good_ones_pass() -> None:
    checks = Checks()
    wrong = {"DOGBREED_PORT": "x", "DOGBREED_IDLE_S": "-", "DOGBREED_NOTHING": "1", "OTHER": "1"}
    assert not environment.examine(wrong, checks)
    assert len(checks.findings) == 3
    checks = Checks()
    good = {"DOGBREED_MAX_PICTURES": "4", "DOGBREED_MAX_ACCURACY_LOSS": "-1", "SAGEMAKER_BIND_TO_PORT": "8081"}
    assert environment.examine(good, checks)
    assert checks.healthy


# --- the server ---


def test_a_healthy_run_passes_and_is_served_as_in_the_image(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    stop = served.Server.stop

    def looked_at(server: served.Server, within_s: float) -> int | None:
        there = Path(f"/proc/{server._process.pid}")
        seen.update(environ=(there / "environ").read_text(), limits=(there / "limits").read_text())
        seen.update(maps=(there / "maps").read_text())
        return stop(server, within_s)

    monkeypatch.setattr(served.Server, "stop", looked_at)
    assert verbs.main(["doctor", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "No problems found" in shown
    assert max(len(line) for line in shown.splitlines()[2:]) <= 80
    for name in ("archive", "labels", "preprocessing", "answers", "run's photos", "start", "/invocations", "stop"):
        assert f"\n{name} " in f"\n{shown}", name
    variables = dict(pair.split("=", 1) for pair in seen["environ"].split("\0") if pair)
    assert "HOME" not in variables
    assert variables["ORT_DISABLE_TELEMETRY"] == "1"
    limits = {line[:25].strip(): line[25:].split() for line in seen["limits"].splitlines()}
    assert limits["Max open files"][0] == "1024"
    assert limits["Max data size"][0] == str(4096 * 2**20)
    assert "onnxruntime" in seen["maps"]
    assert "libtorch" not in seen["maps"]


def test_the_examples_of_its_help_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(RunFolder(run).model, "model.tar.gz")
    examples = re.findall(r"^  python -m launchers (doctor .*)$", doctor_command.EPILOG, re.MULTILINE)
    assert examples.pop(1) == "doctor model.pth --classes NAMES.txt"  # tests/end_to_end/test_guides.py types this one
    for example in examples:
        assert verbs.main([str(run) if word == "runs/RUN" else word for word in example.split()]) == 0
        assert "No problems found" in capsys.readouterr().out


def test_findings_are_listed_with_the_table_and_as_json(
    good: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.tar.gz").write_bytes(
        packed(good, labels=("a", "a", "c", "d"), preprocess=replace(good.preprocess, std=(1, 1, 1)))
    )
    assert verbs.main(["doctor", str(tmp_path / "model.tar.gz"), "--env", "DOGBREED_PORT=80"]) == 1
    shown = capsys.readouterr()
    assert "error: 4 problems found:\n1. " in shown.err
    assert "labels         problem 2" in shown.out
    assert verbs.main(["doctor", str(tmp_path / "model.tar.gz"), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["findings"]) == 3
    assert problems(answer, SCHEMAS["doctor"]) == []
    assert verbs.main(["doctor", str(tmp_path / "model.tar.gz"), "--env", "PORT"]) == 1
    assert "--env PORT is not a variable and its value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "memory_mb", "said"),
    [
        (
            {"DOGBREED_MAX_BODY_BYTES": "2000"},
            4096,
            "A JPEG as image/jpeg is answered with 413: The body has more than",
        ),
        ({}, 60, r"ended at once with status 1: 60 MB of memory are not enough(.|\n)*Try: an instance type with more"),
    ],
)
def test_a_server_that_cannot_do_its_work_is_found(
    environ: dict[str, str], memory_mb: int, said: str, tmp_path: Path
) -> None:
    checks = doctor.examine(tiny_model(tmp_path / "model.tar.gz"), environ=environ, memory_mb=memory_mb)
    with pytest.raises(LaunchError, match=said):
        checks.raise_findings()


def test_a_package_that_the_image_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [name for name in served.packages() if name != "starlette"]
    assert len(there) == len(served.packages()) - 1
    assert not {"torch", "lightning", "onnx", "psutil", "launchers"} & set(there)
    monkeypatch.setattr(served, "packages", lambda: there)
    checks = doctor.examine(tiny_model(tmp_path / "model.tar.gz"))
    with pytest.raises(
        LaunchError, match=r"The image has no package 'starlette'(.|\n)*Try: add the package to the extra"
    ):
        checks.raise_findings()


def test_packages_of_the_server_that_are_not_installed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serve-requirements.txt").write_text("# a comment\nnumpy>=1\nnobody-has-this>=2\n")
    monkeypatch.setattr(served, "IMAGE", tmp_path)
    checks = doctor.examine(tiny_model(tmp_path / "model.tar.gz"))
    with pytest.raises(LaunchError, match=r"nobody-has-this is not installed(.|\n)*Try: pip install -e '\.\[serve\]'"):
        checks.raise_findings()


BAD_SERVER = """
import http.server, json, os, signal, sys, time
fault, labels = os.environ["FAULT"], json.load(open(os.environ["SAGEMAKER_BASE_DIR"] + "/model/labels.json"))
if fault == "ends": sys.exit("it ends")
if fault == "hangs": time.sleep(600)
if fault == "stays": signal.signal(signal.SIGTERM, signal.SIG_IGN)
else: signal.signal(signal.SIGTERM, lambda *_: os._exit(3 if fault == "fails to end" else 0))
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def say(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/health": return self.say(200, b'{"max_body_bytes": 1000000}')
        if fault == "slow ping" and os.path.exists("/tmp") and self.server.asked: time.sleep(0.05)
        self.server.asked = True
        self.say(503 if fault == "never ready" else 200, b"well" if fault == "words" else b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if fault == "writes": open("note.txt", "w").close()
        if fault == "dies": os._exit(9)
        if fault == "5xx": return self.say(500, b'{"detail": "it failed"}')
        if fault == "headers" and self.headers["X-Forwarded-For"]: return self.say(400, b"{}")
        large = len(body) > 1000000
        if fault != "takes all" and (large or not body.startswith(b"\\xff\\xd8")):
            return self.say(413 if large else 400, b"")
        share = {"short": 1 / (len(labels) - 1), "sum": 1.0, "nan": float("nan")}.get(fault, 1 / len(labels))
        row = [share] * (len(labels) - (fault == "short"))
        self.say(200, json.dumps({"probabilities": row, "model": {"precision": "fp32"}}).encode())
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
server.asked = False
print("Listening on http://127.0.0.1:%d" % server.server_port, flush=True)
server.serve_forever()
"""
BAD = {
    "ends": "ended at once with status 1. Its last lines:\n  it ends",
    "hangs": "it does not listen within",
    "never ready": "/ping does not answer with 200 within",
    "words": "/ping answers 200 with 4 bytes, not 200 with none",
    "slow ping": " s, more than 0.02",
    "5xx": "A JPEG as image/jpeg is answered with 500: it failed",
    "headers": "A JPEG as image/jpeg with unknown headers is answered with 400",
    "short": "An answer has 132 probabilities, not 133",
    "sum": "An answer has probabilities that sum to 133.0000, not to 1",
    "nan": "An answer has probabilities that are negative or not numbers",
    "takes all": "The server answers a body of 1,000,001 bytes with 200, not with a refusal",
    "dies": "The server stopped answering",
    "stays": "The server does not end within",
    "fails to end": "The server ends with status 3 within",
    "writes": "The server writes files, where it may not have the right to: note.txt",
    "off": "The server's probabilities differ from the artifact's own by",
}


SHORTER = {"hangs": {"START_S": 1.0}, "slow ping": {"_PING_S": 0.02}, "stays": {"_STOP_S": 0.3}}  # than usual
LISTENS = served.Server.listens


def once_it_listens_its_time_is_over(server: served.Server) -> bool:
    there = LISTENS(server)
    server.began -= contract.START_S if there else 0.0
    return there


@pytest.mark.parametrize("fault", BAD)
def test_a_server_that_breaks_the_contract_is_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text(BAD_SERVER)
    monkeypatch.setattr(served, "_INSIDE", tmp_path / "bad.py")
    for name, value in SHORTER.get(fault, {}).items():
        monkeypatch.setattr(contract, name, value)
    if fault == "never ready":
        monkeypatch.setattr(served.Server, "listens", once_it_listens_its_time_is_over)
    checks = doctor.examine(tiny_model(tmp_path / "model.tar.gz"), environ={"FAULT": fault})
    assert any(BAD[fault] in finding for finding in checks.findings), checks.findings
    assert all("\nTry: " in finding for finding in checks.findings)
