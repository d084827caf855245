"""The rehearsal cloud: AWS's interfaces on this machine, with training jobs that really run. No account, no cost.

It is a separate process that starts when it is first needed and is found through `state_dir`. It ends with
`python -m launchers rehearsal stop`, or by itself after `idle_s` without work.
"""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

from dogbreed import commands
from dogbreed.errors import ConfigError, raise_findings
from launchers.aws.account import CLIENT_SETTINGS
from launchers.aws.errors import errors, import_boto3
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.names import BUCKET, FAULTS_HEADER, REGION, SESSION_HEADER, Server
from launchers.rehearsal.process import IDLE_S, default_place, running, start
from launchers.status import Cause, LaunchError

_CREATING = Lock()  # boto3's session creates one client at a time


@dataclass
class Rehearsal:
    """Stands in for an account: `aws=rehearsal`.

    state_dir: the folder of its S3 and job records. reclaims: the number of spot interruptions of each job.
    launch_as: the name of a role of its IAM whose permissions you have; None for all permissions. faults: other faults
    to inject, see `Faults`. clock_rate: how much faster than real time its clock runs, at most 10; None leaves it as it
    is. idle_s: seconds without a request or job after which its process ends.
    """

    bills: ClassVar[bool] = False

    region: str | None = REGION
    bucket: str | None = None
    role: str | None = None
    state_dir: str = field(default_factory=lambda: str(default_place()))
    reclaims: int = 1
    faults: Mapping[str, Any] = field(default_factory=dict)
    launch_as: str | None = None
    clock_rate: float | None = None
    idle_s: float = IDLE_S
    poll_s: float = 0.3
    state_folder: Path = field(init=False)  # absolute, wherever this process goes later
    _usual: bool = field(init=False, repr=False, compare=False)  # whether a handle alone finds it
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _of_role: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)  # credentials
    _session: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.state_folder = commands.working_folder() / Path(self.state_dir).expanduser()
        self._usual = self.state_folder == default_place()

    @property
    def scope(self) -> str:
        return "rehearsal"

    @property
    def default_bucket(self) -> str | None:
        return self.bucket or BUCKET

    def findings(self) -> list[str]:
        """Return the problems found in the settings."""
        if unknown := Faults.unknown(self.faults):
            return [unknown]
        return list(self._faults().findings())

    def client(self, service: str) -> Any:
        if service not in self._clients:
            raise_findings(ConfigError, self.findings())
            server = start(self.state_folder, self.idle_s)
            client = self._connect(service, server, self._credentials(server))
            headers = {FAULTS_HEADER: self._faults().to_header(), SESSION_HEADER: self._session}
            # before signing, so that they are in each retry as well
            client.meta.events.register("before-call", lambda params, **_: params["headers"].update(headers))
            client.meta.events.register("before-parameter-build", _validate)
            self._clients[service] = client
        return self._clients[service]

    def _connect(self, service: str, server: Server, credentials: Mapping[str, str]) -> Any:
        import_boto3("rehearsal")
        from botocore.config import Config

        # no proxies: none of a company reaches this machine's loopback
        config = Config(**CLIENT_SETTINGS, s3={"addressing_style": "path"}, proxies={})
        with _CREATING:
            return _session().client(
                service, region_name=self.region, endpoint_url=server.url, config=config, **credentials
            )

    @property
    def answers(self) -> bool:
        return running(self.state_folder) is not None

    @property
    def place(self) -> dict[str, str]:
        return {"state_dir": str(self.state_folder), **({"launch_as": self.launch_as} if self.launch_as else {})}

    @property
    def option(self) -> list[str]:
        return [] if self._usual else ["--state-dir", str(self.state_folder)]

    @property
    def overrides(self) -> list[str]:
        return [] if self._usual else [commands.override("aws.state_dir", str(self.state_folder))]

    @property
    def makes_buckets(self) -> bool:
        return not self._faults().no_bucket

    def describe(self) -> str:
        return f"the rehearsal cloud on this machine, in {self.state_dir}"

    def _credentials(self, server: Server) -> dict[str, str]:
        """Return the credentials of the administrator, or temporary ones of the role `launch_as`."""
        admin = {"aws_access_key_id": server.key, "aws_secret_access_key": server.key}
        if self.launch_as is None:
            return admin
        if self._of_role:
            return self._of_role
        iam, sts = (self._connect(name, server, admin) for name in ("iam", "sts"))
        with errors(f"taking the role {self.launch_as} in the rehearsal cloud"):
            try:
                arn = iam.get_role(RoleName=self.launch_as)["Role"]["Arn"]
            except iam.exceptions.NoSuchEntityException:
                create = commands.launchers("iam", "--apply", "--state-dir", str(self.state_folder))
                raise LaunchError(
                    f"The role {self.launch_as} of aws.launch_as does not exist.\nTry: {create}", Cause.BAD_CONFIG
                ) from None
            found = sts.assume_role(RoleArn=arn, RoleSessionName="launcher")["Credentials"]
        self._of_role = {
            "aws_access_key_id": found["AccessKeyId"],
            "aws_secret_access_key": found["SecretAccessKey"],
            "aws_session_token": found["SessionToken"],
        }
        return self._of_role

    def _faults(self) -> Faults:
        return Faults(**{"reclaims": self.reclaims, "clock_rate": self.clock_rate, **self.faults})


@cache
def _session() -> Any:
    """Return a session with default settings: no profile, file or variable of the user's account counts.

    There is one in a process, since a new one reads the descriptions of AWS's services and regions again.
    """
    import boto3
    import botocore.session
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES as VARIABLES

    files = {"config_file": os.devnull, "credentials_file": os.devnull}
    unset = {name: (None, None, files.get(name, row[2]), row[3]) for name, row in VARIABLES.items()}
    return boto3.Session(botocore_session=botocore.session.Session(session_vars=unset))


def _validate(params: Mapping[str, Any], model: Any, **_: Any) -> None:
    """Check requests to S3 in the client, since the server does not see the parameters they were made from."""
    from botocore.exceptions import ParamValidationError

    from launchers.rehearsal.validation import findings

    if model.service_model.service_name == "s3" and model.input_shape is not None:
        given = {name: value for name, value in params.items() if name not in ("Body", "Bucket")}
        required = {name: "x" for name in ("Bucket",) if name in params}
        if report := list(findings(model.input_shape, {**given, **required})):
            raise ParamValidationError(report="\n".join(report))
