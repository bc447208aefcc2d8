"""The body of one answer, from its connection to whoever writes it: through the event loop, or past it."""

import asyncio
from collections.abc import Callable

from syncd.aio import in_thread, in_thread_stoppable
from syncd.download.counters import Counters
from syncd.download.means import Means
from syncd.download.pace import Connection
from syncd.download.pump import Write, pump
from syncd.errors import RegistryUnavailableError
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.registry.client import RangeBody
from syncd.registry.raw import RawBody

BATCH = 2 * 1024 * 1024  # bytes that a connection collects before it writes


class OneStreamError(Exception):
    """The source sends this blob from its start only."""


class Receiver:
    """Reads ranges of one blob, from wherever ``avoid`` does not name.

    ``progressed`` hears, on the event loop, of every write, how many bytes have found their place. ``sources``: who
    answered.
    """

    def __init__(
        self,
        means: Means,
        name: ModelName,
        blob: Descriptor,
        counters: Counters,
        *,
        avoid: frozenset[str],
        progressed: Callable[[int], None],
    ) -> None:
        self._means = means
        self._name = name
        self._blob = blob
        self._counters = counters
        self._avoid = avoid
        self._progressed = progressed
        self.sources: set[str] = set()

    async def receive(self, start: int, end: int, connection: Connection, write: Write) -> None:
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
            await in_thread_stoppable(run, self._means.threads)
