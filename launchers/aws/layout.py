"""Define the layout of the bucket. All keys that are written or read are built here.

PREFIX/code/<digest>/      the code that is sent, and the first program of the rented machine
PREFIX/data/<digest>/      photos that are sent
PREFIX/features/<key>/     features of photos, for later runs on them
PREFIX/runs/<run id>/      one run: spec.json, checkpoints/, output/
PREFIX/models/<name>/      a deployment: <digest>/model.tar.gz of each model that it has served
"""

from dataclasses import dataclass
from typing import Self

from launchers.payload.model import MODEL_FILE
from launchers.payload.photos import FEATURES, features_key
from launchers.spec import SPEC_FILE, RunSpec

_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunLocation:
    """The location of one run. uri: s3://BUCKET/PREFIX/runs/<run id>, without a trailing slash."""

    uri: str

    @classmethod
    def of_checkpoints(cls, uri: str) -> Self:
        """Return the location of the run that saves its checkpoints at `uri`."""
        return cls(uri.removesuffix(f"/{_CHECKPOINTS}"))

    @property
    def spec_uri(self) -> str:
        return f"{self.uri}/{SPEC_FILE}"

    @property
    def checkpoints_uri(self) -> str:
        """The run's folder as the machine saves it while it trains."""
        return f"{self.uri}/{_CHECKPOINTS}"

    @property
    def features_uri(self) -> str:
        """The features that the run has computed itself."""
        return f"{self.checkpoints_uri}/{FEATURES}"

    @property
    def output_uri(self) -> str:
        return f"{self.uri}/output"


@dataclass(frozen=True)
class Layout:
    """Builds the keys below one prefix of a bucket. Keys of folders end with a slash."""

    bucket: str
    prefix: str

    @classmethod
    def around(cls, run: RunLocation) -> Self:
        """Return the layout in which a run has its location."""
        bucket, _, key = run.uri.removeprefix("s3://").partition("/")
        return cls(bucket, key.rpartition("/runs/")[0])

    @property
    def runs(self) -> str:
        """The folder of all runs."""
        return f"{self.prefix}/runs/"

    def code(self, spec: RunSpec) -> str:
        """The folder of the code, named by its content."""
        assert spec.code is not None
        return f"{self.prefix}/code/{spec.code.digest}/"

    def photos(self, spec: RunSpec) -> str:
        """The folder of the photos that are sent, named by their content."""
        assert spec.photos is not None
        return f"{self.prefix}/data/{spec.photos.digest}/"

    def features(self, spec: RunSpec) -> str:
        """The folder of the features of the run's photos."""
        return f"{self.prefix}/{FEATURES}/{features_key(spec.photos, spec.config['data'])}/"

    def spec(self, run_id: str) -> str:
        """Return the key of the object that describes a run."""
        return f"{self.runs}{run_id}/{SPEC_FILE}"

    def run(self, run_id: str) -> RunLocation:
        return RunLocation(self.uri(f"{self.runs}{run_id}"))

    def models(self, name: str) -> str:
        """The folder of the models that a deployment has served."""
        return f"{self.prefix}/models/{name}/"

    def model(self, name: str, digest: str) -> str:
        """Return the key of a deployed model, named by its content."""
        return f"{self.models(name)}{digest}/{MODEL_FILE}"

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


def archive_uri(output_uri: str, job: str) -> str:
    """Return the archive that SageMaker makes of a job's output data. output_uri: the job's S3OutputPath."""
    return f"{output_uri.rstrip('/')}/{job}/output/output.tar.gz"
