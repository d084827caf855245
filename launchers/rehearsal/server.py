"""The process of the rehearsal cloud: `python -m launchers.rehearsal.server STATE_DIR IDLE_S`."""

import logging
import os
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from dogbreed.run_folder import write_json
from launchers.rehearsal.bucket_settings import BucketSettings
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.gateway import Gateway, Kept
from launchers.rehearsal.identity_store import IdentityStore
from launchers.rehearsal.images import ImageStore, Repositories
from launchers.rehearsal.names import BUCKET, REGION, SERVER_FILE, Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Service
from launchers.rehearsal.services.alarms import Alarms
from launchers.rehearsal.services.autoscaling import Autoscaling
from launchers.rehearsal.services.builds import Builds
from launchers.rehearsal.services.ec2_groups import Groups
from launchers.rehearsal.services.ec2_instances import Instances
from launchers.rehearsal.services.ec2_network import Network
from launchers.rehearsal.services.ec2_offers import Offers
from launchers.rehearsal.services.ec2_tags import Tags
from launchers.rehearsal.services.ec2_templates import Templates
from launchers.rehearsal.services.endpoint_configs import EndpointConfigs
from launchers.rehearsal.services.endpoint_metrics import Meter
from launchers.rehearsal.services.endpoints import Endpoints
from launchers.rehearsal.services.functions import Functions
from launchers.rehearsal.services.identities import Identities
from launchers.rehearsal.services.kept_logs import KeptLogs
from launchers.rehearsal.services.models import Models
from launchers.rehearsal.services.monitoring import Monitoring
from launchers.rehearsal.services.schedules import Schedules
from launchers.rehearsal.services.training import TrainingJobs
from launchers.rehearsal.services.tuning import TuningJobs


def services(
    state_dir: Path, store: ObjectStore, clock: Clock, alarms: Alarms, identities: IdentityStore
) -> list[Service]:
    """Return the rehearsal's own services, each after those that it acts on; moto answers everything else."""
    images, meter = ImageStore(state_dir / "images"), Meter(clock)
    models = Models(state_dir / "models", store, images)
    configs = EndpointConfigs(state_dir / "endpoint-configs", models)
    logs = KeptLogs(state_dir / "logs")
    endpoints = Endpoints(state_dir / "endpoints", store, images, logs, configs, clock, meter)
    functions = Functions(state_dir / "functions", store, logs, clock)
    scaling = Autoscaling(state_dir / "scaling", endpoints, alarms, identities, clock)
    monitoring = Monitoring(endpoints, meter, alarms, functions.meter, scaling)
    schedules = Schedules(state_dir / "schedules", clock)
    builds = Builds(state_dir / "codebuild", store, images.folder, logs, clock)
    hosting: list[Service] = [models, configs, endpoints, scaling, monitoring, schedules, builds, functions]
    jobs = TrainingJobs(state_dir / "jobs", store)
    tuning = TuningJobs(state_dir / "tuning", store, jobs)
    return [jobs, tuning, Identities(), *hosting, *_ec2(state_dir, clock)]


def _ec2(state_dir: Path, clock: Clock) -> list[Service]:
    place = state_dir / "ec2"
    network = Network(place / "network.json", lambda: instances.used_groups())
    templates = Templates(place / "templates.json", network)
    instances = Instances(place / "instances", network, templates, clock)
    groups = Groups(place / "groups", instances, clock, IdentityStore(state_dir / "iam.json").save)
    return [Offers(), network, templates, instances, Tags(instances), groups]


def main(state_dir: Path, idle_s: float) -> None:
    for noisy in ("werkzeug", "botocore", "boto3"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    store, identities = ObjectStore(state_dir / "s3"), IdentityStore(state_dir / "iam.json")
    clock, repositories = Clock(state_dir / "clock.json"), Repositories(state_dir / "ecr.json")
    alarms = Alarms(state_dir / "alarms.json", clock)
    store.load()
    if not store.has_bucket(BUCKET):
        store.backend.create_bucket(BUCKET, REGION)
        store.follow(BUCKET)
    for kept in (identities, clock, repositories):
        kept.load()
    own = services(state_dir, store, clock, alarms, identities)
    serve(state_dir, own, store, identities, idle_s, {"ecr": repositories, "monitoring": alarms}, clock)


def serve(
    state_dir: Path,
    own: Sequence[Service],
    store: ObjectStore,
    identities: IdentityStore,
    idle_s: float,
    kept: Mapping[str, Kept] | None = None,
    clock: Clock | None = None,
) -> None:
    """Answer requests until SIGTERM or SIGINT, or until there was no request and no job for `idle_s` seconds.

    own: they begin in this order and end in the opposite one. kept, clock: as the gateway takes them.
    """
    key, moto = secrets.token_hex(16), DomainDispatcherApplication(create_backend_app)
    settings = BucketSettings(state_dir / "buckets.json")
    settings.load(moto)
    gateway = Gateway(moto, own, store, settings, identities, key, kept, clock)
    http = make_server("127.0.0.1", 0, gateway, threaded=True, request_handler=_Handler)
    server = Server(f"http://127.0.0.1:{http.port}", key)
    for service in own:
        service.begin(server)
    # a signal handler may call `put` at any moment; `set` of an Event could wait for a lock that this thread holds
    ending: queue.SimpleQueue[int] = queue.SimpleQueue()

    def end(signum: int, frame: FrameType | None) -> None:
        ending.put(signum)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    started = psutil.Process().create_time()
    write_json(state_dir / SERVER_FILE, {"pid": os.getpid(), "process_started": started, **asdict(server)})
    while True:
        with suppress(queue.Empty):
            ending.get(timeout=1.0)
            break
        if any(service.active for service in own):
            gateway.last_request = time.monotonic()
        elif time.monotonic() - gateway.last_request > idle_s:
            break
    (state_dir / SERVER_FILE).unlink(missing_ok=True)
    for service in reversed(own):  # a group that has not ended replaces a machine that has
        service.end()
    http.shutdown()


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"  # clients keep their connections

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Drop the message: errors are logged, requests are not."""


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # do not wait for threads of hanging requests
