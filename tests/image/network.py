"""A network that has nothing but its own loopback: for servers on the ports that the shipped files name."""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # unshare(2)
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914  # netdevice(7)
_IFF_UP = 1
_REQUEST = struct.Struct("16sH")

BEFORE = ("unshare", "--net", sys.executable, "-I", str(Path(__file__).resolve()))
"""What a command is started by to have such a network."""


@contextmanager
def entered(pid: int) -> Iterator[None]:
    """This thread, and those that it starts, are in the network of a process; a socket stays where it was made."""
    with Path("/proc/thread-self/ns/net").open("rb") as home, Path(f"/proc/{pid}/ns/net").open("rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    # os.setns is there since Python 3.12 only.
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _up() -> None:
    """Switch its loopback on: a new network has it off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        _, flags = _REQUEST.unpack(fcntl.ioctl(asked, _SIOCGIFFLAGS, _REQUEST.pack(b"lo", 0)))
        fcntl.ioctl(asked, _SIOCSIFFLAGS, _REQUEST.pack(b"lo", flags | _IFF_UP))


if __name__ == "__main__":
    _up()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - it becomes the command
