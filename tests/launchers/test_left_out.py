"""What a launcher may not read it does not leave out in silence: the action that is missing is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dogbreed import commands
from launchers.aws import tags
from launchers.aws.account import Account
from launchers.aws.layout import Layout
from launchers.aws.results import is_of_another, is_of_tuner
from launchers.deploy import images, revisions, smoke, waiting
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.on_lambda import change
from launchers.ec2 import groups, spot
from launchers.ec2.groups import Activity
from launchers.ec2.spot import Ec2Launcher
from launchers.runs.find import resume_command
from launchers.runs.launched import remember
from launchers.sagemaker import training
from launchers.sagemaker.training import SageMakerLauncher
from launchers.spec import RunSpec, SearchOutput
from launchers.status import Cause, Handle, LaunchError, Phase, Status
from tests.support.deployments import Client, with_clients
from tests.support.plans import planned

PLAN = planned("gpu")
SEARCH = replace(PLAN.spec, output=SearchOutput("mine", 30), overrides=("hpo=optuna", "hpo.study=mine"))
RUN = Layout("my-bucket", "dogbreed").run("a-run")


def denied(action: str, operation: str = "Any") -> ClientError:
    text = f"User: me is not authorized to perform: {action} on resource: it because nobody allows it"
    return ClientError({"Error": {"Code": "AccessDenied", "Message": text}}, operation)


@pytest.mark.parametrize("asks", [is_of_tuner, lambda cloud, run: is_of_another(cloud, run, Ec2Launcher(cloud))])
def test_settings_that_may_not_be_read_are_not_taken_for_a_leftover(asks: Callable[..., bool]) -> None:
    with pytest.raises(LaunchError, match="s3:GetObject"):
        asks(with_clients(s3=Client(get_object=denied("s3:GetObject"))), RUN)
    missing = ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
    assert not asks(with_clients(s3=Client(get_object=missing)), RUN)


def test_the_end_of_a_log_that_may_not_be_read_is_why(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Client(describe_log_streams=denied("logs:DescribeLogStreams"), get_log_events=denied("logs:GetLogEvents"))
    launcher = DeployLauncher(with_clients(logs=logs))
    monkeypatch.setattr(DeployLauncher, "logs", lambda self, handle: waiting.lines(self.cloud, "a-group"))
    (line,) = launcher._tail(Handle("deploy", "eu-west-1", "dogs"))
    assert "logs:DescribeLogStreams" in line
    assert "logs:GetLogEvents" in images._build_log(launcher.cloud, {"logs": {"groupName": "a", "streamName": "b"}})


def test_the_console_of_a_machine_that_is_gone_is_empty_and_one_that_may_not_be_read_is_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched = Activity("Failed", "", "Launching a new EC2 instance: i-0123456789abcdef0")
    monkeypatch.setattr(groups, "activities", lambda cloud, name: [launched])
    (line,) = groups.console_tail(with_clients(ec2=Client(get_console_output=denied("ec2:GetConsoleOutput"))), "a")
    assert "ec2:GetConsoleOutput" in line
    gone = ClientError({"Error": {"Code": "InvalidInstanceID.NotFound"}}, "GetConsoleOutput")
    assert groups.console_tail(with_clients(ec2=Client(get_console_output=gone)), "a") == ()


def test_an_update_whose_alarms_see_nothing_of_ours_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = list[int]()

    def refused(*_: Any) -> None:
        asked.append(1)
        raise LaunchError("Not permitted: sagemaker:InvokeEndpoint", Cause.PERMISSION)

    monkeypatch.setattr(smoke, "invoke", refused)
    monkeypatch.setattr(revisions, "_SMOKE_EVERY_S", 0.0)
    send = revisions.traffic(Account(region="eu-west-1"), "dogs")
    for _ in range(3):
        send(Status(Phase.UPDATING))
    assert (len(asked), caplog.text.count("sagemaker:InvokeEndpoint")) == (3, 1)


def test_a_rollback_that_was_done_says_so_although_its_version_may_not_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = {tags.SERVED: "1"}
    live = SimpleNamespace(phase=Phase.IN_SERVICE, name="dogbreed-dogs", live="2", arn="arn:dogs", tags=served)
    monkeypatch.setattr(change.served, "find", lambda cloud, name: live)
    monkeypatch.setattr(change.served, "versions", lambda cloud, function: ["2", "1"])
    cloud = with_clients(**{"lambda": Client(invoke=denied("lambda:InvokeFunction"))})
    with pytest.raises(LaunchError, match="lambda:InvokeFunction") as caught:
        change.rollback(DeployLauncher(cloud), Handle("deploy", "eu-west-1", "dogs"))
    assert caught.value.__notes__ == ["All requests get to version 1 now."]


# --- what resumes a search ---


def command(*more: str) -> str:
    """Return what resumes the search, as it is typed in the present folder."""
    return commands.train("-m", "hpo=optuna", "hpo.study=mine", *more)


def read_as(found: RunSpec | LaunchError) -> Callable[..., RunSpec]:
    def read(*_: Any) -> RunSpec:
        if isinstance(found, LaunchError):
            raise found
        return found

    return read


def of_sagemaker(handle: Handle, *, begun: bool) -> str:
    job: Any = SimpleNamespace(study="mine", trainings=int(begun), location=RUN)
    return SageMakerLauncher(Account(region="eu-west-1"))._again(job, handle)


def of_ec2(handle: Handle, *, begun: bool) -> str:
    seen: Any = SimpleNamespace(location=RUN, attempts=(1,) * begun)
    return Ec2Launcher(Account(region="eu-west-1"))._again(seen, handle)


@pytest.mark.parametrize(("again", "module"), [(of_sagemaker, training), (of_ec2, spot)])
def test_a_search_goes_on_elsewhere_with_what_it_has_left(
    again: Callable[..., str], module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handle = Handle("sagemaker" if module is training else "ec2", "eu-west-1", "mine-1")
    monkeypatch.setattr(module, "read_spec", read_as(SEARCH))
    assert again(handle, begun=False) == command()
    assert again(handle, begun=True) == f"python -m launchers download {handle}\nand then: {command()}"
    home = tmp_path / "home" / "sweeps" / "mine"
    remember(home, replace(PLAN, spec=SEARCH, handle=handle), {})
    monkeypatch.setattr(module, "read_spec", read_as(replace(SEARCH, folder=str(home))))
    assert again(handle, begun=True) == command(f"hydra.sweep.dir={home}")  # in another folder of the same machine
    monkeypatch.chdir(tmp_path / "home")
    assert again(handle, begun=True) == command()


@pytest.mark.parametrize(("again", "module"), [(of_sagemaker, training), (of_ec2, spot)])
def test_a_search_whose_settings_may_not_be_read_says_so_instead_of_its_command(
    again: Callable[..., str], module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "read_spec", read_as(LaunchError("Not permitted: s3:GetObject")))
    assert again(Handle("ec2", "eu-west-1", "mine-1"), begun=True).endswith("Not permitted: s3:GetObject")


def test_the_folder_of_a_search_is_resumed_by_its_command_and_that_of_a_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, spec in (("sweeps/mine", SEARCH), ("runs/a", PLAN.spec)):
        remember(tmp_path / name, replace(PLAN, spec=spec), {})
    assert resume_command(tmp_path / "sweeps" / "mine") == command()
    assert resume_command(tmp_path / "runs" / "a") == commands.train("resume=runs/a")
