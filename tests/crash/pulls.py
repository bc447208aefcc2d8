"""What is done in processes of their own (see ``tests.support.forker``): a pull, or a rollback."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import structlog

from syncd.download import fetch
from syncd.download.fetch import Fetcher
from syncd.download.means import FetchSettings
from syncd.jobs.pull import PullMeans, pull
from syncd.jobs.rollback import plan, roll_back
from syncd.oci.name import Reference
from syncd.registry.client import RegistryClient
from syncd.store.root import Store
from tests.support.one_thread import InThisThread, run_in_one_thread


def pulled(store: str, name: str, *, rollback: bool, one_thread: bool, connections: int) -> dict[str, Any]:
    """``rollback``: to the version before, instead."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    work = _pulled(Path(store), name, rollback=rollback, connections=connections)
    if not one_thread:
        return asyncio.run(work)
    fetch.yielding_threads = lambda _count: InThisThread()
    return run_in_one_thread(work)


async def _pulled(path: Path, name: str, *, rollback: bool, connections: int) -> dict[str, Any]:
    settings = FetchSettings(connections=connections, attempts=4, backoff=0.01, longest_backoff=0.02)
    client = RegistryClient({}, connect_timeout=10, read_timeout=20, random=random.random)
    async with client as registry:
        with Store.open(path, create=True) as store:
            fetcher = Fetcher(registry, settings, clock=time.monotonic, random=random.random)
            means = PullMeans(store=store, registry=registry, fetcher=fetcher, floor=0)
            reference = Reference.parse(name)
            if rollback:
                planned = plan(store, reference.name, None, means.policy)
                outcome = await roll_back(planned, means, "a test", lambda _: None)
            else:
                outcome = await pull(reference, means, lambda _: None)
    return {"current": outcome.current, "fetched": outcome.fetched_bytes}
