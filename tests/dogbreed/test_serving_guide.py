"""The serving guide's recipe for other runtimes gives the probabilities that the library's own Predictor gives."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from dogbreed import artifact
from dogbreed.inference import Predictor
from tests.support.guides import Guide
from tests.support.project import ROOT
from tests.support.serving import tiny_model

GUIDE = Guide(ROOT / "dogbreed" / "serving" / "README.md")
ON_ITS_SIDE = 6  # EXIF's orientation of a photo whose phone was held upright


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs/RUN/model.tar.gz."""
    here = tmp_path_factory.mktemp("recipe")
    (here / "runs" / "RUN").mkdir(parents=True)
    tiny_model(here / "runs" / "RUN" / "model.tar.gz")
    return here


def picture(width: int, height: int, mode: str) -> Image.Image:
    """Return coarse random colours: each crop, rotation and channel order looks different."""
    coarse = np.random.default_rng(width).integers(256, size=(5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST).convert(mode)


@pytest.mark.parametrize(
    ("size", "mode", "orientation"), [((150, 90), "RGB", 1), ((90, 150), "RGB", ON_ITS_SIDE), ((64, 64), "L", 1)]
)
def test_the_recipe_for_other_runtimes_gives_the_predictors_probabilities(
    size: tuple[int, int],
    mode: str,
    orientation: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # the recipe opens PHOTO.jpg; the bytes are a PNG, so that no JPEG decoder rounds differently
    picture(*size, mode).save(folder / "PHOTO.jpg", "PNG", exif=exif)
    (recipe,) = GUIDE.python()
    assert "dogbreed" not in recipe
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(compile(recipe, str(GUIDE), "exec"), found)
    predictor = Predictor.load(folder / "runs" / "RUN")
    np.testing.assert_array_equal(found["pixels"], predictor.preprocess.pixels("PHOTO.jpg"))
    np.testing.assert_allclose(found["probabilities"], predictor.probabilities(["PHOTO.jpg"])[0], atol=1e-5)
    shown = [f"{one.probability:6.1%}  {one.label}" for one in predictor.predict("PHOTO.jpg")]
    assert capsys.readouterr().out.splitlines() == shown


def test_the_guides_table_names_the_networks_input_and_outputs(folder: Path) -> None:
    network = onnxruntime.InferenceSession(artifact.read(folder / "runs" / "RUN").networks[artifact.NETWORK])
    nodes = [*network.get_inputs(), *network.get_outputs()]
    table = re.findall(r"^\| `(\w+)`[^|]* \| (\w+) \[(.+?)\] \|", GUIDE.text, re.MULTILINE)
    kinds = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    assert [(node.name, kinds[node.type], len(node.shape)) for node in nodes] == [
        (name, kind, len(shape.split(", "))) for name, kind, shape in table
    ]
