"""One attempt at one blob: connections that take segments, a hash that follows them, a watch over both."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from syncd.aio import in_thread
from syncd.download.counters import Counters
from syncd.download.crew import Crew
from syncd.download.failures import Failures
from syncd.download.means import Means
from syncd.download.pace import Connection, Siblings
from syncd.download.plan import ByteRange, RangeQueue, missing, window
from syncd.download.prefix import PrefixHash
from syncd.download.receive import OneStreamError, Receiver
from syncd.download.segment import ChunkLog, Chunks, Segment
from syncd.download.stream import WholeStream
from syncd.errors import RegistryUnavailableError, SyncdError
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.registry.client import RangeUnsupportedError
from syncd.store.partial import Partial

_SYNC_EVERY = 256 * 1024 * 1024  # bytes between two fdatasyncs on the way
_HASH_AT_LEAST = 4 * 1024 * 1024  # bytes worth a thread's while


class Transfer:
    """Brings what ``held`` lacks of a blob into its partial file; ``run`` gives the digest of what lies there then."""

    def __init__(
        self,
        means: Means,
        name: ModelName,
        partial: Partial,
        log: ChunkLog,
        *,
        held: dict[int, bytes],
        counters: Counters,
        avoid: frozenset[str],
    ) -> None:
        self._means = means
        self._blob = partial.blob
        self._partial = partial
        self._log = log
        self._counters = counters
        self.chunks = Chunks(self._blob.size, held)
        self._receiver = Receiver(means, name, partial.blob, counters, avoid=avoid, progressed=self._progressed)
        ranges = missing(self._blob.size, held)
        self._resumed_to = ranges[0].start if ranges else self._blob.size
        self._queue = RangeQueue(ranges)
        self._prefix = PrefixHash(partial)
        self._active: set[Segment] = set()
        self._connections: set[Connection] = set()
        self._siblings = Siblings(means.settings.stall_timeout)
        self._written = 0
        self._moved = asyncio.Event()  # bytes came
        self._crew = Crew(means.settings.connections, means.clock)
        self._room = asyncio.Event()  # for another segment, perhaps: one has ended, or the window has moved

    async def run(self, *, one_stream: bool) -> Digest:
        """Fetch and hash. Raise ``OneStreamError`` where ranges do not work, else ``SyncdError``."""
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._watch(), name=f"watch {self._blob.digest.short}"),
                group.create_task(self._sync_on_the_way(), name=f"sync {self._blob.digest.short}"),
            ]
            async with asyncio.TaskGroup() as work:
                work.create_task(self._follow(), name=f"hash {self._blob.digest.short}")
                if one_stream:
                    work.create_task(self._stream_whole(), name=f"stream {self._blob.digest.short}")
                else:
                    for number in range(min(self._means.settings.connections, -(-self._queue.rest // CHUNK_SIZE))):
                        work.create_task(self._work(), name=f"fetch {self._blob.digest.short} {number}")
            for one in beside:
                one.cancel()
        return self._prefix.digest()

    @property
    def sources(self) -> set[str]:
        """Who answered."""
        return self._receiver.sources

    @property
    def placed(self) -> int:
        """Bytes in place, whoever put them there."""
        return self._blob.size - self._queue.rest - sum(one.end - one.position for one in self._active)

    # The hash.

    def _frontier(self) -> int:
        """Up to here every byte is written."""
        ahead = [one.position for one in self._active]
        if self._queue.lowest is not None:
            ahead.append(self._queue.lowest)
        return min(ahead, default=self._blob.size)

    async def _follow(self) -> None:
        while self._prefix.position < self._blob.size:
            frontier = self._frontier()
            if frontier - self._prefix.position >= _HASH_AT_LEAST or frontier == self._blob.size:
                began = self._means.clock()
                await in_thread(self._prefix.advance, frontier)
                self._crew.hashed(self._means.clock() - began)
                self._crew.look()
                self._room.set()
            else:
                await _next(self._moved)

    # The connections.

    async def _work(self) -> None:
        failures = Failures(self._means, self._counters, lambda: self._written)
        while await self._may_take():
            async with self._means.budget:
                taken = self._queue.take(before=self._window_end(), connections=self._crew.size)
                if taken is None:
                    continue
                try:
                    await self._fetch(taken)
                except RangeUnsupportedError as error:
                    raise OneStreamError from error
                except SyncdError as error:
                    wait = failures.wait_after(error)
                else:
                    continue
            await asyncio.sleep(wait)

    async def _may_take(self) -> bool:
        """Wait for a segment that may begin; False when there will be none any more."""
        while self._queue or self._active:
            lowest = self._queue.lowest
            if len(self._active) < self._crew.size and lowest is not None and lowest < self._window_end():
                return True
            await _next(self._room)
        return False

    def _window_end(self) -> int:
        return max(self._prefix.position, self._resumed_to) + window(self._means.settings.connections)

    async def _fetch(self, part: ByteRange) -> None:
        with self._segments((part,)) as (segment,), self._connection() as connection:
            await self._receiver.receive(part.start, part.end, connection, segment.write)
            if segment.position < segment.end:
                raise RegistryUnavailableError(f"{self._blob.digest}: the connection ended early")
            self._siblings.finished(connection, self._means.clock())

    async def _stream_whole(self) -> None:
        failures = Failures(self._means, self._counters, lambda: self._written)
        while self._queue:
            async with self._means.budget:
                try:
                    await self._fetch_whole()
                except SyncdError as error:
                    wait = failures.wait_after(error)
                else:
                    continue
            await asyncio.sleep(wait)

    async def _fetch_whole(self) -> None:
        """One stream from the blob's start; what is in place already passes by unwritten."""
        with self._segments(self._queue.drain()) as segments, self._connection() as connection:
            stream = WholeStream(segments)
            await self._receiver.receive(0, self._blob.size, connection, stream.write)
            if any(one.position < one.end for one in segments):
                raise RegistryUnavailableError(f"{self._blob.digest}: the connection ended early")

    def _progressed(self, written: int) -> None:
        self._written += written
        self._moved.set()

    @contextmanager
    def _segments(self, parts: Collection[ByteRange]) -> Iterator[list[Segment]]:
        """Writers for these parts; what they leave goes back to the queue, after the last write has returned."""
        segments = [Segment(part, self.chunks, self._partial, self._log) for part in parts]
        self._active.update(segments)
        try:
            yield segments
        finally:
            for segment in segments:
                self._active.discard(segment)
                rest = segment.close()
                if rest is not None:
                    self._queue.give_back(rest)
            self._crew.look()
            self._room.set()
            self._moved.set()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        now = self._means.clock()
        connection = Connection(started=now, waiting_since=now)
        self._connections.add(connection)
        try:
            yield connection
        finally:
            self._connections.discard(connection)

    # The watch.

    async def _watch(self) -> None:
        tick = min(1.0, self._means.settings.stall_timeout / 4)
        while True:
            await asyncio.sleep(tick)
            now = self._means.clock()
            for connection in self._connections:
                connection.sample(now)
            for connection, reason in self._siblings.laggards(self._connections, now):
                connection.drop(reason)

    async def _sync_on_the_way(self) -> None:
        synced = 0
        while True:
            if self._written - synced >= _SYNC_EVERY:
                synced = self._written
                await in_thread(self._partial.sync)
            else:
                await _next(self._moved)


async def _next(event: asyncio.Event) -> None:
    """Wait until it is set once more."""
    event.clear()
    await event.wait()
