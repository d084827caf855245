import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dogbreed.breeds import BREEDS, display_names
from dogbreed.drawn.__main__ import contact_sheet, main
from dogbreed.drawn.dog import POSES
from dogbreed.drawn.scene import picture
from dogbreed.drawn.source import SPLITS, DrawnDogs, _temporary_sibling
from dogbreed.drawn.traits import TRAITS, difference
from dogbreed.errors import ConfigError, DataError, StorageError
from tests.support.launcher_contract import until
from tests.support.project import ROOT

SMALL = DrawnDogs(breeds=4, train=3, valid=1, test=2, min_px=60, max_px=90, processes=1)
PREPARE = "import sys; from pathlib import Path; from dogbreed.drawn import DrawnDogs; "


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.parent.iterdir() if path != root)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "dogs"
    SMALL.prepare(root)
    return root


def test_there_are_133_breeds_numbered_in_order() -> None:
    assert len(BREEDS) == len(set(BREEDS)) == 133
    assert [int(breed[:3]) for breed in BREEDS] == list(range(1, 134))
    assert [breed[4:].lower() for breed in BREEDS] == sorted(breed[4:].lower() for breed in BREEDS)
    assert {"001.Affenpinscher", "055.Curly-coated_retriever", "133.Yorkshire_terrier"} <= set(BREEDS)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("001.Affenpinscher", "Affenpinscher"),
        ("002.Afghan_hound", "Afghan hound"),
        ("050.Chinese_shar-pei", "Chinese shar-pei"),
        ("tabby_cat", "tabby cat"),
        ("v1.5_cats", "v1.5 cats"),
        ("2023", "2023"),
    ],
)
def test_a_display_name_has_no_number_and_no_underscores(folder: str, name: str) -> None:
    assert display_names([folder]) == [name]


def test_every_breed_has_traits_and_no_two_are_twins() -> None:
    assert tuple(TRAITS) == BREEDS
    closest = min((difference(TRAITS[a], TRAITS[b]), a, b) for a, b in itertools.combinations(BREEDS, 2))
    assert closest[0] >= 1.5, f"{closest[1]} and {closest[2]} differ by less than one and a half traits"


def test_layout_counts_and_sizes_are_those_of_the_settings(drawn: Path) -> None:
    counts = {"train": 3, "valid": 1, "test": 2}
    for split in SPLITS:
        assert sorted(p.name for p in (drawn / split).iterdir()) == list(BREEDS[:4])
        for breed in BREEDS[:4]:
            photos = sorted((drawn / split / breed).iterdir())
            assert len(photos) == counts[split]
            for photo in photos:
                with Image.open(photo) as image:
                    assert (image.format, image.mode) == ("JPEG", "RGB")
                    assert all(60 <= side <= 90 for side in image.size)
    assert (drawn / "train" / "001.Affenpinscher" / "Affenpinscher_00001.jpg").is_file()
    assert (drawn / "test" / "001.Affenpinscher" / "Affenpinscher_00006.jpg").is_file()
    assert json.loads((drawn / "drawn.json").read_text()) == SMALL.settings()
    assert leftovers(drawn) == []


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(drawn: Path, tmp_path: Path) -> None:
    replace(SMALL, processes=3).prepare(tmp_path / "dogs")
    assert digests(tmp_path / "dogs") == digests(drawn)


def test_another_seed_gives_other_photos(drawn: Path, tmp_path: Path) -> None:
    replace(SMALL, seed=1).prepare(tmp_path / "dogs")
    one, other = digests(drawn), digests(tmp_path / "dogs")
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_photos_of_a_breed_all_differ(drawn: Path) -> None:
    found = digests(drawn)
    assert len(set(found.values())) == len(found) == 4 * 6 + 1


def test_a_photo_does_not_depend_on_how_many_breeds_or_splits_are_drawn() -> None:
    other = replace(SMALL, breeds=133, test=9)
    breed = BREEDS[2]
    assert SMALL.photo("train", breed, 2).tobytes() == other.photo("train", breed, 2).tobytes()


@pytest.mark.parametrize("pose", POSES)
def test_every_breed_can_be_drawn_in_every_pose(pose: str) -> None:
    for number, breed in enumerate(BREEDS):
        rng = np.random.Generator(np.random.PCG64(number))
        image = picture(TRAITS[breed], rng, (48, 40), pose=pose)
        assert image.size == (48, 40)


def test_a_second_prepare_changes_nothing(drawn: Path) -> None:
    def state() -> list[tuple[str, int, int]]:
        return sorted((str(p), p.stat().st_mtime_ns, p.stat().st_ino) for p in drawn.rglob("*"))

    before = state()
    replace(SMALL, processes=2).prepare(drawn)
    assert state() == before


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path: Path) -> None:
    small = replace(SMALL, breeds=1, train=1, test=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    small.prepare(tmp_path / "link")
    assert len(list((tmp_path / "empty").rglob("*.jpg"))) == 3


def test_other_settings_are_refused_and_both_named(drawn: Path) -> None:
    before = digests(drawn)
    with pytest.raises(DataError, match=r"(?s)Found: seed=0, train=3; requested: seed=7, train=5.*Try: "):
        replace(SMALL, seed=7, train=5).prepare(drawn)
    assert digests(drawn) == before


def test_other_content_is_refused_and_not_changed(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"(?s)holiday\.jpg.*not changed.*Try: "):
        SMALL.prepare(root)
    assert (root / "holiday.jpg").read_bytes() == b"precious"
    assert leftovers(root) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dogs").write_text("no folder")
    with pytest.raises(DataError, match="is a file"):
        SMALL.prepare(tmp_path / "dogs")


def test_settings_out_of_range_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)breeds=134.*min_px=5.*quality=100"):
        replace(SMALL, breeds=134, min_px=5, quality=100).prepare(tmp_path / "dogs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, processes: int) -> None:
    code = PREPARE + (
        "import resource; "  # a write beyond the limit fails as on a full disk
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        f"DrawnDogs(breeds=4, processes={processes}).prepare(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "dogs")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert StorageError.__name__ in done.stderr
    assert "No room to write" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_midway_leaves_no_half_set_and_the_next_prepare_completes(tmp_path: Path, processes: int) -> None:
    root = tmp_path / "dogs"
    code = PREPARE + f"DrawnDogs(breeds=40, train=9999, processes={processes}).prepare(Path(sys.argv[1]))"
    victim = subprocess.Popen([sys.executable, "-c", code, str(root)])
    try:
        until(lambda: len(list(tmp_path.rglob("*.jpg"))) >= 20, every_s=0.01)
        assert victim.poll() is None
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert not root.exists()
    assert len(leftovers(root)) == 1
    SMALL.prepare(root)
    assert len(list(root.rglob("*.jpg"))) == 4 * 6
    assert leftovers(root) == []


def test_leftovers_of_a_process_that_still_runs_stay(tmp_path: Path) -> None:
    root = tmp_path / "dogs"
    with _temporary_sibling(root) as folder:
        (folder / "half.jpg").write_bytes(b"at work")
        replace(SMALL, breeds=1).prepare(root)
        assert (folder / "half.jpg").exists()
    assert leftovers(root) == []


def test_two_processes_at_once_both_succeed(tmp_path: Path) -> None:
    root = tmp_path / "dogs"
    code = PREPARE + "DrawnDogs(breeds=4, min_px=60, max_px=90, processes=1).prepare(Path(sys.argv[1]))"
    both = [subprocess.Popen([sys.executable, "-c", code, str(root)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(root.rglob("*.jpg"))) == 4 * 16
    assert leftovers(root) == []


def test_a_plain_script_without_a_main_guard_can_draw(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom dogbreed.drawn import DrawnDogs\n"
        "DrawnDogs(breeds=3, train=4, min_px=60, max_px=90, processes=2).prepare(Path('dogs'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path, env=environment)
    assert len(list((tmp_path / "dogs").rglob("*.jpg"))) == 30


def test_drawing_loads_no_torch() -> None:
    code = "import sys, dogbreed.drawn; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def features(image: Image.Image) -> np.ndarray:
    """Compute simple pixel features: 6 x 6 mean colours and a coarse colour histogram of the center."""
    small = np.asarray(image.resize((6, 6), Image.Resampling.BOX), dtype=np.float64).ravel() / 255
    w, h = image.size
    middle = np.asarray(image.crop((w // 4, h // 4, 3 * w // 4, 3 * h // 4)).resize((32, 32)), dtype=np.int64) // 64
    bins = np.bincount((middle @ np.array([16, 4, 1])).ravel(), minlength=64) / 1024
    return np.concatenate([0.2 * small, 2 * np.sqrt(bins)])


def test_breeds_can_be_told_apart_from_pixels_but_not_from_colour_alone() -> None:
    dogs = DrawnDogs(train=12, test=6, min_px=90, max_px=120)
    breeds = ["005.Alaskan_malamute", "056.Dachshund", "057.Dalmatian", "106.Newfoundland", "101.Maltese"]
    centroids = np.stack(
        [np.mean([features(dogs.photo("train", breed, n)) for n in range(1, 13)], axis=0) for breed in breeds]
    )
    right = [
        int(np.argmin(np.sum((centroids - features(dogs.photo("test", breed, n))) ** 2, axis=1))) == i
        for i, breed in enumerate(breeds)
        for n in range(16, 22)
    ]
    accuracy = float(np.mean(right))
    assert 2 / len(breeds) < accuracy < 1  # chance is 1/5; light, ground and pose keep it from being trivial


def test_the_contact_sheet_shows_every_breed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contact_sheet(BREEDS[:5], columns=3, tile_px=60).size == (180, 150)
    assert main([str(tmp_path / "new" / "sheet.jpg"), "--tile-px", "48"]) == 0
    with Image.open(tmp_path / "new" / "sheet.jpg") as sheet:
        assert sheet.size == (14 * 48, 10 * 60)
    assert "133 breeds" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["sheet.gif"], ["sheet.jpg", "--columns", "0"], ["sheet.jpg", "--seed", "-1"]])
def test_bad_arguments_of_the_contact_sheet_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert "error:" in capsys.readouterr().err
