"""Repair: a damaged blob made whole, from what is right of it and, for the rest, from where its models came from.

It is a pull of that one blob: the same locks, lease, journal, verification and rename. What is right of the damaged
file is found by its chunk map and copied (``download.salvage``), so that at most the damaged chunks are fetched. The
damaged file is replaced by one rename, and nothing of it is kept: what was right of it lives on in the new one.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import structlog

from syncd.aio import entered, in_thread, in_thread_stoppable, only_error
from syncd.errors import BusyError, IntegrityError, NoSpaceError, NotFoundError, StoreError, SyncdError
from syncd.jobs.blobs import Bringing, PullBlobs, Supply, Track
from syncd.jobs.damage import Damage, DamageKind
from syncd.jobs.progress import BlobProgress, BlobState
from syncd.jobs.pull import PullMeans
from syncd.jobs.verdicts import blob_lock
from syncd.oci.chunks import ChunkMap
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName
from syncd.registry.answers import BareNotFoundError
from syncd.store.blobs import BlobStatus, BlobStore
from syncd.store.direct import BLOCK_BYTES, DirectReader
from syncd.store.layout import blob_file
from syncd.store.leases import Lease
from syncd.store.models import StoredModel
from syncd.store.partial import Partial
from syncd.store.remains import learn, open_elsewhere
from syncd.store.root import Store
from syncd.store.scrutiny import Scrutiny

log = structlog.get_logger()

_REPORT_EVERY = 0.25  # seconds
_STEP_BYTES = 8 * BLOCK_BYTES  # between two reports of what is read

ADOPTED_FROM = "adopted from "
"""What the origin of an adopted model begins with (``jobs.adopt``); a path follows."""


class UnmendableError(IntegrityError):
    """Nobody has the right bytes any more: every registry of its models was asked, and does not know the blob."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """How it ended well. ``fetched``: bytes that crossed the network. ``models``: those that name the blob now.

    ``replaced``: another file lies there now; False: there was nothing to do, since somebody else had mended it, or no
    model names it any more.
    """

    blob: Descriptor
    models: tuple[ModelName, ...]
    fetched: int
    replaced: bool


async def repair(
    store: Store, means: PullMeans, damage: Damage, report: Callable[[BlobProgress], None] = lambda _: None
) -> Repaired:
    """Make the blob whole. A damaged file that cannot be mended stays as it was. ``report`` hears how far it is.

    Raise ``UnmendableError`` where that is for good, else ``SyncdError``: a registry out of reach, wrong bytes from it,
    no room. What was fetched until then stays for the next try.
    """
    blob = damage.blob
    named = await in_thread(_naming, store, damage)
    if not named:
        return Repaired(blob, (), 0, replaced=False)
    await _read_kept(store, blob, report)
    supply = await _supply(store, means.fetcher, blob, [name for name, _ in named])
    errors: list[SyncdError] = []
    for name, manifest in _one_of_each_repository(named):
        blobs = PullBlobs(name, store, supply, means.floor)
        blobs.expect(manifest)
        try:
            with await store.locks.references(shared=True) as held:
                async with entered(store.leases.take, name, manifest, held) as lease:
                    held.release()
                    await _bring(blobs.tracks[blob.digest], blobs, lease, report)
        except (NoSpaceError, StoreError, BusyError):
            raise  # no other source mends that
        except SyncdError as error:
            log.info("blob.not_mended_from", name=str(name), digest=str(blob.digest), error=error.message)
            errors.append(error)
            continue
        track = blobs.tracks[blob.digest]
        log.info("blob.mended", digest=str(blob.digest), name=str(name), size=blob.size, fetched=track.received)
        return Repaired(blob, tuple(name for name, _ in named), track.received, replaced=track.fetch is not None)
    raise _verdict(blob, errors)


async def _read_kept(store: Store, blob: Descriptor, report: Callable[[BlobProgress], None]) -> None:
    """Where ``keep/`` alone has it, read that before it is put back: whoever took the one may have spoilt the other."""
    lock = await blob_lock(store, blob.digest)
    if lock is None:
        return  # whoever holds it is bringing it
    with lock:
        if await in_thread(store.blobs.look, blob) != (BlobStatus.STORED, False):
            return
        with DirectReader() as reader:
            async with entered(_kept, store, blob, reader) as check:
                if check is None:
                    return
                while await in_thread_stoppable(lambda stopped: check.step(_STEP_BYTES, stopped)):
                    report(BlobProgress(blob, BlobState.VERIFYING, check.done, 0))
                await in_thread(store.blobs.conclude, check)


def _kept(store: Store, blob: Descriptor, reader: DirectReader) -> AbstractContextManager[Scrutiny | None]:
    return store.blobs.open_scrutiny(blob, reader, whole=True, kept=True) or nullcontext()


def survey(store: Store, names: Sequence[ModelName] | None) -> tuple[Damage, ...]:
    """What is known to be damaged of these models (None: of all), without reading a blob. Blocks.

    What was found wrong by a verification or a scrub is known until it is mended; what is missing, or has another size,
    is seen. Raise ``NotFoundError`` for a name that is not there.
    """
    users: dict[tuple[Digest, int], tuple[Descriptor, list[ModelName]]] = {}
    for name, manifest in _models(store, names):
        for blob in manifest.blobs:
            users.setdefault((blob.digest, blob.size), (blob, []))[1].append(name)
    found = []
    for blob, models in users.values():
        kind = _look(store, blob)
        if kind is not None:
            found.append(Damage(blob, kind, None, tuple(dict.fromkeys(models)), _WORDS[kind]))
    return tuple(found)


_WORDS = {
    DamageKind.MISSING: "it is not there",
    DamageKind.WRONG_SIZE: "it has another size",
    DamageKind.WRONG_BYTES: "it was found to be damaged",
}


def _models(store: Store, names: Sequence[ModelName] | None) -> Iterable[tuple[ModelName, Manifest]]:
    if names is None:
        yield from ((one.name, one.manifest) for one in store.models.list() if isinstance(one, StoredModel))
        return
    for name in names:
        stored = store.models.find(name)
        manifest = None if stored is None else store.models.read(stored)
        if stored is None or manifest is None:
            raise NotFoundError(f"{name} is not in the store at {store.path}", hint="'syncd list' shows what is")
        yield stored, manifest


def _look(store: Store, blob: Descriptor) -> DamageKind | None:
    try:
        status, in_place = store.blobs.look(blob)
    except StoreError:
        return None  # a link or a folder where the blob should be: 'syncd doctor' is for that
    if status is BlobStatus.STORED and in_place:
        return None
    if not in_place:
        return DamageKind.MISSING
    if store.blobs.is_condemned(blob):
        return DamageKind.WRONG_BYTES  # a commit that was killed may have put the right one into keep/, yet to be read
    return DamageKind.WRONG_SIZE if status is BlobStatus.ABSENT else None


def _naming(store: Store, damage: Damage) -> list[tuple[ModelName, Manifest]]:
    """All models that name the blob now, with their manifests: any of them may come from where it is still known.

    Those of ``damage`` come first.
    """
    wanted = (damage.blob.digest, damage.blob.size)
    named = [
        (name, manifest)
        for name, manifest in _models(store, None)
        if any((one.digest, one.size) == wanted for one in manifest.blobs)
    ]
    return sorted(named, key=lambda one: one[0] not in damage.models)


def _one_of_each_repository(named: Iterable[tuple[ModelName, Manifest]]) -> Iterable[tuple[ModelName, Manifest]]:
    """A blob's address is made of host and repository: tags of one repository have the same."""
    first: dict[tuple[str, str], tuple[ModelName, Manifest]] = {}
    for name, manifest in named:
        first.setdefault((name.host, name.repository), (name, manifest))
    return first.values()


async def _bring(track: Track, blobs: PullBlobs, lease: Lease, report: Callable[[BlobProgress], None]) -> None:
    async def tick() -> None:
        while True:
            report(track.progress())
            await asyncio.sleep(_REPORT_EVERY)

    try:
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(tick(), name=f"report {track.blob.digest.short}")
            await group.create_task(blobs.bring((track.blob,), lease), name=f"mend {track.blob.digest.short}")
            ticker.cancel()
    except BaseExceptionGroup as errors:
        raise only_error(errors, (SyncdError,)) from errors
    finally:
        lease.release()  # the model itself keeps its blobs; every try that failed or was cancelled would leave one more


def _verdict(blob: Descriptor, errors: Sequence[SyncdError]) -> SyncdError:
    passing = [
        error for error in errors if not isinstance(error, NotFoundError) or isinstance(error, BareNotFoundError)
    ]
    if passing:
        return next((error for error in passing if error.transient), passing[0])
    return UnmendableError(
        f"{blob.digest}: {'; '.join(dict.fromkeys(error.message for error in errors))}",
        hint="nobody that syncd knows of has these bytes: bring the model from a backup, or make it again",
    )


# Other stores of this host


async def _supply(store: Store, supply: Supply, blob: Descriptor, names: Iterable[ModelName]) -> Supply:
    files = await in_thread(_elsewhere, store, blob, names)
    if not files:
        return supply
    known: ChunkMap | None = None
    if not await in_thread(store.blobs.has_map, blob.digest):
        for file in files:

            def read(stopped: Callable[[], bool], file: Path = file) -> ChunkMap | None:
                return learn(blob, file, stopped)

            if (known := await in_thread_stoppable(read)) is not None:
                break
    return _WithOthers(supply, files, known)


def _elsewhere(store: Store, blob: Descriptor, names: Iterable[ModelName]) -> tuple[Path, ...]:
    """Where stores that these models were adopted from would have the blob."""
    origins = (entry.origin for name in names for entry in store.models.history(name))
    folders = (Path(one.removeprefix(ADOPTED_FROM)) for one in origins if one.startswith(ADOPTED_FROM))
    files = (folder / "blobs" / blob_file(blob.digest) for folder in dict.fromkeys(folders))
    return tuple(file for file in files if _is_there(file))


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:
        return False  # in a folder that this user may not look into


@dataclass(frozen=True, slots=True)
class _WithOthers:
    """Implements ``Supply``: before anything is fetched, these files are asked for the chunks that are wrong."""

    supply: Supply
    files: tuple[Path, ...]
    known: ChunkMap | None

    def needs_room(self, blob: Descriptor) -> bool:
        """As whoever fetches the rest says."""
        return self.supply.needs_room(blob)

    def stage(self, blobs: BlobStore, blob: Descriptor) -> Partial:
        """Open the partial."""
        partial = self.supply.stage(blobs, blob)
        try:
            if partial.remains is None:
                partial.remains = blobs.remains(blob, self.known)
            if partial.remains is not None:
                for file in self.files:
                    if (fd := open_elsewhere(file)) is not None:
                        partial.remains.add(fd, file)
        except BaseException:
            partial.close()
            raise
        return partial

    def blob(self, name: ModelName, partial: Partial) -> Bringing:
        """What brings it."""
        return self.supply.blob(name, partial)
