"""Prometheus metrics, which SageMaker's detailed observability also scrapes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dogbreed.inference import About

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Holds the metrics of one server, in its own registry, so that two servers can share a process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("dogbreed_requests", "Requests to /invocations, by result", ["code"], registry=registry)
        self.pictures = Counter("dogbreed_pictures", "Pictures classified", registry=registry)
        self.seconds = Histogram(
            "dogbreed_request_seconds",
            "Latency of /invocations from headers to response, by status; 499 if the client disconnected",
            ["status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.parts = Histogram(
            "dogbreed_part_seconds",
            "Time per stage of a successful request: receive, wait, decode, network",
            ["part"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.waiting = Gauge(
            "dogbreed_requests_waiting", "Fully received requests without a response yet", registry=registry
        )
        self.buffered = Gauge("dogbreed_buffered_bytes", "Bytes of request bodies in memory", registry=registry)
        self.connections = Gauge("dogbreed_connections", "Open connections", registry=registry)
        self._model = Gauge(
            "dogbreed_model", "1 for the loaded model", ["name", "version", "precision"], registry=registry
        )

    def serves(self, about: About) -> None:
        self._model.labels(about.name, about.version, about.precision).set(1)

    def text(self) -> bytes:
        return generate_latest(self._registry)
