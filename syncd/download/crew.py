"""How many connections a blob gets, and the threads they work in: never so many that they keep the hash waiting.

The network is rarely what limits a fetch from the host's own registry or its neighbour: the processors are. More
connections than a few only cost there: more switches, and more bytes that lie in sockets until no cache holds them.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from syncd.download.pace import Clock

FEW = 4
"""So many connections begin at once; further ones when the processors have shown that they have time for them."""

LOOK_EVERY = 0.1  # seconds between two looks at the processors
_BUSY = 0.25  # of the processors' time: who serves from beside us needs as much again
_YIELDING = 5  # steps on nice's scale


class Load:
    """Whether this process leaves the processors time."""

    def __init__(self, processor: Callable[[], float], clock: Clock, cores: int) -> None:
        """``processor``: seconds of processor time that the process has used; ``cores``: how many it may use."""
        self._processor = processor
        self._clock = clock
        self._cores = cores
        self._used = processor()
        self._at = clock()

    def light(self) -> bool:
        """Whether it used less than a quarter of their time since it was asked last, or made."""
        used, now = self._processor(), self._clock()
        light = used - self._used < _BUSY * self._cores * (now - self._at)
        self._used, self._at = used, now
        return light


def yielding_threads(count: int) -> ThreadPoolExecutor:
    """Threads for connections, which come after the hash: it is one thread, and they can go no faster than it."""
    return ThreadPoolExecutor(count, thread_name_prefix="connection", initializer=_yield)


def _yield() -> None:
    """Linux keeps niceness for each thread: setpriority(2), "C library/kernel differences"."""
    here = threading.get_native_id()
    with suppress(PermissionError):  # a service may be forbidden to: then they share evenly
        os.setpriority(os.PRIO_PROCESS, here, min(19, os.getpriority(os.PRIO_PROCESS, here) + _YIELDING))
