"""Withdrawing: models whose bytes nobody can bring back are taken out of sight, and what is left of them is kept.

Manifests go before the blob, so that none is ever visible whose blob is in quarantine. Killed in between, it is gone on
with by the next one.
"""

import asyncio
from dataclasses import dataclass

import structlog

from syncd.aio import in_thread
from syncd.errors import BusyError, SyncdError
from syncd.jobs.damage import Damage
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.locks import Lock
from syncd.store.models import StoredModel
from syncd.store.root import Store

log = structlog.get_logger()

_WAIT = 10.0  # seconds for the references lock, which others hold for a moment only


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What went to quarantine. ``blob``: whether anything of it was there to be taken."""

    models: tuple[ModelName, ...]
    blob: bool


async def withdraw(store: Store, damage: Damage) -> Withdrawn:
    """Take every model that names the blob out of sight, and the blob with them, unless it is whole by now.

    Raise ``BusyError`` while somebody pulls or removes one of them, or works on the blob.
    """
    taken = []
    for name in await in_thread(_users, store, damage.blob):
        lock = store.locks.try_name(name)
        if lock is None:
            raise BusyError(f"{name} is being pulled or removed", hint="try again later")
        with lock, await _alone(store) as held:
            if await in_thread(_take_model, store, name, damage.blob, held):
                taken.append(name)
                log.error("model.quarantined", name=str(name), digest=str(damage.blob.digest), why=damage.detail)
    lock = store.locks.try_digest(damage.blob.digest)
    if lock is None:
        raise BusyError(f"somebody works on {damage.blob.digest}", hint="try again later")
    with lock, await _alone(store):
        blob = await in_thread(_take_blob, store, damage.blob)
    return Withdrawn(tuple(taken), blob)


async def _alone(store: Store) -> Lock:
    try:
        async with asyncio.timeout(_WAIT):
            return await store.locks.references(shared=False)
    except TimeoutError as error:
        raise BusyError(f"{store.path}: other processes change it without a pause", hint="try again later") from error


def _users(store: Store, blob: Descriptor) -> tuple[ModelName, ...]:
    """Whoever names the blob, whether a scrub of some models knew of it or not."""
    return tuple(
        model.name
        for model in store.models.list()
        if isinstance(model, StoredModel) and _names(model.manifest.blobs, blob.digest)
    )


def _take_model(store: Store, name: ModelName, blob: Descriptor, held: Lock) -> bool:
    manifest = store.models.read(name)
    if manifest is None or not _names(manifest.blobs, blob.digest) or _is_stored(store, blob):
        return False
    return store.quarantine.take_manifest(name.parts, held=held)


def _take_blob(store: Store, blob: Descriptor) -> bool:
    if _users(store, blob) or _is_stored(store, blob):
        return False  # published meanwhile, by somebody who had it verified
    store.blobs.discard(blob.digest)  # what was copied of it for a repair that is not to be
    return store.quarantine.take_damaged(blob.digest)


def _is_stored(store: Store, blob: Descriptor) -> bool:
    try:
        return store.blobs.status(blob) is BlobStatus.STORED
    except SyncdError:
        return False  # a link where the blob should be


def _names(blobs: tuple[Descriptor, ...], digest: Digest) -> bool:
    return any(one.digest == digest for one in blobs)
