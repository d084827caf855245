"""Compute the features of photos with the frozen part of a network, and skip what was computed before."""

import copy
import hashlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset, Sampler

from dogbreed.distributed import collectives, ranks
from dogbreed.errors import DataError
from dogbreed.features import prints
from dogbreed.features.engine import Engine, EngineError
from dogbreed.features.store import Claim, FeatureStore, RowKey
from dogbreed.loading import PhotoLoader
from dogbreed.preprocess import Preprocess, read_picture
from dogbreed.transforms import Augment, relight

log = logging.getLogger("dogbreed")

_POLL_S = 0.2  # while other processes compute the rest
_LOG_EVERY_S = 30.0  # where no progress bar is shown


class FrozenNetwork(nn.Module):
    """Maps uint8 images [N, 3, H, W] to features [N, ...], normalisation included; it has no trained parameters."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", shift.detach().clone())
        self.network = copy.deepcopy(network)  # it may move to another device and must not take the model along
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(images.float() * self.scale + self.shift))

    def feature_shape(self, image_px: int) -> tuple[int, ...]:
        """Return the shape of one image's features, derived from shapes alone in a third of a second."""
        images = torch.empty(2, 3, image_px, image_px, dtype=torch.uint8, device="meta")
        with torch.no_grad():
            return tuple(copy.deepcopy(self).to("meta")(images).shape[1:])


@dataclass(frozen=True)
class Extraction:
    """Computes views of photos. photos: the path below `root`, by content digest. augment: None for view 0.
    check: raises if the process was asked to stop; a library may have swallowed the signal's exception. prints: where
    the print of each photo goes that is decoded for view 0; None if nobody compares them.

    View 0 is the center crop, as in evaluation. The others are functions of (content, view number) alone, so that they
    are the same in every run, whatever its seed and its other photos.
    """

    root: Path
    photos: Mapping[str, str]
    preprocess: Preprocess
    augment: Augment | None
    workers: int
    check: Callable[[], None]
    prints: FeatureStore | None = None

    def compute(self, rows: Sequence[RowKey], store: FeatureStore, engine: Callable[[], Engine]) -> None:
        """Fill `store` with all of `rows`; wait for rows that other processes are already computing.

        engine: a factory, called only if rows are missing. Raises DataError for a photo that has changed or can no
        longer be read. What was computed before an error or a kill is kept.

        If several processes train a run, each calls this with the same rows: it computes its share of the rows that
        any machine lacks, and the machines exchange their shares.
        """
        lacking = set().union(*collectives.all_gather(store.missing(rows), stage=True))
        if not lacking:
            return
        wanted = [row for row in dict.fromkeys(rows) if row in lacking]
        failed = ""
        try:
            self._compute(wanted[ranks.here().share(len(wanted))], store, engine)
        except EngineError as error:
            failed = str(error)
        if failed := collectives.any_of(failed):  # all processes switch to another engine, or none
            raise EngineError(failed)
        _exchange(wanted, store, self.check)
        if self.prints is not None:
            _exchange(wanted, self.prints, self.check, gaps=True)

    def _compute(self, rows: Sequence[RowKey], store: FeatureStore, engine: Callable[[], Engine]) -> None:
        missing = store.missing(rows)
        if not missing:
            return
        computes = engine()
        self.check()
        began, images, waiting = time.monotonic(), 0, False
        log.info("Computing features of %s photo views (cached for later runs)", f"{len(missing):,}")
        with _progress(len(missing)) as report:
            while missing:
                computed = 0
                for count in self._pass(missing, store, computes):
                    computed += count
                    report(count)
                    self.check()
                images += computed
                still = store.missing(missing)
                report(len(missing) - len(still) - computed)  # by others
                missing = still
                if missing and not computed:
                    if not waiting:
                        log.info("Waiting for another process, which is computing the other %s", f"{len(missing):,}")
                        waiting = True
                    time.sleep(_POLL_S)
                    self.check()
        seconds = time.monotonic() - began
        log.info("Features: %s views, %.0f images/s  %.0f s", f"{images:,}", images / max(seconds, 1e-9), seconds)

    def _pass(self, missing: Sequence[RowKey], store: FeatureStore, engine: Engine) -> Iterator[int]:
        """Compute the rows that no other process computes; yield how many were finished since the last yield."""
        place = {row: n for n, row in enumerate(missing)}
        free = store.claim(missing)
        first = next(free, None)
        if first is None:
            return  # before any worker is started
        claims: deque[Claim] = deque()

        def keys() -> Iterator[int]:
            for claim in itertools.chain([first], free):
                claims.append(claim)
                yield from (place[row] for row in claim.rows)

        views = _Views(self.root, self.photos, self.preprocess, self.augment, missing, prints=self.prints is not None)
        batches = BatchSampler(cast("Sampler[int]", keys()), engine.batch_size, drop_last=False)
        loader = PhotoLoader(views, self.workers, batches)
        part: list[NDArray[np.generic]] = []  # of the first claim
        printed: deque[NDArray[np.generic]] = deque()  # of the rows that are not written yet
        try:
            for batch in loader:
                images, *more = batch
                if self.prints is not None:
                    printed.extend(more.pop().numpy())
                rows = engine(relight(images, *more) if more else images)
                yield len(rows)
                while len(rows):
                    lacking = len(claims[0].rows) - sum(map(len, part))
                    part.append(rows[:lacking])
                    rows = rows[lacking:]
                    if len(part[-1]) == lacking:
                        claims[0].write(np.concatenate(part))
                        done = claims.popleft()
                        part = []
                        if self.prints is not None:
                            _keep(self.prints, {row: printed.popleft() for row in done.rows})
        finally:
            for claim in claims:
                claim.release()


def _keep(store: FeatureStore, rows: Mapping[RowKey, NDArray[np.generic]]) -> None:
    """Write the rows that the store lacks and that no other process writes."""
    for claim in store.claim(list(rows)):
        claim.write(np.stack([rows[row] for row in claim.rows]))


def _exchange(rows: Sequence[RowKey], store: FeatureStore, check: Callable[[], None], *, gaps: bool = False) -> None:
    """Exchange the computed `rows` between machines; the shares are consecutive slices, as in `compute`.

    gaps: whether a machine may lack rows of its share. It sends zeros for them, which no machine writes.
    """
    here = ranks.here()
    if here.nodes == 1:
        return
    each = here.local_world_size
    for node in range(here.nodes):
        begin, end = (len(rows) * rank // here.world_size for rank in (node * each, (node + 1) * each))
        for first in range(begin, end, store.recipe.shard_rows):
            part = rows[first : min(first + store.recipe.shard_rows, end)]
            sends = here.local_rank == 0 and here.rank == node * each
            found = _read(part, store, gaps=gaps) if sends else None
            shape = (len(part), *store.recipe.shape)
            sent = collectives.broadcast_rows(found, node, shape, store.recipe.array_dtype)
            if sent is not None:
                place = {row: n for n, row in enumerate(part) if not gaps or sent[n].any()}
                part = list(place)
                for claim in store.claim(part):
                    claim.write(sent[[place[row] for row in claim.rows]])
            check()
    collectives.barrier()


def _read(rows: Sequence[RowKey], store: FeatureStore, *, gaps: bool) -> NDArray[np.generic]:
    missing = set(store.missing(rows)) if gaps else set()
    have = np.array([row not in missing for row in rows], np.bool_)
    found = np.zeros((len(rows), *store.recipe.shape), store.recipe.array_dtype)
    found[have] = store.read([row for row in rows if row not in missing]).take(np.arange(have.sum()))
    return found


class _Views(Dataset[Any]):
    """Yields (pixels [H, W, 3],) for each row, plus light [3] if the augmentation has it; errors as in PhotoDataset.

    prints: add the photo's print to view 0.
    """

    def __init__(
        self,
        root: Path,
        photos: Mapping[str, str],
        preprocess: Preprocess,
        augment: Augment | None,
        rows: Sequence[RowKey],
        *,
        prints: bool = False,
    ) -> None:
        self.root, self.photos, self.preprocess, self.augment, self.rows = root, photos, preprocess, augment, rows
        self.prints = prints

    def __getitem__(self, place: int) -> Any:
        digest, view = self.rows[place]
        path = self.root / self.photos[digest]
        try:
            content = read_picture(path)
            if hashlib.blake2b(content, digest_size=16).hexdigest() != digest:
                return DataError(f"{path} has changed since it was scanned.\nTry: run the same command again")
            if view == 0:
                crop = self.preprocess.pixels(content)
                return (crop, prints.measure(crop)) if self.prints else (crop,)
            assert self.augment is not None
            pixels, light = self.augment.view(
                content,
                image_px=self.preprocess.image_px,
                interpolation=self.preprocess.interpolation,
                key=(int(digest, 16), view),
            )
            return (pixels, light) if self.augment.jitter else (pixels,)
        except (DataError, OSError) as error:
            return DataError(f"{path}: {error}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar with images/s and the time left on a terminal; elsewhere log a line every 30 seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_terminal and ranks.here().first:
        with Progress(
            TextColumn("Features"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]} images/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task("", total=total, speed="-")

            def draw(count: int) -> None:
                bar.advance(task, count)
                speed = bar.tasks[0].speed
                bar.update(task, speed=f"{speed:.0f}" if speed else "-")

            yield draw
        return
    began = logged = time.monotonic()
    done = 0

    def log_line(count: int) -> None:
        nonlocal done, logged
        done, now = done + count, time.monotonic()
        if now - logged > _LOG_EVERY_S:
            speed = done / (now - began)
            left = (total - done) / max(speed, 1e-9)
            log.info("%s of %s, %.0f images/s, %.0f s left", f"{done:,}", f"{total:,}", speed, left)
            logged = now

    yield log_line
