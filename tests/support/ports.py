"""Loopback ports for servers that are to come back on the one they had, or that bind it a moment after it was chosen.

The kernel lends its own choice to any outgoing connection as soon as nobody listens there, and such a connection keeps
it for a minute after its end. These lie below the kernel's, and each of xdist's workers has some of its own.
"""

import itertools
import os
import re
import socket
from pathlib import Path

_KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_COUNT = 20_000
_SHARES = 8
_TRIES = itertools.count(os.getpid())  # of this process: it comes to the same port again only after all others


def listening(host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens on a free port, which is nobody else's until its end."""
    lowest = int(_KERNELS.read_text().split()[0]) - _COUNT
    worker = re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or os.getpid()
    share = _COUNT // _SHARES
    for attempt in itertools.islice(_TRIES, share):
        try:
            return listening_on(lowest + int(worker) % _SHARES * share + attempt % share, host)
        except OSError:  # somebody else's
            continue
    raise AssertionError("no port is free")


def listening_on(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens on this very port. Raise ``OSError`` where another one does."""
    return socket.create_server((host, port), backlog=256)


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with listening() as probe:
        port: int = probe.getsockname()[1]
        return port
