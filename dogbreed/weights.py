"""Read files with pretrained weights, and find in them the tensors that a network needs.

Files of torch.save are read without running any code that is in them, and safetensors have none. Programs wrap a state
dict in different ways: in a training checkpoint under `state_dict`, `model_state_dict` or `model`; with every name
behind `module.` (DataParallel), `_orig_mod.` (torch.compile), or the attribute that held the network. The names that
the network needs show what to unwrap.
"""

import argparse
import hashlib
import logging
import pathlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from dogbreed.errors import WeightsError

log = logging.getLogger("dogbreed")

_USUAL = ("state_dict", "model_state_dict", "model", "network", "net", "module", "backbone", "encoder", "weights")
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DEPTH = 3  # of mappings in mappings
_COUNTER = "num_batches_tracked"  # of BatchNorm; does not affect the output, and files of old programs lack it
# plain values that training programs store beside the weights; nothing of theirs runs when they are read
_OF_NUMPY: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]  # make a scalar and an array
_PLAIN: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np.ndarray,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
    *((f, f"numpy.{core}.multiarray.{f.__name__}") for f in _OF_NUMPY for core in ("core", "_core")),  # numpy 1 and 2
]


def read(path: Path, *, known: Sequence[Any] = (), advice: str = "model.weights=weights.pth") -> Any:
    """Read what a file of torch.save or a safetensors file holds, onto the CPU. Raises WeightsError.

    known: further entries for torch's list of classes that may be built, as in `dogbreed.pickled`. advice: what to try
    with a file of weights, if this one is a pickle that needs code.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _safetensors(path)
    try:
        with torch.serialization.safe_globals([*_PLAIN, *known]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several unrelated exceptions
        if needed := _code_in(path, error, [*_PLAIN, *known]):
            raise WeightsError(
                f"{path} does not hold weights alone: it is a pickle that needs the code of {', '.join(needed[:3])}, "
                "such as torch.save(model) writes for a whole network. Code in a file of weights is not run.\n"
                f"Try: in the program that wrote it, torch.save(model.state_dict(), 'weights.pth'), and then {advice}"
            ) from None
        if "TorchScript" in str(error):
            raise WeightsError(
                f"{path} is a TorchScript program, and code in a file of weights is not run.\n"
                f"Try: in Python, torch.save(torch.jit.load('FILE').state_dict(), 'weights.pth'), and then {advice}"
            ) from None
        raise WeightsError(f"{path} {_what_it_is(start)}.\nTry: download or copy the file again") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except Exception as error:  # its own class, or the file system's
        raise WeightsError(f"{path} is a damaged safetensors file: {error}.\nTry: download or copy it again") from error


def _code_in(path: Path, error: Exception, allowed: Sequence[Any]) -> list[str]:
    """List the classes and functions that a pickle needs and that are not allowed."""
    with suppress(Exception):  # a file of another kind
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        known = {
            name if isinstance(name, str) else f"{name.__module__}.{name.__name__}" for name in map(_named, allowed)
        }
        return sorted(set(unsafe) - known)
    # of torch before 1.6, which put the source of each class of a network into the file
    if "Only persistent_load of storage is allowed" in str(error):
        return ["the classes whose source is in it"]
    return re.findall(r"Unsupported global: GLOBAL (\S+)", str(error))


def _named(entry: Any) -> Any:
    return entry[1] if isinstance(entry, tuple) else entry


def _what_it_is(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "is only a pointer to a file in Git LFS, which `git lfs pull` downloads"
    if start.startswith(b"\x1f\x8b"):
        return "is a compressed archive; a run's own weights are in its checkpoints/best.ckpt"
    return "is neither a file of torch.save nor of safetensors, or it is damaged"


def cached_path(url: str) -> Path:
    """Return where a file of weights is kept after its download: in torch's own folder for them."""
    path = Path(urlparse(url).path)
    name = path.name
    if not re.search(r"-[0-9a-f]{8,}\.", name):  # a name like model.safetensors, which many files have
        name = f"{path.stem}-{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}{path.suffix}"
    return Path(torch.hub.get_dir()) / "checkpoints" / name


@dataclass(frozen=True)
class Found:
    """A mapping in the file, seen as a state dict. where: its keys in the file. prefix: of the names that fit.

    names: those that are needed and there, with the right shape. lacking: the others, except BatchNorm's counters.
    """

    where: str
    prefix: str
    state: Mapping[str, Tensor]
    names: frozenset[str]
    lacking: tuple[str, ...]

    def tensors(self) -> dict[str, Tensor]:
        return {name: self.state[self.prefix + name] for name in self.names}


def fitting(content: Any, wanted: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the tensors of `content` for the names in `wanted`, of the same shapes; others, as of a head, are ignored.

    content: as `read` returns it. source: named in errors. Raises WeightsError if any is missing (except BatchNorm's
    counters), or if the file holds several networks that fit.
    """
    best = closest(content, wanted, source)
    if best is None:
        raise WeightsError(f"{source} does not contain a state dict (a mapping of names to tensors).\n{_ADVICE}")
    if best.lacking:
        raise WeightsError(_misfit(best, wanted, source))
    if best.where or best.prefix:
        parts = [f"under {best.where}"] * bool(best.where) + [f"with the prefix {best.prefix!r}"] * bool(best.prefix)
        log.info("Weights: found %s in %s", ", ".join(parts), source)
    return best.tensors()


def closest(content: Any, wanted: Mapping[str, Tensor], source: str) -> Found | None:
    """Return the state dict in `content` with most of the wanted tensors, or None if there is none.

    Raises WeightsError if several networks in it have all of them.
    """
    candidates = [found for where, state in _state_dicts(content) for found in _candidates(where, state, wanted)]
    if not candidates:
        return None
    best = max(candidates, key=lambda found: len(found.names))  # the first of equals: in the usual places
    rivals = [found for found in candidates if found.state is best.state and found.names == best.names]
    if not best.lacking and any(not _equal(best.tensors(), other.tensors()) for other in rivals if other is not best):
        listed = " and ".join(repr(found.prefix) for found in rivals)
        raise WeightsError(
            f"{source} holds {len(rivals)} networks that fit, under the names {listed}.\n"
            "Try: a file with the weights of one of them, as torch.save(network.state_dict(), 'weights.pth') writes it"
        )
    return best


_ADVICE = "Try: weights of exactly this network, or model.weights=null for random ones"


def _state_dicts(content: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield the mappings of names to tensors in `content`, those in the usual places first."""
    if not isinstance(content, Mapping) or len(where) > _DEPTH:
        return
    tensors = {
        _WRAPPERS.sub("", key): v for key, v in content.items() if isinstance(key, str) and isinstance(v, Tensor)
    }
    if tensors:
        yield ".".join(where), tensors
    inner = [key for key in content if isinstance(key, str) and isinstance(content[key], Mapping)]
    for key in sorted(inner, key=lambda key: _USUAL.index(key) if key in _USUAL else len(_USUAL)):
        yield from _state_dicts(content[key], (*where, key))


def _candidates(where: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[Found]:
    """Yield the state dict with each prefix that occurs in front of a wanted name, the most frequent one first."""
    prefixes: Counter[str] = Counter({"": 0})
    for name in state:
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        prefixes.update(name[:start] for start in starts if name[start:] in wanted)
    for prefix, _ in prefixes.most_common():
        fits = frozenset(
            name for name in wanted if (t := state.get(prefix + name)) is not None and t.shape == wanted[name].shape
        )
        lacking = tuple(name for name in wanted if name not in fits and not name.endswith(_COUNTER))
        yield Found(where, prefix, state, fits, lacking)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def _misfit(best: Found, wanted: Mapping[str, Tensor], source: str) -> str:
    missing = sorted(name for name in best.lacking if best.prefix + name not in best.state)
    wrong = sorted(set(best.lacking) - set(missing))
    seen = [f"{len(missing)} are missing (first: {missing[0]})"] if missing else []
    if wrong:
        there, here = (list(shape) for shape in (best.state[best.prefix + wrong[0]].shape, wanted[wrong[0]].shape))
        seen.append(f"{len(wrong)} have another shape (first: {wrong[0]}, {there} in the file and {here} here)")
    names = "" if best.names else f" Its own names are like {next(iter(best.state))}."
    return (
        f"The weights in {source} do not fit this backbone: of {len(wanted)} tensors {' and '.join(seen)}.{names}\n"
        f"{_ADVICE}"
    )
