"""How many connections work on a blob, and the threads they work in: never so many that they keep the hash waiting.

Where the network limits, more connections are faster. Where the registry is near, the processors limit, and the hash
most of all, which is one thread: then more connections only take its turns, and have more bytes lie in sockets until no
cache holds them.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from syncd.download.pace import Clock

FEW = 2
"""So many connections work on a blob at least, however much the hash limits."""

_LOOK_EVERY = 0.1  # seconds, at least: what is shorter says little
_LIMITS = 0.8  # of the time that the hash is at work: from here on it limits
_WAITS = 0.5  # and below this it waits for bytes
_YIELDING = 5  # steps on nice's scale


class Crew:
    """``size``: how many connections may work on a blob now: ``most``, until the hash turns out to limit, then half."""

    def __init__(self, most: int, clock: Clock) -> None:
        self.size = most
        self._most = most
        self._clock = clock
        self._hashing = 0.0
        self._since = clock()

    def hashed(self, seconds: float) -> None:
        """The hash was at work for so long, its waits for a processor among it."""
        self._hashing += seconds

    def look(self) -> None:
        """Decide anew by what the hash did since the last decision: whenever it did something, or a segment ends."""
        passed = self._clock() - self._since
        if passed < _LOOK_EVERY:
            return
        share = self._hashing / passed
        if share > _LIMITS:
            self.size = min(self._most, max(FEW, self.size // 2))
        elif share < _WAITS:
            self.size = min(self._most, self.size * 2)
        self._hashing, self._since = 0.0, self._clock()


def yielding_threads(count: int) -> ThreadPoolExecutor:
    """Threads for connections, which come after the hash: it is one thread, and they can go no faster than it."""
    return ThreadPoolExecutor(count, thread_name_prefix="connection", initializer=_yield)


def _yield() -> None:
    """Linux keeps niceness for each thread: setpriority(2), "C library/kernel differences"."""
    here = threading.get_native_id()
    with suppress(PermissionError):  # a service may be forbidden to: then they share evenly
        os.setpriority(os.PRIO_PROCESS, here, min(19, os.getpriority(os.PRIO_PROCESS, here) + _YIELDING))
