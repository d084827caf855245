"""Pack and read `model.tar.gz`, which training hands to serving: ONNX networks, labels, preprocessing, a manifest.

It contains no code. Needs neither torch nor lightning. The same contents always give the same bytes; an archive with
any problem is refused.

The network's input and outputs, for other runtimes, are in dogbreed/serving/README.md.
"""

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, cast

from dogbreed.errors import ArtifactError, raise_findings
from dogbreed.preprocess import Preprocess
from dogbreed.run_folder import RunFolder
from dogbreed.unlike import Unlike

SCHEMA = 1  # of the manifest; a reader refuses any other version
NETWORK, NETWORK_INT8 = "model.onnx", "model.int8.onnx"
LABELS, PREPROCESS, MANIFEST = "labels.json", "preprocess.json", "manifest.json"
_NEEDED, _ALLOWED = {NETWORK, LABELS, PREPROCESS, MANIFEST}, {NETWORK, NETWORK_INT8, LABELS, PREPROCESS, MANIFEST}

MAX_BYTES = 2_000_000_000  # of all files together; an ONNX file is limited to 2 GiB
MAX_JSON_BYTES = 4_000_000
TOLERANCE = 1e-4  # largest difference between a probability of the exported network and the checkpoint's
_OF_WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")  # of torch, which other programs put into archives
_PIECE = 1 << 20  # chunk size when reading an archive
_AGAIN = "Try: python -m dogbreed.export <run folder>"


@dataclass(frozen=True)
class Int8:
    """Holds the accuracies (0..1) of the int8 and the fp32 network on all `photos` photos of the validation set."""

    accuracy: float
    accuracy_fp32: float
    photos: int

    @property
    def accuracy_loss(self) -> float:
        return self.accuracy_fp32 - self.accuracy


@dataclass(frozen=True)
class Manifest:
    """Holds the contents of manifest.json, without the digests. Unknown values are empty strings or mappings.

    commit: of the code that trained it. metrics: of metrics.json, such as `test/acc`. temperature: what logits are
    divided by. parity_error: a bound of the differences between this network's probabilities and the checkpoint's.
    heat_maps: whether the network has class activation maps as its second output. answers: the checkpoint's
    largest logits by label for each picture of `dogbreed.reference`, so that the artifact can be checked without torch;
    empty if an earlier version made it. validation_photos: that the temperature was fitted on; None if unknown. unlike:
    by network file, how to tell photos that are unlike the training photos; empty if that was not measured.
    """

    backbone: str
    run_id: str
    commit: str
    opset: int
    temperature: float
    metrics: Mapping[str, float]
    parity_error: float
    heat_maps: bool
    int8: Int8 | None = None
    answers: Sequence[Mapping[str, float]] = ()
    validation_photos: int | None = None
    unlike: Mapping[str, Unlike] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """Holds a validated artifact. networks: ONNX by file name. version: 12 hex digits of its content."""

    manifest: Manifest
    labels: tuple[str, ...]
    preprocess: Preprocess
    networks: Mapping[str, bytes]
    version: str


def is_artifact(path: Path) -> bool:
    """Return whether `path` looks like an artifact: an archive, its files, or a run's or search's folder with one."""
    if path.is_dir():
        return (path / MANIFEST).exists() or RunFolder.of(path).model.exists()
    try:
        with path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError:
        return False


def pack(manifest: Manifest, labels: tuple[str, ...], preprocess: Preprocess, networks: Mapping[str, bytes]) -> bytes:
    """Return the archive's bytes, which are the same for the same arguments on any machine."""
    contents = {**networks, LABELS: _json(list(labels)), PREPROCESS: _json(asdict(preprocess))}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}
    contents[MANIFEST] = _json({"schema": SCHEMA, **asdict(manifest), "sha256": digests})
    buffer = io.BytesIO()
    # not compressed: weights shrink by only 7 %, slowly, and zlib's output depends on its version
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=0, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in sorted(contents.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def read(path: Path) -> Artifact:
    """Read an artifact from its archive, the folder it was unpacked into (SageMaker's /opt/ml/model), or a run folder.

    Of a search's folder it is the best trial's. Raises ArtifactError with all problems. The digests detect damage; they
    do not prove who made the artifact.
    """
    artifact, findings = inspect(path)
    raise_findings(ArtifactError, findings)
    assert artifact is not None
    return artifact


def inspect(path: Path) -> tuple[Artifact | None, list[str]]:
    """Return what `read` does, or None and all problems."""
    if path.is_dir() and not (path / MANIFEST).exists():
        path = RunFolder.of(path).model
    if not path.exists():
        return None, [f"The artifact {path} does not exist.\n{_AGAIN}, or pass a model.tar.gz"]
    findings: list[str] = []
    members = _folder_members(path, findings) if path.is_dir() else _archive_members(path, findings)
    contents = dict(members)
    findings += [f"{name} is missing" for name in sorted(_NEEDED - contents.keys())]
    artifact = None if findings else _artifact(contents, findings)
    return artifact, [f"The artifact {path} is not valid: {finding}.\n{_AGAIN}" for finding in findings]


def _artifact(contents: Mapping[str, bytes], findings: list[str]) -> Artifact | None:
    manifest = _object(contents, MANIFEST, dict, findings)
    if manifest is not None and manifest.get("schema") != SCHEMA:
        findings.append(f"its schema is {manifest.get('schema')!r}, and this version reads only {SCHEMA}")
        return None
    found = manifest and _manifest(manifest, findings)
    digests = manifest.get("sha256") if manifest else None
    digests = digests if isinstance(digests, dict) else {}
    for name, content in contents.items():
        if name != MANIFEST and digests.get(name) != hashlib.sha256(content).hexdigest():
            findings.append(f"the SHA-256 of {name} differs from the one in the manifest")
    findings += [f"{name}, listed in the manifest, is missing" for name in sorted(digests.keys() - contents.keys())]
    labels = _object(contents, LABELS, list, findings)
    if labels is not None and not (labels and all(isinstance(label, str) for label in labels)):
        findings.append(f"{LABELS} is not a list of names")
    preprocess = _preprocess(_object(contents, PREPROCESS, dict, findings), findings)
    if findings or not (found and labels and preprocess):
        return None
    version = hashlib.sha256(contents[MANIFEST]).hexdigest()[:12]  # it holds the digests of all other files
    networks = {name: contents[name] for name in (NETWORK, NETWORK_INT8) if name in contents}
    return Artifact(found, tuple(labels), preprocess, networks, version)


def _manifest(found: dict[str, Any], findings: list[str]) -> Manifest | None:
    values = {name: value for name, value in found.items() if name not in ("schema", "sha256")}
    try:
        if values.get("int8") is not None:
            values["int8"] = Int8(**values["int8"])
        values["answers"] = tuple({str(k): float(v) for k, v in row.items()} for row in values.get("answers", ()))
        values["unlike"] = {name: Unlike(**each) for name, each in values.get("unlike", {}).items()}
        manifest = Manifest(**values)
        if not 0 < manifest.temperature < float("inf"):
            raise ValueError(f"temperature is {manifest.temperature}")
    except (TypeError, ValueError, AttributeError) as error:
        findings.append(f"{MANIFEST} does not match its schema: {error}")
        return None
    return manifest


def _preprocess(found: dict[str, Any] | None, findings: list[str]) -> Preprocess | None:
    if found is None:
        return None
    try:
        if found.keys() != {field.name for field in fields(Preprocess)}:
            raise ValueError(f"it has the keys {', '.join(sorted(found))}")
        preprocess = Preprocess(**{**found, "mean": tuple(found["mean"]), "std": tuple(found["std"])})
        if not (isinstance(preprocess.image_px, int) and 8 <= preprocess.image_px <= 4096):
            raise ValueError(f"image_px is {preprocess.image_px}")
        if not 0 < preprocess.crop_pct <= 1 or preprocess.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"crop_pct is {preprocess.crop_pct}, interpolation is {preprocess.interpolation}")
    except (TypeError, ValueError) as error:
        findings.append(f"{PREPROCESS} is not valid: {error}")
        return None
    return preprocess


def _object(contents: Mapping[str, bytes], name: str, kind: type, findings: list[str]) -> Any:
    try:
        value = json.loads(contents[name])
    except (ValueError, RecursionError) as error:
        findings.append(f"{name} is not valid JSON ({error})")
        return None
    if not isinstance(value, kind):
        findings.append(f"{name} holds a {type(value).__name__}, not a {kind.__name__}")
        return None
    return value


def _folder_members(path: Path, findings: list[str]) -> Iterator[tuple[str, bytes]]:
    left = MAX_BYTES
    for entry in sorted(path.iterdir()):
        kind = "a link" if entry.is_symlink() else "" if entry.is_file() else "not a regular file"
        size = entry.lstat().st_size
        if finding := _finding(entry.name, kind, size, left):
            findings.append(finding)
            continue
        left -= size
        yield entry.name, entry.read_bytes()


def _archive_members(path: Path, findings: list[str]) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    left = MAX_BYTES
    try:
        with path.open("rb") as packed:
            unzipped = cast(IO[bytes], _Unzipped(packed, MAX_BYTES + MAX_JSON_BYTES))
            with tarfile.open(fileobj=unzipped, mode="r|", bufsize=_PIECE) as archive:
                for member in archive:
                    if member.name == "." and member.isdir():  # `tar -c .` adds it, and starts names with ./
                        continue
                    member.name = member.name.removeprefix("./")
                    link = "a link" if member.islnk() or member.issym() else ""
                    kind = link or ("" if member.isreg() else "not a regular file")
                    finding = _finding(member.name, kind, member.size, left)
                    if member.name in seen:
                        finding = f"it has {member.name} twice"
                    if finding:
                        findings.append(finding)
                        if member.size > left:
                            return
                        continue
                    seen.add(member.name)
                    left -= member.size
                    file = archive.extractfile(member)
                    assert file is not None  # it is regular
                    yield member.name, file.read()
            while unzipped.read(_PIECE):  # read to the end, where gzip's checksum is
                pass
    # the exceptions of gzip and tarfile for damaged bytes
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, OverflowError) as error:
        findings.append(f"it is not a complete .tar.gz ({error or type(error).__name__})")


def _finding(name: str, kind: str, size: int, left: int) -> str:
    """Return what is wrong with a member of this name, kind and size, or "" if it may be read."""
    shown = ascii(name[:80])
    if name.startswith("/") or ".." in Path(name).parts or "\\" in name:
        return f"{shown} would be extracted outside the target folder"
    if kind:
        return f"{shown} is {kind}"
    if name not in _ALLOWED:
        weights = "; pass a file of weights by itself, not in an archive" * name.endswith(_OF_WEIGHTS)
        return f"{shown} is not an expected file{weights}"
    if size > (MAX_JSON_BYTES if name.endswith(".json") else left):
        return f"{shown} has {size:,} bytes, more than allowed"
    return ""


class _Unzipped:
    """Decompresses a gzip file; raises an error beyond `most` bytes, so that a decompression bomb is not unpacked.

    gzip.GzipFile works in chunks of 8 KB, which takes twice as long.
    """

    def __init__(self, packed: IO[bytes], most: int) -> None:
        self._packed, self._left = packed, most
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)  # gzip's header and checksum, too

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end."""
        part = b""
        while not part:
            if self._member.eof:  # another member may follow, or padding with zeros
                rest = (self._member.unused_data or self._packed.read(_PIECE)).lstrip(b"\0")
                if not rest:
                    return b""
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            else:
                rest = self._member.unconsumed_tail or self._packed.read(_PIECE)
                if not rest:
                    raise EOFError("it is truncated")
            part = self._member.decompress(rest, size)
        self._left -= len(part)
        if self._left < 0:
            raise OSError(f"more than {MAX_BYTES:,} bytes when unpacked")
        return part


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
