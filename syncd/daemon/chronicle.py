"""What happens, told to whoever listens: facts as they come, to followers who may be slow."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from syncd.api.catalogue import rfc3339
from syncd.api.v1 import Event

_BACKLOG = 256  # events that a follower may lag behind before it loses the oldest
_HEARTBEAT = 15.0  # seconds


class Chronicle:
    """Hands every event to every follower."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: seconds since the epoch."""
        self._clock = clock
        self._followers: set[_Follower] = set()

    def tell(self, event: str, *, name: str | None = None, job: str | None = None, detail: str | None = None) -> None:
        """A fact, on the loop."""
        told = Event(event=event, time=rfc3339(self._clock()), name=name, job=job, detail=detail)
        for follower in self._followers:
            follower.hear(told)

    async def follow(self) -> AsyncIterator[Event]:
        """What happens from now on, with a heartbeat whenever nothing has happened for a while."""
        follower = _Follower()
        self._followers.add(follower)
        try:
            while True:
                try:
                    async with asyncio.timeout(_HEARTBEAT):
                        event = await follower.next()
                except TimeoutError:
                    event = Event(event="heartbeat", time=rfc3339(self._clock()))
                yield event
        finally:
            self._followers.discard(follower)


class _Follower:
    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_BACKLOG)
        self._arrived = asyncio.Event()

    def hear(self, event: Event) -> None:
        self._events.append(event)
        self._arrived.set()

    async def next(self) -> Event:
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()
