"""Build an image from a Dockerfile: its steps really run, in a folder and a virtual environment instead of a container.

Packages of this environment stand in for those that the image would download: `pip install` finds them installed, and
nothing is downloaded. This interpreter stands in for that of the base image.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dogbreed import commands
from launchers.rehearsal.image import Image

_IGNORED = ("USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "VOLUME", "SHELL", "MAINTAINER", "ONBUILD")
_CONSTRAINTS = re.compile(r"\s(?:-c|--constraint)[ =]\S+")


class BuildError(Exception):
    """Why a build fails, as docker prints it."""


@dataclass
class _State:
    """What the steps until now have made. root: stands for the image's files; bin: of its virtual environment."""

    root: Path
    bin: Path
    workdir: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def place(self, path: str) -> Path:
        """Return the folder or file that stands for a path in the image."""
        return self.root / (PurePosixPath(self.workdir) / path).relative_to("/")


def build(
    dockerfile: Path, context: Path, folder: Path, arguments: Mapping[str, str], say: Callable[[str], None] = print
) -> Image:
    """Carry out the steps of a Dockerfile. Raises BuildError if one fails; then nothing of the image is left.

    folder: where images are kept. arguments: of --build-arg.
    """
    place = folder / "files" / uuid.uuid4().hex
    state = _State(place / "root", place / "venv" / "bin")
    given = dict(arguments)
    try:
        steps = list(instructions(dockerfile.read_text()))
        if not any(word == "FROM" for word, _ in steps):
            raise BuildError("ERROR: failed to solve: the Dockerfile has no build stage")
        for number, (word, rest) in enumerate(steps, 1):
            if word not in ("FROM", "ARG") and not state.bin.exists():
                raise BuildError("ERROR: failed to solve: dockerfile parse error: no build stage in current context")
            say(f"#{number} [{number}/{len(steps)}] {word} {rest}")
            _step(state, word, rest, context, given, say)
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        raise BuildError(f"ERROR: failed to solve: {error.strerror}: {error.filename}") from None
    except BuildError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    workdir = state.place(".")
    workdir.mkdir(parents=True, exist_ok=True)
    return Image(state.entrypoint, state.command, state.environment, state.labels, [str(state.bin)], str(workdir))


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Dockerfile, in capitals, with what follows each of them."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        yield word.upper(), rest.strip()


def _step(
    state: _State, word: str, rest: str, context: Path, given: Mapping[str, str], say: Callable[[str], None]
) -> None:
    if word == "ARG":
        name, _, default = rest.partition("=")
        state.arguments[name] = given.get(name, default)
        return
    if word not in ("RUN", "ENTRYPOINT", "CMD"):
        rest = _expanded(rest, {**state.arguments, **state.environment})
    if word == "FROM":
        _start(state, rest)
    elif word == "RUN":
        _run(state, rest, say)
    elif word == "COPY":
        _copy(state, rest, context)
    elif word == "WORKDIR":
        state.workdir = str(PurePosixPath(state.workdir) / rest)
        state.place(".").mkdir(parents=True, exist_ok=True)
    elif word in ("ENV", "LABEL"):
        target = state.environment if word == "ENV" else state.labels
        target |= dict(pair.partition("=")[::2] for pair in commands.words(rest))
    elif word in ("ENTRYPOINT", "CMD"):
        words = _exec_form(rest) or ["/bin/sh", "-c", rest]
        state.entrypoint, state.command = (words, []) if word == "ENTRYPOINT" else (state.entrypoint, words)
    elif word not in _IGNORED:
        raise BuildError(f"ERROR: failed to solve: dockerfile parse error: unknown instruction: {word}")


def _start(state: _State, rest: str) -> None:
    """Make a virtual environment that sees this environment's packages. Raises BuildError for other base images."""
    name = next(word for word in rest.split() if not word.startswith("--"))
    registry, _, path = re.sub(r"(:[\w.-]+)?(@.*)?$", "", name).rpartition("/")
    if state.bin.exists():
        raise BuildError("ERROR: failed to solve: the rehearsal cloud builds images of one stage alone")
    if "." not in registry.partition("/")[0]:
        raise BuildError(
            f"ERROR: failed to solve: {name}: failed to resolve source metadata for docker.io/library/{name}: "
            "unexpected status from HEAD request: 429 Too Many Requests: toomanyrequests: You have reached your "
            "unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"
        )
    if path != "python":
        raise BuildError(f"ERROR: failed to solve: {name}: not found. The rehearsal cloud has images of Python alone")
    state.root.mkdir(parents=True)
    venv.create(state.bin.parent, with_pip=False, symlinks=True)
    packages = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = state.bin.parent / "lib" / version / "site-packages"
    (own / "present.pth").write_text("\n".join(packages) + "\n")


def _run(state: _State, rest: str, say: Callable[[str], None]) -> None:
    words = _exec_form(rest)
    if "pip" in rest and "install" in rest and words is None:
        if found := _CONSTRAINTS.search(rest):
            say(f"(rehearsal) packages of this environment stand in;{found[0]} is not applied")
        rest = _CONSTRAINTS.sub("", rest).replace(" install ", " install --no-index --no-build-isolation ", 1)
    surroundings = {name: os.environ[name] for name in ("LANG", "TMPDIR", "HOME") if name in os.environ}
    path = f"{state.bin}:/usr/local/bin:/usr/bin:/bin"
    variables = {
        **surroundings,
        **state.arguments,
        **state.environment,
        "PATH": path,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    place = state.place(".")
    place.mkdir(parents=True, exist_ok=True)
    argv = words or ["/bin/sh", "-c", rest]
    with subprocess.Popen(
        argv, cwd=place, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            say(line.rstrip())
    if process.returncode:
        raise BuildError(
            f'ERROR: failed to solve: process "{commands.shell(*argv)}" did not complete successfully: exit code: '
            f"{process.returncode}"
        )


def _copy(state: _State, rest: str, context: Path) -> None:
    words = [word for word in (_exec_form(rest) or rest.split()) if not word.startswith("--")]
    *sources, target = words
    destination = state.place(target)
    into = target.endswith(("/", ".")) or len(sources) > 1 or destination.is_dir()
    for source in sources:
        path = (context / source).resolve()
        if not path.is_relative_to(context.resolve()) or not path.exists():
            raise BuildError(
                "ERROR: failed to solve: failed to compute cache key: failed to calculate checksum: "
                f"{source!r}: not found"
            )
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, destination, dirs_exist_ok=True, ignore=ignored)
        else:
            (destination if into else destination.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, destination)


def _exec_form(rest: str) -> list[str] | None:
    """Return the words of ["this", "form"]; None for the form of a shell."""
    if not rest.startswith("["):
        return None
    try:
        return [str(word) for word in json.loads(rest)]
    except ValueError:
        return None


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: variables.get(found[1] or found[2], ""), text)
