"""A pull: text in, a published model out, whole or not at all (docs/architecture.md has the picture)."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from syncd.aio import entered, in_thread, in_thread_stoppable, only_error
from syncd.download.fetch import BlobFetch, Fetcher, Step
from syncd.download.journal import claimed_bytes
from syncd.errors import BusyError, CancelledByRemovalError, InvalidNameError, NoSpaceError, StoreError, SyncdError
from syncd.jobs.progress import BlobProgress, BlobState, Phase, PullOutcome, PullProgress
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName, Reference, case_conflict
from syncd.registry.client import FetchedManifest, RegistryClient
from syncd.store.blobs import BlobStatus
from syncd.store.leases import Lease
from syncd.store.locks import Lock
from syncd.store.models import TagMovedError
from syncd.store.root import Store
from syncd.text import size

log = structlog.get_logger()

_POLL = 0.1  # seconds between two looks at a lock, or at what its holder has done
_REPORT_EVERY = 0.1  # seconds
_TRIES = 3  # how often a tag may move, or an outside Ollama may take blobs away, under one pull
_HASHES_AT_ONCE = 4  # each takes a thread for as long as a blob takes to read
_BLOBS_AT_ONCE = 16  # open files are bounded by this, however many layers a model has


@dataclass(frozen=True, slots=True, kw_only=True)
class PullMeans:
    """What a pull works with. ``floor``: bytes of free space that it leaves to others."""

    store: Store
    registry: RegistryClient
    fetcher: Fetcher
    floor: int


async def pull(reference: Reference, means: PullMeans, report: Callable[[PullProgress], None]) -> PullOutcome:
    """Make ``reference`` a whole, visible model of the store.

    ``report`` gets a frozen value about ten times a second, on the event loop. Raise ``SyncdError``; the store then
    shows what it showed before. A cancelled pull leaves its partial files for the next one.
    """
    return await _Pull(reference, means, report).run()


@dataclass(slots=True)
class _Track:
    """Where one blob stands."""

    blob: Descriptor
    state: BlobState = BlobState.PENDING
    done: int = 0
    fetch: BlobFetch | None = None

    def progress(self) -> BlobProgress:
        fetched = self.fetch.counters.received if self.fetch else 0
        if self.fetch is None or self.state is not BlobState.FETCHING:
            return BlobProgress(self.blob, self.state, self.done, fetched)
        state = BlobState.FETCHING if self.fetch.step is Step.FETCHING else BlobState.VERIFYING
        return BlobProgress(self.blob, state, self.fetch.done, fetched)

    def stored(self) -> None:
        self.state, self.done = BlobState.STORED, self.blob.size

    @property
    def found(self) -> int:
        """Bytes that did not have to be fetched."""
        return self.fetch.found if self.fetch else self.blob.size


class _Pull:
    def __init__(self, reference: Reference, means: PullMeans, report: Callable[[PullProgress], None]) -> None:
        self._reference = reference
        self._name: ModelName = reference.name
        self._means = means
        self._store = means.store
        self._report = report
        self._phase = Phase.RESOLVING
        self._digest: Digest | None = None
        self._tracks: dict[Digest, _Track] = {}
        self._lease: Lease | None = None
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._started = time.monotonic()
        self._log = log.bind(name=str(reference))

    async def run(self) -> PullOutcome:
        mark = await in_thread(self._store.locks.removal_mark, self._name)
        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick(), name=f"report {self._name}")
                watch = group.create_task(self._watch_for_removal(mark), name=f"watch {self._name}")
                work = group.create_task(self._single_flight(mark), name=f"pull {self._name}")
                outcome = await work
                ticker.cancel()
                watch.cancel()
        except BaseExceptionGroup as errors:
            raise only_error(errors, (SyncdError,)) from errors
        self._enter(Phase.DONE)
        return outcome

    # What others see of it.

    def _snapshot(self) -> PullProgress:
        fetches = [track.fetch for track in self._tracks.values() if track.fetch]
        troubles = [fetch.counters.trouble for fetch in fetches if fetch.counters.trouble]
        return PullProgress(
            reference=self._reference,
            phase=self._phase,
            digest=self._digest,
            blobs=tuple(track.progress() for track in self._tracks.values()),
            retries=sum(fetch.counters.retries for fetch in fetches),
            trouble=troubles[-1] if troubles else None,
        )

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._report(self._snapshot())

    async def _tick(self) -> None:
        # Unchanged values too: whoever shows only some of them must get to see where a pull has come to a halt.
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            self._report(self._snapshot())

    async def _watch_for_removal(self, mark: int) -> None:
        while True:
            self._stop_if_removed(mark)
            await asyncio.sleep(5 * _POLL)

    def _stop_if_removed(self, mark: int) -> None:
        # On the loop, as the locks are tried: all threads may be busy for minutes with hashing what an Ollama left.
        if self._store.locks.removal_mark(self._name) != mark:
            raise CancelledByRemovalError(f"{self._name} was removed while it was being pulled")

    # One process at a time pulls a name.

    async def _single_flight(self, mark: int) -> PullOutcome:
        # Locks are tried on the loop: a few microseconds, and no cancellation can come between getting and releasing.
        if (lock := self._store.locks.try_name(self._name)) is None:
            self._enter(Phase.WAITING)
        while lock is None:
            await self._show_the_holders_progress()
            await asyncio.sleep(_POLL)
            lock = self._store.locks.try_name(self._name)
        with lock:
            self._stop_if_removed(mark)  # the lock may have come sooner than the watch looked again
            for _ in range(_TRIES):
                try:
                    return await self._once()
                except TagMovedError:
                    self._log.info("pull.tag_moved")
        raise BusyError(
            f"{self._name} is being published by somebody else again and again",
            hint="another program writes to this store; let syncd alone write there",
        )

    async def _show_the_holders_progress(self) -> None:
        lease = await in_thread(self._store.leases.of_name, self._name)
        if lease is not None:
            self._expect(lease.manifest)
            for track in self._tracks.values():
                await self._look_at_another(track)

    async def _look_at_another(self, track: _Track) -> None:
        """See how far another process is with a blob."""
        if await in_thread(self._store.blobs.status, track.blob) is BlobStatus.STORED:
            track.stored()
        else:
            journal = await in_thread(self._store.blobs.read_journal, track.blob.digest)
            track.state, track.done = BlobState.WAITING, claimed_bytes(journal or b"", track.blob)

    def _expect(self, manifest: Manifest) -> None:
        if self._digest != manifest.digest:
            self._digest = manifest.digest
            self._tracks = {blob.digest: _Track(blob) for blob in manifest.blobs}

    # The pull itself, under the name's lock.

    async def _once(self) -> PullOutcome:
        self._enter(Phase.RESOLVING)
        await in_thread(self._refuse_case_conflicts)
        seen = await in_thread(self._store.models.tag_digest, self._name)
        found = await self._means.registry.manifest(self._reference)
        self._expect(found.manifest)
        # One that was cut off after its rename has not made it durable, nor noted it: go through all of it again.
        through = seen == found.manifest.digest and not await in_thread(self._store.leases.has_dead, self._name)
        if through and not await self._incomplete(found.manifest.blobs):
            return self._outcome(found.manifest, current=True)
        with await self._store.locks.references(shared=True) as held:
            async with entered(self._store.leases.take, self._name, found.manifest, held) as lease:
                held.release()
                self._lease = lease
                # Where this fails the lease stays: for seven days nobody collects what is in already.
                await self._bring_and_publish(found, seen)
                await in_thread(lease.release)
        await in_thread(self._store.leases.drop_dead, self._name)
        return self._outcome(found.manifest, current=False)

    def _refuse_case_conflicts(self) -> None:
        for stored in self._store.models.names():
            part = case_conflict(self._name, stored)
            if part is not None:
                raise InvalidNameError(
                    f"{self._name}: {part!r} differs only in case from the same part of {stored}, which is stored",
                    hint="Ollama would mix the two up: use the spelling that is stored, or remove it first",
                )

    async def _incomplete(self, blobs: Iterable[Descriptor]) -> list[Descriptor]:
        """Those that are not stored; what an outside Ollama took is put back from keep/ on the way."""
        return [blob for blob in blobs if await in_thread(self._store.blobs.status, blob) is not BlobStatus.STORED]

    async def _bring_and_publish(self, found: FetchedManifest, seen: Digest | None) -> None:
        manifest = found.manifest
        self._enter(Phase.FETCHING)
        await self._bring(manifest.blobs)
        await self._bring_again(manifest)
        self._enter(Phase.PUBLISHING)
        with await self._store.locks.references(shared=True) as held:
            await in_thread(self._store.models.publish, self._name, manifest, expected=seen, held=held)
        await self._bring_again(manifest)
        await in_thread(self._store.models.remember, self._name, manifest, found.source, time.time())
        self._log.info("pull.published", digest=str(manifest.digest), origin=found.source)

    async def _bring_again(self, manifest: Manifest) -> None:
        """What an outside Ollama takes away while we publish comes back: from keep/, else from the registry."""
        for _ in range(_TRIES):
            gone = await self._incomplete(manifest.blobs)
            if not gone:
                return
            self._log.warning("pull.blobs_taken", digests=[str(blob.digest) for blob in gone])
            await self._bring(gone)
        raise StoreError(
            f"{self._name}: blobs vanish from {self._store.path} as fast as they are put there",
            hint="another program deletes them: give every Ollama server OLLAMA_NOPRUNE=1 and a read-only mount",
        )

    # Its blobs.

    async def _bring(self, blobs: Iterable[Descriptor]) -> None:
        wanted = list(blobs)
        await self._reserve(wanted)
        room = asyncio.Semaphore(_BLOBS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in wanted:
                    track = self._tracks[blob.digest]
                    group.create_task(self._bring_one(track, room), name=f"blob {blob.digest.short}")
        except BaseExceptionGroup as errors:
            raise only_error(errors, (SyncdError,)) from errors

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
        needed = sum(max(0, blob.size - self._store.blobs.reserved(blob.digest)) for blob in absent)
        free = self._store.free_bytes()
        if needed and needed + self._means.floor > free:
            raise NoSpaceError(
                f"{self._name} needs {size(needed)} more, {size(free)} are free on {self._store.path},"
                f" of which {size(self._means.floor)} are to stay free",
                hint="run 'syncd gc --dry-run', or move the store",
            )

    def _reserve_one(self, blob: Descriptor, fresh: list[Descriptor]) -> None:
        lock = self._store.locks.try_digest(blob.digest)
        if lock is None:
            return  # whoever holds it has reserved it
        with lock:
            if self._store.blobs.status(blob) is not BlobStatus.ABSENT:
                return  # another pull has brought it in since we looked
            with self._store.blobs.stage(blob) as partial:
                if partial.fresh:
                    fresh.append(blob)

    def _unreserve(self, blob: Descriptor) -> None:
        lock = self._store.locks.try_digest(blob.digest)
        if lock is not None:
            with lock:
                if self._store.blobs.read_journal(blob.digest) is None:  # else another pull has begun to fill it
                    self._store.blobs.discard(blob.digest)

    async def _bring_one(self, track: _Track, room: asyncio.Semaphore) -> None:
        async with room:
            with await self._digest_lock(track):
                status = await in_thread(self._store.blobs.status, track.blob)
                if status is BlobStatus.UNVERIFIED and await self._verify(track):
                    status = BlobStatus.STORED
                if status is BlobStatus.STORED:
                    await in_thread(self._store.blobs.refresh, track.blob)
                else:
                    await self._fetch(track)
            track.stored()

    async def _digest_lock(self, track: _Track) -> Lock:
        while (lock := self._store.locks.try_digest(track.blob.digest)) is None:
            await self._look_at_another(track)
            await asyncio.sleep(_POLL)
        return lock

    async def _verify(self, track: _Track) -> bool:
        """Hash what an Ollama, or an earlier life of this store, left under the blob's name."""
        track.state, track.done = BlobState.VERIFYING, 0

        def advance(count: int) -> None:
            track.done += count

        async with self._hashing:
            whole = await in_thread_stoppable(
                lambda cancelled: self._store.blobs.verify(track.blob, on_bytes=advance, cancelled=cancelled)
            )
        self._log.info("blob.verified" if whole else "blob.refused", digest=str(track.blob.digest))
        return whole

    async def _fetch(self, track: _Track) -> None:
        started = time.monotonic()
        async with entered(self._store.blobs.stage, track.blob) as partial:
            track.fetch = self._means.fetcher.blob(self._name, partial)
            track.state = BlobState.FETCHING
            chunks = await track.fetch.run()
            await in_thread(self._store.blobs.commit, partial, chunks)
        if self._lease is not None:
            await in_thread(self._lease.touch)  # its seven days begin anew with what there is to keep
        self._log.info(
            "blob.stored",
            digest=str(track.blob.digest),
            size=track.blob.size,
            received=track.fetch.counters.received,
            seconds=round(time.monotonic() - started, 3),
        )

    def _outcome(self, manifest: Manifest, *, current: bool) -> PullOutcome:
        fetches = [track.fetch for track in self._tracks.values() if track.fetch]
        for track in self._tracks.values():
            track.stored()
        return PullOutcome(
            reference=self._reference,
            digest=manifest.digest,
            current=current,
            size=manifest.size,
            blobs=len(manifest.blobs),
            fetched_blobs=len(fetches),
            fetched_bytes=sum(fetch.counters.received for fetch in fetches),
            found_bytes=sum(track.found for track in self._tracks.values()),
            seconds=time.monotonic() - self._started,
        )
