"""Run one attempt of a run on an EC2 machine: claim it, fetch what it needs, train, save, and end the machine.

The machine needs nobody. Its systemd unit, which user data installs, starts this with the interpreter that imports
torch. Training itself is started by launchers/remote/entry.py, as on every rented machine. This process

- claims the next number of RUN/attempts/ before anything else: only one machine can have it, and after too many of them
  the run ends instead of being interrupted for ever;
- saves the run's folder and log to S3 every few seconds (launchers/remote/sync.py);
- asks the instance metadata service (IMDSv2) whether AWS takes the machine away: a notice ends training with a
  checkpoint, a recommendation to leave causes a checkpoint;
- writes RUN/result.json when the run has ended for good, and only then ends the machine in such a way that its Auto
  Scaling group does not replace it: whatever else ends a machine, the group replaces.

Uses the standard library and boto3.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from launchers.remote import sync
    from launchers.remote.endings import Ending, of_error
    from launchers.remote.instance import Aws
else:  # on the machine the project is not installed, and this file's folder is where Python looks
    import sync
    from endings import Ending, of_error
    from instance import Aws

ATTEMPTS = "attempts/"  # below the run: one object for each attempt
RESULT = "result.json"  # below the run: how it has ended
STOP = "stop.json"  # below the run: there if it is to end

_TICK_S = 0.2
_SAVING_S = 100.0  # from a signal until training is killed: AWS gives two minutes
_BEFORE_DEADLINE_S = 150.0  # in which training ends by itself, before the group ends the machine
_RETRY_S = 600.0  # for which a call that ends the machine is repeated
_ENDING_S = 600.0  # between that call and the end of the machine


def main() -> int:
    bucket, key, home = sys.argv[1:4]
    signals = _Signals()
    attempt = _Attempt(Aws(bucket), key, Path(home), signals)
    try:
        ending = attempt.run()
    except Ending as found:
        ending = found
    except Exception as error:  # whatever it is, a machine that does nothing must not stay
        ending = of_error(error)
    return attempt.end(ending)


class _Signals:
    """Counts signals to stop, which systemd sends when the machine is shut down."""

    def __init__(self) -> None:
        self.received = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received += 1


class _Attempt:
    """One attempt of a run, on this machine.

    key: of the submission in S3, which says what is to be done. home: the folder of this machine that is ours.
    """

    def __init__(self, aws: Aws, key: str, home: Path, signals: _Signals) -> None:
        self._aws, self._key, self._home, self._signals = aws, key, home, signals
        self._base, self._log = home / "ml", home / "log.txt"
        self._poll_s = float(os.environ.get("DOGBREED_POLL_S", "5"))
        self._submission: dict[str, Any] = {}
        self._number = 0
        self._record: dict[str, Any] = {}
        self._sync: sync.Sync | None = None
        self._ahead_s = 0.0  # of this machine's clock, against S3's
        self._lock = threading.Lock()  # of saving

    # --- before training ---

    def run(self) -> Ending:
        found = self._aws.read(self._key)
        if found is None:
            return Ending("failed", f"[bad_config] s3://{self._aws.bucket}/{self._key} does not exist")
        self._submission = found
        self._claim()
        about = ", ".join(str(self._record[name]) for name in ("machine", "type", "zone", "bought"))
        self._say(f"Attempt {self._number} on {about}")
        folder = self._base / "checkpoints"
        self._sync = sync.Sync(self._aws.s3, self._aws.bucket, self._run, folder, self._number, self._encryption)
        try:
            self._sync.take_over()
            self._sync.save_log(self._log)  # what was tried is known, whatever comes
            self._fetch()
            return self._train()
        except sync.Superseded as error:
            return Ending("superseded", str(error))

    @property
    def _run(self) -> str:
        return str(self._submission["run"])

    @property
    def _encryption(self) -> dict[str, str]:
        return dict(self._submission["encryption"])

    def _claim(self) -> None:
        """Take the next number of this run. Raises Ending if the run has ended, or after too many attempts."""
        from botocore.exceptions import ClientError

        submission, ask = self._submission, self._aws.metadata.get
        about = {
            "submission": submission["number"],
            "machine": ask("instance-id"),
            "type": ask("instance-type"),
            "zone": ask("placement/availability-zone"),
            "bought": ask("instance-life-cycle") or "on-demand",
            "beside_usd_per_hour": submission["beside_usd_per_hour"],
            "ends_at": _iso(datetime.fromtimestamp(submission["ends_at"], UTC)),
        }
        # booting and installing are billed as well; after a restart only what comes since then is not in a record yet
        launched = None if self._base.exists() else self._aws.metadata.launched()
        before = timedelta(seconds=_since_start_s())
        while True:
            self._refuse_ended()
            taken = [int(name.removesuffix(".json")) for name in self._aws.names(f"{self._run}/{ATTEMPTS}")]
            number = max(taken, default=0) + 1
            if number > int(submission["after"]) + int(submission["max_attempts"]):
                raise Ending(
                    "failed",
                    f"[interrupted] limits.max_attempts={submission['max_attempts']} attempts were interrupted",
                )
            began = _iso(launched or datetime.now(UTC) - before)
            record = {"attempt": number, **about, "started": began, "ended": None, "why": None}
            try:
                at = self._aws.write(self._attempt_key(number), record, self._encryption, IfNoneMatch="*")
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code not in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                    raise
                if self._aws.read(self._attempt_key(number)) != record:
                    continue  # another machine was faster
                at = datetime.now(UTC)  # it is ours: the answer was lost, and the request was sent again
            self._number = number
            self._ahead_s = time.time() - at.timestamp()
            self._record = {**record, "started": _iso(launched or at - before)}
            return

    def _refuse_ended(self) -> None:
        result = self._aws.read(f"{self._run}/{RESULT}")
        if result is not None and result["submission"] == self._submission["number"]:
            raise Ending("ended before")
        if self._is_to_stop():
            raise Ending("stopped", "[by_user] stopped on request")

    def _is_to_stop(self) -> bool:
        found = self._aws.read(f"{self._run}/{STOP}")
        return found is not None and found["submission"] == self._submission["number"]

    def _attempt_key(self, number: int) -> str:
        return f"{self._run}/{ATTEMPTS}{number:05d}.json"

    def _fetch(self) -> None:
        """Bring code, settings, photos, features and what was saved to where entry.py expects them."""
        submission, inputs = self._submission, self._base / "input" / "data"
        assert self._sync is not None
        if self._base.exists():  # the machine was restarted
            shutil.rmtree(self._base)
        for name in ("input/config", "input/data", "output/data", "model", "code"):
            (self._base / name).mkdir(parents=True, exist_ok=True)
        self._aws.download(submission["code"], inputs / "code")
        (inputs / "spec").mkdir(exist_ok=True)
        self._aws.s3.download_file(self._aws.bucket, f"{self._run}/spec.json", str(inputs / "spec" / "spec.json"))
        photos = submission["photos"]
        if photos and not self._aws.download(photos["prefix"], inputs / "photos", photos["bucket"]):
            raise Ending("failed", f"[bad_config] there are no photos in s3://{photos['bucket']}/{photos['prefix']}")
        if submission["features"]:
            self._aws.download(submission["features"], inputs / "features")
        config = {"hosts": ["127.0.0.1"], "current_host": "127.0.0.1", "network_interface_name": "lo"}
        (self._base / "input/config/resourceconfig.json").write_text(json.dumps(config))
        if self._sync.restore():
            self._say("Continuing from what earlier attempts have saved")

    # --- training ---

    def _train(self) -> Ending:
        save_now = self._home / "save-now"
        save_now.unlink(missing_ok=True)
        environment = {
            **os.environ,
            **self._submission["environment"],
            "SAGEMAKER_BASE_DIR": str(self._base),
            "TRAINING_JOB_NAME": f"{self._submission['group']}-{self._number}",
            "DOGBREED_UPLOADS_S": "0",  # this process saves, also after that one has ended
            "DOGBREED_SAVE_NOW": str(save_now),
        }
        entry = self._base / "input" / "data" / "code" / "remote.py"
        with self._log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, str(entry)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that nothing that it has started outlives it
            )
        why = self._watch(child, save_now)
        status = child.wait()
        superseded = self._save()
        if superseded is not None:
            return superseded
        if status == 0:
            self._pack()
            return Ending("succeeded")
        if why is not None:
            return why
        try:
            return Ending("failed", (self._base / "output" / "failure").read_text())
        except OSError:
            return Ending("failed", f"[unknown] the machine's first program ended with exit status {status}")

    def _watch(self, child: "subprocess.Popen[bytes]", save_now: Path) -> Ending | None:
        """Wait for training to end, and end it when it is time. Return why it was ended; None if it ended by itself."""
        saving, polling = _Every(self._poll_s, self._save), _Every(self._poll_s, lambda: self._poll(save_now))
        why: Ending | None = None
        kill_at = float("inf")
        while child.poll() is None:
            time.sleep(_TICK_S)
            saving.tick()
            polling.tick()
            found = saving.found or polling.found or self._time_is_over()
            if why is None and self._signals.received:
                found = found or Ending("interrupted", "the machine is shut down")
            if why is None and found is not None:
                why, kill_at = found, time.monotonic() + _SAVING_S
                self._say(f"Training ends: {why.reason}")
                child.send_signal(signal.SIGTERM)
            if time.monotonic() > kill_at or (why is not None and why.outcome == "superseded"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
        saving.join()
        polling.join()
        return why

    def _poll(self, save_now: Path) -> Ending | None:
        """Ask whether the machine is taken away, or the run is to end."""
        notice = self._aws.metadata.get("spot/instance-action")
        if notice is not None:
            return Ending("interrupted", f"AWS takes the spot machine away: {notice}")
        if not save_now.exists() and self._aws.metadata.get("events/recommendations/rebalance") is not None:
            self._say("AWS may soon take the spot machine away: saving a checkpoint")
            save_now.touch()
        if self._is_to_stop():
            return Ending("stopped", "[by_user] stopped on request")
        return None

    def _time_is_over(self) -> Ending | None:
        left_s = float(self._submission["deadline"]) - (time.time() - self._ahead_s)
        if left_s > _BEFORE_DEADLINE_S:
            return None
        limit = str(self._submission.get("limit", "launcher.deadline_h"))
        cause = "budget" if "max_usd" in limit else "time_limit"
        return Ending("failed", f"[{cause}] {limit} was exceeded; the progress is saved")

    def _save(self) -> Ending | None:
        assert self._sync is not None
        with self._lock:
            try:
                self._sync.save_log(self._log)
                self._sync.save()
            except sync.Superseded as error:
                return Ending("superseded", str(error))
        return None

    def _pack(self) -> None:
        """Upload the results and the model as SageMaker does: two archives."""
        job = f"{self._run}/output/{self._submission['group']}/output"
        for name, folder in (("output", self._base / "output" / "data"), ("model", self._base / "model")):
            archive = self._home / f"{name}.tar.gz"
            with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
                for path in sorted(folder.iterdir()):
                    packed.add(path, path.name)
            extra = self._encryption
            self._aws.s3.upload_file(str(archive), self._aws.bucket, f"{job}/{name}.tar.gz", ExtraArgs=extra)
            archive.unlink()

    # --- the end ---

    def end(self, ending: Ending) -> int:
        """Record how the attempt has ended, then end the machine. Return the exit status."""
        text = f"Attempt {self._number}: {ending.outcome}" if self._number else f"No attempt: {ending.outcome}"
        self._say(text + (f", {ending.reason}" if ending.reason else ""))
        if ending.outcome in ("interrupted", "superseded"):  # its group replaces the machine, or has done so
            self._try("recording the end", lambda: self._record_end(ending), 5.0)
            if not self._signals.received:
                subprocess.run(["shutdown", "-h", "now"], check=False)
                self._wait(_ENDING_S)
            return 0
        self._try("recording the result", lambda: self._record_result(ending), 60.0)
        self._try("ending the machine", self._terminate, _RETRY_S)
        self._wait(_ENDING_S)
        subprocess.run(["shutdown", "-h", "now"], check=False)
        return 0

    def _record_end(self, ending: Ending) -> None:
        if not self._number:
            return
        self._record |= {"ended": _iso(self._s3_now()), "why": ending.reason or ending.outcome}
        self._aws.write(self._attempt_key(self._number), self._record, self._encryption)
        if self._sync is not None:
            self._sync.save_log(self._log)

    def _record_result(self, ending: Ending) -> None:
        self._record_end(ending)
        if ending.outcome != "ended before" and self._submission:
            result = {
                "submission": self._submission["number"],
                "attempt": self._number or None,
                "outcome": ending.outcome,
                "reason": ending.reason,
                "ended": _iso(self._s3_now()),
            }
            self._aws.write(f"{self._run}/{RESULT}", result, self._encryption)

    def _terminate(self) -> None:
        self._aws.groups.terminate_instance_in_auto_scaling_group(
            InstanceId=self._aws.metadata.get("instance-id"), ShouldDecrementDesiredCapacity=True
        )

    def _s3_now(self) -> datetime:
        return datetime.fromtimestamp(time.time() - self._ahead_s, UTC)

    def _try(self, doing: str, act: Callable[[], None], longest_s: float) -> None:
        """Do something, again and again while it fails, for that long, or until the machine is shut down."""
        until, wait_s, before = time.monotonic() + longest_s, 1.0, self._signals.received
        while True:
            try:
                act()
                return
            except Exception as error:
                print(f"{doing} failed: {error}", flush=True)
                if time.monotonic() + wait_s > until or self._signals.received > before:
                    return
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 30.0)

    def _wait(self, seconds: float) -> None:
        """Wait for the end of the machine, whose shutdown sends a signal, or has sent one."""
        until = time.monotonic() + seconds
        while not self._signals.received and time.monotonic() < until:
            time.sleep(_TICK_S)

    def _say(self, text: str) -> None:
        """Print a line to the console, where launchers/ec2/state.py knows ours by how it begins, and to the log."""
        print(f"dogbreed: {text}", flush=True)
        with contextlib.suppress(OSError), self._log.open("a") as log:
            log.write(f"{text}\n")


class _Every:
    """Does something every few seconds in a thread of its own, and keeps the ending that it returned.

    A failure, such as a network that is gone, is printed; the next time may succeed.
    """

    def __init__(self, seconds: float, act: Callable[[], Ending | None]) -> None:
        self._seconds, self._act = seconds, act
        self._next_at = 0.0
        self._thread: threading.Thread | None = None
        self.found: Ending | None = None

    def tick(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + self._seconds
            self._thread = threading.Thread(target=self._once, daemon=True)
            self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _once(self) -> None:
        try:
            self.found = self.found or self._act()
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)


def _since_start_s(uptime: Path = Path("/proc/uptime")) -> float:
    """Return how long ago the script that installs has begun; 0 if that is not known.

    By the time since boot, because the clock may be set meanwhile.
    """
    try:
        return max(0.0, float(uptime.read_text().split()[0]) - float(os.environ["DOGBREED_BEGAN"]))
    except (OSError, KeyError, ValueError):
        return 0.0


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


if __name__ == "__main__":
    sys.exit(main())
