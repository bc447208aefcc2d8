"""What the tests of whole pulls share: a store, a registry and everything between, as the command line wires them."""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from syncd.download.fetch import Fetcher
from syncd.download.transfer import FetchSettings
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.jobs.pull import PullMeans, pull
from syncd.oci.name import Reference
from syncd.registry.client import RegistryClient
from syncd.registry.hosts import RegistryConfig
from syncd.registry.retries import RetryPolicy
from syncd.store.root import Store

QUICK = FetchSettings(stall_timeout=1.0, attempts=6, backoff=0.02, longest_backoff=0.2)


@asynccontextmanager
async def means(
    store: Store,
    *,
    settings: FetchSettings = QUICK,
    configs: dict[str, RegistryConfig] | None = None,
    floor: int = 0,
) -> AsyncIterator[PullMeans]:
    async with RegistryClient(
        configs or {},
        connect_timeout=5,
        read_timeout=5,
        random=random.random,
        retries=RetryPolicy(attempts=4, seconds=10, first_wait=0.02, longest_wait=0.2),
    ) as registry:
        fetcher = Fetcher(registry, settings, clock=time.monotonic, random=random.random)
        yield PullMeans(store=store, registry=registry, fetcher=fetcher, floor=floor)


async def pulled(
    name: str,
    path: Path,
    *,
    report: Callable[[PullProgress], None] = lambda _: None,
    settings: FetchSettings = QUICK,
    configs: dict[str, RegistryConfig] | None = None,
    floor: int = 0,
) -> PullOutcome:
    """One pull of ``name`` into the store at ``path``, as a process of its own would do it."""
    with Store.open(path, create=True) as store:
        async with means(store, settings=settings, configs=configs, floor=floor) as everything:
            return await pull(Reference.parse(name), everything, report)
