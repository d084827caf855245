"""Build what is sent to a rented machine: the objects in the bucket, the settings of the run, and its command there.

All of it follows from the RunSpec and the layout of the bucket, whichever launcher rents the machine.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dogbreed.commands import override
from launchers import formatting
from launchers.aws.layout import Layout
from launchers.overrides import STAYS_HERE, override_key, root_key
from launchers.payload.code import BUNDLE_FILE, ENTRY_FILE, TOOLKIT_FILE
from launchers.payload.photos import FEATURES_ABOUT
from launchers.plan import Request
from launchers.project import describe_commit
from launchers.spec import RunOutput, RunSpec, SearchOutput

ML = "/opt/ml"  # launchers/remote/entry.py replaces it and _TMP by where they are on the machine
_TMP = "/tmp/dogbreed"
_SET_HERE = frozenset({"data.root", "hpo.study", "hpo.one_job", "hpo.fresh"})  # for the machine, whatever was typed


def requests(layout: Layout, spec: RunSpec, encryption: Mapping[str, str]) -> list[Request]:
    """Return the calls that upload what the machine needs. encryption: the arguments of each upload."""
    put = {"Bucket": layout.bucket, **encryption}
    return [Request("s3", "PutObject", {**put, "Key": key, "Body": body}) for key, body in _objects(layout, spec)]


def _objects(layout: Layout, spec: RunSpec) -> list[tuple[str, str]]:
    """Return key and content, in words, of each object. `aws.transfer.upload` makes the contents."""
    assert spec.code is not None
    code = layout.code(spec)
    objects = [
        (f"{code}{ENTRY_FILE}", "<launchers/remote/entry.py>"),
        (f"{code}{BUNDLE_FILE}", f"<{len(spec.code.files)} files, {spec.code.size:,} bytes>"),
    ]
    if spec.tuning is not None:
        objects.append((f"{code}{TOOLKIT_FILE}", "<launchers/remote/entry.py, packed for the image's toolkit>"))
    if spec.photos is not None:
        count, shards = spec.photos.files, len(spec.photos.shards)
        objects.append((layout.photos(spec), f"<{count:,} photos in {shards} files and their manifest>"))
    if key := features_key(layout, spec):  # SageMaker refuses an input without any object
        objects.append((f"{key}{FEATURES_ABOUT}", "<which photos these are>"))
    return [*objects, (layout.spec(spec.run_id), "<the settings of this run>")]


def features_key(layout: Layout, spec: RunSpec) -> str | None:
    """Return where features of the run's photos are kept for the next run; None for a run that computes none."""
    return layout.features(spec) if spec.workload.wants_features else None


# --- the command of the machine ---


@dataclass(frozen=True)
class Command:
    """The overrides of train.py on the machine. typed: as the person wrote them. own: what the machine needs; paths in
    them are replaced by the machine's own.
    """

    typed: list[str]
    own: list[str]

    @property
    def argv(self) -> list[str]:
        return ["python", "train.py", *self.typed, *self.own]


def command(spec: RunSpec, *, resumes: bool) -> Command:
    """Return the command of the machine. resumes: whether an earlier machine has saved files of the run."""
    folder = f"{ML}/checkpoints"
    words = (spec.going_on or ()) if resumes else spec.overrides
    match spec.output:
        case SearchOutput() if spec.tuning is not None:  # launchers/remote/tuned.py adds values, run id and folder
            multirun, stays, about, words = [], STAYS_HERE, [], spec.tuning.overrides
        case SearchOutput(study):  # always the same command: it resumes what it finds in the folder
            multirun, stays = ["-m"], STAYS_HERE - {"hpo"}
            about = [f"hpo.study={study}", "hpo.one_job=false", "hpo.fresh=false", f"hydra.sweep.dir={folder}"]
        case RunOutput():
            multirun, stays = [], STAYS_HERE
            fresh = [f"run_id={spec.run_id}", f"hydra.run.dir={folder}"]
            about = [override("resume", folder)] if resumes else fresh
    typed = [text for text in words if root_key(text) not in stays and override_key(text) not in _SET_HERE]
    own = ["launcher=local", *about, override("data.root", _data_root(spec))]
    assert spec.code is not None
    sources = spec.sources.moved(f"{ML}/code", spec.code.config_dirs)
    return Command([*sources.flags, *multirun, *typed], [*own, *sources.searchpath])


def _data_root(spec: RunSpec) -> str:
    """Return the path of the photos on the machine: unpacked, downloaded by the run itself, or an input from S3."""
    if spec.photos is not None:
        return _unpacked_photos()
    data = spec.config["data"]
    return f"{_TMP}/{Path(str(data['root'])).name}" if data.get("source") else f"{ML}/input/data/photos"


def _unpacked_photos() -> str:
    return f"{_TMP}/photos"


def extras(spec: RunSpec, secrets: Mapping[str, str] | None) -> list[str]:
    """Return the extras of pyproject.toml that the machine needs. secrets: those that it fetches."""
    logger = str((spec.config.get("logger") or {}).get("_target_", ""))
    return [*(["wandb"] if "wandb" in logger.lower() else []), *(["aws"] if secrets else [])]


def settings_file(spec: RunSpec, secrets: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the content of spec.json in the bucket, which launchers/remote/entry.py reads.

    fresh, again: the command of a machine without saved files, and of one with them; `again` is None for a run
    that was not resumed, whose command resumes by itself.
    """
    described = spec if spec.code is None else replace(spec, code=spec.code.as_sent())
    return {
        "spec": json.loads(described.to_json()),
        "fresh": asdict(command(spec, resumes=False)),
        "again": asdict(command(spec, resumes=True)) if spec.going_on is not None else None,
        "extras": extras(spec, secrets),
        "unpacks": _unpacked_photos() if spec.photos is not None else None,
    }


# --- what a plan says of it ---


def rows(layout: Layout, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield the rows of a plan: which code and photos are sent, and where features are kept."""
    code, photos = spec.code, spec.photos
    assert code is not None
    size = f"{len(code.files)} files, {code.size / 1e6:.1f} MB, digest {code.digest[:12]}"
    largest = ", ".join(f"{name} ({formatting.size(count)})" for name, count in code.largest(3))
    yield "code", f"{describe_commit(spec.commit, spec.dirty)}\n{size}\nthe largest: {largest}"
    if code.left_out:
        yield "not sent", "\n".join(code.left_out)
    if photos is not None:
        shards = f"{len(photos.shards)} files" if len(photos.shards) > 1 else "one file"
        yield "photos", f"{photos.files:,} files, {photos.size / 1e6:,.0f} MB, sent once as {shards}"
    if key := features_key(layout, spec):
        yield "features", f"computed once for all runs on these photos, kept in\n{layout.uri(key)}"
