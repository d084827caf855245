"""Keep the settings of the rehearsal's buckets on disk, such as policies: they survive a restart of the server."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from werkzeug.test import EnvironBuilder

from dogbreed.run_folder import write_json
from launchers.rehearsal.names import REGION

App = Callable[[dict[str, Any], Callable[[str, list[tuple[str, str]]], Any]], Iterable[bytes]]

_ACL_HEADERS = ("HTTP_X_AMZ_ACL", "HTTP_X_AMZ_GRANT_")
# moto reads from it which service is called, and checks nothing else
_SIGNED = f"AWS4-HMAC-SHA256 Credential=a/20200101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=a"


class BucketSettings:
    """moto answers from memory; the file has the request that made each setting, which is sent again at a restart."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        # by bucket and by the query that names the setting, such as `policy`
        self._requests: dict[str, dict[str, dict[str, Any]]] = json.loads(file.read_bytes()) if file.exists() else {}

    def load(self, moto: App) -> None:
        """Send all requests to moto, which has the buckets."""
        for bucket, settings in self._requests.items():
            for query, request in settings.items():
                body = request["body"].encode()
                builder = EnvironBuilder(f"/{bucket}", method="PUT", query_string=query, data=body)
                more = {"HTTP_AUTHORIZATION": _SIGNED, "CONTENT_LENGTH": str(len(body))}
                list(moto({**builder.get_environ(), **request["headers"], **more}, lambda status, headers: None))

    def follow(self, environ: Mapping[str, Any], body: bytes) -> None:
        """Note what a request to a bucket, which moto has answered, has changed."""
        bucket, method = environ["PATH_INFO"].strip("/"), environ["REQUEST_METHOD"]
        query = environ.get("QUERY_STRING", "")
        with self._lock:
            settings = self._requests.setdefault(bucket, {})
            if method == "PUT" and query:
                headers = {name: value for name, value in environ.items() if name.startswith(_ACL_HEADERS)}
                settings[query] = {"body": body.decode(), "headers": headers}
            elif method == "DELETE":
                for each in [query] if query else [*settings]:  # without a query, the bucket itself
                    settings.pop(each, None)
            if not settings:
                del self._requests[bucket]
            write_json(self.file, self._requests)


def is_of_bucket(environ: Mapping[str, Any]) -> bool:
    """Return whether a request to S3 may change the settings of a bucket."""
    path = environ["PATH_INFO"].strip("/")
    return bool(path) and "/" not in path and environ["REQUEST_METHOD"] in ("PUT", "DELETE")
