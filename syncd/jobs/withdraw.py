"""Withdrawing: models whose bytes nobody can bring back are taken out of sight, and what is left of them is kept.

Manifests go before the blob, so that none is ever visible whose blob is in quarantine. Killed in between, it is gone on
with by the next one.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import structlog

from syncd.aio import in_thread, in_thread_stoppable, to_its_end
from syncd.errors import BusyError, SyncdError
from syncd.jobs.damage import Damage
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.check import Verdict
from syncd.store.direct import DirectReader
from syncd.store.locks import Lock
from syncd.store.models import StoredModel
from syncd.store.root import Store

log = structlog.get_logger()

_WAIT = 10.0  # seconds for the references lock, which others hold for a moment only
_STEP_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What went to quarantine. ``blob``: whether anything of it was there to be taken.

    ``stopped``: what kept the rest from going.
    """

    models: tuple[ModelName, ...]
    blob: bool
    stopped: SyncdError | None = None


async def withdraw(store: Store, damage: Damage, done: Callable[[Withdrawn], None] = lambda _: None) -> Withdrawn:
    """Take every model that names the blob out of sight, and the blob with them, unless it is whole after all.

    ``done`` hears what was taken even where a cancellation has come meanwhile, for which nobody gets the result, or an
    error that is raised. Raise ``BusyError`` while somebody pulls or removes one of them, or works on the blob.
    """
    lock = store.locks.try_digest(damage.blob.digest)
    if lock is None:
        raise BusyError(f"somebody works on {damage.blob.digest}", hint="try again later")
    with lock:  # all the while: nobody mends it between two models
        if await in_thread_stoppable(lambda stopped: _is_right(store, damage.blob, stopped)):
            return Withdrawn((), blob=False)
        # Once no model names the blob, nobody would go on with it: a collection would take what is to be kept.
        return await to_its_end(_take_all(store, damage, done), name=f"withdraw {damage.blob.digest.short}")


async def _take_all(store: Store, damage: Damage, done: Callable[[Withdrawn], None]) -> Withdrawn:
    taken: list[ModelName] = []
    try:
        for name in await in_thread(_users, store, damage.blob):
            if await _take(store, name, damage):
                taken.append(name)  # noqa: PERF401 - what went before an error is told of
        with await _alone(store):
            blob = await in_thread(_take_blob, store, damage.blob)
    except SyncdError as error:
        done(Withdrawn(tuple(taken), blob=False, stopped=error))
        raise
    withdrawn = Withdrawn(tuple(taken), blob)
    done(withdrawn)
    return withdrawn


async def _take(store: Store, name: ModelName, damage: Damage) -> bool:
    lock = store.locks.try_name(name)
    if lock is None:
        raise BusyError(f"{name} is being pulled or removed", hint="try again later")
    with lock, await _alone(store) as held:
        if not await in_thread(_take_model, store, name, damage.blob, held):
            return False
    log.error("model.quarantined", name=str(name), digest=str(damage.blob.digest), why=damage.detail)
    return True


async def _alone(store: Store) -> Lock:
    try:
        async with asyncio.timeout(_WAIT):
            return await store.locks.references(shared=False)
    except TimeoutError as error:
        raise BusyError(f"{store.path}: other processes change it without a pause", hint="try again later") from error


def _is_right(store: Store, blob: Descriptor, stopped: Callable[[], bool]) -> bool:
    """One more look, at what the disk itself holds: memory may have been wrong, or somebody has put it right."""
    with DirectReader() as reader, store.blobs.open_scrutiny(blob, reader, whole=True) or nullcontext() as check:
        if check is None or check.before.size != blob.size:
            return _is_stored(store, blob)
        while check.step(_STEP_BYTES, stopped):
            pass
        return not stopped() and store.blobs.conclude(check) is Verdict.RIGHT


def _users(store: Store, blob: Descriptor) -> tuple[ModelName, ...]:
    """Whoever names the blob, whether a scrub of some models knew of it or not. Who gives it another size does not."""
    return tuple(model.name for model in _models(store) if _names(model.manifest.blobs, blob))


def _models(store: Store) -> Iterator[StoredModel]:
    return (model for model in store.models.list() if isinstance(model, StoredModel))


def _take_model(store: Store, name: ModelName, blob: Descriptor, held: Lock) -> bool:
    manifest = store.models.read(name)
    if manifest is None or not _names(manifest.blobs, blob) or _is_stored(store, blob):
        return False
    return store.quarantine.take_manifest(name.parts, held=held)


def _take_blob(store: Store, blob: Descriptor) -> bool:
    if any(one.digest == blob.digest for model in _models(store) for one in model.manifest.blobs):
        return False  # published meanwhile, by somebody who had it verified; or wanted by who gives it its real size
    record = store.records.get(blob.digest)
    if any(_is_stored(store, replace(blob, size=size)) for size in {blob.size, record.chunks.size if record else 0}):
        return False
    store.blobs.partials.discard(blob.digest)  # what was copied of it for a repair that is not to be
    return store.quarantine.take_damaged(blob.digest)


def _is_stored(store: Store, blob: Descriptor) -> bool:
    try:
        return store.blobs.status(blob) is BlobStatus.STORED
    except SyncdError:
        return False  # a link where the blob should be


def _names(blobs: tuple[Descriptor, ...], blob: Descriptor) -> bool:
    return any((one.digest, one.size) == (blob.digest, blob.size) for one in blobs)
