"""A run as plain data: what was asked for, and the files that come of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from dogbreed.run_folder import SEARCH_FILE
from dogbreed.workload import Workload
from launchers.config_sources import PROJECTS_OWN, ConfigSources
from launchers.payload.code import CodeBundle
from launchers.payload.model import SentModel
from launchers.payload.photos import SentFolder

SPEC_FILE = "spec.json"  # in the run folder, and beside the run in S3
# names of trials in a search's folder; with a suffix if a later machine resumed the trial
TRIAL_FOLDERS = re.compile(r"(\d{5,})(-\d+)?")
STUDY_FILE = "study.db"  # in a search's folder: its trials, unless their database is elsewhere
JOB_LOG = "job.log"  # in the folder of a remote run that was downloaded: the log of all attempts and machines
LAUNCHED_FILE = "launched.json"  # in the folder of a remote run: its handle, and how to reach its cloud


@dataclass(frozen=True)
class RunOutput:
    """The files that one run leaves in its folder."""

    purpose: ClassVar[str] = "training"  # for tags
    # below the folder: the furthest is resumed from; the first is missing for a moment while it is replaced
    resume_points: ClassVar[tuple[str, ...]] = ("checkpoints/last.ckpt", "checkpoints/previous.ckpt")
    result_file: ClassVar[str] = "metrics.json"  # below the folder: written last
    same_command_resumes: ClassVar[bool] = False  # resuming needs resume=

    def default_folder(self, run_id: str) -> Path:
        """Return the run's folder on a machine that did not start the run."""
        return Path("runs", run_id)


@dataclass(frozen=True)
class SearchOutput:
    """The files that a search leaves in its folder when it runs as one job: its study, and a folder for each trial.

    study: its name. trials: how many trials the finished search has. digest: of its settings and search space; empty if
    an earlier version recorded none.
    """

    study: str
    trials: int
    digest: str = ""
    purpose: ClassVar[str] = "search"
    resume_points: ClassVar[tuple[str, ...]] = (STUDY_FILE,)
    result_file: ClassVar[str] = SEARCH_FILE
    same_command_resumes: ClassVar[bool] = True  # and may ask for more trials

    def default_folder(self, run_id: str) -> Path:
        """Return the search's folder on a machine that did not start the search."""
        return Path("sweeps", self.study)


@dataclass(frozen=True)
class Deployed:
    """A deployment as it was found in the cloud before a command changes it.

    revision: of the one in service. facts: what people compare, such as `machines`. expires_at: ISO 8601, UTC; empty if
    it stays. ttl_hours: what was asked for that; None if it stays. variant: how it is served, as launcher.variant has
    it. scaling: how its number of instances changes, in a line; empty if it does not. front: revision of the function
    in front of it; empty if there is none. reserved, warm: how many concurrent executions that has reserved, None for
    none; and how many processes are kept warm. alarms: by name, what each watches and whom it tells, in a line.
    """

    revision: str
    facts: Mapping[str, str]
    expires_at: str = ""
    ttl_hours: float | None = None
    variant: str = "realtime"
    scaling: str = ""
    front: str = ""
    reserved: int | None = None
    warm: int = 0
    alarms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """A model that is to be served under a name, which is the run id of its spec.

    image_digest: of what goes into our image, hexadecimal. before: what is served under this name now; None if nothing
    is. package_digest: of what goes into a function's package besides the model. reservable: how many concurrent
    executions the account lets a function reserve; None where that was not asked. spent_usd: what `before` has cost
    since its creation, at most; None where that was not asked, or is not known.
    """

    model: SentModel
    image_digest: str
    before: Deployed | None = None
    package_digest: str = ""
    reservable: int | None = None
    spent_usd: float | None = None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        before = fields["before"]
        return cls(
            SentModel.from_fields(fields["model"]),
            str(fields["image_digest"]),
            None if before is None else Deployed(**before),
            str(fields.get("package_digest", "")),
            fields.get("reservable"),
            fields.get("spent_usd"),
        )


@dataclass(frozen=True)
class TunedParameter:
    """A parameter that SageMaker's tuner chooses.

    low, high, whole, log, step: of a range of numbers, as in a search's space. texts: the values of a choice, in
    Hydra's syntax; empty for numbers.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    step: float | None = None
    texts: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "choice" if self.texts else "whole numbers" if self.whole else "numbers"


@dataclass(frozen=True)
class Tuning:
    """A search that SageMaker's tuner runs. Its trials are like the run of the spec, each with values of its own.

    overrides: of every trial. settings: the same for people. monitor, mode: the objective and its better direction.
    parallel: trials at once. max_run_s, target, patience, converges: when it ends before all trials have run, see
    conf/hpo/sagemaker_tuner.yaml. min_epochs: of a trial, for Hyperband. parents: run ids of earlier searches that it
    learns from.
    """

    overrides: tuple[str, ...]
    settings: str
    parameters: tuple[TunedParameter, ...]
    monitor: str
    mode: str
    parallel: int
    strategy: str
    early_stopping: bool = False
    seed: int = 0
    max_run_s: int | None = None
    target: float | None = None
    patience: int | None = None
    converges: bool = False
    min_epochs: int = 1
    parents: tuple[str, ...] = ()

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Build it from JSON fields, in which tuples have become lists."""
        parameters = [TunedParameter(**{**each, "texts": tuple(each["texts"])}) for each in fields["parameters"]]
        lists = {name: tuple(fields[name]) for name in ("overrides", "parents")}
        return cls(**{**fields, **lists, "parameters": tuple(parameters)})


@dataclass(frozen=True)
class RunSpec:
    """One run as plain data: what was asked for, not where it runs. All of it can be stored as JSON."""

    run_id: str  # a resumed run keeps it
    overrides: tuple[str, ...]  # as typed: another machine composes the same config from them
    config: Mapping[str, Any]  # resolved, made of plain dicts, lists, numbers and strings
    folder: str  # absolute, on the machine of the person who started it
    created_at: str  # ISO 8601, UTC
    commit: str | None  # of the project's code; None outside git
    dirty: bool  # whether tracked files differ from that commit
    code: CodeBundle | None = None  # what is sent to a remote machine; None for a local run
    photos: SentFolder | None = None  # the data folder of this machine that is sent there; None if none is
    going_on: tuple[str, ...] | None = None  # the overrides of the command that resumes the run; None for a new run
    output: RunOutput | SearchOutput = RunOutput()  # for a search, `config` is that of one trial
    sources: ConfigSources = PROJECTS_OWN  # what the overrides are composed with
    deployment: Deployment | None = None  # the model that is served; None for a run, which trains
    tuning: Tuning | None = None  # how SageMaker's tuner searches; None for everything else

    @property
    def purpose(self) -> str:
        """What it is for, as its tags say."""
        if self.tuning is not None:
            return "tuning"
        return self.output.purpose if self.deployment is None else "deployment"

    @cached_property
    def workload(self) -> Workload:
        """The work that the run does, with the photos of this machine counted."""
        return Workload.of(self.config, None if self.photos is None else self.photos.counts(self.config["data"]))

    def to_json(self) -> str:
        fields = asdict(self)
        del fields["output"]
        match self.output:
            case SearchOutput(study, trials, digest):
                fields |= {"search": study, "trials": trials, "study_digest": digest}
            case RunOutput():
                fields |= {"search": None, "trials": 0}
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError if `text` is not a RunSpec."""
        fields = json.loads(text)
        study, trials, digest = fields.pop("search", None), fields.pop("trials", 0), fields.pop("study_digest", "")
        if study is not None:
            fields["output"] = SearchOutput(study, trials, digest)
        if fields.get("deployment") is not None:
            fields["deployment"] = Deployment.from_fields(fields["deployment"])
        if fields.get("tuning") is not None:
            fields["tuning"] = Tuning.from_fields(fields["tuning"])
        if "sources" in fields:
            fields["sources"] = ConfigSources.from_fields(fields["sources"])
        if fields.get("code") is not None:
            fields["code"] = CodeBundle.from_fields(fields["code"])
        if fields.get("photos") is not None:
            fields["photos"] = SentFolder.from_fields(fields["photos"])
        if fields.get("going_on") is not None:
            fields["going_on"] = tuple(fields["going_on"])
        return cls(**{**fields, "overrides": tuple(fields["overrides"])})
