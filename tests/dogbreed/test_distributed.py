"""Several processes train one run, as on several machines: real processes of one thread each, on loopback."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import awaited
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dogbreed import checkpoints
from dogbreed.data import DogBreedData, EpochOrder, TrainLoader
from dogbreed.distributed import collectives
from dogbreed.distributed.heartbeat import Heartbeat
from dogbreed.distributed.ranks import PeerLost, Ranks
from tests.support.launcher_contract import until
from tests.support.photos import make_photos, tiny_settings
from tests.support.ports import reserved_port
from tests.support.project import ROOT
from tests.support.runs import SAME, close, history, weights

pytestmark = pytest.mark.cloud

# frozen BatchNorm, or none at all
HEAD_ON_PHOTOS = ("model.trainable=head", "features.mode=off")
HEAD_ON_FEATURES = ("model.trainable=head", "features.mode=cached")
ALL_WITHOUT_BATCHNORM = ("model.backbone=test_convnext", "model.trainable=all")


class Team:
    """Processes of one run, by rank. words: what Python is called with for each. nodes: machines that they act as, each
    with a cache of its own. absent: the rank of a process that is not started.
    """

    def __init__(
        self,
        place: Path,
        words: Sequence[Sequence[str]],
        *,
        nodes: int = 1,
        absent: int | None = None,
        **environment: str,
    ) -> None:
        world = len(words)
        place.mkdir(parents=True, exist_ok=True)
        self.reserved = ExitStack()
        self.port = self.reserved.enter_context(reserved_port())
        each = world // nodes
        self.logs = [place / f"rank-{rank}.log" for rank in range(world)]
        files = [log.open("ab") for log in self.logs]
        self.processes = {
            rank: subprocess.Popen(
                [sys.executable, *words[rank]],
                cwd=place,
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "WORLD_SIZE": str(world),
                    "LOCAL_RANK": str(rank % each),
                    "LOCAL_WORLD_SIZE": str(each),
                    "GROUP_RANK": str(rank // each),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(self.port),
                    "TORCHELASTIC_RUN_ID": "team",
                    "GLOO_SOCKET_IFNAME": "lo",
                    "OMP_NUM_THREADS": "1",
                    "DOGBREED_CACHE": str(place / "cache" / str(rank // each)),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=files[rank],
                stderr=subprocess.STDOUT,
            )
            for rank in range(world)
            if rank != absent
        }
        for file in files:
            file.close()

    def ended(self) -> list[int]:
        """Return the exit statuses; a process that hangs fails this."""
        return [process.wait(240) for process in self.processes.values()]

    def until_said(self, text: str) -> None:
        """Wait for a text in the log of process 0, while all run."""

        def is_said() -> bool:
            assert all(process.poll() is None for process in self.processes.values()), self.said()
            return text in self.said()

        until(is_said, timeout_s=240, every_s=0.05)

    def said(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()

    def finish(self) -> None:
        assert not any(self.ended()), "\n".join(self.said(rank) for rank in self.processes)

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.reserved.close()


@contextmanager
def team_of(
    place: Path, words: Sequence[Sequence[str]], *, nodes: int = 1, absent: int | None = None, **environment: str
) -> Iterator[Team]:
    started = Team(place, words, nodes=nodes, absent=absent, **environment)
    try:
        yield started
    finally:
        started.kill()


def team(
    place: Path, world: int, *words: str, nodes: int = 1, absent: int | None = None, **environment: str
) -> AbstractContextManager[Team]:
    return team_of(place, [training_in(place, *words)] * world, nodes=nodes, absent=absent, **environment)


def training_in(place: Path, *words: str) -> list[str]:
    return [str(ROOT / "train.py"), f"hydra.run.dir={place / 'run'}", "run_id=team", *words]


def train(place: Path, world: int, *words: str, nodes: int = 1) -> Path:
    with team(place, world, *words, nodes=nodes) as started:
        started.finish()
    return place / "run"


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 training photos, not a multiple of a batch; 10 and 7 for evaluation, not multiples of 4."""
    root = make_photos(tmp_path_factory.mktemp("ranks") / "photos", train=25, valid=4, test=3)
    for split in ("valid", "test"):
        for extra in sorted((root / split).glob("*/000.jpg"))[1:]:
            extra.unlink()
    return root


def settings(photos: Path, batch_size: int, *more: str) -> list[str]:
    return [*tiny_settings(photos), *SAME, "trainer.max_epochs=3", f"data.batch_size={batch_size}", *more]


@pytest.mark.parametrize(
    "how", [HEAD_ON_PHOTOS, HEAD_ON_FEATURES, ALL_WITHOUT_BATCHNORM], ids=["photos", "features", "all"]
)
def test_two_and_four_processes_train_what_one_does(tmp_path: Path, many_photos: Path, how: tuple[str, ...]) -> None:
    one = train(tmp_path / "one", 1, *settings(many_photos, 16, *how))
    close(train(tmp_path / "two", 2, *settings(many_photos, 8, *how)), one)
    close(train(tmp_path / "four", 4, *settings(many_photos, 4, *how), nodes=2), one)
    assert sorted(path.name for path in (tmp_path / "four" / "run").iterdir()) == sorted(
        path.name for path in one.iterdir()
    )


@given(
    size=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    world=st.integers(1, 9),
    epoch=st.integers(0, 3),
)
def test_each_photo_is_trained_on_at_most_once_and_by_one(size: int, batch_size: int, world: int, epoch: int) -> None:
    orders = []
    for rank in range(world):
        order = EpochOrder(size, batch_size * world, seed=5, among=Ranks(rank, world, rank, world))
        order.set_epoch(epoch)
        orders.append(order)
    shares = [list(order.shares()) for order in orders]
    assert len({len(steps) for steps in shares}) == 1
    alone = EpochOrder(size, batch_size * world, seed=5, among=Ranks())
    alone.set_epoch(epoch)
    for step, whole in enumerate(alone.shares()):
        assert np.concatenate([steps[step] for steps in shares]).tolist() == whole.tolist()
        sizes = [len(steps[step]) for steps in shares]
        assert max(sizes) - min(sizes) <= 1
    trained = Counter(int(index) for steps in shares for share in steps for index in share)
    assert max(trained.values()) == 1
    assert size - sum(trained.values()) < min(size, batch_size * world)


@given(count=st.integers(0, 300), world=st.integers(1, 70))
def test_shares_are_even_and_cover_everything(count: int, world: int) -> None:
    parts = [list(range(count))[Ranks(rank, world, rank, world).share(count)] for rank in range(world)]
    assert [index for part in parts for index in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_tail_that_is_left_out_differs_from_epoch_to_epoch() -> None:
    order = EpochOrder(103, 20, seed=0)
    left_out = []
    for epoch in range(5):
        order.set_epoch(epoch)
        left_out.append(frozenset(range(103)) - {int(index) for share in order.shares() for index in share})
    assert len(set(left_out)) == 5


def test_loaders_of_all_processes_together_evaluate_each_photo_once(
    many_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[torch.Tensor] = []
    for rank in range(4):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 4), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", 4)):
            monkeypatch.setenv(name, str(value))
        data = DogBreedData(many_photos, batch_size=2, image_px=32, workers=0)
        assert isinstance(data.train_dataloader(), TrainLoader)
        whole += [images for images, _ in data.val_dataloader()]
    monkeypatch.undo()
    alone = [images for images, _ in DogBreedData(many_photos, image_px=32, workers=0).val_dataloader()]
    assert torch.equal(torch.cat(whole), torch.cat(alone))


# --- going on ---


def interrupted(place: Path, world: int, words: Sequence[str], *, at_epoch: int, nodes: int = 1) -> Path:
    """Send SIGTERM to all once an epoch is done; they must end with status 143 and a checkpoint."""
    with team(place, world, *words, nodes=nodes, **{awaited.AFTER: str(at_epoch)}) as started:
        started.until_said(f"epoch {at_epoch}/")
        for process in started.processes.values():
            process.send_signal(signal.SIGTERM)
        assert started.ended() == [143] * world, started.said()
    assert (place / "run" / "checkpoints" / "last.ckpt").exists()
    return place / "run"


def test_an_interrupted_run_resumes_bit_for_bit_with_as_many_processes(tmp_path: Path, many_photos: Path) -> None:
    words = [*tiny_settings(many_photos), "trainer.max_epochs=5", "model.dropout=0.5", "data.batch_size=4"]
    whole = train(tmp_path / "whole", 2, *words)
    folder = interrupted(tmp_path / "parts", 2, words, at_epoch=2)
    with team(tmp_path / "parts", 2, f"resume={folder}") as started:
        started.finish()
        assert "Resuming from" in started.said()
    assert history(folder) == history(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(folder).items())


def test_each_process_draws_its_own_dropout(tmp_path: Path, many_photos: Path) -> None:
    words = [*tiny_settings(many_photos), "trainer.max_epochs=1", "model.dropout=0.5"]
    checkpoint = checkpoints.read(train(tmp_path, 2, *words) / "checkpoints" / "last.ckpt")
    ours, theirs = (state["torch"] for state in checkpoint["callbacks"]["ResumePoint"]["random"])
    assert not torch.equal(ours, theirs)
    with team(tmp_path, 2, f"resume={tmp_path}/run") as again:  # a finished run is that for all of them
        again.finish()
        assert "This run is already finished; nothing to do." in again.said()


@pytest.mark.parametrize("then", [1, 3])
def test_other_numbers_of_processes_keep_the_step_and_say_what_changes(
    tmp_path: Path, many_photos: Path, then: int
) -> None:
    epochs = "trainer.max_epochs=5"
    whole = train(tmp_path / "whole", 1, *settings(many_photos, 16, *HEAD_ON_PHOTOS, epochs))
    words = settings(many_photos, 8, *HEAD_ON_PHOTOS, epochs)
    folder = interrupted(tmp_path / "parts", 2, words, at_epoch=2)
    with team(tmp_path / "parts", then, f"resume={folder}") as started:
        started.finish()
        assert f"Resuming a run of 2 processes with {then}: a step still has 15 photos" in started.said()
    close(folder, whole)


# --- what goes wrong ---


def train_for_long(photos: Path, timeout_s: int) -> list[str]:
    return [*tiny_settings(photos), "trainer.max_epochs=2000", f"ranks.timeout_s={timeout_s}", "test=false"]


def test_a_process_that_has_gone_on_from_a_barrier_and_ended_is_not_lost_there() -> None:
    group = collectives._Group.__new__(collectives._Group)
    all_reached, ended = iter([False, True, True]), PeerLost("Process 1 has ended", consequence=True)
    group.heartbeat = cast(
        Any, SimpleNamespace(reach_barrier=lambda: lambda: next(all_reached), lost=lambda *_: ended, behind=list)
    )
    group.barrier()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_all_of_them(tmp_path: Path, many_photos: Path, victim: int) -> None:
    with team(tmp_path, 2, *train_for_long(many_photos, 600)) as started:
        started.until_said("epoch 2/")
        started.processes[victim].kill()
        assert started.ended()[1 - victim] == 1
        assert f"Process {1 - victim} of 2 has lost another process" in started.said(1 - victim)


NO_PROGRESS = 15  # seconds: others of the run may stand still meanwhile, but not for so long


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, many_photos: Path) -> Iterator[dict[str, Team]]:
    """Runs of which one process stands still or never comes. All at once: for most of the time they wait for it."""
    place, words = tmp_path_factory.mktemp("waiting"), train_for_long(many_photos, NO_PROGRESS)
    with ExitStack() as stack:
        teams = {"1 never joins": stack.enter_context(team(place / "2", 2, *words, absent=1))}
        for victim, when, text in ((0, "meeting", "Data: "), (0, "training", "epoch 2/"), (1, "training", "epoch 2/")):
            started = stack.enter_context(team(place / f"{when} {victim}", 3, *words))
            started.until_said(text)
            started.processes[victim].send_signal(signal.SIGSTOP)
            teams[f"{victim} hangs, {when}"] = started
        yield teams


def test_a_process_that_hangs_is_named(waiting: dict[str, Team]) -> None:
    started = waiting["1 hangs, training"]
    assert [started.processes[rank].wait(240) for rank in (0, 2)] == [1, 1]
    both = started.said(0) + started.said(2)  # one of them may see the other end first
    # where this machine stands still, others may be named as well
    assert re.search(rf"process (0, )?1(, 2)? hangs: no progress for {NO_PROGRESS} s", both), both


@pytest.mark.parametrize("when", ["meeting", "training"])
def test_process_0_which_holds_the_store_can_hang_as_well(when: str, waiting: dict[str, Team]) -> None:
    started = waiting[f"0 hangs, {when}"]
    assert [started.processes[rank].wait(240) for rank in (1, 2)] == [1, 1]
    assert f"process 0 hangs: no progress for {NO_PROGRESS} s" in started.said(1) + started.said(2)


WAITS_WHERE_NO_EXCEPTION_REACHES = """
import os, signal, sys, time
from pathlib import Path
from dogbreed.distributed import collectives, heartbeat
heartbeat._GRACE_S = 2.0
joined = Path(sys.argv[1], "joined")
with collectives.joined(60.0) as here:  # on a busy machine one may import torch much later than the other
    collectives._group.heartbeat._timeout_s = 4.0
    if here.first:
        while not joined.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGSTOP)
    joined.touch()
    time.sleep(1000)
"""


def test_a_process_that_would_wait_forever_is_ended_by_its_own_watchdog(tmp_path: Path) -> None:
    words = ["-c", WAITS_WHERE_NO_EXCEPTION_REACHES, str(tmp_path)]
    with team_of(tmp_path, [words] * 2, PYTHONPATH=str(ROOT)) as started:
        assert started.processes[1].wait(240) == 1
        assert "process 0 hangs: no progress for 4 s" in started.said(1)


def test_a_process_that_never_joins_is_not_waited_for_forever(waiting: dict[str, Team]) -> None:
    started = waiting["1 never joins"]
    assert started.ended() == [1]
    assert "not all processes joined at 127.0.0.1:" in started.said(0)
    assert "process 1 is missing" in started.said(0)


def listens(pid: int, port: int) -> bool:
    connections = psutil.Process(pid).net_connections("tcp")
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)


@pytest.mark.parametrize("waits", [0, 1])
def test_a_signal_is_handled_while_waiting_for_other_processes(waits: int, tmp_path: Path, many_photos: Path) -> None:
    words = [*tiny_settings(many_photos), "ranks.timeout_s=600"]
    with team(tmp_path, 2, *words, absent=1 - waits) as started:
        process = started.processes[waits]
        if waits == 0:
            until(lambda: listens(process.pid, started.port))
        else:
            with socket.create_server(("127.0.0.1", started.port)) as instead_of_process_0:
                instead_of_process_0.settimeout(240)
                instead_of_process_0.accept()[0].close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 128 + signal.SIGTERM
        assert "Stopped by SIGTERM" in started.said(waits)


def test_machines_with_other_photos_are_refused(tmp_path: Path, many_photos: Path) -> None:
    other = make_photos(tmp_path / "other", train=25, valid=4, test=4)
    words = [training_in(tmp_path / "team", *tiny_settings(photos)) for photos in (many_photos, other)]
    with team_of(tmp_path / "team", words, nodes=2) as started:
        assert started.ended() == [1, 1]
        assert "those of 1 differ from those of process 0" in started.said(0)


def test_an_error_in_all_processes_ends_them_at_once(tmp_path: Path, many_photos: Path) -> None:
    with team(tmp_path, 2, *tiny_settings(many_photos), "monitor=val/nonsense") as started:
        assert started.ended() == [1, 1]
        assert "monitor=val/nonsense is not a validation metric" in started.said(0)


def test_more_processes_than_photos_are_refused(tmp_path: Path) -> None:
    few = make_photos(tmp_path / "few", classes=2, valid=1, test=1)
    with team(tmp_path, 3, *tiny_settings(few)) as started:
        assert started.ended() == [1, 1, 1]
        assert "A split has 2 photos for 3 processes" in started.said(0)


@pytest.mark.slow
def test_killed_or_stopped_at_random_thirty_times_they_always_end(tmp_path: Path, many_photos: Path) -> None:
    """Afterwards the run resumes, with the result of an uninterrupted run."""
    words = [*tiny_settings(many_photos), "trainer.max_epochs=60", "ranks.timeout_s=15", "save.every_s=0.3"]
    whole = train(tmp_path / "whole", 2, *words)
    rng, place = random.Random(6), tmp_path / "parts"
    folder = place / "run"
    for _ in range(30):
        again = [f"resume={folder}"] if (folder / "spec.json").exists() else words
        with team(place, 2, *again) as started:
            time.sleep(rng.uniform(0.0, 12.0))
            victim = rng.choice(list(started.processes.values()))
            if victim.poll() is None:
                victim.send_signal(rng.choice([signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM]))
            others = [process for process in started.processes.values() if process is not victim]
            for process in others:
                process.wait(120)  # a process that hangs would fail this
            assert all(psutil.pid_exists(process.pid) is False or process.returncode is not None for process in others)
    with team(place, 2, *([f"resume={folder}"] if (folder / "spec.json").exists() else words)) as started:
        started.finish()
    assert history(folder) == history(whole)


@pytest.mark.parametrize("given_up", [True, False])
def test_a_port_that_another_program_has_is_waited_for_a_while(given_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        monkeypatch.setattr("dogbreed.distributed.heartbeat._TAKEN_S", 600.0 if given_up else 0.3)
        heartbeat = Heartbeat(Ranks(0, 2), 600.0)
        try:
            if given_up:
                until(lambda: "in use" in heartbeat._refusal)
                other.close()
                until(lambda: heartbeat._store is not None)
            else:
                with pytest.raises(PeerLost, match=f"another program on this machine uses port {port}"):
                    heartbeat.store()
        finally:
            heartbeat.end(gone=True)
