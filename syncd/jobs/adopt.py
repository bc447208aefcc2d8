"""Adopting: a model of another store becomes one of ours, by a pull whose registry is that store.

The same locks, lease, room, order of publishing and history as any pull's. What is taken is hashed while it is taken.
With ``delete``, what the source had of a model goes when the store has it, durably and visibly, and never before.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from syncd.aio import in_thread
from syncd.errors import IntegrityError, SyncdError
from syncd.jobs.adoption import Candidate, Chosen, ModelPlan, Plan
from syncd.jobs.foreign import AdoptMeans, ForeignSupply, KeptError, Shelf
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.jobs.pull import PullMeans, pull
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, Reference
from syncd.store.blobs import BlobStatus
from syncd.store.hands import SourceDesk
from syncd.store.intake import SpoiltError, Way
from syncd.store.models import StoredModel
from syncd.store.mounts import mount_of
from syncd.store.root import Store
from syncd.store.source import Forgotten
from syncd.store.source_scan import Scan, SourceBlob

__all__ = ["AdoptMeans", "Adopted", "KeptError", "adopt", "chosen", "sweep"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Adopted:
    """How the adoption of a model ended well. ``ways``: bytes by how they came; ``freed``: bytes that the sources lost.

    ``left``: why something stays in a source that was to go.
    """

    outcome: PullOutcome
    ways: Mapping[Way, int]
    sources: tuple[Path, ...]
    freed: int
    left: tuple[str, ...]


def chosen(store: Store | None, desk: SourceDesk, scans: Iterable[Scan], *, delete: bool) -> Chosen:
    """By which way a file would come. Tries a reflink, nameless, once for each source. Blocks.

    ``store``: None if there is none yet; then nobody knows better than by copy.
    """
    scans = tuple(scans)
    clones = {index for index, scan in enumerate(scans) if store and _reflinks(store, desk, index, scan)}
    mount = mount_of(store.intakes.fd) if store else None

    def way(source: int, file: SourceBlob) -> Way:
        if delete and file.alone and scans[source].mount == mount:
            return Way.LINK
        return Way.REFLINK if source in clones else Way.COPY

    return way


def _reflinks(store: Store, desk: SourceDesk, index: int, scan: Scan) -> bool:
    file = next((blob.file for blob in scan.blobs.values() if blob.size), None)
    if file is None:
        return False
    try:
        fd = desk.open_blob(index, file)
    except SyncdError:
        return False  # a copy, then: whoever opens it for that meets the same error, and tells of it
    try:
        return store.intakes.can_reflink(fd)
    finally:
        os.close(fd)


async def adopt(
    model: ModelPlan, plan: Plan, means: AdoptMeans, report: Callable[[PullProgress], None], spoilt: set[Candidate]
) -> Adopted:
    """Make this planned model one of the store's. ``spoilt``: files that turned out wrong, for the models to come.

    Raise ``SyncdError``; the store and the sources then show what they showed before.
    """
    name, manifest = model.name, model.manifest
    if name is None or manifest is None:
        raise IntegrityError(f"manifests/{model.path} is no manifest: {model.why}")
    origins = tuple(plan.scans[index].path for index in model.sources)
    counted: dict[Way, int] = {}
    shelf = Shelf(means.store, name, manifest, f"adopted from {origins[0]}")
    try:
        outcome = await _taken(
            model, name, shelf, ForeignSupply(model.blobs, plan.scans, means, spoilt, counted), report
        )
    except BaseException:
        give_room_back(means.store, manifest)
        raise
    forgotten = await in_thread(_forget, model.sources, name, manifest, means) if means.delete else []
    left = tuple(one.problem for one in forgotten if one.problem)
    return Adopted(outcome, counted, origins, sum(one.size for one in forgotten), left)


async def _taken(
    model: ModelPlan, name: ModelName, shelf: Shelf, supply: ForeignSupply, report: Callable[[PullProgress], None]
) -> PullOutcome:
    means = supply.means
    pulling = PullMeans(store=means.store, registry=shelf, fetcher=supply, floor=means.floor, policy=means.policy)
    error: SpoiltError | None = None
    while not any(supply.is_lost(blob) for blob in model.blobs):
        try:
            return await pull(Reference(name), pulling, report)
        except SpoiltError as failure:
            # What is in stays in, and the blob may be whole in another source.
            error = failure
            log.warning("adopt.spoilt", name=str(name), error=error.message)
    why = error.message if error else "a blob of it is corrupt in every source, as was found before"
    raise SpoiltError(f"{name} is not adopted: {why}", hint=f"'syncd pull {name}' fetches it") from error


def give_room_back(store: Store, manifest: Manifest) -> None:
    """Remove what was reserved for blobs that did not come. What a pull has fetched of them stays for the next one."""
    for blob in manifest.blobs:
        lock = store.locks.try_digest(blob.digest)
        if lock is not None:
            with lock:
                if store.blobs.partials.read_journal(blob.digest) is None:
                    store.blobs.partials.discard(blob.digest)


def _forget(sources: Iterable[int], name: ModelName, manifest: Manifest, means: AdoptMeans) -> list[Forgotten]:
    blobs = frozenset(blob.digest for blob in manifest.blobs)
    return [means.desk.forget(index, name, manifest.digest, blobs) for index in sources]


def sweep(plan: Plan, means: AdoptMeans) -> tuple[Forgotten, ...]:
    """Of each source, take the blobs that it names no more and that our models have: a killed run may have left them.

    Blocks.
    """
    ours = {
        blob.digest: blob
        for model in means.store.models.list()
        if isinstance(model, StoredModel)
        for blob in model.manifest.blobs
    }
    results = []
    for index, scan in enumerate(plan.scans):
        left = [ours[digest] for digest in scan.blobs if digest in ours]
        stored = frozenset(blob.digest for blob in left if means.store.blobs.look(blob)[0] is BlobStatus.STORED)
        if stored:
            results.append(means.desk.forget(index, None, None, stored))
    return tuple(results)
