"""Keep the records of resources in files, so that they survive a restart of the cloud."""

import json
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar, Self

from dogbreed.run_folder import write_json

_writing = threading.Lock()  # threads of jobs, and of requests about their tags, save at the same time


@dataclass
class KeptRecord:
    """A resource, kept as a JSON file in a folder of its own. FILE: the file's name. Other fields are plain data."""

    FILE: ClassVar[str]

    folder: Path

    def save(self) -> None:
        with _writing:
            saved = asdict(self)
            del saved["folder"]
            write_json(self.folder / self.FILE, saved)

    def remove(self) -> None:
        with _writing:
            (self.folder / self.FILE).unlink(missing_ok=True)

    @classmethod
    def load_all(cls, folder: Path) -> list[Self]:
        """Return the records of all resources below a folder, ignoring unknown keys written by other versions."""
        known = {each.name for each in fields(cls)}
        saved = {file.parent: json.loads(file.read_bytes()) for file in sorted(folder.glob(f"*/{cls.FILE}"))}
        return [
            cls(place, **{name: value for name, value in record.items() if name in known})
            for place, record in saved.items()
        ]
