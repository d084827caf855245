"""The artifact: its contents, its agreement with the checkpoint, and what is refused."""

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dogbreed import artifact, checkpoints, export, hardware, onnx_network, predict
from dogbreed.artifact import Int8, Manifest
from dogbreed.errors import ArtifactError
from dogbreed.inference import Predictor
from dogbreed.model import DogBreedClassifier
from dogbreed.preprocess import Preprocess
from dogbreed.run_folder import RunFolder
from tests.support.runs import config, run

LABELS = ("001.Affenpinscher", "002.Afghan_hound", "003.Airedale_terrier")
MANIFEST = Manifest("resnet18", "run", "abc", 20, 1.5, {"test/acc": 0.9}, 1e-7, True)
FILES = {"model.onnx": b"network" * 100}
PREPROCESS = Preprocess(image_px=64)


def saved(model: DogBreedClassifier, folder: Path) -> Path:
    path = folder / "checkpoints" / "best.ckpt"
    checkpoints.write({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an untrained network with the statistics of some data, so that each photo gets other outputs."""
    torch.manual_seed(0)
    model = DogBreedClassifier(LABELS, backbone="resnet18", weights=None, image_px=64)
    model.backbone.train()
    with torch.no_grad():
        model(torch.randint(256, (16, 3, 64, 64), dtype=torch.uint8))
    model.temperature.fill_(0.5)
    return saved(model, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def archive(checkpoint: Path) -> Path:
    path = checkpoint.parents[1] / "model.tar.gz"
    path.write_bytes(export.export(checkpoint))
    return path


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    from PIL import Image

    rng = np.random.default_rng(1)
    sizes = ((90, 120), (64, 64), (300, 200), (70, 500))
    return [Image.fromarray(rng.integers(256, size=(*size, 3), dtype=np.uint8)) for size in sizes]


def test_the_artifact_answers_as_its_checkpoint(checkpoint: Path, archive: Path, pictures: list[Any]) -> None:
    theirs = Predictor.from_checkpoint(checkpoint)
    ours = Predictor.from_artifact(archive)
    expected = theirs.probabilities(pictures)
    assert np.abs(ours.probabilities(pictures) - expected).max() <= 1e-4
    assert expected.max() > expected.min() + 0.05  # they have something to disagree about
    assert [one[0].label for one in ours.predict_many(pictures)] == [LABELS[n] for n in expected.argmax(1)]
    assert artifact.read(archive).manifest.parity_error == 1e-5  # however many threads computed it


def test_a_batch_is_answered_as_each_photo_alone(archive: Path, pictures: list[Any]) -> None:
    predictor = Predictor.from_artifact(archive)
    alone = np.concatenate([predictor.probabilities([picture]) for picture in pictures])
    assert np.allclose(predictor.probabilities(pictures), alone, atol=1e-6)
    assert predictor.probabilities([]).shape == (0, 3)


def test_calls_from_several_threads_get_the_same_answers(archive: Path, pictures: list[Any]) -> None:
    predictor = Predictor.from_artifact(archive, several=True)
    expected = predictor.probabilities(pictures)
    predictor.prepare_for_several()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda n: predictor.probabilities([pictures[n % 4]])[0], range(40)))
    assert np.abs(np.array(answers) - np.tile(expected, (10, 1))).max() < 1e-5


def test_the_heat_maps_mean_is_the_logit(archive: Path, pictures: list[Any]) -> None:
    found = artifact.read(archive)
    network = onnx_network.OnnxNetwork(found.networks[artifact.NETWORK], classes=3, image_px=64)
    out = network(np.stack([found.preprocess.pixels(picture) for picture in pictures]))
    assert out.heat_maps is not None
    assert out.heat_maps.shape == (4, 3, 2, 2)
    assert np.allclose(out.heat_maps.mean((2, 3)), out.logits, atol=1e-4)


@pytest.mark.parametrize(
    ("library", "backbone", "maps"),
    [
        ("torchvision", "resnet18", True),
        ("timm", "test_efficientnet", True),
        ("torchvision", "mobilenet_v3_small", False),  # a hidden layer stands between pooling and head
        ("timm", "test_vit", False),
    ],
)
def test_heat_maps_exist_if_the_head_is_linear_on_pooled_maps(library: Any, backbone: str, maps: bool) -> None:
    px = 160 if backbone == "test_vit" else 64
    model = DogBreedClassifier(LABELS, library=library, backbone=backbone, weights=None, image_px=px).eval()
    assert (export._last_maps(model, torch.from_numpy(export._examples(px)[:2])) is not None) is maps


def test_a_network_without_heat_maps_is_served_all_the_same(tmp_path: Path) -> None:
    model = DogBreedClassifier(LABELS, library="timm", backbone="test_vit", weights=None, image_px=160)
    path = tmp_path / "model.tar.gz"
    path.write_bytes(export.export(saved(model, tmp_path)))
    assert artifact.read(path).manifest.heat_maps is False
    answer = Predictor.from_artifact(path).answer(np.zeros((2, 160, 160, 3), np.uint8))
    assert answer.heat_maps is None
    assert answer.probabilities.shape == (2, 3)


def test_a_network_that_cannot_be_exported_logs_a_warning_and_the_run_continues(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forward(self: DogBreedClassifier, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a layer that ONNX has not")

    monkeypatch.setattr(export._Exported, "forward", forward)
    with pytest.raises(ArtifactError, match="cannot be exported to ONNX"):
        export.export(checkpoint)
    here = RunFolder(Path(shutil.copytree(checkpoint.parents[1], tmp_path / "copy")))
    here.model.unlink(missing_ok=True)
    export.write(here)
    assert not here.model.exists()
    assert "Did not write model.tar.gz" in caplog.text


def test_a_network_whose_outputs_differ_is_not_exported(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(ArtifactError, match="off by"):
        export.export(checkpoint)


def test_the_bytes_are_the_same_in_another_process_and_name_no_path(
    checkpoint: Path, archive: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint.parents[1], tmp_path / "copy"))
    (folder / "model.tar.gz").unlink()
    command = [sys.executable, "-m", "dogbreed.export", folder]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "its probabilities are within 1e-05 of the torch network's" in said
    assert (folder / "model.tar.gz").read_bytes() == archive.read_bytes()
    network = artifact.read(archive).networks[artifact.NETWORK]
    assert b"/dogbreed/" not in network
    assert str(Path.home()).encode() not in network


def test_the_archive_is_what_sagemaker_unpacks(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as packed:
        assert {member.mtime for member in packed} == {0}
        assert packed.getnames() == sorted(packed.getnames())
        packed.extractall(tmp_path, filter="data")
    assert artifact.read(tmp_path) == artifact.read(archive)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.onnx",
        "labels.json",
        "preprocess.json",
        "manifest.json",
    }


def packed_by_tar(path: Path, files: dict[str, bytes]) -> Path:
    """Pack like `tar -czf model.tar.gz .`: names start with ./, and the folder is a member."""
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def contents(packed: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


GOOD = artifact.pack(MANIFEST, LABELS, PREPROCESS, FILES)


def test_an_artifact_repacked_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "ours.tar.gz").write_bytes(GOOD)
    theirs = artifact.read(packed_by_tar(tmp_path / "theirs.tar.gz", contents(GOOD)))
    assert theirs == artifact.read(tmp_path / "ours.tar.gz")
    assert theirs.manifest == MANIFEST
    assert theirs.labels == LABELS
    assert theirs.preprocess == PREPROCESS


@pytest.mark.parametrize("level", [0, 9])
def test_an_archive_of_several_chunks_and_gzip_members_is_read(level: int, tmp_path: Path) -> None:
    """Archives as pigz and `cat` write them, of weights that are noise and of weights that compress to a thousandth."""
    noise = np.random.default_rng(0).bytes(3_000_001)
    networks = {artifact.NETWORK: noise + bytes(5_000_001)}
    packed = gzip.decompress(artifact.pack(MANIFEST, LABELS, PREPROCESS, networks))
    members = [gzip.compress(packed[at : at + 2_500_000], level) for at in range(0, len(packed), 2_500_000)]
    path = tmp_path / "model.tar.gz"
    path.write_bytes(b"".join(members) + bytes(512))
    assert artifact.read(path).networks == networks
    path.write_bytes(b"".join(members[:-1]))
    with pytest.raises(ArtifactError, match=r"it is not a complete \.tar\.gz"):
        artifact.read(path)


@given(
    labels=st.lists(st.text(max_size=20), min_size=1, max_size=5),
    temperature=st.floats(1e-3, 1e3),
    network=st.binary(max_size=2000),
    int8=st.none() | st.builds(Int8, st.floats(0, 1), st.floats(0, 1), st.integers(1, 9)),
)
def test_what_is_packed_is_read_again(
    labels: list[str], temperature: float, network: bytes, int8: Int8 | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    manifest = replace(MANIFEST, temperature=temperature, int8=int8)
    packed = artifact.pack(manifest, tuple(labels), PREPROCESS, {"model.onnx": network})
    path = tmp_path_factory.mktemp("packed") / "model.tar.gz"
    path.write_bytes(packed)
    found = artifact.read(path)
    assert (found.manifest, found.labels, found.networks["model.onnx"]) == (manifest, tuple(labels), network)


def changed(**files: bytes | None) -> dict[str, bytes]:
    new = {**contents(GOOD), **{name.replace("__", "."): content for name, content in files.items()}}
    return {name: content for name, content in new.items() if content is not None}


def manifest_with(**values: Any) -> bytes:
    return json.dumps({**json.loads(contents(GOOD)["manifest.json"]), **values}).encode()


REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "a changed network": (changed(model__onnx=b"other"), "SHA-256 of model.onnx"),
    "changed labels": (changed(labels__json=b'["a"]'), "SHA-256 of labels.json"),
    "no network": (changed(model__onnx=None), "model.onnx is missing"),
    "no manifest": (changed(manifest__json=None), "manifest.json is missing"),
    "a newer schema": (changed(manifest__json=manifest_with(schema=2)), "its schema is 2"),
    "no schema": (changed(manifest__json=b"{}"), "its schema is None"),
    "a manifest that is not JSON": (changed(manifest__json=b"{"), "manifest.json is not valid JSON"),
    "a manifest that is a list": (changed(manifest__json=b"[]"), "holds a list"),
    "a manifest nested a million deep": (changed(manifest__json=b"[" * 10**6), "manifest.json is not valid JSON"),
    "an unknown key": (changed(manifest__json=manifest_with(code="import os")), "does not match its schema"),
    "a temperature of zero": (changed(manifest__json=manifest_with(temperature=0)), "temperature is 0"),
    "digests of the wrong kind": (changed(manifest__json=manifest_with(sha256=[])), "SHA-256 of model.onnx"),
    "a file that is listed and not there": (
        changed(
            manifest__json=manifest_with(sha256={**json.loads(contents(GOOD)["manifest.json"])["sha256"], "x": ""})
        ),
        "x, listed in the manifest, is missing",
    ),
    "code": (changed(**{"inference.py": b"import os"}), "'inference.py' is not an expected file"),
    "an absolute path": (changed(**{"/etc/passwd": b""}), "'/etc/passwd' would be extracted outside"),
    "a path upwards": (changed(**{"../model.onnx": b""}), "would be extracted outside"),
    "a path upwards from within": (changed(**{"code/../../model.onnx": b""}), "would be extracted outside"),
    "a Windows path": (changed(**{"..\\model.onnx": b""}), "would be extracted outside"),
    "a JSON file of megabytes": (changed(labels__json=b" " * 5_000_000), "5,000,000 bytes, more than allowed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_artifact_is_refused(name: str, tmp_path: Path) -> None:
    files, reason = REFUSED[name]
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member_name, content in files.items():
            member = tarfile.TarInfo(member_name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ArtifactError) as refused:
        artifact.read(path)
    assert reason in str(refused.value)
    assert "Try: " in str(refused.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("model.onnx")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(ArtifactError, match=r"a link|not a regular file"):
        artifact.read(path)


def test_a_link_in_an_unpacked_folder_is_refused(tmp_path: Path) -> None:
    for name, content in contents(GOOD).items():
        (tmp_path / name).write_bytes(content)
    artifact.read(tmp_path)
    (tmp_path / "model.onnx").rename(tmp_path.parent / "elsewhere.onnx")
    (tmp_path / "model.onnx").symlink_to(tmp_path.parent / "elsewhere.onnx")
    with pytest.raises(ArtifactError, match="a link"):
        artifact.read(tmp_path)


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for content in (b"one", b"two"):
            member = tarfile.TarInfo("model.onnx")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ArtifactError, match=r"model.onnx twice"):
        artifact.read(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "MAX_BYTES", 1_000_000)
    path = packed_by_tar(tmp_path / "model.tar.gz", {"model.onnx": bytes(50_000_000)})
    assert path.stat().st_size < 100_000
    with pytest.raises(ArtifactError, match="50,000,000 bytes, more than allowed"):
        artifact.read(path)


def test_all_findings_come_at_once(tmp_path: Path) -> None:
    path = packed_by_tar(tmp_path / "model.tar.gz", {"code.py": b"", "model.onnx": b"", "labels.json": b"[]"})
    with pytest.raises(
        ArtifactError, match=r"(?s)3 problems.*code\.py.*manifest\.json is missing.*preprocess\.json is missing"
    ):
        artifact.read(path)


@given(data=st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Flipped bytes and truncation either change nothing that is read, or are refused with a message."""
    packed = bytearray(GOOD)
    if data.draw(st.booleans()):
        packed = packed[: data.draw(st.integers(0, len(packed) - 1))]
    else:
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.tar.gz"
    path.write_bytes(packed)
    with contextlib.suppress(ArtifactError):
        assert artifact.read(path).networks == FILES


def test_a_missing_artifact_says_how_to_export_one(tmp_path: Path) -> None:
    for path in (tmp_path / "model.tar.gz", tmp_path):
        with pytest.raises(ArtifactError, match=r"The artifact .* does not exist.*\nTry: python -m dogbreed\.export"):
            artifact.read(path)


def test_a_file_that_is_not_a_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(GOOD)
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load"):
        Predictor.from_artifact(path)


def test_a_network_of_other_classes_is_refused(archive: Path, tmp_path: Path) -> None:
    found = artifact.read(archive)
    path = tmp_path / "model.tar.gz"
    path.write_bytes(artifact.pack(found.manifest, (*LABELS, "one more"), found.preprocess, found.networks))
    with pytest.raises(ArtifactError, match="4 classes"):
        Predictor.from_artifact(path)


def test_weights_outside_of_the_archive_are_not_read(tmp_path: Path) -> None:
    """An ONNX file can name an external file with its weights, which could be any file of the server."""
    import onnx
    from onnx import TensorProto, helper

    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(12))
    weight = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", str(secret)), ("offset", "0"), ("length", "12")):
        weight.external_data.add(key=key, value=value)
    node = helper.make_node("Identity", ["w"], ["logits"])
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 64, 64, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [3])
    graph = helper.make_graph([node], "g", [pixels], [logits], [weight])
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    path = tmp_path / "model.tar.gz"
    path.write_bytes(artifact.pack(MANIFEST, LABELS, PREPROCESS, {"model.onnx": network}))
    with pytest.raises(ArtifactError):
        Predictor.from_artifact(path)


# int8


@pytest.fixture(scope="module")
def quantised(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, after `python -m dogbreed.export RUN --int8`."""
    folder = tmp_path_factory.mktemp("int8")
    run(config(photos), folder)
    assert export.main([str(folder), "--int8"]) == 0
    return folder


def test_int8_is_smaller_and_measured_on_the_runs_validation_photos(quantised: Path) -> None:
    found = artifact.read(quantised)
    assert len(found.networks["model.int8.onnx"]) < 0.5 * len(found.networks["model.onnx"])
    int8 = found.manifest.int8
    assert int8 is not None
    assert int8.photos == 9
    assert int8.accuracy_fp32 == pytest.approx(json.loads((quantised / "metrics.json").read_text())["val/acc"])
    assert int8.accuracy >= int8.accuracy_fp32 - 0.34


def test_each_network_file_has_its_own_threshold(quantised: Path) -> None:
    networks, model = (
        artifact.read(quantised).networks,
        DogBreedClassifier.from_checkpoint(quantised / "checkpoints/best.ckpt"),
    )
    pixels = np.random.default_rng(0).integers(256, size=(60, 32, 32, 3), dtype=np.uint8)
    _, found = export._measured(model, dict(networks), [(pixels, np.zeros(60, np.int64))])
    for name, content in networks.items():
        judge = found[name]
        assert judge is not None
        logits = onnx_network.OnnxNetwork(content, classes=len(model.classes), image_px=32).logits(pixels)
        assert (judge.photos, judge.judge(logits).sum()) == (60, 3)
    assert len({each.threshold for each in found.values() if each}) == 2


@pytest.mark.parametrize(
    ("flags", "loss", "allowed", "precision"),
    [
        ({"avx2", "avx512_vnni"}, 0.004, 0.005, "int8"),
        ({"amx_int8"}, 0.004, 0.005, "int8"),
        ({"avx2", "avx512_vnni"}, 0.006, 0.005, "fp32"),  # it loses too much
        ({"avx2"}, -0.1, 0.005, "fp32"),  # sums would saturate
        ({"avx512_vnni"}, 0.004, -1, "fp32"),
    ],
)
def test_int8_is_used_only_where_it_is_exact_and_good(
    flags: set[str], loss: float, allowed: float, precision: str, quantised: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    found = artifact.read(quantised)
    manifest = replace(found.manifest, int8=Int8(accuracy=0.9 - loss, accuracy_fp32=0.9, photos=1000))
    path = tmp_path / "model.tar.gz"
    path.write_bytes(artifact.pack(manifest, found.labels, found.preprocess, found.networks))
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    assert Predictor.from_artifact(path, max_accuracy_loss=allowed).about.precision == precision


# runs and commands


@pytest.mark.exports
def test_a_run_ends_with_its_artifact_and_agrees_with_its_test(photos: Path, tmp_path: Path) -> None:
    run(config(photos), tmp_path)
    here = RunFolder(tmp_path)
    found = artifact.read(here.path)
    metrics = json.loads(here.metrics.read_text())
    assert found.manifest.metrics["test/acc"] == metrics["test/acc"]
    assert found.manifest.temperature == pytest.approx(metrics["temperature"])
    assert found.manifest.run_id == "test"
    rows = [row.split(",") for row in here.predictions.read_text().splitlines()[1:]]
    answers = Predictor.load(tmp_path).predict_many([photos / row[0] for row in rows])
    assert [one[0].label for one in answers] == [row[2] for row in rows]
    assert [one[0].probability for one in answers] == pytest.approx([float(row[3]) for row in rows], abs=1e-4)


@pytest.mark.exports
def test_a_sweeps_trial_makes_no_artifact(photos: Path, tmp_path: Path) -> None:
    run(config(photos, "test=false"), tmp_path)
    assert not RunFolder(tmp_path).model.exists()


def test_the_command_says_what_is_missing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(checkpoint), "--int8"]) == 1
    assert "config.yaml, which names them, does not exist" in capsys.readouterr().err
    assert export.main([str(tmp_path / "absent.ckpt")]) == 1
    assert "does not exist" in capsys.readouterr().err


NO_TORCH = """
import sys
class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning", "torchvision", "timm", "onnx", "psutil"):
            raise ImportError(f"{name} is not to be needed")
sys.meta_path.insert(0, Refuses())
import dogbreed.inference, dogbreed.serving.server
from dogbreed import predict
sys.exit(predict.main(sys.argv[1:]))
"""


def test_an_artifact_is_used_without_torch(archive: Path, pictures: list[Any], tmp_path: Path) -> None:
    pictures[0].save(tmp_path / "photo.png")
    for model in (archive, archive.parent):
        done = subprocess.run(
            [sys.executable, "-c", NO_TORCH, model, tmp_path / "photo.png", "--json"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["predictions"][0]["breed"] in (
            "Affenpinscher",
            "Afghan hound",
            "Airedale terrier",
        )


def test_predict_takes_a_checkpoint_too(
    checkpoint: Path, pictures: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures[0].save(tmp_path / "photo.png")
    assert predict.main([str(checkpoint), str(tmp_path / "photo.png")]) == 0
    assert "Afghan hound" in capsys.readouterr().out


def test_digests_are_of_the_files(archive: Path) -> None:
    files = contents(archive.read_bytes())
    for name, digest in json.loads(files["manifest.json"])["sha256"].items():
        assert hashlib.sha256(files[name]).hexdigest() == digest
