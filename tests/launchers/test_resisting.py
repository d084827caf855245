"""One part that resists hides no other: everything else is removed, cancelled or fetched, and each cause is said."""

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from launchers import registry
from launchers.aws import bucket, profiles, roles
from launchers.aws.account import Account
from launchers.aws.layout import Layout
from launchers.aws.stored import Kept, Stored
from launchers.base import CleanupReport, Cloud
from launchers.cli import download, iam, leftovers, verbs
from launchers.deploy import parts
from launchers.deploy.parts import Part
from launchers.ec2 import groups, spot, state
from launchers.ec2.groups import Group
from launchers.ec2.state import Seen
from launchers.sagemaker.training import SageMakerLauncher
from launchers.status import Failures, Handle, LaunchError, Phase, Status
from tests.support.deployments import Client, with_clients
from tests.support.ec2_plans import launched
from tests.support.toy_deployments import ToyDeployments

OLD, LAYOUT = datetime(2026, 1, 1, tzinfo=UTC), Layout("my-bucket", "dogbreed")


class Objects:
    """Stands for a client of S3. denied: keys, and ids of uploads, that cannot be deleted."""

    def __init__(self, keys: Iterable[str], uploads: Iterable[str] = (), denied: Iterable[str] = ()) -> None:
        self.keys, self.uploads, self.denied = set(keys), set(uploads), set(denied)

    def get_paginator(self, method: str) -> Any:
        def paginate(**asked: str) -> list[dict[str, Any]]:
            found = sorted(key for key in self.keys if key.startswith(asked["Prefix"]))
            return [{"Contents": [{"Key": key, "Size": 1, "LastModified": OLD} for key in found]}]

        return SimpleNamespace(paginate=paginate)

    def delete_object(self, **asked: str) -> None:
        self._refuse(asked["Key"])
        self.keys.discard(asked["Key"])

    def head_object(self, **asked: str) -> dict[str, Any]:
        if asked["Key"] not in self.keys:
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")
        return {}

    def list_multipart_uploads(self, **asked: str) -> dict[str, Any]:
        return {"Uploads": [{"Key": "dogbreed/x", "UploadId": each, "Initiated": OLD} for each in sorted(self.uploads)]}

    def abort_multipart_upload(self, **asked: str) -> None:
        self._refuse(asked["UploadId"])
        self.uploads.discard(asked["UploadId"])

    def _refuse(self, name: str) -> None:
        if name in self.denied:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": f"no, not {name}"}}, "Delete")


def test_a_file_or_an_upload_that_resists_in_the_bucket() -> None:
    keys = [f"dogbreed/runs/{name}/spec.json" for name in ("one", "three", "two")]
    s3 = Objects(keys, ["first", "second"], denied=[keys[0], "first"])

    def has_job(run_id: str) -> bool:
        if run_id == "three":
            raise LaunchError("describing the job three was refused")
        return False

    report = bucket.cleanup(with_clients(s3=s3), LAYOUT, has_job, None, True)
    assert s3.keys == {keys[0], keys[1]}  # of which it is not known whether it has a job
    assert s3.uploads == {"first"}
    assert [name.partition("/runs/")[2] or name[-7:] for name in report.removed] == ["two/spec.json", "second)"]
    causes = list(map(str, report.errors))
    for expected, found in zip(["the job three", f"not {keys[0]}", "not first"], causes, strict=True):
        assert expected in found


def test_a_file_of_a_run_that_resists() -> None:
    keys = [f"dogbreed/runs/{name}" for name in ("one/a", "one/b", "one/c", "two/a")]
    s3, failures = Objects(keys, denied=[keys[0]]), Failures()
    kept = Kept(with_clients(s3=s3), LAYOUT)
    old = [Stored("run", name, f"dogbreed/runs/{name}/", 1, OLD) for name in ("one", "two")]
    assert kept.remove(old, failures) == [old[1]]
    assert s3.keys == {keys[0]}
    (error,) = failures.errors
    first, second, *_ = str(error).splitlines()
    assert first == "1 of 3 files of run one are left."
    assert second.startswith("Deleting s3://my-bucket/dogbreed/runs/one/a failed.")


def test_without_a_connection_no_further_file_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them would wait for the connection, and there may be thousands."""
    tried: list[str] = []

    def lost(**asked: str) -> None:
        tried.append(asked["Key"])
        if len(tried) > 1:
            raise EndpointConnectionError(endpoint_url="https://s3.eu-west-1.amazonaws.com/")

    keys = [f"dogbreed/runs/{name}" for name in ("one/a", "one/b", "one/c", "two/a")]
    s3, failures = Objects(keys), Failures()
    monkeypatch.setattr(s3, "delete_object", lost)
    old = [Stored("run", name, f"dogbreed/runs/{name}/", 1, OLD) for name in ("one", "two")]
    assert Kept(with_clients(s3=s3), LAYOUT).remove(old, failures) == []
    assert tried == keys[:2]
    (error,) = failures.errors
    assert str(error).startswith("2 of 3 files of run one are left.")
    assert "AWS cannot be reached" in str(error)


def test_a_group_that_resists_and_one_about_which_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []

    def remove(cloud: Cloud, name: str, files: str | None = None) -> None:
        if name == "dogbreed-b":
            raise LaunchError("Removing the group dogbreed-b failed.")
        removed.append(name)

    def read(cloud: Cloud, layout: Layout, run_id: str) -> Seen:
        if run_id == "a":
            raise LaunchError("Reading s3://my-bucket/a failed.")
        return Seen(layout, run_id, None)

    found = [Group(f"dogbreed-{n}", int(n == "a"), 1, (), {}, OLD, deleting=False) for n in ("a", "b", "c")]
    monkeypatch.setattr(groups, "find", lambda cloud: found)
    monkeypatch.setattr(groups, "templates", lambda cloud: iter([("dogbreed-d", OLD)]))
    monkeypatch.setattr(groups, "remove", remove)
    monkeypatch.setattr(state, "read", read)
    monkeypatch.setattr(spot.bucket, "cleanup", lambda *args: CleanupReport(("x",), ("x",)))
    report = replace(launched("ec2"), cloud=Account(region="eu-west-1")).cleanup(apply=True)
    assert removed == ["dogbreed-c", "dogbreed-d"]
    assert report.left == ("group dogbreed-b, with its template and deadline",)
    assert [str(each)[:16] for each in report.errors] == ["Reading s3://my-", "Removing the gro"]


# --- the command that cleans up ---


def tidies(*found: str, error: LaunchError | None = None) -> Any:
    """Return a launcher that removes what it finds, or cannot even look."""

    def cleanup(**asked: Any) -> CleanupReport:
        if error is not None:
            raise error
        return CleanupReport(found, found[1:], (LaunchError(f"{found[0]} resists.\nTry: again"),))

    return SimpleNamespace(answers=True, cleanup=cleanup, list=lambda: [])


def test_a_launcher_that_cannot_clean_up_keeps_no_other_from_it_and_causes_are_said_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tidies(error=LaunchError("Listing endpoints failed."))
    monkeypatch.setattr(leftovers, "launchers_at", lambda *args, **more: [broken, tidies("one", "two"), tidies("one")])
    assert verbs.main(["cleanup", "local", "--apply"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["left over  one", "removed    two"]
    assert err == "error: Listing endpoints failed.\nerror: one resists.\nTry: again\n"  # once, of two launchers


def test_files_stay_while_it_is_not_known_what_is_in_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied() -> Any:
        raise LaunchError("Listing training jobs failed.")

    blind = SimpleNamespace(answers=True, list=denied, cleanup=lambda **asked: CleanupReport(("part",), ("part",)))
    monkeypatch.setattr(leftovers, "launchers_at", lambda *args, **more: [blind])
    s3 = Objects(["dogbreed/runs/one/a"])
    monkeypatch.setattr(leftovers, "_bucket", lambda args: Kept(with_clients(s3=s3), LAYOUT))
    assert verbs.main(["cleanup", "eu-west-1", "--apply", "--yes"]) == 1
    assert s3.keys
    out, err = capsys.readouterr()
    untold = "Files in the bucket were not examined: it is not known which of them are in use.\n"
    assert (out, err) == ("removed    part\n", f"error: Listing training jobs failed.\n{untold}")


def test_nothing_is_said_to_be_left_over_where_not_everything_could_be_examined() -> None:
    items, args = [leftovers.Item("run", "in use")], argparse.Namespace(apply=False)
    assert list(leftovers._shown(items, args, whole=True))[-1] == "Nothing is left over."
    assert list(leftovers._shown(items, args, whole=False)) == ["in use     run"]


# --- parts of deployments ---


def test_all_parts_of_a_kind_that_resist_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Part("model", f"dogbreed-dogs-{letter}", "dogs") for letter in "ab"]

    def refuse(cloud: Cloud, part: Part) -> None:
        raise LaunchError(f"{part} is in use")

    monkeypatch.setattr(parts, "remove", refuse)
    monkeypatch.setattr(parts, "of_deployment", lambda cloud, name: there)
    assert parts.remove_all(with_clients(), "dogs") == [f"{part} ({part} is in use)" for part in there]


# --- roles ---


def refuses() -> None:
    raise ClientError({"Error": {"Code": "DependencyViolation", "Message": "it is in use"}}, "DeleteSecurityGroup")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_role_that_resists(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    found = [roles.Change(f"remove {name}", lambda name=name: made.append(name)) for name in ("a", "c")]  # type: ignore[misc]
    found.insert(1, roles.Change("remove b", refuses))
    monkeypatch.setattr(roles, "removals", lambda cloud: found)
    assert iam._remove(with_clients(), as_json) == 1
    out, err = capsys.readouterr()
    assert made == ["a", "c"]
    assert json.loads(out) == {"changes": ["remove a", "remove c"]} if as_json else "2 of 3 changes made." in out
    assert err.startswith("error: Trying to remove b failed.")


def test_a_machine_that_is_running_keeps_its_role(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its security group cannot go while it is in it. Without its role it could neither save nor end itself."""
    named = [{"RoleName": "dogbreed-machine"}, {"RoleName": "dogbreed-training"}]
    client = Client(list_roles={"Roles": named}, list_role_policies={"PolicyNames": []})
    client.answers |= {"list_attached_role_policies": {"AttachedPolicies": []}, "list_policies": {"Policies": []}}
    touched: list[str] = []
    steps = [("remove the group", refuses), ("remove the profile", lambda: touched.append("profile"))]
    monkeypatch.setattr(profiles, "removals", lambda cloud: iter(steps))
    assert iam._remove(with_clients(iam=client), False) == 1
    assert not touched
    assert [each["RoleName"] for each in client.asked("delete_role")] == ["dogbreed-training"]
    said = capsys.readouterr().err.splitlines()
    assert "error: Did not remove the profile: what uses it is still there." in said
    assert "error: Did not remove the role /dogbreed/dogbreed-machine: what uses it is still there." in said


# --- cancel and download ---


def test_a_run_that_cannot_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(registry.LAUNCHERS, "toydeploy", "tests.support.toy_deployments.ToyDeployments")
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text("running")
    end = ToyDeployments.cancel

    def cancel(self: ToyDeployments, handle: Handle, *, grace_s: float = 110) -> Status:
        if handle.run_id == "one":
            raise LaunchError("Stopping one failed.\nTry: again")
        return end(self, handle, grace_s=grace_s)

    monkeypatch.setattr(ToyDeployments, "cancel", cancel)
    assert verbs.main(["cancel", *(f"toydeploy://{tmp_path}/{name}" for name in ("one", "two", "three"))]) == 1
    out, err = capsys.readouterr()
    assert [line.rpartition("/")[2] for line in out.splitlines() if "cancelled" in line] == [
        "two: cancelled (by user)", "three: cancelled (by user)"
    ]  # fmt: skip
    assert err == "error: Stopping one failed.\nTry: again\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_machines_that_are_kept_are_all_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def give_back(self: SageMakerLauncher, job: str) -> None:
        asked.append(job)
        if job != "b":
            raise LaunchError(f"Giving back {job} failed.")

    monkeypatch.setattr(SageMakerLauncher, "_keeping", lambda self, handle: ["a", "b", "c"])
    monkeypatch.setattr(SageMakerLauncher, "_give_back", give_back)
    with pytest.raises(LaunchError, match=r"Giving back a failed\.") as caught:
        SageMakerLauncher.at(Account(region="eu-west-1"))._release(Handle("sagemaker", "eu-west-1", "run"))
    assert asked == ["a", "b", "c"]
    assert caught.value.__notes__ == ["Giving back c failed."]


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A search of three jobs that have ended, of which the first cannot be downloaded. Returns those that were."""
    fetched: list[str] = []

    def fetch(handle: Handle) -> None:
        if handle.run_id.endswith("0"):
            raise LaunchError(f"Downloading {handle.run_id} failed.")
        fetched.append(handle.run_id)

    job = SimpleNamespace(status=lambda handle: Status(Phase.SUCCEEDED), download=fetch)
    monkeypatch.setattr(download, "launched_run", lambda note: (job, Handle.parse(note["handle"])))
    for number in range(3):
        folder = tmp_path / "sweeps" / "mine" / f"{number:05d}"
        folder.mkdir(parents=True)
        (folder / "launched.json").write_text(json.dumps({"handle": f"toy://there/job-{number}"}))
    return fetched


def test_a_trial_that_cannot_be_downloaded(
    trials: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert verbs.main(["download", "mine"]) == 1
    assert trials == ["job-1", "job-2"]
    out, err = capsys.readouterr()
    assert "The search in sweeps/mine: 0 of 3 trials have ended" in out
    assert err == "error: Downloading job-0 failed.\n"
