"""Turns of servers: how many may be warmed, proved or restarted at once, and never one of them twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """``limit``: turns at once; it may be changed at any time. For one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: set[str] = set()
        self._changed = asyncio.Event()

    @property
    def limit(self) -> int:
        """How many at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._tell()

    @asynccontextmanager
    async def turn(self, server: str) -> AsyncIterator[None]:
        """Wait for a turn of ``server``, and have it until the end. Whoever has one must not ask for another."""
        while server in self._taken or len(self._taken) >= self._limit:
            await self._changed.wait()
        self._taken.add(server)
        try:
            yield
        finally:
            self._taken.discard(server)
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
