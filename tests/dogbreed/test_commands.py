"""Commands in messages work when they are pasted: for any names, for the shell and for Hydra."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from dogbreed import commands
from tests.support.project import ROOT

SOURCES = sorted(path for name in ("dogbreed", "launchers") for path in (ROOT / name).rglob("*.py"))
COMMAND = re.compile(r"\b(?:python (?:-m [\w.]+|\S*train\.py)|aws (?:s3|s3api|iam|sso|configure)\b)")
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    lambda text: "${" not in text  # an interpolation of OmegaConf's
)


def typed(command: str) -> list[str]:
    """The overrides of a command as train.py gets them from a shell."""
    program, file, *words = shlex.split(command)
    assert (program, Path(file).name) == ("python", "train.py")
    return words


@given(names)
@example("~/Dogs (2024)")
@example("it's")
@example("k=v, A&B")
@example("both ' and \" and \\")
@example("Hündchen/照片\\")
@example("1e3")
@example("null")
def test_a_value_comes_back_through_the_shell_and_hydra(value: str) -> None:
    (word,) = typed(commands.train(commands.override("data.root", value)))
    read = OverridesParser.create().parse_override(word).value()
    assert (type(read), read) == (str, value)
    assert commands.unquoted(word.removeprefix("data.root=")) == value
    assert shlex.split(commands.setting("data.root", value)) == [word]


@given(st.lists(names, max_size=4))
def test_words_come_back_through_the_shell(words: list[str]) -> None:
    assert shlex.split(commands.launchers(*words)) == ["python", "-m", "launchers", *words]


def test_alternatives_stand_on_lines_of_their_own() -> None:
    lines = commands.one_per_line(["python a", "python b"]).splitlines()
    assert [line[5:] for line in lines] == ["python a", "python b"]


def test_a_command_names_train_py_from_the_folder_that_the_person_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (ROOT, ROOT / "conf", tmp_path):
        monkeypatch.chdir(folder)
        file = shlex.split(commands.train("seed=1"))[1]
        assert (folder / file).resolve() == ROOT / "train.py"


# --- all commands in messages ---


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string of a module that is no docstring; `{}` stands for what is filled in."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(module):
        if id(node) in said | inside:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)


def test_every_command_with_something_filled_in_is_built_by_one_module() -> None:
    written = [
        f"{path.relative_to(ROOT)}:{line}: {text[found.start() :]}"
        for path in SOURCES
        for line, text in literals(path)
        for found in COMMAND.finditer(text)
        if "{}" in text[found.start() :].splitlines()[0]
    ]
    assert written == []


def test_every_path_or_name_in_a_hint_s_override_is_quoted() -> None:
    """`Try: data.root={root}` would not work for a folder with a space in its name."""
    written = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in SOURCES
        for line, text in literals(path)
        if re.search(r"(?:Try: |or |, )\S*(?:root|dir|weights|resume|study|role)=\{\}", text)
    ]
    assert written == []


def test_only_one_module_quotes_for_the_shell() -> None:
    users = [path.relative_to(ROOT).as_posix() for path in SOURCES if re.search(r"\bshlex\b", path.read_text())]
    assert users == ["dogbreed/commands.py"]


def test_every_fixed_command_of_train_py_in_a_message_is_read_by_hydra() -> None:
    parser, seen = OverridesParser.create(), 0
    for path in SOURCES:
        for _, text in literals(path):
            for found in re.finditer(r"python train\.py((?: -m)?(?: [\w./+~-]+=[^\s,;.`]*(?:\.\w[^\s,;.`]*)*)+)", text):
                words = [word for word in shlex.split(found[1]) if word != "-m"]
                parser.parse_overrides(words)
                seen += 1
    assert seen > 5
