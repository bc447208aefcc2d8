"""One attempt at one blob: connections that take segments, a hash that follows them, a watch over both."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from syncd.aio import in_thread, in_thread_stoppable
from syncd.download.counters import Counters
from syncd.download.pace import Clock, Connection, Random, RateLimit, Siblings, delay
from syncd.download.plan import ByteRange, RangeQueue, missing, window
from syncd.download.prefix import PrefixHash
from syncd.download.pump import Write, pump
from syncd.download.segment import ChunkLog, Chunks, Segment
from syncd.errors import RegistryUnavailableError, SyncdError
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.registry.client import RangeBody, RangeUnsupportedError
from syncd.registry.raw import RawBody
from syncd.store.partial import Partial

BATCH = 2 * 1024 * 1024  # bytes that a connection collects before it writes
_SYNC_EVERY = 256 * 1024 * 1024  # bytes between two fdatasyncs on the way
_HASH_AT_LEAST = 4 * 1024 * 1024  # bytes worth a thread's while


class BlobSource(Protocol):
    """Where ranges come from: a ``RegistryClient``."""

    def open_range(
        self, name: ModelName, blob: Descriptor, start: int, end: int, *, avoid: frozenset[str] = frozenset()
    ) -> AbstractAsyncContextManager[RangeBody]:
        """A connection that sends these bytes, or, if its ``whole`` says so, the blob from its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """How to fetch. Rates in bytes a second, times in seconds.

    ``connections`` is the budget of all fetches together; ``attempts`` are tries in a row by one connection in which no
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
    """What every attempt of every blob shares: the way in, the budget of connections, the rate limit, time, chance."""

    source: BlobSource
    settings: FetchSettings
    budget: asyncio.Semaphore
    limit: RateLimit
    clock: Clock
    random: Random


class OneStreamError(Exception):
    """The source sends this blob from its start only."""


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
        self._name = name
        self._blob = partial.blob
        self._partial = partial
        self._log = log
        self._counters = counters
        self._avoid = avoid
        self.chunks = Chunks(self._blob.size, held)
        self.sources: set[str] = set()
        ranges = missing(self._blob.size, held)
        self._resumed_to = ranges[0].start if ranges else self._blob.size
        self._queue = RangeQueue(ranges, means.settings.connections)
        self._prefix = PrefixHash(partial)
        self._active: set[Segment] = set()
        self._connections: set[Connection] = set()
        self._siblings = Siblings(means.settings.stall_timeout)
        self._written = 0
        self._changed = asyncio.Event()

    async def run(self, *, one_stream: bool) -> Digest:
        """Fetch and hash. Raise ``OneStreamError`` where ranges do not work, else ``SyncdError``."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(), name=f"watch {self._blob.digest.short}")
            sync = group.create_task(self._sync_on_the_way(), name=f"sync {self._blob.digest.short}")
            async with asyncio.TaskGroup() as work:
                work.create_task(self._follow(), name=f"hash {self._blob.digest.short}")
                if one_stream:
                    work.create_task(self._stream_whole(), name=f"stream {self._blob.digest.short}")
                else:
                    for number in range(min(self._means.settings.connections, -(-self._queue.rest // CHUNK_SIZE))):
                        work.create_task(self._work(), name=f"fetch {self._blob.digest.short} {number}")
            watch.cancel()
            sync.cancel()
        return self._prefix.digest()

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
                await in_thread(self._prefix.advance, frontier)
                self._changed.set()
            else:
                await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # The connections.

    async def _work(self) -> None:
        failures = _Failures(self._means, self._counters, lambda: self._written)
        while await self._may_take():
            async with self._means.budget:
                taken = self._queue.take(before=self._window_end())
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
            if self._queue.lowest is not None and self._queue.lowest < self._window_end():
                return True
            await self._change()
        return False

    def _window_end(self) -> int:
        return max(self._prefix.position, self._resumed_to) + window(self._means.settings.connections)

    async def _fetch(self, part: ByteRange) -> None:
        with self._segments((part,)) as (segment,), self._connection() as connection:
            await self._receive(part.start, part.end, connection, segment.write)
            if segment.position < segment.end:
                raise RegistryUnavailableError(f"{self._blob.digest}: the connection ended early")
            self._siblings.finished(connection, self._means.clock())

    async def _stream_whole(self) -> None:
        failures = _Failures(self._means, self._counters, lambda: self._written)
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
            stream = _Stream(segments)
            await self._receive(0, self._blob.size, connection, stream.write)
            if any(one.position < one.end for one in segments):
                raise RegistryUnavailableError(f"{self._blob.digest}: the connection ended early")

    async def _receive(self, start: int, end: int, connection: Connection, write: Write) -> None:
        """Read bytes ``start`` to ``end`` and hand them to ``write``, in a thread. What came before a break is kept."""
        try:
            async with (
                asyncio.timeout(None) as connection.scope,
                self._means.source.open_range(self._name, self._blob, start, end, avoid=self._avoid) as body,
            ):
                self.sources.add(body.source)
                if (body.start, body.end) != (start, end):
                    raise OneStreamError
                # With a rate limit the loop has to look at every piece anyway.
                raw = body.detach() if self._means.settings.max_rate is None else None
                if raw is None:
                    await self._copy(body, connection, write)
                else:
                    await self._pump(raw, connection, write)
        except TimeoutError as error:
            raise RegistryUnavailableError(f"{self._blob.digest}: {connection.verdict}") from error

    async def _copy(self, body: RangeBody, connection: Connection, write: Write) -> None:
        batch: list[bytes | memoryview] = []
        size = 0
        try:
            async for part in body.parts():
                connection.waiting_since = None
                connection.moved += len(part)
                self._counters.received += len(part)
                batch.append(part)
                size += len(part)
                await self._means.limit.spend(len(part))
                if size >= BATCH:
                    full, batch, size = batch, [], 0
                    self._progressed(await in_thread(write, full))
                connection.waiting_since = self._means.clock()
        finally:
            connection.waiting_since = None
            if batch:
                self._progressed(await in_thread(write, batch))

    async def _pump(self, raw: RawBody, connection: Connection, write: Write) -> None:
        loop = asyncio.get_running_loop()

        def came(received: int, written: int) -> None:
            self._counters.received += received
            self._progressed(written)

        def tell(received: int, written: int) -> None:
            loop.call_soon_threadsafe(came, received, written)

        def run(stopped: Callable[[], bool]) -> None:
            pump(raw, write, connection, self._means.clock, tell=tell, stopped=stopped)

        with raw:
            await in_thread_stoppable(run)

    def _progressed(self, written: int) -> None:
        self._written += written
        self._changed.set()

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
            self._changed.set()

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
                await self._change()


class _Stream:
    """Routes one stream from a blob's start to the segments that want its bytes."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments
        self._offset = 0

    def write(self, parts: list[bytes | memoryview]) -> int:
        """The next bytes of the stream; how many of them somebody wanted."""
        written = 0
        for part in parts:
            view = memoryview(part)
            for segment in self._segments:
                start, end = max(self._offset, segment.position), min(self._offset + len(view), segment.end)
                if start < end:
                    written += segment.write((view[start - self._offset : end - self._offset],))
            self._offset += len(view)
        return written


class _Failures:
    """One connection's bad luck: how long to wait, and when to give up."""

    def __init__(self, means: Means, counters: Counters, written: Callable[[], int]) -> None:
        """``written``: bytes of the blob that found their place so far; any more of them is progress."""
        self._means = means
        self._counters = counters
        self._in_a_row = 0
        self._progress = written
        self._written = written()

    def wait_after(self, error: SyncdError) -> float:
        """Seconds until the next try; raises ``error`` where another makes no sense."""
        if not error.transient:
            raise error
        if self._progress() > self._written:
            self._in_a_row = 0
        self._written = self._progress()
        self._in_a_row += 1
        self._counters.retries += 1
        self._counters.trouble = error.message
        settings = self._means.settings
        if self._in_a_row >= settings.attempts:
            raise error
        return delay(
            self._in_a_row,
            base=settings.backoff,
            cap=settings.longest_backoff,
            asked=error.retry_after if isinstance(error, RegistryUnavailableError) else None,
            random=self._means.random,
        )
