"""The ways to the registries, as the settings have them; when those change, running pulls end on the old ones."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from syncd.daemon.access import Access
from syncd.daemon.loaded import Loaded
from syncd.daemon.rules import policy_of
from syncd.download.fetch import Fetcher
from syncd.download.means import FetchSettings
from syncd.jobs.known import KnownManifests
from syncd.jobs.pull import BeforePublish, PullMeans
from syncd.registry.client import RegistryClient
from syncd.store.root import Store

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 60.0


class Way:
    """One client, one budget of connections. ``close`` waits for nobody: it takes effect when the last user is gone."""

    def __init__(
        self,
        store: Store,
        loaded: Loaded,
        registry: RegistryClient,
        stack: AsyncExitStack,
        before_publish: BeforePublish,
    ) -> None:
        settings = loaded.settings
        fetching = FetchSettings(
            connections=settings.download.connections,
            max_rate=settings.download.max_rate,
            stall_timeout=settings.download.stall_timeout,
        )
        fetcher = Fetcher(registry, fetching, clock=time.monotonic, random=random.random)
        self.means = PullMeans(
            store=store,
            registry=KnownManifests(registry, store, loaded.pins),
            fetcher=fetcher,
            floor=settings.min_free,
            before_publish=before_publish,
            policy=policy_of(loaded),
        )
        self._stack = stack
        self._users = 0
        self._closing = False

    @asynccontextmanager
    async def used(self) -> AsyncIterator[PullMeans]:
        """It stays open for as long as this is entered."""
        self._users += 1
        try:
            yield self.means
        finally:
            self._users -= 1
            await self._end_if_unused()

    async def close(self) -> None:
        """No more users: the last one closes it."""
        self._closing = True
        await self._end_if_unused()

    async def _end_if_unused(self) -> None:
        if self._closing and not self._users:
            await self._stack.aclose()


class Ways:
    """The current way. A context manager."""

    def __init__(self, store: Store, before_publish: BeforePublish) -> None:
        """``before_publish``: as ``PullMeans`` has it."""
        self._store = store
        self._before_publish = before_publish
        self._current: Way | None = None

    async def renew(self, loaded: Loaded, access: Access) -> None:
        """From now on pulls go by these settings; those that run end on the way on which they began."""
        async with AsyncExitStack() as stack:
            registry = await stack.enter_async_context(
                RegistryClient(
                    access.configs,
                    default=access.default,
                    connect_timeout=CONNECT_TIMEOUT,
                    read_timeout=ANSWER_TIMEOUT,
                    random=random.random,
                )
            )
            fresh = Way(self._store, loaded, registry, stack.pop_all(), self._before_publish)
        old, self._current = self._current, fresh
        if old is not None:
            await old.close()

    @asynccontextmanager
    async def used(self) -> AsyncIterator[PullMeans]:
        """The current way, for one job."""
        if self._current is None:
            raise RuntimeError("no way has been opened yet")
        async with self._current.used() as means:
            yield means

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._current is not None:
            await self._current.close()
