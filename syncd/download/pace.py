"""How fast, how patient: the rate limit, the wait before another try, and which connections to give up on."""

import asyncio
import statistics
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Clock = Callable[[], float]  # seconds, monotonic
Random = Callable[[], float]  # 0 <= x < 1

_SLOW_FACTOR = 5
_SLOW_AFTER = 5.0  # seconds
_FEWEST_SIBLINGS = 2
_REMEMBERED = 16
_BURST = 0.05  # seconds


class RateLimit:
    """At most ``rate`` bytes a second through all connections that share it; None is no limit."""

    def __init__(self, rate: float | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._free_at = clock()

    async def spend(self, size: int) -> None:
        """Wait until ``size`` more bytes may pass."""
        if self._rate is None:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - _BURST) + size / self._rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


def delay(failures: int, *, base: float, cap: float, asked: float | None, random: Random) -> float:
    """Seconds before the try that follows ``failures`` (1 or more) in a row: doubling up to ``cap``, with jitter.

    ``asked`` is the server's Retry-After in seconds: never sooner than that.
    """
    jittered = min(cap, base * 2.0 ** min(failures - 1, 30)) * (0.5 + random() / 2)
    return max(jittered, asked or 0.0)


@dataclass(slots=True, eq=False)
class Connection:
    """What the watch knows of one connection. Times in seconds by the monotonic clock, sizes in bytes."""

    started: float
    waiting_since: float | None
    moved: int = 0
    scope: asyncio.Timeout | None = None
    verdict: str | None = None
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def sample(self, now: float) -> None:
        """Remember where it stood: called by the watch at each tick."""
        self._samples.append((now, self.moved))
        while len(self._samples) > 1 and self._samples[1][0] <= now - _SLOW_AFTER:
            self._samples.popleft()

    def recent_rate(self, now: float) -> float | None:
        """Bytes a second over the last seconds; None while it is too young to say."""
        if now - self.started < _SLOW_AFTER or not self._samples:
            return None
        then, moved = self._samples[0]
        return (self.moved - moved) / (now - then) if now > then else None

    def drop(self, reason: str) -> None:
        """End its wait for bytes: the reader gets a TimeoutError, once its last write has returned."""
        if self.verdict is not None:
            return  # on its way out already: its last write has not returned yet
        self.verdict = reason
        if self.scope is not None:
            self.scope.reschedule(asyncio.get_running_loop().time())


class Siblings:
    """The connections of one blob: who stalls, and who crawls far below the others."""

    def __init__(self, stall_timeout: float) -> None:
        self._stall_timeout = stall_timeout
        self._finished: deque[float] = deque(maxlen=_REMEMBERED)

    def finished(self, connection: Connection, now: float) -> None:
        """A segment that came through: its rate is a measure for the others."""
        if connection.moved and now > connection.started:
            self._finished.append(connection.moved / (now - connection.started))

    def laggards(self, connections: Iterable[Connection], now: float) -> list[tuple[Connection, str]]:
        """Those to drop, each with the reason."""
        active = list(connections)
        rates = {id(one): one.recent_rate(now) for one in active}
        found: list[tuple[Connection, str]] = []
        for one in active:
            if one.waiting_since is not None and now - one.waiting_since > self._stall_timeout:
                found.append((one, f"no byte for {self._stall_timeout:g} s"))
                continue
            rate = rates[id(one)]
            others = [other for key, other in rates.items() if key != id(one) and other is not None]
            measures = others + list(self._finished)
            if rate is None or len(measures) < _FEWEST_SIBLINGS:
                continue
            if rate * _SLOW_FACTOR < statistics.median(measures):
                found.append((one, "far slower than its siblings"))
        return found
