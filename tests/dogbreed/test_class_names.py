"""Class names come from a file, a folder of photos, or the file of weights itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed import class_names
from dogbreed.breeds import BREEDS
from dogbreed.errors import DataError

# printable, and neither blank at the ends nor like the start of JSON
NAMES = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12).filter(
        lambda name: name[0] not in "[{\ufeff"
    ),
    min_size=1,
    max_size=9,
    unique=True,
)


@given(names=NAMES, ends=st.sampled_from(["\n", "\r\n"]), bom=st.booleans(), last=st.booleans())
def test_names_in_lines_are_read_as_written(
    names: list[str], ends: str, bom: bool, last: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("names") / "names.txt"
    text = ends.join(names) + (ends if last else "")
    path.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))
    assert class_names.read(path) == tuple(names)


@given(names=NAMES, mapping=st.booleans(), ascii_only=st.booleans())
def test_names_in_json_are_read_as_written(
    names: list[str], mapping: bool, ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("names") / "names"
    numbers = {name: number for number, name in reversed(list(enumerate(names)))}
    path.write_text(json.dumps(numbers if mapping else names, ensure_ascii=ascii_only), encoding="utf-8")
    assert class_names.read(path) == tuple(names)


def test_a_folder_of_photos_gives_its_classes_in_order(photos: Path) -> None:
    expected = tuple(sorted(folder.name for folder in (photos / "train").iterdir()))
    assert class_names.read(photos) == expected
    assert class_names.read(photos / "train") == expected


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"\n \n", "has no class names"),
    "an empty list": (b"[]", "has no class names"),
    "twice": (b"a\nb\na\nb\n", "has class names twice: a, b"),
    "numbers": (b'[1, null, "a"]', "entries that are not names: 1, None"),
    "blank": (b'["a", " "]', "entries that are not names"),
    "broken JSON": (b'["a", ', "begins like JSON, but is not valid"),
    "numbers with a gap": (b'{"a": 0, "b": 2}', "does not map class names to the numbers 0 to 1"),
    "not UTF-8": (b"caf\xe9\nb\n", "not a text file in UTF-8"),
    "control characters": (b"a\x07\nb\n", "not printable"),
    "binary": (b"\x80\x02}q\x00.", "not a text file in UTF-8"),
    "deep JSON": (b"[" * 100_000, "begins like JSON, but is not valid"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_list_of_names_is_refused(name: str, tmp_path: Path) -> None:
    content, said = WRONG[name]
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(DataError, match=rf"names .*{said}(.|\n)*Try: "):
        class_names.read(tmp_path / "names")


def test_all_problems_come_at_once_and_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "names").write_text('["a", "a", 3]')
    with pytest.raises(DataError, match=r"(?s)2 problems.*not names: 3.*twice: a"):
        class_names.read(tmp_path / "names")
    with pytest.raises(DataError, match=r"absent: no such file(.|\n)*Try: "):
        class_names.read(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no photos in class folders(.|\n)*Try: "):
        class_names.read(tmp_path)


@pytest.mark.parametrize(
    ("number", "given", "inside", "expected"),
    [
        (2, None, {"class_to_idx": {"x": 1, "y": 0}}, ("y", "x")),
        (2, None, {"classes": ["p", "q"]}, ("p", "q")),
        (2, ("m", "n"), {"classes": ["p", "q"]}, ("m", "n")),
        (133, None, {"class_to_idx": {"x": 5}}, BREEDS),
        (133, None, None, BREEDS),
    ],
)
def test_given_names_come_first_then_the_files_own_then_the_breeds(
    number: int, given: Any, inside: Any, expected: tuple[str, ...]
) -> None:
    assert class_names.of_network(number, Path("m.pth"), given=given, inside=inside) == expected


def test_names_of_the_file_that_are_too_few_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"m\.pth has 3 outputs, but the file itself has 2 class names"):
        class_names.of_network(3, Path("m.pth"), inside={"classes": ["p", "q"]})
