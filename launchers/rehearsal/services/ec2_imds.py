"""The instance metadata service of a rehearsed machine: an HTTP server of its own, version 2 with tokens.

Its address is in AWS_EC2_METADATA_SERVICE_ENDPOINT, which AWS's SDKs read; on EC2 it is http://169.254.169.254.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from launchers.rehearsal.access import check_trust
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.principals import role_session
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.ec2_answers import iso
from launchers.rehearsal.services.ec2_instance import Instance

_TTL, _TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
_LONGEST_S = 21600
_CREDENTIALS_S = 6 * 3600.0


class Metadata:
    """Serves one instance. It is started at once and ends with `close`.

    skew_s: how far the machine's clock is ahead: AWS's times seem so much earlier there.
    """

    def __init__(self, instance: Instance, skew_s: float = 0.0) -> None:
        self.instance, self.skew_s = instance, skew_s
        self.action_at: float | None = None  # real moment of the interruption that the notice names
        self.recommended_at: float | None = None
        self._tokens: dict[str, float] = {}
        self._lock = threading.Lock()
        self._credentials: tuple[float, dict[str, str]] | None = None
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True, name="metadata").start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        threading.Thread(target=self._close, daemon=True).start()  # its loop takes a moment to end

    def _close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    # --- requests ---

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Return status and text. headers: with names in lower case."""
        options = self.instance.metadata
        if options.get("HttpEndpoint", "enabled") != "enabled":
            return 403, ""
        if method == "PUT" and path == "/latest/api/token":
            ttl = headers.get(_TTL.lower(), "")
            if "x-forwarded-for" in headers:  # a proxy, which must not hand out tokens
                return 403, ""
            if not ttl.isdigit() or not 1 <= int(ttl) <= _LONGEST_S:
                return 400, ""
            token = secrets.token_urlsafe(40)
            with self._lock:
                self._tokens[token] = time.monotonic() + int(ttl)
            return 200, token
        if method != "GET":
            return 405, ""
        token = headers.get(_TOKEN.lower(), "")
        if token or options.get("HttpTokens", "required") == "required":
            with self._lock:
                if self._tokens.get(token, 0.0) < time.monotonic():
                    return 401, ""
        return self._document(path)

    def _document(self, path: str) -> tuple[int, str]:
        place = path.removeprefix("/latest/").rstrip("/")
        found = self._documents()
        text = found[place]() if place in found else None
        if text is not None:
            return 200, text
        below = {name[len(place) + 1 :].partition("/") for name in found if name.startswith(f"{place}/")}
        names = sorted({first + more for first, more, _ in below})
        return (200, "\n".join(names)) if names and path.startswith("/latest/") else (404, "")

    def _documents(self) -> Mapping[str, Callable[[], str | None]]:
        """Return what each path says, which is None if it does not exist at present."""
        instance = self.instance
        values = {
            "ami-id": instance.image,
            "hostname": instance.host,
            "instance-id": instance.id,
            "instance-life-cycle": "spot" if instance.spot else "on-demand",
            "instance-type": instance.type,
            "local-hostname": instance.host,
            "local-ipv4": instance.address,
            "mac": "0e:00:00:00:00:01",
            "placement/availability-zone": instance.zone,
            "placement/region": REGION,
            "public-ipv4": instance.public,
            "security-groups": "\n".join(instance.groups),
            "services/domain": "amazonaws.com",
            "autoscaling/target-lifecycle-state": "InService" if instance.group else None,
            "iam/info": self._info(),
        }
        found: dict[str, Callable[[], str | None]]
        found = {f"meta-data/{name}": partial(_same, text) for name, text in values.items()}
        if instance.role:
            name = instance.role.rpartition("/")[2]
            found["meta-data/iam/security-credentials"] = partial(_same, name)
            found[f"meta-data/iam/security-credentials/{name}"] = self._session
        if instance.metadata.get("InstanceMetadataTags") == "enabled":
            for key, value in instance.tags.items():
                found[f"meta-data/tags/instance/{key}"] = partial(_same, value)
        found["meta-data/spot/instance-action"] = self._action
        found["meta-data/spot/termination-time"] = self._termination
        found["meta-data/events/recommendations/rebalance"] = self._recommendation
        found["dynamic/instance-identity/document"] = self._identity
        if instance.user_data:
            found["user-data"] = partial(_same, instance.script.decode(errors="replace"))
        return found

    def _time(self, real: float) -> str:
        return iso(real - self.skew_s)

    def _action(self) -> str | None:
        if self.action_at is None:
            return None
        return json.dumps({"action": "terminate", "time": self._time(self.action_at)})

    def _termination(self) -> str | None:
        return None if self.action_at is None else self._time(self.action_at)

    def _recommendation(self) -> str | None:
        return None if self.recommended_at is None else json.dumps({"noticeTime": self._time(self.recommended_at)})

    def _info(self) -> str | None:
        if self.instance.profile is None:
            return None
        arn = self.instance.profile
        about = {"Code": "Success", "LastUpdated": self._time(time.time())}
        return json.dumps({**about, "InstanceProfileArn": arn, "InstanceProfileId": "AIPAREHEARSAL"})

    def _session(self) -> str:
        """Return credentials of the profile's role, renewed well before they end."""
        role = self.instance.role
        assert role is not None
        try:
            check_trust(role, {"Service": ["ec2.amazonaws.com"]}, {})
        except Refused:
            text = f"EC2 cannot assume the role {role}. Please see documentation at https://docs.aws.amazon.com/IAM"
            return json.dumps({"Code": "AssumeRoleUnauthorizedAccess", "Message": text})
        with self._lock:
            if self._credentials is None or self._credentials[0] < time.time() + 600:
                found = role_session(role, self.instance.id, self.instance.denied, self.skew_s)
                self._credentials = (time.time() + _CREDENTIALS_S, found)
            until, keys = self._credentials
        about = {"Code": "Success", "LastUpdated": self._time(until - _CREDENTIALS_S), "Type": "AWS-HMAC"}
        about |= {"AccessKeyId": keys["AWS_ACCESS_KEY_ID"], "SecretAccessKey": keys["AWS_SECRET_ACCESS_KEY"]}
        return json.dumps({**about, "Token": keys["AWS_SESSION_TOKEN"], "Expiration": self._time(until)})

    def _identity(self) -> str:
        instance = self.instance
        return json.dumps(
            {
                "accountId": ACCOUNT,
                "architecture": instance.architecture,
                "availabilityZone": instance.zone,
                "imageId": instance.image,
                "instanceId": instance.id,
                "instanceType": instance.type,
                "pendingTime": self._time(instance.launched),
                "privateIp": instance.address,
                "region": REGION,
                "version": "2017-09-30",
            }
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _reply(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, text = metadata.answer(self.command, self.path, headers)
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                if self.command == "PUT" and status == 200:
                    self.send_header(_TTL, headers[_TTL.lower()])
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = _reply  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Drop the message."""

        return Handler


def _same(text: str | None) -> str | None:
    return text
