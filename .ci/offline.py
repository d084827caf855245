"""Run a command where loopback is the only network, and report every name that it looks up.

    python .ci/offline.py python -m pytest

The command runs in a network namespace of its own, with a name server on 127.0.0.1 that answers no name and writes each
down. The exit status is the command's, or 1 if it has looked up a name that is not this machine's. Where the system
allows no such namespace, this is said and the command runs as it is. Linux; uses the standard library and unshare.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # of Linux: set an interface's flags
_SERVER = ("127.0.0.1", 53)


def main(command: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as place:
        names = Path(place) / "names"
        inside = [*_unshare(), sys.executable, __file__, "--inside", str(names)]
        probe = _probe([*inside, "true"])
        if probe:
            print(f"offline: no network namespace here ({probe}); the command runs without one", flush=True)
            return subprocess.run(command, check=False).returncode
        names.unlink(missing_ok=True)
        status = subprocess.run([*inside, *command], check=False).returncode
        asked = sorted(set(names.read_text().splitlines())) if names.exists() else []
    outside = [name for name in asked if not _is_of_this_machine(name)]
    print(f"offline: looked up {', '.join(asked) or 'no name'}", flush=True)
    if outside:
        print(f"offline: not of this machine: {', '.join(outside)}", file=sys.stderr)
    return status or int(bool(outside))


def _unshare() -> list[str]:
    """Return the command that makes the namespaces; whoever is not root becomes root in them, to set them up."""
    return ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def _probe(words: Sequence[str]) -> str:
    """Return why a command fails; empty if it does not."""
    if shutil.which(words[0]) is None:
        return f"{words[0]} is not installed"
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""


def _is_of_this_machine(name: str) -> bool:
    here = {"localhost", socket.gethostname().lower(), socket.gethostname().lower().partition(".")[0]}
    return name.partition(".")[0] in here or name.endswith((".localhost", ".127.in-addr.arpa", ".ip6.arpa"))


# --- in the namespace ---


def _inside(names: Path, command: Sequence[str]) -> int:
    """Set up loopback and the name server, run the command, and return its exit status."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(_SERVER)
    resolver = names.with_name("resolv.conf")
    resolver.write_text(f"nameserver {_SERVER[0]}\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)
    threading.Thread(target=_answer, args=(server, names), daemon=True).start()
    return subprocess.run([*_as_before(), *command], check=False).returncode


def _as_before() -> list[str]:
    """Return the command that takes root away again from whoever was not root: some programs refuse it."""
    uid, gid = os.environ.get("OFFLINE_UID", "0"), os.environ.get("OFFLINE_GID", "0")
    back = ["unshare", f"--map-user={uid}", f"--map-group={gid}"]
    return [] if uid == "0" or _probe([*back, "true"]) else back


def _answer(server: socket.socket, names: Path) -> None:
    """Answer every question with "no such name", and write it down."""
    with names.open("a") as file:
        while True:
            question, sender = server.recvfrom(4096)
            file.write(f"{_name_in(question)}\n")
            file.flush()
            header = question[:2] + struct.pack("!HHHHH", 0x8183, 1, 0, 0, 0)  # an answer, recursive, NXDOMAIN
            server.sendto(header + question[12 : _end_of_name(question) + 4], sender)


def _name_in(question: bytes) -> str:
    labels, place = [], 12
    while place < len(question) and (length := question[place]):
        labels.append(question[place + 1 : place + 1 + length].decode("ascii", "replace"))
        place += 1 + length
    return ".".join(labels).lower()


def _end_of_name(question: bytes) -> int:
    """Return the position after the name in a question."""
    place = 12
    while place < len(question) and question[place]:
        place += 1 + question[place]
    return place + 1


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        sys.exit(_inside(Path(sys.argv[2]), sys.argv[3:]))
    os.environ |= {"OFFLINE_UID": str(os.getuid()), "OFFLINE_GID": str(os.getgid())}
    sys.exit(main(sys.argv[1:]))
