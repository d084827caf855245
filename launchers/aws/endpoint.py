"""Tell AWS from a rehearsal cloud that a variable left in the shell points to."""

import http.client
from functools import lru_cache
from urllib.parse import urlsplit

from dogbreed import commands
from launchers.status import Cause, LaunchError

_OF_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".aws.dev")
_HEADER = "X-Dogbreed-Rehearsal"  # as in launchers/rehearsal/names.py; a test holds them equal
_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
_WAIT_S = 20.0  # for a rehearsal cloud to answer, on a busy machine


def refuse_rehearsal(url: str) -> None:
    """Raise LaunchError if the endpoint of a client is a rehearsal cloud, which it is asked. Any other one is kept."""
    if not (urlsplit(url).hostname or "").endswith(_OF_AWS) and _is_rehearsal(url):
        raise LaunchError(
            f"AWS_ENDPOINT_URL makes {url} stand for AWS, but that is a rehearsal cloud on this machine.\n"
            + commands.one_per_line([commands.shell("unset", *_VARIABLES), "add aws=rehearsal to the command"]),
            Cause.BAD_CONFIG,
        )


@lru_cache
def _is_rehearsal(url: str) -> bool:
    """Ask without credentials, and without the proxies of the environment: a rehearsal is on a loopback address."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_WAIT_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().getheader(_HEADER) is not None
    except (OSError, http.client.HTTPException):  # what needs it reports that it cannot be reached
        return False
    finally:
        connection.close()
