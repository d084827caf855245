"""Read the server's settings from the command line and from environment variables.

Precedence: an option, its DOGBREED_ variable, SageMaker's own variable, the default.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dogbreed.inference import MAX_ACCURACY_LOSS
from dogbreed.serving.limits import Limits
from dogbreed.unlike import CHOICES, Choice

_MEBIBYTE = 2**20
_MOST_S = 86_400.0
_EPILOG = """\
example: python -m dogbreed.serving runs/RUN

Each option can also be set by an environment variable, such as
DOGBREED_MAX_BODY_BYTES for --max-body-bytes. These SageMaker variables are
read, too: SAGEMAKER_BIND_TO_PORT, SAGEMAKER_MAX_PAYLOAD_IN_MB,
SAGEMAKER_MAX_CONCURRENT_TRANSFORMS and SAGEMAKER_MODEL_SERVER_TIMEOUT.
"""


@dataclass(frozen=True)
class Settings:
    """Settings of one server. root_path: the path prefix under which a proxy exposes it, such as /dogs; or empty."""

    model: Path
    host: str
    port: int
    root_path: str
    max_accuracy_loss: float
    unlike: Choice
    limits: Limits


def read(arguments: Sequence[str] | None, environ: Mapping[str, str], *, host: str = "127.0.0.1") -> Settings:
    """Parse the command line (None: this process's). Prints an error and exits with status 2 if it is invalid.

    host: the default of --host.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.serving",
        description="Serve a model over HTTP: a page at /, POST /invocations, API docs at /docs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a model.tar.gz, the folder it was unpacked into, or a run folder"
    )
    add = _Adding(parser, environ)
    add("--host", str, host, "ADDRESS", "address to listen on; 0.0.0.0 to accept other machines, :: for IPv6 and IPv4")
    add("--port", _port, 8080, "N", "port to listen on; 0 for any free port", sagemaker="SAGEMAKER_BIND_TO_PORT")
    add("--root-path", _root_path, "", "PATH", "path prefix under which a proxy exposes the server, such as /dogs")
    add(
        "--max-accuracy-loss",
        _share,
        MAX_ACCURACY_LOSS,
        "SHARE",
        "use the int8 network if it loses at most this much accuracy; -1 to never use it",
    )
    add(
        "--unlike",
        _choice,
        "auto",
        "auto|on|off",
        "whether to say if a photo is unlike the training photos; auto: if that is reliable with this model",
    )
    for limit in fields(Limits):
        given = limit.metadata
        kind = _seconds if limit.type is float else _number
        add(given["option"], kind, limit.default, given["unit"], given["help"], **_SAGEMAKER.get(limit.name, {}))
    options = vars(parser.parse_args(arguments))
    limits = Limits(**{limit.name: options[_name(limit.metadata["option"])] for limit in fields(Limits)})
    if limits.body_bytes > limits.buffered_bytes:
        parser.error(
            f"--max-body-bytes {limits.body_bytes:,} exceeds --max-buffered-bytes {limits.buffered_bytes:,}, "
            "the limit for all bodies together. Try: raise --max-buffered-bytes, or lower --max-body-bytes"
        )
    others = {name: options[name] for name in ("model", "host", "port", "root_path", "max_accuracy_loss", "unlike")}
    return Settings(**{**others, "model": options["model"].expanduser()}, limits=limits)


class _Adding:
    """Adds options whose defaults can come from environment variables."""

    def __init__(self, parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
        self._parser, self._environ = parser, environ

    def __call__(
        self,
        option: str,
        kind: Callable[[str], Any],
        default: Any,
        metavar: str,
        description: str,
        *,
        sagemaker: str = "",
        convert: Callable[[str], Any] | None = None,
    ) -> None:
        """Add one option. sagemaker: SageMaker's variable for it; convert: parses that variable's value."""
        own = "DOGBREED_" + _name(option).upper()
        for variable, read_as in ((own, kind), (sagemaker, convert or kind)):
            if text := self._environ.get(variable, "").strip():
                try:
                    default = read_as(text)
                except argparse.ArgumentTypeError as error:
                    self._parser.error(f"environment variable {variable}: {error}")
                break
        shown = "" if default == "" else " (default: %(default)s)"
        self._parser.add_argument(
            option, type=kind, default=default, metavar=metavar, help=description.replace("%", "%%") + shown
        )


def _name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    value = _float(text)
    if not 0 < value <= _MOST_S:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number of seconds above 0, at most {_MOST_S:,.0f}")
    return value


def _share(text: str) -> float:
    value = _float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number from -1 to 1")
    return value


def _choice(text: str) -> Choice:
    found = next((choice for choice in CHOICES if choice == text), None)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!a} is not one of {', '.join(CHOICES)}")
    return found


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # outside every range


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:6]) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!a} is not a port. Try: a number from 0 to 65535")
    return int(text)


def _root_path(text: str) -> str:
    path = text.rstrip("/")
    if path and not (path.startswith("/") and "//" not in path and all(c.isalnum() or c in "/-._~" for c in path)):
        raise argparse.ArgumentTypeError(f"{text!a} is not a valid path prefix. Try: /dogs")
    return path


def _mebibytes(text: str) -> int:
    """Convert SAGEMAKER_MAX_PAYLOAD_IN_MB, where 0 means unlimited, to bytes."""
    return Limits().buffered_bytes if text == "0" else _number(text) * _MEBIBYTE


def _transforms(text: str) -> int:
    """Convert SAGEMAKER_MAX_CONCURRENT_TRANSFORMS to --max-waiting; it can raise the default, not lower it."""
    return max(Limits().waiting, 0 if text == "0" else _number(text))


_SAGEMAKER: Mapping[str, Mapping[str, Any]] = {
    "body_bytes": {"sagemaker": "SAGEMAKER_MAX_PAYLOAD_IN_MB", "convert": _mebibytes},
    "waiting": {"sagemaker": "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", "convert": _transforms},
    "deadline_s": {"sagemaker": "SAGEMAKER_MODEL_SERVER_TIMEOUT"},
}
