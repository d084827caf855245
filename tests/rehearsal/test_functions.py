"""Lambda in the rehearsal cloud: packages that really run, under Lambda's limits and its rules of who may call."""

import base64
import errno
import http.client
import io
import json
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import ACCOUNT, BUCKET, REGION
from tests.support.deployed import refusal
from tests.support.launcher_contract import until

pytestmark = pytest.mark.cloud

IN_PROGRESS = (
    "The operation cannot be performed at this time. An update is in progress for resource: "
    f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:"
)
HANDLER = """
import json, logging, os, sys, time
import boto3
STARTED = time.time()
CALLS = []
def handler(event, context):
    CALLS.append(1)
    what = event.get("do") if isinstance(event, dict) else None
    if what == "sleep": time.sleep(event["s"])
    while what == "wait" and not os.path.exists(event["for"]): time.sleep(0.05)
    if what == "raise": raise ValueError("no such dog")
    if what == "exit": os._exit(3)
    if what == "eat":
        eaten = bytearray(event["mb"] * 2**20).replace(b"\\0", b"x")
        time.sleep(600)
    if what == "large": return "x" * event["mb"] * 2**20
    if what == "whoami": return boto3.client("sts").get_caller_identity()["Arn"]
    if what == "import":
        try:
            __import__(event["name"]); return "there"
        except ImportError as error: return str(error)
    if what == "paths": return [__file__, os.getcwd(), os.environ["TMPDIR"]]
    if what == "log": logging.getLogger().warning("a warning"); print("printed")
    if isinstance(event, dict) and "requestContext" in event:
        if event["rawPath"] == "/teapot":
            return {"statusCode": 418, "headers": {"X-Dog": "boxer"}, "cookies": ["a=1"], "body": "short"}
        return event
    return {"calls": len(CALLS), "answer": os.environ.get("ANSWER", ""), "version": context.function_version,
            "left_ms": context.get_remaining_time_in_millis(), "kind": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
"""


def package(**files: str) -> bytes:
    """Return a zip; `app` is app.py."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.py", text)
    return buffer.getvalue()


@dataclass
class Lambdas:
    """The cloud, a client that does not try again, and a role that functions take."""

    cloud: Rehearsal
    role: str = ""

    def __post_init__(self) -> None:
        made = self.cloud.client("lambda").meta
        credentials = self.cloud._credentials(process.start(self.cloud.state_folder, 3600))
        config = Config(retries={"total_max_attempts": 1}, read_timeout=300)
        self.client = boto3.client(
            "lambda", region_name=REGION, endpoint_url=made.endpoint_url, config=config, **credentials
        )

    def function(self, name: str, code: bytes = b"", **more: Any) -> str:
        """Create a function, and wait until it is active."""
        given = {"Runtime": "python3.13", "Handler": "app.handler", "Role": self.role, "Timeout": 300, **more}
        self.client.create_function(FunctionName=name, Code={"ZipFile": code or package(app=HANDLER)}, **given)
        until(lambda: self.client.get_function_configuration(FunctionName=name)["State"] == "Active")
        return name

    def settle(self, name: str) -> None:
        until(lambda: self.client.get_function_configuration(FunctionName=name)["LastUpdateStatus"] == "Successful")

    def publish(self, name: str) -> str:
        number = str(self.client.publish_version(FunctionName=name)["Version"])
        shown = self.client.get_function_configuration
        until(lambda: shown(FunctionName=name, Qualifier=number)["State"] == "Active")
        return number

    def ask(self, name: str, event: Any = None, **more: Any) -> Any:
        """Invoke a function; its answer, or its error as a string."""
        answer = self.client.invoke(FunctionName=name, Payload=json.dumps(event or {}), **more)
        found = json.loads(answer["Payload"].read())
        return f"{found['errorType']}: {found['errorMessage']}" if "FunctionError" in answer else found

    def log(self, name: str) -> list[str]:
        logs, group = self.cloud.client("logs"), f"/aws/lambda/{name}"
        streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
        return [
            event["message"]
            for stream in streams
            for event in logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"])["events"]
        ]


LOGS = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]


def role(cloud: Rehearsal, name: str, *actions: str, service: str = "lambda.amazonaws.com", **principal: str) -> str:
    iam = cloud.client("iam")
    who = principal or {"Service": service}
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": who, "Action": "sts:AssumeRole"}]}
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    if actions:
        allowed = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=policy)
    return str(arn)


@pytest.fixture(scope="module")
def lambdas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lambdas]:
    place = tmp_path_factory.mktemp("functions") / "state"
    try:
        cloud = Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)
        yield Lambdas(cloud, role(cloud, "functions", *LOGS))
    finally:
        process.stop(place)


@pytest.fixture(scope="module")
def dogs(lambdas: Lambdas) -> str:
    return lambdas.function("dogs")


def test_a_package_runs_cold_then_warm_with_its_role_and_nothing_else_that_is_installed(
    lambdas: Lambdas, dogs: str
) -> None:
    first, second = lambdas.ask(dogs), lambdas.ask(dogs)
    assert (second["calls"], second["version"], second["kind"]) == (first["calls"] + 1, "$LATEST", "on-demand")
    assert 200_000 < second["left_ms"] <= 300_000
    who = lambdas.ask(dogs, {"do": "whoami"})
    assert who == f"arn:aws:sts::{ACCOUNT}:assumed-role/functions/dogs"
    for name in ("dogbreed", "launchers", "torch", "numpy", "pytest"):
        assert lambdas.ask(dogs, {"do": "import", "name": name}) == f"No module named '{name}'"
    file, folder, _ = lambdas.ask(dogs, {"do": "paths"})
    assert Path(folder).name in str(Path(file).resolve().parent)


def test_a_function_is_described_with_its_tags_to_whoever_may_list_them(lambdas: Lambdas, dogs: str) -> None:
    lambdas.client.tag_resource(
        Resource=lambdas.client.get_function_configuration(FunctionName=dogs)["FunctionArn"], Tags={"a": "b"}
    )
    assert lambdas.client.get_function(FunctionName=dogs)["Tags"] == {"a": "b"}
    denied = replace(lambdas.cloud, faults={"denied": ["lambda:ListTags"]}, _clients={})
    found = denied.client("lambda").get_function(FunctionName=dogs)
    assert found["Configuration"]["FunctionName"] == dogs
    assert "Tags" not in found


def test_its_log_has_lambdas_own_lines(lambdas: Lambdas) -> None:
    name = lambdas.function("logged")
    lambdas.ask(name, {"do": "log"})
    answer = lambdas.client.invoke(FunctionName=name, Payload=b'{"do": "log"}', LogType="Tail")
    tail = base64.b64decode(answer["LogResult"]).decode().splitlines()
    assert tail[0].startswith("START RequestId: ")
    assert "printed" in tail
    assert tail[-2].startswith("END RequestId: ")
    assert "Memory Size: 128 MB\tMax Memory Used: " in tail[-1]
    log = lambdas.log(name)
    assert any(line.startswith("[WARNING]") and line.endswith("a warning") for line in log)
    assert any(line.startswith("INIT_START") for line in log)
    assert any("Init Duration: " in line for line in log)
    assert "Init Duration: " not in tail[-1]  # it was warm


def test_what_fails_is_a_function_error_in_lambdas_words(lambdas: Lambdas) -> None:
    name = lambdas.function("limits")
    assert lambdas.ask(name, {"do": "raise"}) == "ValueError: no such dog"
    assert "Runtime.ExitError: RequestId: " in (exited := lambdas.ask(name, {"do": "exit"}))
    assert exited.endswith("Error: Runtime exited with error: exit status 3")
    assert lambdas.ask(name, {"do": "eat", "mb": 200}).endswith("Runtime exited with error: signal: killed")
    late = lambdas.function("late", Timeout=2)
    slow = lambdas.ask(late, {"do": "sleep", "s": 600})
    assert slow.startswith("Sandbox.Timedout: RequestId: ")
    assert slow.endswith("Error: Task timed out after 2.00 seconds")
    large = lambdas.ask(name, {"do": "large", "mb": 7})
    assert large == (
        "Function.ResponseSizeTooLarge: Response payload size exceeded maximum allowed payload size (6291556 bytes)."
    )
    assert any("Status: timeout" in line for line in lambdas.log(late))
    code, _ = refusal(lambdas.client.invoke, FunctionName=name, Payload=b'"' + b"x" * 7 * 2**20 + b'"')
    assert code in ("RequestTooLargeException", "413")
    broken = lambdas.function("broken", package(app="import nothing_like_it"))
    assert lambdas.ask(broken).startswith("Runtime.ImportModuleError: Unable to import module 'app': No module named")
    stuck = lambdas.function("stuck", package(app="import time\ntime.sleep(600)"), Timeout=1)
    assert "Sandbox.Timedout" in lambdas.ask(stuck)  # 10 s of its own, then again in the time of the invocation


def test_concurrency_is_enforced(lambdas: Lambdas, dogs: str, tmp_path: Path) -> None:
    event = json.dumps({"do": "wait", "for": str(tmp_path / "go")})

    def limits(account: int) -> tuple[Any, dict[str, int]]:
        client = replace(lambdas.cloud, faults={"concurrency": account}, _clients={}).client("lambda")
        return client, client.get_account_settings()["AccountLimit"]

    others = 1000 - limits(1000)[1]["UnreservedConcurrentExecutions"]
    lambdas.client.put_function_concurrency(FunctionName=dogs, ReservedConcurrentExecutions=3)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(refusal, lambdas.client.invoke, FunctionName=dogs, Payload=event) for _ in range(4)]
        try:
            until(lambda: any(call.done() for call in calls))  # the one that is too many
        finally:
            (tmp_path / "go").touch()
        found = sorted(call.result() for call in calls)
    assert found[:3] == [("", "")] * 3
    assert found[3] == ("TooManyRequestsException", "Rate Exceeded.")
    few, limit = limits(10)
    assert (limit["ConcurrentExecutions"], limit["UnreservedConcurrentExecutions"]) == (10, 7 - others)
    code, text = refusal(few.put_function_concurrency, FunctionName=dogs, ReservedConcurrentExecutions=3)
    assert code == "InvalidParameterValueException"
    assert "below its minimum value of [100]" in text
    assert limits(1000)[1]["ConcurrentExecutions"] == 1000
    lambdas.client.delete_function_concurrency(FunctionName=dogs)


def test_versions_stay_as_they_were_and_an_alias_moves_with_its_weights(lambdas: Lambdas) -> None:
    name = lambdas.function("cats", Environment={"Variables": {"ANSWER": "one"}})
    first = lambdas.publish(name)
    assert lambdas.client.publish_version(FunctionName=name)["Version"] == first  # nothing has changed
    lambdas.client.create_alias(FunctionName=name, Name="live", FunctionVersion=first)
    two = {"FunctionName": name, "Environment": {"Variables": {"ANSWER": "two"}}}

    def overtaken() -> tuple[str, str]:
        """Publish while an update is in progress, which takes 0.2 s: on a busy machine it may be over by then."""
        lambdas.settle(name)
        lambdas.client.update_function_configuration(**two)
        return refusal(lambdas.client.publish_version, FunctionName=name)

    until(lambda: overtaken() == ("ResourceConflictException", f"{IN_PROGRESS}{name}"))
    lambdas.settle(name)
    second = lambdas.publish(name)
    assert (first, second) == ("1", "2")
    assert lambdas.ask(name, Qualifier="live")["answer"] == "one"
    weights = {"RoutingConfig": {"AdditionalVersionWeights": {second: 0.5}}}
    lambdas.client.update_alias(FunctionName=name, Name="live", **weights)
    answers: set[str] = set()
    until(lambda: bool(answers.add(lambdas.ask(name, Qualifier="live")["answer"]) or len(answers) == 2))
    assert answers == {"one", "two"}
    no_weights: dict[str, Any] = {"RoutingConfig": {"AdditionalVersionWeights": {}}}
    lambdas.client.update_alias(FunctionName=name, Name="live", FunctionVersion=second, **no_weights)
    assert {lambdas.ask(f"{name}:live")["answer"] for _ in range(5)} == {"two"}
    code, _ = refusal(lambdas.client.delete_function, FunctionName=name, Qualifier=second)
    assert code == "ResourceConflictException"
    lambdas.client.delete_function(FunctionName=name, Qualifier=first)
    assert [each["Version"] for each in lambdas.client.list_versions_by_function(FunctionName=name)["Versions"]] == [
        "$LATEST",
        "2",
    ]


def test_provisioned_environments_are_warm_before_the_first_request(lambdas: Lambdas) -> None:
    name = lambdas.function("warm")
    number = lambdas.publish(name)
    lambdas.client.create_alias(FunctionName=name, Name="live", FunctionVersion=number)
    lambdas.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    put, live = lambdas.client.put_provisioned_concurrency_config, {"FunctionName": name, "Qualifier": "live"}
    code, text = refusal(put, **live, ProvisionedConcurrentExecutions=2)
    assert code == "InvalidParameterValueException"
    assert "should not be greater than the reservedConcurrentExecution" in text
    assert put(**live, ProvisionedConcurrentExecutions=1)["Status"] == "IN_PROGRESS"
    until(lambda: lambdas.client.get_provisioned_concurrency_config(**live)["Status"] == "READY")
    first = lambdas.ask(name, Qualifier="live")
    assert (first["kind"], first["calls"]) == ("provisioned-concurrency", 1)
    lambdas.client.delete_provisioned_concurrency_config(**live)
    code, _ = refusal(lambdas.client.get_provisioned_concurrency_config, **live)
    assert code == "ProvisionedConcurrencyConfigNotFoundException"
    lambdas.client.delete_function(FunctionName=name)  # with what it has reserved, which others count


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Role": f"arn:aws:iam::{ACCOUNT}:role/service-role/DogBreedTraining"}, "cannot be assumed by Lambda"),
        ({"Runtime": "python3.8"}, "no longer supported"),
        ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "reserved keys"),
        ({"Environment": {"Variables": {"LONG": "x" * 5000}}}, "4KB limit"),
        ({"Timeout": 901}, "less than or equal to 900"),
        ({"Code": {"ZipFile": b"not a zip"}}, "Could not unzip"),
        ({"Code": {"S3Bucket": BUCKET, "S3Key": "nothing"}}, "NoSuchKey"),
        ({"Architectures": ["mips"]}, "is not one of"),
    ],
)
def test_functions_that_cannot_be_are_refused(lambdas: Lambdas, changed: dict[str, Any], words: str) -> None:
    given = {
        "Runtime": "python3.13",
        "Handler": "app.handler",
        "Role": lambdas.role,
        "Code": {"ZipFile": package(app="")},
    }
    code, text = refusal(lambdas.client.create_function, FunctionName="x", **{**given, **changed})
    assert code in ("InvalidParameterValueException", "ValidationException")
    assert words in text


def elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(40)


def test_a_compiled_module_for_another_machine_is_found(lambdas: Lambdas) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("app.py", HANDLER)
        archive.writestr("fast.cpython-39-aarch64-linux-gnu.so", elf(183))
    given = {"Runtime": "python3.13", "Handler": "app.handler", "Role": lambdas.role}
    code, text = refusal(lambdas.client.create_function, FunctionName="y", Code={"ZipFile": buffer.getvalue()}, **given)
    assert code == "InvalidParameterValueException"
    assert "fast.cpython-39-aarch64-linux-gnu.so is compiled for arm64 and Python 3.9" in text


# --- function URLs ---


def fetched(
    url: str, path: str = "/", *, body: bytes = b"", keys: dict[str, str] | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send a request, signed if there are keys."""
    method = "POST" if body else "GET"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if keys is not None:
        request = AWSRequest(method, url.rstrip("/") + path, data=body, headers=named)
        SigV4Auth(Credentials(*keys.values()), "lambda", REGION).add_auth(request)
        named = dict(request.headers.items())
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)) as connection:
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@pytest.fixture(scope="module")
def callers(lambdas: Lambdas) -> Callable[[str, tuple[str, ...]], dict[str, str]]:
    def keys(name: str, actions: tuple[str, ...]) -> dict[str, str]:
        arn = role(lambdas.cloud, name, *actions, AWS=f"arn:aws:iam::{ACCOUNT}:root")
        found = lambdas.cloud.client("sts").assume_role(RoleArn=arn, RoleSessionName="me")["Credentials"]
        return {key: found[key] for key in ("AccessKeyId", "SecretAccessKey", "SessionToken")}

    return keys


def test_a_function_url_asks_for_both_permissions_and_hands_over_the_request(
    lambdas: Lambdas, callers: Callable[[str, tuple[str, ...]], dict[str, str]]
) -> None:
    name = lambdas.function("web")
    lambdas.client.create_alias(FunctionName=name, Name="live", FunctionVersion=lambdas.publish(name))
    url = lambdas.client.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="AWS_IAM")[
        "FunctionUrl"
    ]
    assert lambdas.client.get_function_url_config(FunctionName=name, Qualifier="live")["FunctionUrl"] == url
    both = callers("both", ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"))
    assert fetched(url)[0] == 403
    assert fetched(url, keys={**both, "SecretAccessKey": "x" * 40})[0] == 403
    for action in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"):
        status, headers, body = fetched(url, keys=callers(action.partition(":")[2], (action,)))
        assert (status, headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
        assert json.loads(body)["Message"].startswith("Forbidden. For troubleshooting Function URL authorization")

    status, _, body = fetched(url, "/a%20b?x=1&x=2&y=", body=b"\xff\xd8\xff", keys=both, Content_Type="image/jpeg")
    event = json.loads(body)
    assert status == 200
    assert (event["version"], event["rawPath"], event["rawQueryString"]) == ("2.0", "/a%20b", "x=1&x=2&y=")
    assert event["queryStringParameters"] == {"x": "1,2", "y": ""}
    assert (event["isBase64Encoded"], base64.b64decode(event["body"])) == (True, b"\xff\xd8\xff")
    assert event["requestContext"]["authorizer"]["iam"]["userArn"].endswith(":assumed-role/both/me")
    assert event["requestContext"]["http"]["method"] == "POST"
    assert "authorization" not in event["headers"]
    event = json.loads(fetched(url, body=b'{"a": 1}', keys=both, Content_Type="application/json", Cookie="a=1; b=2")[2])
    assert (event["isBase64Encoded"], event["body"], event["cookies"]) == (False, '{"a": 1}', ["a=1", "b=2"])

    status, headers, body = fetched(url, "/teapot", keys=both)
    assert (status, headers["x-dog"], headers["set-cookie"], body) == (418, "boxer", "a=1", b"short")
    assert fetched(url, body=b"x" * 7 * 2**20, keys=both, Content_Type="image/jpeg")[0] == 413
    lambdas.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    status, _, body = fetched(url, keys=both)
    assert (status, json.loads(body)["Reason"]) == (429, "ReservedFunctionConcurrentInvocationLimitExceeded")
    lambdas.client.delete_function(FunctionName=name)

    def refused() -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) == errno.ECONNREFUSED

    until(refused)


def test_a_public_url_needs_a_policy_that_says_so(lambdas: Lambdas, dogs: str) -> None:
    url = lambdas.client.create_function_url_config(FunctionName=dogs, AuthType="NONE")["FunctionUrl"]
    assert fetched(url)[0] == 403
    grant = {"FunctionName": dogs, "Principal": "*"}
    lambdas.client.add_permission(
        **grant, StatementId="url", Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE"
    )
    lambdas.client.add_permission(
        **grant, StatementId="function", Action="lambda:InvokeFunction", InvokedViaFunctionUrl=True
    )
    assert len(json.loads(lambdas.client.get_policy(FunctionName=dogs)["Policy"])["Statement"]) == 2
    assert fetched(url)[0] == 200
    lambdas.client.remove_permission(FunctionName=dogs, StatementId="function")
    assert fetched(url)[0] == 403
    lambdas.client.delete_function_url_config(FunctionName=dogs)


def test_a_function_and_its_url_outlive_a_restart_of_the_cloud(lambdas: Lambdas) -> None:
    name = lambdas.function("kept", Tags={"owner": "me"}, Environment={"Variables": {"ANSWER": "still"}})
    url = lambdas.client.create_function_url_config(FunctionName=name, AuthType="AWS_IAM")["FunctionUrl"]
    process.stop(lambdas.cloud.state_folder)
    again = Lambdas(replace(lambdas.cloud, _clients={}), lambdas.role)
    lambdas.cloud, lambdas.client = again.cloud, again.client
    assert lambdas.ask(name)["answer"] == "still"
    found = lambdas.client.get_function(FunctionName=name)
    assert found["Tags"] == {"owner": "me"}
    assert lambdas.client.list_tags(Resource=found["Configuration"]["FunctionArn"])["Tags"] == {"owner": "me"}
    assert lambdas.client.get_function_url_config(FunctionName=name)["FunctionUrl"] == url
    assert fetched(url)[0] == 403


def test_metrics_are_published_by_function_and_alias(lambdas: Lambdas) -> None:
    name = lambdas.function("counted")
    for event in ({}, {"do": "raise"}):
        lambdas.ask(name, event)
    watch = lambdas.cloud.client("cloudwatch")

    def total(metric: str) -> float:
        found = watch.get_metric_statistics(
            Namespace="AWS/Lambda",
            MetricName=metric,
            Dimensions=[{"Name": "FunctionName", "Value": name}],
            StartTime=time.time() - 600,
            EndTime=time.time() + 60,
            Period=60,
            Statistics=["Sum"],
        )
        return float(sum(point["Sum"] for point in found["Datapoints"]))

    until(lambda: total("Invocations") == 2)
    until(lambda: total("Errors") == 1)
