"""A blob, from whatever its partial file already holds to verified bytes."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from syncd.aio import in_thread, in_thread_stoppable, only_error
from syncd.download.counters import Counters, Step
from syncd.download.crew import yielding_threads
from syncd.download.journal import Journal
from syncd.download.means import BlobSource, FetchSettings, Means
from syncd.download.pace import Clock, Random, RateLimit
from syncd.download.prefix import chunk_blake3
from syncd.download.receive import OneStreamError
from syncd.download.salvage import salvage
from syncd.download.transfer import Transfer
from syncd.errors import IntegrityError, NotFoundError, SyncdError
from syncd.oci.chunks import ChunkMap, chunk_bounds
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStore
from syncd.store.partial import Partial


class Fetcher:
    """All fetches of a process: they share one budget of connections and one rate limit.

    The loop's executor needs a thread for each connection whose bytes pass through the loop, and some for hashing and
    syncing.
    """

    def __init__(self, source: BlobSource, settings: FetchSettings, *, clock: Clock, random: Random) -> None:
        self._means = Means(
            source=source,
            settings=settings,
            budget=asyncio.Semaphore(settings.connections),
            threads=yielding_threads(settings.connections),
            limit=RateLimit(settings.max_rate, clock),
            clock=clock,
            random=random,
        )

    def needs_room(self, blob: Descriptor) -> bool:  # noqa: ARG002 - so it is for every blob
        """Whether its bytes will take space of their own."""
        return True

    def stage(self, blobs: BlobStore, blob: Descriptor) -> Partial:
        """Open the partial that ``blob`` is fetched into; under the digest's lock.

        If a damaged file lies under its name, what is right of that does not cross the network again.
        """
        partial = blobs.partials.stage(blob)
        try:
            partial.remains = blobs.remains(blob)
        except BaseException:
            partial.close()
            raise
        return partial

    def blob(self, name: ModelName, partial: Partial) -> "BlobFetch":
        """The fetch of one blob of ``name``. The caller holds the digest's lock and closes ``partial``."""
        return BlobFetch(self._means, name, partial)


class BlobFetch:
    """One blob on its way. ``run`` does it; the properties say how far it is."""

    def __init__(self, means: Means, name: ModelName, partial: Partial) -> None:
        self._means = means
        self._name = name
        self._partial = partial
        self._blob = partial.blob
        self._transfer: Transfer | None = None
        self._found = 0
        self.counters = Counters()

    @property
    def step(self) -> Step:
        """What it is at."""
        return Step.FETCHING if self._transfer else Step.CHECKING

    @property
    def done(self) -> int:
        """Bytes in place; while checking, bytes found good."""
        return self._transfer.placed if self._transfer else self.found

    @property
    def found(self) -> int:
        """Bytes that an earlier run left, and that were found good."""
        return self._found

    async def run(self) -> ChunkMap:
        """Fetch what is missing, verify the whole by SHA-256, and give the chunk map.

        A blob that does not match is fetched once more, from another source where there is one: all of it, or where an
        older map tells which chunks are wrong, those. Raise
        ``IntegrityError`` if that does not match either (nothing is kept then), else ``SyncdError``: the chunks that
        came stay in the partial file for the next run, unless an fsync failed: then nothing in it can be trusted.
        """
        journal = Journal(self._partial.open_journal(), self._blob)
        try:
            return await self._verified(journal)
        except SyncdError:
            if self._partial.poisoned:
                await in_thread(self._partial.discard)
            raise
        finally:
            journal.close()

    async def _verified(self, journal: Journal) -> ChunkMap:
        first = await self._attempt(journal, await self._check(journal), avoid=frozenset())
        if first.digest == self._blob.digest:
            return first.chunks
        self.counters.retries += 1
        self.counters.trouble = f"{self._blob.digest}: {_origins(first.sources)} gave other bytes"
        held = self._beyond_doubt(first.chunks)
        self._found = _bytes(held, self._blob)
        await in_thread(journal.clear)
        for index, blake3 in held.items():
            await in_thread(journal.claim, index, blake3)
        try:
            second = await self._attempt(journal, held, avoid=first.sources)
        except NotFoundError as error:
            if not first.sources:
                raise
            # Not gone: somebody has it, and may send it better the next time.
            raise IntegrityError(f"{self.counters.trouble}; {error.message}", hint=error.hint) from error
        if second.digest == self._blob.digest:
            return second.chunks
        await in_thread(self._partial.discard)
        raise IntegrityError(
            f"{self._blob.digest}: the bytes from {_origins(second.sources)} hash to {second.digest}",
            hint="nothing of it was kept; the registry, or a proxy on the way, serves damaged or false data",
        )

    async def _attempt(self, journal: Journal, held: dict[int, bytes], *, avoid: frozenset[str]) -> "_Attempt":
        transfer = Transfer(
            self._means, self._name, self._partial, journal, held=held, counters=self.counters, avoid=avoid
        )
        self._transfer = transfer
        try:
            found = await _run(transfer, one_stream=False)
        except OneStreamError:
            found = await _run(transfer, one_stream=True)
        hashes = tuple(hash_ for _, hash_ in sorted(transfer.chunks.done.items()))
        return _Attempt(found, ChunkMap(self._blob.size, hashes), frozenset(transfer.sources))

    def _beyond_doubt(self, chunks: ChunkMap) -> dict[int, bytes]:
        """Of a blob that is wrong, the chunks that cannot be to blame: none, if its map would have all be right."""
        if self._partial.remains is None:
            return {}
        known = self._partial.remains.known.hashes
        right = {index: blake3 for index, blake3 in enumerate(chunks.hashes) if known[index] == blake3}
        return right if len(right) < len(known) else {}

    async def _check(self, journal: Journal) -> dict[int, bytes]:
        """The chunks that the journal claims, or that remains of the blob give, and that the disk really holds."""
        claims = await in_thread(journal.read)
        if self._partial.remains is not None:
            claims = await in_thread_stoppable(partial(salvage, self._partial, self._partial.remains, journal, claims))
        if not claims:
            return {}
        await in_thread(self._partial.sync)
        await in_thread(self._partial.drop_cache)
        held: dict[int, bytes] = {}
        for index, claimed in sorted(claims.items()):
            if await in_thread(chunk_blake3, self._partial, index, self._blob.size) == claimed:
                held[index] = claimed
                start, end = chunk_bounds(index, self._blob.size)
                self._found += end - start
        return held


def _bytes(chunks: Iterable[int], blob: Descriptor) -> int:
    return sum(end - start for start, end in (chunk_bounds(index, blob.size) for index in chunks))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The digest of what lies on the disk now, its chunks, and where the bytes came from."""

    digest: Digest
    chunks: ChunkMap
    sources: frozenset[str]


def _origins(sources: frozenset[str]) -> str:
    return ", ".join(sorted(sources)) or "an earlier run"


async def _run(transfer: Transfer, *, one_stream: bool) -> Digest:
    try:
        return await transfer.run(one_stream=one_stream)
    except BaseExceptionGroup as group:
        raise only_error(group, (SyncdError, OneStreamError)) from group
