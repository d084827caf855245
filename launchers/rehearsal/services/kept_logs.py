"""Groups of CloudWatch Logs that services write to, with a copy on disk: they outlive endpoints and restarts."""

import json
import shutil
import threading
import time
from pathlib import Path
from urllib.parse import quote, unquote

from launchers.rehearsal.logs import put_log

Events = list[dict[str, object]]


class KeptLogs:
    """The log groups of endpoints and builds. folder: contains a folder for each group and a file for each stream."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def load(self) -> None:
        for file in sorted(self.folder.glob("*/*")):
            with file.open() as lines:
                put_log(unquote(file.parent.name), unquote(file.name), [json.loads(line) for line in lines])

    def add(self, group: str, stream: str, lines: list[str], delay_s: float = 0.0) -> None:
        """Add lines to a stream, which is created if it is missing. delay_s: how late they are visible."""
        events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines]
        if delay_s and events:
            timer = threading.Timer(delay_s, self._put, (group, stream, events))
            timer.daemon = True
            timer.start()
        else:
            self._put(group, stream, events)

    def forget(self, group: str) -> None:
        """Delete the copy of a group that is deleted."""
        with self._lock:
            shutil.rmtree(self.folder / quote(group, safe=""), ignore_errors=True)

    def _put(self, group: str, stream: str, events: Events) -> None:
        with self._lock:
            file = self.folder / quote(group, safe="") / quote(stream, safe="")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as lines:
                lines.writelines(json.dumps(event) + "\n" for event in events)
            put_log(group, stream, events)
