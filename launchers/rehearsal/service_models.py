"""AWS's own descriptions of its services, as botocore has them: each is read once in a process."""

from functools import cache
from typing import Any

import botocore.session


@cache
def session() -> Any:
    """Return the session that all share, since a new one looks for all services again."""
    return botocore.session.get_session()


@cache
def service_model(name: str) -> Any:
    """Return the model of a service, by botocore's name of it. Raises UnknownServiceError if there is none."""
    return session().get_service_model(name)
