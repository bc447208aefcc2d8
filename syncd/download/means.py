"""What the fetches of a process share: where bytes come from, how they are fetched, and what bounds all of them."""

import asyncio
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from syncd.download.pace import Clock, Random, RateLimit
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.registry.client import RangeBody


class BlobSource(Protocol):
    """Where ranges come from: a ``RegistryClient``."""

    def open_range(
        self, name: ModelName, blob: Descriptor, start: int, end: int, *, avoid: frozenset[str] = frozenset()
    ) -> AbstractAsyncContextManager[RangeBody]:
        """A connection that sends these bytes, or, if its ``whole`` says so, the blob from its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """How to fetch. Rates in bytes a second, times in seconds.

    ``connections`` is the budget of all fetches together: a blob's uses no more than a few of them while its hash, and
    not the network, is what limits (``crew``); ``attempts`` are tries in a row by one connection in which no
    byte of its blob arrived; ``backoff`` and ``longest_backoff`` bound the waits between them.
    """

    connections: int = 8
    max_rate: float | None = None
    stall_timeout: float = 30.0
    attempts: int = 8
    backoff: float = 0.5
    longest_backoff: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every attempt of every blob shares: the way in, the budget of connections, the rate limit, time, chance.

    ``threads``: where connections work.
    """

    source: BlobSource
    settings: FetchSettings
    budget: asyncio.Semaphore
    threads: Executor
    limit: RateLimit
    clock: Clock
    random: Random
