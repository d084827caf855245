"""The fork server of the tests: imports what runs need when it is first asked, forks, and says how each ended.

Its arguments: the file number of the socket that it listens on, that of a pipe into which something is written when
the tests end, and room for the command lines of its children. It computes nothing: a process that has used torch's
threads cannot fork children that use them.
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path

import forking

MOST_FILES = 64  # that a child is given
MODULES = (
    "torch",
    "torch.distributed",
    "torch.onnx._internal.exporter._core",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2",
    "lightning",
    "lightning.pytorch.loggers",
    "timm",
    "networkx",
    "onnx",
    "onnxscript",
    "hydra",
    "hydra._internal.core_plugins.basic_launcher",
    "hydra._internal.core_plugins.basic_sweeper",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "optuna.importance",
    "optuna.storages._rdb.models",
    "optuna.storages._rdb.storage",
    "optuna.terminator",
    "optuna.visualization",
    "plotly.graph_objects",
    "plotly.io",
    "plotly.io.json",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "alembic.command",
    "alembic.config",
    "boto3",
    "onnxruntime",
    "psutil",
    "rich.progress",
    "PIL.JpegImagePlugin",
    "simplejpeg",
    "jinja2",
    "moto.moto_server.werkzeug_app",
    "moto.backends",
)


def main() -> int:
    """Fork children until the tests end. Return 1 if a child could not be started, else 0."""
    status = 0
    listener = socket.socket(fileno=int(sys.argv[1]))
    selector = selectors.DefaultSelector()
    ended, woken = socket.socketpair()
    for end in (ended, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the tests
    for source in (listener, ended, int(sys.argv[2])):
        selector.register(source, selectors.EVENT_READ)
    children: dict[int, socket.socket] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
            elif key.fileobj is ended:
                ended.recv(4096)
                _tell(children)
            elif isinstance(key.fileobj, socket.socket):
                selector.unregister(key.fileobj)
                try:
                    _answer(key.fileobj, children)
                except Exception:  # one bad request must not stop the server
                    traceback.print_exc()
                    status = 1
                    key.fileobj.close()
            else:
                return status  # the tests have ended


def _answer(connection: socket.socket, children: dict[int, socket.socket]) -> None:
    """Read one request, fork the child, and send back its pid.

    The message is empty if the client was killed after connecting and before sending.
    """
    message, files, _, _ = socket.recv_fds(connection, forking.MESSAGE_BYTES, MOST_FILES)
    try:
        if not message:
            connection.close()
            return
        _import()
        start = json.loads(message)
        reading, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            forking.become(forking.Start(**{**start, "program": forking.Program(**start["program"])}), files, ready)
        os.close(ready)
        # before that, who is told of the child would kill a group of processes that does not exist yet
        os.read(reading, 1)
        os.close(reading)
    finally:
        for file in files:
            os.close(file)
    with contextlib.suppress(OSError):
        connection.send(struct.pack("i", pid))
    children[pid] = connection


def _tell(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            break
        connection = children.pop(pid)
        with contextlib.suppress(OSError):  # who asked has ended
            connection.send(struct.pack("i", status))
        connection.close()


def _import() -> None:
    if "torch" not in sys.modules:
        for name in MODULES:
            __import__(name)
        _read_configs()
        gc.freeze()  # what is shared with the children stays so
        sys.stdout.flush()
        sys.stderr.flush()


def _read_configs() -> None:
    """Parse the YAML files that a command is composed of: children find them parsed (quick_runs.py)."""
    import hydra
    from omegaconf import OmegaConf

    for conf in (Path(hydra.__file__).parent / "conf", Path(__file__).parents[3] / "conf"):
        for path in conf.rglob("*.yaml"):
            OmegaConf.load(path)


if __name__ == "__main__":
    sys.exit(main())
