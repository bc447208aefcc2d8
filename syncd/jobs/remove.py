"""Removing a model: its pull is cancelled, then its tag goes. Blobs go later, by collection, and never shared ones."""

import asyncio
import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from syncd.aio import in_thread
from syncd.errors import BusyError, NotFoundError
from syncd.jobs.collect import kept_by
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.leases import LeaseState
from syncd.store.locks import Lock
from syncd.store.models import BrokenModel, StoredModel
from syncd.store.root import Store

_NEAREST = 3
_SHORT_WAIT = 1.0  # seconds that nobody is kept waiting longer for what can be done later


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a model means.

    ``digest``: of the manifest; None if it is broken, or if there is only a pull to cancel. ``freed``: blobs that
    nothing else names, so that a collection may take them after an hour; ``shared``: those that stay.
    ``published``: whether there is a tag to remove.
    """

    name: ModelName
    digest: Digest | None
    freed: tuple[Descriptor, ...] = ()
    shared: tuple[Descriptor, ...] = ()
    published: bool = True

    @property
    def freed_bytes(self) -> int:
        """Bytes of the blobs that nothing else names."""
        return sum(blob.size for blob in self.freed)


def plan_removal(
    name: ModelName, models: Iterable[StoredModel | BrokenModel], leases: Iterable[LeaseState]
) -> Removal | None:
    """What removing ``name``, exactly as it is stored, means; None if it is not published."""
    models = tuple(models)
    mine = next((model for model in models if model.name == name), None)
    if mine is None:
        return None
    if isinstance(mine, BrokenModel):
        return Removal(name, None)
    others = {
        blob.digest
        for model in models
        if isinstance(model, StoredModel) and model.name != name
        for blob in model.manifest.blobs
    } | kept_by(lease for lease in leases if lease.name.folded != name.folded)
    blobs = mine.manifest.blobs
    return Removal(
        name,
        mine.manifest.digest,
        freed=tuple(blob for blob in blobs if blob.digest not in others),
        shared=tuple(blob for blob in blobs if blob.digest in others),
    )


def plan(store: Store, name: ModelName, now: float) -> Removal:
    """What ``remove`` would do (``--dry-run``). Raise ``NotFoundError``, naming what is near, if that is nothing."""
    stored = store.models.find(name) or name
    planned = plan_removal(stored, store.models.list(), store.leases.all(now))
    if planned is not None:
        return planned
    if _is_pulled(store, name):
        return Removal(name, None, published=False)
    raise NotFoundError(f"{name} is not in the store at {store.path}", hint=_nearest(store, name))


async def remove(store: Store, name: ModelName, *, now: float, timeout: float = 15.0) -> Removal:  # noqa: ASYNC109 - a bound on waiting for others, told in the error
    """Cancel every pull of ``name`` and take its tag away; what that meant.

    Raise ``NotFoundError`` as ``plan`` does; ``BusyError`` if a pull does not let go within ``timeout`` seconds.
    """
    await in_thread(plan, store, name, now)
    await in_thread(store.locks.mark_removal, name)
    try:
        async with asyncio.timeout(timeout):
            # Marked again while it waits: a pull that began in between may have won the lock.
            name_lock = await store.locks.name(name, on_wait=lambda: store.locks.mark_removal(name))
    except TimeoutError as error:
        raise BusyError(f"{name}: its pull has not stopped within {timeout:g} s", hint="run it again") from error
    with name_lock:
        try:
            async with asyncio.timeout(timeout):
                references = await store.locks.references(shared=False)
        except TimeoutError as error:
            raise BusyError(f"{store.path}: other processes change it without a pause", hint="run it again") from error
        with references:
            return await in_thread(_take_away, store, name, now, references)


async def remove_if(store: Store, name: ModelName, digest: Digest, *, now: float) -> Removal | None:
    """Take the tag away if it still holds ``digest``, without disturbing anybody; None: it does not.

    Raise ``BusyError`` while somebody pulls or removes the name.
    """
    lock = store.locks.try_name(name)
    if lock is None:
        raise BusyError(f"{name} is being pulled or removed", hint="run it again")
    with lock:
        try:
            async with asyncio.timeout(_SHORT_WAIT):
                references = await store.locks.references(shared=False)
        except TimeoutError as error:
            raise BusyError(f"{store.path}: other processes change it without a pause", hint="run it again") from error
        with references:
            return await in_thread(_take_away_if, store, name, digest, now, references)


def _take_away_if(store: Store, name: ModelName, digest: Digest, now: float, references: Lock) -> Removal | None:
    if store.models.tag_digest(name) != digest:
        return None
    return _take_away(store, name, now, references)


def _take_away(store: Store, name: ModelName, now: float, references: Lock) -> Removal:
    store.leases.drop_dead(name)
    store.holds.drop(name)  # who takes it away wants it at no version
    stored = store.models.find(name)
    planned = stored and plan_removal(stored, store.models.list(), store.leases.all(now))
    if not planned:
        return Removal(name, None, published=False)  # the pull that was to be cancelled had not published it
    store.models.unpublish(planned.name, held=references)
    return planned


def _is_pulled(store: Store, name: ModelName) -> bool:
    lock = store.locks.try_name(name)
    if lock is None:
        return True
    lock.release()
    # A pull that was killed is to be forgotten too: its lease keeps blobs for a week.
    return any(lease.name.folded == name.folded and not lease.passing for lease in store.leases.all(0.0))


def _nearest(store: Store, name: ModelName) -> str:
    near = difflib.get_close_matches(str(name), [str(one) for one in store.models.names()], n=_NEAREST)
    return f"did you mean {' or '.join(near)}?" if near else "'syncd list' shows what is"
