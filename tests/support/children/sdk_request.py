"""Prints the CreateTrainingJob that the SageMaker SDK sends for a plan. Runs in an environment that has the SDK.

A plan's spec, handle and requests come as JSON on stdin. Requests are answered at botocore's edge, and a connection is
an error. Printed as JSON: the job, and the keys of the objects that the SDK uploads.
"""

import json
import socket
import sys
from datetime import UTC, datetime
from typing import Any, NoReturn

import boto3

from launchers.plan import Plan, Request
from launchers.sagemaker.sdk import to_model_trainer
from launchers.spec import RunSpec
from launchers.status import Handle

ROLE = "arn:aws:iam::123456789012:role/MyRole"


def refused(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the SDK wanted to reach a network")


def main() -> None:
    given = json.loads(sys.stdin.read())
    spec = RunSpec.from_json(json.dumps(given["spec"]))
    plan = Plan(spec, Handle.parse(given["handle"]), (), tuple(Request(**each) for each in given["requests"]))
    socket.socket.connect = refused  # type: ignore[method-assign, assignment]
    seen: dict[str, Any] = {"uploads": [], "calls": []}

    def answer(model: Any, params: Any, **_: Any) -> Any:
        seen["calls"].append(f"{model.service_model.service_name} {model.name}")
        match model.name:
            case "CreateTrainingJob":
                seen["job"] = json.loads(params["body"])
                found: dict[str, Any] = {"TrainingJobArn": f"{ROLE.rpartition(':')[0]}:training-job/x"}
            case "DescribeTrainingJob":
                found = {"TrainingJobName": seen["job"]["TrainingJobName"], "TrainingJobStatus": "InProgress"}
            case "PutObject":
                seen["uploads"].append(params["url_path"])
                found = {}
            case "GetRole":
                found = {"Role": {"Arn": ROLE, "AssumeRolePolicyDocument": "%7B%7D"}}
            case "ListBuckets":
                found = {"Buckets": [{"Name": "my-bucket", "CreationDate": datetime.now(UTC)}]}
            case "GetCallerIdentity":
                found = {"Account": "123456789012", "Arn": ROLE}
            case _:
                found = {}
        return type("Http", (), {"status_code": 200, "headers": {}})(), found

    make = boto3.Session.__init__

    def made(self: boto3.Session, *args: Any, **settings: Any) -> None:
        make(self, *args, **settings)
        self.events.register("before-call.*.*", answer)

    boto3.Session.__init__ = made  # type: ignore[method-assign]
    to_model_trainer(plan).train(wait=False, logs=False)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
