"""Collection: give back the space of blobs that nothing needs any more, and of what crashes left.

Whoever starts to need a blob writes that down, as a lease or a manifest, under the shared references lock, and only
then looks whether it is there. A collection looks and takes away under the exclusive one: a pull either comes first,
and its lease keeps the blob, or later, and finds it gone. An outside Ollama knows no locks: it is looked for (files
that it is bringing in), and what it named meanwhile is put back before the lock is let go of.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import structlog

from syncd.aio import in_thread
from syncd.errors import BusyError, SyncdError
from syncd.jobs.collection import (
    GRACE_SECONDS,
    CollectionPlan,
    CollectRules,
    Memories,
    kept_by,
    left_behind,
    named_by,
    outlived,
    ripe,
)
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import Reference
from syncd.store import collected, layout
from syncd.store.leases import LeaseState
from syncd.store.locks import Lock
from syncd.store.models import BrokenModel, StoredModel
from syncd.store.root import Store
from syncd.store.sweep import StagedFile

__all__ = ["GRACE_SECONDS", "CollectRules", "CollectionPlan", "Memories", "collect", "expire", "kept_by", "plan"]

log = structlog.get_logger()

_LOCK_SECONDS = 60.0
_NO_RULES = CollectRules()
_NO_SERVERS = Memories()
_WRITES = "somebody else writes a manifest right now: what it will name is not known yet"


def plan(
    store: Store, now: float, *, rules: CollectRules = _NO_RULES, memories: Memories = _NO_SERVERS
) -> CollectionPlan:
    """What a collection would take at ``now`` (seconds since the epoch). Blocks; raise ``SyncdError``.

    Under the exclusive references lock that is what it takes; without, it is what ``--dry-run`` shows.
    """
    # The leases first: a pull that ends between two looks has published before it lets go of its lease.
    leases = store.leases.all(now)
    listing = store.models.list()
    broken = tuple(model for model in listing if isinstance(model, BrokenModel))
    if broken:
        return CollectionPlan(broken=broken, notices=memories.notices)
    found = _References(store, leases, [one for one in listing if isinstance(one, StoredModel)], now)
    past, unknown = found.past(rules, memories.loaded)
    leased = kept_by(leases)
    needed = found.named | leased | named_by(past) | named_by(found.taken_from(rules.wanted))
    files = {layout.blob_file(digest) for digest in needed}
    names = store.sweep.names()
    free = ripe(store.sweep.look(names.all - files), now)
    doubts = (*memories.doubts, *map(_unknown, sorted(unknown)))
    if free and not memories.insisted:
        doubts += _foreign(now - store.sweep.newest(names.unrecorded - files))
    if memories.insisted:
        doubts = ()
    return CollectionPlan(
        blobs=() if doubts else free,
        held_back=free if doubts else (),
        doubts=doubts,
        notices=memories.notices,
        staged=left_behind(store.sweep.staged(), leased, now),
        quarantined=outlived(store.sweep.quarantined(), rules.quarantine_age, now),
    )


async def collect(
    store: Store,
    *,
    now: float,
    rules: CollectRules = _NO_RULES,
    memories: Callable[[], Memories] = lambda: _NO_SERVERS,
) -> CollectionPlan:
    """Plan under the exclusive references lock and take away what the plan says; what was taken, which is noted.

    ``memories`` is asked when that lock is held. Raise ``BusyError`` if it cannot be had: all others hold it for a
    moment only.
    """
    with await _alone(store):
        known = memories()
        taken, trash = await in_thread(_take_away, store, now, rules, known)
    await in_thread(store.sweep.empty, trash)
    return taken


async def expire(store: Store, *, now: float) -> CollectionPlan:
    """Take away only what interrupted pulls left longer ago than a lease lives; what was taken. No blob goes.

    Raise ``BusyError`` as ``collect`` does.
    """
    with await _alone(store):
        return await in_thread(_take_leftovers, store, now)


@dataclass(frozen=True, slots=True)
class _References:
    """Who names what, as of one look."""

    store: Store
    leases: Sequence[LeaseState]
    models: Sequence[StoredModel]
    now: float

    @property
    def named(self) -> frozenset[Digest]:
        """What published models name."""
        return named_by(model.manifest for model in self.models)

    def past(self, rules: CollectRules, loaded: frozenset[Digest]) -> tuple[list[Manifest], frozenset[Digest]]:
        """Manifests that are not published and whose blobs stay all the same, and what is loaded and nobody knows."""
        sought = set(loaded) - {model.manifest.digest for model in self.models}
        kept = [lease.manifest for lease in self.leases if lease.manifest.digest in sought]
        sought -= {manifest.digest for manifest in kept}
        # What replaced a version without syncd's help has not given that version's blobs their hour.
        fresh = {one.name.parts for one in self.models if self.now - one.modified <= GRACE_SECONDS}
        if not (rules.keep_previous or sought or fresh):
            return kept, frozenset()
        current: dict[tuple[str, ...], Digest] = {one.name.parts: one.manifest.digest for one in self.models}
        for past in self.store.models.pasts():
            for digest in tuple(sought):
                if (found := past.find(digest)) is not None:
                    kept.append(found)
                    sought.discard(digest)
            count, now = max(rules.keep_previous, int(past.path in fresh)), current.get(past.path)
            if count and now is not None and len(past) > (now in past):
                older = [one.manifest for one in past.publications() if one.manifest.digest != now]
                kept += older[:count]
        return kept, frozenset(sought)

    def taken_from(self, wanted: Iterable[Reference]) -> Iterator[Manifest]:
        """What is to lie under a tag, and does not since somebody took it away: the reconcile puts it back.

        One that lies there all the same may be among it.
        """
        yield from (hold.manifest for hold in self.store.holds.all())
        current = {one.name.folded: one.manifest.digest for one in self.models}
        for one in wanted:
            now = current.get(one.name.folded)
            if now is None or one.digest not in {None, now}:
                versions = (past.manifest for past in self.store.models.history(one.name))
                yield from islice((past for past in versions if one.digest in {None, past.digest}), 1)


def _unknown(digest: Digest) -> str:
    return f"a server has {digest} loaded, and nobody here knows which blobs that has"


def _foreign(age: float) -> tuple[str, ...]:
    """``age``: seconds since somebody else brought in the last of what no model names."""
    if age > GRACE_SECONDS:
        return ()
    return ("an Ollama server pulls into this store, or did so less than an hour ago: its model may need what is here",)


async def _alone(store: Store) -> Lock:
    try:
        async with asyncio.timeout(_LOCK_SECONDS):
            return await store.locks.references(shared=False)
    except TimeoutError as error:
        raise BusyError(f"{store.path}: other processes add models without a pause", hint="try again later") from error


def _take_leftovers(store: Store, now: float) -> CollectionPlan:
    # No manifest names what is staged: none has to be read, and one that is broken keeps nothing here.
    planned = left_behind(store.sweep.staged(), kept_by(store.leases.all(now)), now)
    taken = tuple(file for file in planned if _remove_staged(store, file))
    store.leases.drop_expired(now)
    return CollectionPlan(staged=taken)


def _take_away(
    store: Store, now: float, rules: CollectRules, memories: Memories
) -> tuple[CollectionPlan, Sequence[str]]:
    """What was taken, and what is in the trash then."""
    planned = plan(store, now, rules=rules, memories=memories)
    if planned.broken:
        return planned, store.sweep.trash()
    taken = take_blobs(store, planned)
    taken = replace(
        taken,
        quarantined=tuple(file for file in planned.quarantined if store.sweep.throw_quarantined(file.name)),
        staged=tuple(file for file in planned.staged if _remove_staged(store, file)),
    )
    store.leases.drop_expired(now)
    store.models.remove_empty_folders()
    try:
        collected.note(store.state, freed=taken.freed, completed=None if taken.doubts else now)
    except SyncdError as error:
        log.warning("collection.not_noted", error=error.message)
    return taken, store.sweep.trash()


def take_blobs(store: Store, planned: CollectionPlan) -> CollectionPlan:
    """Throw away the plan's blobs, but for those that somebody has named since it was made; what was taken.

    Under the exclusive references lock, which an outside Ollama does not know. Blocks.
    """
    thrown = store.sweep.throw_away(blob.digest for blob in planned.blobs)
    if not thrown:
        return planned
    listing = store.models.list()
    named = named_by(one.manifest for one in listing if isinstance(one, StoredModel))
    # Ollama writes a manifest in place: what is no manifest now may be one in a moment.
    unread = any(isinstance(one, BrokenModel) for one in listing)
    wanted = frozenset(blob.digest for blob in planned.blobs if unread or blob.digest in named)
    if wanted:
        log.warning("collection.put_back", blobs=len(wanted))
        store.sweep.put_back(thrown, wanted)
    if unread:
        return replace(planned, blobs=(), held_back=planned.blobs, doubts=(*planned.doubts, _WRITES))
    return replace(planned, blobs=tuple(blob for blob in planned.blobs if blob.digest not in wanted))


def _remove_staged(store: Store, file: StagedFile) -> bool:
    if file.digest is None:
        store.sweep.remove_staged(file.name)
        return True
    lock = store.locks.try_digest(file.digest)
    if lock is None:
        return False  # somebody is fetching it after all
    with lock:
        store.sweep.remove_staged(file.name)
    return True
