"""A port on loopback for a server that is told its number."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """One that no other program is given meanwhile: a socket is bound to it.

    The socket does not listen, and both it and servers set SO_REUSEADDR: so these can bind to the port all the same.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
