"""Send a file of weights along with the code if a rented machine would find it under the same path."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from dogbreed import commands
from launchers.payload.files import Choice

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar")


def include(weights: object, project: Path, choice: Choice) -> list[str]:
    """Add the file that `model.weights` names to what is sent, or return why it cannot be.

    A name that a library knows, a URL and null need no file.
    """
    path = local_file(weights)
    if path is None:
        return []
    here = path.is_file()
    if here and not path.is_absolute() and ".." not in path.parts and path.resolve() == (project / path).resolve():
        choice.files[path.as_posix()] = project / path
        return []
    return [_refusal(str(weights), path, project, here=here)]


def local_file(weights: object) -> Path | None:
    """Return the path that `model.weights` names; None if it is a URL, a name that a library knows, or null."""
    if not isinstance(weights, str) or not weights:
        return None
    if weights.startswith("file:"):
        return Path(unquote(urlsplit(weights).path))
    path = Path(weights).expanduser()
    if commands.is_address(weights):
        return None
    return path if "/" in weights or path.suffix in _SUFFIXES or path.is_file() else None


def _refusal(weights: str, path: Path, project: Path, *, here: bool) -> str:
    if not here:
        return f"model.weights={weights} does not exist.\nTry: a path below {project}, or a URL, such as https://..."
    inside = path.resolve().is_relative_to(project.resolve())
    name = path.resolve().relative_to(project.resolve()) if inside else Path("weights", path.name)
    copy = "" if inside else f"copy it to {project / name}; then, "
    return (
        f"model.weights={weights} is a file of this machine; a rented one would not find it under that path.\n"
        f"Try: {copy}in {project}, {commands.setting('model.weights', str(name))}; or a URL, such as https://..."
    )
