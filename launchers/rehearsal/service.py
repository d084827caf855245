"""The protocol of the rehearsal cloud's services: operations by name, persistent state, shutdown.

A service is a class; server.py lists them.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Any, Protocol

from launchers.rehearsal.faults import Faults, Session
from launchers.rehearsal.names import Server


class Refused(Exception):  # noqa: N818 (an answer of AWS, not an internal error)
    """AWS's error response to a request. details: further members of the error, as AWS's model names them."""

    def __init__(self, code: str, text: str, status: int = 400, **details: Any) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text, self.status, self.details = code, text, status, details


def invalid(text: str) -> Refused:
    return Refused("ValidationException", text)


@dataclass(frozen=True)
class Call:
    """One request to an operation. parameters: as boto3 takes them, checked against AWS's own model.

    faults: the faults that the client configured. session: counts of the client's earlier requests. caller: its ARN.
    """

    parameters: Mapping[str, Any]
    faults: Faults
    session: Session
    caller: str = ""


def wait_for_ends(threads: Iterable[Thread]) -> None:
    """Wait for threads that were told to end, as far as that takes less than 45 s for all of them."""
    until = time.monotonic() + 45
    for thread in threads:
        thread.join(timeout=max(0.0, until - time.monotonic()))


Answer = dict[str, Any]
Handler = Callable[[Call], Answer | None]  # returns None if the resource belongs to another service; raises Refused


class Service(Protocol):
    """Implements operations of one or more AWS services, with the state that they share."""

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        """Return the handlers by signing name of the service, and operation: ("sagemaker", "CreateTrainingJob").

        Several services may answer the same operation, each for its own resources, such as ListTags: they are
        called in turn, and moto answers if all of them return None. Their services use AWS's JSON protocol, its query
        protocol as IAM, or, those of rest_calls.py, its REST-JSON protocol.
        """
        ...

    @property
    def active(self) -> bool:
        """Return whether something is still running, so that the idle timeout must not stop the server."""
        ...

    def begin(self, server: Server) -> None:
        """Load the state of an earlier server, before the first request. Its running jobs have ended with it.

        server: the address for commands that call the cloud themselves.
        """
        ...

    def end(self) -> None:
        """Stop everything that is running, because the server shuts down."""
        ...
