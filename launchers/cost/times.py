"""Estimate how long a run takes, on one instance or on several that train it together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dogbreed.speedup import Step, speed_up
from dogbreed.workload import Work, Workload

if TYPE_CHECKING:
    from launchers.cost.prices import Instance

START_S = 180.0  # to start a machine, pull its image and install missing packages
# A step of a search's trial on cached features, its overhead outside the epochs included: 1,044 steps, 10 epochs of
# dogImages, took 3.3 s on two Zen 4 cores (python -m dogbreed.benchmark sweep). Other machines are assumed to be alike.
_TRIAL_STEP_S = 3.2e-3
_AT_ONCE = 8  # trials of a search that share features, at most; one for each CPU


@dataclass(frozen=True)
class Times:
    """The times of a run's parts. features_s: the one pass that computes cached features; 0 if none are cached."""

    features_s: float
    epochs_s: float

    @property
    def total_s(self) -> float:
        return START_S + self.features_s + self.epochs_s


def times(workload: Workload, row: "Instance", instances: int) -> Times | None:
    """Estimate how long the parts of a run take; None for an unknown network or an unknown number of photos."""
    per_photo, train, rest = workload.per_photo, workload.train_photos, workload.other_photos
    if per_photo is None or train is None or rest is None:
        return None
    per_s = row.gflops * instances
    features_s = 0.0
    if cached := workload.caches_features:
        rows = workload.views * train + rest
        # each machine computes its share, then receives the others' shares
        shares = rows * per_photo.feature_bytes * (instances - 1) / instances / row.network.bytes_per_s
        features_s = rows * per_photo.frozen_gflop / per_s + shares
    step, processes = _step(workload, per_photo, row), max(1, row.gpus)
    steps = train / (workload.batch_size * processes)  # of one instance
    training_s = steps * step.compute_s / speed_up(step, row.network, instances, per_machine=processes)
    validation_s = rest * (per_photo.trained_gflop + (0 if cached else per_photo.frozen_gflop)) / per_s
    return Times(features_s, workload.epochs * (training_s + validation_s))


def search_s(workload: Workload, row: "Instance", trials: int) -> float | None:
    """Estimate how long a search in one job takes; None if `times` is None. workload: that of one trial.

    It counts the start, one pass over the photos if trials share their features, then all trials, none of them pruned:
    one after the other, or, if they share features, as many at once as hpo.parallel has by default.
    """
    found = times(workload, row, 1)
    if found is None or workload.train_photos is None:
        return None
    trial_s = found.epochs_s
    if workload.trains_heads and workload.caches_features:  # the matrix product is the least of it
        steps = workload.epochs * workload.train_photos / workload.batch_size
        trial_s = steps * _TRIAL_STEP_S / min(row.vcpus, _AT_ONCE)
    return START_S + found.features_s + trials * trial_s


def speed(workload: Workload, row: "Instance", instances: int) -> float | None:
    """Return how many times as fast training steps are on several instances as on one; None for an unknown network."""
    per_photo = workload.per_photo
    if per_photo is None:
        return None
    return speed_up(_step(workload, per_photo, row), row.network, instances, per_machine=max(1, row.gpus))


def _step(workload: Workload, per_photo: Work, row: "Instance") -> Step:
    flops_per_s = row.gflops * 1e9 / max(1, row.gpus)
    return per_photo.step(workload.batch_size, flops_per_s, cached=workload.caches_features)
