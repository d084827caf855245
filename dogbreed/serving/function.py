"""Answer the events of AWS Lambda with the server's app: requests to a function URL, and direct calls.

The app is the server's own: page, API, limits, errors. Lambda takes the place of the server's connections, and gives a
process one request at a time.
"""

import asyncio
import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES

from dogbreed.errors import ArtifactError
from dogbreed.hardware import give_back_freed_memory
from dogbreed.inference import Predictor
from dogbreed.serving import settings
from dogbreed.serving.app import Application
from dogbreed.serving.event import BODY_BYTES, MODEL_SHA256, MODEL_URI
from dogbreed.serving.event import event as as_event
from dogbreed.serving.metrics import Metrics
from dogbreed.serving.problems import Problem
from dogbreed.serving.service import Service

log = logging.getLogger("dogbreed.serving")

_TEXT = [*DEFAULT_TEXT_MIME_TYPES, "application/problem+json", "image/svg+xml"]  # all else is sent as base64


class Function:
    """Answers events with a model that is loaded once, when Lambda starts the process.

    handler = Function.of(os.environ, Path(__file__).with_name("model"))
    """

    def __init__(self, predictor: Predictor, given: settings.Settings) -> None:
        application = Application(Metrics(), given.limits, given.root_path)
        self._service = application.service = Service(predictor, given.limits, application.metrics)
        application.service.warm_up()
        application.metrics.serves(predictor.about)
        app = application.asgi()

        async def counted(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            scope["state"] = {"no_room": False}  # Lambda counts the connections
            await app(scope, receive, send)

        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)  # the adapter would make one
        self._adapter = Mangum(counted, lifespan="off", text_mime_types=_TEXT)

    @classmethod
    def of(cls, environ: Mapping[str, str], model: Path) -> "Function":
        """Load the model, from S3 if the environment names one there. model: the folder of one in the package.

        Raises ArtifactError for a model that is damaged or another one than the environment says.
        """
        logging.getLogger().setLevel(logging.INFO)  # Lambda's own handler writes what is logged
        logging.getLogger("mangum").setLevel(logging.WARNING)
        given = settings.read([str(model)], {"DOGBREED_MAX_BODY_BYTES": str(BODY_BYTES), **environ})
        with tempfile.TemporaryDirectory() as scratch:
            if uri := environ.get(MODEL_URI):
                model = _fetched(uri, environ.get(MODEL_SHA256, ""), Path(scratch, "model.tar.gz"))
            predictor = Predictor.from_artifact(model, max_accuracy_loss=given.max_accuracy_loss, unlike=given.unlike)
        made = cls(predictor, given)
        give_back_freed_memory()
        about = predictor.about
        log.info("Ready: %s %s, version %s", about.name, about.precision, about.version)
        return made

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        """Return the answer to one event, as function URLs want it.

        event: a request to a function URL (payload format 2.0), or what POST /invocations takes as JSON.
        """
        asyncio.set_event_loop(self._loop)  # in which the adapter runs the request; another may have been set since
        try:
            answer = self._adapter(_request(event, str(getattr(context, "aws_request_id", ""))), context)
        except Exception:  # no request: the app itself answers whatever it is asked
            log.exception("Not an event of a function URL")
            return _refused("The event is neither a request of a function URL nor the JSON of POST /invocations.")
        answer["headers"].pop("connection", None)  # of Lambda's, not of this process
        return answer

    def close(self) -> None:
        """End its threads. Lambda does without: it ends the process."""
        self._service.close()
        asyncio.set_event_loop(None)
        self._loop.close()


def _request(event: Any, request_id: str) -> dict[str, Any]:
    """Return an event as that of a function URL, with the id of Lambda's own log for a request that has none."""
    if not (isinstance(event, dict) and "requestContext" in event):
        body, as_json = json.dumps(event).encode(), {"content-type": "application/json"}
        event = as_event("POST", "/invocations", body, as_json)
    return {**event, "headers": {"x-request-id": request_id, **(event.get("headers") or {})}}


def _refused(detail: str) -> dict[str, Any]:
    response = Problem("bad_http", detail).response()
    return {
        "statusCode": response.status_code,
        "headers": dict(response.headers),
        "body": bytes(response.body).decode(),
        "isBase64Encoded": False,
    }


def _fetched(uri: str, sha256: str, path: Path) -> Path:
    """Download the model, and compare its SHA-256 (hexadecimal) with the one that the function was deployed with."""
    import boto3  # of Lambda's runtime; a model in the package does without

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    boto3.client("s3").download_file(bucket, key, str(path))
    with path.open("rb") as file:
        seen = hashlib.file_digest(file, "sha256").hexdigest()
    if seen != sha256:
        raise ArtifactError(f"The SHA-256 of {uri} is {seen}, and this function was deployed for {sha256 or 'none'}.")
    return path
