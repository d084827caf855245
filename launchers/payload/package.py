"""What we put into the package of a Lambda function with a model: the list of packages, our code, and the entry."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from launchers.payload.image import code

PACKAGES = "launchers/deploy/on_lambda/packages.txt"
HANDLER = "lambda_function.handler"  # as CreateFunction takes it: the module below, and its callable
MODEL = "model"  # folder of the artifact's files, if the model is in the package
_ENTRY = f"""\
import os
from pathlib import Path

from dogbreed.serving.function import Function

handler = Function.of(os.environ, Path(__file__).with_name("{MODEL}"))
"""


def digest(project: Path) -> str:
    """Return what identifies all packages and code in it, but not the model: hexadecimal SHA-256."""
    found = hashlib.sha256((project / PACKAGES).read_bytes())
    for name, content in contents(project):
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def contents(project: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each of our files."""
    yield "lambda_function.py", _ENTRY.encode()
    for name in code(project):
        yield name, (project / name).read_bytes()
