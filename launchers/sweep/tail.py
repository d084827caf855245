"""Follow the lines that another process adds to a file."""

from pathlib import Path


class Tail:
    """Prints the lines that are added to a file from now on."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, path.stat().st_size if path.exists() else 0

    def copy(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self.place)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self.place += len(whole)
        if whole:
            print(whole.decode(errors="replace"), end="", flush=True)
