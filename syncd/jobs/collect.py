"""Collection: give back the space of blobs that nothing names any more, and of what crashes left.

Whoever starts to need a blob writes that down, as a lease or a manifest, under the shared references lock, and only
then looks whether it is there. A collection looks and takes away under the exclusive one: a pull either comes first,
and its lease keeps the blob, or later, and finds it gone.
"""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from syncd.aio import in_thread
from syncd.errors import BusyError
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.store.leases import LeaseState
from syncd.store.locks import Lock
from syncd.store.models import BrokenModel, StoredModel
from syncd.store.root import Store
from syncd.store.sweep import HeldBlob, StagedFile

GRACE_SECONDS = 3600.0
"""A blob stays for an hour after its last reference: a server may have resolved its path and still wait in a queue."""

_LOCK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """What a collection would take. With anything ``broken`` it takes nothing, as Ollama: who knows what that names."""

    blobs: tuple[HeldBlob, ...] = ()
    staged: tuple[StagedFile, ...] = ()
    broken: tuple[BrokenModel, ...] = ()

    @property
    def freed(self) -> int:
        """Bytes that it gives back."""
        return sum(blob.size for blob in self.blobs) + sum(file.size for file in self.staged)


def kept_by(leases: Iterable[LeaseState]) -> frozenset[Digest]:
    """The blobs that leases keep."""
    return frozenset(blob.digest for lease in leases if lease.keeps for blob in lease.manifest.blobs)


def unreferenced(
    stored: Iterable[Digest], *, published: Iterable[Manifest], leases: Iterable[LeaseState]
) -> frozenset[Digest]:
    """The blobs that neither a published model nor a lease keeps."""
    named = {blob.digest for manifest in published for blob in manifest.blobs}
    return frozenset(stored) - named - kept_by(leases)


def plan_collection(
    stored: Collection[HeldBlob],
    staged: Iterable[StagedFile],
    models: Iterable[StoredModel | BrokenModel],
    leases: Collection[LeaseState],
    now: float,
) -> CollectionPlan:
    """What may go at ``now`` (seconds since the epoch)."""
    models = tuple(models)
    broken = tuple(model for model in models if isinstance(model, BrokenModel))
    if broken:
        return CollectionPlan(broken=broken)
    free = unreferenced(
        (blob.digest for blob in stored),
        published=(model.manifest for model in models if isinstance(model, StoredModel)),
        leases=leases,
    )
    kept = kept_by(leases)
    files = tuple(staged)
    # A partial and its journal go together: either one's mtime speaks for both.
    newest: dict[Digest | str, float] = {}
    for file in files:
        key = file.digest or file.name
        newest[key] = max(newest.get(key, 0.0), file.modified)
    return CollectionPlan(
        blobs=tuple(blob for blob in stored if blob.digest in free and now - blob.modified > GRACE_SECONDS),
        staged=tuple(
            file for file in files if file.digest not in kept and now - newest[file.digest or file.name] > GRACE_SECONDS
        ),
    )


def plan(store: Store, now: float) -> CollectionPlan:
    """The plan as of now, without any lock: what ``--dry-run`` shows."""
    # The leases first: a pull that ends between two looks has published before it lets go of its lease.
    leases = store.leases.all(now)
    models = store.models.list()
    return plan_collection(store.sweep.blobs(), store.sweep.staged(), models, leases, now)


async def collect(store: Store, *, now: float) -> CollectionPlan:
    """Plan under the exclusive references lock and take away what the plan says; what was taken.

    Raise ``BusyError`` if that lock cannot be had: all others hold it for a moment only.
    """
    with await _alone(store):
        taken = await in_thread(_take_away, store, now)
    await in_thread(store.sweep.empty_trash)
    return taken


async def expire(store: Store, *, now: float) -> CollectionPlan:
    """Take away only what interrupted pulls left longer ago than a lease lives; what was taken. No blob goes.

    Raise ``BusyError`` as ``collect`` does.
    """
    with await _alone(store):
        return await in_thread(_take_leftovers, store, now)


async def _alone(store: Store) -> Lock:
    try:
        async with asyncio.timeout(_LOCK_SECONDS):
            return await store.locks.references(shared=False)
    except TimeoutError as error:
        raise BusyError(f"{store.path}: other processes add models without a pause", hint="try again later") from error


def _take_leftovers(store: Store, now: float) -> CollectionPlan:
    # No manifest names what is staged: none has to be read, and one that is broken keeps nothing here.
    planned = plan_collection((), store.sweep.staged(), (), store.leases.all(now), now)
    taken = tuple(file for file in planned.staged if _remove_staged(store, file))
    store.leases.drop_expired(now)
    return CollectionPlan(staged=taken)


def _take_away(store: Store, now: float) -> CollectionPlan:
    planned = plan(store, now)
    if planned.broken:
        return planned
    store.sweep.throw_away([blob.digest for blob in planned.blobs])
    taken = [file for file in planned.staged if _remove_staged(store, file)]
    store.leases.drop_expired(now)
    store.models.remove_empty_folders()
    return CollectionPlan(planned.blobs, tuple(taken))


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
