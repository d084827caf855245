"""Say how an attempt on an EC2 machine ends. Uses the standard library and botocore."""

import errno
import urllib.error

_PERMANENT = {  # codes of AWS's errors that every machine would meet, and their causes
    **dict.fromkeys(("AccessDenied", "AccessDeniedException", "403", "Forbidden"), "permission"),
    **dict.fromkeys(("NoSuchBucket", "NoSuchKey", "404"), "bad_config"),
}


class Ending(Exception):  # noqa: N818 (not always an error)
    """How an attempt ends. outcome: succeeded, failed or stopped, which end the run; or interrupted, which does not."""

    def __init__(self, outcome: str, reason: str = "") -> None:
        super().__init__(outcome, reason)
        self.outcome, self.reason = outcome, reason


def of_error(error: Exception) -> Ending:
    """Return how an error ends the attempt: what another machine may not meet is left to another machine."""
    from botocore.exceptions import BotoCoreError, ClientError

    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        if code in _PERMANENT:
            return Ending("failed", f"[{_PERMANENT[code]}] {text}")
        return Ending("interrupted", text)
    if isinstance(error, BotoCoreError | urllib.error.URLError | ConnectionError | TimeoutError):
        return Ending("interrupted", text)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Ending("failed", f"[{'quota' if full else 'unknown'}] {text}")
