"""One pull in a process of its own, watched from inside: ``python -m benchmarks.watched NAME STORE``.

Around the registry client there is a wrapper that notes when the last byte came, around fsync and fdatasync one that
notes when each ran. Prints one JSON object, times in seconds: ``seconds`` from the last byte to the pull's return,
``fsync`` of these in which some fsync ran.
"""

import json
import os
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from syncd.cli import logs, running
from syncd.download.fetch import Fetcher
from syncd.download.means import BlobSource, FetchSettings
from syncd.jobs.pull import PullMeans, pull
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName, Reference
from syncd.registry.client import RangeBody, RegistryClient
from syncd.registry.raw import RawBody
from syncd.store.root import Store


class _Clocked:
    """A ``BlobSource`` that notes when its last part came."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self.last = 0.0

    @asynccontextmanager
    async def open_range(
        self, name: ModelName, blob: Descriptor, start: int, end: int, *, avoid: frozenset[str] = frozenset()
    ) -> AsyncIterator["_ClockedBody"]:
        async with self._registry.open_range(name, blob, start, end, avoid=avoid) as body:
            yield _ClockedBody(body, self)


class _ClockedBody:
    """A ``RangeBody`` whose bytes are timed, whichever way they are read."""

    def __init__(self, body: RangeBody, clocked: _Clocked) -> None:
        self._body = body
        self._clocked = clocked

    def __getattr__(self, name: str) -> object:
        return getattr(self._body, name)

    async def parts(self) -> AsyncIterator[bytes]:
        async for part in self._body.parts():
            self._clocked.last = time.monotonic()
            yield part

    def detach(self) -> RawBody | None:
        raw = self._body.detach()
        if raw is not None:
            self._clocked.last = time.monotonic()
            _clock_reads(raw, self._clocked)
        return raw


def _clock_reads(raw: RawBody, clocked: _Clocked) -> None:
    """Note each arrival of ``raw``; the threads that read never set the clock back by more than a few instructions."""
    read_into = raw.read_into

    def timed(buffer: memoryview) -> int | None:
        count = read_into(buffer)
        if count is not None:
            clocked.last = time.monotonic()
        return count

    vars(raw)["read_into"] = timed


class _Syncs:
    """When which fsync ran."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._lock = threading.Lock()

    def around(self, call: Callable[[int], None]) -> Callable[[int], None]:
        def timed(fd: int) -> None:
            started = time.monotonic()
            try:
                call(fd)
            finally:
                with self._lock:
                    self._spans.append((started, time.monotonic()))

        return timed

    def seconds_after(self, moment: float) -> float:
        """Of the time after ``moment``, how much some fsync took; two at once count once."""
        total, reached = 0.0, moment
        for start, end in sorted(self._spans):
            if end > reached:
                total += end - max(start, reached)
                reached = end
        return total


async def _run(name: str, store: Store, syncs: _Syncs) -> dict[str, float]:
    async with RegistryClient({}, connect_timeout=15.0, read_timeout=60.0, random=random.random) as registry:
        clocked = _Clocked(registry)
        fetcher = Fetcher(cast("BlobSource", clocked), FetchSettings(), clock=time.monotonic, random=random.random)
        means = PullMeans(store=store, registry=registry, fetcher=fetcher, floor=0)
        await pull(Reference.parse(name), means, lambda _: None)
        ended = time.monotonic()
    return {"seconds": ended - clocked.last, "fsync": syncs.seconds_after(clocked.last)}


def main() -> None:
    name, path = sys.argv[1:]
    logs.configure(0)
    syncs = _Syncs()
    for name_of_call in ("fsync", "fdatasync"):
        setattr(os, name_of_call, syncs.around(getattr(os, name_of_call)))
    with Store.open(Path(path), create=True) as store:
        sys.stdout.write(json.dumps(running.run(_run(name, store, syncs))) + "\n")


if __name__ == "__main__":
    main()
