"""A pull: text in, a published model out, whole or not at all (docs/architecture.md has the picture)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from syncd.aio import entered, in_thread, only_error
from syncd.errors import BusyError, CancelledByRemovalError, InvalidNameError, SyncdError
from syncd.jobs.blobs import POLL, PullBlobs, Supply
from syncd.jobs.policy import NO_POLICY, Policy, refuse
from syncd.jobs.progress import Phase, PullOutcome, PullProgress, Totals
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, Reference, case_conflict
from syncd.registry.found import FetchedManifest
from syncd.store.history import moved_back
from syncd.store.holds import Hold
from syncd.store.leases import Lease
from syncd.store.models import TagMovedError
from syncd.store.root import Store

log = structlog.get_logger()

_REPORT_EVERY = 0.1  # seconds
_TRIES = 3  # how often a tag may move under one pull
_PREPARE_SECONDS = 15.0  # for whoever prepares a publication: what is whole waits no longer for that


class HeldError(BusyError):
    """The tag is held at another version."""


BeforePublish = Callable[[ModelName, Manifest | None, Manifest], Awaitable[None]]
"""Hears of a publication right before it: the name, what is published there now, and what will be."""


async def _prepare_nothing(_name: ModelName, _old: Manifest | None, _new: Manifest) -> None:
    """Nobody has to know beforehand."""


class ManifestSource(Protocol):
    """Where manifests come from: ``registry.client.RegistryClient``, or another store of this host."""

    async def manifest(self, reference: Reference) -> FetchedManifest:
        """What ``reference`` means there now. Raise ``SyncdError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullMeans:
    """What a pull works with. ``floor``: bytes of free space that it leaves to others.

    ``before_publish``: gets so many seconds and no more, and what it raises stops no pull. ``policy``: which models may
    come in. ``hold_for``: in words, who wants the tag held at what is pulled, from right before it is published on (if
    it is not, what held the tag holds it again); None: nobody, and a tag that is held at another version stays so.
    """

    store: Store
    registry: ManifestSource
    fetcher: Supply
    floor: int
    before_publish: BeforePublish = _prepare_nothing
    policy: Policy = NO_POLICY
    hold_for: str | None = None


async def pull(reference: Reference, means: PullMeans, report: Callable[[PullProgress], None]) -> PullOutcome:
    """Make ``reference`` a whole, visible model of the store.

    ``report`` gets a frozen value about ten times a second, on the event loop. Raise ``SyncdError``; the store then
    shows what it showed before. A cancelled pull leaves its partial files for the next one.
    """
    return await _Pull(reference, means, report).run()


def refuse_case_conflicts(name: ModelName, store: Store) -> None:
    """Raise ``InvalidNameError`` if Ollama could not tell ``name`` from one that is stored."""
    for stored in store.models.names():
        part = case_conflict(name, stored)
        if part is not None:
            raise InvalidNameError(
                f"{name}: {part!r} differs only in case from the same part of {stored}, which is stored",
                hint="Ollama would mix the two up: use the spelling that is stored, or remove it first",
            )


class _Pull:
    def __init__(self, reference: Reference, means: PullMeans, report: Callable[[PullProgress], None]) -> None:
        self._reference = reference
        self._name: ModelName = reference.name
        self._means = means
        self._store = means.store
        self._report = report
        self._phase = Phase.RESOLVING
        self._digest: Digest | None = None
        self._moved_back: float | None = None
        self._blobs = PullBlobs(self._name, means.store, means.fetcher, means.floor)
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
        finally:
            self._report(self._snapshot())  # however it ends: what it has fetched is counted
        self._enter(Phase.DONE)
        return outcome

    # What others see of it.

    def _snapshot(self) -> PullProgress:
        fetches = [track.fetch for track in self._blobs.tracks.values() if track.fetch]
        troubles = [fetch.counters.trouble for fetch in fetches if fetch.counters.trouble]
        return PullProgress(
            reference=self._reference,
            phase=self._phase,
            digest=self._digest,
            blobs=tuple(track.progress() for track in self._blobs.tracks.values()),
            retries=sum(fetch.counters.retries for fetch in fetches),
            trouble=troubles[-1] if troubles else None,
            abandoned=self._blobs.abandoned,
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
            await asyncio.sleep(5 * POLL)

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
            await asyncio.sleep(POLL)
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
            await self._blobs.look()

    def _expect(self, manifest: Manifest) -> None:
        self._digest = manifest.digest
        self._blobs.expect(manifest)

    # The pull itself, under the name's lock.

    async def _once(self) -> PullOutcome:
        self._enter(Phase.RESOLVING)
        refuse(self._means.policy, self._name, None)
        await in_thread(self._refuse_if_held)
        await in_thread(refuse_case_conflicts, self._name, self._store)
        seen = await in_thread(self._store.models.tag_digest, self._name)
        found = await self._means.registry.manifest(self._reference)
        refuse(self._means.policy, self._name, found.manifest.size)
        self._expect(found.manifest)
        # One that was cut off after its rename has not made it durable, nor noted it: go through all of it again.
        through = seen == found.manifest.digest and not await in_thread(self._store.leases.has_dead, self._name)
        if through and not await self._blobs.incomplete(found.manifest.blobs):
            await in_thread(self._hold, found)
            await in_thread(self._vouch_for, found)
            return self._outcome(found.manifest, current=True)
        with await self._store.locks.references(shared=True) as held:
            async with entered(self._store.leases.take, self._name, found.manifest, held) as lease:
                held.release()
                # Where this fails the lease stays: for seven days nobody collects what is in already.
                await self._bring_and_publish(found, seen, lease)
                await in_thread(lease.release)
        await in_thread(self._store.leases.drop_dead, self._name)
        return self._outcome(found.manifest, current=False)

    async def _bring_and_publish(self, found: FetchedManifest, seen: Digest | None, lease: Lease) -> None:
        manifest = found.manifest
        self._enter(Phase.FETCHING)
        await self._blobs.bring(manifest.blobs, lease)
        await self._blobs.bring_again(manifest, lease)
        self._enter(Phase.PUBLISHING)
        before = await in_thread(self._store.holds.content, self._name)
        try:
            await in_thread(self._hold, found)
            await self._prepare(manifest)
            with await self._store.locks.references(shared=True) as held:
                await in_thread(self._store.models.publish, self._name, manifest, expected=seen, held=held)
        except BaseException:
            await in_thread(self._let_go, manifest.digest, before)
            raise
        await self._blobs.bring_again(manifest, lease)
        if manifest.digest != seen or not await in_thread(self._is_noted, manifest.digest):
            await in_thread(self._remember, found)  # else its bytes alone were mended
        self._log.info("pull.published", digest=str(manifest.digest), origin=found.source)

    async def _prepare(self, manifest: Manifest) -> None:
        try:
            async with asyncio.timeout(_PREPARE_SECONDS):
                await self._means.before_publish(self._name, await in_thread(self._published), manifest)
        except (SyncdError, TimeoutError) as error:
            self._log.warning("pull.unprepared", error=str(error) or "it took too long")
        except Exception:  # a bug of whoever prepares is no reason to withhold what is whole
            log.exception("pull.unprepared", name=str(self._name))

    def _published(self) -> Manifest | None:
        try:
            return self._store.models.read(self._name)
        except SyncdError:
            return None  # what lies there is no manifest: nobody can have loaded it

    def _vouch_for(self, found: FetchedManifest) -> None:
        """Note what lies under the tag as published, if somebody else brought it, or took it back to where it was."""
        history = self._store.models.history(self._name)
        if not history or history[0].manifest.digest != found.manifest.digest:
            self._remember(found)

    def _is_noted(self, digest: Digest) -> bool:
        latest = next(iter(self._store.models.publications(self._name)), None)
        chosen = self._reference.digest is not None
        return latest is not None and (latest.manifest.digest, latest.chosen) == (digest, chosen)

    def _remember(self, found: FetchedManifest) -> None:
        """Note it in the history; a tag that has moved back to what it was before is worth a word."""
        chosen = self._reference.digest is not None
        digest = found.manifest.digest
        before = None if chosen else moved_back(self._store.models.publications(self._name), digest)
        if before is not None:
            self._moved_back = before.time
            self._log.warning("pull.tag_moved_back", digest=str(digest), published_before=before.time)
        self._store.models.remember(self._name, found.manifest, found.source, time.time(), chosen=chosen)

    def _refuse_if_held(self) -> None:
        if self._means.hold_for is not None:
            return
        hold = self._store.holds.of(self._name)
        if hold is not None and hold.manifest.digest != self._reference.digest:
            raise HeldError(
                f"{self._name} is pinned to {hold.manifest.digest} by {hold.by}",
                hint=f"'syncd unpin {self._name}' releases it; then pull again",
            )

    def _hold(self, found: FetchedManifest) -> None:
        # Before it is published: who goes by the hold must not publish anything else in between.
        if self._means.hold_for is not None:
            hold = Hold(self._name, found.manifest, time.time(), self._means.hold_for, found.source)
            self._store.holds.put(hold)

    def _let_go(self, digest: Digest, before: bytes | None) -> None:
        # Under the name's lock still: whatever holds the tag now is of this pull.
        if self._means.hold_for is None:
            return
        try:
            if self._store.models.tag_digest(self._name) != digest:
                self._store.holds.put_back(self._name, before)
        except SyncdError as error:
            self._log.warning("pull.hold_left", error=error.message)

    def _outcome(self, manifest: Manifest, *, current: bool) -> PullOutcome:
        fetches = [track.fetch for track in self._blobs.tracks.values() if track.fetch]
        for track in self._blobs.tracks.values():
            track.stored()
        return PullOutcome(
            reference=self._reference,
            digest=manifest.digest,
            current=current,
            size=manifest.size,
            blobs=len(manifest.blobs),
            fetched_blobs=len(fetches),
            fetched_bytes=Totals.of(self._snapshot()).fetched,
            found_bytes=sum(track.found for track in self._blobs.tracks.values()),
            seconds=time.monotonic() - self._started,
            moved_back=self._moved_back,
        )
