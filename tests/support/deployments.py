"""Deployments as a command would ask for them, without a cloud."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from launchers.aws.account import Account
from launchers.deploy import front, request
from launchers.deploy.launcher import DeployLauncher
from launchers.payload.model import SentModel
from launchers.spec import Deployed, Deployment, RunSpec

MODEL = SentModel(
    "/runs/abcd/model.tar.gz",
    "a" * 64,
    95_000_000,
    "0123456789ab",
    133,
    "resnet50",
    224,
    "runs/abcd",
    {"test/acc": 0.8},
)


def launcher(**settings: Any) -> DeployLauncher:
    kinds = {"role": "hosting", "expiry_role": "scheduler", "build_role": "image-build", "lambda_role": "lambda"}
    kinds["front_role"] = "front"
    roles = {key: f"dogbreed-{name}" for key, name in kinds.items()}
    given = {"bucket": "my-bucket", "owner": "me", **roles}
    return DeployLauncher(Account(region="eu-west-1"), **{**given, **settings})


def spec(
    before: Deployed | None = None, *, name: str = "dogs", reservable: int | None = None, **changes: Any
) -> RunSpec:
    deployment = Deployment(replace(MODEL, **changes), "b" * 64, before, "c" * 64, reservable)
    return RunSpec(
        run_id=name,
        overrides=("launcher=deploy", f"name={name}", "checkpoint=runs/abcd"),
        config={},
        folder=f"/deployments/{name}",
        created_at="2026-11-24T12:00:00+00:00",
        commit=None,
        dirty=False,
        deployment=deployment,
    )


class Client:
    """Stands for a client of boto3. calls: what was asked. answers: by method; errors among them are raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.calls = answers, list[tuple[str, dict[str, Any]]]()

    def __getattr__(self, method: str) -> Any:
        def call(**asked: Any) -> Any:
            self.calls.append((method, asked))
            answer = self.answers.get(method, {})
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def get_paginator(self, method: str) -> Any:
        return SimpleNamespace(paginate=lambda **asked: [getattr(self, method)(**asked)])

    def asked(self, method: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters in self.calls if name == method]


def with_clients(**clients: Client) -> Account:
    """Return an account with these clients, by service."""
    cloud = Account(region="eu-west-1")
    cloud._clients.update(clients)
    return cloud


def in_service(**settings: Any) -> Deployed:
    """Return the endpoint that these settings lead to, as it is found again."""
    made, asked = launcher(**settings), spec()
    ends = "2026-11-24T13:00:00+00:00" if made.ttl_hours else ""
    facts = request.wanted_facts(made, asked)
    if made.front:
        facts |= {"front": front.words(made.reserved, made.provisioned)}
    return Deployed(
        request.revision(made, asked),
        facts,
        ends,
        made.ttl_hours,
        scaling=str(made.scaled or ""),
        front=front.revision(made, asked),
        reserved=made.reserved if made.front else None,
        warm=made.provisioned,
        alarms=request.wanted_alarms(made, asked),
    )
