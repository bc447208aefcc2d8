"""The blobs of one pull: found, waited for, verified or fetched, whichever it takes."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from syncd.aio import entered, in_thread, in_thread_stoppable, only_error
from syncd.download.counters import Counters, Step
from syncd.download.journal import claimed_bytes
from syncd.errors import IntegrityError, NoSpaceError, StoreError, SyncdError
from syncd.jobs.progress import BlobProgress, BlobState
from syncd.oci.chunks import ChunkMap
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus, BlobStore
from syncd.store.leases import Lease
from syncd.store.locks import Lock
from syncd.store.partial import Partial
from syncd.store.root import Store
from syncd.text import size

log = structlog.get_logger()

POLL = 0.1  # seconds between two looks at a lock, or at what its holder has done
_HASHES_AT_ONCE = 4  # each takes a thread for as long as a blob takes to read
_TRIES = 3  # how often an outside Ollama may take blobs away under one pull
_AT_ONCE = 16  # open files are bounded by this, however many layers a model has


class BytesGoneError(IntegrityError):
    """The bytes of a blob are not on the disk, and nobody was to fetch them."""


class Bringing(Protocol):
    """One blob on its way into its partial (``download.fetch.BlobFetch`` says what the names mean)."""

    @property
    def counters(self) -> Counters:
        """What it did so far."""

    @property
    def step(self) -> Step:
        """What it is at."""

    @property
    def done(self) -> int:
        """Bytes in place."""

    @property
    def found(self) -> int:
        """Bytes that were there already."""

    async def run(self) -> ChunkMap:
        """Bring it, verify it by SHA-256, give its map. Raise ``SyncdError``."""


class Supply(Protocol):
    """Where bytes come from that the store does not have: a registry, or another store of this host."""

    def needs_room(self, blob: Descriptor) -> bool:
        """Whether its bytes will take space of their own."""

    def stage(self, blobs: BlobStore, blob: Descriptor) -> Partial:
        """Open the partial that ``blob`` is brought into, under the digest's lock. Blocks."""

    def blob(self, name: ModelName, partial: Partial) -> Bringing:
        """What brings this blob of ``name``. The caller closes ``partial``."""


@dataclass(slots=True)
class Track:
    """Where one blob stands."""

    blob: Descriptor
    state: BlobState = BlobState.PENDING
    done: int = 0
    fetch: Bringing | None = None
    earlier: int = 0  # bytes from the network, before the present ``fetch``

    @property
    def received(self) -> int:
        """Bytes from the network so far."""
        return self.earlier + (self.fetch.counters.received if self.fetch else 0)

    def begin(self, fetch: Bringing) -> None:
        """It is being fetched, perhaps not for the first time: what was in may have been taken away."""
        self.earlier = self.received
        self.fetch, self.state = fetch, BlobState.FETCHING

    def progress(self) -> BlobProgress:
        """This moment, frozen."""
        fetched = self.received
        if self.fetch is None or self.state is not BlobState.FETCHING:
            return BlobProgress(self.blob, self.state, self.done, fetched)
        state = BlobState.FETCHING if self.fetch.step is Step.FETCHING else BlobState.VERIFYING
        return BlobProgress(self.blob, state, self.fetch.done, fetched, self.fetch.counters.trouble)

    def stored(self) -> None:
        """It is in."""
        self.state, self.done = BlobState.STORED, self.blob.size

    @property
    def found(self) -> int:
        """Bytes that did not have to be fetched."""
        return self.fetch.found if self.fetch else self.blob.size


class PullBlobs:
    """Brings the blobs of a manifest into the store. ``tracks`` says where each stands.

    ``fetcher``: None means without the network, so that ``bring`` raises ``BytesGoneError`` for what is not on the
    disk. ``floor``: bytes of free space that are left to others.
    """

    def __init__(self, name: ModelName, store: Store, fetcher: Supply | None, floor: int) -> None:
        self._name = name
        self._store = store
        self._fetcher = fetcher
        self._floor = floor
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._digest: Digest | None = None
        self.abandoned = 0  # bytes from the network for blobs of manifests that it was about before
        self.tracks: dict[Digest, Track] = {}

    def expect(self, manifest: Manifest) -> None:
        """From now on it is about this manifest's blobs."""
        if self._digest != manifest.digest:
            self._digest = manifest.digest
            self.abandoned += sum(track.received for track in self.tracks.values())
            self.tracks = {blob.digest: Track(blob) for blob in manifest.blobs}

    async def look(self) -> None:
        """See how far another process is with them."""
        for track in self.tracks.values():
            await self._look_at_another(track)

    async def incomplete(self, blobs: Iterable[Descriptor]) -> list[Descriptor]:
        """Those that are not stored; what an outside Ollama took is put back from keep/ on the way."""
        return [blob for blob in blobs if await in_thread(self._store.blobs.status, blob) is not BlobStatus.STORED]

    async def bring(self, blobs: Iterable[Descriptor], lease: Lease) -> None:
        """Have these stored. Raise ``SyncdError``; what came until then stays for the next try."""
        wanted = list(blobs)
        if self._fetcher is not None:
            await self._reserve([blob for blob in wanted if self._fetcher.needs_room(blob)])
        room = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in wanted:
                    track = self.tracks[blob.digest]
                    group.create_task(self._bring_one(track, room, lease), name=f"blob {blob.digest.short}")
        except BaseExceptionGroup as errors:
            raise only_error(errors, (SyncdError,)) from errors

    async def bring_again(self, manifest: Manifest, lease: Lease) -> None:
        """What an outside Ollama takes away while we publish comes back: from keep/, else from the registry."""
        for _ in range(_TRIES):
            gone = await self.incomplete(manifest.blobs)
            if not gone:
                return
            log.warning("pull.blobs_taken", name=str(self._name), digests=[str(blob.digest) for blob in gone])
            await self.bring(gone, lease)
        raise StoreError(
            f"{self._name}: blobs vanish from {self._store.path} as fast as they are put there",
            hint="another program deletes them: give every Ollama server OLLAMA_NOPRUNE=1 and a read-only mount",
        )

    async def _reserve(self, blobs: Iterable[Descriptor]) -> None:
        """Have room for every byte before the first one is asked for; on failure give back what was taken."""
        absent = [blob for blob in blobs if await in_thread(self._store.blobs.status, blob) is BlobStatus.ABSENT]
        await in_thread(self._check_free_space, absent)
        fresh: list[Descriptor] = []
        try:
            for blob in absent:
                await in_thread(self._reserve_one, blob, fresh)
        except SyncdError:
            for blob in fresh:
                await in_thread(self._unreserve, blob)
            raise

    def _check_free_space(self, absent: Iterable[Descriptor]) -> None:
        needed = sum(max(0, blob.size - self._store.blobs.partials.reserved(blob.digest)) for blob in absent)
        free = self._store.free_bytes()
        if needed and needed + self._floor > free:
            raise NoSpaceError(
                f"{self._name} needs {size(needed)} more, {size(free)} are free on {self._store.path},"
                f" of which {size(self._floor)} are to stay free",
                hint="run 'syncd gc --dry-run', or move the store",
            )

    def _reserve_one(self, blob: Descriptor, fresh: list[Descriptor]) -> None:
        lock = self._store.locks.try_digest(blob.digest)
        if lock is None:
            return  # whoever holds it has reserved it
        with lock:
            if self._store.blobs.status(blob) is not BlobStatus.ABSENT:
                return  # another pull has brought it in since we looked
            with self._store.blobs.partials.stage(blob) as partial:
                if partial.fresh:
                    fresh.append(blob)

    def _unreserve(self, blob: Descriptor) -> None:
        lock = self._store.locks.try_digest(blob.digest)
        if lock is not None:
            partials = self._store.blobs.partials
            with lock:
                if partials.read_journal(blob.digest) is None:  # else another pull has begun to fill it
                    partials.discard(blob.digest)

    async def _bring_one(self, track: Track, room: asyncio.Semaphore, lease: Lease) -> None:
        async with room:
            with await self._digest_lock(track):
                status = await in_thread(self._store.blobs.status, track.blob)
                if status is BlobStatus.UNVERIFIED and await self._verify(track):
                    status = BlobStatus.STORED
                if status is BlobStatus.STORED:
                    await in_thread(self._store.blobs.refresh, track.blob)
                else:
                    await self._fetch(track)
                    await in_thread(lease.touch)  # its seven days begin anew with what there is to keep
            track.stored()

    async def _digest_lock(self, track: Track) -> Lock:
        while (lock := self._store.locks.try_digest(track.blob.digest)) is None:
            await self._look_at_another(track)
            await asyncio.sleep(POLL)
        return lock

    async def _verify(self, track: Track) -> bool:
        """Hash what an Ollama, or an earlier life of this store, left under the blob's name."""
        track.state, track.done = BlobState.VERIFYING, 0

        def advance(count: int) -> None:
            track.done += count

        async with self._hashing:
            whole = await in_thread_stoppable(
                lambda cancelled: self._store.blobs.verify(track.blob, on_bytes=advance, cancelled=cancelled)
            )
        log.info("blob.verified" if whole else "blob.refused", name=str(self._name), digest=str(track.blob.digest))
        return whole

    async def _fetch(self, track: Track) -> None:
        if self._fetcher is None:
            raise BytesGoneError(f"{self._name}: {track.blob.digest} is not on the disk any more")
        started = time.monotonic()
        async with entered(self._fetcher.stage, self._store.blobs, track.blob) as partial:
            fetch = self._fetcher.blob(self._name, partial)
            track.begin(fetch)
            chunks = await fetch.run()
            await in_thread(self._store.blobs.commit, partial, chunks)
        log.info(
            "blob.stored",
            name=str(self._name),
            digest=str(track.blob.digest),
            size=track.blob.size,
            received=fetch.counters.received,
            seconds=round(time.monotonic() - started, 3),
        )

    async def _look_at_another(self, track: Track) -> None:
        """See how far another process is with a blob."""
        # The journal first: it goes once the blob has come, so whoever finds it gone for that reason finds the blob.
        journal = await in_thread(self._store.blobs.partials.read_journal, track.blob.digest)
        if await in_thread(self._store.blobs.status, track.blob) is BlobStatus.STORED:
            track.stored()
        else:
            track.state, track.done = BlobState.WAITING, claimed_bytes(journal or b"", track.blob)
