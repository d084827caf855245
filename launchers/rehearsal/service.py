"""What every service of the rehearsal cloud keeps to: operations by name, state that survives a restart, an end.

A service is a class; server.py has the list of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from launchers.rehearsal.faults import Faults, Session
from launchers.rehearsal.names import Server


class Refused(Exception):  # noqa: N818 (what AWS does, not what went wrong here)
    """AWS's answer to a request that it does not accept."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text, self.status = code, text, status


def invalid(text: str) -> Refused:
    return Refused("ValidationException", text)


@dataclass(frozen=True)
class Call:
    """One request to an operation. parameters: as boto3 takes them, checked against AWS's own model.

    faults: what the client wants to go wrong. session: what this client has done before.
    """

    parameters: Mapping[str, Any]
    faults: Faults
    session: Session


Answer = dict[str, Any]
Handler = Callable[[Call], Answer | None]  # None: the request is about what another service keeps; raises Refused


class Service(Protocol):
    """Some operations of one of AWS's services, or of several, with the state that they share."""

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        """The handlers, by service as requests are signed for it, and operation: ("sagemaker", "CreateTrainingJob").

        Several services may answer the same operation, each for its own resources, as ListTags: they are asked in
        turn. moto answers if all of them return None. The gateway reads and answers AWS's JSON protocol, in which a
        header names the operation, and for these handlers no other yet.
        """
        ...

    @property
    def active(self) -> bool:
        """Whether something is still running, so that the server must not end for want of requests."""
        ...

    def begin(self, server: Server) -> None:
        """Load the state that an earlier server left, before the first request. What that one ran has ended with it.

        server: for commands that call the cloud themselves.
        """
        ...

    def end(self) -> None:
        """End what is running, because the server ends."""
        ...
