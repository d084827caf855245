"""Nothing but loopback is reached, and who tries is noted."""

import ipaddress
import os
import socket
from typing import Any


def _is_here(host: Any) -> bool:
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse(host: Any) -> None:
    if not str(host).endswith(".invalid"):  # a name that no network has: tests of what such errors say use it
        with open(os.environ["REACHED_OUT"], "a") as file:  # noqa: PTH123 (small, and imported by every process)
            file.write(f"{host}\n")
    raise socket.gaierror(socket.EAI_NONAME, "there is no network in tests")


_resolve, _connect = socket.getaddrinfo, socket.socket.connect


def _getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    if not _is_here(host):
        _refuse(host)
    return _resolve(host, *args, **kwargs)


def _connect_here(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
        _refuse(address[0])
    _connect(self, address)


socket.getaddrinfo = _getaddrinfo
socket.socket.connect = _connect_here  # type: ignore[method-assign]
