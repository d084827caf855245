"""The rehearsal cloud itself: it refuses what AWS would refuse, keeps what it is given, and starts on demand."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError, ParamValidationError
from hypothesis import given
from hypothesis import strategies as st

from launchers.cli.verbs import main as launchers_command
from launchers.follow import wait
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import ACCOUNT, LOCK_FILE, SERVER_FILE
from launchers.rehearsal.object_store import _file
from launchers.status import LaunchError, Phase
from tests.support.jobs import IMAGE, ended, request
from tests.support.launcher_contract import until
from tests.support.processes import alive
from tests.support.project import ROOT
from tests.support.rehearsing import BUCKET, job_of, prepared, rehearsal_cloud

pytestmark = pytest.mark.cloud


def lines_of(cloud: Rehearsal, name: str) -> list[str]:
    logs = cloud.client("logs")
    group = "/aws/sagemaker/TrainingJobs"
    try:
        streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]
    except logs.exceptions.ResourceNotFoundException:  # nothing has been logged yet
        return []
    return [
        event["message"]
        for stream in streams
        for event in logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True)[
            "events"
        ]
    ]


def test_a_job_runs_its_command_and_leaves_what_sagemaker_leaves(cloud: Rehearsal) -> None:
    script = (
        "import json, os, sys; from pathlib import Path\n"
        "ml = Path(os.environ['SAGEMAKER_BASE_DIR'])\n"
        "print((ml / 'input/data/words/a/b.txt').read_text(), 'loss=0.25', flush=True)\n"
        "print(json.loads((ml / 'input/config/resourceconfig.json').read_text())['hosts'])\n"
        "(ml / 'model/m.txt').write_text('model'); (ml / 'output/data/o.txt').write_text('output')"
    )
    s3, name = cloud.client("s3"), "it-runs"
    s3.put_object(Bucket=BUCKET, Key="words/a/b.txt", Body=b"from S3")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/words/"}}
    changes = {"InputDataConfig": [{"ChannelName": "words", "DataSource": source}], "HyperParameters": {"a": "1"}}
    # an argument of a container's command has at most 256 characters
    command = {"ContainerEntrypoint": ["python"], "ContainerArguments": ["/opt/ml/input/data/code/run.py"]}
    s3.put_object(Bucket=BUCKET, Key="run/run.py", Body=script.encode())
    code = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/run/run.py"}}
    changes["InputDataConfig"].append({"ChannelName": "code", "DataSource": code})  # type: ignore[attr-defined]
    whole = request(name, **changes)
    whole["AlgorithmSpecification"] |= command
    cloud.client("sagemaker").create_training_job(**whole)
    job = ended(cloud, name)
    assert job["TrainingJobStatus"] == "Completed", job
    passed = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert passed == ["Starting", "Pending", "Downloading", "Training", "Uploading", "Completed"]
    assert lines_of(cloud, name) == ["from S3 loss=0.25", "['algo-1']"]
    assert [(metric["MetricName"], metric["Value"]) for metric in job["FinalMetricDataList"]] == [("loss", 0.25)]
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"out/{name}")["Contents"]]
    assert keys == [f"out/{name}/output/model.tar.gz", f"out/{name}/output/output.tar.gz"]
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/out/{name}/output/model.tar.gz"
    assert job["BillableTimeInSeconds"] >= 1


def test_sockets_can_be_made_on_a_machine_however_long_its_job_s_name_is(cloud: Rehearsal) -> None:
    script = (
        "import tempfile; from multiprocessing.connection import Listener; "
        "Listener(family='AF_UNIX').close(); print(tempfile.gettempdir())"  # as processes that decode photos do
    )
    name = "a-name-as-long-as-sagemaker-allows-for-a-training-job-63-letter"
    cloud.client("sagemaker").create_training_job(**request(name, script))
    assert ended(cloud, name)["TrainingJobStatus"] == "Completed", lines_of(cloud, name)
    assert lines_of(cloud, name) == ["/tmp"]


def test_a_failing_command_is_a_failed_job_with_its_own_words(cloud: Rehearsal) -> None:
    script = (
        "import os, sys; open(os.environ['SAGEMAKER_BASE_DIR'] + '/output/failure', 'w').write('no luck'); sys.exit(3)"
    )
    cloud.client("sagemaker").create_training_job(**request("it-fails", script))
    job = ended(cloud, "it-fails")
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", "AlgorithmError: no luck, exit code: 3")


def test_stopping_sends_sigterm_first(cloud: Rehearsal) -> None:
    script = (
        "import signal, time; signal.signal(15, lambda *_: (print('heard', flush=True), exit(0))); "
        "print('up', flush=True); time.sleep(600)"
    )
    cloud.client("sagemaker").create_training_job(**request("it-stops", script))
    until(lambda: "up" in lines_of(cloud, "it-stops"))
    cloud.client("sagemaker").stop_training_job(TrainingJobName="it-stops")
    assert ended(cloud, "it-stops")["TrainingJobStatus"] == "Stopped"
    assert lines_of(cloud, "it-stops") == ["up", "heard"]


def test_two_hosts_are_two_processes_that_know_of_each_other(cloud: Rehearsal) -> None:
    script = (
        "import json, os; place = os.environ['SAGEMAKER_BASE_DIR']; "
        "print(sorted(json.load(open(place + '/input/config/resourceconfig.json')).items()))"
    )
    changes = {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 10}}
    cloud.client("sagemaker").create_training_job(**request("two-hosts", script, **changes))
    ended(cloud, "two-hosts")
    lines = lines_of(cloud, "two-hosts")
    assert len(lines) == 2
    assert all("['127.0.0.1', '127.0.0.2']" in line for line in lines)
    assert lines[0] != lines[1]


def _without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(whole: dict[str, Any]) -> None:
        for key in path[:-1]:
            whole = whole[key]
        del whole[path[-1]]

    return change


def _with(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(whole: dict[str, Any]) -> None:
        for key in path[:-1]:
            whole = whole.setdefault(key, {})
        whole[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with("bad_name", "TrainingJobName"), "does not satisfy the pattern"),
        (_with(64 * "x", "TrainingJobName"), "length 64 is more than 63"),
        (_with("ml.m5.largo", "ResourceConfig", "InstanceType"), "is not one of"),
        (_with(2419201, "StoppingCondition", "MaxRuntimeInSeconds"), "at most 2419200"),
        (_with(2419201, "StoppingCondition", "MaxPendingTimeInSeconds"), "value 2419201 is more than 2419200"),
        (_with({"K": 513 * "v"}, "Environment"), "length 513 is more than 512"),
        (_with({"k": 2501 * "v"}, "HyperParameters"), "length 2501 is more than 2500"),
        (_with(["python", 257 * "x"], "AlgorithmSpecification", "ContainerEntrypoint"), "length 257 is more than 256"),
        (_with([{"Name": "m", "Regex": 501 * "x"}], "AlgorithmSpecification", "MetricDefinitions"), "length 501"),
        (
            _with([{"Name": f"m{n}", "Regex": "x"} for n in range(41)], "AlgorithmSpecification", "MetricDefinitions"),
            "41",
        ),
        (_with([{"Key": f"k{n}", "Value": "v"} for n in range(51)], "Tags"), "length 51 is more than 50"),
        (_with([{"Key": "aws:x", "Value": "v"}], "Tags"), "must not begin with aws:|pattern"),
        (_with([{"Key": "k", "Value": "v"}, {"Key": "k", "Value": "w"}], "Tags"), "Duplicate tag keys"),
        (_with([{"Key": "k", "Value": "v;"}], "Tags"), "does not satisfy the pattern"),
        (_with(True, "EnableManagedSpotTraining"), "MaxWaitTimeInSeconds must be provided"),
        (_with(90, "StoppingCondition", "MaxWaitTimeInSeconds"), "must not be provided"),
        (_with("arn:aws:iam::999999999999:role/Other", "RoleArn"), "Could not assume role"),
        (_with(f"arn:aws:iam::{ACCOUNT}:role/DogBreedTraining", "RoleArn"), "Could not assume role"),
        (_with("s3://nobody/out", "OutputDataConfig", "S3OutputPath"), "does not exist"),
        (_with("python:3.12", "AlgorithmSpecification", "TrainingImage"), "Invalid image URI"),
        (_with(IMAGE.replace("us-east-1", "eu-west-1"), "AlgorithmSpecification", "TrainingImage"), "in the region"),
    ],
)
def test_a_request_that_sagemaker_would_refuse_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, cloud: Rehearsal
) -> None:
    whole = deepcopy(request("never-made"))
    change(whole)
    with pytest.raises(ClientError, match=message) as caught:
        cloud.client("sagemaker").create_training_job(**whole)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_what_botocore_lets_pass_in_other_services_is_refused_as_well(cloud: Rehearsal) -> None:
    with pytest.raises(ClientError, match="length 65 is more than 64"):
        cloud.client("iam").get_role(RoleName=65 * "x")
    with pytest.raises(ClientError, match="does not satisfy the pattern"):
        cloud.client("logs").describe_log_streams(logGroupName="a b")
    with pytest.raises(ParamValidationError, match="not one of"):
        cloud.client("s3").put_object(Bucket=BUCKET, Key="x", Body=b"", StorageClass="COLD")


def test_names_of_jobs_are_unique(cloud: Rehearsal) -> None:
    cloud.client("sagemaker").create_training_job(**request("only-once"))
    with pytest.raises(ClientError, match="must be unique") as caught:
        cloud.client("sagemaker").create_training_job(**request("only-once"))
    assert caught.value.response["Error"]["Code"] == "ResourceInUse"
    ended(cloud, "only-once")


def test_jobs_are_listed_in_pages_and_by_state(cloud: Rehearsal) -> None:
    sagemaker = cloud.client("sagemaker")
    for n in range(3):
        sagemaker.create_training_job(**request(f"in-a-list-{n}"))
        ended(cloud, f"in-a-list-{n}")
    pages = sagemaker.get_paginator("list_training_jobs").paginate(NameContains="in-a-list", MaxResults=2)
    names = [[job["TrainingJobName"] for job in page["TrainingJobSummaries"]] for page in pages]
    assert names == [["in-a-list-2", "in-a-list-1"], ["in-a-list-0"]]
    assert not sagemaker.list_training_jobs(NameContains="in-a-list", StatusEquals="InProgress")["TrainingJobSummaries"]


def test_a_bucket_of_another_account_is_closed(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        cloud.client("s3").head_bucket(Bucket=BUCKET, ExpectedBucketOwner="999999999999")
    assert caught.value.response["Error"]["Code"] == "403"


# --- it comes and goes ---


def training_processes(state: Path) -> list[psutil.Process]:
    """Those of all jobs of a cloud, whose machines are folders in its state."""
    return [
        found
        for found in psutil.process_iter(["cmdline", "cwd"])
        if str(state) in (found.info["cwd"] or "") and "train.py" in " ".join(found.info["cmdline"] or [])
    ]


def test_what_it_keeps_is_there_again_after_a_kill(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with rehearsal_cloud(state, photos):
        launcher, plan = prepared(state, tmp_path / "run", "trainer.max_epochs=1", "aws.reclaims=0")
        launcher.submit(plan)
        result = wait(launcher, plan.handle)
        lines = list(launcher.logs(plan.handle))
        slow, endless = prepared(state, tmp_path / "endless", "trainer.max_epochs=100000", "aws.reclaims=0")
        slow.submit(endless)
        until(lambda: any("epoch 1/" in line.text for line in slow.logs(endless.handle)))
        pid = json.loads((state / SERVER_FILE).read_text())["pid"]
        workers = training_processes(state)
        assert workers
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid))

        again, _ = prepared(state, tmp_path / "other")
        assert again.result(plan.handle).metrics == result.metrics
        assert list(again.logs(plan.handle)) == lines
        lost = again.status(endless.handle)
        assert lost.phase is Phase.FAILED  # not running for ever
        assert "resume it with" in lost.next_action.lower()
        until(lambda: not any(alive(worker.pid) for worker in workers))


def test_stopping_it_ends_its_jobs(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with rehearsal_cloud(state, photos) as cloud:
        cloud.client("sagemaker").create_training_job(
            **request("endless", "import time; print('up', flush=True); time.sleep(600)")
        )
        until(lambda: "up" in lines_of(cloud, "endless"))
        pid = json.loads((state / SERVER_FILE).read_text())["pid"]
        (child,) = psutil.Process(pid).children()
        assert process.stop(state)
        until(lambda: not alive(child.pid))
        assert not process.stop(state)


def test_stopping_it_ends_a_job_that_takes_its_time_to_stop(photos: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    with rehearsal_cloud(state, photos) as cloud:
        cloud.client("sagemaker").create_training_job(**request("stubborn", script))
        until(lambda: "up" in lines_of(cloud, "stubborn"))
        cloud.client("sagemaker").stop_training_job(TrainingJobName="stubborn")
        pid = json.loads((state / SERVER_FILE).read_text())["pid"]
        (child,) = psutil.Process(pid).children()
        assert process.stop(state)
        until(lambda: not alive(child.pid))  # it would have two minutes otherwise, and outlive the cloud


def test_many_who_need_it_at_once_start_it_once(tmp_path: Path) -> None:
    start = (
        "import sys, pathlib; from launchers.rehearsal import process; "
        "print(process.start(pathlib.Path(sys.argv[1]), 3600).url)"
    )
    words = [sys.executable, "-c", start, str(tmp_path / "state")]
    try:
        with ThreadPoolExecutor(3) as pool:
            said = list(
                pool.map(
                    lambda _: subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout,
                    range(3),
                )
            )
        assert len(set(said)) == 1
    finally:
        process.stop(tmp_path / "state")


def test_two_never_have_the_same_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START_S", 0.2)
    with (tmp_path / LOCK_FILE).open("w") as lock:  # as one has it that has not come to its end, or begins
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LaunchError, match=r"Another process is starting or ending the rehearsal cloud"):
            process.start(tmp_path, 60)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_it_ends_by_itself_when_nothing_happens(tmp_path: Path) -> None:
    state, words = tmp_path / "state", [sys.executable, "-P", "-m", "launchers.rehearsal.server"]
    state.mkdir()
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])}
    ended = subprocess.run([*words, str(state), "1"], env=surroundings, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert process.running(state) is None
    assert not (state / SERVER_FILE).exists()


@pytest.mark.ordinary_start
def test_the_command_starts_finds_and_stops_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--state-dir", str(tmp_path / "state")]
    assert launchers_command(["rehearsal", "status", *words]) == 0
    assert "is not running" in capsys.readouterr().out
    assert launchers_command(["rehearsal", "start", *words]) == 0
    said = capsys.readouterr().out
    server = process.running(tmp_path / "state")
    assert server is not None
    assert f"AWS_ENDPOINT_URL={server.url}" in said
    assert f"AWS_ACCESS_KEY_ID={server.key}" in said
    pid = json.loads((tmp_path / "state" / SERVER_FILE).read_bytes())["pid"]
    assert psutil.Process(pid).cmdline()[-2:] == [str(tmp_path / "state"), str(process.IDLE_S)]
    with (tmp_path / "state" / LOCK_FILE).open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it has the lock itself, for as long as it lives
        assert launchers_command(["rehearsal", "stop", *words]) == 0
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert "was stopped" in capsys.readouterr().out


def test_who_may_not_read_its_state_may_not_use_it(cloud: Rehearsal, place: Path) -> None:
    """Jobs are commands: neither another user of this machine nor a page in a browser may send one."""
    assert place.stat().st_mode & 0o077 == 0
    server = process.running(place)
    assert server is not None
    keys = {"aws_access_key_id": "guessed", "aws_secret_access_key": "guessed"}
    for service, call in (("s3", "list_buckets"), ("sagemaker", "list_training_jobs"), ("iam", "list_roles")):
        client = boto3.client(service, region_name="us-east-1", endpoint_url=server.url, **keys)
        with pytest.raises(ClientError) as caught:
            getattr(client, call)()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    page = urllib.request.Request(
        server.url, b"{}", {"X-Amz-Target": "SageMaker.ListTrainingJobs", "Origin": "http://x"}
    )
    with pytest.raises(urllib.request.HTTPError, match="403") as refused:
        urllib.request.urlopen(page, timeout=60)
    refused.value.close()


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moto.server", None)
    with pytest.raises(LaunchError, match=r"pip install -e '\.\[rehearsal\]'"):
        process.start(tmp_path / "state", 60)


# --- its parts ---


@given(st.lists(st.text(min_size=1, max_size=1000), unique=True, max_size=8))
def test_every_key_has_a_file_of_its_own_with_a_name_that_fits(keys: list[str]) -> None:
    place = Path("/x")
    files = {_file(place, key): key for key in keys}
    assert len(files) == len(keys)
    for path in files:
        assert all(0 < len(part.encode()) <= 255 for part in path.relative_to(place).parts)
        assert not any(path in other.parents for other in files)


def test_objects_of_every_shape_are_there_again(tmp_path: Path) -> None:
    state = tmp_path / "state"
    keys = {"a": b"1", "a/b": b"2", "ü/ %2F+": b"3", "long/" + 500 * "x": b"4", "empty": b""}
    with rehearsal_cloud(state, tmp_path) as cloud:
        s3 = cloud.client("s3")
        for key, content in keys.items():
            s3.put_object(Bucket=BUCKET, Key=key, Body=content)
        s3.put_object(Bucket=BUCKET, Key="gone", Body=b"x")
        s3.delete_object(Bucket=BUCKET, Key="gone")
        parts = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
        tag = s3.upload_part(Bucket=BUCKET, Key="parts", UploadId=parts, PartNumber=1, Body=b"whole")["ETag"]
        done = {"Parts": [{"ETag": tag, "PartNumber": 1}]}
        s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=parts, MultipartUpload=done)
        process.stop(state)
        s3 = Rehearsal(state_dir=str(state)).client("s3")
        found = {item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
        assert found == {*keys, "parts"}
        for key, content in {**keys, "parts": b"whole"}.items():
            assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == content


def test_a_spot_job_is_billed_less_than_it_ran(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=1", "aws.reclaims=0")
    launcher.submit(plan)
    wait(launcher, plan.handle)
    job = job_of(launcher, plan)
    assert 0 < job["BillableTimeInSeconds"] <= max(1, job["TrainingTimeInSeconds"])
    assert time.time() - job["TrainingEndTime"].timestamp() < 600
