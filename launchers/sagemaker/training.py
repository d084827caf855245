"""SageMaker training jobs: on demand or managed spot, one class; what differs is in conf/launcher/sagemaker_*.yaml."""

import hashlib
import json
import logging
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dogbreed.errors import ConfigError, raise_findings
from dogbreed.progress import METRIC_PATTERNS
from dogbreed.workload import Workload
from launchers import formatting
from launchers.aws import bucket, transfer
from launchers.aws.errors import code_of, errors, network_errors
from launchers.aws.results import download_results, download_to_resume
from launchers.base import (
    Capabilities,
    Cause,
    CleanupReport,
    Cloud,
    Handle,
    LaunchError,
    LogLine,
    Phase,
    Plan,
    Request,
    RunResult,
    RunSpec,
    SearchOutput,
    Status,
    name_findings,
)
from launchers.cost import estimate, instances, prices
from launchers.overrides import STAYS_HERE, override, override_key, root_key
from launchers.payload.code import BUNDLE_FILE, ENTRY_FILE, secrets_in
from launchers.payload.photos import FEATURES, FEATURES_ABOUT, features_key
from launchers.project import describe_commit
from launchers.runs.collect import read_downloaded
from launchers.runs.launched import remember
from launchers.runs.state import refuse_if_alive_here
from launchers.sagemaker import images
from launchers.sagemaker import job as job_status
from launchers.sagemaker.logs import read_job_logs, tail

if TYPE_CHECKING:
    from dogbreed.training import Watch

log = logging.getLogger("dogbreed")

RUN_TAG, PLAN_TAG = "dogbreed:run-id", "dogbreed:plan"

_ML, _TMP = "/opt/ml", "/tmp/dogbreed"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}")
_ROLE_NAME = re.compile(r"[\w+=,.@-]{1,64}")
# instances with disks of their own, which are encrypted as they are; a key for them is refused (CreateTrainingJob)
_LOCAL_STORAGE = re.compile(r"\.(g[4-9]\w*|p3dn|p[4-9]\w*(-\w+)?|trn\w+|[a-z]+\d[a-z]*d[a-z]*)\.")
_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
_MOST_RUN_S = 28 * 86400  # SageMaker's own limit
_MOST_RESUBMITS = 99  # two digits of a job's name
_SET_HERE = frozenset({"data.root", "hpo.study", "hpo.one_job", "hpo.fresh"})  # for the machine, whatever was typed
_KEPT_DAYS = 30  # dogbreed:expires-at, for what cleans up by it
_ACTIONS = (  # of the person who submits; dry_run=true lists them
    "sts:GetCallerIdentity",
    "s3:ListBucket",
    "s3:GetBucketAcl",
    "s3:GetBucketPolicyStatus",
    "s3:GetObject",
    "s3:PutObject",
    "iam:GetRole",
    "iam:PassRole",
    "sagemaker:CreateTrainingJob",
    "sagemaker:DescribeTrainingJob",
    "sagemaker:StopTrainingJob",
    "sagemaker:ListTrainingJobs",
    "sagemaker:ListTags",
    "sagemaker:AddTags",
    "logs:DescribeLogStreams",
    "logs:GetLogEvents",
)
_KMS_ACTIONS = ("kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey")


@dataclass
class SageMakerLauncher:
    """Runs `train.py` as a training job. conf/launcher/sagemaker_gpu.yaml explains each key."""

    scheme: ClassVar[str] = "sagemaker"
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True,
        multi_node=True,
        follow_logs=True,
        exact_cost=False,
        graceful_cancel=True,
        remote=True,
        sends_code=True,
        whole_search=True,
    )

    cloud: Cloud
    bucket: str | None = None
    role: str | None = None
    prefix: str = "dogbreed"
    instance_type: str = "ml.g4dn.xlarge"
    instances: int = 1
    volume_gb: int = 50
    spot: bool = False
    max_run_s: int = 14400
    max_wait_s: int | None = None
    image: str = "auto"
    owner: str = "unknown"
    kms_key: str | None = None
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    network_isolation: bool = False
    wait: bool = True
    _jobs_seen: dict[str, int] = field(default_factory=dict, repr=False, compare=False)  # by run: its submissions

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        return cls(cloud, bucket=bucket or cloud.default_bucket)

    @property
    def poll_s(self) -> float:
        return self.cloud.poll_s

    # --- plan ---

    def plan(self, spec: RunSpec) -> Plan:
        raise_findings(ConfigError, [*name_findings(spec), *self._findings(spec)])
        assert spec.code is not None
        code, spec_key, root = (
            f"{self.prefix}/code/{spec.code.digest}",
            f"{self._run_key(spec)}/spec.json",
            self._root(spec),
        )
        put = {"Bucket": self.bucket, **self._encryption()}
        count, size = len(spec.code.files), spec.code.size
        create = self._create(spec, code, spec_key, root)
        objects = {
            f"{code}/{ENTRY_FILE}": "<launchers/remote/entry.py>",
            f"{code}/{BUNDLE_FILE}": f"<{count} files, {size:,} bytes>",
        }
        if spec.photos is not None:
            photos, shards = spec.photos, len(spec.photos.shards)
            objects[self._photos_key(spec)] = f"<{photos.files:,} photos in {shards} files and their manifest>"
        if key := self._features_key(spec):
            objects[f"{key}{FEATURES_ABOUT}"] = "<which photos these are>"  # an input without any object is refused
        objects[spec_key] = "<the settings of this run>"
        requests = (
            *(Request("s3", "PutObject", {**put, "Key": name, "Body": body}) for name, body in objects.items()),
            Request("sagemaker", "CreateTrainingJob", create),
        )
        return Plan(
            spec,
            Handle(self.scheme, self.cloud.scope, spec.run_id),
            tuple(self._rows(spec, root)),
            requests,
            self._actions(),
        )

    def _encryption(self) -> dict[str, str]:
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key} if self.kms_key else {}

    def _actions(self) -> tuple[str, ...]:
        return (*_ACTIONS, *(_KMS_ACTIONS if self.kms_key else ()))

    def _findings(self, spec: RunSpec) -> Iterator[str]:
        yield from self.cloud.findings()
        if self.bucket is None:
            yield "It is not said into which bucket.\nTry: launcher.bucket=<yours>; or rehearse first: aws=rehearsal"
        elif not _BUCKET.fullmatch(self.bucket):
            yield f"launcher.bucket={self.bucket!r} cannot name a bucket.\nTry: its name alone, without s3://"
        if self.role is None:
            yield "It is not said as which role the job runs.\nTry: aws.role=<name or ARN of an execution role>"
        elif not (_ROLE_ARN.fullmatch(self.role) or _ROLE_NAME.fullmatch(self.role)):
            yield f"launcher.role={self.role!r} is neither a role's name nor its ARN.\nTry: aws iam list-roles"
        if not re.fullmatch(r"[\w./-]{1,200}", self.prefix) or self.prefix.strip("/") != self.prefix:
            yield f"launcher.prefix={self.prefix!r} cannot begin a key.\nTry: such as dogbreed, or team/dogbreed"
        yield from self._machine_findings(spec)
        yield from self._data_findings(spec)
        if bool(self.subnets) != bool(self.security_groups):
            yield "A VPC needs both.\nTry: launcher.subnets=[subnet-...] launcher.security_groups=[sg-...]"
        if kinds := sorted({kind for _, kind in secrets_in(json.dumps([spec.config, spec.overrides]).encode())}):
            yield f"The settings hold what looks like {', '.join(kinds)}.\nTry: without it; settings are kept"
        if spec.code is None:
            yield "There is no code to send.\nTry: launchers.prepare(...), which looks at it"
        else:
            yield from spec.code.findings

    def _machine_findings(self, spec: RunSpec) -> Iterator[str]:
        if not (_TYPE.fullmatch(self.instance_type) and prices.exists(self.instance_type)):
            close = prices.closest(self.instance_type)
            near = ", ".join(close) or "ml.g4dn.xlarge"
            yield f"launcher.instance_type={self.instance_type} is unknown.\nTry: {near}"
        if self.instances < 1:
            yield f"launcher.instances={self.instances} cannot be.\nTry: 1 or more"
        if self.instances > 1 and isinstance(spec.output, SearchOutput):
            yield "A search in one job has one machine.\nTry: launcher.instances=1, or hpo.one_job=false"
        if not 1 <= self.max_run_s <= _MOST_RUN_S:
            yield f"launcher.max_run_s={self.max_run_s} cannot be.\nTry: 1 to {_MOST_RUN_S} seconds, such as 14400"
        if self.spot:
            if self.max_wait_s is None or self.max_wait_s < self.max_run_s:
                yield (
                    f"launcher.max_wait_s={self.max_wait_s} is less than max_run_s={self.max_run_s}, but includes it.\n"
                    f"Try: launcher.max_wait_s={2 * self.max_run_s}"
                )
            save = spec.config.get("save") or {}
            if not save.get("every_n_steps") and not (0 < (save.get("every_s") or 0) <= self.max_run_s):
                yield "Spot machines are taken away, and this run would save nothing.\nTry: save.every_s=60"
        elif self.max_wait_s is not None:
            yield "launcher.max_wait_s is for spot alone.\nTry: without it, or launcher=sagemaker_spot"
        if not 1 <= self.volume_gb <= 16384:
            yield f"launcher.volume_gb={self.volume_gb} cannot be.\nTry: 1 to 16384"
        yield from images.findings(self.image, self.cloud.region, self.instance_type, _day(spec))

    def _data_findings(self, spec: RunSpec) -> Iterator[str]:
        data, model = spec.config["data"], spec.config["model"]
        if spec.photos is not None:
            yield from spec.photos.findings
        weights = str(model.get("weights") or "")
        if weights.startswith(("/", "./", "../", "~")):
            yield f"model.weights={weights} lies on this machine, and is not sent.\nTry: an address, or https://..."
        source = str((data.get("source") or {}).get("_target_", ""))
        if self.network_isolation and source.endswith("DogImages"):
            yield "Without a network the photos cannot be downloaded.\nTry: data=folder data.root=s3://BUCKET/photos"

    def _rows(self, spec: RunSpec, root: str) -> Iterator[tuple[str, str]]:
        typed, own, extras = self._command(spec, again=spec.going_on is not None)
        how = "spot" if self.spot else "on demand"
        wait = f", {_hours(self.max_wait_s)} with waiting" if self.spot and self.max_wait_s else ""
        machines = f"{self.instances} x {self.instance_type}" if self.instances > 1 else self.instance_type
        yield "where", f"{self.cloud.describe()}: {machines}, {how}"
        if isinstance(spec.output, SearchOutput):
            yield "search", f"{spec.output.trials} trials of the study {spec.output.study}, in this one job"
        workload = Workload.of(spec.config)
        cost = estimate.estimate(
            workload,
            self.instance_type,
            instances=self.instances,
            spot=self.spot,
            max_run_s=self.max_run_s,
            trials=_trials(spec),
        )
        expected = f"about {_minutes(cost.seconds)} expected, " if _trials(spec) and cost and cost.seconds else ""
        yield "time", f"{expected}at most {_hours(self.max_run_s)}{wait}"
        yield "cost", self._cost(cost)
        if text := instances.said(workload, prices.instance(self.instance_type), self.instances):
            yield "speed-up", text
        yield "command", shlex.join(["python", "train.py", *typed, *own])
        yield "image", images.resolve(self.image, self.cloud.region or "", self.instance_type, _day(spec))
        if note := images.note(self.image, self.cloud.region, _day(spec)):
            yield "", note
        if self.network_isolation:
            needs = ", ".join(["what pyproject.toml requires", *extras])
            yield "network", f"none: nothing is installed on start, so the image must hold {needs}"
        assert spec.code is not None
        yield (
            "code",
            f"{describe_commit(spec.commit, spec.dirty)}\n"
            f"{len(spec.code.files)} files, {spec.code.size / 1e6:.1f} MB, digest {spec.code.digest[:12]}",
        )
        if spec.photos is not None:
            count, shards = spec.photos.files, len(spec.photos.shards)
            files = f"{shards} files" if shards > 1 else "one file"
            yield "photos", f"{count:,} files, {spec.photos.size / 1e6:,.0f} MB, sent once as {files}"
        if key := self._features_key(spec):
            yield "features", f"computed once for all runs on these photos, kept in s3://{self.bucket}/{key}"
        yield "files", root
        yield "folder", spec.folder
        resume = ["python", "train.py", f"resume={Handle(self.scheme, self.cloud.scope, spec.run_id)}"]
        yield "resume", "the same command again" if isinstance(spec.output, SearchOutput) else shlex.join(resume)
        yield "permissions", "\n".join(_wrapped(self._actions()))

    def _cost(self, cost: estimate.Cost | None) -> str:
        if cost is None:
            return f"unknown: no price of {self.instance_type} is in launchers/cost/prices.yaml"
        expected = (
            "expected cannot be told" if cost.expected is None else f"about {formatting.usd(cost.expected)} expected"
        )
        spot = ", less on spot" if self.spot else ""
        free = "nothing here; on AWS " if self.cloud.scope == "rehearsal" else ""
        return (
            f"{free}{expected}, {formatting.usd(cost.worst)} at worst\n"
            f"{formatting.usd(cost.usd_per_hour)} an hour on demand{spot} (list price, {prices.REGION}, {cost.as_of})"
        )

    def _sent(self, spec: RunSpec) -> dict[str, Any]:
        """What the machine is told. again: how to go on, where an earlier machine has left something in the folder."""

        def command(again: bool) -> dict[str, list[str]]:
            typed, own, _ = self._command(spec, again=again)
            return {"typed": typed, "own": own}

        return {
            "spec": json.loads(spec.to_json()),
            "fresh": command(again=False),
            "again": command(again=True) if spec.going_on is not None else None,
            "extras": self._command(spec, again=False)[2],
            "unpacks": f"{_TMP}/photos" if spec.photos is not None else None,
        }

    def _command(self, spec: RunSpec, *, again: bool) -> tuple[list[str], list[str], list[str]]:
        """What was typed, what the launcher adds for the machine, and the extras of pyproject.toml that it needs."""
        folder = f"{_ML}/checkpoints"
        words = (spec.going_on or ()) if again else spec.overrides
        stays = STAYS_HERE - {"hpo"} if isinstance(spec.output, SearchOutput) else STAYS_HERE
        typed = [text for text in words if root_key(text) not in stays and override_key(text) not in _SET_HERE]
        data = spec.config["data"]
        if spec.photos is not None:
            root = f"{_TMP}/photos"
        elif data.get("source"):
            root = f"{_TMP}/{Path(str(data['root'])).name}"
        else:
            root = f"{_ML}/input/data/photos"
        if isinstance(spec.output, SearchOutput):  # always the same command: it resumes what it finds there
            typed = ["-m", *typed]
            how = [
                f"hpo.study={spec.output.study}",
                "hpo.one_job=false",
                "hpo.fresh=false",
                f"hydra.sweep.dir={folder}",
            ]
        elif again:
            how = [override("resume", folder)]
        else:
            how = [f"run_id={spec.run_id}", f"hydra.run.dir={folder}"]
        own = ["launcher=local", *how, f"data.root={root}"]
        assert spec.code is not None
        if spec.code.config_dirs:
            places = ",".join(f"file://{_ML}/code/{name}" for name in spec.code.config_dirs)
            own.append(f"hydra.searchpath=[{places}]")
        logger = str((spec.config.get("logger") or {}).get("_target_", ""))
        return typed, own, ["wandb"] if "wandb" in logger.lower() else []

    def _create(self, spec: RunSpec, code: str, spec_key: str, root: str) -> dict[str, Any]:
        def channel(name: str, uri: str) -> dict[str, Any]:
            source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
            return {"ChannelName": name, "InputMode": "File", "DataSource": {"S3DataSource": source}}

        channels = [channel("code", f"s3://{self.bucket}/{code}/"), channel("spec", f"s3://{self.bucket}/{spec_key}")]
        if spec.photos is not None:
            # streamed: the first shards are unpacked while the last are on their way
            streamed = {**channel("photos", f"s3://{self.bucket}/{self._photos_key(spec)}"), "InputMode": "FastFile"}
            channels.append(streamed)
        elif not spec.config["data"].get("source"):
            channels.append(channel("photos", f"{str(spec.config['data']['root']).rstrip('/')}/"))
        if key := self._features_key(spec):
            # streamed: of all that is kept there, only what the run asks for is read
            streamed = {**channel(FEATURES, f"s3://{self.bucket}/{key}"), "InputMode": "FastFile"}
            channels.append(streamed)
        output: dict[str, Any] = {"S3OutputPath": f"{root}/output"}
        resources: dict[str, Any] = {
            "InstanceType": self.instance_type,
            "InstanceCount": self.instances,
            "VolumeSizeInGB": self.volume_gb,
        }
        if self.kms_key:
            output["KmsKeyId"] = self.kms_key
            if not _LOCAL_STORAGE.search(self.instance_type):
                resources["VolumeKmsKeyId"] = self.kms_key
        created = datetime.fromisoformat(_day(spec))
        expires = (created + timedelta(days=_KEPT_DAYS)).strftime("%Y-%m-%dT%H:%M:%SZ")
        request: dict[str, Any] = {
            "TrainingJobName": spec.run_id,
            "RoleArn": self.role
            if self.role and self.role.startswith("arn:")
            else f"arn:aws:iam::{{account}}:role/{self.role}",
            "AlgorithmSpecification": {
                "TrainingImage": images.resolve(self.image, self.cloud.region or "", self.instance_type, _day(spec)),
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python", f"{_ML}/input/data/code/{ENTRY_FILE}"],
                "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRIC_PATTERNS.items()],
            },
            "InputDataConfig": channels,
            "OutputDataConfig": output,
            "CheckpointConfig": {"S3Uri": f"{root}/checkpoints", "LocalPath": f"{_ML}/checkpoints"},
            "ResourceConfig": resources,
            "StoppingCondition": {
                "MaxRuntimeInSeconds": self.max_run_s,
                **({"MaxWaitTimeInSeconds": self.max_wait_s} if self.spot else {}),
            },
            "EnableManagedSpotTraining": self.spot,
            "EnableNetworkIsolation": self.network_isolation,
            "EnableInterContainerTrafficEncryption": self.instances > 1,
            "Environment": {
                "DOGBREED_INSTALL": "no" if self.network_isolation else "yes",
                **({job_status.STUDY: spec.output.study} if isinstance(spec.output, SearchOutput) else {}),
            },
            "Tags": [
                {"Key": key, "Value": value}
                for key, value in {
                    RUN_TAG: spec.run_id,
                    "dogbreed:owner": re.sub(r"[^\w .:/=+@-]", "-", self.owner)[:256],
                    "dogbreed:expires-at": expires,
                    "dogbreed:purpose": spec.output.purpose,
                }.items()
            ],
        }
        if self.subnets:
            request["VpcConfig"] = {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}
        untagged = {key: value for key, value in request.items() if key != "Tags"}  # they hold the time
        digest = hashlib.sha256(
            json.dumps([untagged, self._sent(spec)["fresh"], spec.going_on], sort_keys=True).encode()
        ).hexdigest()[:32]
        request["Tags"].append({"Key": PLAN_TAG, "Value": digest})
        return request

    def _run_key(self, spec: RunSpec) -> str:
        return f"{self.prefix}/runs/{spec.run_id}"

    def _photos_key(self, spec: RunSpec) -> str:
        assert spec.photos is not None
        return f"{self.prefix}/data/{spec.photos.digest}/"

    def _features_key(self, spec: RunSpec) -> str | None:
        """Where features of the run's photos are kept for the next run; null for a run that computes none."""
        if not Workload.of(spec.config).wants_features:
            return None
        return f"{self.prefix}/{FEATURES}/{features_key(spec.photos, spec.config['data'])}/"

    def _root(self, spec: RunSpec) -> str:
        return f"s3://{self.bucket}/{self._run_key(spec)}"

    # --- submit ---

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Check what only the account knows, upload what is not there, create the job; with `watch`, stay to its end.

        The same plan again is the same job: while it is going on and once it has succeeded nothing is done; where it
        has failed or was stopped, it goes on from its checkpoint under the job's name and a number.
        """
        spec, create = plan.spec, dict(plan.requests[-1].parameters)
        refuse_if_alive_here(Path(spec.folder))
        account = self._check_account()
        create["RoleArn"] = create["RoleArn"].replace("{account}", account)
        number, job = self.latest(spec.run_id)
        if job is not None and self._same(job, plan, create):
            return self._watched(plan, watch)
        sent = self._sent(spec)
        for request in plan.requests[:-1]:
            transfer.put(self.cloud, request.parameters, spec, sent)
        if spec.going_on is not None or isinstance(spec.output, SearchOutput):
            transfer.send_checkpoints(self.cloud, spec, create["CheckpointConfig"]["S3Uri"], self._encryption())
        remember(Path(spec.folder), plan, self.cloud.place)
        try:
            self._create_job(plan, create, number)
        except BaseException as error:  # Ctrl-C, a lost network: whether it was created nobody can tell
            error.add_note(f"It may have been submitted: python -m launchers status {self.name_of(plan.handle)}")
            raise
        return self._watched(plan, watch)

    def _create_job(self, plan: Plan, create: dict[str, Any], number: int) -> None:
        """number: of submissions before."""
        client, spec = self.cloud.client("sagemaker"), plan.spec
        while True:
            number += 1
            if number > _MOST_RESUBMITS:
                raise LaunchError(
                    f"Run {spec.run_id} has been submitted {number - 1} times.\nTry: a new run", Cause.BAD_CONFIG
                )
            create["TrainingJobName"] = job_name(spec.run_id, number)
            with errors("creating the training job", then=self._quota_hint()):
                try:
                    client.create_training_job(**create)
                    return
                except client.exceptions.ResourceInUse:  # somebody was faster: with the same plan?
                    number, job = self.latest(spec.run_id)
                    if job is not None and self._same(job, plan, create):
                        return

    def name_of(self, handle: Handle) -> str:
        return f"{handle}{self.cloud.option}"

    def folder(self, handle: Handle) -> Path | None:
        return None  # it writes to S3; `result` and `fetch` download

    def _same(self, job: Mapping[str, Any], plan: Plan, create: Mapping[str, Any]) -> bool:
        """Whether `job`, the run's latest, is what the plan wants. False where it is to go on under another name."""
        status = job_status.read(job, plan.handle, tags=lambda: self._tags(job))
        going_on = plan.spec.going_on is not None
        nothing_new = going_on and not self._command(plan.spec, again=True)[0]
        wanted = next(tag["Value"] for tag in create["Tags"] if tag["Key"] == PLAN_TAG)
        same = self._tags(job).get(PLAN_TAG) == wanted
        if status.phase is Phase.SUCCEEDED:
            return (
                same or nothing_new or not (going_on or isinstance(plan.spec.output, SearchOutput))
            )  # a search may be asked for more trials
        if status.finished:
            return False
        if not (same or nothing_new):
            raise LaunchError(
                f"Run {plan.spec.run_id} is going on with other settings.\n"
                f"Try: python -m launchers attach {plan.handle}, or python -m launchers cancel {plan.handle} first"
            )
        return True

    def _check_account(self) -> str:
        """The account's id. Raises LaunchError for all that is wrong with the bucket and the role, at once."""
        assert self.bucket is not None
        with errors("asking AWS who you are"):
            account = str(self.cloud.client("sts").get_caller_identity()["Account"])
        findings = [*bucket.bucket_findings(self.cloud, self.bucket, account), *self._role_findings()]
        raise_findings(LaunchError, findings)
        return account

    def _role_findings(self) -> list[str]:
        assert self.role is not None
        name = self.role.rpartition("/")[2]
        from botocore.exceptions import ClientError

        try:
            with network_errors(f"looking at the role {name}"):
                role = self.cloud.client("iam").get_role(RoleName=name)["Role"]
        except ClientError as error:
            if code_of(error) == "NoSuchEntity":
                return [f"There is no role {name}.\nTry: aws.role=<one of `aws iam list-roles`>"]
            if code_of(error) in ("AccessDenied", "AccessDeniedException"):
                return []  # who may pass a role may not always look at it: CreateTrainingJob will tell
            with errors(f"looking at the role {name}"):
                raise
        if self.role.startswith("arn:") and role["Arn"] != self.role:
            return [f"{self.role} is not in this account, whose role of that name is {role['Arn']}."]
        if "sagemaker.amazonaws.com" not in json.dumps(role["AssumeRolePolicyDocument"]):
            return [
                f"SageMaker may not assume the role {name}: sagemaker.amazonaws.com is not in its trust policy.\n"
                "Try: another role, or add it"
            ]
        return []

    def _quota_hint(self) -> str:
        kind = "spot training" if self.spot else "training"
        return f"(the quota of this machine: `{self.instance_type} for {kind} job usage`)"

    def _watched(self, plan: Plan, watch: "Watch | None") -> Handle:
        if watch is not None:
            from launchers.follow import ask_after_each_epoch

            if ask_after_each_epoch(self, plan.handle, watch):
                self._end_early(plan.handle)
        return plan.handle

    def _end_early(self, handle: Handle) -> None:
        """Stop a run whose numbers are good enough to know: that is no failure."""
        _, job = self.latest(handle.run_id)
        if job is None or job_status.read(job, handle).finished:
            return
        with errors("marking the job"):
            self.cloud.client("sagemaker").add_tags(
                ResourceArn=job["TrainingJobArn"], Tags=[{"Key": job_status.EARLY_TAG, "Value": "yes"}]
            )
        self.cancel(handle)

    # --- afterwards ---

    def status(self, handle: Handle) -> Status:
        _, job = self.latest(handle.run_id)
        if job is None:
            where = self.cloud.describe()
            return Status(Phase.LOST, Cause.UNKNOWN, f"No run {handle.run_id} is known in {where}.")
        status = job_status.read(job, handle, tags=lambda: self._tags(job))
        before = self._all(handle.run_id)[:-1] if self._jobs_seen[handle.run_id] > 1 else []
        if before:
            costs_before = [job_status.spent(job) or 0.0 for job in before]
            status = replace(
                status,
                attempt=status.attempt + sum(map(job_status.attempts, before)),
                started_at=job_status.started_at(before[0]),
                usd=None if status.usd is None else status.usd + sum(costs_before),
            )
        if status.phase in (Phase.FAILED, Phase.CANCELLED):
            status = replace(status, log_tail=tail(self.cloud, job["TrainingJobName"], status.detail))
        return status

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        if self.latest(handle.run_id)[1] is None:
            raise LaunchError(self.status(handle).detail)
        lines = read_job_logs(self.cloud, lambda: self._all(handle.run_id), follow=follow)
        return (line for line in lines if attempt in (None, line.attempt) and node in (None, line.node))

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        """SageMaker itself waits 120 s between SIGTERM and the end, whatever grace_s is."""
        _, job = self.latest(handle.run_id)
        if job is None or job_status.read(job, handle).finished:
            return self.status(handle)
        with errors("stopping the job"):
            from botocore.exceptions import ClientError

            try:
                self.cloud.client("sagemaker").stop_training_job(TrainingJobName=job["TrainingJobName"])
            except ClientError as error:
                if code_of(error) != "ValidationException":  # it has ended just now
                    raise
        until = time.monotonic() + max(grace_s, 120) + 60
        while not (status := self.status(handle)).finished and time.monotonic() < until:
            time.sleep(self.cloud.poll_s)
        return status

    def result(self, handle: Handle) -> RunResult:
        """Brings the run folder home, if it is not there yet."""
        status = self.status(handle)
        if status.phase is not Phase.SUCCEEDED:
            raise LaunchError(f"Run {handle} has no result: {status}", status.cause)
        _, job = self.latest(handle.run_id)
        assert job is not None
        self._share_features(job)
        name = job["TrainingJobName"]
        output_uri = f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{name}/output/output.tar.gz"
        return read_downloaded(handle, download_results(self.cloud, handle, root_of(job), name, output_uri))

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        status = self.status(handle)
        _, job = self.latest(handle.run_id)
        if job is None:
            raise LaunchError(status.detail)
        if checkpoints and not status.finished:
            raise LaunchError(
                f"Run {handle} is still going on there.\nTry: python -m launchers attach {handle}, or cancel it first"
            )
        return download_to_resume(self.cloud, handle, root_of(job), folder, checkpoints=checkpoints)

    def _share_features(self, job: Mapping[str, Any]) -> None:
        """Copy the features that the job computed to where the next run on its photos looks for them."""
        channels = {channel["ChannelName"]: channel for channel in job.get("InputDataConfig", [])}
        if FEATURES not in channels:
            return
        place, key = channels[FEATURES]["DataSource"]["S3DataSource"]["S3Uri"], job["OutputDataConfig"].get("KmsKeyId")
        encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
        try:
            transfer.share_features(self.cloud, f"{root_of(job)}/checkpoints/{FEATURES}", place, encryption)
        except LaunchError as error:  # the next run computes them again: no reason to keep this one's results away
            log.warning("%s", error)

    def list(self, *, active_only: bool = True) -> Iterator[tuple[Handle, Status]]:
        """Of the newest 100 jobs of the account, those that were launched from here."""
        request: dict[str, Any] = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 100}
        seen = set()
        with errors("listing training jobs"):
            client = self.cloud.client("sagemaker")
            summaries = client.list_training_jobs(**request)["TrainingJobSummaries"]
        for summary in summaries:
            if active_only and summary["TrainingJobStatus"] not in ("InProgress", "Stopping"):
                continue
            run_id = self._tags(summary).get(RUN_TAG)
            if run_id and run_id not in seen:
                seen.add(run_id)
                handle = Handle(self.scheme, self.cloud.scope, run_id)
                status = self.status(handle)
                if not (active_only and status.finished):
                    yield handle, status

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """Settings of runs that were uploaded and never became a job, and uploads that broke off, which cost money.

        What a run has saved is never touched.
        """
        if self.bucket is None:
            raise LaunchError("It is not said in which bucket to look.\nTry: --bucket NAME")
        return bucket.cleanup(
            self.cloud, self.bucket, self.prefix, lambda run_id: self.latest(run_id)[1] is not None, older_than, apply
        )

    # --- jobs of a run ---

    def _all(self, run_id: str) -> Sequence[dict[str, Any]]:
        found = [self._describe(job_name(run_id, n)) for n in range(1, self.latest(run_id)[0] + 1)]
        return [job for job in found if job is not None]

    def latest(self, run_id: str) -> tuple[int, dict[str, Any] | None]:
        """The number of submissions, and the last one's description. By name: lists lag behind on AWS."""
        number = self._jobs_seen.get(run_id, 0)
        job = self._describe(job_name(run_id, number)) if number else None
        while (after := self._describe(job_name(run_id, number + 1))) is not None:
            number, job = number + 1, after
        self._jobs_seen[run_id] = number
        return number, job

    def _describe(self, name: str) -> dict[str, Any] | None:
        with errors(f"looking at the job {name}"):
            from botocore.exceptions import ClientError

            try:
                found: dict[str, Any] = self.cloud.client("sagemaker").describe_training_job(TrainingJobName=name)
            except ClientError as error:
                if code_of(error) in ("ValidationException", "ResourceNotFound"):
                    return None
                raise
        return found

    def _tags(self, job: Mapping[str, Any]) -> dict[str, str]:
        with errors("reading tags"):
            tags = self.cloud.client("sagemaker").list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
        return {tag["Key"]: tag["Value"] for tag in tags}


def root_of(job: Mapping[str, Any]) -> str:
    """s3://bucket/prefix/runs/<run id>: where everything of the job's run lies."""
    return str(job["CheckpointConfig"]["S3Uri"]).removesuffix("/checkpoints")


def _trials(spec: RunSpec) -> int:
    return spec.output.trials if isinstance(spec.output, SearchOutput) else 0


def job_name(run_id: str, number: int) -> str:
    """Of the `number`th submission of a run, from 1."""
    return run_id if number == 1 else f"{run_id}--{number}"


def _day(spec: RunSpec) -> str:
    return spec.created_at or "1970-01-01T00:00:00+00:00"


def _hours(seconds: int) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _wrapped(words: Sequence[str]) -> Iterator[str]:
    import textwrap

    yield from textwrap.wrap(", ".join(words), 64, break_on_hyphens=False)
